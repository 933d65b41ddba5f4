//! What the hot path allocates, counted.

use bytes::Bytes;
use mirador_otlp::{Limits, Request, Signal, splice};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
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

/// A scope with a long name and a span for each of ten owners: the name is in every part.
#[test]
fn a_split_that_would_multiply_its_request_asks_before_it_copies() {
    let name = "n".repeat(100_000);
    let scope = InstrumentationScope { name, ..InstrumentationScope::default() };
    let spans = (0..10_u8).map(|trace| Span { trace_id: vec![trace + 1; 16], ..Span::default() });
    let scope = ScopeSpans { scope: Some(scope), spans: spans.collect(), ..ScopeSpans::default() };
    let entry = ResourceSpans { scope_spans: vec![scope], ..ResourceSpans::default() };
    let body = Bytes::from(ExportTraceServiceRequest { resource_spans: vec![entry; 3] }.encode_to_vec());
    let request = Request::parse(Signal::Traces, body, &Limits::default()).expect("prost wrote it");
    let owner_of = |span: &mirador_otlp::traces::Span<'_>| usize::from(span.trace_id()[0]) - 1;
    let mut asked = 0;
    let counted = allocation_counter::measure(|| {
        let refused = splice::split_spans_within(&request, 10, owner_of, |bytes| {
            asked = bytes;
            false
        });
        assert_eq!(refused, None);
    });
    assert!(asked > 9 * request.bytes().len(), "{asked}");
    assert!(counted.bytes_max < 20_000, "{counted:?}");
    let parts = splice::split_spans(&request, 10, owner_of);
    assert_eq!(parts.iter().map(|part| part.bytes.len()).sum::<usize>(), asked);
    let mut next = 0;
    let mut by_entry = |admit: &mut dyn FnMut(usize) -> bool| {
        let owner_of = |_: &mirador_otlp::resource::Resource<'_>| {
            next += 1;
            next % 10
        };
        splice::split_resources_within(&request, 10, owner_of, admit)
    };
    assert_eq!(by_entry(&mut |_| false), None);
    let mut asked = 0;
    let parts = by_entry(&mut |bytes| {
        asked = bytes;
        true
    });
    let parts = parts.expect("it was admitted");
    assert_eq!((parts.len(), parts.iter().map(|part| part.bytes.len()).sum::<usize>()), (3, asked));
    // One owner gets the request's own bytes, for which nobody is asked.
    let whole = splice::split_spans_within(&request, 10, |_| 3, |_| false).expect("nothing is copied");
    assert_eq!(whole[0].bytes.as_ptr(), request.bytes().as_ptr());
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
