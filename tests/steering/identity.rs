//! Who is calling: known or unknown, never somebody else.

use std::collections::HashSet;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mirador_service::drain::Drain;
use mirador_service::memory::{Budget, MemoryConfig};
use mirador_service::metrics::Registry;
use mirador_support::backends::client::until;
use mirador_support::backends::install_blocking;
use mirador_support::rig::{Class, Driver, Pod};
use mirador_transport::receiver::{self, Receiver};
use mirador_transport::{Accepted, Consume, Incoming, Kind, Refusal};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinHandle;

use crate::{CLIENT, WAIT, counted, rig, until_metric, who};

/// Sends spans with a stock SDK over gRPC and over HTTP, one connection each time.
const SDK: &str = include_str!("sdk.py");
/// Many pods at one time.
const CROWD: &str = include_str!("crowd.py");

/// An owner that keeps what it gets: service, pod and container of each span.
#[derive(Debug, Default, Clone)]
struct Owner {
    spans: Arc<Mutex<Vec<[String; 3]>>>,
}

impl Consume for Owner {
    async fn consume(&self, incoming: Incoming) -> Result<Accepted, Refusal> {
        let request = ExportTraceServiceRequest::decode(incoming.body).unwrap_or_default();
        let mut spans = self.spans.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for resource in request.resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            let of = |name: &str| {
                let found = attributes.iter().find(|pair| pair.key == name);
                match found.and_then(|pair| pair.value.as_ref()?.value.as_ref()) {
                    Some(Any::StringValue(text)) => text.clone(),
                    _ => String::new(),
                }
            };
            let labels = [of("service.name"), of("k8s.pod.uid"), of("container.id")];
            let count: usize = resource.scope_spans.iter().map(|scope| scope.spans.len()).sum();
            spans.extend(std::iter::repeat_n(labels, count));
        }
        Ok(Accepted::default())
    }
}

impl Owner {
    async fn start() -> Result<(Self, std::net::SocketAddr, JoinHandle<()>)> {
        let mut config = receiver::Config::default();
        "127.0.0.1:0".clone_into(&mut config.protocols.grpc.endpoint);
        "127.0.0.1:0".clone_into(&mut config.protocols.http.endpoint);
        let budget = Budget::from_config(&MemoryConfig::default())?;
        let receiver = Receiver::bind(config, budget, &Registry::new(), Drain::new(Duration::ZERO)).await?;
        let (address, owner) = (receiver.grpc_addr(), Self::default());
        let task = receiver.serve(Arc::new(owner.clone()), &Kind::ALL);
        Ok((owner, address, task))
    }

