//! Files that appear whole or not at all.
//!
//! What is written goes to `.NAME.partial` beside its place and gets its name when it is complete, so that a run that
//! is interrupted leaves no file that looks finished; the next run overwrites what it left. A partial file is open
//! only while it is written to, so that thousands of series need no thousands of descriptors.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::Unwritten;

/// Bytes that are gathered before they are written.
const GATHERED: usize = 64 * 1024;

/// A file on its way.
#[derive(Debug)]
pub(super) struct Partial {
    place: PathBuf,
    beside: PathBuf,
    gathered: Vec<u8>,
    done: bool,
}

impl Partial {
    /// Makes the folder and an empty partial file.
    pub(super) fn create(place: PathBuf) -> anyhow::Result<Self> {
        let folder = place.parent().unwrap_or_else(|| Path::new("."));
        fs::create_dir_all(folder).map_err(|error| Unwritten::new(folder, error))?;
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        let partial = place.with_file_name(format!(".{name}.partial"));
        File::create(&partial).map_err(|error| Unwritten::new(&partial, error))?;
        Ok(Self { place, beside: partial, gathered: Vec::new(), done: false })
    }

    /// Where bytes are appended.
    pub(super) fn gathered(&mut self) -> &mut Vec<u8> {
        &mut self.gathered
    }

    /// Writes what has been gathered when it is worth a write.
    pub(super) fn settle(&mut self) -> anyhow::Result<()> {
        if self.gathered.len() >= GATHERED { self.flush() } else { Ok(()) }
    }

    /// Writes what has been gathered and gives its memory back.
    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        let append = |partial: &Path, bytes: &[u8]| -> io::Result<()> {
            OpenOptions::new().append(true).open(partial)?.write_all(bytes)
        };
        append(&self.beside, &self.gathered).map_err(|error| Unwritten::new(&self.beside, error))?;
        self.gathered = Vec::new();
        Ok(())
    }

    /// The file is complete: it gets its name.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        self.flush()?;
        fs::rename(&self.beside, &self.place).map_err(|error| Unwritten::new(&self.place, error))?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.done {
            // A partial file that stays is overwritten by the next run.
            drop(fs::remove_file(&self.beside));
        }
    }
}

/// A text as the name of one file: what a file system or a shell could take amiss becomes `_`, and what has changed
/// or is long gets a hash of the text, so that two texts stay two files.
pub(super) fn file_name(text: &str) -> String {
    const LONGEST: usize = 120;
    let mut name: String = text
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() || "._-=".contains(letter) { letter } else { '_' })
        .collect();
    if name.starts_with('.') || name.is_empty() {
        name.insert(0, '_');
    }
    if name == text && name.len() <= LONGEST {
        return name;
    }
    name.truncate(LONGEST);
    format!("{name}-{:08x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_name_only_when_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("deep/er/a.csv");
        let mut file = Partial::create(place.clone()).unwrap();
        file.gathered().extend_from_slice(b"one\n");
        file.flush().unwrap();
        assert!(!place.exists());
        file.gathered().extend_from_slice(b"two\n");
        file.finish().unwrap();
        assert_eq!(fs::read_to_string(&place).unwrap(), "one\ntwo\n");
        drop(Partial::create(place.clone()).unwrap());
        assert_eq!(fs::read_dir(place.parent().unwrap()).unwrap().count(), 1, "what is given up leaves nothing");
    }

    #[test]
    fn names_of_files_are_safe_and_distinct() {
        assert_eq!(file_name("value"), "value");
        assert!(file_name("../../etc").starts_with("_.._.._etc-"));
        assert_ne!(file_name("up{a=\"1\"}"), file_name("up{a='1'}"));
        assert!(file_name(&"x".repeat(500)).len() < 140 && !file_name("").is_empty());
    }
}
