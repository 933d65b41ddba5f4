//! Which spans VictoriaTraces would lose, and what can be done about them.
//!
//! Its row of a span is filed under the span's end in some versions and under its start in others, so both have to
//! be inside of its retention.
//!
//! Never: touches the network or a counter.

mod cut;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use mirador_otlp::{Limits, Request, Signal};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;

use super::row::{self, Row};
use crate::exporter::{ExportError, is_id};

/// Marks a span that was mended; the value says what was wrong, with commas between several things.
pub const MENDED: &str = "mirador.mended";
/// Keeps the start of a span that started before the retention.
pub const STARTED: &str = "mirador.start_time_unix_nano";

const A_MINUTE: u64 = 60_000_000_000;

/// What is wrong with a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    NoTraceId,
    NoSpanId,
    TooOld,
    TooFarInFuture,
    NoEnd,
    NoStart,
    EndsBeforeStart,
    StartTooOld,
    NameTooLong,
    TooManyFields,
    RowTooBig,
}

impl Fault {
    /// The first fault of ids and times; `kept` are the times that the store keeps.
    fn of(trace_id: &[u8], span_id: &[u8], (start, end): (u64, u64), kept: &RangeInclusive<u64>) -> Option<Self> {
        if !is_id(trace_id, 16) {
            Some(Self::NoTraceId)
        } else if !is_id(span_id, 8) {
            Some(Self::NoSpanId)
        } else if end == 0 {
            Some(Self::NoEnd)
        } else if start == 0 {
            Some(Self::NoStart)
        } else if end < start {
            Some(Self::EndsBeforeStart)
        } else if end < *kept.start() {
            Some(Self::TooOld)
        } else if end > *kept.end() {
            Some(Self::TooFarInFuture)
        } else if start < *kept.start() {
            Some(Self::StartTooOld)
        } else {
            None
        }
    }

    /// The label value.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::NoTraceId => "no_trace_id",
            Self::NoSpanId => "no_span_id",
            Self::TooOld => "too_old",
            Self::TooFarInFuture => "too_far_in_future",
            Self::NoEnd => "no_end_time",
            Self::NoStart => "no_start_time",
            Self::EndsBeforeStart => "end_before_start",
            Self::StartTooOld => "start_too_old",
            Self::NameTooLong => "field_name_too_long",
            Self::TooManyFields => "too_many_fields",
            Self::RowTooBig => "row_too_big",
        }
    }

    /// Whether such a span is kept.
    pub(super) fn is_mended(self) -> bool {
        !matches!(self, Self::NoTraceId | Self::NoSpanId | Self::TooOld | Self::TooFarInFuture)
    }
}

/// A request that can be stored whole, and the spans that were changed or left out on the way.
pub(super) struct Mended {
    pub(super) request: Request,
    /// Spans by what was wrong with them; one that was wrong in several ways is in each.
    pub(super) faults: BTreeMap<Fault, u64>,
}

/// Whether every span can be stored as it is.
pub(super) fn is_sound(request: &Request, kept: &RangeInclusive<u64>) -> bool {
    request.resource_spans().all(|resource| {
        let attributes = resource.resource().attributes();
        resource.scopes().all(|scope| {
            let common = Row::common(attributes, &scope.scope());
            scope.spans().all(|span| {
                let times = (span.start_time_unix_nano(), span.end_time_unix_nano());
                Fault::of(span.trace_id(), span.span_id(), times, kept).is_none() && common.and(Row::of(&span)).fits()
            })
        })
    })
}

/// Decodes, mends and encodes; `now_unix_nano` is when a span without any time happened.
pub(super) fn mend(request: &Request, now_unix_nano: u64, kept: &RangeInclusive<u64>) -> Result<Mended, ExportError> {
    let unreadable = |error: &dyn std::fmt::Display| ExportError::Drop {
        reason: format!("victoriatraces: cannot mend the spans of a request: {error}"),
    };
    let mut decoded = ExportTraceServiceRequest::decode(request.bytes().clone()).map_err(|error| unreadable(&error))?;
    let mut faults = BTreeMap::new();
    for resource in &mut decoded.resource_spans {
        for scope in &mut resource.scope_spans {
            scope.spans.retain_mut(|span| {
                let found = mend_times(span, now_unix_nano, kept);
                count(&mut faults, &found);
                mark(span, &found);
                found.iter().all(|fault| fault.is_mended())
            });
        }
        mend_rows(resource, &mut faults);
    }
    let request = Request::parse(Signal::Traces, decoded.encode_to_vec().into(), &Limits::default())
        .map_err(|error| unreadable(&error))?;
    Ok(Mended { request, faults })
}

