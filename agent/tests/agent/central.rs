//! A central that records what it acknowledges, on our own receiver, and a client that sends to an agent.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use mirador_agent::config::Config;
use mirador_agent::topology::{Agent, Report};
use mirador_otlp::Signal;
use mirador_otlp::splice::Part;
use mirador_proto::otlp::collector::trace::v1::ExportTraceServiceRequest;
use mirador_proto::otlp::common::v1::{AnyValue, KeyValue, any_value};
use mirador_proto::otlp::resource::v1::Resource;
use mirador_proto::otlp::trace::v1::{ResourceSpans, ScopeSpans, Span};
use mirador_service::drain::Drain;
use mirador_service::health::Health;
use mirador_service::memory::Budget;
use mirador_service::metrics::Registry;
use mirador_transport::receiver::Receiver;
use mirador_transport::sender::Destination;
use mirador_transport::sender::config::{Config as Exporter, ResolverConfig, StaticConfig};
use mirador_transport::{Accepted, Consume, Incoming, Kind, Refusal, receiver};
use prost::Message as _;
use tokio::sync::watch;
use tonic::Code;

pub(crate) const TRACES: Kind = Kind::Otlp(Signal::Traces);

/// One request that reached a central.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) kind: Kind,
    pub(crate) body: Bytes,
    pub(crate) via_agent: Option<String>,
    /// Whether it was acknowledged.
    pub(crate) accepted: bool,
}

/// What a central does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    Accept,
    Refuse(Code),
    /// Accepts once [`Central::release`] was called.
    Stall,
    /// Leaves out this many items for good.
    Reject(u64),
}

type Script = Box<dyn FnMut(&Call) -> Reply + Send>;

#[derive(Clone)]
struct Recorder {
    calls: Arc<Mutex<Vec<Call>>>,
    script: Arc<Mutex<Script>>,
    released: watch::Sender<bool>,
}

impl Consume for Recorder {
    async fn consume(&self, incoming: Incoming) -> Result<Accepted, Refusal> {
        let call = Call {
            kind: incoming.kind,
            body: incoming.body.clone(),
            via_agent: incoming.via_agent.clone(),
            accepted: false,
        };
        let reply = (self.script.lock().unwrap())(&call);
        let at = {
            let mut calls = self.calls.lock().unwrap();
            calls.push(Call { accepted: matches!(reply, Reply::Accept | Reply::Reject(_)), ..call });
            calls.len() - 1
        };
        match reply {
            Reply::Accept => Ok(Accepted::default()),
            Reply::Reject(items) => Ok(Accepted { rejected_items: items, message: "left out".to_owned() }),
            Reply::Refuse(code) => Err(Refusal {
                code,
                message: "scripted".to_owned(),
                retry_after: (code == Code::Unavailable).then_some(Duration::from_millis(10)),
                reason: "scripted",
            }),
            Reply::Stall => {
                self.released.subscribe().wait_for(|released| *released).await.unwrap();
                self.calls.lock().unwrap()[at].accepted = true;
                Ok(Accepted::default())
            }
        }
    }
}

