//! Links and maps in the BPF file system, where they outlive the agent (`steering.pin`): the next agent takes
//! them over without a moment in which nothing is attached, and counts on.
//!
//! What one agent leaves to the next lies in a folder of the version of their contract
//! ([`SCHEMA`]). Another version, or a map of another shape, is not taken over but replaced.
//! Rules stay with the programs and are not shared: they change with the program, all at once.
//!
//! Invariants: only folders called `v` and a number below the configured one are touched; a link that is
//! pinned is held by nothing else, so removing the file detaches it.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::{Map, MapData, MapInfo};
use aya::programs::links::FdLink;
use mirador_ebpf_link::PinnedLink;
use mirador_ebpf_shared::SCHEMA;
use mirador_service::cause::chain;

use super::ladder::Failure;

/// The number of the BPF file system (`BPF_FS_MAGIC`, linux/magic.h).
const BPF_FS: i64 = 0xcafe_4a11;
/// How long another agent may hold the folder.
const PATIENCE: Duration = Duration::from_secs(10);

/// The maps that agents share: who they are, what they have heard of callers, and the counters.
pub(super) const SHARED: [&str; 10] =
    ["INSTANCE", "LISTENER", "HEARTBEAT", "ORIGIN", "OWN", "CALLER", "HANDSHAKE", "TLS", "TOTAL", "BY_POD"];

/// The folder of this version.
#[derive(Debug, Clone)]
pub(super) struct Pins {
    root: PathBuf,
    folder: PathBuf,
}

/// Holds the folder for one agent; dropped, it lets the next one in.
#[derive(Debug)]
#[expect(dead_code, reason = "a lock is held, and that is all its use")]
pub(super) struct Lock(File);

impl Pins {
    /// The folder below `root`, made when it is not there.
    pub(super) fn open(root: &Path) -> Result<Self, Failure> {
        is_bpffs(root)?;
        let folder = root.join(format!("v{SCHEMA}"));
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(|error| refused(&folder, error))?;
        Ok(Self { root: root.to_owned(), folder })
    }

    /// Waits for the folder, for a while.
    pub(super) fn lock(&self) -> Result<Lock, Failure> {
        let file = File::open(&self.folder).map_err(|error| refused(&self.folder, error))?;
        let begun = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock(file)),
                Err(fs::TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => {
                    thread::sleep(Duration::from_millis(20));
                }
                Err(error) => return Err(refused(&self.folder, error)),
            }
        }
    }

    /// Where the map `name` is.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.folder.join(format!("map_{name}"))
    }

    fn link(&self, name: &str) -> PathBuf {
        self.folder.join(format!("link_{name}"))
    }

    /// The first pinned map that is not of the shape that it has in `fresh`.
    pub(super) fn misfit(&self, fresh: &Ebpf) -> Option<&'static str> {
        SHARED.into_iter().find(|name| {
            let pinned = self.map(name);
            let wanted = fresh.map(name).and_then(data).and_then(|data| shape(&data.info().ok()?));
            pinned.exists() && MapInfo::from_pin(pinned).ok().as_ref().and_then(shape) != wanted
        })
    }

    /// Removes everything of this version, which detaches it.
    pub(super) fn clear(&self) {
        empty(&self.folder);
    }

    /// Removes what agents of other versions have left, which detaches it.
    pub(super) fn replace_others(&self) {
        for folder in versions(&self.root).into_iter().filter(|folder| *folder != self.folder) {
            tracing::info!(folder = %folder.display(), "replaces the pinned programs of another version");
            empty(&folder);
            fs::remove_dir(&folder).ok();
        }
    }

    /// Lets the link that is pinned as `name` run `program`; false when there is none on `cgroup`.
    pub(super) fn take_over(&self, name: &str, cgroup: u64, program: &impl AsFd) -> bool {
        let Ok(link) = PinnedLink::open(&self.link(name)) else { return false };
        link.info().is_ok_and(|info| info.cgroup == cgroup) && link.update(program).is_ok()
    }

    /// Keeps `link` as `name`, in the place of one that has died with its cgroup.
    pub(super) fn keep(&self, name: &str, link: FdLink) -> Result<(), Failure> {
        let path = self.link(name);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(refused(&path, error));
        }
        link.pin(&path).map(drop).map_err(|error| refused(&path, chain(&error)))
    }

    /// Whether the link `name` is still there and attached to `cgroup`.
    pub(super) fn holds(&self, name: &str, cgroup: u64) -> Held {
        match PinnedLink::open(&self.link(name)).and_then(|link| link.info()) {
            Ok(info) if info.cgroup == cgroup => Held::Here,
            Ok(_) => Held::Elsewhere,
            Err(_) => Held::Gone,
        }
    }
}

