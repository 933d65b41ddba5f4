//! The resolver `k8s` against an API server that fails in every way that a real one does.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the line")]

#[path = "kubernetes/api_server.rs"]
mod api_server;
#[path = "sender/fake_owner.rs"]
#[expect(dead_code, reason = "the sender's own tests need more of it")]
mod fake_owner;

use std::path::PathBuf;
use std::time::Duration;

use api_server::{ApiServer, Gone};
use fake_owner::{FakeOwner, Reply, until};
use mirador_otlp::Signal;
use mirador_otlp::splice::Part;
use mirador_service::health::Health;
use mirador_service::metrics::Registry;
use mirador_transport::Kind;
use mirador_transport::kubernetes::{ApiConfig, AuthType};
use mirador_transport::sender::config::{Config, K8sConfig, PortRef, ResolverConfig};
use mirador_transport::sender::{Destination, resolve_once};
use serde_json::{Value, json};

const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

struct Rig {
    server: ApiServer,
    destination: Destination,
    registry: Registry,
    config: Config,
    token: PathBuf,
    _files: tempfile::TempDir,
}

impl Rig {
    async fn start(change: impl FnOnce(&mut K8sConfig)) -> Self {
        let server = ApiServer::start().await;
        server.apply(SLICES, "graph-a", slice(&[("graph-0", "127.0.0.1", true)], 1));
        Self::start_with(server, change)
    }

    fn start_with(server: ApiServer, change: impl FnOnce(&mut K8sConfig)) -> Self {
        let files = tempfile::tempdir().unwrap();
        let (kubeconfig, token) = (files.path().join("config"), files.path().join("token"));
        std::fs::write(&token, "first").unwrap();
        std::fs::write(&kubeconfig, server.kubeconfig(&token)).unwrap();
        let mut k8s = K8sConfig {
            service: "graph.mirador".to_owned(),
            ports: vec![PortRef::Name("otlp-grpc".to_owned())],
            debounce: Duration::from_millis(20),
            empty_grace: Duration::from_secs(2),
            api: ApiConfig { auth_type: AuthType::KubeConfig, kubeconfig: Some(kubeconfig), context: None },
            ..K8sConfig::default()
        };
        change(&mut k8s);
        let mut config = Config {
            resolver: ResolverConfig { k8s: Some(Box::new(k8s)), ..ResolverConfig::default() },
            // What an owner leaves unanswered is sent again after this, and it has to be enough for an answer.
            timeout: Duration::from_secs(2),
            ..Config::default()
        };
        config.retry_on_failure.max_elapsed_time = Duration::from_mins(1);
        let registry = Registry::new();
        let destination = Destination::start("traces", config.clone(), &registry, &Health::new(), None).unwrap();
        Self { server, destination, registry, config, token, _files: files }
    }

    fn names(&self) -> Vec<String> {
        let owners = self.destination.owners();
        (0..owners.len()).map(|index| owners.name(index).to_owned()).collect()
    }

    async fn has(&self, hostnames: &[&str]) {
        let expected: Vec<String> = hostnames.iter().map(|name| format!("{name}.graph.mirador:1")).collect();
        until(&format!("the owners are {hostnames:?}"), || self.names() == expected).await;
    }

    /// Slice `graph-a` has these endpoints, all ready.
    fn set(&self, hostnames: &[&str]) {
        let endpoints: Vec<(&str, &str, bool)> = hostnames.iter().map(|name| (*name, "127.0.0.1", true)).collect();
        self.server.apply(SLICES, "graph-a", slice(&endpoints, 1));
    }

    /// In thousandths, so that a part of a second counts.
    fn millis(&self, start: &str) -> u64 {
        let page = self.registry.encode();
        let lines = page.lines().filter(|line| line.starts_with(start));
        lines.map(|line| (line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() * 1000.0).ceil() as u64).sum()
    }

    fn metric(&self, start: &str) -> u64 {
        self.millis(start) / 1000
    }

    fn errors(&self, reason: &str) -> u64 {
        let start = "mirador_kubernetes_watch_errors_total";
        self.metric(&format!("{start}{{watch=\"endpointslices/traces\",reason=\"{reason}\"}}"))
    }

