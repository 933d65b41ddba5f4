//! OTLP data points of cumulative series: first zeros, values, stale markers.
//!
//! Never: keeps state. Invariants: a series' first value is preceded by a zero at its start; a stale marker is a
//! point with the flag `NO_RECORDED_VALUE` and no value (a histogram's keeps its bounds, so that the receiver can
//! mark every bucket); bounds are le-inclusive.

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, DataPointFlags, Exemplar, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum, exemplar, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;

/// `DataPointFlags::NoRecordedValueMask` as points carry it.
pub const NO_RECORDED_VALUE: u32 = DataPointFlags::NoRecordedValueMask as u32;

/// Where a series stands in a flush; the fields are those of `cumulative::Row`.
#[derive(Debug, Clone, Copy)]
pub struct Stand {
    /// When counting began.
    pub start_unix_nano: u64,
    /// When the flush was begun.
    pub time_unix_nano: u64,
    /// A zero at the start goes first.
    pub is_first: bool,
    /// A marker instead of a value.
    pub is_stale: bool,
}

/// A histogram's numbers; `bucket_counts` has one more entry than the bounds.
#[derive(Debug, Clone, Copy)]
pub struct Buckets<'a> {
    /// Values in all buckets.
    pub count: u64,
    /// In the metric's unit.
    pub sum: f64,
    /// Smallest and largest value, when known.
    pub range: Option<(f64, f64)>,
    /// Counts that are not cumulated.
    pub bucket_counts: &'a [u64],
    /// Upper bounds in the metric's unit, inclusive.
    pub bounds: &'a [f64],
}

/// The number of `le`-inclusive bucket that a value falls in: the first bound that is not below it.
pub fn bucket_of(bounds_nanos: &[u64], nanos: u64) -> usize {
    bounds_nanos.partition_point(|bound| *bound < nanos)
}

/// A text attribute.
pub fn text(key: impl Into<String>, value: impl Into<String>) -> KeyValue {
    attribute(key.into(), Value::StringValue(value.into()))
}

/// A boolean attribute.
pub fn boolean(key: impl Into<String>, value: bool) -> KeyValue {
    attribute(key.into(), Value::BoolValue(value))
}

