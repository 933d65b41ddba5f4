//! The agent as a process: its command line, its exit codes, its signals.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the line")]

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

fn agent(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mirador-agent"));
    command.args(args).env_remove("MIRADOR_AGENT_CONFIG");
    command
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.yaml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn exporter(name: &str, owner: std::net::SocketAddr) -> String {
    format!("  {name}: {{resolver: {{static: {{hostnames: [\"{owner}\"]}}}}}}\n")
}

#[test]
fn validate_prints_what_is_in_effect_and_what_it_prints_is_valid_again() {
    let (_folder, path) = file("agent_id: node-9\nexporters:\n  traces:\n    headers: {authorization: secret}\n");
    let output = agent(&["validate", "--config", path.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let effective = text(&output.stdout);
    assert!(effective.contains("agent_id: node-9") && effective.contains("127.0.0.1:14317"), "{effective}");
    assert!(!effective.contains("secret") && effective.contains("REDACTED"), "header values are never printed");
    let (_folder, path) = file(&effective);
    let again = agent(&["validate", "--config", path.to_str().unwrap()]);
    assert_eq!(text(&again.stdout), effective, "{}", text(&again.stderr));
}

#[test]
fn every_problem_of_a_configuration_is_listed_and_the_exit_code_is_64() {
    // Every port it names is taken: who bound one before everything is checked would stumble over that.
    let taken: Vec<_> = (0..4).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let [grpc, http, metrics, health] = [0, 1, 2, 3].map(|at| taken[at].local_addr().unwrap());
    let (_folder, path) = file(&format!(
        "shutdown_grace: 0s\nwindows: {{queue_size_bytes: 0}}\nexporters:\n  traces:\n    timeout: 0s\n    resolver: {{static: {{hostnames: [\"http://central:4317\"]}}}}\n\
         receiver:\n  protocols:\n    grpc: {{endpoint: \"{grpc}\"}}\n    http: {{endpoint: \"{http}\"}}\n\
         telemetry: {{metrics: {{endpoint: \"{metrics}\"}}}}\nhealth: {{endpoint: \"{health}\"}}\n",
    ));
    for verb in ["validate", "run"] {
        let output = agent(&[verb, "--config", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(64), "{verb}");
        let problems = text(&output.stderr);
        assert!(!problems.contains("127.0.0.1"), "{verb} has tried to listen:\n{problems}");
        for key in ["shutdown_grace", "windows.queue_size_bytes", "exporters.traces.timeout", "http://central:4317"] {
            assert!(problems.contains(key), "{key} is missing in:\n{problems}");
        }
    }
    let (_folder, path) = file("exporters: {trace: {}}\n");
    let output = agent(&["validate", "--config", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("traces"), "the nearest known key is named: {}", text(&output.stderr));
}

#[test]
fn addresses_that_clash_and_exporters_that_lead_back_are_refused_with_both_keys() {
    let (grpc, http) = ("receiver.protocols.grpc.endpoint", "receiver.protocols.http.endpoint");
    let endpoint =
        |protocol: &str, at: &str| format!("receiver: {{protocols: {{{protocol}: {{endpoint: \"{at}\"}}}}}}");
    let owner = |host: &str| format!("exporters: {{logs: {{resolver: {{static: {{hostnames: [\"{host}\"]}}}}}}}}");
    let hostnames = "exporters.logs.resolver.static.hostnames";
    for (config, keys) in [
        (endpoint("http", "0.0.0.0:4317"), [grpc, http]),
        (endpoint("http", "127.0.0.1:4317"), [grpc, http]),
        (endpoint("grpc", "[::]:8888"), [grpc, "telemetry.metrics.endpoint"]),
        ("health: {endpoint: \"127.0.0.1:8888\"}".to_owned(), ["health.endpoint", "telemetry.metrics.endpoint"]),
        (owner("127.0.0.1"), [hostnames, grpc]),
        (owner("localhost:4318"), [hostnames, http]),
    ] {
        let (_folder, path) = file(&config);
        for verb in ["validate", "run"] {
            let output = agent(&[verb, "--config", path.to_str().unwrap()]);
            let problems = text(&output.stderr);
            assert_eq!(output.status.code(), Some(64), "{verb} {config}: {problems}");
            assert!(keys.iter().all(|key| problems.contains(key)), "{config}: {problems}");
            assert_eq!(problems.lines().count(), 2, "one problem: {problems}");
        }
    }
}

#[test]
fn help_tells_the_exit_codes_and_a_wrong_command_line_has_its_own() {
    let help = agent(&["--help"]);
    assert!(help.status.success());
    for code in ["  0  ", "  2  ", "  64 ", "  70 ", "  130"] {
        assert!(text(&help.stdout).contains(code), "{}", text(&help.stdout));
    }
    for wrong in [&[][..], &["explain"], &["validate", "--nonsense"], &["steer"]] {
        let output = agent(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(text(&output.stderr).contains("Usage"), "{wrong:?}: {}", text(&output.stderr));
    }
}

#[test]
fn explain_says_who_takes_what_for_people_and_for_programs() {
    let (_folder, path) = file(
        "exporters:\n  traces: {placement: otel-crc32, resolver: {static: {hostnames: [endpoint-1, endpoint-2]}}}\n",
    );
    let path = path.to_str().unwrap();
    let output = agent(&["explain", "--config", path, "--trace-id", "0af7651916cd43dd8448eb211c80319c"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).starts_with("traces"), "{}", text(&output.stdout));
    let output = agent(&["explain", "--config", path, "--resource", "service.name=cart", "--output", "json"]);
    let placements: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(placements.as_array().unwrap().len(), 2, "metrics and logs");
    assert_eq!(placements[0]["owner"], "127.0.0.1:14317");
    assert_eq!(agent(&["explain", "--trace-id", "nonsense"]).status.code(), Some(64));
}

#[test]
fn sigterm_drains_and_exits_with_0() {
    // A port that nobody listens on: the agent serves without its central.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut config = String::from(
        "receiver: {protocols: {grpc: {endpoint: \"127.0.0.1:0\"}, http: {endpoint: \"127.0.0.1:0\"}}}\nhealth: {endpoint: \"127.0.0.1:0\"}\ntelemetry: {metrics: {endpoint: \"127.0.0.1:0\"}, logs: {format: json}}\nshutdown_grace: 10s\nsteering: {enabled: false}\nexporters:\n",
    );
    for name in ["traces", "metrics", "logs", "red"] {
        config += &exporter(name, nobody);
    }
    let (_folder, path) = file(&config);
    let mut child = command(&["run", "--config", path.to_str().unwrap()]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut log = Vec::new();
    for line in lines.by_ref() {
        log.push(line.unwrap());
        if log.last().unwrap().contains("ready for OTLP") {
            break;
        }
    }
    let steering: Vec<&String> = log.iter().filter(|line| line.contains("\"steering\"")).collect();
    assert_eq!(steering.len(), 1, "steering says once what it does: {log:?}");
    assert!(steering[0].contains("off") && steering[0].contains("disabled"), "{steering:?}");
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest:?}");
    assert!(rest.iter().any(|line| line.contains("nothing was lost")), "{rest:?}");
}
