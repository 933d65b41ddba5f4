//! Where steering cannot be had the agent serves all the same, and says why. These run everywhere.

use std::path::Path;

use anyhow::{Result, ensure};
use mirador_support::backends::client::{client, until};
use mirador_support::rig::Agent;
use serde_json::{Value, json};

use crate::WAIT;

/// Starts an agent behind `words` and looks for the reason that it gives.
async fn says(words: &[&str], steering: Value, reason: &str) -> Result<()> {
    // An empty request needs no owner to be there.
    let config = json!({"steering": steering, "exporters": {"traces": {}}});
    let mut agent = Agent::with(Path::new(""), words, config, None).await?;
    let labels = [("state", if reason == "disabled" { "off" } else { "unavailable" }), ("reason", reason)];
    let held = agent.metric("mirador_steering_state", &labels).await?;
    ensure!(held > 0.5, "{reason}: {}", agent.log_tail(20));
    until("OTLP to be served", WAIT, async || {
        let url = format!("http://127.0.0.1:{}/v1/traces", agent.http);
        let empty = client()?.post(url).header("content-type", "application/x-protobuf").body(Vec::new());
        Ok(empty.send().await.is_ok_and(|answer| answer.status().is_success()).then_some(()))
    })
    .await?;
    let log = std::fs::read_to_string(agent.log_path())?;
    let lines = log.lines().filter(|line| line.contains("steering") && line.contains(reason)).count();
    ensure!(lines == 1, "one line says it: {log}");
    agent.stop().await
}

/// Where no test can be more privileged than this agent.
fn has_programs() -> bool {
    let has = mirador_support::rig::agent_has_programs();
    if !has {
        mirador_support::skip("the agent was built without the BPF programs: cargo xtask build-ebpf says why");
    }
    has
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_a_tree_of_cgroups_serves_and_says_so() -> Result<()> {
    if !has_programs() {
        return says(&[], json!({}), "not_built").await;
    }
    let folder = tempfile::tempdir()?;
    says(&[], json!({"cgroup": {"mount": folder.path()}}), "no_cgroup2").await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_finds_no_pods_serves_and_says_so() -> Result<()> {
    if !has_programs() {
        return Ok(());
    }
    let tree = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    if !tree.iter().any(|mount| mount.join("cgroup.procs").exists()) {
        mirador_support::skip("no cgroup2 tree is mounted");
        return Ok(());
    }
    says(&[], json!({"cgroup": {"pods": "no/such/cgroup"}}), "no_pods_cgroup").await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_privileges_serves_and_says_so() -> Result<()> {
    if !has_programs() {
        return Ok(());
    }
    // A folder with the file that a tree of cgroups has: the climb goes on to the privileges.
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("cgroup.procs"), "")?;
    std::fs::create_dir(folder.path().join("kubepods"))?;
    let steering = json!({"cgroup": {"mount": folder.path()}});
    let root = mirador_support::rig::is_root();
    let words: &[&str] = if root { &["setpriv", "--bounding-set=-all", "--inh-caps=-all"] } else { &[] };
    says(words, steering, "no_privileges").await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_told_not_to_steer_is_off() -> Result<()> {
    says(&[], json!({"enabled": false}), "disabled").await
}
