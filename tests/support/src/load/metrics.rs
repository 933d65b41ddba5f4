//! The payload of the scoring bench: gauges and counters of many series, each with one point a request.
//!
//! A request is encoded once. For every one that is sent, only times and values are written anew, in place: a series
//! gets a new value every [`STEP_NANOS`] of its own time.

use bytes::{BufMut, Bytes, BytesMut};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric,
    number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;

use crate::shop::Random;

/// Time between two points of a series.
pub const STEP_NANOS: u64 = 15_000_000_000;
/// Series of one resource.
const PER_RESOURCE: usize = 250;
/// Series of one metric and resource.
const PER_METRIC: usize = 25;
const ROUTES: [&str; 5] = ["/products", "/cart", "/checkout", "/orders/{id}", "/search"];
const STATUS: [&str; 5] = ["200", "201", "400", "404", "500"];
/// What stands for a time and for a value until they are written: neither occurs elsewhere in a request.
const TIME: u64 = 0x1715_7e51_ac3d_9b07;
const VALUE: u64 = 0x3ff7_1c0b_5aa3_66e1;

/// An encoded request whose times and values can be written anew.
#[derive(Debug, Clone)]
pub struct Payload {
    frame: BytesMut,
    /// Offsets of time and value of each point, and the value of a counter so far.
    points: Vec<(usize, usize, Option<f64>)>,
    time: u64,
    random: Random,
}

impl Payload {
    /// A request of one point for each of `series` series, of which the first has the number `first`; everything
    /// follows from the numbers. `now` is the time before the first points.
    pub fn new(first: usize, series: usize, now_unix_nano: u64) -> Self {
        let request = request(first, series, now_unix_nano);
        let body = request.encode_to_vec();
        let mut frame = BytesMut::with_capacity(body.len() + 5);
        frame.put_u8(0);
        frame.put_u32(body.len() as u32);
        frame.extend_from_slice(&body);
        let mut points = Vec::with_capacity(series);
        let mut at = 0;
        for number in first..first + series {
            let mut next = |wanted: u64| {
                let found = frame[at..].windows(8).position(|window| window == wanted.to_le_bytes());
                at += found.unwrap_or_default();
                at
            };
            // Fields of a point are encoded in the order of their numbers: time first, then value.
            points.push((next(TIME), next(VALUE), is_counter(number).then_some(0.0)));
        }
        Self { frame, points, time: now_unix_nano, random: Random::new(first as u64) }
    }

    /// Points in a request.
    pub fn points(&self) -> usize {
        self.points.len()
    }

    /// Bytes of the request without framing.
    pub fn body_bytes(&self) -> usize {
        self.frame.len() - 5
    }

    /// The next request, framed for gRPC: every series one step later.
    pub fn later(&mut self) -> Bytes {
        self.time += STEP_NANOS;
        for (index, (time, value, total)) in self.points.iter_mut().enumerate() {
            // About normal: what a series shows most of the time.
            let noise = self.random.unit() + self.random.unit() + self.random.unit() - 1.5;
            let fresh = 100.0 + index as f64 + 20.0 * noise;
            let number = match total {
                Some(total) => {
                    *total += fresh.floor();
                    *total
                }
                None => fresh,
            };
            self.frame[*time..*time + 8].copy_from_slice(&self.time.to_le_bytes());
            self.frame[*value..*value + 8].copy_from_slice(&number.to_bits().to_le_bytes());
        }
        Bytes::copy_from_slice(&self.frame)
    }
}

/// Two of five metrics are counters.
fn is_counter(series: usize) -> bool {
    series / PER_METRIC % 5 < 2
}

