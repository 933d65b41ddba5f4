//! A node without Kubernetes: network namespaces as pods, scratch cgroups shaped like a kubelet's, a far
//! gateway, and a real agent.
//!
//! Invariants: one rig at a time on a machine (a lock); everything that it makes in the kernel has the
//! prefix `PREFIX` and is swept when a rig starts and when it is dropped, so that a run that died leaves
//! nothing for the next; the agent is a child of this process and ends with it.
//!
//! Never: touches an address, a namespace or a cgroup that it has not made.

mod agent;
mod pod;

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

pub use agent::{Agent, use_agent_in};
pub use pod::{Class, Pod};

/// Begins the name of everything that a rig makes.
const PREFIX: &str = "mrig";
/// The node's addresses: what pods are steered to.
pub const NODE: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 213, 0, 1), Ipv6Addr::new(0xfd42, 0x213, 0, 0, 0, 0, 0, 1));
/// The far gateway's addresses (RFC 5737, RFC 3849): where applications think that they send.
pub const GATEWAY: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(203, 0, 113, 9), Ipv6Addr::new(0x2001, 0xdb8, 0x213, 0, 0, 0, 0, 9));

/// How the kubelet of this node names cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice/cri-containerd-ID.scope`
    Systemd,
    /// `kubepods/burstable/podUID/ID`
    Cgroupfs,
}

/// A node.
#[derive(Debug)]
pub struct Rig {
    driver: Driver,
    /// The cgroup2 tree.
    mount: PathBuf,
    pods: u8,
    _lock: File,
}

impl Rig {
    /// A node with nothing on it; an error says why this machine cannot have one.
    ///
    /// # Errors
    /// When the process may not make namespaces, links and cgroups, or there is no cgroup2 tree.
    pub fn new(driver: Driver) -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "network namespaces and cgroups take root");
        let mount = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(PathBuf::from);
        let mount = mount.into_iter().find(|mount| mount.join("cgroup.procs").exists());
        let mount = mount.context("no cgroup2 tree is mounted")?;
        let path = std::env::temp_dir().join("mirador-rig.lock");
        let lock = File::create(&path).with_context(|| path.display().to_string())?;
        lock.lock()?;
        let rig = Self { driver, mount, pods: 0, _lock: lock };
        rig.sweep();
        fs::create_dir_all(rig.root().join("agent")).context("cannot make cgroups")?;
        rig.make_classes()?;
        Self::addresses().context("cannot make network links")?;
        Ok(rig)
    }

    /// The cgroup of everything here, below the mount.
    fn root(&self) -> PathBuf {
        self.mount.join(PREFIX)
    }

    /// The cgroup of all pods, below the mount.
    pub fn pods_cgroup(&self) -> String {
        let name = if self.driver == Driver::Systemd { "kubepods.slice" } else { "kubepods" };
        format!("{PREFIX}/{name}")
    }

    /// The folder of [`Self::pods_cgroup`].
    pub fn pods_path(&self) -> PathBuf {
        self.mount.join(self.pods_cgroup())
    }

    /// The cgroups that a kubelet makes as it starts, before any pod.
    fn make_classes(&self) -> Result<()> {
        for class in ["burstable", "besteffort"] {
            let name = match self.driver {
                Driver::Systemd => format!("kubepods-{class}.slice"),
                Driver::Cgroupfs => class.to_owned(),
            };
            fs::create_dir_all(self.pods_path().join(name))?;
        }
        Ok(())
    }

    /// Where the agent runs when it runs in no pod.
    fn agent_path(&self) -> PathBuf {
        self.root().join("agent")
    }

    /// A new pod of one container, with a network of its own.
    ///
    /// # Errors
    /// When the kernel refuses a part of it.
    pub fn pod(&mut self, class: Class) -> Result<Pod> {
        self.pods += 1;
        Pod::new(self.driver, &self.pods_path(), self.pods, class)
    }

    /// An agent with `steering` laid over the settings that this rig needs. It sends what it gets to
    /// `owner`, or nowhere.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn agent(&self, steering: serde_json::Value, owner: Option<SocketAddr>) -> Result<Agent> {
        self.agent_with(steering, serde_json::json!({}), owner).await
    }

    /// As [`Self::agent`], with `config` laid over the whole configuration.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn agent_with(
        &self,
        steering: serde_json::Value,
        config: serde_json::Value,
        owner: Option<SocketAddr>,
    ) -> Result<Agent> {
        Agent::start(&self.pods_cgroup(), &self.agent_path(), steering, config, owner).await
    }

    /// An agent in the cgroup of `pod`, as that of a node's agent is. It shares the node's network.
    ///
    /// # Errors
    /// As [`Self::agent`].
    pub async fn agent_in(&self, pod: &Pod, steering: serde_json::Value, owner: Option<SocketAddr>) -> Result<Agent> {
        Agent::start(&self.pods_cgroup(), pod.cgroup(), steering, serde_json::json!({}), owner).await
    }

    /// The node's and the gateway's addresses, on a link of their own.
    fn addresses() -> Result<()> {
        let (one, other) = (format!("{PREFIX}a"), format!("{PREFIX}b"));
        ip(&format!("link add {one} type veth peer name {other}"))?;
        for (address, length) in [
            (IpAddr::V4(NODE.0), 32),
            (IpAddr::V4(GATEWAY.0), 32),
            (IpAddr::V6(NODE.1), 128),
            (IpAddr::V6(GATEWAY.1), 128),
        ] {
            let nodad = if address.is_ipv6() { " nodad" } else { "" };
            ip(&format!("address add {address}/{length} dev {one}{nodad}"))?;
        }
        ip(&format!("link set {one} up"))?;
        ip(&format!("link set {other} up"))
    }

    /// A folder of a BPF file system that is this rig's; it is not there yet, and an agent may make it.
    ///
    /// # Errors
    /// When the file system cannot be mounted.
    pub fn bpffs(&self) -> Result<PathBuf> {
        let mount = Self::bpffs_mount();
        fs::create_dir_all(&mount)?;
        let output = Command::new("mount").args(["-t", "bpf", "none"]).arg(&mount).stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "mount: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(mount.join("mirador"))
    }

    fn bpffs_mount() -> PathBuf {
        std::env::temp_dir().join(format!("{PREFIX}-bpf"))
    }

    /// Removes everything with the prefix; what is not there needs no removing.
    fn sweep(&self) {
        let namespaces = Command::new("ip").args(["netns", "list"]).output();
        let listed = namespaces.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        for name in listed.lines().filter_map(|line| line.split_whitespace().next()) {
            if name.starts_with(PREFIX) {
                ip(&format!("netns delete {name}")).ok();
            }
        }
        for entry in fs::read_dir("/sys/class/net").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(PREFIX) {
                ip(&format!("link delete {name}")).ok();
            }
        }
        let mount = Self::bpffs_mount();
        while mount.exists() && fs::remove_dir(&mount).is_err() {
            let unmounted = Command::new("umount").arg("-l").arg(&mount).stdin(Stdio::null()).output();
            if !unmounted.is_ok_and(|output| output.status.success()) {
                break;
            }
        }
        remove_cgroup(&self.root());
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.sweep();
    }
}

