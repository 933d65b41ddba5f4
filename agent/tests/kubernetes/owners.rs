//! Owners by `EndpointSlices` under load: what is acknowledged arrives, and only what has to move moves.
//!
//! Replicas are centrals on loopback addresses of their own, with one port, as pods have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mirador_agent::config::Config;
use mirador_proto::otlp::collector::trace::v1::ExportTraceServiceRequest;
use mirador_proto::otlp::trace::v1::{ResourceSpans, ScopeSpans, Span};
use mirador_support::backends::ports;
use mirador_transport::kubernetes::{ApiConfig, AuthType};
use mirador_transport::sender::config::{K8sConfig, PortRef, ResolverConfig};
use prost::Message as _;
use serde_json::{Value, json};

use crate::api_server::ApiServer;
use crate::central::{self, Central, Running, TRACES, agent_config, until};

const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

/// The slice of one replica.
fn slice(replica: usize, ip: &str, port: u16, ready: bool) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "mirador", "labels": {"kubernetes.io/service-name": "graph"}},
        "ports": [{"name": "otlp-grpc", "port": port}],
        "endpoints": [{"addresses": [ip], "hostname": format!("graph-{replica}"),
            "targetRef": {"kind": "Pod", "uid": format!("{replica} at {ip}")},
            "conditions": {"ready": ready, "serving": ready, "terminating": !ready}}]})
}

struct Fleet {
    server: ApiServer,
    /// By replica: where it listens, and itself.
    replicas: BTreeMap<usize, (String, Central)>,
    /// Replicas that have left the service, which may still be sent what was on its way to them.
    left: Vec<Central>,
    port: u16,
    next_ip: u8,
}

impl Fleet {
    async fn add(&mut self, replica: usize) {
        self.next_ip += 1;
        let ip = format!("127.4.0.{}", self.next_ip);
        let central = Central::start_at(&format!("{ip}:{}", self.port)).await;
        self.server.apply(SLICES, &format!("graph-{replica}"), slice(replica, &ip, self.port, true));
        if let Some((_, old)) = self.replicas.insert(replica, (ip, central)) {
            self.left.push(old);
        }
    }

    fn remove(&mut self, replica: usize) {
        let (_, central) = self.replicas.remove(&replica).unwrap();
        self.left.push(central);
        self.server.delete(SLICES, &format!("graph-{replica}"));
    }

    fn all(&self) -> impl Iterator<Item = &Central> {
        self.replicas.values().map(|(_, central)| central).chain(&self.left)
    }

    fn arrived(&self) -> Vec<String> {
        self.all().flat_map(Central::spans).collect()
    }

    /// Which replica took each trace of the spans whose names begin so.
    fn owners(&self, prefix: &str) -> BTreeMap<Vec<u8>, usize> {
        let mut owners = BTreeMap::new();
        for (replica, (_, central)) in &self.replicas {
            for call in central.calls(TRACES).into_iter().filter(|call| call.accepted) {
                let request = ExportTraceServiceRequest::decode(call.body).unwrap();
                let scopes = request.resource_spans.into_iter().flat_map(|entry| entry.scope_spans);
                for span in scopes.flat_map(|scope| scope.spans).filter(|span| span.name.starts_with(prefix)) {
                    let before = owners.insert(span.trace_id, *replica);
                    assert!(before.is_none_or(|before| before == *replica), "a trace was split while nothing changed");
                }
            }
        }
        owners
    }
}

fn config(server: &ApiServer, files: &tempfile::TempDir) -> Config {
    let (kubeconfig, token) = (files.path().join("config"), files.path().join("token"));
    std::fs::write(&token, "token").unwrap();
    std::fs::write(&kubeconfig, server.kubeconfig(&token)).unwrap();
    let mut config = agent_config(&[]);
    let traces = config.exporters.traces.as_mut().unwrap();
    traces.resolver = ResolverConfig {
        k8s: Some(Box::new(K8sConfig {
            service: "graph.mirador".to_owned(),
            ports: vec![PortRef::Name("otlp-grpc".to_owned())],
            debounce: Duration::from_millis(50),
            empty_grace: Duration::from_millis(1500),
            api: ApiConfig { auth_type: AuthType::KubeConfig, kubeconfig: Some(kubeconfig), context: None },
            ..K8sConfig::default()
        })),
        ..ResolverConfig::default()
    };
    config.exporters.metrics = None;
    config.exporters.logs = None;
    config.exporters.red = None;
    config
}

/// A request with one span of this name for each of 400 traces.
pub(crate) fn traces(name: &str) -> Bytes {
    let span = |id: u32| {
        let mut trace_id = [9; 16];
        trace_id[..4].copy_from_slice(&id.to_be_bytes());
        Span { trace_id: trace_id.to_vec(), span_id: vec![1; 8], name: name.to_owned(), ..Span::default() }
    };
    let scope = ScopeSpans { spans: (0..400).map(span).collect(), ..ScopeSpans::default() };
    let entry = ResourceSpans { scope_spans: vec![scope], ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![entry] }.encode_to_vec().into()
}

/// 400 traces, always the same ones, with spans of this name.
async fn probe(agent: &Running, name: &str) {
    agent.send_until_settled(&traces(name)).await.1.unwrap();
}

