//! What the agent takes from its machine, as a process: signals, and names that change under it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the line")]

use std::io::{BufRead as _, BufReader, Lines, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything here may take.
const BOUND: Duration = Duration::from_secs(60);

/// A running agent, killed when it is dropped.
struct Agent {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    http: String,
    metrics: String,
}

impl Agent {
    /// Waits until it is ready; `command` runs it with this configuration.
    fn start(mut command: Command, folder: &Path, exporters: &str) -> Self {
        let path = folder.join("agent.yaml");
        let config = format!(
            "receiver: {{protocols: {{grpc: {{endpoint: \"127.0.0.1:0\"}}, http: {{endpoint: \"127.0.0.1:0\"}}}}}}\n\
             health: {{endpoint: \"127.0.0.1:0\"}}\n\
             telemetry: {{metrics: {{endpoint: \"127.0.0.1:0\"}}, logs: {{format: json}}}}\n\
             shutdown_grace: 60s\nexporters:\n{exporters}"
        );
        std::fs::write(&path, config).unwrap();
        command.env("MIRADOR_AGENT_CONFIG", &path).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = log.by_ref().map(Result::unwrap).find(|line| line.contains("ready for OTLP")).unwrap();
        let address = |key: &str| {
            let (_, rest) = ready.split_once(&format!("\"{key}\":\"")).unwrap();
            rest.split('"').next().unwrap().to_owned()
        };
        let (http, metrics) = (address("http"), address("metrics"));
        Self { child, log, http, metrics }
    }

    fn page(&self) -> String {
        let mut stream = TcpStream::connect(&self.metrics).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        page
    }

    /// Polls the metrics until `holds`.
    fn until(&self, what: &str, holds: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        loop {
            let page = self.page();
            if holds(&page) {
                return;
            }
            assert!(begun.elapsed() < BOUND, "{what} has not come:\n{page}");
            std::thread::yield_now();
        }
    }

    fn terminate(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    /// The next line of the log with this text.
    fn says(&mut self, text: &str) -> String {
        self.log.by_ref().map(Result::unwrap).find(|line| line.contains(text)).unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended on its own.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mirador-agent"));
    command.arg("run");
    command
}

fn in_flight(page: &str) -> u64 {
    let line = page.lines().find_map(|line| line.strip_prefix("mirador_process_in_flight "));
    line.unwrap().parse::<f64>().unwrap() as u64
}

#[test]
fn a_second_signal_ends_a_drain_that_waits_for_a_request_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut agent =
        Agent::start(program(), folder.path(), "  traces: {resolver: {static: {hostnames: [\"127.0.0.1:1\"]}}}\n");
    let before = in_flight(&agent.page());
    // The rest of this body never comes: the drain has something to wait for.
    let mut client = TcpStream::connect(&agent.http).unwrap();
    let head = "POST /v1/traces HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-protobuf\r\ncontent-length: 1000\r\n\r\n";
    client.write_all(head.as_bytes()).unwrap();
    client.write_all(&[0x0a]).unwrap();
    agent.until("a request in flight", |page| in_flight(page) > before);
    agent.terminate();
    agent.says("draining");
    assert!(agent.child.try_wait().unwrap().is_none(), "the first signal waits for the request");
    agent.terminate();
    agent.says("second signal, exiting now");
    assert_eq!(agent.child.wait().unwrap().code(), Some(130));
}

#[test]
fn owners_follow_their_name_and_are_gone_when_it_is_empty_twice() {
    let folder = tempfile::tempdir().unwrap();
    let (hosts, order) = (folder.path().join("hosts"), folder.path().join("nsswitch.conf"));
    std::fs::write(&hosts, "127.0.0.2 owners.test\n").unwrap();
    std::fs::write(&order, "hosts: files\n").unwrap();
    // A view of the file system of its own, in which names are what this test says.
    let script = "mount --bind \"$1\" /etc/hosts && mount --bind \"$2\" /etc/nsswitch.conf && shift 2 && exec \"$@\"";
    let unshared = |command: &mut Command| {
        command.args(["--mount", "--map-root-user", "sh", "-c", script, "sh"]).arg(&hosts).arg(&order);
    };
    let mut probe = Command::new("unshare");
    unshared(&mut probe);
    if !probe.arg("true").status().is_ok_and(|status| status.success()) {
        return mirador_support::skip("this machine gives no mount namespace");
    }
    let mut command = Command::new("unshare");
    unshared(&mut command);
    command.arg(env!("CARGO_BIN_EXE_mirador-agent")).arg("run");
    let exporters = "  traces: {resolver: {dns: {hostname: owners.test, port: 9, interval: 100ms}}}\n";
    let agent = Agent::start(command, folder.path(), exporters);
    let has = |page: &str, owner: &str| {
        let of_traces = |line: &&str| line.starts_with("mirador_sender_owner_up{destination=\"traces\"");
        page.lines().filter(of_traces).any(|line| line.contains(owner))
    };
    agent.until("the first owner", |page| has(page, "127.0.0.2:9"));
    std::fs::write(&hosts, "127.0.0.3 owners.test\n127.0.0.4 owners.test\n").unwrap();
    agent.until("the owners after a change", |page| {
        has(page, "127.0.0.3:9") && has(page, "127.0.0.4:9") && !has(page, "127.0.0.2:9")
    });
    // The name has no address any more: there is nobody to send to.
    std::fs::write(&hosts, "127.0.0.5 others.test\n").unwrap();
    agent.until("the end of all owners", |page| !has(page, "127.0.0."));
    std::fs::write(&hosts, "127.0.0.6 owners.test\n").unwrap();
    agent.until("an owner after none", |page| has(page, "127.0.0.6:9"));
}
