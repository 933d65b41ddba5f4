//! Whole processes on free ports: spans in over OTLP/HTTP, series and spans out of the store.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use mirador_support::backends::client::client;
use mirador_transport::sender;
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::exporter::embedded;
use crate::stores::ExportersConfig;
use crate::testing::{Spanned, span, traces};

/// Has all ports but the console's at one address.
fn listen(config: &mut Config, address: &str) {
    for endpoint in [
        &mut config.receiver.protocols.grpc.endpoint,
        &mut config.receiver.protocols.http.endpoint,
        &mut config.telemetry.metrics.endpoint,
        &mut config.health.endpoint,
    ] {
        address.clone_into(endpoint);
    }
}

/// A process on free ports with the embedded store in `folder`.
fn config(folder: &TempDir, name: &str) -> Config {
    let mut config = Config::laptop();
    listen(&mut config, "127.0.0.1:0");
    config.console.endpoint.set_port(0);
    let path = folder.path().join(name);
    config.exporters = ExportersConfig {
        embedded: Some(embedded::Config { path, ..embedded::Config::default() }),
        ..ExportersConfig::default()
    };
    config.shutdown_grace = Duration::from_secs(60);
    config.state.directory = Some(folder.path().join(name).with_extension("state"));
    config
}

struct Process {
    http: SocketAddr,
    grpc: SocketAddr,
    health: SocketAddr,
    drain: Drain,
    running: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Process {
    async fn start(config: Config, role: Role) -> Self {
        let drain = Drain::new(config.shutdown_grace);
        let central = Central::build(config, role, drain.clone()).await.unwrap();
        let (http, grpc, health) = (central.http_addr(), central.grpc_addr(), central.health_addr());
        Self { http, grpc, health, drain, running: tokio::spawn(central.run()) }
    }

    async fn stop(self) {
        self.drain.start();
        self.running.await.unwrap().expect("the drain is clean");
    }

    async fn status(&self, page: &str) -> u16 {
        client().unwrap().get(format!("http://{}/{page}", self.health)).send().await.unwrap().status().as_u16()
    }

    /// Waits for readiness, then sends.
    async fn send(&self, path: &str, body: bytes::Bytes) -> u16 {
        for _ in 0..2400 {
            if self.status("readyz").await == 200 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let request = client().unwrap().post(format!("http://{}/v1/{path}", self.http));
        let request = request.header("content-type", "application/x-protobuf").body(body);
        request.send().await.unwrap().status().as_u16()
    }
}

/// The smallest and the largest value of every series with this name, by the value of one label.
fn values(path: &Path, name: &str, label: &str) -> BTreeMap<String, (i64, i64)> {
    let connection = Connection::open(path).unwrap();
    let mut statement = connection
        .prepare(
            "SELECT labels, CAST(min(value) AS INTEGER), CAST(max(value) AS INTEGER) FROM series JOIN samples ON samples.series = series.id WHERE name = ?1 \
             GROUP BY series.id",
        )
        .unwrap();
    let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, (row.get(1)?, row.get(2)?)));
    let labelled = |row: rusqlite::Result<(String, (i64, i64))>| {
        let (labels, values) = row.unwrap();
        let labels: BTreeMap<String, String> = serde_json::from_str(&labels).unwrap();
        (labels.get(label).cloned().unwrap_or_default(), values)
    };
    statement.query_map([name], row).unwrap().map(labelled).collect()
}

fn spans(path: &Path) -> i64 {
    Connection::open(path).unwrap().query_row("SELECT count(*) FROM spans", [], |row| row.get(0)).unwrap()
}

fn shop() -> [Spanned; 3] {
    [span("shop", 2, 1, 1, 0), span("shop", 3, 1, 2, 1), span("cart", 2, 1, 3, 2)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_roles_in_one_process_store_spans_edges_and_red_series_once() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(config(&folder, "all.sqlite"), Role::All).await;
    for _ in 0..2 {
        assert_eq!(process.send("traces", traces(&shop())).await, 200, "sent again, as after a lost answer");
    }
    process.stop().await;
    let path = folder.path().join("all.sqlite");
    assert_eq!(spans(&path), 3);
    let edges = values(&path, "traces_service_graph_request_total", "server");
    assert_eq!(edges, BTreeMap::from([("cart".to_owned(), (0, 1)), ("shop".to_owned(), (0, 1))]));
    let calls = values(&path, "traces_span_metrics_calls_total", "service_name");
    assert_eq!(calls["cart"], (0, 1));
    let counts = values(&path, "traces_span_metrics_duration_milliseconds_count", "service_name");
    assert_eq!(counts["cart"], (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_servicegraph_process_hands_its_edges_to_an_isolationforest_process() {
    let folder = tempfile::tempdir().unwrap();
    let forest = Process::start(config(&folder, "forest.sqlite"), Role::IsolationForest).await;
    let mut graph = config(&folder, "graph.sqlite");
    graph.exporters.metrics = Some(sender::Config::default());
    if let Some(fixed) = graph.exporters.metrics.as_mut().and_then(|metrics| metrics.resolver.fixed.as_mut()) {
        fixed.hostnames = vec![forest.grpc.to_string()];
    }
    let graph = Process::start(graph, Role::ServiceGraph).await;
    assert_eq!(graph.send("traces", traces(&shop())).await, 200);
    assert_eq!(graph.send("logs", bytes::Bytes::new()).await, 404, "not this role's");
    graph.stop().await;
    forest.stop().await;
    assert_eq!(spans(&folder.path().join("graph.sqlite")), 3);
    let edges = values(&folder.path().join("forest.sqlite"), "traces_service_graph_request_total", "server");
    assert_eq!(edges, BTreeMap::from([("cart".to_owned(), (0, 1)), ("shop".to_owned(), (0, 1))]));
}

#[tokio::test]
async fn a_configuration_that_cannot_work_binds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&folder, "all.sqlite");
    config.servicegraph.store.ttl = Duration::ZERO;
    // Whoever bound a port before everything is checked would stumble over one that is taken.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listen(&mut config, &taken.local_addr().unwrap().to_string());
    let error = Central::build(config, Role::All, Drain::new(Duration::from_secs(1))).await.err().unwrap();
    assert!(error.to_string().contains("servicegraph.store.ttl"), "{error}");
    assert!(!folder.path().join("all.sqlite").exists());
}