    async fn healthy(&self) {
        until("the watch works", || self.millis("mirador_kubernetes_watch_stale_seconds") == 0).await;
    }
}

/// Endpoints as hostname, address and readiness.
fn slice(endpoints: &[(&str, &str, bool)], port: u16) -> Value {
    let endpoint = |(hostname, address, ready): &(&str, &str, bool)| {
        json!({"addresses": [address], "hostname": hostname, "targetRef": {"kind": "Pod", "uid": hostname},
            "conditions": {"ready": ready, "serving": ready, "terminating": false}})
    };
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "mirador", "labels": {"kubernetes.io/service-name": "graph"}},
        "ports": [{"name": "otlp-grpc", "port": port}],
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>()})
}

#[tokio::test]
async fn owners_follow_the_slices_of_their_service() {
    let rig = Rig::start(|_| {}).await;
    rig.has(&["graph-0"]).await;
    rig.server.apply(SLICES, "graph-b", slice(&[("graph-1", "127.0.0.1", true), ("graph-2", "127.0.0.1", false)], 1));
    rig.has(&["graph-0", "graph-1"]).await;
    rig.server.apply(SLICES, "graph-b", slice(&[("graph-1", "127.0.0.1", true), ("graph-2", "127.0.0.1", true)], 1));
    rig.has(&["graph-0", "graph-1", "graph-2"]).await;
    let mut other = slice(&[("other-0", "127.0.0.1", true)], 1);
    other["metadata"]["labels"]["kubernetes.io/service-name"] = json!("other");
    rig.server.apply(SLICES, "other-a", other);
    rig.server.delete(SLICES, "graph-a");
    rig.has(&["graph-1", "graph-2"]).await;
    assert!(
        rig.server.seen().iter().all(|seen| seen.query.contains("labelSelector=kubernetes.io%2Fservice-name%3Dgraph"))
    );
    assert_eq!(rig.server.lists(), 1, "one list, then one watch");
    assert_eq!(rig.metric("mirador_sender_endpoints{destination=\"traces\",state=\"ready\"}"), 2);
    let roster = resolve_once(&rig.config).await.unwrap();
    assert_eq!(roster.members(), rig.names(), "explain sees the same");
}

#[tokio::test]
async fn a_replica_that_comes_back_elsewhere_keeps_its_name_and_its_data() {
    let (old, new) = (FakeOwner::start().await, FakeOwner::start().await);
    let server = ApiServer::start().await;
    server.apply(SLICES, "graph-a", slice(&[("graph-0", "127.0.0.1", true)], old.addr().port()));
    let rig = Rig::start_with(server, |_| {});
    let name = format!("graph-0.graph.mirador:{}", old.addr().port());
    let destination = rig.destination.clone();
    until("the owner is up", || destination.is_up(&destination.owners(), 0)).await;
    assert_eq!(rig.names(), [name]);
    old.always(Reply::Stall);
    let sending = tokio::spawn({
        let (destination, owners) = (destination.clone(), destination.owners());
        let part = Part { owner: 0, bytes: bytes::Bytes::from_static(b"\x0a\x00"), items: 1 };
        async move { destination.send(Kind::Otlp(Signal::Traces), &owners, vec![part], destination.deadline()).await }
    });
    until("the old address has the part", || old.calls() == 1).await;
    rig.server.apply(SLICES, "graph-a", slice(&[("graph-0", "127.0.0.1", true)], new.addr().port()));
    until("the new address is an owner", || new.calls() == 1).await;
    sending.await.unwrap().unwrap();
    assert_eq!(new.accepted().len(), 1, "what waited was sent to the new address");
}

#[tokio::test]
async fn an_empty_service_keeps_its_owners_for_the_grace_and_no_longer() {
    let rig = Rig::start(|_| {}).await;
    rig.has(&["graph-0"]).await;
    rig.set(&[]);
    until("the empty set is held", || rig.metric("mirador_sender_empty_endpoints_held_total") == 1).await;
    assert_eq!(rig.names().len(), 1);
    rig.has(&[]).await;
    rig.set(&["graph-0"]);
    rig.has(&["graph-0"]).await;
}

