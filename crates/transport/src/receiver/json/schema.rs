//! The fields of the OTLP messages as the JSON mapping sees them: opentelemetry-proto 1.x, `trace.v1`,
//! `metrics.v1`, `logs.v1`, `common.v1`, `resource.v1` and the three `collector.*.v1` requests.
//!
//! The tables are held against the generated types of `opentelemetry-proto` in the tests.

use mirador_otlp::Signal;

/// A message and its fields.
pub(super) struct Message {
    /// For errors.
    pub(super) name: &'static str,
    pub(super) fields: &'static [Field],
}

/// One field.
pub(super) struct Field {
    /// In lower camel case.
    pub(super) key: &'static str,
    pub(super) number: u32,
    pub(super) kind: Type,
    pub(super) repeated: bool,
}

/// What a field holds.
#[derive(Clone, Copy)]
pub(super) enum Type {
    String,
    /// Bytes, in hex: trace and span ids.
    Hex,
    /// Bytes, in base64.
    Base64,
    Bool,
    Double,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Fixed32,
    Fixed64,
    Sfixed64,
    /// The prefix of its names and their rest, by number.
    Enum(&'static str, &'static [&'static str]),
    /// By function: messages refer to each other.
    Message(fn() -> &'static Message),
}

impl Type {
    /// What the JSON has to be, for errors.
    pub(super) fn expected(&self) -> &'static str {
        match self {
            Self::String => "a string",
            Self::Hex => "a string of hex digits",
            Self::Base64 => "a string in base64",
            Self::Bool => "true or false",
            Self::Double => "a number",
            Self::Int32 | Self::Sint32 => "a 32-bit integer",
            Self::Int64 | Self::Sfixed64 => "a 64-bit integer",
            Self::Uint32 | Self::Fixed32 => "a 32-bit integer that is not negative",
            Self::Uint64 | Self::Fixed64 => "a 64-bit integer that is not negative",
            Self::Enum(..) => "an integer of an enum",
            Self::Message(_) => "an object",
        }
    }
}

/// The export request of a signal.
pub(super) fn request(signal: Signal) -> &'static Message {
    match signal {
        Signal::Traces => traces(),
        Signal::Metrics => metrics(),
        Signal::Logs => logs(),
    }
}

const fn one(key: &'static str, number: u32, kind: Type) -> Field {
    Field { key, number, kind, repeated: false }
}

const fn many(key: &'static str, number: u32, kind: Type) -> Field {
    Field { key, number, kind, repeated: true }
}

/// Defines functions that return messages: `name = [fields]`.
macro_rules! messages {
    ($($name:ident = [$($field:expr),* $(,)?];)*) => {$(
        fn $name() -> &'static Message {
            static MESSAGE: Message = Message { name: stringify!($name), fields: &[$($field),*] };
            &MESSAGE
        }
    )*};
}

use Type::{
    Base64, Bool, Double, Enum, Fixed32, Fixed64, Hex, Int32, Int64, Message as Nested, Sfixed64, Sint32, String,
    Uint32, Uint64,
};

const SPAN_KIND: Type = Enum("SPAN_KIND_", &["UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"]);
const STATUS_CODE: Type = Enum("STATUS_CODE_", &["UNSET", "OK", "ERROR"]);
const TEMPORALITY: Type = Enum("AGGREGATION_TEMPORALITY_", &["UNSPECIFIED", "DELTA", "CUMULATIVE"]);
const SEVERITY: Type = Enum(
    "SEVERITY_NUMBER_",
    &[
        "UNSPECIFIED",
        "TRACE",
        "TRACE2",
        "TRACE3",
        "TRACE4",
        "DEBUG",
        "DEBUG2",
        "DEBUG3",
        "DEBUG4",
        "INFO",
        "INFO2",
        "INFO3",
        "INFO4",
        "WARN",
        "WARN2",
        "WARN3",
        "WARN4",
        "ERROR",
        "ERROR2",
        "ERROR3",
        "ERROR4",
        "FATAL",
        "FATAL2",
        "FATAL3",
        "FATAL4",
    ],
);