fn request(first: usize, series: usize, now: u64) -> ExportMetricsServiceRequest {
    let mut resource_metrics: Vec<ResourceMetrics> = Vec::new();
    let mut latest = None;
    for number in first..first + series {
        let (resource_number, metric_number) = (number / PER_RESOURCE, number % PER_RESOURCE / PER_METRIC);
        let is_new = latest != Some((resource_number, metric_number));
        if latest.is_none_or(|(resource, _)| resource != resource_number) {
            resource_metrics.push(resource(resource_number));
        }
        latest = Some((resource_number, metric_number));
        let Some(ResourceMetrics { scope_metrics, .. }) = resource_metrics.last_mut() else { continue };
        let metrics = &mut scope_metrics[0].metrics;
        if is_new {
            metrics.push(metric(metric_number, is_counter(number)));
        }
        let point = point(number, now);
        match metrics.last_mut().and_then(|metric| metric.data.as_mut()) {
            Some(metric::Data::Gauge(gauge)) => gauge.data_points.push(point),
            Some(metric::Data::Sum(sum)) => sum.data_points.push(point),
            _ => {}
        }
    }
    ExportMetricsServiceRequest { resource_metrics }
}

fn resource(number: usize) -> ResourceMetrics {
    let attributes = vec![
        text("service.name", &format!("service-{number}")),
        text("service.namespace", "bench"),
        text("service.instance.id", &format!("service-{number}-7d9c5b6f4-x2x{number}")),
        text("telemetry.sdk.language", "go"),
        text("telemetry.sdk.name", "opentelemetry"),
        text("k8s.pod.name", &format!("service-{number}-7d9c5b6f4-x2x{number}")),
        text("k8s.namespace.name", "bench"),
    ];
    let name = "go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp".to_owned();
    ResourceMetrics {
        resource: Some(Resource { attributes, ..Resource::default() }),
        scope_metrics: vec![ScopeMetrics {
            scope: Some(InstrumentationScope { name, version: "0.61.0".to_owned(), ..InstrumentationScope::default() }),
            ..ScopeMetrics::default()
        }],
        ..ResourceMetrics::default()
    }
}

fn metric(number: usize, is_counter: bool) -> Metric {
    let data = if is_counter {
        metric::Data::Sum(Sum {
            data_points: Vec::new(),
            aggregation_temporality: AggregationTemporality::Cumulative as i32,
            is_monotonic: true,
        })
    } else {
        metric::Data::Gauge(Gauge::default())
    };
    Metric {
        name: format!("http.server.{}.{number}", if is_counter { "requests" } else { "active_requests" }),
        unit: "1".to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

fn point(number: usize, now: u64) -> NumberDataPoint {
    let within = number % PER_METRIC;
    NumberDataPoint {
        attributes: vec![
            text("http.request.method", if number.is_multiple_of(3) { "POST" } else { "GET" }),
            text("http.route", ROUTES[within % ROUTES.len()]),
            text("http.response.status_code", STATUS[within / ROUTES.len() % STATUS.len()]),
            text("server.address", "shop.bench.svc.cluster.local"),
        ],
        start_time_unix_nano: now - 1,
        time_unix_nano: TIME,
        value: Some(number_data_point::Value::AsDouble(f64::from_bits(VALUE))),
        ..NumberDataPoint::default()
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_request_decodes_with_later_points_of_the_same_series() {
        let now = 1_700_000_000_000_000_000;
        let mut payload = Payload::new(1_000, 600, now);
        let mut known = HashSet::new();
        for step in 1..4 {
            let frame = payload.later();
            assert_eq!(frame.len(), payload.body_bytes() + 5);
            let request = ExportMetricsServiceRequest::decode(&frame[5..]).unwrap();
            let (mut points, mut totals) = (0, 0);
            for resource in &request.resource_metrics {
                for metric in &resource.scope_metrics[0].metrics {
                    let (data, counts) = match metric.data.as_ref().unwrap() {
                        metric::Data::Gauge(gauge) => (&gauge.data_points, false),
                        metric::Data::Sum(sum) => (&sum.data_points, true),
                        other => panic!("{other:?}"),
                    };
                    for point in data {
                        assert_eq!(point.time_unix_nano, now + step * STEP_NANOS);
                        let Some(number_data_point::Value::AsDouble(value)) = point.value else { panic!("{point:?}") };
                        assert!(value > 50.0, "{value}");
                        totals += u64::from(counts);
                        points += 1;
                        known.insert(format!("{:?}{}{:?}", resource.resource, metric.name, point.attributes));
                    }
                }
            }
            assert_eq!((points, totals), (600, 250));
        }
        assert_eq!(known.len(), 600, "each series has labels of its own");
    }
}
