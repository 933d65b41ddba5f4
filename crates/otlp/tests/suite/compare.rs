//! Compares every field of every view with what `prost` decodes.

use mirador_otlp::metrics::{Data, Number};
use mirador_otlp::value::{Attributes, Value};
use mirador_otlp::{Request, Signal, logs, metrics, resource, scope, traces};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogramDataPoint, HistogramDataPoint, Metric, NumberDataPoint, SummaryDataPoint, exemplar,
    exponential_histogram_data_point::Buckets, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use prost::{DecodeError, Message};

/// What `prost` makes of a request.
#[derive(Debug)]
pub(crate) enum Decoded {
    Traces(ExportTraceServiceRequest),
    Metrics(ExportMetricsServiceRequest),
    Logs(ExportLogsServiceRequest),
}

impl Decoded {
    pub(crate) fn of(signal: Signal, body: &[u8]) -> Result<Self, DecodeError> {
        Ok(match signal {
            Signal::Traces => Self::Traces(Message::decode(body)?),
            Signal::Metrics => Self::Metrics(Message::decode(body)?),
            Signal::Logs => Self::Logs(Message::decode(body)?),
        })
    }
}

/// Panics unless every view of `request` says what `decoded` says.
pub(crate) fn equal(request: &Request, decoded: &Decoded) {
    match decoded {
        Decoded::Traces(decoded) => traces_equal(request, decoded),
        Decoded::Metrics(decoded) => metrics_equal(request, decoded),
        Decoded::Logs(decoded) => logs_equal(request, decoded),
    }
}

/// Walks two sequences of equal length.
fn each<L, R>(left: impl IntoIterator<Item = L>, right: impl IntoIterator<Item = R>, mut both: impl FnMut(L, R)) {
    let mut right = right.into_iter();
    for one in left {
        both(one, right.next().expect("the view has as many as prost"));
    }
    assert!(right.next().is_none(), "the view has as many as prost");
}

fn traces_equal(request: &Request, decoded: &ExportTraceServiceRequest) {
    let mut items = 0;
    each(request.resource_spans(), &decoded.resource_spans, |view, entry| {
        resource_equal(&view.resource(), entry.resource.as_ref());
        assert_eq!(view.schema_url(), entry.schema_url);
        each(view.scopes(), &entry.scope_spans, |view, entry| {
            scope_equal(&view.scope(), entry.scope.as_ref());
            assert_eq!(view.schema_url(), entry.schema_url);
            items += entry.spans.len();
            each(view.spans(), &entry.spans, |view, span| span_equal(&view, span));
        });
    });
    assert_eq!(request.items(), items);
}

fn metrics_equal(request: &Request, decoded: &ExportMetricsServiceRequest) {
    let mut items = 0;
    each(request.resource_metrics(), &decoded.resource_metrics, |view, entry| {
        resource_equal(&view.resource(), entry.resource.as_ref());
        assert_eq!(view.schema_url(), entry.schema_url);
        each(view.scopes(), &entry.scope_metrics, |view, entry| {
            scope_equal(&view.scope(), entry.scope.as_ref());
            assert_eq!(view.schema_url(), entry.schema_url);
            each(view.metrics(), &entry.metrics, |view, metric| items += metric_equal(&view, metric));
        });
    });
    assert_eq!(request.items(), items);
}

fn logs_equal(request: &Request, decoded: &ExportLogsServiceRequest) {
    let mut items = 0;
    each(request.resource_logs(), &decoded.resource_logs, |view, entry| {
        resource_equal(&view.resource(), entry.resource.as_ref());
        assert_eq!(view.schema_url(), entry.schema_url);
        each(view.scopes(), &entry.scope_logs, |view, entry| {
            scope_equal(&view.scope(), entry.scope.as_ref());
            assert_eq!(view.schema_url(), entry.schema_url);
            items += entry.log_records.len();
            each(view.log_records(), &entry.log_records, |view, record| record_equal(&view, record));
        });
    });
    assert_eq!(request.items(), items);
}

