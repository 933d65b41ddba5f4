//! State that outlives a process: one checked, versioned file per kind of state, replaced as a whole.
//!
//! Layout, integers little-endian: the magic `MIRADOR\x1a`, the length of the kind (`u8`), the kind, the version of
//! the payload (`u16`), the length of the payload (`u64`), XXH3-64 over all of these and the payload (`u64`), the
//! payload. Never: interprets a payload. Invariants: a reader sees the old file or the new one, never a part of
//! either; a file that is cut short, damaged, foreign, of another kind or of another version is refused with the
//! reason; nothing above [`MAX_PAYLOAD`] is written or read into memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

/// Most bytes of a payload.
pub const MAX_PAYLOAD: u64 = 1 << 30;

const MAGIC: &[u8; 8] = b"MIRADOR\x1a";

/// Where roles keep state that outlives the process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StateConfig {
    /// A directory of this process alone; it is made when it is missing. Unset: state dies with the process, so that a
    /// restart begins new cumulative series and forgets the spans that wait for their other side. A directory that
    /// outlives the process is enough (`emptyDir`), it need not outlive the node. Without a file, `all` uses
    /// `mirador-data`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
}

impl StateConfig {
    /// The file of a kind of state, in a directory that is made when it is missing; `None` when nothing is kept.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn file(&self, kind: &str) -> io::Result<Option<PathBuf>> {
        let Some(directory) = &self.directory else { return Ok(None) };
        std::fs::create_dir_all(directory)?;
        Ok(Some(directory.join(format!("{kind}.state"))))
    }

    /// What cannot work; names the key, the value and what would be right.
    pub fn problems(&self) -> Option<String> {
        let is_empty = self.directory.as_ref().is_some_and(|directory| directory.as_os_str().is_empty());
        is_empty.then(|| "state.directory is empty: name a directory, or leave the key out".to_owned())
    }
}

/// Writes and reads snapshot files.
#[derive(Debug)]
pub struct Snapshot;

/// Why a file was refused. Its owner starts without it.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It is there but cannot be read.
    #[error("the snapshot {path} cannot be read: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Something else wrote it.
    #[error("{path} is no snapshot of Mirador; move it away or name another state.directory", path = .0.display())]
    Foreign(PathBuf),
    /// It belongs to another part.
    #[error("the snapshot {path} is of `{found}`, but `{wanted}` is read here", path = path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it says that it is.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// Another release wrote it.
    #[error("the snapshot {path} has version {found}, this release reads version {wanted}", path = path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: u16,
        /// What this release reads.
        wanted: u16,
    },
    /// It ends early, or late.
    #[error("the snapshot {path} has {found} bytes of payload, but says {wanted}", path = path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// What is there.
        found: u64,
        /// What it says.
        wanted: u64,
    },
    /// Larger than anything that is written here.
    #[error("the snapshot {path} says {0} bytes of payload, at most {MAX_PAYLOAD} are read", path = .1.display())]
    TooLarge(u64, PathBuf),
    /// Its bytes are not those that were written.
    #[error("the snapshot {path} is damaged: its checksum does not match its content", path = .0.display())]
    Checksum(PathBuf),
}

impl Snapshot {
    /// Replaces the file by one with this payload: written beside it, synced, renamed, and the directory synced.
    ///
    /// # Errors
    /// When the system refuses, the kind is longer than 255 bytes or the payload longer than [`MAX_PAYLOAD`]. The
    /// file is what it was before.
    pub fn write(path: &Path, kind: &str, version: u16, payload: &[u8]) -> io::Result<()> {
        let kind_length = u8::try_from(kind.len()).map_err(io::Error::other)?;
        if payload.len() as u64 > MAX_PAYLOAD {
            return Err(io::Error::other(format!(
                "a snapshot of {} bytes is above the limit of {MAX_PAYLOAD}",
                payload.len()
            )));
        }
        let mut head = Vec::with_capacity(kind.len() + 27);
        head.extend_from_slice(MAGIC);
        head.push(kind_length);
        head.extend_from_slice(kind.as_bytes());
        head.extend_from_slice(&version.to_le_bytes());
        head.extend_from_slice(&(payload.len() as u64).to_le_bytes());
        let sum = checksum(&head, payload);
        head.extend_from_slice(&sum.to_le_bytes());
        let beside = beside(path);
        let written = write_synced(&beside, &head, payload).and_then(|()| std::fs::rename(&beside, path));
        if written.is_err() {
            // What is left of the attempt serves nobody; the error that counts is the one before.
            std::fs::remove_file(&beside).ok();
        }
        written?;
        sync_folder(path)
    }

