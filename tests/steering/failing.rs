//! What fails leaves connections to their original destination.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use anyhow::{Result, ensure};
use mirador_support::backends::client::until;
use mirador_support::rig::{Class, Driver, programs_in_kernel, remake_pods_cgroup};
use serde_json::json;

use crate::{CLIENT, WAIT, counted, rig, until_answered, until_metric, who};

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_hangs_is_passed_by_until_it_is_back() -> Result<()> {
    let Some((mut rig, _gateway)) = rig(Driver::Systemd) else { return Ok(()) };
    let agent = rig.agent(json!({"heartbeat_max_age": "500ms"}), None).await?;
    let pod = rig.pod(Class::Burstable)?;
    until_answered(&pod, "agent").await?;
    agent.pause();
    until_answered(&pod, "gateway").await?;
    agent.resume();
    until_answered(&pod, "agent").await?;
    until("connects that the heartbeat has passed to be counted", WAIT, async || {
        let labels = [("reason", "stale_heartbeat")];
        Ok((agent.metric("mirador_steering_passed_total", &labels).await? > 0.0).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_drains_sends_new_connections_on_and_leaves_nothing_attached() -> Result<()> {
    let Some((mut rig, _gateway)) = rig(Driver::Systemd) else { return Ok(()) };
    let mut agent = rig.agent(json!({}), None).await?;
    let pod = rig.pod(Class::Burstable)?;
    ensure!(!programs_in_kernel()?.is_empty());
    ensure!(who(&pod, "203.0.113.9", 4317)? == "agent");
    agent.stop().await?;
    ensure!(who(&pod, "203.0.113.9", 4317)? == "gateway");
    ensure!(programs_in_kernel()?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cgroup_that_is_made_anew_is_attached_to_again() -> Result<()> {
    let Some((mut rig, _gateway)) = rig(Driver::Systemd) else { return Ok(()) };
    let agent = rig.agent(json!({}), None).await?;
    let pod = rig.pod(Class::Burstable)?;
    ensure!(who(&pod, "203.0.113.9", 4317)? == "agent");
    remake_pods_cgroup(&rig)?;
    pod.make_again()?;
    until_metric(&agent, "mirador_steering_reattached_total", &[], 1.0).await?;
    until_answered(&pod, "agent").await?;
    until_metric(&agent, "mirador_steering_state", &[("state", "attached")], 1.0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_passed_on_byte_by_byte_and_the_next_connect_goes_straight_to_the_gateway() -> Result<()> {
    let Some((mut rig, gateway)) = rig(Driver::Systemd) else { return Ok(()) };
    let agent = rig.agent(json!({}), None).await?;
    let (pod, other) = (rig.pod(Class::Burstable)?, rig.pod(Class::Burstable)?);
    let found = pod.python(CLIENT, &["tls", "203.0.113.9", "4317"])?;
    ensure!(found == "gateway" && gateway.accepted() == 1, "{found}");
    ensure!(who(&pod, "203.0.113.9", 4317)? == "gateway");
    ensure!(who(&pod, "203.0.113.9", 4318)? == "agent", "another destination of this pod");
    ensure!(who(&other, "203.0.113.9", 4317)? == "agent", "another pod");
    until_metric(&agent, "mirador_steering_tls_passed_on_total", &[], 1.0).await?;
    until_metric(&agent, "mirador_steering_passed_total", &[("reason", "tls")], 1.0).await?;
    counted(&agent, 4.0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_are_exactly_what_the_clients_have_done() -> Result<()> {
    let Some((mut rig, gateway)) = rig(Driver::Cgroupfs) else { return Ok(()) };
    let agent = rig.agent(json!({"destinations": {"leave": ["2001:db8::/32"]}}), None).await?;
    let pods = [rig.pod(Class::Burstable)?, rig.pod(Class::BestEffort)?, rig.pod(Class::Guaranteed)?];
    let storms = pods.iter().flat_map(|pod| [(pod, "203.0.113.9"), (pod, "2001:db8:213::9")]);
    let storms: Vec<_> = storms
        .map(|(pod, address)| {
            let mut command = pod.command("python3");
            command.args(["-c", CLIENT, "storm", address, "4317", "500", "4"]).stdout(Stdio::piped()).spawn()
        })
        .collect::<std::io::Result<_>>()?;
    for storm in storms {
        let mut line = String::new();
        let output = storm.wait_with_output()?;
        BufReader::new(&output.stdout[..]).read_line(&mut line)?;
        ensure!(line.contains("500"), "every connect was answered by one: {line}");
    }
    counted(&agent, 3000.0).await?;
    for pod in &pods {
        for outcome in ["redirected", "destination"] {
            let labels = [("pod", pod.uid.as_str()), ("outcome", outcome)];
            until_metric(&agent, "mirador_steering_pod_connects_total", &labels, 500.0).await?;
        }
    }
    until_metric(&agent, "mirador_steering_accepted_total", &[("caller", "pod")], 1500.0).await?;
    until_metric(&agent, "mirador_steering_accepted_total", &[], 1500.0).await?;
    ensure!(gateway.accepted() == 1500);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_anothers_sockhash_owns_is_steered_and_answered() -> Result<()> {
    let Some((mut rig, gateway)) = rig(Driver::Systemd) else { return Ok(()) };
    let agent = rig.agent(json!({}), None).await?;
    let pod = rig.pod(Class::Burstable)?;
    let found = pod.python(CLIENT, &["owned", "203.0.113.9", "4317"])?;
    ensure!(found == json!({"owned": true, "who": "agent", "peer": ["203.0.113.9", 4317]}), "{found}");
    ensure!(gateway.accepted() == 0);
    counted(&agent, 1.0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_counters_of_a_pod_end_after_the_pod_and_are_never_taken_back() -> Result<()> {
    let Some((mut rig, _gateway)) = rig(Driver::Cgroupfs) else { return Ok(()) };
    let agent = rig.agent(json!({}), None).await?;
    let (gone, stays) = (rig.pod(Class::Burstable)?, rig.pod(Class::Guaranteed)?);
    for pod in [&gone, &stays] {
        ensure!(who(pod, "203.0.113.9", 4317)? == "agent");
        until_metric(&agent, "mirador_steering_pod_connects_total", &[("pod", &pod.uid)], 1.0).await?;
    }
    gone.remove();
    until("the series of the pod that is gone to end", WAIT, async || {
        Ok((!agent.page().await?.contains(&gone.uid)).then_some(()))
    })
    .await?;
    until_metric(&agent, "mirador_steering_pod_connects_total", &[("pod", &stays.uid)], 1.0).await?;
    counted(&agent, 2.0).await
}
