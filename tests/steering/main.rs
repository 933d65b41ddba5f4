//! Steering on the kernel that runs here: real programs, a real agent, clients in network namespaces.
//!
//! Where the process may not do that, or the agent was built without the programs, each test prints why and
//! is counted as skipped; the tests of the fall-back run everywhere.

#[path = "../../crates/transport/tests/kubernetes/api_server.rs"]
#[expect(dead_code, reason = "the watch's own tests need more of it")]
#[expect(clippy::unwrap_used, reason = "it is a part of tests, which fail where it cannot go on")]
mod api_server;
mod exports;
mod failing;
mod fallback;
mod foreign;
mod guards;
mod identity;
mod names;
mod paced;
mod pinned;
mod redirect;
mod rules;
mod storm;

use std::time::Duration;

use anyhow::Result;
use mirador_support::backends::client::until;
use mirador_support::rig::{Agent, Driver, Gateway, Pod, Rig};

/// How long a condition may take to hold.
const WAIT: Duration = Duration::from_secs(60);
/// The client's script.
const CLIENT: &str = include_str!("client.py");

/// A rig and its gateway, or the reason why there is none.
fn rig(driver: Driver) -> Option<(Rig, Gateway)> {
    if !mirador_support::rig::agent_has_programs() {
        mirador_support::skip("the agent was built without the BPF programs: cargo xtask build-ebpf says why");
        return None;
    }
    let made = Rig::new(driver).and_then(|rig| Ok((rig, Gateway::start(&[4317, 4318, 4319])?)));
    match made {
        Ok(made) => Some(made),
        Err(error) => {
            mirador_support::skip(&format!("this machine gives no rig: {error:#}"));
            None
        }
    }
}

/// Who answers a connect of `pod` to the gateway's address and `port`.
fn who(pod: &Pod, address: &str, port: u16) -> Result<String> {
    let found = pod.python(CLIENT, &["connect", address, &port.to_string()])?;
    Ok(found[0]["who"].as_str().unwrap_or_default().to_owned())
}

/// Waits until a connect of `pod` is answered by `whom`.
async fn until_answered(pod: &Pod, whom: &str) -> Result<()> {
    until(&format!("a connect to be answered by {whom}"), WAIT, async || {
        Ok((who(pod, "203.0.113.9", 4317)? == whom).then_some(()))
    })
    .await
}

/// Waits until `agent` has been sent `count` connects more than it had.
async fn until_redirected(agent: &Agent, count: f64) -> Result<()> {
    let redirected = async || agent.metric("mirador_steering_redirected_total", &[]).await;
    let before = redirected().await?;
    until(&format!("{count} connects to be redirected"), WAIT, async || {
        Ok((redirected().await? >= before + count).then_some(()))
    })
    .await
}

/// Waits until a metric of `agent` has `value`.
async fn until_metric(agent: &Agent, name: &str, labels: &[(&str, &str)], value: f64) -> Result<()> {
    let what = format!("{name}{labels:?} to be {value}");
    until(&what, WAIT, async || {
        let found = agent.metric(name, labels).await?;
        Ok(((found - value).abs() < 0.5).then_some(()))
    })
    .await
}

/// attempts = redirected + passed, and all of them are `attempts`.
async fn counted(agent: &Agent, attempts: f64) -> Result<()> {
    until_metric(agent, "mirador_steering_attempts_total", &[], attempts).await?;
    let redirected = agent.metric("mirador_steering_redirected_total", &[]).await?;
    let passed = agent.metric("mirador_steering_passed_total", &[]).await?;
    anyhow::ensure!((redirected + passed - attempts).abs() < 0.5, "{redirected} + {passed} of {attempts}");
    Ok(())
}