#[tokio::test]
async fn owners_stay_while_the_server_is_away_and_follow_when_it_is_back() {
    let mut rig = Rig::start(|_| {}).await;
    rig.has(&["graph-0"]).await;
    rig.server.kill().await;
    until("the watch fails", || rig.errors("connection") >= 2).await;
    assert_eq!(rig.names().len(), 1);
    assert!(rig.millis("mirador_kubernetes_watch_stale_seconds") > 0);
    rig.set(&["graph-0", "graph-1"]);
    rig.server.restart().await;
    rig.has(&["graph-0", "graph-1"]).await;
    rig.healthy().await;
}

#[tokio::test]
async fn a_server_that_is_back_and_has_nothing_new_is_known_to_be_back() {
    let mut rig = Rig::start(|_| {}).await;
    rig.has(&["graph-0"]).await;
    rig.server.kill().await;
    until("the watch fails", || rig.millis("mirador_kubernetes_watch_stale_seconds") > 0).await;
    rig.server.restart().await;
    rig.healthy().await;
    assert_eq!(rig.names().len(), 1);
}

#[tokio::test]
async fn a_server_that_counts_versions_anew_is_listed_again() {
    let mut rig = Rig::start(|_| {}).await;
    rig.has(&["graph-0"]).await;
    rig.server.kill().await;
    rig.server.forget_versions();
    rig.set(&["graph-7"]);
    rig.server.faults(|faults| faults.error_events = (1, 504));
    rig.server.restart().await;
    rig.has(&["graph-7"]).await;
    rig.set(&["graph-8"]);
    rig.has(&["graph-8"]).await;
}

#[tokio::test]
async fn a_version_that_is_gone_is_listed_again_however_it_is_told() {
    for gone in [Gone::Status, Gone::Event] {
        let mut rig = Rig::start(|_| {}).await;
        rig.has(&["graph-0"]).await;
        rig.server.faults(|faults| faults.gone = gone);
        rig.server.kill().await;
        rig.set(&["graph-0", "graph-1"]);
        rig.server.compact();
        rig.server.restart().await;
        rig.has(&["graph-0", "graph-1"]).await;
        assert!(rig.errors("gone") >= 1, "{gone:?}");
        assert_eq!(rig.server.lists(), 2, "{gone:?}");
        rig.set(&["graph-2"]);
        rig.has(&["graph-2"]).await;
    }
}

#[tokio::test]
async fn error_events_inside_a_success_do_not_end_the_watch_nor_hammer_the_server() {
    let server = ApiServer::start().await;
    server.faults(|faults| faults.error_events = (4, 500));
    let rig = Rig::start_with(server, |_| {});
    until("every error was met", || rig.errors("server") >= 4).await;
    rig.set(&["graph-5"]);
    rig.has(&["graph-5"]).await;
    let seen = rig.server.seen();
    let watches: Vec<_> = seen.iter().filter(|seen| seen.watch).map(|seen| seen.at).collect();
    // 200 ms, doubled each time and halved at most by jitter.
    assert!(watches[4] - watches[3] >= Duration::from_millis(800), "waits grow although lists succeed between");
    rig.healthy().await;
}

#[tokio::test]
async fn a_replaced_token_is_read_again_at_once() {
    let server = ApiServer::start().await;
    server.faults(|faults| faults.token = Some("first".to_owned()));
    server.apply(SLICES, "graph-a", slice(&[("graph-0", "127.0.0.1", true)], 1));
    let mut rig = Rig::start_with(server, |_| {});
    rig.has(&["graph-0"]).await;
    std::fs::write(&rig.token, "second").unwrap();
    rig.server.faults(|faults| faults.token = Some("second".to_owned()));
    rig.set(&["graph-0", "graph-1"]);
    rig.server.cut().await;
    rig.has(&["graph-0", "graph-1"]).await;
    rig.healthy().await;
    std::fs::write(&rig.token, "of someone else").unwrap();
    rig.server.faults(|faults| faults.token = Some("third".to_owned()));
    rig.server.cut().await;
    until("the token is refused", || rig.errors("unauthorized") >= 2).await;
    assert_eq!(rig.names().len(), 2);
    rig.set(&["graph-0"]);
    std::fs::write(&rig.token, "third").unwrap();
    rig.has(&["graph-0"]).await;
}