pub(crate) struct Central {
    recorder: Recorder,
    name: String,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Central {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Central {
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0").await
    }

    /// Takes OTLP/gRPC at this address.
    pub(crate) async fn start_at(grpc: &str) -> Self {
        let mut config = receiver_config();
        grpc.clone_into(&mut config.protocols.grpc.endpoint);
        let receiver =
            Receiver::bind(config, Budget::new(256 << 20), &Registry::new(), Drain::new(Duration::from_secs(1)))
                .await
                .unwrap();
        let recorder = Recorder {
            calls: Arc::default(),
            script: Arc::new(Mutex::new(Box::new(|_| Reply::Accept))),
            released: watch::Sender::new(false),
        };
        let name = receiver.grpc_addr().to_string();
        let task = receiver.serve(Arc::new(recorder.clone()), &Kind::ALL);
        Self { recorder, name, task }
    }

    pub(crate) fn name(&self) -> String {
        self.name.clone()
    }

    pub(crate) fn script(&self, script: impl FnMut(&Call) -> Reply + Send + 'static) {
        *self.recorder.script.lock().unwrap() = Box::new(script);
    }

    pub(crate) fn always(&self, reply: Reply) {
        self.script(move |_| reply);
    }

    pub(crate) fn release(&self) {
        self.recorder.released.send_replace(true);
    }

    pub(crate) fn calls(&self, kind: Kind) -> Vec<Call> {
        self.recorder.calls.lock().unwrap().iter().filter(|call| call.kind == kind).cloned().collect()
    }

    /// The names of the spans that were acknowledged, with repetitions.
    pub(crate) fn spans(&self) -> Vec<String> {
        let accepted = self.calls(TRACES).into_iter().filter(|call| call.accepted);
        let mut names: Vec<String> = accepted.flat_map(|call| span_names(&call.body)).collect();
        names.sort();
        names
    }
}

pub(crate) fn receiver_config() -> receiver::Config {
    let mut config = receiver::Config::default();
    config.protocols.grpc.endpoint = String::from("127.0.0.1:0");
    config.protocols.http.endpoint = String::from("127.0.0.1:0");
    config
}

pub(crate) fn exporter(owners: &[&Central]) -> Exporter {
    let mut exporter = Exporter {
        resolver: ResolverConfig {
            fixed: Some(StaticConfig { hostnames: owners.iter().map(|owner| owner.name()).collect() }),
            dns: None,
            k8s: None,
        },
        ..Exporter::default()
    };
    exporter.retry_on_failure.initial_interval = Duration::from_millis(5);
    exporter.retry_on_failure.max_interval = Duration::from_millis(10);
    // Nothing here runs out of time unless a test says so, however busy the machine is.
    exporter.retry_on_failure.max_elapsed_time = Duration::from_mins(1);
    exporter.timeout = Duration::from_mins(1);
    exporter.connection.connect_timeout = Duration::from_mins(1);
    exporter.connection.max_probe_interval = Duration::from_millis(50);
    exporter
}

/// An agent that sends everything to `owners`.
pub(crate) fn agent_config(owners: &[&Central]) -> Config {
    let mut config = Config { agent_id: Some("node-1".to_owned()), receiver: receiver_config(), ..Config::default() };
    config.memory.limit_mib = Some(512);
    config.exporters.traces = Some(exporter(owners));
    config.exporters.metrics = Some(exporter(owners));
    config.exporters.logs = Some(exporter(owners));
    config.exporters.red = Some(exporter(owners));
    config.red.metrics_flush_interval = Duration::from_millis(100).into();
    config.telemetry.metrics.endpoint = String::from("127.0.0.1:0");
    config.health.endpoint = String::from("127.0.0.1:0");
    config.shutdown_grace = Duration::from_mins(1);
    config
}

/// An agent that gives up soon, so that its client has to repeat requests.
pub(crate) fn impatient(mut config: Config) -> Config {
    let exporters = &mut config.exporters;
    for exporter in [&mut exporters.traces, &mut exporters.red].into_iter().flatten() {
        exporter.retry_on_failure.max_elapsed_time = Duration::from_millis(60);
    }
    config
}

pub(crate) struct Running {
    pub(crate) registry: Registry,
    pub(crate) drain: Drain,
    pub(crate) http: std::net::SocketAddr,
    client: Destination,
    task: tokio::task::JoinHandle<anyhow::Result<Report>>,
}

impl Running {
    pub(crate) async fn start(config: Config) -> Self {
        let drain = Drain::new(config.shutdown_grace);
        let agent = Agent::build(config, drain.clone()).await.unwrap();
        let (registry, http) = (agent.registry().clone(), agent.http_addr());
        let mut exporter = Exporter::default();
        exporter.resolver.fixed = Some(StaticConfig { hostnames: vec![agent.grpc_addr().to_string()] });
        // The tests retry themselves, as a client does.
        exporter.retry_on_failure.enabled = false;
        exporter.timeout = Duration::from_mins(1);
        exporter.retry_on_failure.max_elapsed_time = Duration::from_mins(1);
        let client = Destination::start("client", exporter, &Registry::new(), &Health::new(), None).unwrap();
        Self { registry, drain, http, client, task: tokio::spawn(agent.run()) }
    }