    /// The payload; `None` when there is no such file.
    ///
    /// # Errors
    /// When there is one and it cannot be used; the message says which file and why.
    pub fn read(path: &Path, kind: &str, version: u16) -> Result<Option<Vec<u8>>, SnapshotError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(SnapshotError::Io { path: path.to_owned(), source }),
        };
        parse(file, path, kind, version).map(Some)
    }

    /// Removes the file, so that no later start reads it again. A file that is not there is no error.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn remove(path: &Path) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Ok(()) => sync_folder(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn parse(file: File, path: &Path, kind: &str, version: u16) -> Result<Vec<u8>, SnapshotError> {
    let failed = |source| SnapshotError::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    // The head is at most 282 bytes long.
    file.take(MAX_PAYLOAD + 512).read_to_end(&mut bytes).map_err(failed)?;
    let foreign = || SnapshotError::Foreign(path.to_owned());
    let cut = || SnapshotError::Length { path: path.to_owned(), found: 0, wanted: 1 };
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(foreign)?;
    let (length, rest) = rest.split_first().ok_or_else(cut)?;
    let (found, rest) = rest.split_at_checked(usize::from(*length)).ok_or_else(cut)?;
    if found != kind.as_bytes() {
        let found = String::from_utf8_lossy(found).into_owned();
        return Err(SnapshotError::Kind { path: path.to_owned(), found, wanted: kind.to_owned() });
    }
    let (found, rest) = rest.split_first_chunk().ok_or_else(cut)?;
    let found = u16::from_le_bytes(*found);
    if found != version {
        return Err(SnapshotError::Version { path: path.to_owned(), found, wanted: version });
    }
    let (length, rest) = rest.split_first_chunk().ok_or_else(cut)?;
    let (sum, payload) = rest.split_first_chunk().ok_or_else(cut)?;
    let wanted = u64::from_le_bytes(*length);
    if wanted > MAX_PAYLOAD {
        return Err(SnapshotError::TooLarge(wanted, path.to_owned()));
    }
    let found = payload.len() as u64;
    if found != wanted {
        return Err(SnapshotError::Length { path: path.to_owned(), found, wanted });
    }
    let head = bytes.len() - payload.len();
    if checksum(&bytes[..head - sum.len()], payload) != u64::from_le_bytes(*sum) {
        return Err(SnapshotError::Checksum(path.to_owned()));
    }
    bytes.drain(..head);
    Ok(bytes)
}

fn checksum(head: &[u8], payload: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(head);
    hash.update(payload);
    hash.digest()
}

/// A name in the same directory, so that the rename cannot cross file systems.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

fn write_synced(path: &Path, head: &[u8], payload: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all(head)?;
    file.write_all(payload)?;
    file.sync_all()
}

/// A rename is durable when the directory is.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("graph.state");
        (folder, path)
    }

    #[test]
    fn what_was_written_last_is_read_and_nothing_is_left_beside_it() {
        let (folder, path) = file();
        assert!(Snapshot::read(&path, "graph", 1).unwrap().is_none());
        for payload in [&b"first"[..], b"", b"the second"] {
            Snapshot::write(&path, "graph", 1, payload).unwrap();
            assert_eq!(Snapshot::read(&path, "graph", 1).unwrap().unwrap(), payload);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        Snapshot::remove(&path).unwrap();
        Snapshot::remove(&path).unwrap();
        assert!(Snapshot::read(&path, "graph", 1).unwrap().is_none());
    }

    #[test]
    fn a_foreign_file_another_kind_and_another_version_are_named_as_such() {
        let (_folder, path) = file();
        std::fs::write(&path, "SQLite format 3\0").unwrap();
        assert!(matches!(Snapshot::read(&path, "graph", 1), Err(SnapshotError::Foreign(_))));
        Snapshot::write(&path, "graph", 1, b"payload").unwrap();
        let error = Snapshot::read(&path, "forest", 1).unwrap_err().to_string();
        assert!(error.contains("is of `graph`, but `forest` is read here"), "{error}");
        let error = Snapshot::read(&path, "graph", 2).unwrap_err().to_string();
        assert!(error.contains("has version 1, this release reads version 2"), "{error}");
    }

    #[test]
    fn a_failed_write_leaves_the_file_as_it_was() {
        let (folder, path) = file();
        Snapshot::write(&path, "graph", 1, b"kept").unwrap();
        std::fs::create_dir(folder.path().join("graph.state.new")).unwrap();
        assert!(Snapshot::write(&path, "graph", 1, b"lost").is_err());
        assert!(Snapshot::write(&path, &"x".repeat(256), 1, b"lost").is_err());
        assert_eq!(Snapshot::read(&path, "graph", 1).unwrap().unwrap(), b"kept");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn property_a_cut_or_changed_file_is_refused_at_every_offset(payload in prop::collection::vec(any::<u8>(), 0..64)) {
            let (_folder, path) = file();
            Snapshot::write(&path, "graph", 1, &payload).unwrap();
            let whole = std::fs::read(&path).unwrap();
            for at in 0..whole.len() {
                std::fs::write(&path, &whole[..at]).unwrap();
                prop_assert!(Snapshot::read(&path, "graph", 1).is_err(), "cut at {}", at);
                let mut changed = whole.clone();
                changed[at] ^= 0x10;
                std::fs::write(&path, &changed).unwrap();
                prop_assert!(Snapshot::read(&path, "graph", 1).is_err(), "changed at {}", at);
            }
            std::fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
            prop_assert!(Snapshot::read(&path, "graph", 1).is_err());
        }
    }
}
