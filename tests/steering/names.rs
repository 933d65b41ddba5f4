//! Rules by name: Services, namespaces, labels, followed live from an API server.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use mirador_support::rig::{Class, Driver, Pod, agent_program};
use serde_json::{Value, json};

use crate::api_server::ApiServer;
use crate::{rig, until_answered, until_metric, who};

const SERVICES: &str = "/api/v1/services";
const PODS: &str = "/api/v1/pods";

/// Asks twice over one connection, the second time when a line comes in.
const HOLD: &str = "
import http.client, sys
connection = http.client.HTTPConnection('203.0.113.9', 4318, timeout=60)
connection.connect()
connection.auto_open = 0
for _ in range(2):
    connection.request('GET', '/nothing')
    answer = connection.getresponse()
    answer.read()
    print(answer.status, flush=True)
    sys.stdin.readline()
";

/// An API server, and the section that leads to it.
async fn server(folder: &std::path::Path) -> Result<(ApiServer, Value)> {
    let server = ApiServer::start().await;
    let (kubeconfig, token) = (folder.join("kubeconfig"), folder.join("token"));
    std::fs::write(&token, "token")?;
    std::fs::write(&kubeconfig, server.kubeconfig(&token))?;
    let section = json!({"api": {"auth_type": "kubeConfig", "kubeconfig": kubeconfig}, "node": "node-1"});
    Ok((server, section))
}

fn service(addresses: &[&str]) -> Value {
    let first = addresses.first().copied().unwrap_or("None");
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "monitoring"},
        "spec": {"clusterIP": first, "clusterIPs": addresses}})
}

fn pod_object(pod: &Pod, namespace: &str, labels: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "uid": pod.uid, "labels": labels},
        "spec": {"nodeName": "node-1"}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_service_is_steered_at_the_addresses_that_it_has_and_existing_connections_stay() -> Result<()> {
    let Some((mut rig, _gateway)) = rig(Driver::Systemd) else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let (server, kubernetes) = server(folder.path()).await?;
    server.apply(SERVICES, "collector", service(&["203.0.113.77"]));
    server.apply(SERVICES, "another", service(&["203.0.113.9"]));
    let steering = json!({"kubernetes": kubernetes, "destinations": {"services": {"steer": ["monitoring/collector"]}}});
    let mut agent = rig.agent(steering, None).await?;
    let pod = rig.pod(Class::Burstable)?;
    until_metric(&agent, "mirador_steering_rules", &[("kind", "destination")], 1.0).await?;
    ensure!(who(&pod, "203.0.113.9", 4317)? == "gateway", "no rule names this destination");

    server.apply(SERVICES, "collector", service(&["203.0.113.9", "2001:db8:213::9"]));
    until_answered(&pod, "agent").await?;
    ensure!(who(&pod, "2001:db8:213::9", 4317)? == "agent");
    let output =
        Command::new(agent_program()?).args(["steering", "status", "--config"]).arg(agent.config()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    for line in [
        "rule  steer  destination 203.0.113.9/32",
        "rule  steer  Service monitoring/collector: [203.0.113.9, 2001:db8:213::9]",
        "rule  leave  every other destination",
        "rule  steer  every other pod",
    ] {
        ensure!(text.contains(line), "{line}: {text}");
    }

    let mut held = pod.command("python3").args(["-c", HOLD]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut answers = BufReader::new(held.stdout.take().context("a pipe")?).lines();
    ensure!(answers.next().context("the agent's answer")?? == "404");
    server.delete(SERVICES, "collector");
    until_answered(&pod, "gateway").await?;
    held.stdin.take().context("a pipe")?.write_all(b"\n\n")?;
    ensure!(answers.next().context("the agent's second answer")?? == "404", "its connection is where it was");
    ensure!(held.wait()?.success());
    until_metric(&agent, "mirador_steering_rules", &[("kind", "destination")], 0.0).await?;
    agent.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_of_a_service_stays_while_the_api_server_is_away() -> Result<()> {
    let Some((mut rig, _gateway)) = rig(Driver::Cgroupfs) else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let (mut server, kubernetes) = server(folder.path()).await?;
    server.apply(SERVICES, "collector", service(&["203.0.113.9"]));
    let steering = json!({"kubernetes": kubernetes, "destinations": {"services": {"leave": ["monitoring/collector"]}}});
    let mut agent = rig.agent(steering, None).await?;
    let pod = rig.pod(Class::Burstable)?;
    until_answered(&pod, "gateway").await?;
    server.kill().await;
    let failing = [("watch", "services/monitoring/collector")];
    mirador_support::backends::client::until("the watch to fail", crate::WAIT, async || {
        Ok((agent.metric("mirador_kubernetes_watch_errors_total", &failing).await? > 0.0).then_some(()))
    })
    .await?;
    ensure!(who(&pod, "203.0.113.9", 4317)? == "gateway");
    server.restart().await;
    server.apply(SERVICES, "collector", service(&[]));
    until_answered(&pod, "agent").await?;
    agent.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_left_alone_by_name_and_a_pods_own_label_counts_more() -> Result<()> {
    let Some((mut rig, _gateway)) = rig(Driver::Systemd) else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let (server, kubernetes) = server(folder.path()).await?;
    let (one, other) = (rig.pod(Class::Burstable)?, rig.pod(Class::Guaranteed)?);
    server.apply(PODS, "one", pod_object(&one, "dark", &json!({})));
    server.apply(PODS, "other", pod_object(&other, "bright", &json!({})));
    let labels = json!({"steer": ["mirador.io/steer=true"], "leave": ["mirador.io/steer=false"]});
    let pods = json!({"namespaces": {"leave": ["dark"]}, "labels": labels});
    let mut agent = rig.agent(json!({"kubernetes": kubernetes, "pods": pods}), None).await?;
    until_answered(&one, "gateway").await?;
    ensure!(who(&other, "203.0.113.9", 4317)? == "agent");
    server.apply(PODS, "one", pod_object(&one, "dark", &json!({"mirador.io/steer": "true"})));
    until_answered(&one, "agent").await?;
    server.apply(PODS, "other", pod_object(&other, "bright", &json!({"mirador.io/steer": "false"})));
    until_answered(&other, "gateway").await?;
    server.delete(PODS, "other");
    until_answered(&other, "agent").await?;
    agent.stop().await?;

    let pods = json!({"mode": "listed", "namespaces": {"steer": ["bright"]}});
    let mut agent = rig.agent(json!({"kubernetes": kubernetes, "pods": pods}), None).await?;
    ensure!(who(&other, "203.0.113.9", 4317)? == "gateway", "nobody names it");
    server.apply(PODS, "other", pod_object(&other, "bright", &json!({})));
    until_answered(&other, "agent").await?;
    ensure!(who(&one, "203.0.113.9", 4317)? == "gateway");
    agent.stop().await
}

#[tokio::test]
async fn names_without_a_way_to_the_api_server_are_refused_with_what_to_set() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("config.yaml");
    let steering = json!({"destinations": {"services": {"steer": ["monitoring/collector"]}}});
    std::fs::write(&file, json!({"steering": steering}).to_string())?;
    let output = Command::new(agent_program()?).args(["validate", "--config"]).arg(&file).output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(64), "{output:?}");
    ensure!(text.contains("steering.destinations.services") && text.contains("steering.kubernetes"), "{text}");
    Ok(())
}
