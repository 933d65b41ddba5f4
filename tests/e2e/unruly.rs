//! A store that misbehaves behind a running process: what its clients are told, and that it recovers by itself.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use mirador_support::backends::client;
use mirador_support::backends::victoriatraces::{Fault, INSERT_PATH, StandIn};
use mirador_support::node::Node;
use mirador_support::shop::Random;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message as _;
use serde_json::{Value, json};

use crate::exact::hex;
use crate::fleet::merge;

fn text(key: &str, value: String) -> KeyValue {
    let value = Some(AnyValue { value: Some(any_value::Value::StringValue(value)) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

/// Spans of one trace, each with an attribute of so many bytes.
fn trace(random: &mut Random, sizes: &[usize]) -> Result<(String, Vec<u8>)> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    let trace_id = random.id::<16>();
    let span = |size: &usize| Span {
        trace_id: trace_id.clone(),
        name: "GET /".to_owned(),
        kind: 2,
        start_time_unix_nano: now - 2_000_000,
        end_time_unix_nano: now - 1_000_000,
        attributes: vec![text("payload", "x".repeat(*size))],
        ..Span::default()
    };
    let mut spans: Vec<Span> = sizes.iter().map(span).collect();
    for span in &mut spans {
        span.span_id = random.id::<8>();
    }
    let resource = Resource { attributes: vec![text("service.name", "unruly".to_owned())], ..Resource::default() };
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { resource: Some(resource), scope_spans, ..ResourceSpans::default() }];
    Ok((hex(&trace_id), ExportTraceServiceRequest { resource_spans }.encode_to_vec()))
}

/// `central all` that keeps its traces in the stand-in; it waits for it only shortly.
async fn before(store: &StandIn, over: Value) -> Result<Node> {
    let mut config = json!({"exporters": {
        "embedded": {"path": "store.sqlite"},
        "victoriatraces": {"endpoint": format!("{}{INSERT_PATH}", store.url()), "timeout": "2s"},
        "retry_on_failure": {"initial_interval": "10ms", "max_elapsed_time": "200ms"},
    }});
    merge(&mut config, over);
    Node::central("all", config).await
}

struct Told {
    status: u16,
    retry_after: Option<String>,
    body: Vec<u8>,
}

async fn send(node: &Node, body: Vec<u8>) -> Result<Told> {
    let url = format!("http://{}/v1/traces", node.http);
    let sent = client::client()?.post(url).header("content-type", "application/x-protobuf").body(body);
    let answer = sent.timeout(Duration::from_mins(1)).send().await?;
    let retry_after = answer.headers().get("retry-after").map(|value| value.to_str().map(str::to_owned)).transpose()?;
    Ok(Told { status: answer.status().as_u16(), retry_after, body: answer.bytes().await?.to_vec() })
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_trace_store_does_the_client_is_told_to_come_again_and_no_restart_is_needed() -> Result<()> {
    let mut store = StandIn::start().await?;
    let central = before(&store, json!({})).await?;
    let mut random = Random::new(71);
    let status = |code, retry_after| Fault::Status { code, retry_after };
    for (fault, least) in [
        (status(503, None), 1),
        (status(429, Some(7)), 7),
        (status(500, None), 1),
        (status(401, None), 1),
        (Fault::HalfClose { stored: false }, 1),
        (Fault::Reset, 1),
        (Fault::Hang { stored: false }, 1),
    ] {
        let (id, body) = trace(&mut random, &[10, 10])?;
        store.fail(Some(fault.clone()));
        let told = send(&central, body.clone()).await?;
        ensure!(told.status == 503, "{fault:?} is answered {}", told.status);
        let wait: u64 = told.retry_after.with_context(|| format!("{fault:?}: no Retry-After"))?.parse()?;
        ensure!(wait >= least, "{fault:?}: the client is told to wait {wait}s");
        ensure!(store.query().trace(&id).await?.is_empty(), "{fault:?}: something is stored");
        store.fail(None);
        let told = send(&central, body).await?;
        ensure!(told.status == 200, "after {fault:?}: {}", told.status);
        ensure!(store.query().trace(&id).await?.len() == 2, "after {fault:?}: not every span is stored once");
    }
    let (id, body) = trace(&mut random, &[10])?;
    store.stop().await?;
    ensure!(send(&central, body.clone()).await?.status == 503, "a store that is not there");
    store.restart().await?;
    ensure!(send(&central, body).await?.status == 200, "a store that is there again");
    ensure!(store.query().trace(&id).await?.len() == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_for_a_trace_store_costs_itself_only_and_is_told_and_counted() -> Result<()> {
    let store = StandIn::start().await?;
    store.set_limits(|limits| limits.request_bytes = 100_000);
    let central = before(&store, json!({"exporters": {"victoriatraces": {"compression": "none"}}})).await?;
    let mut sizes = vec![100; 40];
    sizes[17] = 150_000;
    let (id, body) = trace(&mut Random::new(72), &sizes)?;
    let told = send(&central, body).await?;
    ensure!(told.status == 200, "{}", told.status);
    let partial = ExportTraceServiceResponse::decode(&*told.body)?.partial_success.context("nothing is rejected")?;
    ensure!(partial.rejected_spans == 1 && partial.error_message.contains("maxRequestSize"), "{partial:?}");
    ensure!(store.query().trace(&id).await?.len() == 39);
    let dropped = central.metric("mirador_exporter_dropped_items_total", &[("exporter", "victoriatraces")]).await?;
    ensure!((dropped - 1.0).abs() < 0.5, "{dropped} are counted as dropped");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_store_that_hangs_under_load_does_not_fill_the_memory() -> Result<()> {
    const MIB: usize = 1 << 20;
    let store = StandIn::start().await?;
    let central = before(&store, json!({"memory": {"limit_mib": 64}})).await?;
    let peak = || -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", central.pid().context("it has ended")?))?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).context("no VmHWM")?;
        Ok(line.split_whitespace().nth(1).context("no number")?.parse::<f64>()? / 1024.0)
    };
    let at_rest = peak()?;
    store.fail(Some(Fault::Hang { stored: false }));
    let mut random = Random::new(73);
    let bodies = (0..8).map(|_| Ok(bytes::Bytes::from(trace(&mut random, &[MIB])?.1))).collect::<Result<Vec<_>>>()?;
    // 256 MiB at any one time, all of which would be in memory several times over if all were let in.
    let mut sending = tokio::task::JoinSet::new();
    let url = format!("http://{}/v1/traces", central.http);
    for worker in 0..256 {
        let (url, body, http) = (url.clone(), bodies[worker % 8].clone(), client::client()?);
        sending.spawn(async move {
            for _ in 0..2 {
                let request = http.post(&url).header("content-type", "application/x-protobuf").body(body.clone());
                // A request that is refused before it is read may find its connection closed.
                if let Ok(answer) = request.timeout(Duration::from_mins(1)).send().await {
                    ensure!(matches!(answer.status().as_u16(), 429 | 503), "answered {}", answer.status());
                }
            }
            Ok(())
        });
    }
    while let Some(sent) = sending.join_next().await {
        sent??;
    }
    let grown = peak()? - at_rest;
    println!("{grown:.0} MiB more than the {at_rest:.0} MiB at rest");
    ensure!(grown < 128.0, "{grown} MiB more than the {at_rest} MiB at rest, with a limit of 64 MiB");
    store.fail(None);
    let (id, body) = trace(&mut random, &[10])?;
    client::until("requests to be taken again", crate::fleet::WAIT, async || {
        let told = send(&central, body.clone()).await?;
        ensure!(told.status == 200, "answered {}", told.status);
        Ok(Some(()))
    })
    .await?;
    ensure!(!store.query().trace(&id).await?.is_empty());
    Ok(())
}