/// Mends what can be mended of ids and times and says what was wrong.
fn mend_times(span: &mut Span, now: u64, kept: &RangeInclusive<u64>) -> Vec<Fault> {
    let mut found = Vec::new();
    while let Some(fault) =
        Fault::of(&span.trace_id, &span.span_id, (span.start_time_unix_nano, span.end_time_unix_nano), kept)
    {
        found.push(fault);
        match fault {
            Fault::NoEnd => {
                if span.start_time_unix_nano == 0 {
                    // Without any time it would be filed under 1970, outside every retention.
                    span.start_time_unix_nano = now;
                }
                span.end_time_unix_nano = span.start_time_unix_nano;
            }
            Fault::NoStart => span.start_time_unix_nano = span.end_time_unix_nano,
            Fault::EndsBeforeStart => span.end_time_unix_nano = span.start_time_unix_nano,
            Fault::StartTooOld => {
                let started = i64::try_from(span.start_time_unix_nano).unwrap_or(i64::MAX);
                span.attributes.push(attribute(STARTED, any_value::Value::IntValue(started)));
                // The border moves on while the request is under way.
                span.start_time_unix_nano = (kept.start() + A_MINUTE).min(span.end_time_unix_nano);
            }
            _ => break,
        }
    }
    found
}

/// Brings the rows of one resource under their limits.
fn mend_rows(resource: &mut ResourceSpans, faults: &mut BTreeMap<Fault, u64>) {
    let is_too_large = |common: Row, scope: &ScopeSpans| {
        let common = common.and(scope_row(scope));
        scope.spans.iter().any(|span| !common.and(Row::of_decoded(span)).fits())
    };
    let mut common = resource_row(resource);
    if !resource.scope_spans.iter().any(|scope| is_too_large(common, scope)) {
        return;
    }
    let of_resource = resource.resource.as_mut().map(cut::resource).unwrap_or_default();
    common = resource_row(resource);
    for scope in &mut resource.scope_spans {
        let of_scope = if is_too_large(common, scope) { cut_scope(scope) } else { Vec::new() };
        let mut common = common.and(scope_row(scope));
        if !of_resource.is_empty() || !of_scope.is_empty() {
            common = common.and(cut::MARK);
        }
        for span in &mut scope.spans {
            let mut found = cut::span(span, common);
            found.extend(of_resource.iter().chain(&of_scope));
            found.sort_unstable();
            found.dedup();
            count(faults, &found);
            mark(span, &found);
        }
    }
}

fn resource_row(resource: &ResourceSpans) -> Row {
    let mut row = Row::default();
    row.decoded(resource.resource.as_ref().map_or(&[], |resource| &resource.attributes), row::RESOURCE.len());
    row
}

fn scope_row(scope: &ScopeSpans) -> Row {
    let mut row = Row::default();
    if let Some(scope) = &scope.scope {
        row.decoded(&scope.attributes, row::SCOPE.len());
        row.bytes += scope.name.len() + scope.version.len();
    }
    row
}

fn cut_scope(scope: &mut ScopeSpans) -> Vec<Fault> {
    let Some(scope) = &mut scope.scope else { return Vec::new() };
    let mut found =
        cut::common(&mut scope.attributes, &mut scope.dropped_attributes_count, row::SCOPE, cut::SCOPE_FIELDS);
    for text in [&mut scope.name, &mut scope.version] {
        if text.len() > row::MAX_BYTES / 16 {
            text.truncate(text.floor_char_boundary(row::MAX_BYTES / 16));
            found.push(Fault::RowTooBig);
        }
    }
    found
}

fn count(faults: &mut BTreeMap<Fault, u64>, found: &[Fault]) {
    // A span that is left out is counted there and nowhere else.
    let lost = found.iter().find(|fault| !fault.is_mended());
    for fault in lost.map_or(found, std::slice::from_ref) {
        *faults.entry(*fault).or_default() += 1;
    }
}

/// Tells the reader of the span what was wrong with it.
fn mark(span: &mut Span, found: &[Fault]) {
    if found.is_empty() {
        return;
    }
    let mut reasons = found.iter().map(|fault| fault.as_str()).collect::<Vec<_>>().join(",");
    let ours = span.attributes.iter_mut().rev().find(|attribute| attribute.key == MENDED);
    match ours.and_then(|ours| ours.value.as_mut()).and_then(|value| value.value.as_mut()) {
        Some(any_value::Value::StringValue(earlier)) => {
            reasons.insert(0, ',');
            earlier.push_str(&reasons);
        }
        _ => span.attributes.push(attribute(MENDED, any_value::Value::StringValue(reasons))),
    }
}

fn attribute(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
