//! Prints what validating, reading, splitting and merging cost per span.
//!
//! `cargo run --release -p mirador-otlp --example scan`. The payload is built in: 1,000 spans of
//! about 470 bytes with 8 to 10 attributes under 10 resources. Each figure is the best of many
//! rounds, in wall time on one thread. A figure is printed and never asserted.

#![expect(clippy::print_stdout, reason = "printing figures is what this program is for")]

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use mirador_otlp::value::Value;
use mirador_otlp::{Limits, Request, Signal, splice};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;

/// The allocator of both processes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const RESOURCES: usize = 10;
const SPANS_PER_RESOURCE: usize = 100;
const SPANS: usize = RESOURCES * SPANS_PER_RESOURCE;
const OWNERS: usize = 3;
const ROUNDS: usize = 2_000;

fn attribute(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn string(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, any_value::Value::StringValue(value.into()))
}

fn int(key: &str, value: i64) -> KeyValue {
    attribute(key, any_value::Value::IntValue(value))
}

/// A small generator (splitmix64), so that the payload is the same in every run.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn span(index: u64) -> Span {
    let random = mix(index);
    let start = 1_700_000_000_000_000_000 + index * 1_000_003;
    let route = ["/api/cart", "/api/orders/{id}", "/api/users/{id}/profile", "/health"][(random % 4) as usize];
    let mut attributes = vec![
        string("http.request.method", ["GET", "POST", "PUT"][(random % 3) as usize]),
        string("url.path", format!("{route}/{}", random % 10_000)),
        string("http.route", route),
        int("http.response.status_code", [200, 201, 404, 500][(random >> 8 & 3) as usize]),
        string("server.address", "checkout.shop.svc.cluster.local"),
        string("thread.name", "http-nio-8080-exec-7"),
        int("server.port", 8080),
        string("user_agent.original", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    ];
    if random & 1 == 0 {
        attributes.push(string("client.address", format!("10.{}.{}.{}", random >> 8 & 255, random >> 16 & 255, 7)));
    }
    if random & 2 == 0 {
        attributes.push(attribute("app.sampled", any_value::Value::BoolValue(true)));
    }
    Span {
        trace_id: [mix(index / 5), mix(index / 5 + 7)].map(u64::to_be_bytes).concat(),
        span_id: random.to_be_bytes().to_vec(),
        parent_span_id: mix(index + 1).to_be_bytes().to_vec(),
        name: format!("GET {route}"),
        kind: (random % 5 + 1) as i32,
        start_time_unix_nano: start,
        end_time_unix_nano: start + random % 1_000_000_000,
        attributes,
        status: Some(Status { code: (random % 3) as i32, message: String::new() }),
        flags: 257,
        ..Span::default()
    }
}

fn payload() -> ExportTraceServiceRequest {
    let resource = |resource: usize| ResourceSpans {
        resource: Some(Resource {
            attributes: vec![
                string("service.name", format!("service-{resource}")),
                string("service.instance.id", format!("{:032x}", mix(resource as u64))),
                string("k8s.pod.name", format!("service-{resource}-7f9c4b9d8-x2x7q")),
                string("k8s.namespace.name", "shop"),
                string("telemetry.sdk.language", "java"),
            ],
            ..Resource::default()
        }),
        scope_spans: vec![ScopeSpans {
            scope: Some(InstrumentationScope {
                name: "io.opentelemetry.http".to_owned(),
                version: "2.1.0".to_owned(),
                ..InstrumentationScope::default()
            }),
            spans: (0..SPANS_PER_RESOURCE).map(|at| span((resource * SPANS_PER_RESOURCE + at) as u64)).collect(),
            schema_url: "https://opentelemetry.io/schemas/1.27.0".to_owned(),
        }],
        schema_url: String::new(),
    };
    ExportTraceServiceRequest { resource_spans: (0..RESOURCES).map(resource).collect() }
}

/// The best round, in nanoseconds per span.
fn measure(name: &str, mut work: impl FnMut()) {
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        work();
        best = best.min(begin.elapsed().as_nanos() as f64 / SPANS as f64);
    }
    println!("{name:<44} {best:7.1} ns/span");
}

