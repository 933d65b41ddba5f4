//! What the shop's services report about themselves.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric,
    number_data_point,
};

use super::{SERVICES, Shop, resource, scope};

impl Shop {
    /// Processor time and requests served (cumulative), memory and utilisation (gauges) of every service.
    pub fn metrics(&mut self, now: u64) -> ExportMetricsServiceRequest {
        let started = self.started_unix_nano;
        let resource_metrics = (0..SERVICES.len())
            .map(|service| {
                let busy = self.busy_nanos[service] as f64 / 1e9;
                let memory = 180e6 + 8e6 * self.random.unit() + service as f64 * 12e6;
                let utilisation = (0.12 + 0.05 * self.random.unit() + busy / 1e4).min(1.0);
                let metrics = vec![
                    sum("process.cpu.time", "s", point(started, now, number_data_point::Value::AsDouble(busy))),
                    sum(
                        "shop.requests",
                        "{request}",
                        point(started, now, number_data_point::Value::AsInt(self.served[service] as i64)),
                    ),
                    gauge("process.memory.usage", "By", point(0, now, number_data_point::Value::AsInt(memory as i64))),
                    gauge(
                        "process.cpu.utilization",
                        "1",
                        point(0, now, number_data_point::Value::AsDouble(utilisation)),
                    ),
                ];
                ResourceMetrics {
                    resource: Some(resource(service)),
                    scope_metrics: vec![ScopeMetrics { scope: Some(scope()), metrics, ..ScopeMetrics::default() }],
                    ..ResourceMetrics::default()
                }
            })
            .collect();
        ExportMetricsServiceRequest { resource_metrics }
    }
}

fn point(start: u64, now: u64, value: number_data_point::Value) -> NumberDataPoint {
    NumberDataPoint {
        start_time_unix_nano: start,
        time_unix_nano: now,
        value: Some(value),
        ..NumberDataPoint::default()
    }
}

fn sum(name: &str, unit: &str, point: NumberDataPoint) -> Metric {
    let data = metric::Data::Sum(Sum {
        data_points: vec![point],
        aggregation_temporality: AggregationTemporality::Cumulative.into(),
        is_monotonic: true,
    });
    Metric { name: name.to_owned(), unit: unit.to_owned(), data: Some(data), ..Metric::default() }
}

fn gauge(name: &str, unit: &str, point: NumberDataPoint) -> Metric {
    let data = metric::Data::Gauge(Gauge { data_points: vec![point] });
    Metric { name: name.to_owned(), unit: unit.to_owned(), data: Some(data), ..Metric::default() }
}
