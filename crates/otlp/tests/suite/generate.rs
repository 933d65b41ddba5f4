//! Requests of all three signals drawn from bytes, every field of every message included.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, EntityRef, InstrumentationScope, KeyValue, KeyValueList, any_value,
};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, Metric,
    NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, exemplar,
    exponential_histogram_data_point::Buckets, metric, number_data_point, summary_data_point::ValueAtQuantile,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{
    ResourceSpans, ScopeSpans, Span, Status,
    span::{Event, Link},
};

use crate::draw::Draw;

pub(crate) fn traces(draw: &mut Draw<'_>) -> ExportTraceServiceRequest {
    let scope_spans = |draw: &mut Draw<'_>| ScopeSpans {
        scope: draw.maybe(scope),
        spans: draw.list(6, span),
        schema_url: draw.string(),
    };
    let resource_spans = |draw: &mut Draw<'_>| ResourceSpans {
        resource: draw.maybe(resource),
        scope_spans: draw.list(3, scope_spans),
        schema_url: draw.string(),
    };
    ExportTraceServiceRequest { resource_spans: draw.list(4, resource_spans) }
}

pub(crate) fn metrics(draw: &mut Draw<'_>) -> ExportMetricsServiceRequest {
    let scope_metrics = |draw: &mut Draw<'_>| ScopeMetrics {
        scope: draw.maybe(scope),
        metrics: draw.list(6, metric),
        schema_url: draw.string(),
    };
    let resource_metrics = |draw: &mut Draw<'_>| ResourceMetrics {
        resource: draw.maybe(resource),
        scope_metrics: draw.list(3, scope_metrics),
        schema_url: draw.string(),
    };
    ExportMetricsServiceRequest { resource_metrics: draw.list(4, resource_metrics) }
}

pub(crate) fn logs(draw: &mut Draw<'_>) -> ExportLogsServiceRequest {
    let scope_logs = |draw: &mut Draw<'_>| ScopeLogs {
        scope: draw.maybe(scope),
        log_records: draw.list(6, log_record),
        schema_url: draw.string(),
    };
    let resource_logs = |draw: &mut Draw<'_>| ResourceLogs {
        resource: draw.maybe(resource),
        scope_logs: draw.list(3, scope_logs),
        schema_url: draw.string(),
    };
    ExportLogsServiceRequest { resource_logs: draw.list(4, resource_logs) }
}

fn resource(draw: &mut Draw<'_>) -> Resource {
    let entity = |draw: &mut Draw<'_>| EntityRef {
        schema_url: draw.string(),
        r#type: draw.string(),
        id_keys: draw.list(2, Draw::string),
        description_keys: draw.list(2, Draw::string),
    };
    Resource { attributes: attributes(draw), dropped_attributes_count: draw.u32(), entity_refs: draw.list(1, entity) }
}

fn scope(draw: &mut Draw<'_>) -> InstrumentationScope {
    InstrumentationScope {
        name: draw.string(),
        version: draw.string(),
        attributes: attributes(draw),
        dropped_attributes_count: draw.u32(),
    }
}

fn attributes(draw: &mut Draw<'_>) -> Vec<KeyValue> {
    draw.list(5, |draw| key_value(draw, 4))
}

fn key_value(draw: &mut Draw<'_>, depth: usize) -> KeyValue {
    KeyValue {
        key: draw.string(),
        value: draw.maybe(|draw| any_value(draw, depth)),
        key_strindex: draw.below(2) as i32,
    }
}

pub(crate) fn any_value(draw: &mut Draw<'_>, depth: usize) -> AnyValue {
    use any_value::Value;
    let member = |draw: &mut Draw<'_>| match draw.below(if depth == 0 { 6 } else { 8 }) {
        0 => Value::StringValue(draw.string()),
        1 => Value::BoolValue(draw.one_in(2)),
        2 => Value::IntValue(draw.u64() as i64),
        3 => Value::DoubleValue(draw.f64()),
        4 => Value::BytesValue(draw.bytes()),
        5 => Value::StringValueStrindex(draw.u32() as i32),
        6 => Value::ArrayValue(ArrayValue { values: draw.list(3, |draw| any_value(draw, depth - 1)) }),
        _ => Value::KvlistValue(KeyValueList { values: draw.list(3, |draw| key_value(draw, depth - 1)) }),
    };
    AnyValue { value: draw.maybe(member) }
}

fn span(draw: &mut Draw<'_>) -> Span {
    Span {
        trace_id: draw.bytes(),
        span_id: draw.bytes(),
        trace_state: draw.string(),
        parent_span_id: draw.bytes(),
        flags: draw.u32(),
        name: draw.string(),
        kind: draw.below(8) as i32 - 1,
        start_time_unix_nano: draw.u64(),
        end_time_unix_nano: draw.u64(),
        attributes: attributes(draw),
        dropped_attributes_count: draw.u32(),
        events: draw.list(2, |draw| Event {
            time_unix_nano: draw.u64(),
            name: draw.string(),
            attributes: attributes(draw),
            dropped_attributes_count: draw.u32(),
        }),
        dropped_events_count: draw.u32(),
        links: draw.list(2, |draw| Link {
            trace_id: draw.bytes(),
            span_id: draw.bytes(),
            trace_state: draw.string(),
            attributes: attributes(draw),
            dropped_attributes_count: draw.u32(),
            flags: draw.u32(),
        }),
        dropped_links_count: draw.u32(),
        status: draw.maybe(|draw| Status { message: draw.string(), code: draw.below(4) as i32 }),
    }
}

