//! `cargo xtask build-ebpf`: builds the BPF programs of `ebpf/` to two objects, with and without a log of their
//! own, and puts them where the agent's build script finds them.
//!
//! The objects are kept in the cache under a key over their sources, so unchanged ones cost a look. Never:
//! changes an object that is already right, so that the agent is not built anew for nothing.

mod toolchain;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};
use mirador_support::backends::cache::{self, Cache};

use crate::workspace::{self, succeed};
use toolchain::Toolchain;

/// Changes when the way of building changes.
const RECIPE: &str = "2";
/// The objects: what each is called, what it is, and the features that it is built with.
const OBJECTS: [(&str, &str, &[&str]); 2] =
    [("mirador-log.o", "the programs that log", &["--features", "log"]), ("mirador.o", "the programs", &[])];
/// The target of the kernel's virtual machine on little-endian processors.
const TARGET: &str = "bpfel-unknown-none";

/// Build the BPF programs of steering; installs what that takes, or says what is missing.
///
/// Needs a Rust compiler with its library's sources (Debian: rustc-web and rust-web-src, which root gets
/// installed; or rustup's rust-src) and bpf-linker, which is built into the cache. Build the agent
/// afterwards: its build script embeds the object.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Build although the sources have not changed.
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    for object in ensure(options.force)? {
        println!("{}", object.display());
    }
    Ok(())
}

/// Makes sure that the objects of these sources are in the target folder; returns where.
pub(crate) fn ensure(force: bool) -> Result<Vec<PathBuf>> {
    let sources = workspace::root().join("ebpf");
    let cache = Cache::locate()?;
    let key = cache::key(RECIPE, &sources, &["rs", "toml", "lock"])?;
    let entry = cache.root().join("ebpf").join(format!("object-{key}"));
    let lock = cache.lock("ebpf", || eprintln!("build-ebpf: another process builds, waiting"))?;
    if force || !Cache::is_complete(&entry) {
        let started = Instant::now();
        let toolchain = Toolchain::ensure(&cache)?;
        eprintln!("build-ebpf: compiling ebpf/ with {toolchain}");
        cache.put(&entry, |to| {
            OBJECTS.into_iter().enumerate().try_for_each(|(index, (name, what, features))| {
                eprintln!("build-ebpf: {} of {}: {what} ({name})", index + 1, OBJECTS.len());
                build(&toolchain, &sources, &cache, features, &to.join(name))
            })
        })?;
        eprintln!("build-ebpf: built in {:.0} s", started.elapsed().as_secs_f64());
    }
    drop(lock);
    let folder = workspace::target_folder()?.join("ebpf");
    let objects = OBJECTS.map(|(name, ..)| (entry.join(name), folder.join(name)));
    objects.into_iter().map(|(from, to)| place(&from, &to).map(|()| to)).collect()
}

fn build(toolchain: &Toolchain, sources: &Path, cache: &Cache, features: &[&str], to: &Path) -> Result<()> {
    let target = cache.root().join("ebpf").join("target");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(sources)
        .args(["build", "--release", "--quiet", "--locked", "--target", TARGET, "-Z", "build-std=core", "--target-dir"])
        .arg(&target)
        .args(features);
    toolchain.apply(&mut cargo)?;
    succeed(&mut cargo)?;
    let built = target.join(TARGET).join("release").join("mirador");
    fs::copy(&built, to).with_context(|| format!("{} was not built", built.display()))?;
    Ok(())
}

/// Copies `from` to `to` unless it is already there.
fn place(from: &Path, to: &Path) -> Result<()> {
    let object = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|there| there == object) {
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    // Whole or not at all, and with a new folder entry, which is what the agent's build script watches.
    let staged = to.with_extension("new");
    fs::write(&staged, object)?;
    fs::rename(&staged, to).with_context(|| format!("cannot write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_is_right_is_left_alone_and_another_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("a"), folder.path().join("ebpf").join("mirador.o"));
        fs::write(&from, "one").unwrap();
        place(&from, &to).unwrap();
        let first = fs::metadata(&to).unwrap().modified().unwrap();
        place(&from, &to).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().modified().unwrap(), first);
        fs::write(&from, "two").unwrap();
        place(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "two");
        assert_eq!(fs::read_dir(to.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    }
}
