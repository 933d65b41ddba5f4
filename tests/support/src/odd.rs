//! Spans that are easy to count wrongly: on a bucket bound, backwards, a day long, sampled, without a service.
//!
//! The same start gives the same spans. Never: reads a clock.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

use crate::shop::Random;

const MS: i64 = 1_000_000;

/// Durations in nanoseconds: none, backwards, on and just above bounds of the default buckets, a day.
const DURATIONS: [i64; 9] = [0, -5 * MS, 1, 2 * MS, 2 * MS + 1, 50 * MS, 15_000 * MS, 15_000 * MS + 1, 86_400_000 * MS];

/// Trace states and the number of spans that one with it stands for (OpenTelemetry, `TraceState` probability
/// sampling); those that say nothing that can be read stand for themselves.
pub const SAMPLED: [(&str, u64); 8] = [
    ("ot=th:0", 1),
    ("ot=th:8", 2),
    ("ot=th:c", 4),
    ("ot=th:f", 16),
    ("vendor=a:b,ot=rv:6e6d1a75832a2f;th:8", 2),
    ("ot=th:zz", 1),
    ("ot=rv:6e6d1a75832a2f", 1),
    ("vendor=th:8", 1),
];

/// Makes spans with ids of their own.
#[derive(Debug)]
pub struct Maker {
    random: Random,
    start: u64,
}

impl Maker {
    /// Spans that start at `start` (Unix nanoseconds); their ids follow from `seed`.
    pub fn new(seed: u64, start: u64) -> Self {
        Self { random: Random::new(seed), start }
    }

    /// A root span of a kind, as OTLP numbers it, that ends `nanos` after its start.
    pub fn span(&mut self, name: &str, kind: i32, nanos: i64) -> Span {
        Span {
            trace_id: self.random.id::<16>(),
            span_id: self.random.id::<8>(),
            name: name.to_owned(),
            kind,
            start_time_unix_nano: self.start,
            end_time_unix_nano: self.start.saturating_add_signed(nanos),
            ..Span::default()
        }
    }

    /// A span below another one, in its trace.
    pub fn below(&mut self, parent: &Span, name: &str, kind: i32, nanos: i64) -> Span {
        let (trace_id, parent_span_id) = (parent.trace_id.clone(), parent.span_id.clone());
        Span { trace_id, parent_span_id, ..self.span(name, kind, nanos) }
    }
}

/// A text attribute.
pub fn text(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) }),
        ..KeyValue::default()
    }
}

/// A request of one resource.
pub fn request(resource: Vec<KeyValue>, spans: Vec<Span>) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes: resource, ..Resource::default() }),
            scope_spans: vec![ScopeSpans { spans, ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        }],
    }
}

/// A request of one service.
pub fn of_service(name: &str, spans: Vec<Span>) -> ExportTraceServiceRequest {
    request(vec![text("service.name", name)], spans)
}

/// The span with the status ERROR.
pub fn failed(span: Span) -> Span {
    Span { status: Some(Status { code: 2, message: "no seat".to_owned() }), ..span }
}

/// Every odd span once; two of them have no service.
pub fn requests(start: u64) -> Vec<ExportTraceServiceRequest> {
    let mut make = Maker::new(5, start);
    let durations = DURATIONS.map(|nanos| make.span("durations", 2, nanos)).to_vec();
    let failing = failed(make.span("Zürich → 東京 🚆", 2, 7 * MS));
    let kinds = (0..=6).map(|kind| make.span("kinds", kind, 3 * MS)).collect();
    let with_pod = |pod: &str| vec![text("service.name", "twins"), text("k8s.pod.uid", pod), text("host.name", pod)];
    vec![
        of_service("durations", durations),
        of_service("unicode-Größe-株式会社", vec![failing]),
        of_service("kinds", kinds),
        request(vec![text("host.name", "nobody")], vec![make.span("skipped", 2, 1)]),
        of_service("", vec![make.span("skipped", 2, 1)]),
        // Resources that differ only in attributes that are no labels add up.
        request(with_pod("a"), vec![make.span("shared", 2, 3 * MS), make.span("shared", 2, 5 * MS)]),
        request(with_pod("b"), vec![make.span("shared", 2, 9 * MS)]),
    ]
}

/// One request with a span of each state of [`SAMPLED`], each span named by it.
pub fn sampled(start: u64) -> ExportTraceServiceRequest {
    let mut make = Maker::new(6, start);
    let span = |(state, _): (&str, u64)| Span { trace_state: state.to_owned(), ..make.span(state, 2, 3 * MS) };
    of_service("sampled", SAMPLED.map(span).to_vec())
}