fn metric(draw: &mut Draw<'_>) -> Metric {
    use metric::Data;
    let data = |draw: &mut Draw<'_>| match draw.below(5) {
        0 => Data::Gauge(Gauge { data_points: draw.list(3, number_point) }),
        1 => Data::Sum(Sum {
            data_points: draw.list(3, number_point),
            aggregation_temporality: draw.below(3) as i32,
            is_monotonic: draw.one_in(2),
        }),
        2 => Data::Histogram(Histogram {
            data_points: draw.list(3, histogram_point),
            aggregation_temporality: draw.below(3) as i32,
        }),
        3 => Data::ExponentialHistogram(ExponentialHistogram {
            data_points: draw.list(3, exponential_point),
            aggregation_temporality: draw.below(3) as i32,
        }),
        _ => Data::Summary(Summary { data_points: draw.list(3, summary_point) }),
    };
    Metric {
        name: draw.string(),
        description: draw.string(),
        unit: draw.string(),
        metadata: attributes(draw),
        data: draw.maybe(data),
    }
}

fn exemplars(draw: &mut Draw<'_>) -> Vec<Exemplar> {
    draw.list(2, |draw| Exemplar {
        filtered_attributes: attributes(draw),
        time_unix_nano: draw.u64(),
        span_id: draw.bytes(),
        trace_id: draw.bytes(),
        value: draw.maybe(|draw| match draw.below(2) {
            0 => exemplar::Value::AsInt(draw.u64() as i64),
            _ => exemplar::Value::AsDouble(draw.f64()),
        }),
    })
}

fn number_point(draw: &mut Draw<'_>) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(draw),
        start_time_unix_nano: draw.u64(),
        time_unix_nano: draw.u64(),
        exemplars: exemplars(draw),
        flags: draw.u32(),
        value: draw.maybe(|draw| match draw.below(2) {
            0 => number_data_point::Value::AsInt(draw.u64() as i64),
            _ => number_data_point::Value::AsDouble(draw.f64()),
        }),
    }
}

fn histogram_point(draw: &mut Draw<'_>) -> HistogramDataPoint {
    HistogramDataPoint {
        attributes: attributes(draw),
        start_time_unix_nano: draw.u64(),
        time_unix_nano: draw.u64(),
        count: draw.u64(),
        sum: draw.maybe(Draw::f64),
        bucket_counts: draw.list(5, Draw::u64),
        explicit_bounds: draw.list(5, Draw::f64),
        exemplars: exemplars(draw),
        flags: draw.u32(),
        min: draw.maybe(Draw::f64),
        max: draw.maybe(Draw::f64),
    }
}

fn exponential_point(draw: &mut Draw<'_>) -> ExponentialHistogramDataPoint {
    let buckets = |draw: &mut Draw<'_>| Buckets { offset: draw.u32() as i32, bucket_counts: draw.list(5, Draw::u64) };
    ExponentialHistogramDataPoint {
        attributes: attributes(draw),
        start_time_unix_nano: draw.u64(),
        time_unix_nano: draw.u64(),
        count: draw.u64(),
        sum: draw.maybe(Draw::f64),
        scale: draw.u32() as i32,
        zero_count: draw.u64(),
        positive: draw.maybe(buckets),
        negative: draw.maybe(buckets),
        flags: draw.u32(),
        exemplars: exemplars(draw),
        min: draw.maybe(Draw::f64),
        max: draw.maybe(Draw::f64),
        zero_threshold: draw.f64(),
    }
}

fn summary_point(draw: &mut Draw<'_>) -> SummaryDataPoint {
    SummaryDataPoint {
        attributes: attributes(draw),
        start_time_unix_nano: draw.u64(),
        time_unix_nano: draw.u64(),
        count: draw.u64(),
        sum: draw.f64(),
        quantile_values: draw.list(3, |draw| ValueAtQuantile { quantile: draw.f64(), value: draw.f64() }),
        flags: draw.u32(),
    }
}

fn log_record(draw: &mut Draw<'_>) -> LogRecord {
    LogRecord {
        time_unix_nano: draw.u64(),
        observed_time_unix_nano: draw.u64(),
        severity_number: draw.below(26) as i32,
        severity_text: draw.string(),
        body: draw.maybe(|draw| any_value(draw, 4)),
        attributes: attributes(draw),
        dropped_attributes_count: draw.u32(),
        flags: draw.u32(),
        trace_id: draw.bytes(),
        span_id: draw.bytes(),
        event_name: draw.string(),
    }
}
