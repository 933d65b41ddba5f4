//! What the hot path allocates, counted.

use bytes::Bytes;
use mirador_otlp::{Limits, Request, Signal, splice};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;

fn request(spans: usize) -> Bytes {
    let span = |index: usize| Span {
        trace_id: index.to_be_bytes().repeat(2),
        span_id: index.to_be_bytes().to_vec(),
        name: "GET /api/cart".to_owned(),
        attributes: vec![KeyValue {
            key: "http.route".to_owned(),
            value: Some(AnyValue { value: Some(any_value::Value::StringValue("/api/cart/größe".to_owned())) }),
            ..KeyValue::default()
        }],
        ..Span::default()
    };
    let scope = ScopeSpans { spans: (1..=spans).map(span).collect(), ..ScopeSpans::default() };
    let resource = ResourceSpans { scope_spans: vec![scope], ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource] }.encode_to_vec().into()
}

#[test]
fn parsing_and_reading_allocate_nothing() {
    let body = request(1_000);
    // The first clone of `Bytes` makes them shared, which takes an allocation.
    let shared = body.clone();
    let mut seen = 0;
    let counted = allocation_counter::measure(|| {
        let request = Request::parse(Signal::Traces, shared.clone(), &Limits::default()).expect("prost wrote it");
        for span in request.resource_spans().flat_map(|entry| entry.scopes()).flat_map(|scope| scope.spans()) {
            seen += span.name().len() + span.attributes().iter().count();
            seen += usize::from(span.attributes().get("http.route").is_some());
        }
    });
    assert_eq!(seen, 1_000 * (13 + 2));
    assert_eq!(counted.count_total, 0);
}

#[test]
fn a_split_allocates_per_part_and_not_per_span() {
    let split = |spans: usize| {
        let request = Request::parse(Signal::Traces, request(spans), &Limits::default()).expect("prost wrote it");
        allocation_counter::measure(|| {
            let parts = splice::split_spans(&request, 3, |span| usize::from(span.trace_id()[7]) % 3);
            assert_eq!(parts.len(), 3);
        })
    };
    let (few, many) = (split(30), split(30_000));
    assert_eq!(few.count_total, many.count_total);
    assert!(many.count_total <= 24, "{many:?}");
    // Bytes: the parts, the plan of 12 bytes a span, and little else.
    assert!(many.bytes_max as usize <= request(30_000).len() + 12 * 30_000 + 4_096, "{many:?}");
}
