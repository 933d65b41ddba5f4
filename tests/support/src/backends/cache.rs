//! The folder outside the checkout where built backends live: `MIRADOR_CACHE`, else
//! `$XDG_CACHE_HOME/mirador`, else `$HOME/.cache/mirador`.
//!
//! A program's folder is named by its name and a key over the files that pin it, so another version is
//! another folder and an unchanged one costs a look. Invariants: a folder with its `complete` mark is
//! whole (the mark is written last); two processes that want the same program wait for each other on a
//! lock file and the second finds it ready.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use xxhash_rust::xxh3::Xxh3;

/// Written into a folder when all of it is there.
const MARK: &str = "complete";

/// Where built backends are kept.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache that the environment names.
    pub fn locate() -> Result<Self> {
        Self::from_environment(&|name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
    }

    fn from_environment(variable: &dyn Fn(&str) -> Option<PathBuf>) -> Result<Self> {
        let root = variable("MIRADOR_CACHE")
            .or_else(|| variable("XDG_CACHE_HOME").map(|dir| dir.join("mirador")))
            .or_else(|| variable("HOME").map(|dir| dir.join(".cache").join("mirador")))
            .context("no cache folder: set MIRADOR_CACHE to a folder that can be written")?;
        let root = std::path::absolute(&root).with_context(|| format!("MIRADOR_CACHE {}", root.display()))?;
        Ok(Self { root })
    }

    /// A cache in `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The cache's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of `name` at `key`; it need not exist.
    pub fn entry(&self, name: &str, key: &str) -> PathBuf {
        self.root.join("backends").join(format!("{name}-{key}"))
    }

    /// Where the log of building `name` goes.
    pub fn log(&self, name: &str) -> PathBuf {
        self.root.join("log").join(format!("{name}.log"))
    }

    /// Whether the folder `entry` is whole.
    pub fn is_complete(entry: &Path) -> bool {
        entry.join(MARK).is_file()
    }

    /// Holds other processes off `name` until the returned file is dropped. `waiting` is called when
    /// another process has it now.
    pub fn lock(&self, name: &str, waiting: impl FnOnce()) -> Result<File> {
        let dir = self.root.join("lock");
        fs::create_dir_all(&dir).with_context(|| {
            format!("cannot create {}: set MIRADOR_CACHE to a folder that can be written", dir.display())
        })?;
        let path = dir.join(format!("{name}.lock"));
        let file = File::create(&path).with_context(|| format!("cannot open the lock {}", path.display()))?;
        if file.try_lock().is_err() {
            waiting();
            file.lock().with_context(|| format!("cannot take the lock {}", path.display()))?;
        }
        Ok(file)
    }

    /// Puts what `build` writes into a new folder in place at `entry`, or nothing when it fails. The
    /// caller holds the lock.
    pub fn put(&self, entry: &Path, build: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let parent = entry.parent().unwrap_or(&self.root);
        fs::create_dir_all(parent)?;
        let staged = tempfile::Builder::new().prefix(".building-").tempdir_in(parent)?;
        build(staged.path())?;
        fs::write(staged.path().join(MARK), "")?;
        if entry.exists() {
            fs::remove_dir_all(entry).with_context(|| format!("cannot replace {}", entry.display()))?;
        }
        let staged = staged.keep();
        fs::rename(&staged, entry).with_context(|| format!("cannot move {} to {}", staged.display(), entry.display()))
    }

    /// Like [`Cache::put`] for what cannot be moved once it is built (a Python environment has its own
    /// path inside): built where it stays, and whole only with its mark.
    pub fn put_in_place(entry: &Path, build: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        if entry.exists() {
            fs::remove_dir_all(entry).with_context(|| format!("cannot replace {}", entry.display()))?;
        }
        fs::create_dir_all(entry)?;
        build(entry)?;
        fs::write(entry.join(MARK), "")?;
        Ok(())
    }
}