messages! {
    any_value = [
        one("stringValue", 1, String),
        one("boolValue", 2, Bool),
        one("intValue", 3, Int64),
        one("doubleValue", 4, Double),
        one("arrayValue", 5, Nested(array_value)),
        one("kvlistValue", 6, Nested(kvlist_value)),
        one("bytesValue", 7, Base64),
        one("stringValueStrindex", 8, Int32),
    ];
    array_value = [many("values", 1, Nested(any_value))];
    kvlist_value = [many("values", 1, Nested(key_value))];
    key_value = [one("key", 1, String), one("value", 2, Nested(any_value)), one("keyStrindex", 3, Int32)];
    scope = [
        one("name", 1, String),
        one("version", 2, String),
        many("attributes", 3, Nested(key_value)),
        one("droppedAttributesCount", 4, Uint32),
    ];
    entity_ref = [
        one("schemaUrl", 1, String),
        one("type", 2, String),
        many("idKeys", 3, String),
        many("descriptionKeys", 4, String),
    ];
    resource = [
        many("attributes", 1, Nested(key_value)),
        one("droppedAttributesCount", 2, Uint32),
        many("entityRefs", 3, Nested(entity_ref)),
    ];
    traces = [many("resourceSpans", 1, Nested(resource_spans))];
    resource_spans = [
        one("resource", 1, Nested(resource)),
        many("scopeSpans", 2, Nested(scope_spans)),
        one("schemaUrl", 3, String),
    ];
    scope_spans = [one("scope", 1, Nested(scope)), many("spans", 2, Nested(span)), one("schemaUrl", 3, String)];
    span = [
        one("traceId", 1, Hex),
        one("spanId", 2, Hex),
        one("traceState", 3, String),
        one("parentSpanId", 4, Hex),
        one("name", 5, String),
        one("kind", 6, SPAN_KIND),
        one("startTimeUnixNano", 7, Fixed64),
        one("endTimeUnixNano", 8, Fixed64),
        many("attributes", 9, Nested(key_value)),
        one("droppedAttributesCount", 10, Uint32),
        many("events", 11, Nested(event)),
        one("droppedEventsCount", 12, Uint32),
        many("links", 13, Nested(link)),
        one("droppedLinksCount", 14, Uint32),
        one("status", 15, Nested(status)),
        one("flags", 16, Fixed32),
    ];
    event = [
        one("timeUnixNano", 1, Fixed64),
        one("name", 2, String),
        many("attributes", 3, Nested(key_value)),
        one("droppedAttributesCount", 4, Uint32),
    ];
    link = [
        one("traceId", 1, Hex),
        one("spanId", 2, Hex),
        one("traceState", 3, String),
        many("attributes", 4, Nested(key_value)),
        one("droppedAttributesCount", 5, Uint32),
        one("flags", 6, Fixed32),
    ];
    status = [one("message", 2, String), one("code", 3, STATUS_CODE)];
    metrics = [many("resourceMetrics", 1, Nested(resource_metrics))];
    resource_metrics = [
        one("resource", 1, Nested(resource)),
        many("scopeMetrics", 2, Nested(scope_metrics)),
        one("schemaUrl", 3, String),
    ];
    scope_metrics = [one("scope", 1, Nested(scope)), many("metrics", 2, Nested(metric)), one("schemaUrl", 3, String)];
    metric = [
        one("name", 1, String),
        one("description", 2, String),
        one("unit", 3, String),
        one("gauge", 5, Nested(gauge)),
        one("sum", 7, Nested(sum)),
        one("histogram", 9, Nested(histogram)),
        one("exponentialHistogram", 10, Nested(exponential_histogram)),
        one("summary", 11, Nested(summary)),
        many("metadata", 12, Nested(key_value)),
    ];
    gauge = [many("dataPoints", 1, Nested(number_point))];
    sum = [
        many("dataPoints", 1, Nested(number_point)),
        one("aggregationTemporality", 2, TEMPORALITY),
        one("isMonotonic", 3, Bool),
    ];
    histogram = [many("dataPoints", 1, Nested(histogram_point)), one("aggregationTemporality", 2, TEMPORALITY)];
    exponential_histogram =
        [many("dataPoints", 1, Nested(exponential_point)), one("aggregationTemporality", 2, TEMPORALITY)];
    summary = [many("dataPoints", 1, Nested(summary_point))];
    number_point = [
        many("attributes", 7, Nested(key_value)),
        one("startTimeUnixNano", 2, Fixed64),
        one("timeUnixNano", 3, Fixed64),
        one("asDouble", 4, Double),
        one("asInt", 6, Sfixed64),
        many("exemplars", 5, Nested(exemplar)),
        one("flags", 8, Uint32),
    ];
    histogram_point = [
        many("attributes", 9, Nested(key_value)),
        one("startTimeUnixNano", 2, Fixed64),
        one("timeUnixNano", 3, Fixed64),
        one("count", 4, Fixed64),
        one("sum", 5, Double),
        many("bucketCounts", 6, Fixed64),
        many("explicitBounds", 7, Double),
        many("exemplars", 8, Nested(exemplar)),
        one("flags", 10, Uint32),
        one("min", 11, Double),
        one("max", 12, Double),
    ];
    exponential_point = [
        many("attributes", 1, Nested(key_value)),
        one("startTimeUnixNano", 2, Fixed64),
        one("timeUnixNano", 3, Fixed64),
        one("count", 4, Fixed64),
        one("sum", 5, Double),
        one("scale", 6, Sint32),
        one("zeroCount", 7, Fixed64),
        one("positive", 8, Nested(buckets)),
        one("negative", 9, Nested(buckets)),
        one("flags", 10, Uint32),
        many("exemplars", 11, Nested(exemplar)),
        one("min", 12, Double),
        one("max", 13, Double),
        one("zeroThreshold", 14, Double),
    ];
    buckets = [one("offset", 1, Sint32), many("bucketCounts", 2, Uint64)];
    summary_point = [
        many("attributes", 7, Nested(key_value)),
        one("startTimeUnixNano", 2, Fixed64),
        one("timeUnixNano", 3, Fixed64),
        one("count", 4, Fixed64),
        one("sum", 5, Double),
        many("quantileValues", 6, Nested(value_at_quantile)),
        one("flags", 8, Uint32),
    ];
    value_at_quantile = [one("quantile", 1, Double), one("value", 2, Double)];
    exemplar = [
        many("filteredAttributes", 7, Nested(key_value)),
        one("timeUnixNano", 2, Fixed64),
        one("asDouble", 3, Double),
        one("asInt", 6, Sfixed64),
        one("spanId", 4, Hex),
        one("traceId", 5, Hex),
    ];
    logs = [many("resourceLogs", 1, Nested(resource_logs))];
    resource_logs = [
        one("resource", 1, Nested(resource)),
        many("scopeLogs", 2, Nested(scope_logs)),
        one("schemaUrl", 3, String),
    ];
    scope_logs = [one("scope", 1, Nested(scope)), many("logRecords", 2, Nested(log_record)), one("schemaUrl", 3, String)];
    log_record = [
        one("timeUnixNano", 1, Fixed64),
        one("severityNumber", 2, SEVERITY),
        one("severityText", 3, String),
        one("body", 5, Nested(any_value)),
        many("attributes", 6, Nested(key_value)),
        one("droppedAttributesCount", 7, Uint32),
        one("flags", 8, Fixed32),
        one("traceId", 9, Hex),
        one("spanId", 10, Hex),
        one("observedTimeUnixNano", 11, Fixed64),
        one("eventName", 12, String),
    ];
}
