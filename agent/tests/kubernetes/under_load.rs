//! Owners by the `EndpointSlices` of a real control plane, under load: real agents send to real receivers while the
//! service scales, rolls, loses its API server and is gone for twenty seconds.
//!
//! The pods' addresses are those that kwok gives them. The test runs in a network namespace of its own in which they
//! are all local, so that an owner listens where its pod would, comes with the pod and dies with it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, ResourceExt as _};
use mirador_proto::otlp::collector::trace::v1::ExportTraceServiceRequest;
use mirador_service::drain::Drain;
use mirador_service::memory::Budget;
use mirador_service::metrics::Registry;
use mirador_support::backends::server::{Ready, Server, Spec};
use mirador_support::backends::{client, ports};
use mirador_transport::receiver::{BindError, Receiver};
use mirador_transport::{Accepted, Consume, Incoming, Kind, Refusal};
use prost::Message as _;
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::central;
use crate::owners::{moved, traces};
use crate::real::Cluster;

/// Says to this program that it runs in the test's own network.
const INSIDE: &str = "MIRADOR_TEST_OWN_NETWORK";
const NAME: &str = "under_load::acknowledged_spans_arrive_whatever_becomes_of_a_real_service";
/// Where kwok takes the pods' addresses from.
const PODS: &str = "10.128.0.0/16";
const PORT: u16 = 4317;