/// A short key over a recipe and the files below `dir` that pin a program: their names and bytes, in
/// order of name. Only files whose ending is in `endings` count.
pub fn key(recipe: &str, dir: &Path, endings: &[&str]) -> Result<String> {
    let mut files = Vec::new();
    collect(dir, endings, &mut files)?;
    files.sort();
    anyhow::ensure!(!files.is_empty(), "{} has none of the files {endings:?}: is the checkout whole?", dir.display());
    let mut hash = Xxh3::new();
    hash.update(recipe.as_bytes());
    for file in files {
        let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        hash.update(file.strip_prefix(dir).unwrap_or(&file).as_os_str().as_encoded_bytes());
        hash.update(&(text.len() as u64).to_le_bytes());
        hash.update(&text);
    }
    Ok(format!("{:016x}", hash.digest()))
}

fn collect(dir: &Path, endings: &[&str], into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, endings, into)?;
        } else if path.extension().and_then(|e| e.to_str()).is_some_and(|e| endings.contains(&e)) {
            into.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_folder_wins_over_xdg_and_xdg_over_home() {
        let all = |name: &str| Some(PathBuf::from(format!("/{name}")));
        assert_eq!(Cache::from_environment(&all).unwrap().root(), Path::new("/MIRADOR_CACHE"));
        let xdg = |name: &str| all(name).filter(|_| name != "MIRADOR_CACHE");
        assert_eq!(Cache::from_environment(&xdg).unwrap().root(), Path::new("/XDG_CACHE_HOME/mirador"));
        let home = |name: &str| all(name).filter(|_| name == "HOME");
        assert_eq!(Cache::from_environment(&home).unwrap().root(), Path::new("/HOME/.cache/mirador"));
        let error = Cache::from_environment(&|_| None).unwrap_err().to_string();
        assert!(error.contains("MIRADOR_CACHE"), "{error}");
    }

    #[test]
    fn a_key_changes_with_name_content_and_recipe_and_with_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("go.mod"), "a").unwrap();
        let first = key("v1", dir.path(), &["mod", "go"]).unwrap();
        fs::write(dir.path().join("notes.txt"), "ignored").unwrap();
        assert_eq!(first, key("v1", dir.path(), &["mod", "go"]).unwrap());
        assert_ne!(first, key("v2", dir.path(), &["mod", "go"]).unwrap());
        fs::write(dir.path().join("main.go"), "").unwrap();
        let second = key("v1", dir.path(), &["mod", "go"]).unwrap();
        assert_ne!(first, second);
        fs::write(dir.path().join("go.mod"), "b").unwrap();
        assert_ne!(second, key("v1", dir.path(), &["mod", "go"]).unwrap());
        assert!(key("v1", dir.path(), &["xml"]).is_err());
    }

    #[test]
    fn a_failed_build_leaves_nothing_and_a_good_one_replaces_what_was_half_there() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let entry = cache.entry("thing", "1");
        fs::create_dir_all(&entry).unwrap();
        fs::write(entry.join("half"), "").unwrap();
        cache.put(&entry, |_| anyhow::bail!("no")).unwrap_err();
        assert!(!Cache::is_complete(&entry));
        cache.put(&entry, |to| Ok(fs::write(to.join("program"), "x")?)).unwrap();
        assert!(Cache::is_complete(&entry));
        assert!(entry.join("program").exists() && !entry.join("half").exists());
        assert_eq!(fs::read_dir(entry.parent().unwrap()).unwrap().count(), 1, "no staging folder is left");
    }

    #[test]
    fn a_second_process_waits_for_the_lock_and_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let held = cache.lock("thing", || panic!("nobody has it")).unwrap();
        let (told, heard) = std::sync::mpsc::channel();
        let other = cache.clone();
        let thread = std::thread::spawn(move || other.lock("thing", || told.send(()).unwrap()).map(drop));
        heard.recv().unwrap();
        drop(held);
        thread.join().unwrap().unwrap();
    }
}
