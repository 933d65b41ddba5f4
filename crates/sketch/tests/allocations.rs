//! What the tap takes from the allocator: nothing for spans of known series, and little per series.

use allocation_counter::measure;
use mirador_otlp::{Limits, Request, Signal, splice};
use mirador_sketch::{Config, Dimension, Tap};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// Spans `ids` of 100 services, whose names and durations follow from `series_of` and the id.
fn request(ids: std::ops::Range<u64>, series_of: impl Fn(u64) -> u64) -> Request {
    let resource_spans = |service: u64| {
        let spans = ids.clone().filter(|id| series_of(*id) % 100 == service).map(|id| {
            let random = id.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            Span {
                trace_id: u128::from(random | 1).to_be_bytes().into(),
                span_id: (random | 1).to_be_bytes().into(),
                name: format!("GET /products/{}/reviews", series_of(id) / 100),
                kind: 2,
                start_time_unix_nano: 1_000,
                end_time_unix_nano: 10_000_000 + (random >> 40) % 70_000_000,
                attributes: vec![attribute("http.response.status_code", Value::IntValue(200))],
                ..Span::default()
            }
        });
        let name = Value::StringValue(format!("service-{service}"));
        ResourceSpans {
            resource: Some(Resource { attributes: vec![attribute("service.name", name)], ..Resource::default() }),
            scope_spans: vec![ScopeSpans { spans: spans.collect(), ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        }
    };
    let message = ExportTraceServiceRequest { resource_spans: (0..100).map(resource_spans).collect() };
    Request::parse(Signal::Traces, message.encode_to_vec().into(), &Limits::default())
        .expect("an encoded message is valid")
}

fn config() -> Config {
    let name = "http.response.status_code".into();
    Config { dimensions: vec![Dimension { name, default: None }], ..Config::default() }
}

#[test]
fn spans_of_known_series_take_nothing_from_the_allocator() {
    let mut tap = Tap::new(&config(), 1);
    // 100 series, warmed until every histogram bucket they can touch exists.
    for round in 0..40 {
        tap.observe(&request(round * 1_000..(round + 1) * 1_000, |id| id % 100), 5);
    }
    let series = tap.series();
    assert_eq!(series, 100);
    let mut total = 0;
    for round in 40..50 {
        let request = request(round * 1_000..(round + 1) * 1_000, |id| id % 100);
        total += measure(|| assert_eq!(tap.observe(&request, 5).spans, 1_000)).count_total;
    }
    assert_eq!(tap.series(), series);
    // The rare histogram bucket that is new makes a table grow now and then, and so does the
    // memory of fingerprints: per span, amortised, it is nothing.
    assert!(total <= 100, "{total} allocations for 10000 spans");
}

/// One service's spans of 100 known series.
fn of_one_service(ids: std::ops::Range<u64>) -> bytes::Bytes {
    request(ids, |id| id % 100 * 100).bytes().clone()
}

#[test]
fn the_way_of_a_request_allocates_per_request_and_not_per_span() {
    let mut tap = Tap::new(&config(), 1);
    for round in 0..40 {
        let known =
            Request::parse(Signal::Traces, of_one_service(round * 5_000..(round + 1) * 5_000), &Limits::default());
        tap.observe(&known.expect("an encoded message is valid"), 5);
    }
    // Parse, split over three owners, count: what the agent does with a request between its socket and its owners.
    let mut allocations = |first: u64, spans: u64, requests: u64| {
        let bodies: Vec<_> =
            (0..requests).map(|at| of_one_service(first + at * spans..first + (at + 1) * spans)).collect();
        let counted = measure(|| {
            for body in &bodies {
                let request = Request::parse(Signal::Traces, body.clone(), &Limits::default()).expect("valid");
                let parts = splice::split_spans(&request, 3, |span| usize::from(span.span_id()[7] >> 1) % 3);
                assert_eq!(parts.len(), 3);
                assert_eq!(tap.observe(&request, 5).spans as u64, spans);
            }
        });
        counted.count_total as f64 / requests as f64
    };
    let (small, large) = (allocations(1_000_000, 100, 200), allocations(2_000_000, 5_000, 20));
    println!("{small} allocations in a request of 100 spans, {large} in one of 5000");
    assert!(small < 30.0 && large < 30.0, "{small} and {large} allocations in a request");
    // Fifty times the spans, and what tables grow by now and then.
    assert!(large - small < 5.0, "{small} allocations in a request of 100 spans, {large} in one of 5000");
}

#[test]
fn ten_thousand_series_with_spread_durations_stay_below_sixteen_mebibytes() {
    // 64 spans each over three powers of two: about 60 touched histogram buckets a series.
    let requests: Vec<_> =
        (0..64).map(|round| request(round * 10_000..(round + 1) * 10_000, |id| id % 10_000)).collect();
    let mut tap = Tap::new(&config(), 1);
    let info = measure(|| {
        for request in &requests {
            tap.observe(request, 5);
        }
    });
    assert_eq!(tap.series(), 10_000);
    let bytes = info.bytes_current;
    assert!(bytes < 16 << 20, "{} bytes a series", bytes / 10_000);
    let own = tap.series_bytes() as i64;
    assert!(bytes - own < 1 << 20, "{bytes} taken, {own} known to the table");
}