#[test]
fn acknowledged_spans_arrive_whatever_becomes_of_a_real_service() {
    if std::env::var_os(INSIDE).is_some() {
        for words in ["link set lo up", &format!("route add local {PODS} dev lo")] {
            assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success(), "ip {words}");
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        println!("{}", runtime.block_on(Box::pin(inside())));
        return;
    }
    if !Command::new("unshare").args(["--net", "true"]).status().is_ok_and(|status| status.success()) {
        mirador_support::skip("a network namespace cannot be made: it takes root and unshare");
        return;
    }
    let mut command = Command::new("unshare");
    command.args(["--net", "--fork", "--kill-child", "--"]).arg(std::env::current_exe().unwrap());
    let output = command.args([NAME, "--exact", "--nocapture"]).env(INSIDE, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let whole = output.status.success() && text.contains("1 passed");
    assert!(whole, "{text}{}", String::from_utf8_lossy(&output.stderr));
    println!("{}", text.lines().find(|line| line.starts_with("under load:")).unwrap_or_default());
}

/// What an owner has acknowledged; outlives it.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<Bytes>>>);

impl Consume for Log {
    async fn consume(&self, incoming: Incoming) -> Result<Accepted, Refusal> {
        self.0.lock().unwrap().push(incoming.body);
        Ok(Accepted::default())
    }
}

/// The process in a pod: a runtime of its own, that nothing survives.
struct Owner {
    runtime: Runtime,
}

impl Owner {
    /// Listens as the pod would, unless the one that had its address before is still ending.
    async fn start(ip: &str, log: &Log) -> Option<Self> {
        let mut config = central::receiver_config();
        config.protocols.grpc.endpoint = format!("{ip}:{PORT}");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let log = Arc::new(log.clone());
        let listening = runtime.spawn(async move {
            let drain = Drain::new(Duration::from_secs(1));
            match Receiver::bind(config, Budget::new(256 << 20), &Registry::new(), drain).await {
                Err(BindError::Listen { .. }) => false,
                bound => {
                    bound.unwrap().serve(log, &Kind::ALL);
                    true
                }
            }
        });
        let owner = Self { runtime };
        if !listening.await.unwrap() {
            owner.kill();
            return None;
        }
        Some(owner)
    }

    /// As a process that is killed: its listener and its connections are closed, whatever was on its way.
    fn kill(self) {
        self.runtime.shutdown_background();
    }
}

struct Fleet {
    cluster: Cluster,
    client: Client,
    /// By the pod's UID.
    living: BTreeMap<String, Owner>,
    /// Every owner that there ever was, by its ordinal.
    logs: Vec<(usize, Log)>,
    agents: [Agent; 2],
}

/// A connection of the administrator, because a program for each question would take the processor from what is
/// tested.
async fn administrator(cluster: &Cluster) -> Client {
    let kubeconfig = Kubeconfig::read_from(cluster.plane.kubeconfig()).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    mirador_service::tls::decide_provider();
    Client::try_from(config).unwrap()
}

/// The agent as a process.
struct Agent {
    _server: Server,
    http: SocketAddr,
    metrics: SocketAddr,
    _files: tempfile::TempDir,
}

impl Agent {
    async fn start(cluster: &Cluster, empty_grace: &str) -> Self {
        let [grpc, http, metrics, health] =
            [(); 4].map(|()| SocketAddr::from(([127, 0, 0, 1], ports::free().unwrap())));
        let api = json!({"auth_type": "kubeConfig", "kubeconfig": cluster.api.kubeconfig});
        let k8s = json!({"service": "graph.mirador", "ports": ["otlp-grpc"], "empty_grace": empty_grace, "api": api});
        let traces = json!({"resolver": {"k8s": k8s}, "retry_on_failure": {"max_elapsed_time": "2s"}});
        let config = json!({
            "receiver": {"protocols": {"grpc": {"endpoint": grpc}, "http": {"endpoint": http}}},
            "telemetry": {"metrics": {"endpoint": metrics}},
            "health": {"endpoint": health},
            "steering": {"enabled": false},
            "exporters": {"traces": traces, "red": null, "metrics": null, "logs": null},
        });
        let files = tempfile::tempdir().unwrap();
        let file = files.path().join("config.yaml");
        std::fs::write(&file, config.to_string()).unwrap();
        let spec = Spec {
            name: "mirador-agent".to_owned(),
            // Built with the test: in a network of its own cargo could not look for what it lacks.
            program: env!("CARGO_BIN_EXE_mirador-agent").into(),
            args: vec!["run".to_owned(), "--config".to_owned(), file.display().to_string()],
            env: Vec::new(),
            folder: files.path().to_owned(),
            ready: Ready::Http(format!("http://{health}/livez")),
        };
        Self { _server: Server::start(spec).await.unwrap(), http, metrics, _files: files }
    }

    /// The sum of every series of a metric.
    async fn metric(&self, name: &str) -> u64 {
        let page = client::text(client::client().unwrap().get(format!("http://{}/metrics", self.metrics)));
        let page = page.await.unwrap();
        let lines =
            page.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
    }
}

impl Fleet {
    async fn start() -> Self {
        let cluster = Cluster::start().await;
        let client = administrator(&cluster).await;
        // One gives up its owners soon after the last of them, the other keeps them for longer than the test lasts.
        let agents = [Agent::start(&cluster, "3s").await, Agent::start(&cluster, "10m").await];
        let mut fleet = Self { cluster, client, living: BTreeMap::new(), logs: Vec::new(), agents };
        fleet.owners(3).await;
        fleet
    }

    /// Lets the owners be those whose pods there are.
    async fn follow(&mut self) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), "mirador");
        // An error while the API server is away.
        let Ok(pods) = pods.list(&ListParams::default().labels("app=graph")).await else { return };
        let address = |pod: &Pod| pod.status.as_ref()?.pod_ip.clone();
        let pods: Vec<(String, String, String)> =
            pods.iter().filter_map(|pod| Some((pod.uid()?, pod.name_any(), address(pod)?))).collect();
        let uids: BTreeSet<&String> = pods.iter().map(|(uid, ..)| uid).collect();
        let gone: Vec<String> = self.living.keys().filter(|uid| !uids.contains(uid)).cloned().collect();
        for uid in gone {
            self.living.remove(&uid).unwrap().kill();
        }
        for (uid, name, ip) in pods {
            if self.living.contains_key(&uid) {
                continue;
            }
            let log = Log::default();
            if let Some(owner) = Owner::start(&ip, &log).await {
                self.living.insert(uid, owner);
                self.logs.push((name.rsplit_once('-').unwrap().1.parse().unwrap(), log));
            }
        }
    }

    /// Follows the pods until a condition holds, for some minutes at most.
    async fn until(&mut self, what: &str, mut holds: impl AsyncFnMut(&Self) -> bool) {
        let begun = Instant::now();
        loop {
            self.follow().await;
            if holds(self).await {
                return;
            }
            assert!(begun.elapsed() < Duration::from_mins(3), "waited in vain: {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Until there are so many pods, and both agents have a connection to each of them.
    async fn owners(&mut self, count: usize) {
        let what = format!("there are {count} owners");
        self.until(&what, async |fleet: &Self| {
            let mut all = fleet.living.len() == count;
            for agent in 0..2 {
                for name in ["otelcol_loadbalancer_num_backends", "mirador_sender_owner_up"] {
                    all = all && fleet.metric(agent, name).await == count as u64;
                }
            }
            all
        })
        .await;
    }

    async fn metric(&self, agent: usize, name: &str) -> u64 {
        self.agents[agent].metric(name).await
    }

    /// Sends a span of this name for each of 400 traces through both agents, and says who took which trace.
    async fn probe(&self, name: &str) -> BTreeMap<Vec<u8>, usize> {
        let mut owners = BTreeMap::new();
        for (index, agent) in self.agents.iter().enumerate() {
            let name = format!("probe {name} {index}.");
            send(agent.http, &traces(&name)).await;
            for (ordinal, log) in &self.logs {
                let bodies = log.0.lock().unwrap().clone();
                for body in bodies.into_iter().filter(|body| has(body, &name)) {
                    let request = ExportTraceServiceRequest::decode(body).unwrap();
                    let scopes = request.resource_spans.into_iter().flat_map(|entry| entry.scope_spans);
                    for span in scopes.flat_map(|scope| scope.spans) {
                        let before = owners.insert(span.trace_id, *ordinal);
                        assert!(before.is_none_or(|before| before == *ordinal), "{name}: a trace has two owners");
                    }
                }
            }
        }
        owners
    }

    /// What the API server's clock says, in seconds.
    async fn clock(&self) -> i64 {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), "mirador");
        let mut map = ConfigMap::default();
        map.metadata.name = Some("clock".to_owned());
        let would = PostParams { dry_run: true, ..PostParams::default() };
        maps.create(&would, &map).await.unwrap().metadata.creation_timestamp.unwrap().0.as_second()
    }
}