/// Where a pinned link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Held {
    /// On the cgroup that was asked about.
    Here,
    /// On another, or on none because its own is gone.
    Elsewhere,
    /// Nowhere: somebody has removed its file.
    Gone,
}

/// Says why `root` cannot hold pins, if it cannot.
pub(super) fn is_bpffs(root: &Path) -> Result<(), Failure> {
    let there = root.ancestors().find(|path| path.exists()).unwrap_or(root);
    let found = rustix::fs::statfs(there).map_err(|error| refused(there, error))?;
    // The field's type differs between architectures.
    #[expect(clippy::allow_attributes, reason = "which of the two casts is needed depends on the architecture")]
    #[allow(clippy::unnecessary_cast, reason = "it is an i64 here")]
    if found.f_type as i64 == BPF_FS {
        return Ok(());
    }
    let text = format!(
        "steering.pin: {}: no BPF file system is mounted there: mount one (`mount -t bpf none /sys/fs/bpf`), or leave the key out",
        root.display()
    );
    Err(Failure::new("no_bpffs", text))
}

/// Removes every pin below `root`, of all versions. Returns how many there were.
pub(super) fn remove(root: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for folder in versions(root) {
        removed += empty(&folder);
        fs::remove_dir(&folder)?;
    }
    // It may be the mount itself, or hold what is not ours.
    fs::remove_dir(root).ok();
    Ok(removed)
}

/// One line for each pin below `root`.
pub(super) fn list(root: &Path) -> String {
    let mut text = String::new();
    for folder in versions(root) {
        for path in files(&folder) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let what = if name.starts_with("link_") { link_line(&path) } else { map_line(&path) };
            // Writing to a string cannot fail.
            writeln!(text, "pin     {}: {what}", path.display()).ok();
        }
    }
    if text.is_empty() { format!("nothing is pinned below {}\n", root.display()) } else { text }
}

fn link_line(path: &Path) -> String {
    match PinnedLink::open(path).and_then(|link| link.info()) {
        Ok(info) if info.cgroup == 0 => format!("program {}, dead: its cgroup is gone", info.program),
        Ok(info) => format!("program {} on cgroup {}", info.program, info.cgroup),
        Err(error) => error.to_string(),
    }
}

fn map_line(path: &Path) -> String {
    match MapInfo::from_pin(path) {
        Ok(info) => format!("map {}", info.id()),
        Err(error) => chain(&error),
    }
}

/// The folders that are ours.
fn versions(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter(|entry| {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix('v'));
            number.is_some_and(|number| number.parse::<u32>().is_ok())
        })
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// Removes the files of `folder`: links first, as they sort, so that no program runs on what is leaving.
fn empty(folder: &Path) -> usize {
    files(folder).iter().filter(|path| fs::remove_file(path).is_ok()).count()
}

fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuHashMap(data)
        | Map::SkStorage(data)
        | Map::SockMap(data) => Some(data),
        _ => None,
    }
}

fn shape(info: &MapInfo) -> Option<(u32, u32, u32, u32, u32)> {
    let kind = info.map_type().ok()? as u32;
    Some((kind, info.key_size(), info.value_size(), info.max_entries(), info.map_flags()))
}

fn refused(path: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::new("pin_refused", format!("steering.pin: {}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_another_file_system_is_refused_and_nothing_is_made_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let failure = Pins::open(&folder.path().join("mirador")).unwrap_err();
        assert_eq!(failure.reason, "no_bpffs");
        assert!(failure.detail.contains("mount -t bpf"), "{failure:?}");
        assert!(fs::read_dir(folder.path()).unwrap().next().is_none());
    }

    #[test]
    fn only_folders_of_versions_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["v1", "v20", "vx", "other"] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("map_A"), "").unwrap();
        }
        assert_eq!(remove(folder.path()).unwrap(), 2);
        let mut left: Vec<_> = files(folder.path()).iter().map(|path| path.file_name().unwrap().to_owned()).collect();
        left.sort();
        assert_eq!(left, ["other", "vx"]);
    }
}
