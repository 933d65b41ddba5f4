//! Where steering cannot be had the agent serves all the same, and says why. These run everywhere.

use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mirador_support::backends::client::{client, until};
use mirador_support::rig::{Agent, Class, Driver, programs_in_kernel};
use serde_json::{Value, json};

use crate::WAIT;

/// Starts an agent behind `words` and looks for the reason that it gives.
async fn says(words: &[&str], steering: Value, reason: &str) -> Result<String> {
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
    // As a kubelet asks it to end.
    let pid = agent.pid().unwrap_or_default().to_string();
    ensure!(Command::new("kill").args(["-TERM", &pid]).status()?.success());
    let status = ended(&mut agent).await?;
    ensure!(status.success(), "{status}: {log}");
    Ok(log)
}

/// How `agent` ends.
async fn ended(agent: &mut Agent) -> Result<ExitStatus> {
    let begun = Instant::now();
    while begun.elapsed() < WAIT {
        if let Some(status) = agent.exited()? {
            return Ok(status);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("the agent has not ended: {}", agent.log_tail(20))
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
        return says(&[], json!({}), "not_built").await.map(drop);
    }
    let folder = tempfile::tempdir()?;
    says(&[], json!({"cgroup": {"mount": folder.path()}}), "no_cgroup2").await.map(drop)
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
    says(&[], json!({"cgroup": {"pods": "no/such/cgroup"}}), "no_pods_cgroup").await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_privileges_serves_and_says_so() -> Result<()> {
    if !has_programs() {
        return Ok(());
    }
    let (_folder, steering) = tree()?;
    let root = mirador_support::rig::is_root();
    let words: &[&str] = if root { &["setpriv", "--bounding-set=-all", "--inh-caps=-all"] } else { &[] };
    says(words, steering, "no_privileges").await.map(drop)
}

/// A folder with what a tree of cgroups has: the climb goes on to the privileges and the kernel.
fn tree() -> Result<(tempfile::TempDir, Value)> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("cgroup.procs"), "")?;
    std::fs::create_dir(folder.path().join("kubepods"))?;
    let steering = json!({"cgroup": {"mount": folder.path()}});
    Ok((folder, steering))
}

/// Where only root can be let in as far as a test needs.
fn is_root() -> bool {
    let root = mirador_support::rig::is_root();
    if !root {
        mirador_support::skip("only root has the capabilities that are not taken away here");
    }
    root
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_lacks_one_capability_serves_and_names_it() -> Result<()> {
    if !has_programs() || !is_root() {
        return Ok(());
    }
    let (_folder, steering) = tree()?;
    for (capabilities, missing) in [("-all,+net_admin", "has not CAP_BPF"), ("-all,+cap_39", "has not CAP_NET_ADMIN")] {
        let bounding = format!("--bounding-set={capabilities}");
        let log = says(&["setpriv", &bounding, "--inh-caps=-all"], steering.clone(), "no_privileges").await?;
        ensure!(log.contains(missing), "{log}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_seccomp_profile_forbids_bpf_serves_and_says_so() -> Result<()> {
    if !has_programs() || !is_root() {
        return Ok(());
    }
    let (_folder, steering) = tree()?;
    let log = says(&["python3", "-c", include_str!("seccomp.py")], steering, "bpf_refused").await?;
    ensure!(log.contains("seccomp"), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_on_a_kernel_without_such_programs_serves_and_says_so() -> Result<()> {
    if !has_programs() || !is_root() {
        return Ok(());
    }
    let (_folder, steering) = tree()?;
    let log = says(&["env", "MIRADOR_TEST_KERNEL_LACKS=sock_addr"], steering, "kernel_too_old").await?;
    ensure!(log.contains("5.10"), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_a_bpf_file_system_steers_and_pins_nothing() -> Result<()> {
    let Some((mut rig, _gateway)) = crate::rig(Driver::Systemd) else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let mut agent = rig.agent(json!({"pin": folder.path().join("mirador")}), None).await?;
    let labels = [("state", "attached"), ("reason", "no_bpffs")];
    crate::until_metric(&agent, "mirador_steering_state", &labels, 1.0).await?;
    let pod = rig.pod(Class::Burstable)?;
    crate::until_answered(&pod, "agent").await?;
    agent.kill().await?;
    ensure!(programs_in_kernel()?.is_empty() && std::fs::read_dir(folder.path())?.next().is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_told_not_to_steer_is_off() -> Result<()> {
    says(&[], json!({"enabled": false}), "disabled").await.map(drop)
}
