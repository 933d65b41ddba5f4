//! Stand-ins for the ends of central, and spans by the handful. Compiled for tests only.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use mirador_otlp::{Limits, Request, Signal};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::{metric, number_data_point};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use tonic::Code;

use crate::exporter::{ExportError, Stored, TraceStore};
use crate::metrics_out::{MetricsOut, Sent};
use mirador_transport::{Accepted, Refusal};

/// One span of a service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spanned {
    pub(crate) service: &'static str,
    /// As OTLP numbers it.
    pub(crate) kind: i32,
    pub(crate) trace: u8,
    pub(crate) id: u8,
    /// 0: none.
    pub(crate) parent: u8,
    /// Trace and span of a link; zeros: none.
    pub(crate) link: (u8, u8),
}

pub(crate) fn span(service: &'static str, kind: i32, trace: u8, id: u8, parent: u8) -> Spanned {
    Spanned { service, kind, trace, id, parent, link: (0, 0) }
}

/// The wire form of a request with one resource per span. Every span takes 5 ms.
pub(crate) fn traces(spans: &[Spanned]) -> Bytes {
    use opentelemetry_proto::tonic::trace::v1::span::Link;
    let resource_spans = spans.iter().map(|span| ResourceSpans {
        resource: Some(Resource { attributes: vec![attribute("service.name", span.service)], ..Resource::default() }),
        scope_spans: vec![ScopeSpans {
            spans: vec![Span {
                trace_id: vec![span.trace; 16],
                span_id: vec![span.id; 8],
                parent_span_id: if span.parent == 0 { Vec::new() } else { vec![span.parent; 8] },
                name: "work".to_owned(),
                kind: span.kind,
                start_time_unix_nano: 1_700_000_000_000_000_000,
                end_time_unix_nano: 1_700_000_000_005_000_000,
                links: (span.link.0 > 0)
                    .then(|| Link { trace_id: vec![span.link.0; 16], span_id: vec![span.link.1; 8], ..Link::default() })
                    .into_iter()
                    .collect(),
                ..Span::default()
            }],
            ..ScopeSpans::default()
        }],
        ..ResourceSpans::default()
    });
    ExportTraceServiceRequest { resource_spans: resource_spans.collect() }.encode_to_vec().into()
}

/// The same as a parsed request.
pub(crate) fn request(spans: &[Spanned]) -> Request {
    Request::parse(Signal::Traces, traces(spans), &Limits::default()).unwrap()
}

fn attribute(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) }),
        ..KeyValue::default()
    }
}

/// A trace store that refuses the first few requests and counts the spans of the others.
#[derive(Debug, Default)]
pub(crate) struct FakeStore {
    pub(crate) refusals: AtomicUsize,
    pub(crate) spans: AtomicUsize,
    /// Refuse for good instead of for now.
    pub(crate) is_poisoned: bool,
}

impl TraceStore for FakeStore {
    fn store<'a>(&'a self, request: &'a Request) -> Stored<'a> {
        Box::pin(async move {
            if self.is_poisoned {
                return Err(ExportError::Drop { reason: "poison".to_owned() });
            }
            let left = self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            if left.is_ok() {
                return Err(ExportError::Retry { after: None, reason: "not now".to_owned() });
            }
            self.spans.fetch_add(request.items(), Ordering::SeqCst);
            Ok(())
        })
    }
}

/// A way out that refuses the first few requests and keeps the others.
#[derive(Debug, Default)]
pub(crate) struct FakeOut {
    pub(crate) refusals: AtomicUsize,
    requests: Mutex<Vec<Bytes>>,
}

impl MetricsOut for FakeOut {
    fn send(&self, request: Request) -> Sent<'_> {
        Box::pin(async move {
            let left = self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            if left.is_ok() {
                return Err(Refusal {
                    code: Code::Unavailable,
                    message: "not now".to_owned(),
                    retry_after: None,
                    reason: "test",
                });
            }
            self.requests.lock().unwrap().push(request.bytes().clone());
            Ok(Accepted::default())
        })
    }
}

impl FakeOut {
    /// The last value of every counter, by `name{label values}` with the labels in the order of the wire.
    pub(crate) fn totals(&self) -> BTreeMap<String, i64> {
        let mut totals = BTreeMap::new();
        for bytes in self.requests.lock().unwrap().iter() {
            let decoded = ExportMetricsServiceRequest::decode(bytes.clone()).unwrap();
            let scopes = decoded.resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics);
            for metric in scopes.flat_map(|scope| scope.metrics) {
                let Some(metric::Data::Sum(sum)) = metric.data else { continue };
                for point in sum.data_points {
                    let labels: Vec<_> = point.attributes.iter().map(value).collect();
                    let Some(number_data_point::Value::AsInt(value)) = point.value else { continue };
                    totals.insert(format!("{}{{{}}}", metric.name, labels.join(",")), value);
                }
            }
        }
        totals
    }

    pub(crate) fn shared() -> Arc<Self> {
        Arc::new(Self::default())
    }
}

fn value(attribute: &KeyValue) -> String {
    match attribute.value.clone().unwrap().value.unwrap() {
        Value::StringValue(text) => text,
        Value::BoolValue(value) => value.to_string(),
        other => panic!("unexpected {other:?}"),
    }
}