fn has(body: &Bytes, text: &str) -> bool {
    body.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Sends as a client does: again, byte for byte, until it is acknowledged.
async fn send(to: SocketAddr, body: &Bytes) {
    let begun = Instant::now();
    let client = client::client().unwrap();
    loop {
        let post = client.post(format!("http://{to}/v1/traces")).header("content-type", "application/x-protobuf");
        match post.body(body.clone()).send().await {
            Ok(answer) if answer.status().is_success() => return,
            Ok(answer) => assert!([429, 503].contains(&answer.status().as_u16()), "{answer:?}"),
            Err(error) => panic!("the agent itself is never away: {error}"),
        }
        assert!(begun.elapsed() < Duration::from_mins(5), "a client is answered for good in the end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Clients that send until they are told to stop; each returns the names of the spans that were acknowledged.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<BTreeSet<String>>>,
}

impl Load {
    fn start(agents: &[Agent; 2]) -> Self {
        let (stop, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let client = |index: usize| {
            let (to, stop, next) = (agents[index % 2].http, Arc::clone(&stop), Arc::clone(&next));
            tokio::spawn(async move {
                let mut names = BTreeSet::new();
                while !stop.load(Ordering::Relaxed) {
                    let body = central::spans(next.fetch_add(10, Ordering::Relaxed), 10);
                    send(to, &body).await;
                    names.extend(central::span_names(&body));
                    // A pace that leaves the machine to the control plane.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                names
            })
        };
        Self { clients: (0..8).map(client).collect(), stop }
    }

    async fn stop(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut names = BTreeSet::new();
        for client in self.clients {
            names.extend(client.await.unwrap());
        }
        names
    }
}

/// Everything; returns what came of it.
async fn inside() -> String {
    let mut fleet = Fleet::start().await;
    let load = Load::start(&fleet.agents);
    scale_and_roll(&mut fleet).await;
    server_dies(&mut fleet).await;
    all_are_gone(&mut fleet).await;
    let acknowledged = load.stop().await;
    let mut arrived = BTreeSet::new();
    let mut count = 0;
    for body in fleet.logs.iter().flat_map(|(_, log)| log.0.lock().unwrap().clone()) {
        let names: Vec<String> =
            central::span_names(&body).into_iter().filter(|name| name.starts_with("span-")).collect();
        count += names.len();
        arrived.extend(names);
    }
    let lost: Vec<&String> = acknowledged.difference(&arrived).collect();
    assert!(lost.is_empty(), "{} acknowledged spans were lost: {:?}", lost.len(), lost.first());
    assert_eq!(arrived, acknowledged, "clients repeat until they are acknowledged");
    let mut replaced = 0;
    for agent in 0..2 {
        let total = async |what: &str| fleet.metric(agent, &format!("mirador_agent_{what}_items_total")).await;
        let (received, sent, refused) = (total("received").await, total("sent").await, total("refused").await);
        assert_eq!(total("dropped").await, 0);
        assert_eq!(received, sent + refused, "every item is accounted for");
        assert!(refused > 0, "agent {agent}: clients were told to come back while there was no owner");
        replaced += fleet.metric(agent, "mirador_sender_replaced_items_total").await;
    }
    let repeated = count - arrived.len();
    // A runtime must not be dropped by one of its like.
    std::mem::take(&mut fleet.living).into_values().for_each(Owner::kill);
    format!(
        "under load: {} spans acknowledged and none lost; {repeated} were delivered again because an owner died before \
         it answered, {replaced} were placed again",
        acknowledged.len()
    )
}

async fn scale_and_roll(fleet: &mut Fleet) {
    let three = fleet.probe("three").await;
    fleet.cluster.scale(5).await;
    fleet.owners(5).await;
    let five = fleet.probe("five").await;
    let (ratio, to) = moved(&three, &five);
    assert!(to.iter().all(|owner| [3, 4].contains(owner)), "what moves, moves to the new ones: {to:?}");
    assert!((0.25..0.55).contains(&ratio), "two fifths move, not {ratio}");
    // Every pod is replaced, one after the other: no trace changes its owner.
    let before: BTreeSet<String> = fleet.living.keys().cloned().collect();
    let restart = ["rollout", "restart", "-n", "mirador", "statefulset/graph"];
    fleet.cluster.plane.kubectl(restart).await.unwrap();
    let new = async |fleet: &Fleet| fleet.living.len() == 5 && fleet.living.keys().all(|uid| !before.contains(uid));
    fleet.until("every pod is another one", new).await;
    fleet.owners(5).await;
    let rolled = fleet.probe("rolled").await;
    assert_eq!(moved(&five, &rolled).1, BTreeSet::new(), "a pod that is replaced keeps its traces");
    fleet.cluster.scale(2).await;
    fleet.owners(2).await;
    let two = fleet.probe("two").await;
    let stays = rolled.iter().filter(|(_, owner)| **owner < 2).all(|(trace, owner)| two[trace] == *owner);
    assert!(stays, "nothing moves but what has to");
}

/// The API server dies, and comes back to a service that has to change.
async fn server_dies(fleet: &mut Fleet) {
    let before = fleet.probe("before").await;
    fleet.cluster.plane.apiserver().kill().await.unwrap();
    for agent in 0..2 {
        let failing = async |fleet: &Fleet| fleet.metric(agent, "mirador_kubernetes_watch_errors_total").await > 0;
        fleet.until("the watch fails", failing).await;
    }
    assert_eq!(fleet.probe("headless").await, before, "who is known is kept");
    fleet.cluster.plane.restart_apiserver().await.unwrap();
    fleet.cluster.scale(3).await;
    fleet.owners(3).await;
}

/// All are gone for twenty seconds: clients are told to come back, and nothing is lost.
async fn all_are_gone(fleet: &mut Fleet) {
    let before = fleet.probe("full").await;
    fleet.cluster.scale(0).await;
    fleet.until("no pod is left", async |fleet: &Fleet| fleet.living.is_empty()).await;
    let since = fleet.clock().await;
    let given_up = async |fleet: &Fleet| fleet.metric(0, "otelcol_loadbalancer_num_backends").await == 0;
    fleet.until("the first agent has given up its owners", given_up).await;
    let gone = async |fleet: &Fleet| fleet.clock().await >= since + 20;
    fleet.until("they have been gone for twenty seconds", gone).await;
    assert!(fleet.metric(1, "otelcol_loadbalancer_num_backends").await > 0, "the second keeps the last for its grace");
    for agent in 0..2 {
        assert!(fleet.metric(agent, "mirador_sender_empty_endpoints_held_total").await > 0, "it is counted");
    }
    fleet.cluster.scale(3).await;
    fleet.owners(3).await;
    assert_eq!(fleet.probe("back").await, before, "who is back has what it had");
}