/// What a RED tap reads: name, kind, status, duration and a look at every attribute's key.
fn red(request: &Request) -> u64 {
    let mut sum = 0u64;
    for resource in request.resource_spans() {
        sum = sum.wrapping_add(resource.resource().raw_hash());
        for scope in resource.scopes() {
            for span in scope.spans() {
                sum = sum
                    .wrapping_add(span.end_time_unix_nano().wrapping_sub(span.start_time_unix_nano()))
                    .wrapping_add(span.name().len() as u64)
                    .wrapping_add(span.kind() as u64 + span.status_code() as u64);
                if let Some(Value::Int(status)) = span.attributes().get("http.response.status_code") {
                    sum = sum.wrapping_add(status as u64);
                }
                if let Some(Value::Str(absent)) = span.attributes().get("rpc.service.name") {
                    sum = sum.wrapping_add(absent.len() as u64);
                }
            }
        }
    }
    sum
}

fn spans(request: &Request) -> impl Iterator<Item = mirador_otlp::traces::Span<'_>> {
    request.resource_spans().flat_map(|resource| resource.scopes()).flat_map(|scope| scope.spans())
}

fn by_trace(span: &mirador_otlp::traces::Span<'_>) -> usize {
    span.trace_id_array().map_or(0, |id| usize::from(id[7]) % OWNERS)
}

fn main() {
    let decoded = payload();
    let body = Bytes::from(decoded.encode_to_vec());
    let limits = Limits::default();
    let request = Request::parse(Signal::Traces, body.clone(), &limits).expect("the payload is valid");
    println!("{SPANS} spans, {} bytes, {} a span", body.len(), body.len() / SPANS);

    measure("validate (Request::parse)", || {
        black_box(Request::parse(Signal::Traces, black_box(body.clone()), &limits).is_ok());
    });
    measure("read: top-level fields of every span", || {
        black_box(spans(&request).map(|span| span.kind() as usize + span.trace_id().len()).sum::<usize>());
    });
    measure("read: RED with 2 attributes by key", || {
        black_box(red(black_box(&request)));
    });
    measure("read: every attribute as an entry, one value", || {
        let attributes = spans(&request).flat_map(|span| span.attributes().entries());
        let values =
            attributes.filter(|one| one.key == b"http.route").map(|one| one.value().as_str().map_or(0, str::len));
        black_box(values.sum::<usize>());
    });
    measure("read: every attribute, key and value", || {
        let attributes = spans(&request).flat_map(|span| span.attributes().iter());
        black_box(attributes.map(|one| one.key.len() + usize::from(matches!(one.value, Value::Str(_)))).sum::<usize>());
    });
    measure("split by trace id over 3 owners", || {
        black_box(splice::split_spans(black_box(&request), OWNERS, by_trace));
    });
    measure("split by trace id, one owner (no copy)", || {
        black_box(splice::split_spans(black_box(&request), 1, by_trace));
    });
    measure("split by resource over 3 owners", || {
        black_box(splice::split_resources(black_box(&request), OWNERS, |resource| (resource.identity() % 3) as usize));
    });
    let parts: Vec<Bytes> =
        splice::split_spans(&request, OWNERS, by_trace).into_iter().map(|part| part.bytes).collect();
    measure("merge of 3 parts", || {
        black_box(splice::merge(black_box(&parts)));
    });
    measure("resource identity (per span, 1 in 100)", || {
        black_box(request.resource_spans().map(|entry| entry.resource().identity() as u64).fold(0, u64::wrapping_add));
    });
    measure("the agent's part: validate + RED + split", || {
        let Ok(request) = Request::parse(Signal::Traces, black_box(body.clone()), &limits) else { return };
        black_box(splice::split_spans(&request, OWNERS, by_trace));
        black_box(red(&request));
    });
    measure("for comparison: prost decode", || {
        black_box(ExportTraceServiceRequest::decode(black_box(body.clone())).is_ok());
    });
}
