//! Faults of an agent under a thousand connects a second, counted.

use anyhow::{Result, ensure};
use mirador_support::backends::client::until;
use mirador_support::rig::{Class, Driver, programs_in_kernel};
use serde_json::json;

use crate::paced::Load;
use crate::{WAIT, rig, until_answered, until_redirected, who};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_refuses_nobody_under_a_thousand_connects_a_second_and_takes_over_again() -> Result<()> {
    let Some((mut rig, gateway)) = rig(Driver::Systemd) else { return Ok(()) };
    let mut agent = rig.agent(json!({}), None).await?;
    let pod = rig.pod(Class::Burstable)?;
    let load = Load::start(&pod)?;
    until_redirected(&agent, 1000.0).await?;
    agent.kill().await?;
    ensure!(who(&pod, "203.0.113.9", 4317)? == "gateway", "the next connect, without any waiting");
    let passed = gateway.accepted() + 500;
    until("the load to reach the gateway", WAIT, async || Ok((gateway.accepted() >= passed).then_some(()))).await?;
    ensure!(programs_in_kernel()?.is_empty(), "the kernel has detached what the agent had attached");
    agent.restart().await?;
    until_redirected(&agent, 500.0).await?;
    let counts = load.finish("kill -9")?;
    counts.refused_nobody()?;
    ensure!(counts.of("agent") >= 1400 && counts.of("gateway") >= 500, "{counts:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_agent_is_passed_by_under_load_and_nobody_is_refused_or_kept_waiting() -> Result<()> {
    let Some((mut rig, gateway)) = rig(Driver::Cgroupfs) else { return Ok(()) };
    let agent = rig.agent(json!({"heartbeat_max_age": "500ms"}), None).await?;
    let pod = rig.pod(Class::Burstable)?;
    until_answered(&pod, "agent").await?;
    let load = Load::start(&pod)?;
    until_redirected(&agent, 500.0).await?;
    let before = agent.metric("mirador_steering_redirected_total", &[]).await?;
    agent.pause();
    let passed = gateway.accepted() + 1000;
    until("the load to reach the gateway", WAIT, async || Ok((gateway.accepted() >= passed).then_some(()))).await?;
    agent.resume();
    until_redirected(&agent, before + 1000.0).await?;
    let counts = load.finish("SIGSTOP")?;
    // What had been sent to the agent while it hung waited for it, and was served.
    counts.refused_nobody()?;
    ensure!(counts.of("reset") == 0, "{counts:?}");
    until("every passed connect to be counted", WAIT, async || {
        let labels = [("reason", "stale_heartbeat")];
        Ok((agent.metric("mirador_steering_passed_total", &labels).await? >= 1000.0).then_some(()))
    })
    .await
}