fn attribute(key: String, value: Value) -> KeyValue {
    KeyValue { key, value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// Adds the points of a counter.
pub fn push_sum(points: &mut Vec<NumberDataPoint>, stand: Stand, attributes: &[KeyValue], value: u64) {
    let point = |time: u64, value: Option<u64>| NumberDataPoint {
        attributes: attributes.to_vec(),
        start_time_unix_nano: stand.start_unix_nano,
        time_unix_nano: time,
        flags: if value.is_none() { NO_RECORDED_VALUE } else { 0 },
        value: value.map(|value| number_data_point::Value::AsInt(i64::try_from(value).unwrap_or(i64::MAX))),
        ..NumberDataPoint::default()
    };
    if stand.is_stale {
        points.push(point(stand.time_unix_nano, None));
        return;
    }
    if stand.is_first {
        points.push(point(stand.start_unix_nano, Some(0)));
    }
    points.push(point(stand.time_unix_nano, Some(value)));
}

/// Adds the point of a gauge; `None` marks it stale.
pub fn push_gauge(points: &mut Vec<NumberDataPoint>, stand: Stand, attributes: &[KeyValue], value: Option<f64>) {
    points.push(NumberDataPoint {
        attributes: attributes.to_vec(),
        time_unix_nano: stand.time_unix_nano,
        flags: if value.is_none() { NO_RECORDED_VALUE } else { 0 },
        value: value.map(number_data_point::Value::AsDouble),
        ..NumberDataPoint::default()
    });
}

/// Adds the points of a histogram.
pub fn push_histogram(
    points: &mut Vec<HistogramDataPoint>,
    stand: Stand,
    attributes: &[KeyValue],
    buckets: Buckets<'_>,
    exemplars: Vec<Exemplar>,
) {
    let zero = |time: u64, flags: u32| HistogramDataPoint {
        attributes: attributes.to_vec(),
        start_time_unix_nano: stand.start_unix_nano,
        time_unix_nano: time,
        count: 0,
        sum: (flags == 0).then_some(0.0),
        bucket_counts: vec![0; buckets.bounds.len() + 1],
        explicit_bounds: buckets.bounds.to_vec(),
        flags,
        ..HistogramDataPoint::default()
    };
    if stand.is_stale {
        points.push(zero(stand.time_unix_nano, NO_RECORDED_VALUE));
        return;
    }
    if stand.is_first {
        points.push(zero(stand.start_unix_nano, 0));
    }
    points.push(HistogramDataPoint {
        count: buckets.count,
        sum: Some(buckets.sum),
        min: buckets.range.map(|(min, _)| min),
        max: buckets.range.map(|(_, max)| max),
        bucket_counts: buckets.bucket_counts.to_vec(),
        exemplars,
        ..zero(stand.time_unix_nano, 0)
    });
}

/// An exemplar with a value in the metric's unit.
pub fn exemplar(trace_id: &[u8], span_id: &[u8], value: f64, time_unix_nano: u64) -> Exemplar {
    Exemplar {
        time_unix_nano,
        trace_id: trace_id.to_vec(),
        span_id: span_id.to_vec(),
        value: Some(exemplar::Value::AsDouble(value)),
        ..Exemplar::default()
    }
}

/// A monotonic cumulative sum without a unit.
pub fn sum_metric(name: impl Into<String>, description: &str, data_points: Vec<NumberDataPoint>) -> Metric {
    let data =
        Sum { data_points, aggregation_temporality: AggregationTemporality::Cumulative as i32, is_monotonic: true };
    named(name.into(), description, "", metric::Data::Sum(data))
}

/// A gauge.
pub fn gauge_metric(name: impl Into<String>, description: &str, unit: &str, points: Vec<NumberDataPoint>) -> Metric {
    named(name.into(), description, unit, metric::Data::Gauge(Gauge { data_points: points }))
}

/// A cumulative histogram.
pub fn histogram_metric(name: impl Into<String>, text: &str, unit: &str, points: Vec<HistogramDataPoint>) -> Metric {
    let data = Histogram { data_points: points, aggregation_temporality: AggregationTemporality::Cumulative as i32 };
    named(name.into(), text, unit, metric::Data::Histogram(data))
}

fn named(name: String, description: &str, unit: &str, data: metric::Data) -> Metric {
    Metric { name, description: description.to_owned(), unit: unit.to_owned(), data: Some(data), ..Metric::default() }
}

/// The metrics of one resource under one scope; those without a point are left out.
pub fn resource_metrics(resource: Vec<KeyValue>, scope: &str, metrics: Vec<Metric>) -> ResourceMetrics {
    ResourceMetrics {
        resource: Some(Resource { attributes: resource, ..Resource::default() }),
        scope_metrics: vec![ScopeMetrics {
            scope: Some(InstrumentationScope { name: scope.to_owned(), ..InstrumentationScope::default() }),
            metrics: metrics.into_iter().filter(has_points).collect(),
            ..ScopeMetrics::default()
        }],
        ..ResourceMetrics::default()
    }
}

fn has_points(metric: &Metric) -> bool {
    match &metric.data {
        Some(metric::Data::Sum(sum)) => !sum.data_points.is_empty(),
        Some(metric::Data::Gauge(gauge)) => !gauge.data_points.is_empty(),
        Some(metric::Data::Histogram(histogram)) => !histogram.data_points.is_empty(),
        _ => false,
    }
}

/// The wire form of an export request.
pub fn encode(resource_metrics: Vec<ResourceMetrics>) -> Bytes {
    ExportMetricsServiceRequest { resource_metrics }.encode_to_vec().into()
}