fn resource_equal(view: &resource::Resource<'_>, decoded: Option<&Resource>) {
    let none = Resource::default();
    let decoded = decoded.unwrap_or(&none);
    attributes_equal(view.attributes(), &decoded.attributes);
    assert_eq!(view.dropped_attributes_count(), decoded.dropped_attributes_count);
    let name = decoded.attributes.iter().find(|attribute| attribute.key == "service.name");
    let name = match name.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(any_value::Value::StringValue(name)) => Some(name.as_str()).filter(|name| !name.is_empty()),
        _ => None,
    };
    assert_eq!(view.service_name(), name);
}

fn scope_equal(view: &scope::Scope<'_>, decoded: Option<&InstrumentationScope>) {
    let none = InstrumentationScope::default();
    let decoded = decoded.unwrap_or(&none);
    assert_eq!(view.name(), decoded.name);
    assert_eq!(view.version(), decoded.version);
    attributes_equal(view.attributes(), &decoded.attributes);
    assert_eq!(view.dropped_attributes_count(), decoded.dropped_attributes_count);
}

fn attributes_equal(view: Attributes<'_>, decoded: &[KeyValue]) {
    assert_eq!(view.len(), decoded.len());
    assert_eq!(view.is_empty(), decoded.is_empty());
    each(view, decoded, |view, attribute| {
        assert_eq!(view.key, attribute.key);
        value_equal(&view.value, attribute.value.as_ref());
    });
    each(view.entries(), decoded, |view, attribute| {
        assert_eq!(view.key, attribute.key.as_bytes());
    });
    for (entry, attribute) in view.entries().zip(view) {
        // Compared as text, because to go down more than one way at each level is exponential.
        assert_eq!(format!("{:?}", entry.value()), format!("{:?}", attribute.value));
        let first = view.iter().find(|other| other.key == attribute.key).expect("it is in the list");
        let got = view.get(attribute.key).expect("it is in the list");
        assert_eq!(format!("{got:?}"), format!("{:?}", first.value));
    }
    assert!(view.get("no such attribute").is_none());
}

fn value_equal(view: &Value<'_>, decoded: Option<&AnyValue>) {
    use any_value::Value as Any;
    match (view, decoded.and_then(|decoded| decoded.value.as_ref())) {
        (Value::Empty, None | Some(Any::StringValueStrindex(_))) => {}
        (Value::Str(view), Some(Any::StringValue(decoded))) => assert_eq!(view, decoded),
        (Value::Bool(view), Some(Any::BoolValue(decoded))) => assert_eq!(view, decoded),
        (Value::Int(view), Some(Any::IntValue(decoded))) => assert_eq!(view, decoded),
        (Value::Double(view), Some(Any::DoubleValue(decoded))) => assert_eq!(view.to_bits(), decoded.to_bits()),
        (Value::Bytes(view), Some(Any::BytesValue(decoded))) => assert_eq!(view, decoded),
        (Value::Array(view), Some(Any::ArrayValue(decoded))) => {
            assert_eq!(view.len(), decoded.values.len());
            assert_eq!(view.is_empty(), decoded.values.is_empty());
            each(view, &decoded.values, |view, decoded| value_equal(&view, Some(decoded)));
        }
        (Value::Map(view), Some(Any::KvlistValue(decoded))) => attributes_equal(*view, &decoded.values),
        (view, decoded) => panic!("view {view:?}, prost {decoded:?}"),
    }
}