    /// Sends one request, once, over gRPC.
    pub(crate) async fn send(&self, kind: Kind, body: Bytes) -> Result<Accepted, Refusal> {
        // A hint of the agent pauses the sender of this test too; a client of its own per call does not.
        let part = Part { owner: 0, bytes: body, items: 1 };
        let owners = self.client.owners();
        loop {
            match self.client.send(kind, &owners, vec![part.clone()], self.client.deadline()).await {
                Err(refusal) if refusal.reason == "owner_paused" => {
                    tokio::time::sleep(refusal.retry_after.unwrap()).await;
                }
                settled => return settled,
            }
        }
    }

    /// Sends as a client does: again, byte for byte, until the answer is final.
    pub(crate) async fn send_until_settled(&self, body: &Bytes) -> (usize, Result<Accepted, Refusal>) {
        for attempt in 1..500 {
            match self.send(TRACES, body.clone()).await {
                Err(refusal) if refusal.retry_after.is_some() || refusal.code == Code::Unavailable => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                settled => return (attempt, settled),
            }
        }
        panic!("a client is answered for good in the end");
    }

    /// The sum of every series whose name and labels start like this.
    pub(crate) fn metric(&self, start: &str) -> i64 {
        let page = self.registry.encode();
        let lines = page.lines().filter(|line| line.starts_with(start));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as i64).sum()
    }

    /// received - (sent + dropped + refused + in flight)
    pub(crate) fn imbalance(&self) -> i64 {
        self.metric("mirador_agent_received_items_total")
            - self.metric("mirador_agent_sent_items_total")
            - self.metric("mirador_agent_dropped_items_total")
            - self.metric("mirador_agent_refused_items_total")
            - self.metric("mirador_agent_in_flight_items")
    }

    pub(crate) async fn stop(self) -> Report {
        self.drain.start();
        self.task.await.unwrap().unwrap()
    }
}

pub(crate) fn attribute(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) }),
        ..KeyValue::default()
    }
}

/// A request with `count` spans of two services; span and trace ids are made of `first`, `first + 1`, …
pub(crate) fn spans(first: u32, count: u32) -> Bytes {
    let resource = |service: &str, ids: Vec<u32>| {
        let spans = ids.into_iter().map(|id| {
            let mut trace_id = [7; 16];
            trace_id[..4].copy_from_slice(&id.to_be_bytes());
            Span {
                trace_id: trace_id.to_vec(),
                span_id: u64::from(id + 1).to_be_bytes().to_vec(),
                name: format!("span-{id:06}"),
                kind: 2,
                start_time_unix_nano: 1_000_000_000,
                end_time_unix_nano: 1_000_000_000 + u64::from(id % 50) * 1_000_000,
                ..Span::default()
            }
        });
        ResourceSpans {
            resource: Some(Resource { attributes: vec![attribute("service.name", service)], ..Resource::default() }),
            scope_spans: vec![ScopeSpans { spans: spans.collect(), ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        }
    };
    let (even, odd) = (first..first + count).partition(|id| id % 2 == 0);
    ExportTraceServiceRequest { resource_spans: vec![resource("cart", even), resource("shop", odd)] }
        .encode_to_vec()
        .into()
}

pub(crate) fn span_names(body: &Bytes) -> Vec<String> {
    let request = ExportTraceServiceRequest::decode(body.clone()).unwrap();
    let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    let mut names: Vec<String> = scopes.flat_map(|scope| scope.spans).map(|span| span.name).collect();
    names.sort();
    names
}

/// Waits for a condition by polling, for at most a minute.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = tokio::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_mins(1), "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