/// Ends what runs in a cgroup and below, and removes it.
pub(crate) fn remove_cgroup(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    // Processes that are killed leave their cgroup when they have ended, which takes a moment.
    for _ in 0..200 {
        let listed = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
        for pid in listed.lines().filter_map(|line| line.parse().ok()).filter_map(rustix::process::Pid::from_raw) {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
        }
        if fs::remove_dir(path).is_ok() || !path.exists() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// `ip` with these words; its failure is an error with what it says.
fn ip(words: &str) -> Result<()> {
    let output = Command::new("ip").args(words.split_whitespace()).stdin(Stdio::null()).output().context("ip(8)")?;
    if !output.status.success() {
        bail!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// `ip` once for these steps; the first that fails is an error with what it says.
fn ip_batch(words: &[&str], steps: &[String]) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(words).args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("ip(8)")?;
    child.stdin.take().context("a pipe")?.write_all(steps.join("\n").as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("ip {words:?} {steps:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// The gateway: answers every connection with a word and counts it.
#[derive(Debug)]
pub struct Gateway {
    accepted: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    listeners: Vec<(SocketAddr, thread::JoinHandle<()>)>,
}

/// What the gateway says.
pub const GATEWAY_SAYS: &str = "gateway";

impl Gateway {
    /// Listens on both of its addresses at these ports until it is dropped, which must be before its rig is.
    ///
    /// # Errors
    /// When an address cannot be listened on.
    pub fn start(ports: &[u16]) -> Result<Self> {
        let mut gateway = Self { accepted: Arc::default(), ended: Arc::default(), listeners: Vec::new() };
        for address in [IpAddr::V4(GATEWAY.0), IpAddr::V6(GATEWAY.1)] {
            for port in ports {
                let listener = TcpListener::bind((address, *port)).with_context(|| format!("{address} {port}"))?;
                let at = listener.local_addr()?;
                let (accepted, ended) = (Arc::clone(&gateway.accepted), Arc::clone(&gateway.ended));
                let thread = thread::spawn(move || {
                    for mut stream in listener.incoming().map_while(Result::ok) {
                        if ended.load(Ordering::SeqCst) {
                            return;
                        }
                        accepted.fetch_add(1, Ordering::SeqCst);
                        stream.write_all(GATEWAY_SAYS.as_bytes()).ok();
                    }
                });
                gateway.listeners.push((at, thread));
            }
        }
        Ok(gateway)
    }

    /// Connections so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        for (address, thread) in self.listeners.drain(..) {
            // One more connection, which ends the wait for one.
            if TcpStream::connect(address).is_ok() {
                thread.join().ok();
            }
        }
    }
}

/// Whether the agent under test was built with the BPF programs.
pub fn agent_has_programs() -> bool {
    let Ok(program) = agent::program() else { return false };
    let output = Command::new(program).args(["steering", "probe"]).stdin(Stdio::null()).output();
    output.is_ok_and(|output| !String::from_utf8_lossy(&output.stdout).contains("not_built"))
}

/// Whether this process is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The agent under test.
///
/// # Errors
/// When it cannot be built.
pub fn agent_program() -> Result<PathBuf> {
    agent::program()
}

/// The names of our programs that are in the kernel. The kernel frees them a moment after the last process
/// that holds them has ended, so they are looked for until they are gone, for a while.
///
/// # Errors
/// When the agent cannot be asked.
pub fn programs_in_kernel() -> Result<Vec<String>> {
    programs_settled_at(0)
}

/// As [`programs_in_kernel`], when `count` of them are to be left.
///
/// # Errors
/// When the agent cannot be asked.
pub fn programs_settled_at(count: usize) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for _ in 0..100 {
        let output = Command::new(agent::program()?).args(["steering", "status"]).stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        found = text.lines().filter(|line| line.starts_with("program ")).map(ToOwned::to_owned).collect();
        if found.len() == count {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(found)
}

/// Removes the cgroup of all pods with everything in it, and makes one of the same name.
///
/// # Errors
/// When it cannot be made.
pub fn remake_pods_cgroup(rig: &Rig) -> Result<()> {
    remove_cgroup(&rig.pods_path());
    rig.make_classes()
}
