//! The two configurations that `up` writes, and what it says when both are ready.
//!
//! They hold only what differs from the defaults; the files stay in the state folder to be read and copied.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Where everything listens, all on loopback.
#[derive(Debug, Clone)]
pub(super) struct Ports {
    pub(super) grpc: u16,
    pub(super) http: u16,
    pub(super) metrics: u16,
    pub(super) health: u16,
    pub(super) console: u16,
    pub(super) central_grpc: u16,
    pub(super) central_http: u16,
    pub(super) central_metrics: u16,
    pub(super) central_health: u16,
}

impl Ports {
    /// All of them.
    pub(super) fn all(&self) -> [u16; 9] {
        [
            self.grpc,
            self.http,
            self.metrics,
            self.health,
            self.console,
            self.central_grpc,
            self.central_http,
            self.central_metrics,
            self.central_health,
        ]
    }
}

/// Where central keeps what it gets.
#[derive(Debug, Clone)]
pub(super) enum Stores {
    /// In one SQLite file.
    Embedded(PathBuf),
    /// In backends, by name.
    Real(BTreeMap<String, String>),
}

impl Stores {
    /// The address of a real backend.
    pub(super) fn address(&self, name: &str) -> Option<&str> {
        match self {
            Self::Embedded(_) => None,
            Self::Real(addresses) => addresses.get(name).map(String::as_str),
        }
    }
}

/// The part that both configurations have.
fn listening(grpc: u16, http: u16, metrics: u16, health: u16) -> String {
    format!(
        "receiver:
  protocols:
    grpc:
      endpoint: 127.0.0.1:{grpc}
    http:
      endpoint: 127.0.0.1:{http}
telemetry:
  metrics:
    endpoint: 127.0.0.1:{metrics}
health:
  endpoint: 127.0.0.1:{health}
"
    )
}

/// The agent's configuration: everything to one central process, RED windows that show up soon.
pub(super) fn agent(ports: &Ports) -> String {
    let mut yaml = "agent_id: up\n".to_owned();
    yaml += &listening(ports.grpc, ports.http, ports.metrics, ports.health);
    yaml += "red:\n  metrics_flush_interval: 1s\nexporters:\n";
    for kind in ["traces", "metrics", "logs", "red"] {
        let to = ports.central_grpc;
        write!(yaml, "  {kind}:\n    resolver:\n      static:\n        hostnames: [\"127.0.0.1:{to}\"]\n")
            .expect("writing to a string cannot fail");
    }
    yaml
}

/// Central's configuration in role `all`; what outlives a restart is in `data`, and goes when that goes.
pub(super) fn central(ports: &Ports, stores: &Stores, data: &Path) -> String {
    let mut yaml = listening(ports.central_grpc, ports.central_http, ports.central_metrics, ports.central_health);
    // A score needs 64 points of history: at one a second it is there before the demo's fault.
    yaml += "servicegraph:\n  metrics_flush_interval: 1s\nspanmetrics:\n  metrics_flush_interval: 1s\n";
    let data = text(&data.display().to_string());
    let state = write!(yaml, "state:\n  directory: {data}\n");
    match stores {
        Stores::Embedded(file) => {
            let file = text(&file.display().to_string());
            write!(yaml, "console:\n  endpoint: 127.0.0.1:{}\n", ports.console)
                .and_then(|()| write!(yaml, "exporters:\n  embedded:\n    path: {file}\n"))
        }
        Stores::Real(_) => {
            yaml += "console:\n  enabled: false\nexporters:\n";
            let mut section = |key: &str, endpoint: Option<String>| {
                endpoint.map_or(Ok(()), |endpoint| write!(yaml, "  {key}:\n    endpoint: {}\n", text(&endpoint)))
            };
            let of = |name: &str, path: &str| stores.address(name).map(|url| format!("{url}{path}"));
            section("victoriametrics", of("victoriametrics", "/api/v1/write"))
                .and(section("victoriatraces", of("victoriatraces", "/insert/opentelemetry/v1/traces")))
                .and(section("otlphttp_traces", of("jaeger-otlp", "/v1/traces")))
                .and(section("otlphttp_logs", of("victorialogs", "/insert/opentelemetry/v1/logs")))
                .and(stores.address("cassandra").map_or(Ok(()), |at| {
                    let keys = "manage_schema: create\n    replication_factor: 1";
                    write!(yaml, "  cassandra:\n    hosts: [{}]\n    datacenter: dc1\n    {keys}\n", text(at))
                }))
        }
    }
    .and(state)
    .expect("writing to a string cannot fail");
    yaml
}

