//! A pod: a cgroup as a kubelet makes it, and a network namespace behind a veth pair.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Driver, PREFIX, ip_batch};

/// A pod's class of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Directly below the cgroup of all pods.
    Guaranteed,
    /// In a cgroup of its class.
    Burstable,
    /// In a cgroup of its class.
    BestEffort,
}

/// A pod.
#[derive(Debug)]
pub struct Pod {
    /// Its UID.
    pub uid: String,
    /// The id of its container.
    pub container: String,
    namespace: String,
    folder: PathBuf,
    cgroup: PathBuf,
}

impl Pod {
    pub(super) fn new(driver: Driver, pods: &Path, number: u8, class: Class) -> Result<Self> {
        let uid = format!("0b6f3a52-9c1d-4e7f-8a90-{number:012x}");
        let container = format!("{number:064x}");
        let class = match class {
            Class::Guaranteed => "",
            Class::Burstable => "burstable",
            Class::BestEffort => "besteffort",
        };
        let (pod, scope) = match driver {
            Driver::Systemd => {
                let dash = if class.is_empty() { "" } else { "-" };
                let slice = |end: &str| format!("kubepods{dash}{class}{end}.slice");
                let parent = if class.is_empty() { pods.to_owned() } else { pods.join(slice("")) };
                (
                    parent.join(slice(&format!("-pod{}", uid.replace('-', "_")))),
                    format!("cri-containerd-{container}.scope"),
                )
            }
            Driver::Cgroupfs => (pods.join(class).join(format!("pod{uid}")), container.clone()),
        };
        let cgroup = pod.join(scope);
        fs::create_dir_all(&cgroup).with_context(|| cgroup.display().to_string())?;
        let namespace = format!("{PREFIX}p{number}");
        let (host, inside) = (format!("{PREFIX}h{number}"), format!("{PREFIX}v{number}"));
        // Two calls however many steps: a crowd of pods is made in the time of a few.
        ip_batch(
            &[],
            &[
                format!("netns add {namespace}"),
                format!("link add {host} type veth peer name {inside} netns {namespace}"),
                format!("address add 10.213.{number}.1/24 dev {host}"),
                format!("address add fd42:213:{number:x}::1/64 dev {host} nodad"),
                format!("link set {host} up"),
            ],
        )?;
        ip_batch(
            &["-n", &namespace],
            &[
                format!("address add 10.213.{number}.2/24 dev {inside}"),
                format!("address add fd42:213:{number:x}::2/64 dev {inside} nodad"),
                "link set lo up".to_owned(),
                format!("link set {inside} up"),
                format!("route add default via 10.213.{number}.1"),
                format!("route add ::/0 via fd42:213:{number:x}::1"),
            ],
        )?;
        Ok(Self { uid, container, namespace, folder: pod, cgroup })
    }

    /// The cgroup of its container.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The id of the pod's own cgroup.
    ///
    /// # Errors
    /// When it is gone.
    pub fn id(&self) -> Result<u64> {
        Ok(fs::metadata(&self.folder)?.ino())
    }

    /// A command that runs in the container: in its cgroup before its first socket, and in its network.
    pub fn command(&self, program: &str) -> Command {
        self.command_below("", program)
    }

    /// As [`Self::command`], in a cgroup that the container has made for itself.
    pub fn command_below(&self, nested: &str, program: &str) -> Command {
        let cgroup = self.cgroup.join(nested);
        fs::create_dir_all(&cgroup).ok();
        within(&cgroup, &["ip", "netns", "exec", &self.namespace, program])
    }

    /// A command that runs in the container's cgroup and in the node's network, as in a pod on the host's
    /// network.
    pub fn command_on_node(&self, program: &str) -> Command {
        within(&self.cgroup, &[program])
    }

    /// The name of its network namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Runs a script of Python in the container and reads the JSON that it prints.
    ///
    /// # Errors
    /// When it fails; the error has what it printed.
    pub fn python(&self, script: &str, words: &[&str]) -> Result<Value> {
        read(self.command("python3").arg("-c").arg(script).args(words))
    }

    /// Removes the pod's cgroups, as a kubelet does when the pod is gone.
    pub fn remove(&self) {
        super::remove_cgroup(&self.folder);
    }

    /// Makes the pod's cgroups again, after the cgroup of all pods was made anew.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn make_again(&self) -> Result<()> {
        Ok(fs::create_dir_all(&self.cgroup)?)
    }
}

/// A command that enters `cgroup` and then becomes `words`.
pub(super) fn within(cgroup: &Path, words: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]).arg(cgroup).args(words);
    command
}

/// The JSON that a command prints.
pub(super) fn read(command: &mut Command) -> Result<Value> {
    let output = command.stdin(Stdio::null()).output().context("sh(1)")?;
    let (text, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "a command in a pod failed: {text}{complaint}");
    serde_json::from_str(text.trim()).with_context(|| format!("no JSON: {text}{complaint}"))
}
