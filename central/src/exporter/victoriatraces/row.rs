//! The row that VictoriaTraces makes of a span, as far as its limits need it: how many fields, the longest name,
//! how many bytes.
//!
//! Names and sizes follow `app/vtinsert/opentelemetry` of VictoriaTraces and `EstimatedJSONRowLen` of `VictoriaLogs`;
//! where versions differ (which fields are written when they are empty, how bytes are spelt) the larger one counts.
//!
//! Never: looks at a limit's consequences; what to do about a row that is too large is `mend`'s.

use mirador_otlp::traces::Span;
use mirador_otlp::value::{Attributes, Value};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span as Decoded;

/// Fields of one row (`-insert.maxFieldsPerLine`).
pub(super) const MAX_FIELDS: usize = 1000;
/// Bytes of a field's name (`maxFieldNameSize`).
pub(super) const MAX_NAME: usize = 128;
/// Bytes of a row (`maxUncompressedBlockSize`).
pub(super) const MAX_BYTES: usize = 2 * 1024 * 1024;

/// Before the names of resource attributes.
pub(super) const RESOURCE: &str = "resource_attr:";
/// Before the names of scope attributes.
pub(super) const SCOPE: &str = "scope_attr:";
/// Before the names of span attributes.
pub(super) const SPAN: &str = "span_attr:";
/// Before the names of event attributes, which end with `:` and the event's number.
pub(super) const EVENT: &str = "event:event_attr:";
/// Before the names of link attributes, which end with `:` and the link's number.
pub(super) const LINK: &str = "link:link_attr:";

/// What a field costs besides its name and value: `,"":""`.
const FIELD: usize = 6;
/// The fields that do not depend on the span: its own columns, the message, the scope's name and version; and one
/// to spare.
const OWN_FIELDS: usize = 19;
/// Their names and numbers.
const OWN_BYTES: usize = 1024;

/// A row, or the part of one that spans have in common.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) fields: usize,
    pub(super) longest_name: usize,
    pub(super) bytes: usize,
}

impl Row {
    /// Whether VictoriaTraces keeps it.
    pub(super) const fn fits(&self) -> bool {
        self.fields <= MAX_FIELDS && self.longest_name <= MAX_NAME && self.bytes <= MAX_BYTES
    }

    /// Both as one row.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            fields: self.fields + other.fields,
            longest_name: self.longest_name.max(other.longest_name),
            bytes: self.bytes + other.bytes,
        }
    }

    fn field(&mut self, name: usize, value: usize) {
        self.fields += 1;
        self.longest_name = self.longest_name.max(name);
        // An empty value is stored as a dash.
        self.bytes += FIELD + name + value.max(1);
    }

    /// Attributes under a prefix; `around` is the length of what stands before and after their names.
    pub(super) fn attributes(&mut self, attributes: Attributes<'_>, around: usize) {
        for attribute in attributes {
            let name = around + attribute.key.len();
            match attribute.value {
                Value::Map(inner) => self.attributes(inner, name + 1),
                value => self.field(name, text_len(&value)),
            }
        }
    }

    /// The same of decoded attributes.
    pub(super) fn decoded(&mut self, attributes: &[KeyValue], around: usize) {
        for attribute in attributes {
            let name = around + attribute.key.len();
            match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
                Some(Any::KvlistValue(inner)) => self.decoded(&inner.values, name + 1),
                value => self.field(name, decoded_len(value)),
            }
        }
    }

    /// What the spans of one scope have in common.
    pub(super) fn common(resource: Attributes<'_>, scope: &mirador_otlp::scope::Scope<'_>) -> Self {
        let mut row = Self { bytes: scope.name().len() + scope.version().len(), ..Self::default() };
        row.attributes(resource, RESOURCE.len());
        row.attributes(scope.attributes(), SCOPE.len());
        row
    }

    /// A span without what it has in common with others.
    pub(super) fn of(span: &Span<'_>) -> Self {
        let texts = span.name().len() + span.trace_state().len() + span.status_message().len();
        let mut row = Self::own(texts);
        row.attributes(span.attributes(), SPAN.len());
        for (at, event) in span.events().enumerate() {
            row.numbered(["event:event_time_unix_nano", "event:event_name", EVENT_DROPPED], at, event.name().len());
            row.attributes(event.attributes(), EVENT.len() + suffix(at));
        }
        for (at, link) in span.links().enumerate() {
            row.numbered(LINK_FIELDS, at, link.trace_state().len());
            row.attributes(link.attributes(), LINK.len() + suffix(at));
        }
        row
    }

    /// The same of a decoded span.
    pub(super) fn of_decoded(span: &Decoded) -> Self {
        let status = span.status.as_ref().map_or(0, |status| status.message.len());
        let mut row = Self::own(span.name.len() + span.trace_state.len() + status);
        row.decoded(&span.attributes, SPAN.len());
        for (at, event) in span.events.iter().enumerate() {
            row.numbered(["event:event_time_unix_nano", "event:event_name", EVENT_DROPPED], at, event.name.len());
            row.decoded(&event.attributes, EVENT.len() + suffix(at));
        }
        for (at, link) in span.links.iter().enumerate() {
            row.numbered(LINK_FIELDS, at, link.trace_state.len());
            row.decoded(&link.attributes, LINK.len() + suffix(at));
        }
        row
    }

    fn own(texts: usize) -> Self {
        Self { fields: OWN_FIELDS, longest_name: 0, bytes: OWN_BYTES + texts }
    }

    /// The fields that an event or a link has besides its attributes. 32 bytes hold any id or number of theirs.
    fn numbered<const N: usize>(&mut self, names: [&str; N], at: usize, text: usize) {
        for name in names {
            self.field(name.len() + suffix(at), 32);
        }
        self.bytes += text;
    }
}

