//! Metrics of every type that OTLP has, from two agents over three replicas of isolationforest into VictoriaMetrics:
//! stored with their values, and every series with its score.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use mirador_support::backends::client::until;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint,
    Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use serde_json::json;

use crate::exact::{conserved, every_series_has_a_score};
use crate::fleet::{Fleet, WAIT};

/// Points of each series.
const STEPS: u64 = 4;
/// Resources, more than owners.
const RESOURCES: usize = 7;
const SECOND: u64 = 1_000_000_000;

/// When a point is, and since when it counts.
#[derive(Clone, Copy)]
struct At {
    start: u64,
    time: u64,
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

fn number(at: At, value: number_data_point::Value) -> Vec<NumberDataPoint> {
    let (start_time_unix_nano, time_unix_nano) = (at.start, at.time);
    vec![NumberDataPoint { start_time_unix_nano, time_unix_nano, value: Some(value), ..NumberDataPoint::default() }]
}

fn sum(at: At, value: i64, temporality: AggregationTemporality, is_monotonic: bool) -> metric::Data {
    let data_points = number(at, number_data_point::Value::AsInt(value));
    metric::Data::Sum(Sum { data_points, aggregation_temporality: temporality.into(), is_monotonic })
}

/// `count` requests in each of three buckets.
fn histogram(at: At, count: u64, temporality: AggregationTemporality) -> metric::Data {
    let point = HistogramDataPoint {
        start_time_unix_nano: at.start,
        time_unix_nano: at.time,
        count: 3 * count,
        sum: Some(4.5 * count as f64),
        bucket_counts: vec![count; 3],
        explicit_bounds: vec![1.0, 2.0],
        ..HistogramDataPoint::default()
    };
    metric::Data::Histogram(Histogram { data_points: vec![point], aggregation_temporality: temporality.into() })
}

/// `count` in each of (1, 2] and (2, 4], and as many zeros.
fn exponential(at: At, count: u64, temporality: AggregationTemporality) -> metric::Data {
    let point = ExponentialHistogramDataPoint {
        start_time_unix_nano: at.start,
        time_unix_nano: at.time,
        count: 3 * count,
        sum: Some(5.0 * count as f64),
        zero_count: count,
        positive: Some(Buckets { offset: 0, bucket_counts: vec![count; 2] }),
        ..ExponentialHistogramDataPoint::default()
    };
    let aggregation_temporality = temporality.into();
    metric::Data::ExponentialHistogram(ExponentialHistogram { data_points: vec![point], aggregation_temporality })
}

fn summary(at: At, count: u64) -> metric::Data {
    let quantile = |quantile, value| ValueAtQuantile { quantile, value };
    let point = SummaryDataPoint {
        start_time_unix_nano: at.start,
        time_unix_nano: at.time,
        count,
        sum: 2.0 * count as f64,
        quantile_values: vec![quantile(0.5, 1.5), quantile(0.99, 9.0)],
        ..SummaryDataPoint::default()
    };
    metric::Data::Summary(Summary { data_points: vec![point] })
}

/// The points of step `step` (from 1) of the resource number `index`, cumulative ones since `start`.
fn request(index: usize, step: u64, start: u64) -> ExportMetricsServiceRequest {
    use AggregationTemporality::{Cumulative, Delta};
    let time = start + step * SECOND;
    let (since_start, since_last) = (At { start, time }, At { start: time - SECOND, time });
    let level = 0.5 * step as f64 + index as f64;
    let gauge =
        metric::Data::Gauge(Gauge { data_points: number(since_start, number_data_point::Value::AsDouble(level)) });
    let metrics = [
        ("m.level", "", gauge),
        ("m.calls", "", sum(since_start, 10 * step as i64, Cumulative, true)),
        ("m.events", "", sum(since_last, 5, Delta, true)),
        ("m.open", "", sum(since_start, 7 - step as i64, Cumulative, false)),
        ("m.wait", "s", histogram(since_start, step, Cumulative)),
        ("m.size", "By", histogram(since_last, 2, Delta)),
        ("m.lag", "s", exponential(since_start, step, Cumulative)),
        ("m.gap", "s", exponential(since_last, 2, Delta)),
        ("m.old", "", summary(since_start, step)),
    ];
    let metrics = metrics.map(|(name, unit, data)| Metric {
        name: name.to_owned(),
        unit: unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    });
    let attributes = vec![text("service.name", &format!("svc-{index}")), text("service.instance.id", "one")];
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(Resource { attributes, ..Resource::default() }),
            scope_metrics: vec![ScopeMetrics { metrics: metrics.into(), ..ScopeMetrics::default() }],
            ..ResourceMetrics::default()
        }],
    }
}

