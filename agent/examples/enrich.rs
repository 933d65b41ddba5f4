//! Prints what the attributes of pods cost per span, and what the pods take.
//!
//! `cargo run --release -p mirador-agent --example enrich`. The payload is built in: spans of about 300
//! bytes under one resource of eight attributes, from one of 110 pods on a node; twelve attributes and
//! two labels are added. Each figure is the best of many rounds, in wall time on one thread. A figure is
//! printed and never asserted.

#![expect(clippy::print_stdout, reason = "printing figures is what this program is for")]

use std::hint::black_box;
use std::time::Instant;

use mirador_agent::kubernetes::{Caller, Config, K8sAttributes};
use mirador_otlp::{Limits, Request, Signal};
use mirador_proto::otlp::collector::trace::v1::ExportTraceServiceRequest;
use mirador_proto::otlp::common::v1::{AnyValue, KeyValue, any_value};
use mirador_proto::otlp::resource::v1::Resource;
use mirador_proto::otlp::trace::v1::{ResourceSpans, ScopeSpans, Span};
use mirador_service::metrics::Registry;
use prost::Message as _;
use serde_json::{Value, json};

const PODS: u8 = 110;
const ROUNDS: usize = 2_000;

fn string(key: &str, value: &str) -> KeyValue {
    let value = Some(any_value::Value::StringValue(value.to_owned()));
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value }), ..KeyValue::default() }
}

fn request(spans: usize) -> Request {
    let span = |index: usize| Span {
        trace_id: (index as u128 + 1).to_be_bytes().to_vec(),
        span_id: (index as u64 + 1).to_be_bytes().to_vec(),
        name: "GET /api/orders/{id}".to_owned(),
        kind: 2,
        start_time_unix_nano: 1_700_000_000_000_000_000,
        end_time_unix_nano: 1_700_000_000_005_000_000,
        attributes: vec![
            string("http.request.method", "GET"),
            string("http.route", "/api/orders/{id}"),
            string("url.path", "/api/orders/8123"),
            string("server.address", "checkout.shop.svc.cluster.local"),
            string("user_agent.original", "Mozilla/5.0 (X11; Linux x86_64)"),
            string("network.peer.address", "10.20.30.40"),
        ],
        ..Span::default()
    };
    let attributes = [
        ("service.name", "checkout"),
        ("service.version", "2.4.1"),
        ("telemetry.sdk.name", "opentelemetry"),
        ("telemetry.sdk.language", "java"),
        ("telemetry.sdk.version", "1.50.0"),
        ("process.runtime.name", "OpenJDK Runtime Environment"),
        ("host.arch", "amd64"),
        ("os.type", "linux"),
    ];
    let attributes = attributes.iter().map(|(key, value)| string(key, value)).collect();
    let entry = ResourceSpans {
        resource: Some(Resource { attributes, ..Resource::default() }),
        scope_spans: vec![ScopeSpans { spans: (0..spans).map(span).collect(), ..ScopeSpans::default() }],
        ..ResourceSpans::default()
    };
    let body = ExportTraceServiceRequest { resource_spans: vec![entry] }.encode_to_vec();
    Request::parse(Signal::Traces, body.into(), &Limits::default()).expect("prost wrote it")
}

fn pod(index: u8) -> Value {
    json!({
        "metadata": {"name": format!("checkout-6d4cf56db6-{index:05}"), "namespace": "shop",
            "uid": format!("6f1c0d3e-8f5d-4f7e-9a53-0000000000{index:02x}"),
            "labels": {"pod-template-hash": "6d4cf56db6", "app.kubernetes.io/name": "checkout", "tier": "backend"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "checkout-6d4cf56db6",
                "uid": "rs", "controller": true}]},
        "spec": {"nodeName": "node-1", "containers": [{"name": "app", "image": "registry.local/shop/checkout:2.4.1"}]},
        "status": {"phase": "Running", "podIP": format!("10.1.0.{index}"), "startTime": "2026-01-01T00:00:00Z"},
    })
}

/// Nanoseconds of the best round.
fn best(mut round: impl FnMut()) -> f64 {
    (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            round();
            start.elapsed().as_nanos() as f64
        })
        .fold(f64::INFINITY, f64::min)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let rules = json!({"labels": [{"key": "app.kubernetes.io/name"}, {"key": "tier"}]});
    let extract = serde_json::from_value(rules).expect("the keys are known");
    let config = Config { extract, ..Config::default() };
    let registry = Registry::new();
    let pods = (1..=PODS).map(pod).collect();
    let attributes = K8sAttributes::fixed(&config, &registry, pods).expect("they are pods");
    let caller = Caller { pod_uid: None, ip: [10, 1, 0, 42].into() };
    for spans in [1_000, 10, 1] {
        let request = request(spans);
        let enriched = attributes.enrich(&request, &caller, &[]).await;
        let grown = enriched.bytes().len() - request.bytes().len();
        let enrich = best(|| {
            // Nothing is waited for, so the first poll completes it.
            drop(black_box(futures_util::FutureExt::now_or_never(attributes.enrich(
                black_box(&request),
                &caller,
                &[],
            ))));
        });
        let parse = best(|| {
            let body = black_box(request.bytes().clone());
            drop(black_box(Request::parse(Signal::Traces, body, &Limits::default())));
        });
        println!(
            "{spans} spans, {} bytes, {grown} added: enrich {enrich:.0} ns a request, {:.1} ns a span; to compare, parse {:.1} ns a span",
            request.bytes().len(),
            enrich / spans as f64,
            parse / spans as f64
        );
    }
    let page = registry.encode();
    let bytes = page.lines().find_map(|line| line.strip_prefix("mirador_k8sattributes_table_bytes "));
    println!("{PODS} pods: {} bytes", bytes.unwrap_or("?"));
}
