//! Programs of somebody else at the same hook: what they keep us from, and in which order all run.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use mirador_support::rig::{Class, Driver, Rig};
use serde_json::{Value, json};

use crate::{counted, rig, until_metric, who};

/// Attaches a program that sends what goes to port 4317 to port 4319, which is not steered.
const FOREIGN: &str = include_str!("foreign.py");
/// `BPF_F_ALLOW_MULTI`.
const MULTI: &str = "2";
/// Nobody beside it.
const EXCLUSIVE: &str = "0";

/// A foreign program, attached until this is dropped.
struct Foreign<'a> {
    cgroup: &'a Path,
    id: u64,
}

impl<'a> Foreign<'a> {
    fn attach(cgroup: &'a Path, flags: &str) -> Result<Self> {
        let id = run(&["attach", &cgroup.display().to_string(), flags])?[0].as_u64().context("no id")?;
        Ok(Self { cgroup, id })
    }
}

impl Drop for Foreign<'_> {
    fn drop(&mut self) {
        // It goes with the rig's cgroup otherwise.
        run(&["detach", &self.cgroup.display().to_string()]).ok();
    }
}

fn run(words: &[&str]) -> Result<Value> {
    let output = std::process::Command::new("python3").args(["-c", FOREIGN]).args(words).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The cgroup above that of all pods.
fn above(rig: &Rig) -> Result<std::path::PathBuf> {
    Ok(rig.pods_path().parent().context("it lies in the rig's")?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_lets_nobody_in_beside_it_is_named_by_its_id_and_the_agent_serves() -> Result<()> {
    let Some((mut rig, _gateway)) = rig(Driver::Systemd) else { return Ok(()) };
    let pod = rig.pod(Class::Burstable)?;
    for cgroup in [above(&rig)?, rig.pods_path()] {
        let foreign = Foreign::attach(&cgroup, EXCLUSIVE)?;
        let mut agent = rig.agent(json!({}), None).await?;
        until_metric(&agent, "mirador_steering_state", &[("state", "unavailable"), ("reason", "attach_failed")], 1.0)
            .await?;
        let log = std::fs::read_to_string(agent.log_path())?;
        let says = format!("program [{}] is attached to {}", foreign.id, cgroup.display());
        ensure!(log.contains(&says), "{says}: {log}");
        ensure!(who(&pod, "203.0.113.9", 4317)? == "gateway");
        drop(foreign);
        agent.kill().await?;
        agent.restart().await?;
        ensure!(who(&pod, "203.0.113.9", 4317)? == "agent", "once it is gone");
        agent.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_program_in_the_same_cgroup_the_one_that_came_first_decides() -> Result<()> {
    let Some((mut rig, gateway)) = rig(Driver::Systemd) else { return Ok(()) };
    let pod = rig.pod(Class::Burstable)?;
    let cgroup = rig.pods_path();
    let before = Foreign::attach(&cgroup, MULTI)?;
    let mut agent = rig.agent(json!({}), None).await?;
    ensure!(who(&pod, "203.0.113.9", 4317)? == "gateway" && gateway.accepted() == 1, "we see what it has made of it");
    counted(&agent, 0.0).await?;
    ensure!(who(&pod, "203.0.113.9", 4318)? == "agent", "what it leaves alone is ours");
    drop(before);
    ensure!(who(&pod, "203.0.113.9", 4317)? == "agent", "once it is gone");
    let _after = Foreign::attach(&cgroup, MULTI)?;
    ensure!(who(&pod, "203.0.113.9", 4317)? == "agent", "it sees what we have made of it");
    counted(&agent, 3.0).await?;
    agent.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_further_up_sees_what_we_have_made_of_a_connect_whoever_came_first() -> Result<()> {
    let Some((mut rig, _gateway)) = rig(Driver::Cgroupfs) else { return Ok(()) };
    let pod = rig.pod(Class::Guaranteed)?;
    let cgroup = above(&rig)?;
    let before = Foreign::attach(&cgroup, MULTI)?;
    let mut agent = rig.agent(json!({}), None).await?;
    ensure!(who(&pod, "203.0.113.9", 4317)? == "agent");
    drop(before);
    let _after = Foreign::attach(&cgroup, MULTI)?;
    ensure!(who(&pod, "203.0.113.9", 4317)? == "agent");
    counted(&agent, 2.0).await?;
    agent.stop().await?;
    ensure!(who(&pod, "203.0.113.9", 4317)? == "gateway", "its own is still there, and ours is gone");
    Ok(())
}
