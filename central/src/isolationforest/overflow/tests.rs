//! Every kind of point without state is held against its family.

use std::sync::Arc;

use mirador_otlp::Request;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{HistogramDataPoint, SummaryDataPoint};

use super::super::config::Config;
use super::super::pass::tests::{attributes, gauge, histogram, metric, number, request, sum, summary};
use super::super::pass::{OVERFLOW, Outcome, Shard, Unscored};
use super::*;

const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 1_700_000_000 * SECOND;

/// One series with state and one without, as two attribute sets of one metric.
fn pair(step: u64, odd: bool, make: fn(u64, f64, &str) -> Data) -> Request {
    let usual = 100.0 + (step * 7919 % 13) as f64;
    let metric_of = |value, name| metric("m", "", make(step, value, name));
    request(vec![(Vec::new(), vec![metric_of(usual, "a"), metric_of(if odd { 5000.0 } else { usual }, "b")])])
}

fn at(step: u64) -> u64 {
    NOW + (step + 1) * 10 * SECOND
}

fn level(step: u64, value: f64, name: &str) -> Data {
    gauge(vec![number(at(step), value, &[("n", name)])])
}

/// A counter that has grown by the value in each step before this one by 100.
fn counter(step: u64, value: f64, name: &str) -> Data {
    sum(vec![number(at(step), 1e6 + (step as f64) * 1000.0 + value * 10.0, &[("n", name)])], false)
}

fn buckets(step: u64, value: f64, name: &str) -> Data {
    let count = 10 * (step + 1);
    let point = HistogramDataPoint {
        attributes: attributes(&[("n", name)]),
        time_unix_nano: at(step),
        count,
        sum: Some(step as f64 * 1000.0 + value * 10.0),
        bucket_counts: vec![count, 0],
        explicit_bounds: vec![1e4],
        ..HistogramDataPoint::default()
    };
    histogram(vec![point], false)
}

fn quantiles(step: u64, value: f64, name: &str) -> Data {
    let quantile = |quantile, value| ValueAtQuantile { quantile, value };
    let count = 10 * (step + 1);
    let point = SummaryDataPoint {
        attributes: attributes(&[("n", name)]),
        time_unix_nano: at(step),
        count,
        sum: count as f64,
        quantile_values: vec![quantile(0.5, 10.0), quantile(0.99, value)],
        ..SummaryDataPoint::default()
    };
    summary(vec![point])
}

/// The score of the series without state, where it has one.
fn score(outcome: &Outcome) -> Option<f64> {
    let of = |series: &&crate::series::Series| {
        series.labels.value("__name__") == Some("anomaly_score") && series.labels.value("n") == Some("b")
    };
    outcome.out.series.iter().find(of).map(|series| series.samples[0].1)
}

#[test]
fn every_kind_of_point_without_state_is_held_against_its_family() {
    type Make = fn(u64, f64, &str) -> Data;
    let kinds: [(&str, Make); 4] =
        [("gauge", level), ("counter", counter), ("histogram", buckets), ("summary", quantiles)];
    for (kind, make) in kinds {
        let mut config = Config::default();
        config.series.max_series = 1;
        let mut shard = Shard::new(Arc::new(config), 1);
        // Every sixteenth point teaches the family, which speaks after 64 of them.
        let steps = 16 * 80;
        for step in 0..steps {
            let outcome = shard.pass(&pair(step, false, make), None, at(step));
            assert_eq!(outcome.overflow, [1, 0, 0], "{kind}");
            let unscored: u64 = outcome.unscored.iter().sum();
            assert_eq!(outcome.tally.points, outcome.scored + unscored + outcome.tally.lost_in_all());
            assert_eq!(score(&outcome).is_none(), outcome.unscored[Unscored::OverLimit as usize] == 1, "{kind}");
        }
        let usual = score(&shard.pass(&pair(steps, false, make), None, at(steps)));
        let odd = score(&shard.pass(&pair(steps + 1, true, make), None, at(steps + 1)));
        assert!(usual.is_some_and(|score| score < 0.7), "{kind}: {usual:?}");
        assert!(odd.is_some_and(|score| score > 0.8), "{kind}: {odd:?}");
    }
}

#[test]
fn the_limits_per_metric_per_resource_and_in_all_are_counted_apart() {
    let series = |limits: [usize; 3]| {
        let mut config = Config::default();
        [config.series.max_series, config.series.max_per_metric, config.series.max_per_resource] = limits;
        let mut shard = Shard::new(Arc::new(config), 1);
        let point = |name: &str| number(NOW, 1.0, &[("n", name)]);
        let metrics = || ["a", "b"].map(|name| metric(name, "", gauge(vec![point("1"), point("2"), point("3")])));
        let resources = ["x", "y"].map(|name| (attributes(&[("service.name", name)]), metrics().to_vec()));
        let outcome = shard.pass(&request(resources.to_vec()), None, NOW);
        assert_eq!(outcome.tally.points, 12);
        assert_eq!(outcome.unscored[Unscored::OverLimit as usize], outcome.overflow.iter().sum::<u64>());
        (shard.series(), outcome.overflow)
    };
    assert_eq!(OVERFLOW, ["series", "metric", "resource"]);
    assert_eq!(series([5, 100, 100]), (5, [7, 0, 0]));
    assert_eq!(series([100, 4, 100]), (8, [0, 4, 0]));
    assert_eq!(series([100, 100, 5]), (10, [0, 0, 2]));
    assert_eq!(series([100, 100, 100]), (12, [0, 0, 0]));
}

#[test]
fn points_before_are_bounded_forgotten_and_restored() {
    let (mut families, settings) = (Families::new(8), Settings::default());
    let mut beyond = Beyond::new(2);
    for key in 0..5 {
        let reading = Reading::Total { value: 1.0, start: 0 };
        assert_eq!(beyond.score((&mut families, 1), &settings, key, (NOW + key as u64, reading)), None);
    }
    assert_eq!(beyond.before.len(), 2);
    let mut bytes = Encoder::default();
    beyond.encode(&mut bytes);
    let mut again = Beyond::new(1);
    again.restore(Beyond::decode(&mut Decoder(&bytes.0)).unwrap());
    assert_eq!(again.before.len(), 1);
    assert!(Beyond::decode(&mut Decoder(&bytes.0[..bytes.0.len() - 1])).is_none());
    beyond.expire(NOW + 1);
    assert_eq!(beyond.before.len(), 1);
}
