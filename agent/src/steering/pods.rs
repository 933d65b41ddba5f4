//! Which pod and which container a cgroup is: read off the names of the folders, as kubelets and
//! container runtimes write them.
//!
//! Never: guesses. A cgroup that is not found, or whose name says nothing, is nobody's.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

/// Folders that one look at the tree visits at most.
const MAX_FOLDERS: usize = 65_536;
/// How deep below the cgroup of all pods it looks.
const MAX_DEPTH: usize = 8;

/// Who runs in a cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// The pod's UID.
    pub(super) pod_uid: Arc<str>,
    /// The container's id, when the cgroup is one's or lies in one.
    pub(super) container_id: Option<Arc<str>>,
}

/// Every cgroup of every pod at one moment.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Pods {
    /// By the cgroup's id.
    cgroups: HashMap<u64, Identity>,
    /// The pods' own cgroups.
    pods: HashMap<u64, Arc<str>>,
}

impl Pods {
    /// Looks at the tree below `root`.
    pub(super) fn look(root: &Path) -> Self {
        let mut found = Self::default();
        let mut left = MAX_FOLDERS;
        found.walk(root, None, MAX_DEPTH, &mut left);
        found
    }

    /// Who runs in `cgroup`, which lies in the pod whose cgroup is `pod`.
    pub(super) fn identity(&self, cgroup: u64, pod: u64) -> Option<Identity> {
        let uid = self.pods.get(&pod)?;
        // A container may have gone since it connected; its pod is known all the same.
        let container = self.cgroups.get(&cgroup).filter(|found| found.pod_uid == *uid);
        Some(Identity {
            pod_uid: Arc::clone(uid),
            container_id: container.and_then(|found| found.container_id.clone()),
        })
    }

    /// Whether this moment knew `cgroup`.
    pub(super) fn knows(&self, cgroup: u64, pod: u64) -> bool {
        self.pods.contains_key(&pod) && self.cgroups.contains_key(&cgroup)
    }

    /// The UID of the pod whose cgroup is `pod`.
    pub(super) fn uid(&self, pod: u64) -> Option<&Arc<str>> {
        self.pods.get(&pod)
    }

    /// The cgroup of the pod `uid`.
    pub(super) fn cgroup_of(&self, uid: &str) -> Option<u64> {
        self.pods.iter().find(|(_, known)| known.as_ref() == uid).map(|(cgroup, _)| *cgroup)
    }

    fn walk(&mut self, folder: &Path, within: Option<&Identity>, depth: usize, left: &mut usize) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if *left == 0 || depth == 0 {
                return;
            }
            *left -= 1;
            let Ok(metadata) = entry.metadata() else { continue };
            let name = entry.file_name();
            let name = name.to_str().unwrap_or_default();
            let identity = match within {
                None => pod_uid(name).map(|uid| {
                    let uid: Arc<str> = uid.into();
                    self.pods.insert(metadata.ino(), Arc::clone(&uid));
                    Identity { pod_uid: uid, container_id: None }
                }),
                Some(within) => {
                    let container_id = within.container_id.clone().or_else(|| container_id(name).map(Into::into));
                    Some(Identity { container_id, ..within.clone() })
                }
            };
            if let Some(identity) = &identity {
                self.cgroups.insert(metadata.ino(), identity.clone());
            }
            self.walk(&entry.path(), identity.as_ref(), depth - 1, left);
        }
    }
}

/// The UID in a pod's folder name: `kubepods-burstable-pod0b6f_….slice` (systemd) or `pod0b6f-…`
/// (cgroupfs). A static pod's UID is 32 hexadecimal digits without dashes.
fn pod_uid(name: &str) -> Option<String> {
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let (_, uid) = name.rsplit_once("pod")?;
    let uid = uid.replace('_', "-");
    let digits = uid.bytes().filter(u8::is_ascii_hexdigit).count();
    let dashes = uid.bytes().filter(|byte| *byte == b'-').count();
    (digits == 32 && (dashes == 0 || dashes == 4) && uid.len() == digits + dashes).then_some(uid)
}

/// The id in a container's folder name: `cri-containerd-ID.scope`, `crio-ID.scope`, `docker-ID.scope` or
/// `ID`, where ID is 64 hexadecimal digits. `crio-conmon-ID.scope` is the container's monitor.
fn container_id(name: &str) -> Option<&str> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let id = name.rsplit('-').next()?;
    (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) && !name.contains("conmon")).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0b6f3a52-9c1d-4e7f-8a90-1234567890ab";

    #[test]
    fn pods_and_containers_are_read_off_the_names_of_both_drivers_and_three_runtimes() {
        let id = "a".repeat(64);
        let systemd = format!("kubepods-besteffort-pod{}.slice", UID.replace('-', "_"));
        assert_eq!(pod_uid(&systemd).as_deref(), Some(UID));
        assert_eq!(pod_uid(&format!("kubelet-kubepods-pod{}.slice", UID.replace('-', "_"))).as_deref(), Some(UID));
        assert_eq!(pod_uid(&format!("pod{UID}")).as_deref(), Some(UID));
        let plain = "0123456789abcdef0123456789abcdef";
        assert_eq!(pod_uid(&format!("kubepods-burstable-pod{plain}.slice")).as_deref(), Some(plain), "a static pod");
        for name in ["kubepods.slice", "kubepods-burstable.slice", "burstable", "podman", "pod", "pod12"] {
            assert_eq!(pod_uid(name), None, "{name}");
        }
        for name in
            [format!("cri-containerd-{id}.scope"), format!("crio-{id}.scope"), format!("docker-{id}.scope"), id.clone()]
        {
            assert_eq!(container_id(&name), Some(id.as_str()), "{name}");
        }
        assert_eq!(container_id(&format!("crio-conmon-{id}.scope")), None);
        assert_eq!(container_id("init.scope"), None);
    }

    #[test]
    fn a_cgroup_inside_a_container_is_the_containers_and_an_unknown_one_is_nobodys() {
        let folder = tempfile::tempdir().unwrap();
        let pod = folder.path().join("burstable").join(format!("pod{UID}"));
        let nested = pod.join("b".repeat(64)).join("system.slice").join("app.service");
        fs::create_dir_all(&nested).unwrap();
        let ino = |path: &Path| fs::metadata(path).unwrap().ino();
        let pods = Pods::look(folder.path());
        let identity = pods.identity(ino(&nested), ino(&pod)).unwrap();
        assert_eq!((&*identity.pod_uid, identity.container_id.as_deref()), (UID, Some("b".repeat(64).as_str())));
        let gone = pods.identity(1, ino(&pod)).unwrap();
        assert_eq!((&*gone.pod_uid, gone.container_id), (UID, None), "the container has gone, the pod is known");
        assert_eq!(pods.identity(ino(&nested), 1), None);
        assert_eq!(pods.identity(ino(&folder.path().join("burstable")), 0), None);
        assert!(pods.knows(ino(&nested), ino(&pod)) && !pods.knows(1, ino(&pod)));
        assert_eq!(pods.cgroup_of(UID), Some(ino(&pod)));
    }
}
