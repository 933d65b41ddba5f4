//! An agent among the pods never calls itself: three guards, each by itself, and what happens without any.

use anyhow::{Result, ensure};
use mirador_support::backends::client::{client, until};
use mirador_support::rig::{Agent, Class, Driver, GATEWAY, NODE, Rig};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message as _;
use serde_json::json;

use crate::{WAIT, rig, until_metric};

/// An agent in a pod whose exporter goes to the steered port of the gateway, with these guards only.
async fn agent(rig: &mut Rig, guards: &str) -> Result<Agent> {
    let home = rig.pod(Class::Guaranteed)?;
    let kept = format!("MIRADOR_TEST_GUARDS={guards}");
    let steering = json!({
        "addresses": [NODE.0, NODE.1],
        "cgroup": {"pods": rig.pods_cgroup()},
        "heartbeat_max_age": "60s",
    });
    let owner = (GATEWAY.0, 4317).into();
    Agent::with(home.cgroup(), &["env", &kept], json!({"steering": steering}), Some(owner)).await
}

/// One span for `agent`, from outside the pods; the answer's status and text.
async fn send(agent: &Agent) -> Result<(u16, String)> {
    let span = Span { trace_id: vec![7; 16], span_id: vec![7; 8], name: "one".into(), ..Span::default() };
    let scope = ScopeSpans { spans: vec![span], ..ScopeSpans::default() };
    let resource = ResourceSpans { scope_spans: vec![scope], ..ResourceSpans::default() };
    let body = ExportTraceServiceRequest { resource_spans: vec![resource] }.encode_to_vec();
    let url = format!("http://127.0.0.1:{}/v1/traces", agent.http);
    let answer = client()?.post(url).header("content-type", "application/x-protobuf").body(body).send().await?;
    let status = answer.status().as_u16();
    Ok((status, String::from_utf8_lossy(&answer.bytes().await?).into_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_the_three_guards_alone_keeps_an_agent_from_calling_itself() -> Result<()> {
    for guard in ["cgroup", "process", "socket"] {
        let Some((mut rig, gateway)) = rig(Driver::Systemd) else { return Ok(()) };
        let agent = agent(&mut rig, guard).await?;
        // Its exporter keeps connecting to the gateway, which answers with nonsense.
        until("the agent's own connects to be passed", WAIT, async || {
            Ok((agent.metric("mirador_steering_passed_total", &[("reason", "own")]).await? >= 3.0).then_some(()))
        })
        .await?;
        ensure!(gateway.accepted() > 0, "{guard}: its connects reach the gateway");
        let redirected = agent.metric("mirador_steering_redirected_total", &[]).await?;
        ensure!(redirected < 0.5, "{guard}: {redirected} of its connects came back to it");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_guard_an_agent_that_has_reached_itself_refuses_and_says_so() -> Result<()> {
    let Some((mut rig, _gateway)) = rig(Driver::Systemd) else { return Ok(()) };
    let agent = agent(&mut rig, "").await?;
    until("its exporter to have reached itself", WAIT, async || {
        Ok((agent.metric("mirador_steering_redirected_total", &[]).await? >= 1.0).then_some(()))
    })
    .await?;
    let (status, text) = send(&agent).await?;
    ensure!(status >= 400 && text.contains("forwarded the request to itself"), "{status}: {text}");
    until_metric(&agent, "mirador_receiver_refused_total", &[("reason", "loop")], 1.0).await
}