fn span_equal(view: &traces::Span<'_>, decoded: &Span) {
    assert_eq!(view.trace_id(), decoded.trace_id);
    let valid = decoded.trace_id.len() == 16 && decoded.trace_id.iter().any(|byte| *byte != 0);
    assert_eq!(view.trace_id_array().is_some(), valid);
    assert_eq!(view.span_id(), decoded.span_id);
    assert_eq!(view.trace_state(), decoded.trace_state);
    assert_eq!(view.parent_span_id(), decoded.parent_span_id);
    assert_eq!(view.flags(), decoded.flags);
    assert_eq!(view.name(), decoded.name);
    assert_eq!(view.kind(), decoded.kind);
    assert_eq!(view.start_time_unix_nano(), decoded.start_time_unix_nano);
    assert_eq!(view.end_time_unix_nano(), decoded.end_time_unix_nano);
    attributes_equal(view.attributes(), &decoded.attributes);
    assert_eq!(view.dropped_attributes_count(), decoded.dropped_attributes_count);
    assert_eq!(view.dropped_events_count(), decoded.dropped_events_count);
    assert_eq!(view.dropped_links_count(), decoded.dropped_links_count);
    let none = Status::default();
    let status = decoded.status.as_ref().unwrap_or(&none);
    assert_eq!((view.status_code(), view.status_message()), (status.code, status.message.as_str()));
    each(view.events(), &decoded.events, |view, event| {
        assert_eq!(view.time_unix_nano(), event.time_unix_nano);
        assert_eq!(view.name(), event.name);
        attributes_equal(view.attributes(), &event.attributes);
        assert_eq!(view.dropped_attributes_count(), event.dropped_attributes_count);
    });
    each(view.links(), &decoded.links, |view, link| {
        assert_eq!(view.trace_id(), link.trace_id);
        assert_eq!(view.span_id(), link.span_id);
        assert_eq!(view.trace_state(), link.trace_state);
        attributes_equal(view.attributes(), &link.attributes);
        assert_eq!(view.dropped_attributes_count(), link.dropped_attributes_count);
        assert_eq!(view.flags(), link.flags);
    });
    let again = Span::decode(view.raw()).expect("a span's own bytes decode");
    assert_eq!(again.encode_to_vec(), decoded.encode_to_vec());
}

/// Returns the number of points.
fn metric_equal(view: &metrics::Metric<'_>, decoded: &Metric) -> usize {
    assert_eq!(view.name(), decoded.name);
    assert_eq!(view.description(), decoded.description);
    assert_eq!(view.unit(), decoded.unit);
    attributes_equal(view.metadata(), &decoded.metadata);
    match (view.data(), &decoded.data) {
        (Data::Empty, None) => 0,
        (Data::Gauge(points), Some(metric::Data::Gauge(gauge))) => {
            each(points, &gauge.data_points, number_equal);
            gauge.data_points.len()
        }
        (Data::Sum { points, temporality, monotonic }, Some(metric::Data::Sum(sum))) => {
            assert_eq!((temporality, monotonic), (sum.aggregation_temporality, sum.is_monotonic));
            each(points, &sum.data_points, number_equal);
            sum.data_points.len()
        }
        (Data::Histogram { points, temporality }, Some(metric::Data::Histogram(histogram))) => {
            assert_eq!(temporality, histogram.aggregation_temporality);
            each(points, &histogram.data_points, histogram_equal);
            histogram.data_points.len()
        }
        (Data::ExponentialHistogram { points, temporality }, Some(metric::Data::ExponentialHistogram(histogram))) => {
            assert_eq!(temporality, histogram.aggregation_temporality);
            each(points, &histogram.data_points, exponential_equal);
            histogram.data_points.len()
        }
        (Data::Summary { points }, Some(metric::Data::Summary(summary))) => {
            each(points, &summary.data_points, summary_equal);
            summary.data_points.len()
        }
        (view, decoded) => panic!("view {view:?}, prost {decoded:?}"),
    }
}

fn bits(number: Option<f64>) -> Option<u64> {
    number.map(f64::to_bits)
}

fn exemplars_equal<'a>(view: impl Iterator<Item = metrics::Exemplar<'a>>, decoded: &[Exemplar]) {
    each(view, decoded, |view, exemplar| {
        attributes_equal(view.filtered_attributes(), &exemplar.filtered_attributes);
        assert_eq!(view.time_unix_nano(), exemplar.time_unix_nano);
        assert_eq!(view.span_id(), exemplar.span_id);
        assert_eq!(view.trace_id(), exemplar.trace_id);
        match (view.value(), exemplar.value) {
            (Number::None, None) => {}
            (Number::Int(view), Some(exemplar::Value::AsInt(decoded))) => assert_eq!(view, decoded),
            (Number::Double(view), Some(exemplar::Value::AsDouble(decoded))) => {
                assert_eq!(view.to_bits(), decoded.to_bits());
            }
            (view, decoded) => panic!("view {view:?}, prost {decoded:?}"),
        }
    });
}