    fn spans(&self) -> Vec<[String; 3]> {
        self.spans.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_of_stock_sdks_carry_the_pod_and_container_that_sent_them() -> Result<()> {
    let Some((mut rig, _gateway)) = rig(Driver::Systemd) else { return Ok(()) };
    let (owner, address, _task) = Owner::start().await?;
    let agent = rig.agent(json!({}), Some(address)).await?;
    let pods: Vec<Pod> = (0..3).map(|_| rig.pod(Class::Burstable)).collect::<Result<_>>()?;
    let python = install_blocking("app-python").await?;
    let python = python.to_str().context("a path of UTF-8")?;
    for (number, pod) in pods.iter().enumerate() {
        for protocol in ["grpc", "http"] {
            let mut sdk = pod.command_below(if number == 1 { "nested/deeper" } else { "" }, python);
            let name = format!("{}-{protocol}", pod.uid);
            let output = sdk.args(["-c", SDK, protocol, &name, "20", ""]).output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    let other = pods[0].command(python).args(["-c", SDK, "http", "other", "5", "k8s.pod.uid=somebody"]).output()?;
    ensure!(other.status.success(), "{}", String::from_utf8_lossy(&other.stderr));
    until("all spans to arrive", WAIT, async || Ok((owner.spans().len() == 125).then_some(()))).await?;
    for [service, pod_uid, container] in owner.spans() {
        if service == "other" {
            ensure!(pod_uid == "somebody" && container.is_empty(), "what speaks of another pod is left as it is");
            continue;
        }
        let pod = pods.iter().find(|pod| service.starts_with(&pod.uid)).context(service.clone())?;
        ensure!(pod_uid == pod.uid && container == pod.container, "{service}: {pod_uid}, {container}");
    }
    until_metric(&agent, "mirador_steering_accepted_total", &[("caller", "unknown")], 0.0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_is_ever_taken_for_another_pods_under_churn() -> Result<()> {
    let Some((mut rig, _gateway)) = rig(Driver::Cgroupfs) else { return Ok(()) };
    let agent = rig.agent(json!({}), None).await?;
    let pods: Vec<Pod> = (0..8).map(|_| rig.pod(Class::BestEffort)).collect::<Result<_>>()?;
    let storms: Vec<_> = pods
        .iter()
        .enumerate()
        .map(|(number, pod)| {
            let count = (200 * (number + 1)).to_string();
            let mut command = pod.command("python3");
            command.args(["-c", CLIENT, "storm", "203.0.113.9", "4317", &count, "4"]);
            command.stdout(Stdio::null()).spawn()
        })
        .collect::<std::io::Result<_>>()?;
    for mut storm in storms {
        ensure!(storm.wait()?.success());
    }
    for (number, pod) in pods.iter().enumerate() {
        let labels = [("pod", pod.uid.as_str()), ("outcome", "redirected")];
        let count = 200.0 * (number as f64 + 1.0);
        until_metric(&agent, "mirador_steering_pod_connects_total", &labels, count).await?;
    }
    until_metric(&agent, "mirador_steering_accepted_total", &[("caller", "pod")], 7200.0).await?;
    until_metric(&agent, "mirador_steering_accepted_total", &[], 7200.0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cgroup_without_a_pods_name_is_unknown_and_a_caller_from_outside_is_nobody() -> Result<()> {
    let Some((mut rig, _gateway)) = rig(Driver::Systemd) else { return Ok(()) };
    let agent = rig.agent(json!({}), None).await?;
    let pod = rig.pod(Class::Burstable)?;
    let stranger = rig.pods_path().join("stranger.slice");
    std::fs::create_dir(&stranger)?;
    let entered = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", stranger.display());
    let port = agent.grpc.to_string();
    let output = std::process::Command::new("sh")
        .args(["-c", &entered, "sh", "python3", "-c", CLIENT, "connect", "203.0.113.9", "4317"])
        .output()?;
    ensure!(String::from_utf8_lossy(&output.stdout).contains("agent"), "{output:?}");
    until_metric(&agent, "mirador_steering_accepted_total", &[("caller", "unknown")], 1.0).await?;
    let outside =
        std::process::Command::new("python3").args(["-c", CLIENT, "connect", "10.213.0.1", &port]).output()?;
    ensure!(String::from_utf8_lossy(&outside.stdout).contains("agent"), "{outside:?}");
    until_metric(&agent, "mirador_steering_accepted_total", &[("caller", "none")], 1.0).await?;
    // A pod that dials the node itself is known all the same, and counted as nothing to steer.
    ensure!(who(&pod, "203.0.113.9", 4317)? == "agent");
    until_metric(&agent, "mirador_steering_accepted_total", &[("caller", "pod")], 1.0).await
}

/// Runs the crowd's script over `pods` and checks that nothing has failed.
async fn crowd(words: &[&str], pods: &[Pod], on_node: bool) -> Result<Value> {
    let listed: Vec<Value> = pods
        .iter()
        .map(|pod| {
            let namespace = (!on_node).then(|| pod.namespace());
            json!({"uid": pod.uid, "cgroup": pod.cgroup(), "namespace": namespace})
        })
        .collect();
    let mut command = tokio::process::Command::new("python3");
    command.args(["-c", CROWD]).args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().context("a pipe")?;
    stdin.write_all(json!(listed).to_string().as_bytes()).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    ensure!(output.status.success(), "the script has failed");
    let found: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(found["errors"] == json!([]), "{found}");
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_pods_with_twenty_connections_at_once_are_each_known_for_who_they_are() -> Result<()> {
    const PODS: usize = 200;
    const CONNECTIONS: usize = 20;
    let Some((mut rig, _gateway)) = rig(Driver::Systemd) else { return Ok(()) };
    let (owner, address, _task) = Owner::start().await?;
    let pods: Vec<Pod> = (0..PODS)
        .map(|number| rig.pod([Class::Burstable, Class::BestEffort, Class::Guaranteed][number % 3]))
        .collect::<Result<_>>()?;
    let connections = json!({"max_connections": 8192, "connection_memory_mib": 1024});
    let config = json!({"receiver": {"connections": connections}});
    let agent = rig.agent_with(json!({}), config, Some(address)).await?;
    let found = crowd(&["all", &CONNECTIONS.to_string()], &pods, false).await?;
    ensure!(found["answered"] == PODS * CONNECTIONS, "{found}");
    let all = PODS * CONNECTIONS;
    until("every span to arrive", WAIT, async || Ok((owner.spans().len() == all).then_some(()))).await?;
    let mut seen = HashSet::new();
    for [service, pod_uid, container] in owner.spans() {
        let (uid, _) = service.split_once(' ').context(service.clone())?;
        let pod = pods.iter().find(|pod| pod.uid == uid).context(service.clone())?;
        ensure!(pod_uid == pod.uid && container == pod.container, "{service}: {pod_uid}, {container}");
        ensure!(seen.insert(service.clone()), "{service} came twice");
    }
    until_metric(&agent, "mirador_steering_accepted_total", &[("caller", "pod")], all as f64).await?;
    until_metric(&agent, "mirador_steering_lost_identities_total", &[], 0.0).await?;
    counted(&agent, all as f64).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_connections_that_reuse_ports_never_show_another_pods_identity() -> Result<()> {
    const COUNT: usize = 100_000;
    const EVERY: usize = 50;
    let Some((mut rig, _gateway)) = rig(Driver::Cgroupfs) else { return Ok(()) };
    let (owner, address, _task) = Owner::start().await?;
    let pods = [rig.pod(Class::Burstable)?, rig.pod(Class::Guaranteed)?];
    let agent = rig.agent(json!({}), Some(address)).await?;
    // On the node's own network: both have the same address, and so the same four addresses again and again.
    let found = crowd(&["reuse", &COUNT.to_string(), &EVERY.to_string()], &pods, true).await?;
    let (connects, spans) = (COUNT + COUNT / 10, (COUNT + COUNT / 10) / EVERY);
    ensure!(found["answered"] == spans && found["connects"] == connects, "{found}");
    until("every span to arrive", WAIT, async || Ok((owner.spans().len() == spans).then_some(()))).await?;
    for [service, pod_uid, container] in owner.spans() {
        let pod = pods.iter().find(|pod| service.starts_with(&pod.uid)).context(service.clone())?;
        ensure!(pod_uid == pod.uid && container == pod.container, "{service}: {pod_uid}, {container}");
    }
    for (pod, count) in pods.iter().zip([COUNT, COUNT / 10]) {
        let labels = [("pod", pod.uid.as_str()), ("outcome", "redirected")];
        // A connect that found its port taken was made, and was made again.
        until("every connect to be counted", WAIT, async || {
            let counted = agent.metric("mirador_steering_pod_connects_total", &labels).await?;
            Ok((counted >= count as f64).then_some(()))
        })
        .await?;
    }
    until_metric(&agent, "mirador_steering_accepted_total", &[("caller", "unknown")], 0.0).await?;
    until_metric(&agent, "mirador_steering_accepted_total", &[("caller", "none")], 0.0).await
}