/// `value` as a YAML text that nothing in it can end.
fn text(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

/// The same in two lines, for a screen that is painted again and again.
pub(super) fn reminder(ports: &Ports, stores: &Stores) -> String {
    let look = match stores {
        Stores::Embedded(_) => format!("live page http://127.0.0.1:{}/", ports.console),
        Stores::Real(_) => {
            let metrics = stores.address("victoriametrics").map(|at| format!("metrics {at}/vmui"));
            let traces = ["victoriatraces", "jaeger-query"].iter().find_map(|name| stores.address(name));
            let traces = traces.map(|at| format!("traces {}", at.trim_end_matches("/api")));
            [metrics, traces].into_iter().flatten().collect::<Vec<_>>().join(", ")
        }
    };
    format!("send OTLP to 127.0.0.1:{} (gRPC) or :{} (HTTP)\n{look}; Ctrl-C stops it", ports.grpc, ports.http)
}

/// Where to send, where to look.
pub(super) fn greeting(ports: &Ports, stores: &Stores, state: &Path) -> String {
    let mut lines = vec![
        ("send OTLP/gRPC to", format!("http://127.0.0.1:{}", ports.grpc)),
        ("send OTLP/HTTP to", format!("http://127.0.0.1:{}", ports.http)),
    ];
    match stores {
        Stores::Embedded(_) => lines.push(("look at", format!("http://127.0.0.1:{}/", ports.console))),
        Stores::Real(_) => {
            let mut look = |label, name: &str, path: &str| {
                if let Some(at) = stores.address(name) {
                    lines.push((label, format!("{}{path}", at.trim_end_matches("/api"))));
                }
            };
            look("metrics", "victoriametrics", "/vmui");
            look("traces", "victoriatraces", "/select/vmui");
            look("traces", "jaeger-query", "/search");
            look("logs", "victorialogs", "/select/vmui");
            look("logs (CQL)", "cassandra", "");
        }
    }
    let local = |port: u16| format!("http://127.0.0.1:{port}/metrics");
    lines
        .push(("own metrics", format!("{} (agent), {} (central)", local(ports.metrics), local(ports.central_metrics))));
    lines.push(("configs and logs", state.display().to_string()));
    lines.iter().fold(String::new(), |all, (label, value)| format!("{all}{label:<18} {value}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: Ports = Ports {
        grpc: 1,
        http: 2,
        metrics: 3,
        health: 4,
        console: 5,
        central_grpc: 6,
        central_http: 7,
        central_metrics: 8,
        central_health: 9,
    };

    #[test]
    fn the_agent_sends_every_kind_to_central() {
        let yaml = agent(&PORTS);
        assert_eq!(yaml.matches("hostnames: [\"127.0.0.1:6\"]").count(), 4, "{yaml}");
        assert!(yaml.contains("endpoint: 127.0.0.1:1\n") && yaml.contains("endpoint: 127.0.0.1:4\n"), "{yaml}");
    }

    #[test]
    fn each_signal_has_one_store() {
        let embedded = central(&PORTS, &Stores::Embedded("/x/a \"b\".sqlite".into()), Path::new("/x"));
        assert!(embedded.contains("path: \"/x/a \\\"b\\\".sqlite\""), "{embedded}");
        let addresses = [("victoriametrics", "http://a"), ("jaeger-otlp", "http://b"), ("cassandra", "127.0.0.1:9042")];
        let addresses = addresses.map(|(name, at)| (name.to_owned(), at.to_owned()));
        let real = central(&PORTS, &Stores::Real(addresses.into()), Path::new("/x"));
        assert!(embedded.contains("directory: \"/x\"") && real.contains("directory: \"/x\""), "{real}");
        for part in ["http://a/api/v1/write", "http://b/v1/traces", "hosts: [\"127.0.0.1:9042\"]", "enabled: false"] {
            assert!(real.contains(part), "{real}");
        }
        assert!(!real.contains("embedded") && !real.contains("otlphttp_logs") && !real.contains("victoriatraces"));
    }

    #[test]
    fn the_greeting_says_where_to_send_and_where_to_look() {
        let text = greeting(&PORTS, &Stores::Embedded("x".into()), Path::new("/state"));
        for part in ["http://127.0.0.1:1\n", "http://127.0.0.1:2\n", "http://127.0.0.1:5/\n", "/state\n"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
