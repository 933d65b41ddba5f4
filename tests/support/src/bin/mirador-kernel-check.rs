//! The first process of a small virtual machine: starts the agent there, connects from a pod's cgroup and
//! says whether that was steered. `cargo xtask test-kernels` boots it on other kernels.
//!
//! Never: meant to run on a machine that has another use; it mounts file systems and then ends, which ends
//! the machine.
#![expect(clippy::print_stdout, reason = "the console is all that the machine has")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::thread::{CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities};

/// What is printed when everything held; what follows is said about it.
const GOOD: &str = "KERNEL-CHECK ok";
/// What is printed when something did not.
const BAD: &str = "KERNEL-CHECK failed";

const MOUNT: &str = "/sys/fs/cgroup";
const POD: &str = "/sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0b6f3a52_9c1d_4e7f_8a90_1234567890ab.slice/cri-containerd-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.scope";
const CONFIG: &str = r#"
receiver: {protocols: {grpc: {endpoint: "[::]:24317"}, http: {endpoint: "[::]:24318"}}}
telemetry: {metrics: {endpoint: "127.0.0.1:28888"}}
health: {endpoint: "127.0.0.1:23133"}
exporters: {traces: null, metrics: null, logs: null, red: null}
steering: {addresses: [127.0.0.1, "::1"]}
"#;
const FAR: [&str; 3] = ["203.0.113.9:4317", "[::ffff:203.0.113.9]:4318", "[2001:db8::9]:4317"];

/// The word that makes this program the agent, with what the chart's manifest gives it.
const AGENT: &str = "agent";

fn main() {
    let done = match std::env::args().nth(1) {
        Some(word) if word == AGENT => become_agent(),
        Some(address) => connect(&address).map(|said| println!("{said}")),
        None => check().map(|said| println!("{GOOD}: {said}")),
    };
    if let Err(error) = done {
        println!("{BAD}: {error:#}");
        std::process::exit(1);
    }
}

fn check() -> Result<String> {
    for (kind, to) in [("proc", "/proc"), ("sysfs", "/sys"), ("cgroup2", MOUNT), ("tmpfs", "/tmp")] {
        fs::create_dir_all(to)?;
        run(Command::new("mount").args(["-t", kind, "none", to]))?;
    }
    run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    fs::create_dir_all(POD)?;
    fs::create_dir_all(format!("{MOUNT}/agent"))?;
    fs::write("/tmp/config.yaml", CONFIG)?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut agent = start()?;
    let state = until("the agent to be there", || page("mirador_steering_state{").map(Some))?;
    ensure!(state.contains("state=\"attached\",reason=\"complete\""), "{state}");
    for far in FAR {
        let said = in_pod(far)?;
        ensure!(said.trim() == format!("agent {far}"), "{far}: {said}");
    }
    until("three callers to be known", || Ok(page("caller=\"pod\"}")?.ends_with(" 3").then_some(())))?;
    let counted = until("the connects to be counted", || {
        Ok(Some(page("mirador_steering_redirected_total")?).filter(|line| line.ends_with(" 3")))
    })?;
    agent.kill()?;
    agent.wait()?;
    let passed = in_pod(FAR[0])?;
    ensure!(!passed.contains("agent"), "the agent is dead, and something answers: {passed}");
    // Older kernels refuse the programs that log to who has no more than this, and steering goes on without.
    fs::write("/tmp/config.yaml", CONFIG.replace("steering: {", "steering: {debug: true, "))?;
    start()?;
    until("the agent that is to log", || {
        let state = page("mirador_steering_state{")?;
        Ok(state.contains("state=\"attached\",reason=\"complete\"").then_some(()))
    })?;
    let said = in_pod(FAR[0])?;
    ensure!(said.trim() == format!("agent {}", FAR[0]), "with steering.debug: {said}");
    Ok(format!("Linux {}: {counted}; after kill -9: {}", release.trim(), passed.trim()))
}

fn start() -> Result<Child> {
    let enter = format!("echo $$ > {MOUNT}/agent/cgroup.procs; exec /init {AGENT}");
    Ok(Command::new("sh").args(["-c", &enter]).stdin(Stdio::null()).spawn()?)
}

/// Gives up every capability but those that the chart gives an agent, which is what the verifier goes by, and
/// becomes the agent.
fn become_agent() -> Result<()> {
    let kept = CapabilitySet::BPF | CapabilitySet::NET_ADMIN;
    for capability in CapabilitySet::all().difference(kept).iter() {
        // An older kernel does not have them all.
        remove_capability_from_bounding_set(capability).ok();
    }
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() })?;
    let error = Command::new("/bin/mirador-agent").args(["run", "--config", "/tmp/config.yaml"]).exec();
    Err(error).context("mirador-agent")
}

/// What a connect from the pod's cgroup meets.
fn in_pod(far: &str) -> Result<String> {
    let enter = format!("echo $$ > {POD}/cgroup.procs; exec /init {far}");
    let output = Command::new("sh").args(["-c", &enter]).stdin(Stdio::null()).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Connects, asks, and says who answers and what the peer is called.
fn connect(far: &str) -> Result<String> {
    let address: SocketAddr = far.parse()?;
    let mut stream = match TcpStream::connect_timeout(&address, Duration::from_secs(10)) {
        Ok(stream) => stream,
        Err(error) => return Ok(format!("nobody: {error}")),
    };
    let peer = stream.peer_addr()?;
    stream.write_all(b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut first = [0; 8];
    stream.read_exact(&mut first)?;
    ensure!(&first == b"HTTP/1.1", "an answer of {first:?}");
    Ok(format!("agent {peer}"))
}

/// The first line with `part` of what the agent says about itself.
fn page(part: &str) -> Result<String> {
    let mut stream = TcpStream::connect("127.0.0.1:28888")?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let line = text.lines().find(|line| !line.starts_with('#') && line.contains(part));
    line.map(|line| line.trim().to_owned()).with_context(|| format!("no {part}"))
}

/// Asks until there is an answer, for a minute.
fn until<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begun = Instant::now();
    loop {
        match ask() {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) | Err(_) if begun.elapsed() < Duration::from_secs(60) => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(None) => bail!("waited for {what}"),
            Err(error) => return Err(error).with_context(|| format!("waited for {what}")),
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let what = Path::new(command.get_program()).display().to_string();
    ensure!(command.status().with_context(|| what.clone())?.success(), "{what} failed");
    Ok(())
}