/// The fields that all points have.
macro_rules! common_equal {
    ($view:ident, $decoded:ident) => {
        attributes_equal($view.attributes(), &$decoded.attributes);
        assert_eq!($view.start_time_unix_nano(), $decoded.start_time_unix_nano);
        assert_eq!($view.time_unix_nano(), $decoded.time_unix_nano);
        assert_eq!($view.flags(), $decoded.flags);
    };
}

fn number_equal(view: metrics::NumberPoint<'_>, decoded: &NumberDataPoint) {
    common_equal!(view, decoded);
    exemplars_equal(view.exemplars(), &decoded.exemplars);
    match (view.value(), decoded.value) {
        (Number::None, None) => {}
        (Number::Int(view), Some(number_data_point::Value::AsInt(decoded))) => assert_eq!(view, decoded),
        (Number::Double(view), Some(number_data_point::Value::AsDouble(decoded))) => {
            assert_eq!(view.to_bits(), decoded.to_bits());
        }
        (view, decoded) => panic!("view {view:?}, prost {decoded:?}"),
    }
}

fn histogram_equal(view: metrics::HistogramPoint<'_>, decoded: &HistogramDataPoint) {
    common_equal!(view, decoded);
    exemplars_equal(view.exemplars(), &decoded.exemplars);
    assert_eq!(view.count(), decoded.count);
    assert_eq!(
        [bits(view.sum()), bits(view.min()), bits(view.max())],
        [decoded.sum, decoded.min, decoded.max].map(bits)
    );
    each(view.bucket_counts(), &decoded.bucket_counts, |view, decoded| assert_eq!(view, *decoded));
    each(view.explicit_bounds(), &decoded.explicit_bounds, |view, decoded| {
        assert_eq!(view.to_bits(), decoded.to_bits());
    });
}

fn exponential_equal(view: metrics::ExpHistogramPoint<'_>, decoded: &ExponentialHistogramDataPoint) {
    common_equal!(view, decoded);
    exemplars_equal(view.exemplars(), &decoded.exemplars);
    assert_eq!((view.count(), view.scale(), view.zero_count()), (decoded.count, decoded.scale, decoded.zero_count));
    assert_eq!(view.zero_threshold().to_bits(), decoded.zero_threshold.to_bits());
    assert_eq!(
        [bits(view.sum()), bits(view.min()), bits(view.max())],
        [decoded.sum, decoded.min, decoded.max].map(bits)
    );
    buckets_equal(view.positive(), decoded.positive.as_ref());
    buckets_equal(view.negative(), decoded.negative.as_ref());
}

fn buckets_equal(view: metrics::Buckets<'_>, decoded: Option<&Buckets>) {
    let none = Buckets::default();
    let decoded = decoded.unwrap_or(&none);
    assert_eq!(view.offset(), decoded.offset);
    each(view.counts(), &decoded.bucket_counts, |view, decoded| assert_eq!(view, *decoded));
}

fn summary_equal(view: metrics::SummaryPoint<'_>, decoded: &SummaryDataPoint) {
    common_equal!(view, decoded);
    assert_eq!((view.count(), view.sum().to_bits()), (decoded.count, decoded.sum.to_bits()));
    each(view.quantiles(), &decoded.quantile_values, |view, decoded| {
        assert_eq!(view.quantile.to_bits(), decoded.quantile.to_bits());
        assert_eq!(view.value.to_bits(), decoded.value.to_bits());
    });
}

fn record_equal(view: &logs::LogRecord<'_>, decoded: &LogRecord) {
    assert_eq!(view.time_unix_nano(), decoded.time_unix_nano);
    assert_eq!(view.observed_time_unix_nano(), decoded.observed_time_unix_nano);
    assert_eq!(view.severity_number(), decoded.severity_number);
    assert_eq!(view.severity_text(), decoded.severity_text);
    value_equal(&view.body(), decoded.body.as_ref());
    attributes_equal(view.attributes(), &decoded.attributes);
    assert_eq!(view.dropped_attributes_count(), decoded.dropped_attributes_count);
    assert_eq!(view.flags(), decoded.flags);
    assert_eq!(view.trace_id(), decoded.trace_id);
    assert_eq!(view.span_id(), decoded.span_id);
    assert_eq!(view.event_name(), decoded.event_name);
}
