//! The laptop: an agent and `central all` on the embedded store, nothing else.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use mirador_support::backends::client::{self, until};
use mirador_support::oracle;
use mirador_support::shop::{Sender, Shop, Visit, log_requests, trace_requests};
use serde_json::{Value, json};

use crate::exact::hex;
use crate::fleet::{Pair, WAIT};

fn number(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or(f64::NAN)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_any_sdk_sends_to_the_agent_is_found_on_the_live_page() -> Result<()> {
    let laptop = Pair::start("3s").await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    let mut shop = Shop::new(3, now);
    let visits: Vec<Visit> = (0..400).map(|_| shop.visit(now)).collect();
    let sender = Sender::new(&format!("http://{}", laptop.agent.http))?;
    let requests = trace_requests(&visits);
    for request in &requests {
        sender.traces(request).await?;
    }
    for request in log_requests(&visits) {
        sender.logs(&request).await?;
    }
    sender.metrics(&shop.metrics(now)).await?;

    let expected = oracle::red(&requests);
    let calls: u64 = expected.values().map(|red| red.calls).sum();
    until("RED of every operation", WAIT, async || {
        let rows = laptop.central.ask("/api/v1/red?since=1h").await?;
        let found: f64 = rows.as_array().into_iter().flatten().map(|row| number(row, "calls")).sum();
        ensure!((found - calls as f64).abs() < 0.5, "{found} calls of {calls}");
        Ok(Some(()))
    })
    .await?;
    let edges = oracle::edges(&requests);
    until("every edge", WAIT, async || {
        let rows = laptop.central.ask("/api/v1/graph?since=1h").await?;
        for ((client, server, kind), edge) in &edges {
            let row = rows.as_array().into_iter().flatten().find(|row| {
                row["client"] == client.as_str()
                    && row["server"] == server.as_str()
                    && row["connection_type"] == kind.as_str()
            });
            let found = row.map_or(0.0, |row| number(row, "calls"));
            ensure!((found - edge.calls as f64).abs() < 0.5, "{client} -> {server}: {found} of {}", edge.calls);
        }
        Ok(Some(()))
    })
    .await?;
    let (_, span) = &visits[0].spans[0];
    let trace = laptop.central.ask(&format!("/api/v1/traces/{}", hex(&span.trace_id))).await?;
    let of_trace =
        visits.iter().flat_map(|visit| &visit.spans).filter(|(_, other)| other.trace_id == span.trace_id).count();
    ensure!(trace.as_array().is_some_and(|spans| spans.len() == of_trace), "{trace}");
    let logs = laptop.central.ask("/api/v1/logs?since=1h&limit=1000").await?;
    let sent: usize = visits.iter().map(|visit| visit.logs.len()).sum();
    ensure!(logs.as_array().is_some_and(|rows| rows.len() == sent), "{sent} log records were sent: {logs}");
    let services = laptop.central.ask("/api/v1/services").await?;
    ensure!(services.as_array().is_some_and(|names| names.len() == 9), "{services}");
    let page = client::text(client::client()?.get(format!("http://{}/", laptop.central.console))).await?;
    ensure!(page.contains("<title>Mirador</title>") && !page.contains("http://") && !page.contains("https://"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn json_by_hand_is_taken_and_rubbish_is_refused_without_harm() -> Result<()> {
    let laptop = Pair::start("3s").await?;
    let url = format!("http://{}/v1/traces", laptop.agent.http);
    let http = client::client()?;
    let post = |content_type: &'static str, body: Vec<u8>| {
        http.post(&url).header("content-type", content_type).body(body).send()
    };
    for (content_type, body, status) in [
        ("application/x-protobuf", b"\xff\xff\xff\xff\xff".to_vec(), 400),
        ("application/x-protobuf", vec![0x0a, 0x7f, 0x01], 400),
        ("application/json", b"{\"resourceSpans\": [".to_vec(), 400),
        ("text/plain", b"hello".to_vec(), 415),
        ("application/x-protobuf", Vec::new(), 200),
        ("application/json", b"{}".to_vec(), 200),
    ] {
        let answer = post(content_type, body.clone()).await?;
        ensure!(answer.status().as_u16() == status, "{content_type} {body:?}: {} instead of {status}", answer.status());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    let trace_id = "5b8efff798038103d269b633813fc60c";
    let body = json!({"resourceSpans": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "by-hand"}}]},
        "scopeSpans": [{"spans": [{
            "traceId": trace_id, "spanId": "eee19b7ec3c1b174", "name": "GET /", "kind": 2,
            "startTimeUnixNano": now.to_string(), "endTimeUnixNano": (now + 1_000_000).to_string(),
            "attributes": [{"key": "big", "value": {"intValue": "9007199254740993"}}],
        }]}],
    }]});
    let answer = post("application/json", body.to_string().into_bytes()).await?;
    ensure!(answer.status().is_success(), "{}", answer.status());
    let spans =
        until("the span", WAIT, async || Ok(Some(laptop.central.ask(&format!("/api/v1/traces/{trace_id}")).await?)))
            .await?;
    ensure!(
        spans[0]["service"] == "by-hand" && spans[0]["attributes"]["big"] == json!(9_007_199_254_740_993_u64),
        "{spans}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_of_central_keeps_what_was_acknowledged_and_the_agent_recovers_by_itself() -> Result<()> {
    let mut laptop = Pair::start("3s").await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    let mut shop = Shop::new(4, now);
    let visits: Vec<Visit> = (0..100).map(|_| shop.visit(now)).collect();
    let sender = Sender::new(&format!("http://{}", laptop.agent.http))?;
    for request in trace_requests(&visits) {
        sender.traces(&request).await?;
    }
    laptop.central.kill().await?;
    laptop.central.restart().await?;
    for (_, span) in visits.iter().flat_map(|visit| &visit.spans) {
        let stored = laptop.central.ask(&format!("/api/v1/traces/{}", hex(&span.trace_id))).await?;
        let found = stored.as_array().into_iter().flatten().any(|row| row["span_id"] == hex(&span.span_id).as_str());
        ensure!(found, "an acknowledged span is gone: {stored}");
    }
    let more: Vec<Visit> = (0..10).map(|_| shop.visit(now)).collect();
    for request in trace_requests(&more) {
        until("the agent to reach central again", WAIT, async || {
            sender.traces(&request).await?;
            Ok(Some(()))
        })
        .await?;
    }
    Ok(())
}
