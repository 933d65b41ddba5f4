//! Where the pods are in the tree of cgroups: the cgroup2 mount, the cgroup of all pods, and ours.
//!
//! A cgroup's id in the kernel is the inode number of its folder, so identity needs no call into it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::config::CgroupConfig;

/// Where kubelets put pods: the systemd driver, the cgroupfs driver, and both below a kubelet of its own
/// as in kind.
const PLACES: [&str; 4] = ["kubepods.slice", "kubepods", "kubelet.slice/kubelet-kubepods.slice", "kubelet/kubepods"];

/// Why there is nothing to attach to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Missing {
    /// No cgroup2 tree.
    #[error("no cgroup2 tree is mounted: steering needs cgroup v2, or steering.cgroup.mount names where it is")]
    Mount,
    /// A tree, and no pods in it.
    #[error(
        "no cgroup of pods in {0}: looked for {PLACES:?}; this host runs no kubelet, or steering.cgroup.pods names it"
    )]
    Pods(PathBuf),
}

/// A cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cgroup {
    /// Its folder.
    pub(super) path: PathBuf,
    /// Its id.
    pub(super) id: u64,
}

impl Cgroup {
    /// The cgroup at `path`, when there is one.
    pub(super) fn at(path: PathBuf) -> Option<Self> {
        let id = id(&path)?;
        Some(Self { path, id })
    }
}

/// The id of the cgroup at `path`.
pub(super) fn id(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().filter(fs::Metadata::is_dir).map(|metadata| metadata.ino())
}

/// The folder of the cgroup2 tree.
pub(super) fn mount(config: &CgroupConfig) -> Result<PathBuf, Missing> {
    let found = match &config.mount {
        Some(mount) => Some(mount.clone()),
        None => mounted(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()),
    };
    // Every cgroup2 folder has this file, and nothing else has.
    found.filter(|mount| mount.join("cgroup.procs").exists()).ok_or(Missing::Mount)
}

/// The cgroup that holds all pods.
pub(super) fn pods(config: &CgroupConfig, mount: &Path) -> Result<Cgroup, Missing> {
    let named = config.pods.iter().map(|path| mount.join(path.strip_prefix("/").unwrap_or(path)));
    let known = PLACES.iter().filter(|_| config.pods.is_none()).map(|place| mount.join(place));
    named.chain(known).find_map(Cgroup::at).ok_or_else(|| Missing::Pods(mount.to_owned()))
}

/// The cgroups of the classes of service below `pods`; 0 where there is none.
pub(super) fn classes(pods: &Path) -> [u64; 2] {
    ["burstable", "besteffort"].map(|class| {
        let entries = fs::read_dir(pods).into_iter().flatten().flatten();
        let found = entries.map(|entry| entry.path()).find(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let name = name.strip_suffix(".slice").unwrap_or(name);
            name.rsplit('-').next() == Some(class)
        });
        found.and_then(|path| id(&path)).unwrap_or(0)
    })
}

/// The cgroup of this process, as far as it can be seen in the tree at `mount`.
pub(super) fn own(mount: &Path) -> Option<Cgroup> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Cgroup::at(mount.join(path.trim_start_matches('/')))
}

/// The first cgroup2 mount in the text of /proc/self/mountinfo (`proc_pid_mountinfo(5)`).
fn mounted(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        (after.split(' ').next() == Some("cgroup2")).then(|| before.split(' ').nth(4))?.map(PathBuf::from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup2_tree_is_found_beside_version_1() {
        let text = "25 1 0:5 / /proc rw - proc proc rw\n\
            30 29 0:26 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu\n\
            40 29 0:27 / /sys/fs/cgroup/unified rw,relatime shared:10 - cgroup2 cgroup2 rw\n";
        assert_eq!(mounted(text), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mounted("30 29 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"), None);
    }

    #[test]
    fn pods_are_found_under_both_drivers_and_where_the_configuration_says() {
        let folder = tempfile::tempdir().unwrap();
        let missing = pods(&CgroupConfig::default(), folder.path()).unwrap_err();
        assert!(missing.to_string().contains("steering.cgroup.pods"), "{missing}");
        for place in PLACES {
            let path = folder.path().join(place);
            fs::create_dir_all(&path).unwrap();
            let named = CgroupConfig { pods: Some(format!("/{place}").into()), mount: None };
            assert_eq!(pods(&named, folder.path()).unwrap().path, path);
        }
        let found = pods(&CgroupConfig::default(), folder.path()).unwrap();
        assert_eq!(found.path, folder.path().join(PLACES[0]));
        assert_eq!(classes(&found.path), [0, 0]);
        fs::create_dir(found.path.join("kubepods-burstable.slice")).unwrap();
        fs::create_dir(found.path.join("kubepods-pod6a1e.slice")).unwrap();
        assert_eq!(classes(&found.path), [id(&found.path.join("kubepods-burstable.slice")).unwrap(), 0]);
        let plain = folder.path().join("kubepods");
        fs::create_dir(plain.join("besteffort")).unwrap();
        assert_eq!(classes(&plain), [0, id(&plain.join("besteffort")).unwrap()]);
    }
}
