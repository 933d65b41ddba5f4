//! Pinned links and maps: what one agent leaves to the next, and what takes it out.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use mirador_support::backends::client::until;
use mirador_support::rig::{
    Agent, Class, Driver, NODE, Pod, agent_program, programs_in_kernel, programs_settled_at, remake_pods_cgroup,
};
use serde_json::json;

use crate::paced::{Counts, Load};
use crate::{WAIT, rig, until_answered, until_metric, until_redirected, who};

/// How many programs are attached with everything that steering can.
const PROGRAMS: usize = 5;

/// What `mirador-agent steering VERB` prints with the configuration of `agent`.
fn ask(agent: &Agent, verb: &str) -> Result<String> {
    let mut command = Command::new(agent_program()?);
    let output = command.args(["steering", verb, "--config"]).arg(agent.config()).stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

async fn is(agent: &Agent, state: &str, reason: &str) -> Result<()> {
    until_metric(agent, "mirador_steering_state", &[("state", state), ("reason", reason)], 1.0).await
}

/// That the kernel has counted the connects of `pod` as the load has made them.
async fn agree(agent: &Agent, pod: &Pod, counts: &Counts) -> Result<()> {
    let redirected = counts.of("agent") + counts.of("reset");
    for (outcome, count) in [("redirected", redirected), ("no_listener", counts.of("gateway"))] {
        let labels = [("pod", pod.uid.as_str()), ("outcome", outcome)];
        until_metric(agent, "mirador_steering_pod_connects_total", &labels, count as f64).await?;
    }
    let labels = [("pod", pod.uid.as_str())];
    until_metric(agent, "mirador_steering_pod_connects_total", &labels, counts.attempts as f64).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_with_pinned_links_an_agent_refuses_nobody_and_the_next_one_counts_on() -> Result<()> {
    let Some((mut rig, gateway)) = rig(Driver::Systemd) else { return Ok(()) };
    let pins = rig.bpffs()?;
    let mut agent = rig.agent(json!({"pin": pins}), None).await?;
    is(&agent, "attached", "complete").await?;
    let (pod, other) = (rig.pod(Class::Burstable)?, rig.pod(Class::Guaranteed)?);
    let load = Load::start(&pod)?;
    until_redirected(&agent, 1000.0).await?;
    agent.kill().await?;
    ensure!(who(&other, "203.0.113.9", 4317)? == "gateway", "the next connect, without any waiting");
    ensure!(programs_settled_at(PROGRAMS)?.len() == PROGRAMS, "everything is still attached");
    let passed = gateway.accepted() + 500;
    until("the load to reach the gateway", WAIT, async || Ok((gateway.accepted() >= passed).then_some(()))).await?;
    agent.restart().await?;
    is(&agent, "attached", "complete").await?;
    until_answered(&other, "agent").await?;
    ensure!(programs_settled_at(PROGRAMS)?.len() == PROGRAMS, "new programs have replaced the old ones");
    let counts = load.finish("kill -9, pinned")?;
    counts.refused_nobody()?;
    ensure!(counts.of("agent") >= 1000 && counts.of("gateway") >= 500, "{counts:?}");
    // What was connected while the first agent ran, and while none did, is counted by the second.
    agree(&agent, &pod, &counts).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_agent_takes_over_from_a_running_one_and_not_one_connect_goes_elsewhere() -> Result<()> {
    let Some((mut rig, gateway)) = rig(Driver::Cgroupfs) else { return Ok(()) };
    let pins = rig.bpffs()?;
    let steering = json!({"pin": pins, "heartbeat_max_age": "60s"});
    let mut old = rig.agent(steering.clone(), None).await?;
    let (pod, other) = (rig.pod(Class::Burstable)?, rig.pod(Class::BestEffort)?);
    let load = Load::start(&pod)?;
    until_redirected(&old, 500.0).await?;
    let new = rig.agent(steering, None).await?;
    is(&new, "attached", "complete").await?;
    let links = ask(&new, "status")?.lines().filter(|line| line.contains("/link_")).count();
    ensure!(links == PROGRAMS, "two agents, one set of hooks: {links}");
    // The newest one that lives is preferred, at once.
    let accepted = async |agent: &Agent| agent.metric("mirador_steering_accepted_total", &[]).await;
    ensure!(who(&other, "203.0.113.9", 4317)? == "agent");
    until("what is under way to the old agent to arrive", WAIT, async || {
        let before = accepted(&old).await?;
        let news = accepted(&new).await?;
        until("the new agent to take more", WAIT, async || Ok((accepted(&new).await? > news + 200.0).then_some(())))
            .await?;
        Ok((accepted(&old).await? - before < 0.5).then_some(()))
    })
    .await?;
    // The old one drains while the load goes on.
    old.stop().await?;
    let news = accepted(&new).await?;
    until("the new agent to go on", WAIT, async || Ok((accepted(&new).await? > news + 500.0).then_some(()))).await?;
    let counts = load.finish("a new agent beside the old one")?;
    ensure!(counts.of("agent") == counts.attempts, "none refused, reset, or sent on: {counts:?}");
    ensure!(gateway.accepted() == 0);
    agree(&new, &pod, &counts).await
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_new_agent_dies_the_old_one_that_still_runs_gets_the_connections_again() -> Result<()> {
    let Some((mut rig, _gateway)) = rig(Driver::Systemd) else { return Ok(()) };
    let pins = rig.bpffs()?;
    let old = rig.agent(json!({"pin": pins}), None).await?;
    let mut new = rig.agent(json!({"pin": pins}), None).await?;
    let pod = rig.pod(Class::Burstable)?;
    ensure!(who(&pod, "203.0.113.9", 4317)? == "agent");
    until_metric(&new, "mirador_steering_accepted_total", &[("caller", "pod")], 1.0).await?;
    new.kill().await?;
    ensure!(who(&pod, "203.0.113.9", 4317)? == "agent");
    until_metric(&old, "mirador_steering_accepted_total", &[("caller", "pod")], 1.0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_hung_until_another_took_its_place_keeps_out_when_it_is_back() -> Result<()> {
    let Some((mut rig, _gateway)) = rig(Driver::Systemd) else { return Ok(()) };
    let pins = rig.bpffs()?;
    let steering = json!({"pin": pins, "heartbeat_max_age": "500ms"});
    let hung = rig.agent(steering.clone(), None).await?;
    let pod = rig.pod(Class::Burstable)?;
    until_answered(&pod, "agent").await?;
    hung.pause();
    until_answered(&pod, "gateway").await?;
    let next = rig.agent(steering, None).await?;
    until_answered(&pod, "agent").await?;
    hung.resume();
    is(&hung, "unavailable", "replaced").await?;
    let before = next.metric("mirador_steering_accepted_total", &[("caller", "pod")]).await?;
    until_answered(&pod, "agent").await?;
    until("the one that is in place to have answered", WAIT, async || {
        let now = next.metric("mirador_steering_accepted_total", &[("caller", "pod")]).await?;
        Ok((now > before).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_are_shown_and_taken_out_by_hand_while_the_agent_runs_and_after_it() -> Result<()> {
    let Some((mut rig, _gateway)) = rig(Driver::Systemd) else { return Ok(()) };
    let pins = rig.bpffs()?;
    let mut agent = rig.agent(json!({"pin": pins}), None).await?;
    let pod = rig.pod(Class::Burstable)?;
    ensure!(who(&pod, "203.0.113.9", 4317)? == "agent");
    let shown = ask(&agent, "status")?;
    for pin in ["link_mirador_conn4", "link_mirador_tcp", "map_INSTANCE", "map_TOTAL"] {
        ensure!(shown.lines().any(|line| line.starts_with("pin ") && line.contains(pin)), "{pin}: {shown}");
    }
    ensure!(ask(&agent, "detach")?.starts_with("removed 15 pins"), "five links and ten maps");
    ensure!(who(&pod, "203.0.113.9", 4317)? == "gateway", "at once, and the agent runs");
    is(&agent, "unavailable", "unpinned").await?;
    agent.restart().await?;
    is(&agent, "attached", "complete").await?;
    until_answered(&pod, "agent").await?;
    agent.stop().await?;
    ensure!(programs_settled_at(PROGRAMS)?.len() == PROGRAMS, "a pinned agent leaves what it was asked to leave");
    ensure!(who(&pod, "203.0.113.9", 4317)? == "gateway");
    ask(&agent, "detach")?;
    ensure!(programs_in_kernel()?.is_empty() && !pins.exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_of_another_version_or_shape_are_replaced() -> Result<()> {
    let Some((mut rig, _gateway)) = rig(Driver::Systemd) else { return Ok(()) };
    let pins = rig.bpffs()?;
    let pod = rig.pod(Class::Burstable)?;
    let mut agent = rig.agent(json!({"pin": pins}), None).await?;
    ensure!(who(&pod, "203.0.113.9", 4317)? == "agent");
    agent.kill().await?;
    // What an agent of another version would have left: its programs run, and know nothing of ours.
    let ours = std::fs::read_dir(&pins)?.flatten().next().expect("a version").path();
    std::fs::rename(&ours, pins.join("v0"))?;
    agent.restart().await?;
    is(&agent, "attached", "complete").await?;
    ensure!(!pins.join("v0").exists() && ours.exists());
    ensure!(programs_settled_at(PROGRAMS)?.len() == PROGRAMS, "those of the other version are gone");
    until_answered(&pod, "agent").await?;
    agent.stop().await?;
    let other = rig.agent(json!({"pin": pins, "identity": {"max_pods": 100}}), None).await?;
    is(&other, "attached", "complete").await?;
    ensure!(std::fs::read_to_string(other.log_path())?.contains("another shape"), "{}", other.log_tail(20));
    ensure!(programs_settled_at(PROGRAMS)?.len() == PROGRAMS);
    let before = other.metric("mirador_steering_attempts_total", &[]).await?;
    ensure!(before < 0.5, "counters begin anew: {before}");
    until_answered(&pod, "agent").await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_two_capabilities_that_it_gives_up_it_follows_a_cgroup_that_is_made_anew_and_pins_again() -> Result<()> {
    let Some((mut rig, _gateway)) = rig(Driver::Systemd) else { return Ok(()) };
    let pins = rig.bpffs()?;
    // What the chart gives the container.
    let words = ["setpriv", "--bounding-set=-all,+cap_39,+net_admin", "--inh-caps=-all"];
    let steering = json!({"pin": pins, "addresses": [NODE.0, NODE.1], "cgroup": {"pods": rig.pods_cgroup()}});
    let agent = Agent::with(Path::new(""), &words, json!({"steering": steering}), None).await?;
    is(&agent, "attached", "complete").await?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid().unwrap_or_default()))?;
    ensure!(status.lines().any(|line| line == "CapEff:\t0000000000000000"), "all of it is given up: {status}");
    let pod = rig.pod(Class::Burstable)?;
    until_answered(&pod, "agent").await?;
    remake_pods_cgroup(&rig)?;
    pod.make_again()?;
    until_metric(&agent, "mirador_steering_reattached_total", &[], 1.0).await?;
    until_answered(&pod, "agent").await?;
    ensure!(!ask(&agent, "status")?.contains("dead"), "the links of the old cgroup are gone");
    is(&agent, "attached", "complete").await
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_for_debug_events_it_writes_a_line_for_a_connect_or_says_that_the_kernel_gives_none() -> Result<()> {
    let Some((mut rig, _gateway)) = rig(Driver::Systemd) else { return Ok(()) };
    let words = ["setpriv", "--bounding-set=-all,+cap_39,+net_admin", "--inh-caps=-all"];
    let steering = json!({"debug": true, "addresses": [NODE.0, NODE.1], "cgroup": {"pods": rig.pods_cgroup()}});
    let config = json!({"steering": steering, "telemetry": {"logs": {"level": "debug"}}});
    let agent = Agent::with(Path::new(""), &words, config, None).await?;
    is(&agent, "attached", "complete").await?;
    let pod = rig.pod(Class::Burstable)?;
    until_answered(&pod, "agent").await?;
    until("a line about it", WAIT, async || {
        let log = std::fs::read_to_string(agent.log_path())?;
        let said = log.contains("connect of cgroup") || log.contains("steering.debug has no effect");
        Ok(said.then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_pins_nothing_is_left_of_a_killed_agent() -> Result<()> {
    let Some((mut rig, _gateway)) = rig(Driver::Systemd) else { return Ok(()) };
    let pins = rig.bpffs()?;
    let mut agent = rig.agent(json!({}), None).await?;
    let pod = rig.pod(Class::Burstable)?;
    ensure!(who(&pod, "203.0.113.9", 4317)? == "agent");
    ensure!(programs_settled_at(PROGRAMS)?.len() == PROGRAMS);
    agent.kill().await?;
    ensure!(programs_in_kernel()?.is_empty() && !pins.exists());
    ensure!(who(&pod, "203.0.113.9", 4317)? == "gateway");
    Ok(())
}
