//! What the system grants: the cgroup's memory limit (v2 and v1, with every ancestor), or the
//! machine's memory.
//!
//! Reads files under a given root, so that tests give it any layout; never fails: a file that is
//! missing or odd grants nothing, and the next source is asked.
//!
//! References: Linux `Documentation/admin-guide/cgroup-v2.rst` (`memory.max`),
//! `cgroup-v1/memory.rst` (`memory.limit_in_bytes`), proc(5) (cgroup, mountinfo, meminfo).

use std::fmt;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Where a limit was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `memory.max` of the own cgroup or one above it.
    CgroupV2,
    /// `memory.limit_in_bytes` of the own cgroup or one above it.
    CgroupV1,
    /// `MemTotal` of /proc/meminfo.
    PhysicalMemory,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CgroupV2 => "the cgroup (memory.max)",
            Self::CgroupV1 => "the cgroup (memory.limit_in_bytes)",
            Self::PhysicalMemory => "the machine's memory",
        })
    }
}

/// The tightest limit that holds for this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detected {
    /// Bytes.
    pub bytes: u64,
    /// Where they were found.
    pub source: Source,
}

/// The limit of this process; None where neither cgroup nor /proc/meminfo tells one.
pub fn detect() -> Option<Detected> {
    detect_under(Path::new("/"))
}

/// As [`detect`], with every file read under `root`.
pub(super) fn detect_under(root: &Path) -> Option<Detected> {
    let physical = physical(root);
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).unwrap_or_default();
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut found: Option<Detected> = None;
    for mount in mounts.lines().filter_map(Mount::parse) {
        let (source, file) = match mount.kind {
            Kind::V2 => (Source::CgroupV2, "memory.max"),
            Kind::V1Memory => (Source::CgroupV1, "memory.limit_in_bytes"),
        };
        let Some(own) = own_group(&groups, mount.kind) else { continue };
        let Some(bytes) = tightest(root, &mount, own, file) else { continue };
        if found.is_none_or(|found| bytes < found.bytes) {
            found = Some(Detected { bytes, source });
        }
    }
    match (found, physical) {
        // Without a limit v1 shows a number near 2^63, and a limit above the machine's memory
        // grants no more than the machine has.
        (Some(group), Some(physical)) if group.bytes > physical => {
            Some(Detected { bytes: physical, source: Source::PhysicalMemory })
        }
        (Some(group), _) => Some(group),
        (None, physical) => physical.map(|bytes| Detected { bytes, source: Source::PhysicalMemory }),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    V2,
    V1Memory,
}

/// One cgroup mount of /proc/self/mountinfo.
struct Mount {
    kind: Kind,
    /// The path inside the hierarchy that is mounted (`/` unless a container's part is).
    part: PathBuf,
    point: PathBuf,
}

impl Mount {
    /// Fields: id, parent, device, root, mount point, options, optional fields, `-`, type, source, options.
    fn parse(line: &str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (part, point) = (PathBuf::from(fields.next()?), PathBuf::from(fields.next()?));
        let mut fields = after.split(' ');
        let kind = match fields.next()? {
            "cgroup2" => Kind::V2,
            "cgroup" if fields.nth(1)?.split(',').any(|option| option == "memory") => Kind::V1Memory,
            _ => return None,
        };
        Some(Self { kind, part, point })
    }
}

/// The own path in the hierarchy: `0::/path` (v2) or `N:…memory…:/path` (v1).
fn own_group(groups: &str, kind: Kind) -> Option<&str> {
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let matches = match kind {
            Kind::V2 => id == "0" && controllers.is_empty(),
            Kind::V1Memory => controllers.split(',').any(|controller| controller == "memory"),
        };
        matches.then_some(path)
    })
}

/// The smallest limit of the own group and every group above it that the mount shows.
fn tightest(root: &Path, mount: &Mount, own: &str, file: &str) -> Option<u64> {
    let own = Path::new(own);
    // In a container the mount shows only its own part; a path outside of it (`/../..`, or the
    // host's path where the namespace is not private) is then the mount point itself.
    let inside = own.strip_prefix(&mount.part).unwrap_or(Path::new(""));
    let inside = if inside.components().any(|part| part == Component::ParentDir) { Path::new("") } else { inside };
    let point = root.join(mount.point.strip_prefix("/").unwrap_or(&mount.point));
    inside.ancestors().filter_map(|group| read_limit(&point.join(group).join(file))).min()
}

/// None for `max`, a missing file, or anything that is no number.
fn read_limit(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok().filter(|bytes| *bytes > 0)
}

fn physical(root: &Path) -> Option<u64> {
    let info = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}
