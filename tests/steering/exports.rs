//! What is exported through steering is what would have been exported without it, also while agents come
//! and go: every export once, or again where its answer was lost.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use mirador_service::drain::Drain;
use mirador_service::memory::{Budget, MemoryConfig};
use mirador_service::metrics::Registry;
use mirador_support::load::exports::request;
use mirador_support::rig::{Agent, Class, Driver, Pod};
use mirador_transport::receiver::{self, Receiver};
use mirador_transport::{Accepted, Consume, Incoming, Kind, Refusal};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

const EXPORTER: &str = env!("CARGO_BIN_EXE_mirador-test-exporter");
const EXPORTS: u32 = 10_000;
const CONNECTIONS: u32 = 8;
/// How long an agent lives.
const LIFE: Duration = Duration::from_secs(2);

/// The gateway: an OTLP receiver at the address that applications send to, which also takes what the agent
/// forwards.
#[derive(Debug, Default)]
struct Gateway {
    /// Each span's resource, scope and own fields as they came, and how often.
    spans: Mutex<BTreeMap<Bytes, usize>>,
    through_agents: AtomicUsize,
}

impl Consume for Gateway {
    async fn consume(&self, incoming: Incoming) -> Result<Accepted, Refusal> {
        let request = ExportTraceServiceRequest::decode(incoming.body).unwrap_or_default();
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in request.resource_spans {
            *spans.entry(entry.encode_to_vec().into()).or_default() += 1;
            if incoming.via_agent.is_some() {
                self.through_agents.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(Accepted::default())
    }
}

impl Gateway {
    async fn start() -> Result<(Arc<Self>, JoinHandle<()>)> {
        let mut config = receiver::Config::default();
        "203.0.113.9:4317".clone_into(&mut config.protocols.grpc.endpoint);
        "203.0.113.9:4318".clone_into(&mut config.protocols.http.endpoint);
        let budget = Budget::from_config(&MemoryConfig::default())?;
        let receiver = Receiver::bind(config, budget, &Registry::new(), Drain::new(Duration::ZERO)).await?;
        let gateway = Arc::new(Self::default());
        let task = receiver.serve(Arc::clone(&gateway), &Kind::ALL);
        Ok((gateway, task))
    }

    /// Everything since the last call, and how much of it agents have forwarded.
    fn take(&self) -> (BTreeMap<Bytes, usize>, usize) {
        let spans = std::mem::take(&mut *self.spans.lock().unwrap_or_else(PoisonError::into_inner));
        (spans, self.through_agents.swap(0, Ordering::Relaxed))
    }
}

fn start(pod: &Pod, way: &str) -> Result<Child> {
    let port = if way == "grpc" { 4317 } else { 4318 };
    let mut command = Command::from(pod.command(EXPORTER));
    command.args([format!("203.0.113.9:{port}"), way.to_owned(), EXPORTS.to_string(), CONNECTIONS.to_string()]);
    Ok(command.stdout(Stdio::piped()).kill_on_drop(true).spawn()?)
}

async fn finish(exporter: Child) -> Result<u64> {
    let output = exporter.wait_with_output().await?;
    ensure!(output.status.success(), "the exporter has given up");
    String::from_utf8_lossy(&output.stdout).trim().parse().context("the number of attempts")
}

/// The whole of it for one way: direct, through one agent, through agents that are killed.
async fn the_same_arrives(way: &str) -> Result<()> {
    let Some((mut rig, gateway)) = crate::rig(Driver::Systemd) else { return Ok(()) };
    drop(gateway);
    let (gateway, _task) = Gateway::start().await?;
    let pod = rig.pod(Class::Burstable)?;
    finish(start(&pod, way)?).await?;
    let (direct, through_agents) = gateway.take();
    ensure!(through_agents == 0 && direct.len() == EXPORTS as usize && direct.values().all(|times| *times == 1));
    let content: BTreeMap<Bytes, usize> = (0..EXPORTS)
        .flat_map(|number| request(number).resource_spans)
        .map(|entry| (Bytes::from(entry.encode_to_vec()), 1))
        .collect();
    ensure!(direct == content, "what arrives is what was made");

    let owner: SocketAddr = "203.0.113.9:4317".parse()?;
    let steering = json!({"identity": {"attributes": []}, "heartbeat_max_age": "10s"});
    let mut agent = rig.agent(steering, Some(owner)).await?;
    finish(start(&pod, way)?).await?;
    let (steered, through_agents) = gateway.take();
    ensure!(steered == direct && through_agents == EXPORTS as usize, "{through_agents} through the agent");

    let lives = lives(&mut agent, start(&pod, way)?).await?;
    let (steered, through_agents) = gateway.take();
    ensure!(steered.keys().eq(direct.keys()), "{} of {} arrived", steered.len(), direct.len());
    ensure!(lives >= 1 && through_agents > 0, "{lives} agents, {through_agents} exports through them");
    agent.stop().await
}

/// Kills the agent again and again until the exporter is done; returns how often.
async fn lives(agent: &mut Agent, exporter: Child) -> Result<usize> {
    let mut exporting = tokio::spawn(finish(exporter));
    let mut lives = 0;
    loop {
        let done = timeout_at(Instant::now() + LIFE, &mut exporting).await;
        if let Ok(done) = done {
            done??;
            return Ok(lives);
        }
        agent.kill().await?;
        lives += 1;
        agent.restart().await?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_exports_by_grpc_arrive_as_without_steering_while_agents_come_and_go() -> Result<()> {
    Box::pin(the_same_arrives("grpc")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_exports_over_kept_http_connections_arrive_as_without_steering_while_agents_come_and_go()
-> Result<()> {
    Box::pin(the_same_arrives("http1")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_exports_by_http_2_from_the_first_byte_arrive_as_without_steering_while_agents_come_and_go()
-> Result<()> {
    Box::pin(the_same_arrives("http2")).await
}