const EVENT_DROPPED: &str = "event:event_dropped_attributes_count";
const LINK_FIELDS: [&str; 5] = [
    "link:link_trace_id",
    "link:link_span_id",
    "link:link_trace_state",
    "link:link_dropped_attributes_count",
    "link:link_flags",
];

/// The length of `:` and the number of an event or a link.
pub(super) fn suffix(at: usize) -> usize {
    2 + at.checked_ilog10().unwrap_or(0) as usize
}

/// The length of a value as text.
fn text_len(value: &Value<'_>) -> usize {
    match value {
        Value::Empty => 0,
        Value::Str(text) => text.len(),
        Value::Bool(_) => 5,
        Value::Int(_) => 20,
        Value::Double(_) => 25,
        Value::Bytes(bytes) => bytes.len() * 2,
        Value::Array(array) => 2 + array.iter().map(|value| 1 + json_len(&value)).sum::<usize>(),
        Value::Map(map) => 2 + map.iter().map(|pair| 4 + quoted(pair.key) + json_len(&pair.value)).sum::<usize>(),
    }
}

/// The length of a value inside of an array, which is stored as JSON.
fn json_len(value: &Value<'_>) -> usize {
    match value {
        Value::Empty => 4,
        Value::Str(text) => 2 + quoted(text),
        Value::Bytes(bytes) => 2 + bytes.len() * 2,
        other => text_len(other),
    }
}

/// The length of a value as text.
pub(super) fn decoded_len(value: Option<&Any>) -> usize {
    match value {
        Some(Any::StringValue(text)) => text.len(),
        Some(Any::BoolValue(_)) => 5,
        Some(Any::IntValue(_)) => 20,
        Some(Any::DoubleValue(_)) => 25,
        Some(Any::BytesValue(bytes)) => bytes.len() * 2,
        Some(Any::ArrayValue(array)) => 2 + array.values.iter().map(|value| 1 + decoded_json(value)).sum::<usize>(),
        Some(Any::KvlistValue(map)) => {
            let pair = |pair: &KeyValue| 4 + quoted(&pair.key) + pair.value.as_ref().map_or(4, decoded_json);
            2 + map.values.iter().map(pair).sum::<usize>()
        }
        // A reference into a string table has no meaning outside of profiles.
        Some(Any::StringValueStrindex(_)) | None => 0,
    }
}

fn decoded_json(value: &AnyValue) -> usize {
    match value.value.as_ref() {
        None | Some(Any::StringValueStrindex(_)) => 4,
        Some(Any::StringValue(text)) => 2 + quoted(text),
        Some(Any::BytesValue(bytes)) => 2 + bytes.len() * 2,
        other => decoded_len(other),
    }
}

/// The length of a text inside of quotes.
fn quoted(text: &str) -> usize {
    let escape = |byte: u8| match byte {
        0..0x20 => 6,
        b'"' | b'\\' => 2,
        _ => 1,
    };
    text.bytes().map(escape).sum()
}