/// The fraction of traces that changed owners, and who has them now.
pub(crate) fn moved(before: &BTreeMap<Vec<u8>, usize>, after: &BTreeMap<Vec<u8>, usize>) -> (f64, BTreeSet<usize>) {
    assert_eq!((before.len(), after.len()), (400, 400));
    let moves: Vec<usize> =
        before.iter().filter(|(trace, owner)| after[*trace] != **owner).map(|(trace, _)| after[trace]).collect();
    (moves.len() as f64 / 400.0, moves.into_iter().collect())
}

/// Clients that send until they are told to stop; each returns what was acknowledged.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<Vec<Bytes>>>,
}

impl Load {
    fn start(agent: &Arc<Running>) -> Self {
        let (stop, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let client = |_| {
            let (agent, stop, next) = (Arc::clone(agent), Arc::clone(&stop), Arc::clone(&next));
            tokio::spawn(async move {
                let mut sent = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let body = central::spans(next.fetch_add(20, Ordering::Relaxed), 20);
                    agent.send_until_settled(&body).await.1.unwrap();
                    sent.push(body);
                }
                sent
            })
        };
        Self { clients: (0..3).map(client).collect(), stop }
    }

    /// The names of the spans that were acknowledged.
    async fn stop(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut names = BTreeSet::new();
        for client in self.clients {
            names.extend(client.await.unwrap().iter().flat_map(central::span_names));
        }
        names
    }
}

async fn owners(agent: &Running, count: i64) {
    let backends = || agent.metric("otelcol_loadbalancer_num_backends{") == count;
    until(&format!("there are {count} owners"), backends).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_change_under_load_and_everything_acknowledged_arrives() {
    let server = ApiServer::start().await;
    let mut fleet =
        Fleet { server, replicas: BTreeMap::new(), left: Vec::new(), port: ports::free().unwrap(), next_ip: 0 };
    for replica in 0..3 {
        fleet.add(replica).await;
    }
    let files = tempfile::tempdir().unwrap();
    let agent = Arc::new(Box::pin(Running::start(config(&fleet.server, &files))).await);
    owners(&agent, 3).await;
    let load = Load::start(&agent);
    scale_and_roll(&mut fleet, &agent).await;
    server_dies(&mut fleet, &agent).await;
    all_are_gone(&mut fleet, &agent).await;
    let acknowledged = load.stop().await;
    let arrived: Vec<String> = fleet.arrived().into_iter().filter(|name| name.starts_with("span-")).collect();
    let unique: BTreeSet<String> = arrived.iter().cloned().collect();
    assert_eq!(unique, acknowledged, "every acknowledged span arrived");
    assert_eq!(arrived.len(), unique.len(), "and once, since no answer was lost");
    assert_eq!(agent.imbalance(), 0);
}

async fn scale_and_roll(fleet: &mut Fleet, agent: &Running) {
    probe(agent, "three").await;
    fleet.add(3).await;
    fleet.add(4).await;
    owners(agent, 5).await;
    probe(agent, "five").await;
    let (ratio, to) = moved(&fleet.owners("three"), &fleet.owners("five"));
    assert!(to.iter().all(|owner| [3, 4].contains(owner)), "what moves, moves to the new ones: {to:?}");
    assert!((0.25..0.55).contains(&ratio), "two fifths move, not {ratio}");
    // Every replica is replaced, one after the other, at another address: no trace changes its owner.
    let updates = || agent.metric("otelcol_loadbalancer_num_backend_updates_total");
    let before = fleet.owners("five");
    for replica in 0..5 {
        let seen = updates();
        fleet.add(replica).await;
        until("the owner is replaced", || updates() > seen).await;
    }
    probe(agent, "rolled").await;
    let (_, to) = moved(&before, &fleet.owners("rolled"));
    assert_eq!(to, BTreeSet::new(), "a replica that is replaced keeps its traces");
    for replica in 2..5 {
        fleet.remove(replica);
    }
    owners(agent, 2).await;
    let before = fleet.owners("rolled");
    probe(agent, "two").await;
    let after = fleet.owners("two");
    assert!(before.iter().all(|(trace, owner)| after[trace] == *owner), "nothing moves but what has to");
}

/// The API server dies while the service changes.
async fn server_dies(fleet: &mut Fleet, agent: &Running) {
    fleet.server.kill().await;
    fleet.add(2).await;
    probe(agent, "headless").await;
    assert_eq!(fleet.owners("headless").values().collect::<BTreeSet<_>>(), [&0, &1].into());
    fleet.server.compact();
    fleet.server.restart().await;
    owners(agent, 3).await;
}

/// All are gone for longer than the grace: clients are told to come back, and nothing is lost.
async fn all_are_gone(fleet: &mut Fleet, agent: &Running) {
    for replica in 0..3 {
        fleet.remove(replica);
    }
    until("the empty set is held", || agent.metric("mirador_sender_empty_endpoints_held_total") == 1).await;
    owners(agent, 0).await;
    until("requests are refused", || agent.metric("mirador_agent_refused_items_total") > 0).await;
    for replica in 0..3 {
        fleet.add(replica).await;
    }
    owners(agent, 3).await;
    probe(agent, "back").await;
}
