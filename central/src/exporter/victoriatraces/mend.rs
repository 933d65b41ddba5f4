//! Which spans VictoriaTraces would lose, and what can be done about them.
//!
//! Never: touches the network or a counter.

use std::collections::BTreeMap;

use mirador_otlp::{Limits, Request, Signal};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use crate::exporter::{ExportError, is_id};

/// Marks a span whose times were mended; the value says what was wrong.
pub const MENDED: &str = "mirador.mended";

/// What is wrong with a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    NoTraceId,
    NoSpanId,
    NoEnd,
    EndsBeforeStart,
}

impl Fault {
    fn of(trace_id: &[u8], span_id: &[u8], start: u64, end: u64) -> Option<Self> {
        if !is_id(trace_id, 16) {
            Some(Self::NoTraceId)
        } else if !is_id(span_id, 8) {
            Some(Self::NoSpanId)
        } else if end == 0 {
            Some(Self::NoEnd)
        } else if end < start {
            Some(Self::EndsBeforeStart)
        } else {
            None
        }
    }

    /// The label value.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::NoTraceId => "no_trace_id",
            Self::NoSpanId => "no_span_id",
            Self::NoEnd => "no_end_time",
            Self::EndsBeforeStart => "end_before_start",
        }
    }

    /// Whether such a span is kept.
    pub(super) fn is_mended(self) -> bool {
        matches!(self, Self::NoEnd | Self::EndsBeforeStart)
    }
}

/// A request that can be stored whole, and the spans that were changed or left out on the way.
pub(super) struct Mended {
    pub(super) request: Request,
    pub(super) faults: BTreeMap<Fault, u64>,
}

/// Whether every span can be stored as it is.
pub(super) fn is_sound(request: &Request) -> bool {
    let mut scopes = request.resource_spans().flat_map(|resource| resource.scopes());
    scopes.all(|scope| {
        scope.spans().all(|span| {
            let (start, end) = (span.start_time_unix_nano(), span.end_time_unix_nano());
            Fault::of(span.trace_id(), span.span_id(), start, end).is_none()
        })
    })
}

/// Decodes, mends and encodes; `now_unix_nano` is when a span without any time happened.
pub(super) fn mend(request: &Request, now_unix_nano: u64) -> Result<Mended, ExportError> {
    let unreadable = |error: &dyn std::fmt::Display| ExportError::Drop {
        reason: format!("victoriatraces: cannot mend the spans of a request: {error}"),
    };
    let mut decoded = ExportTraceServiceRequest::decode(request.bytes().clone()).map_err(|error| unreadable(&error))?;
    let mut faults = BTreeMap::new();
    for scope in decoded.resource_spans.iter_mut().flat_map(|resource| &mut resource.scope_spans) {
        scope.spans.retain_mut(|span| {
            let (start, end) = (span.start_time_unix_nano, span.end_time_unix_nano);
            let Some(fault) = Fault::of(&span.trace_id, &span.span_id, start, end) else { return true };
            *faults.entry(fault).or_default() += 1;
            if fault.is_mended() {
                without_duration(span, fault, now_unix_nano);
            }
            fault.is_mended()
        });
    }
    let request = Request::parse(Signal::Traces, decoded.encode_to_vec().into(), &Limits::default())
        .map_err(|error| unreadable(&error))?;
    Ok(Mended { request, faults })
}

/// Gives the span a duration of zero and says why.
fn without_duration(span: &mut Span, fault: Fault, now_unix_nano: u64) {
    if span.start_time_unix_nano == 0 {
        // Without any time it would be filed under 1970, outside every retention.
        span.start_time_unix_nano = now_unix_nano;
    }
    span.end_time_unix_nano = span.start_time_unix_nano;
    span.attributes.push(KeyValue {
        key: MENDED.to_owned(),
        value: Some(AnyValue { value: Some(any_value::Value::StringValue(fault.as_str().to_owned())) }),
        ..KeyValue::default()
    });
}
