//! Scope: ports, destinations, pods; and the agent's own connections.

use anyhow::{Result, ensure};
use mirador_support::backends::client::until;
use mirador_support::rig::{Class, Driver};
use serde_json::json;

use crate::{CLIENT, WAIT, counted, rig, until_answered, until_metric, who};

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_prefix_that_holds_decides_about_a_destination() -> Result<()> {
    let Some((mut rig, _gateway)) = rig(Driver::Systemd) else { return Ok(()) };
    let pod = rig.pod(Class::Burstable)?;
    let cases = [
        (json!({"leave": ["203.0.113.0/24"]}), "gateway", "agent"),
        (json!({"leave": ["203.0.113.0/24"], "steer": ["203.0.113.9"]}), "agent", "gateway"),
        (json!({"steer": ["203.0.113.0/24"], "leave": ["203.0.113.8/30"]}), "gateway", "gateway"),
        (json!({"steer": ["2001:db8::/32"]}), "gateway", "agent"),
        (json!({"leave": ["0.0.0.0/0"], "steer": ["203.0.0.0/8", "2001:db8:213::9"]}), "agent", "agent"),
        (
            json!({"leave": ["203.0.113.0/24", "2001:db8:213::9"], "steer": ["203.0.0.0/8", "::/0"]}),
            "gateway",
            "gateway",
        ),
        (json!({"steer": ["203.0.0.0/8"], "leave": ["203.0.112.0/20", "::/0"]}), "gateway", "gateway"),
        (
            json!({"steer": ["0.0.0.0/0", "203.0.113.9"], "leave": ["203.0.113.0/24", "203.0.113.8"]}),
            "agent",
            "gateway",
        ),
        (json!({"steer": ["::ffff:203.0.113.9"]}), "agent", "gateway"),
    ];
    for (destinations, v4, v6) in cases {
        let mut agent = rig.agent(json!({"destinations": destinations}), None).await?;
        let found = pod.python(CLIENT, &["connect", "203.0.113.9", "4317", "2001:db8:213::9", "4317"])?;
        ensure!(found[0]["who"] == v4 && found[1]["who"] == v6, "{destinations}: {found}");
        counted(&agent, 2.0).await?;
        agent.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_that_are_configured_are_steered_and_no_others() -> Result<()> {
    let Some((mut rig, _gateway)) = rig(Driver::Systemd) else { return Ok(()) };
    let agent = rig.agent(json!({"ports": {"grpc": [4319], "http": [4318]}}), None).await?;
    let pod = rig.pod(Class::Burstable)?;
    for (port, whom) in [(4317, "gateway"), (4318, "agent"), (4319, "agent")] {
        let found = who(&pod, "203.0.113.9", port)?;
        ensure!(found == whom, "{port}: {found}");
    }
    counted(&agent, 2.0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_left_alone_by_their_uid_or_steered_only_by_it() -> Result<()> {
    let Some((mut rig, _gateway)) = rig(Driver::Cgroupfs) else { return Ok(()) };
    let (one, other) = (rig.pod(Class::Burstable)?, rig.pod(Class::Guaranteed)?);
    let mut agent = rig.agent(json!({"pods": {"leave": [one.uid]}}), None).await?;
    until_answered(&one, "gateway").await?;
    ensure!(who(&other, "203.0.113.9", 4317)? == "agent");
    until("a pod that is left alone to be counted so", WAIT, async || {
        let labels = [("pod", one.uid.as_str()), ("outcome", "pod")];
        Ok((agent.metric("mirador_steering_pod_connects_total", &labels).await? > 0.0).then_some(()))
    })
    .await?;
    agent.stop().await?;
    let _agent = rig.agent(json!({"pods": {"mode": "listed", "steer": [one.uid]}}), None).await?;
    until_answered(&one, "agent").await?;
    ensure!(who(&other, "203.0.113.9", 4317)? == "gateway");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_among_the_pods_never_calls_itself() -> Result<()> {
    let Some((mut rig, gateway)) = rig(Driver::Systemd) else { return Ok(()) };
    let (home, pod) = (rig.pod(Class::Guaranteed)?, rig.pod(Class::Burstable)?);
    // Its exporter keeps connecting to the steered port of the gateway, which answers with nonsense.
    let owner = "203.0.113.9:4317".parse()?;
    let agent = rig.agent_in(&home, json!({}), Some(owner)).await?;
    until("the agent's own connects to be passed", WAIT, async || {
        Ok((agent.metric("mirador_steering_passed_total", &[("reason", "own")]).await? >= 3.0).then_some(()))
    })
    .await?;
    ensure!(gateway.accepted() > 0, "the agent's connects reach the gateway");
    ensure!(who(&pod, "203.0.113.9", 4317)? == "agent", "and those of pods reach the agent");
    until_metric(&agent, "mirador_steering_redirected_total", &[], 1.0).await
}