/// Name, the label that tells it apart (`le` or `quantile`), and the last value of every series of a resource.
fn expected(index: usize) -> BTreeMap<(String, String), f64> {
    let steps = STEPS as f64;
    let mut all = BTreeMap::new();
    let mut add = |name: &str, label: &str, value: f64| all.insert((name.to_owned(), label.to_owned()), value);
    add("m_level", "", 0.5 * steps + index as f64);
    add("m_calls_total", "", 10.0 * steps);
    add("m_events_total", "", 5.0 * steps);
    add("m_open", "", 7.0 - steps);
    for (name, count) in [("m_wait_seconds", steps), ("m_size_bytes", 2.0 * steps)] {
        add(&format!("{name}_count"), "", 3.0 * count);
        add(&format!("{name}_sum"), "", 4.5 * count);
        add(&format!("{name}_bucket"), "1", count);
        add(&format!("{name}_bucket"), "2", 2.0 * count);
        add(&format!("{name}_bucket"), "+Inf", 3.0 * count);
    }
    for (name, count) in [("m_lag_seconds", steps), ("m_gap_seconds", 2.0 * steps)] {
        add(&format!("{name}_count"), "", 3.0 * count);
        add(&format!("{name}_sum"), "", 5.0 * count);
        add(&format!("{name}_bucket"), "2", 2.0 * count);
        add(&format!("{name}_bucket"), "4", 3.0 * count);
        add(&format!("{name}_bucket"), "+Inf", 3.0 * count);
    }
    add("m_old", "0.5", 1.5);
    add("m_old", "0.99", 9.0);
    add("m_old_count", "", steps);
    add("m_old_sum", "", 2.0 * steps);
    all
}

async fn every_value_is_stored(fleet: &Fleet) -> Result<()> {
    until("every value", WAIT, async || {
        fleet.metrics.flush().await?;
        for index in 0..RESOURCES {
            let mut found = BTreeMap::new();
            for series in fleet.metrics.export(&format!("{{__name__=~\"m_.*\",job=\"svc-{index}\"}}")).await? {
                let label = |name: &str| series.labels.get(name).cloned();
                let part = label("le").or_else(|| label("quantile")).unwrap_or_default();
                let last = series.samples.last().map_or(f64::NAN, |(_, value)| *value);
                found.insert((label("__name__").unwrap_or_default(), part), last);
            }
            for (series, value) in expected(index) {
                let stored = found.get(&series).copied();
                ensure!(
                    stored.is_some_and(|stored| (stored - value).abs() < 1e-9),
                    "svc-{index}: {series:?} is {stored:?} instead of {value}; there are {found:?}"
                );
            }
        }
        Ok(Some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn points_of_every_metric_type_are_stored_once_however_often_they_are_sent_and_each_has_its_score() -> Result<()>
{
    let fleet = Fleet::start(2, json!({}), json!({})).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    let start = now - (STEPS + 1) * SECOND;
    for step in 1..=STEPS {
        for index in 0..RESOURCES {
            let request = request(index, step, start);
            // A client's retry, at another node even, adds to no total.
            for agent in 0..2 {
                fleet.sender(agent)?.metrics(&request).await?;
            }
        }
    }
    every_value_is_stored(&fleet).await?;
    every_series_has_a_score(&fleet).await?;
    let scores = fleet.metrics.export(r#"anomaly_score{job=~"svc-.*"}"#).await?;
    ensure!(scores.len() >= 9 * RESOURCES, "{} series of scores", scores.len());
    for series in &scores {
        let times: std::collections::BTreeSet<i64> = series.samples.iter().map(|(time, _)| *time).collect();
        let wanted = (1..=STEPS).map(|step| ((start + step * SECOND) / 1_000_000) as i64);
        ensure!(wanted.into_iter().all(|time| times.contains(&time)), "a point without a score: {series:?}");
        ensure!(series.samples.iter().all(|(_, score)| (0.0..=1.0).contains(score)), "{series:?}");
    }
    for agent in &fleet.agents {
        conserved(agent).await?;
    }
    Ok(())
}
