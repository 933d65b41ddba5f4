//! The tap against a naive recomputation over all spans, and its own rules one by one.

use std::collections::BTreeMap;

use mirador_otlp::{Limits, Signal};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;

use super::*;
use crate::config::Dimension;
use crate::{Exemplars, Point, SeriesKey};

mod against_the_oracle;
mod rules;

/// A span with its resource: the unit that the tests deal out to requests.
#[derive(Debug, Clone)]
struct Item {
    resource: Vec<KeyValue>,
    span: Span,
}

type Merged = BTreeMap<SeriesKey, Point>;

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

/// A server span of 5 ms with valid ids made of `id`.
fn span(id: u64, name: &str) -> Span {
    Span {
        trace_id: u128::from(id / 4 + 1).to_be_bytes().into(),
        span_id: (id + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes().into(),
        name: name.into(),
        kind: 2,
        start_time_unix_nano: 1_000_000_000,
        end_time_unix_nano: 1_005_000_000,
        ..Span::default()
    }
}

fn item(id: u64, service: &str, name: &str) -> Item {
    Item { resource: vec![text("service.name", service)], span: span(id, name) }
}

/// One request; neighbours of the same resource share a `ResourceSpans`, every third span opens a
/// scope of its own.
fn request(items: &[Item]) -> Request {
    let mut message = ExportTraceServiceRequest::default();
    for chunk in items.chunk_by(|one, next| one.resource == next.resource) {
        let scopes = chunk.chunks(3).map(|chunk| ScopeSpans {
            spans: chunk.iter().map(|item| item.span.clone()).collect(),
            ..ScopeSpans::default()
        });
        message.resource_spans.push(ResourceSpans {
            resource: Some(Resource { attributes: chunk[0].resource.clone(), ..Resource::default() }),
            scope_spans: scopes.collect(),
            ..ResourceSpans::default()
        });
    }
    Request::parse(Signal::Traces, message.encode_to_vec().into(), &Limits::default())
        .expect("an encoded message is valid")
}

/// The window's series as central sees them: split over owners, encoded, decoded, merged.
fn merge_deltas(window: Window, into: &mut Merged) {
    for (_, delta) in window.split(|service| service.len() % 3) {
        let bytes = delta.encode_to_vec();
        let delta = mirador_proto::red::ExportRedRequest::decode(&*bytes).expect("own bytes");
        for (key, point) in crate::decode(&delta).expect("own deltas are valid") {
            into.entry(key).or_default().merge(&point);
        }
    }
}

fn closed(tap: &mut Tap) -> Merged {
    let mut merged = Merged::new();
    if let Some(window) = tap.close(99) {
        merge_deltas(window, &mut merged);
    }
    merged
}

fn labels(key: &SeriesKey) -> BTreeMap<String, String> {
    key.labels().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