#[tokio::test]
async fn a_throttling_server_is_left_alone_for_as_long_as_it_asks() {
    let server = ApiServer::start().await;
    server.apply(SLICES, "graph-a", slice(&[("graph-0", "127.0.0.1", true)], 1));
    server.faults(|faults| faults.throttle = (2, 1));
    let rig = Rig::start_with(server, |_| {});
    rig.has(&["graph-0"]).await;
    assert_eq!(rig.errors("throttled"), 2);
    let seen = rig.server.seen();
    assert_eq!(seen.iter().map(|seen| seen.status).take(3).collect::<Vec<_>>(), [429, 429, 200]);
    for pair in seen[..3].windows(2) {
        assert!(pair[1].at - pair[0].at >= Duration::from_secs(1), "Retry-After is honoured");
    }
}

#[tokio::test]
async fn silence_and_broken_objects_are_survived() {
    let server = ApiServer::start().await;
    server.apply(SLICES, "graph-a", slice(&[("graph-0", "127.0.0.1", true)], 1));
    server.faults(|faults| faults.silent_lists = 1);
    let rig = Rig::start_with(server, |k8s| k8s.timeout = Duration::from_secs(2));
    rig.has(&["graph-0"]).await;
    assert_eq!(rig.errors("timeout"), 1);
    rig.server.faults(|faults| faults.cut_watches = 2);
    rig.set(&["graph-0", "graph-1"]);
    rig.has(&["graph-0", "graph-1"]).await;
    rig.healthy().await;
}

#[tokio::test]
async fn a_list_in_pages_counts_when_it_is_complete() {
    let server = ApiServer::start().await;
    server.faults(|faults| faults.page = 2);
    for index in 0..7 {
        let name = format!("graph-{index}");
        server.apply(SLICES, &name, slice(&[(&name, "127.0.0.1", true)], 1));
    }
    let rig = Rig::start_with(server, |_| {});
    until("there are owners", || !rig.names().is_empty()).await;
    assert_eq!(rig.names().len(), 7, "never a part of them");
    assert_eq!(rig.server.lists(), 4);
}

#[tokio::test]
async fn credentials_that_are_missing_are_waited_for() {
    let server = ApiServer::start().await;
    server.apply(SLICES, "graph-a", slice(&[("graph-0", "127.0.0.1", true)], 1));
    let rig = Rig::start_with(server, |_| {});
    let k8s = rig.config.resolver.k8s.clone().unwrap();
    let path = k8s.api.kubeconfig.clone().unwrap();
    let kept = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let registry = Registry::new();
    let destination = Destination::start("late", rig.config.clone(), &registry, &Health::new(), None).unwrap();
    let counted = || registry.encode().contains("watch=\"endpointslices/late\",reason=\"credentials\"} 2");
    until("the missing file was met twice", counted).await;
    std::fs::write(&path, kept).unwrap();
    until("the owner is known", || destination.owners().len() == 1).await;
}

#[tokio::test]
async fn a_destination_that_is_dropped_stops_watching() {
    let rig = Rig::start(|_| {}).await;
    rig.has(&["graph-0"]).await;
    let Rig { server, destination, .. } = rig;
    until("the watch is open", || server.watches() == 1).await;
    drop(destination);
    until("the watch is closed", || server.watches() == 0).await;
}

#[test]
fn a_wrong_service_or_port_is_named() {
    let problems = |change: fn(&mut K8sConfig)| {
        let mut k8s = K8sConfig { service: "graph.mirador".to_owned(), ..K8sConfig::default() };
        change(&mut k8s);
        let resolver = ResolverConfig { k8s: Some(Box::new(k8s)), ..ResolverConfig::default() };
        Config { resolver, ..Config::default() }.problems().join("\n")
    };
    assert_eq!(problems(|_| {}), "");
    assert!(problems(|k8s| k8s.service.clear()).starts_with("resolver.k8s.service"));
    assert!(problems(|k8s| k8s.service = "a.b.svc.cluster.local".to_owned()).contains("name.namespace"));
    assert!(problems(|k8s| k8s.ports = vec![PortRef::Number(0)]).starts_with("resolver.k8s.ports"));
    assert!(problems(|k8s| k8s.debounce = Duration::from_secs(9)).contains("debounce_max"));
    assert!(problems(|k8s| k8s.api.context = Some("x".to_owned())).contains("auth_type"));
}
