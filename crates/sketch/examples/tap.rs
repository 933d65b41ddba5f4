//! Measures the tap: nanoseconds per span on top of reading the spans, and bytes per series.
//!
//! `cargo run --release -p mirador-sketch --example tap`
//!
//! Spans are those of a web shop: 11 attributes and about 600 bytes each, one resource a request.
//! "read" walks the same spans and takes the fields that the tap takes; "tap" is `Tap::observe`
//! without the time for reading.

#![expect(clippy::print_stdout, reason = "printing is what the example is for")]

use std::hint::black_box;
use std::time::Instant;

use mirador_otlp::{Limits, Request, Signal};
use mirador_sketch::{Config, Dimension, Tap};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;

const SPANS: u64 = 1_000_000;

fn main() {
    let plain = Config::default();
    let mut with_dimensions = Config::default();
    for name in ["http.request.method", "http.response.status_code"] {
        with_dimensions.dimensions.push(Dimension { name: name.into(), default: None });
    }
    println!("spans/request  series  dimensions  read ns/span  tap ns/span  bytes/series");
    for per_request in [10, 100, 1_000] {
        for series in [100, 10_000] {
            measure(per_request, series, &plain);
        }
    }
    measure(1_000, 100, &with_dimensions);
    measure(1_000, 10_000, &with_dimensions);
}

fn measure(per_request: u64, series: u64, config: &Config) {
    let requests: Vec<_> = (0..SPANS / per_request).map(|at| request(at * per_request, per_request, series)).collect();
    let mut tap = Tap::new(config, 7);
    let start = Instant::now();
    let (mut reading, mut tapping) = (u64::MAX, u64::MAX);
    let mut bytes = 0;
    for round in 0..5 {
        let before = cpu_nanos(start);
        black_box(requests.iter().map(read).fold(0, u64::wrapping_add));
        reading = reading.min(cpu_nanos(start) - before);
        // Far enough apart that no round is a repeat of the one before.
        let time = (round + 1) * 1_000_000_000_000;
        let before = cpu_nanos(start);
        let counted: usize = requests.iter().map(|one| tap.observe(one, time).spans).sum();
        tapping = tapping.min(cpu_nanos(start) - before);
        assert_eq!(counted as u64, SPANS, "every span is counted in every round");
        bytes = tap.series_bytes() / tap.series();
        drop(tap.close(time + 1));
    }
    let each = |nanos: u64| nanos as f64 / SPANS as f64;
    println!(
        "{per_request:>13}  {series:>6}  {:>10}  {:>12.1}  {:>11.1}  {bytes:>12}",
        config.dimensions.len(),
        each(reading),
        each(tapping) - each(reading),
    );
}

/// What this thread has spent on a processor, so that other processes disturb the figures less;
/// time since `start` where Linux' scheduler statistics are not to be had.
fn cpu_nanos(start: Instant) -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let spent = text.split(' ').next().and_then(|field| field.parse().ok());
    spent.unwrap_or(start.elapsed().as_nanos() as u64)
}

/// Takes of every span what the tap takes.
fn read(request: &Request) -> u64 {
    let mut sum = 0_u64;
    for resource_spans in request.resource_spans() {
        for scope in resource_spans.scopes() {
            for span in scope.spans() {
                let ids = u64::from(span.span_id()[7]) + u64::from(span.trace_id()[15]);
                let times = span.end_time_unix_nano() - span.start_time_unix_nano();
                let codes = (span.kind() + span.status_code()) as u64;
                let texts = (span.name().len() + span.trace_state().len()) as u64;
                sum = sum.wrapping_add(ids + times + codes + texts);
            }
        }
    }
    sum
}

fn request(first: u64, spans: u64, series: u64) -> Request {
    let message = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: vec![
                    text("service.name", &format!("service-{}", first / spans % 10)),
                    text("host.name", "node-1.cluster.example"),
                    text("k8s.pod.name", "checkout-6b9f7c5d4-x2x7z"),
                ],
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans {
                spans: (first..first + spans).map(|id| span(id, series)).collect(),
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    };
    Request::parse(Signal::Traces, message.encode_to_vec().into(), &Limits::default())
        .expect("an encoded message is valid")
}

fn span(id: u64, series: u64) -> Span {
    // splitmix64's finaliser: durations and series in no order.
    let mut random = id.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    random = (random ^ (random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    random ^= random >> 27;
    let names = (series / 10).max(1);
    let mut attributes: Vec<_> =
        (0..9).map(|at| text(&format!("app.attribute.number.{at}"), "a value of usual length, 32 bytes")).collect();
    attributes.insert(3, text("http.request.method", "GET"));
    attributes.push(KeyValue {
        key: "http.response.status_code".into(),
        value: Some(AnyValue { value: Some(Value::IntValue(200)) }),
        ..KeyValue::default()
    });
    Span {
        trace_id: u128::from(random | 1).to_be_bytes().into(),
        span_id: (id + 1).to_be_bytes().into(),
        name: format!("GET /api/v1/products/{}", random % names),
        kind: 2,
        start_time_unix_nano: 1_700_000_000_000_000_000,
        end_time_unix_nano: 1_700_000_000_000_000_000 + 5_000_000 + (random >> 20) % 60_000_000,
        attributes,
        ..Span::default()
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(Value::StringValue(value.into())) }),
        ..KeyValue::default()
    }
}
