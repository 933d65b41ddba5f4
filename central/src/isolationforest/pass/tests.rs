//! Requests in, series out: golden tables for every metric type, deltas, stale markers, limits, scores.

use std::collections::BTreeMap;
use std::time::Duration;

use mirador_otlp::{Limits, Signal};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, Metric,
    NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, exemplar, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::normalise::tally::Loss;
use crate::series::is_stale;

const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 1_700_000_000 * SECOND;

pub(in crate::isolationforest) fn attributes(pairs: &[(&str, &str)]) -> Vec<KeyValue> {
    let value = |text: &str| Some(AnyValue { value: Some(any_value::Value::StringValue(text.to_owned())) });
    pairs
        .iter()
        .map(|(key, text)| KeyValue { key: (*key).to_owned(), value: value(text), ..Default::default() })
        .collect()
}

pub(in crate::isolationforest) fn metric(name: &str, unit: &str, data: Data) -> Metric {
    Metric { name: name.to_owned(), unit: unit.to_owned(), data: Some(data), ..Metric::default() }
}

pub(in crate::isolationforest) fn number(time: u64, value: f64, pairs: &[(&str, &str)]) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(pairs),
        time_unix_nano: time,
        value: Some(number_data_point::Value::AsDouble(value)),
        ..NumberDataPoint::default()
    }
}

pub(in crate::isolationforest) fn gauge(points: Vec<NumberDataPoint>) -> Data {
    Data::Gauge(Gauge { data_points: points })
}

pub(in crate::isolationforest) fn sum(points: Vec<NumberDataPoint>, delta: bool) -> Data {
    Data::Sum(Sum { data_points: points, aggregation_temporality: if delta { 1 } else { 2 }, is_monotonic: true })
}

pub(in crate::isolationforest) fn summary(points: Vec<SummaryDataPoint>) -> Data {
    Data::Summary(Summary { data_points: points })
}

pub(in crate::isolationforest) fn histogram(points: Vec<HistogramDataPoint>, delta: bool) -> Data {
    Data::Histogram(Histogram { data_points: points, aggregation_temporality: if delta { 1 } else { 2 } })
}

pub(in crate::isolationforest) fn request(resources: Vec<(Vec<KeyValue>, Vec<Metric>)>) -> Request {
    let resource_metrics = resources.into_iter().map(|(attributes, metrics)| ResourceMetrics {
        resource: Some(Resource { attributes, ..Resource::default() }),
        scope_metrics: vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }],
        ..ResourceMetrics::default()
    });
    let message = ExportMetricsServiceRequest { resource_metrics: resource_metrics.collect() };
    Request::parse(Signal::Metrics, message.encode_to_vec().into(), &Limits::default()).unwrap()
}

fn shop(metrics: Vec<Metric>) -> Request {
    let resource =
        attributes(&[("service.name", "cart"), ("service.namespace", "shop"), ("service.instance.id", "a-1")]);
    request(vec![(resource, metrics)])
}

fn shard() -> Shard {
    Shard::new(Arc::new(Config::default()), 1)
}

/// `name{label="value",..}` to the samples, scores left out.
fn written(outcome: &Outcome) -> BTreeMap<String, Vec<(i64, f64)>> {
    let mut map: BTreeMap<String, Vec<(i64, f64)>> = BTreeMap::new();
    for series in &outcome.out.series {
        let name = series.labels.value("__name__").unwrap();
        if name == "anomaly_score" || name == "is_anomaly" {
            continue;
        }
        let labels: Vec<String> = series
            .labels
            .texts()
            .filter(|(key, _)| *key != "__name__")
            .map(|(key, value)| format!("{key}={value:?}"))
            .collect();
        map.entry(format!("{name}{{{}}}", labels.join(","))).or_default().extend(&series.samples);
    }
    map
}

/// The latest value of one series.
fn value(outcome: &Outcome, series: &str) -> i64 {
    values(outcome)[series] as i64
}

fn values(outcome: &Outcome) -> BTreeMap<String, f64> {
    written(outcome).into_iter().map(|(series, samples)| (series, samples.last().unwrap().1)).collect()
}

fn table(rows: &[(&str, f64)]) -> BTreeMap<String, f64> {
    rows.iter().map(|(series, value)| ((*series).to_owned(), *value)).collect()
}

#[test]
fn numbers_and_their_labels_follow_the_table() {
    let mut integer =
        number(NOW, 0.0, &[("http.method", "GET"), ("http_method", "get"), ("job", "mine"), ("none", "")]);
    integer.value = Some(number_data_point::Value::AsInt(7));
    integer.attributes.push(KeyValue {
        key: "code".to_owned(),
        value: Some(AnyValue { value: Some(any_value::Value::IntValue(200)) }),
        ..Default::default()
    });
    let outcome = shard().pass(
        &shop(vec![
            metric("requests", "", sum(vec![integer], false)),
            metric("cpu.utilization", "1", gauge(vec![number(NOW, 0.5, &[])])),
        ]),
        None,
        NOW,
    );
    let expected = table(&[
        (r#"requests_total{code="200",exported_job="mine",http_method="GET;get",instance="a-1",job="shop/cart"}"#, 7.0),
        (r#"cpu_utilization_ratio{instance="a-1",job="shop/cart"}"#, 0.5),
    ]);
    assert_eq!(values(&outcome), expected);
    assert_eq!(outcome.tally.points, 2);
}

#[test]
fn names_of_red_and_edges_are_the_ones_that_dashboards_ask_for() {
    let point = || HistogramDataPoint {
        time_unix_nano: NOW,
        count: 1,
        sum: Some(3.0),
        bucket_counts: vec![0, 1],
        explicit_bounds: vec![2.0],
        ..HistogramDataPoint::default()
    };
    let outcome = shard().pass(
        &shop(vec![
            metric("traces.span.metrics.calls", "", sum(vec![number(NOW, 1.0, &[])], false)),
            metric("traces.span.metrics.duration", "ms", histogram(vec![point()], false)),
            metric("traces_service_graph_request_total", "", sum(vec![number(NOW, 1.0, &[])], false)),
            metric("traces_service_graph_request_server", "s", histogram(vec![point()], false)),
        ]),
        None,
        NOW,
    );
    let names: std::collections::BTreeSet<&str> =
        outcome.out.series.iter().filter_map(|series| series.labels.value("__name__")).collect();
    for name in [
        "traces_span_metrics_calls_total",
        "traces_span_metrics_duration_milliseconds_bucket",
        "traces_span_metrics_duration_milliseconds_sum",
        "traces_span_metrics_duration_milliseconds_count",
        "traces_service_graph_request_total",
        "traces_service_graph_request_server_seconds_bucket",
    ] {
        assert!(names.contains(name), "{name} is missing in {names:?}");
    }
}

#[test]
fn a_histogram_becomes_cumulative_buckets_and_has_one_score() {
    let point = HistogramDataPoint {
        time_unix_nano: NOW,
        count: 6,
        sum: Some(9.5),
        bucket_counts: vec![1, 2, 3],
        explicit_bounds: vec![0.002, 15000.0],
        exemplars: vec![Exemplar {
            time_unix_nano: NOW,
            trace_id: vec![0xab; 16],
            span_id: vec![1; 8],
            value: Some(exemplar::Value::AsDouble(0.5)),
            ..Exemplar::default()
        }],
        ..HistogramDataPoint::default()
    };
    let request = request(vec![(Vec::new(), vec![metric("latency", "s", histogram(vec![point], false))])]);
    let outcome = shard().pass(&request, None, NOW);
    let expected = table(&[
        (r#"latency_seconds_bucket{le="0.002"}"#, 1.0),
        (r#"latency_seconds_bucket{le="15000"}"#, 3.0),
        (r#"latency_seconds_bucket{le="+Inf"}"#, 6.0),
        ("latency_seconds_sum{}", 9.5),
        ("latency_seconds_count{}", 6.0),
    ]);
    assert_eq!(values(&outcome), expected);
    let scores: Vec<_> =
        outcome.out.series.iter().filter(|series| series.labels.value("__name__") == Some("anomaly_score")).collect();
    assert_eq!(scores.len(), 1);
    assert_eq!(scores[0].labels.value("metric"), Some("latency_seconds"));
    let with_exemplars: Vec<_> = outcome.out.series.iter().filter(|series| !series.exemplars.is_empty()).collect();
    assert_eq!(with_exemplars.len(), 1);
    assert_eq!(with_exemplars[0].labels.value("le"), Some("15000"));
    assert_eq!(&*with_exemplars[0].exemplars[0].labels[1].1, "ab".repeat(16));
}

#[test]
fn an_exponential_histogram_becomes_buckets_at_its_own_bounds() {
    let point = ExponentialHistogramDataPoint {
        time_unix_nano: NOW,
        count: 10,
        sum: Some(30.0),
        scale: 0,
        zero_count: 2,
        positive: Some(Buckets { offset: 0, bucket_counts: vec![1, 0, 3] }),
        negative: Some(Buckets { offset: 1, bucket_counts: vec![4] }),
        ..ExponentialHistogramDataPoint::default()
    };
    let data =
        Data::ExponentialHistogram(ExponentialHistogram { data_points: vec![point], aggregation_temporality: 2 });
    let outcome = shard().pass(&request(vec![(Vec::new(), vec![metric("x", "", data)])]), None, NOW);
    let expected = table(&[
        (r#"x_bucket{le="-2"}"#, 4.0),
        (r#"x_bucket{le="0"}"#, 6.0),
        (r#"x_bucket{le="2"}"#, 7.0),
        (r#"x_bucket{le="4"}"#, 7.0),
        (r#"x_bucket{le="8"}"#, 10.0),
        (r#"x_bucket{le="+Inf"}"#, 10.0),
        ("x_sum{}", 30.0),
        ("x_count{}", 10.0),
    ]);
    assert_eq!(values(&outcome), expected);
}

#[test]
fn a_summary_keeps_its_quantiles() {
    let quantile = |quantile, value| ValueAtQuantile { quantile, value };
    let point = SummaryDataPoint {
        attributes: attributes(&[("quantile", "mine")]),
        time_unix_nano: NOW,
        count: 5,
        sum: 10.0,
        quantile_values: vec![quantile(0.99, 4.0), quantile(0.5, 2.0)],
        ..SummaryDataPoint::default()
    };
    let data = Data::Summary(Summary { data_points: vec![point] });
    let outcome = shard().pass(&request(vec![(Vec::new(), vec![metric("rpc", "s", data)])]), None, NOW);
    let expected = table(&[
        (r#"rpc_seconds{exported_quantile="mine",quantile="0.5"}"#, 2.0),
        (r#"rpc_seconds{exported_quantile="mine",quantile="0.99"}"#, 4.0),
        (r#"rpc_seconds_sum{quantile="mine"}"#, 10.0),
        (r#"rpc_seconds_count{quantile="mine"}"#, 5.0),
    ]);
    assert_eq!(values(&outcome), expected);
}

#[test]
fn target_info_carries_the_other_attributes_once_a_minute() {
    let resource = || attributes(&[("service.name", "cart"), ("host.name", "node-1"), ("os.type", "linux")]);
    let mut shard = shard();
    let mut infos = 0;
    for step in 0..7 {
        let time = NOW + step * 10 * SECOND;
        let request = request(vec![(resource(), vec![metric("up", "", gauge(vec![number(time, 1.0, &[])]))])]);
        let written = written(&shard.pass(&request, None, time));
        let expected = r#"target_info{host_name="node-1",instance="node-1",job="cart",os_type="linux"}"#;
        infos += written.keys().filter(|series| *series == expected).count();
        assert!(written.contains_key(r#"up{instance="node-1",job="cart"}"#), "{written:?}");
    }
    assert_eq!(infos, 2, "at 0 s and at 60 s");
}

#[test]
fn bad_points_are_counted_by_reason_and_do_not_harm_the_good_ones() {
    let broken = |bounds: Vec<f64>, counts| HistogramDataPoint {
        time_unix_nano: NOW,
        explicit_bounds: bounds,
        bucket_counts: counts,
        ..HistogramDataPoint::default()
    };
    let mut empty = number(NOW, 0.0, &[]);
    empty.value = None;
    let many: Vec<(String, String)> = (0..40).map(|index| (format!("l{index}"), "v".to_owned())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let outcome = shard().pass(
        &shop(vec![
            metric("a", "", gauge(vec![number(0, 1.0, &[]), empty, number(NOW + 80 * 3600 * SECOND, 1.0, &[])])),
            metric("b", "", histogram(vec![broken(vec![1.0], vec![1]), broken(vec![2.0, 1.0], vec![1, 1, 1])], false)),
            metric("c", "", Data::Sum(Sum { data_points: vec![number(NOW, 1.0, &[])], ..Sum::default() })),
            metric("d", "", gauge(vec![number(NOW, 1.0, &many)])),
            Metric { name: "e".to_owned(), ..Metric::default() },
            metric("good", "", gauge(vec![number(NOW, 1.0, &[])])),
        ]),
        None,
        NOW,
    );
    for (loss, count) in [
        (Loss::NoTime, 1),
        (Loss::NoValue, 1),
        (Loss::FarFuture, 1),
        (Loss::BadBuckets, 2),
        (Loss::NoTemporality, 1),
        (Loss::TooManyLabels, 1),
        (Loss::NoData, 1),
    ] {
        assert_eq!(outcome.tally.lost(loss), count, "{loss:?}");
    }
    assert_eq!(written(&outcome).len(), 1);
    assert_conserved(&outcome);
}

#[test]
fn points_older_than_what_is_kept_are_counted_where_that_is_said() {
    let old =
        || shop(vec![metric("a", "", gauge(vec![number(NOW - 2 * 3600 * SECOND, 1.0, &[]), number(NOW, 1.0, &[])]))]);
    let mut config = Config::default();
    for (max_past, lost) in [(Duration::ZERO, 0), (Duration::from_hours(1), 1), (Duration::from_hours(3), 0)] {
        config.normalise.max_past = max_past;
        let outcome = Shard::new(Arc::new(config.clone()), 1).pass(&old(), None, NOW);
        assert_eq!(outcome.tally.lost(Loss::TooOld), lost, "{max_past:?}");
        assert_conserved(&outcome);
    }
}

fn assert_conserved(outcome: &Outcome) {
    let unscored: u64 = outcome.unscored.iter().sum();
    assert_eq!(outcome.tally.points, outcome.scored + unscored + outcome.tally.lost_in_all(), "{outcome:?}");
}

#[test]
fn a_long_value_is_cut_and_stays_distinct() {
    let (left, right) = ("x".repeat(5000) + "1", "x".repeat(5000) + "2");
    let points = vec![number(NOW, 1.0, &[("q", &left)]), number(NOW, 2.0, &[("q", &right)])];
    let outcome = shard().pass(&request(vec![(Vec::new(), vec![metric("a", "", gauge(points))])]), None, NOW);
    let written = written(&outcome);
    assert_eq!((written.len(), outcome.tally.truncated), (2, 2));
    assert!(outcome.out.series.iter().all(|series| series.labels.texts().all(|(_, value)| value.len() <= 1024)));
}

#[test]
fn the_flag_no_recorded_value_ends_every_series_of_the_family() {
    let mut shard = shard();
    let point = |time, flags| HistogramDataPoint {
        time_unix_nano: time,
        count: 1,
        sum: Some(1.0),
        bucket_counts: if flags == 0 { vec![1, 0] } else { Vec::new() },
        explicit_bounds: if flags == 0 { vec![1.0] } else { Vec::new() },
        flags,
        ..HistogramDataPoint::default()
    };
    let send = |shard: &mut Shard, time, flags| {
        let request = request(vec![(Vec::new(), vec![metric("h", "", histogram(vec![point(time, flags)], false))])]);
        shard.pass(&request, None, time)
    };
    let lived = send(&mut shard, NOW, 0);
    let ended = send(&mut shard, NOW + SECOND, 1);
    let names = |outcome: &Outcome| {
        outcome.out.series.iter().map(|series| series.labels.clone()).collect::<std::collections::HashSet<_>>()
    };
    assert_eq!(names(&lived), names(&ended), "score included");
    assert!(ended.out.series.iter().all(|series| is_stale(series.samples[0].1)));
    assert_conserved(&ended);
}

#[test]
fn a_series_that_was_ended_comes_back_without_a_word() {
    let mut shard = shard();
    let mut said = Vec::new();
    for step in 0..200 {
        let mut point = number(NOW + step * SECOND, 1.0, &[]);
        if step % 50 == 49 {
            point.flags = 1;
        }
        said.extend(shard.pass(&shop(vec![metric("g", "", gauge(vec![point]))]), None, NOW + step * SECOND).events);
    }
    assert!(said.is_empty(), "{said:?}");
}

#[test]
fn a_quantile_is_told_by_its_name_and_the_distribution_beside_it() {
    let told = ["span.duration"];
    assert!(is_quantile_of("span.duration.p99", &told) && is_quantile_of("span.duration.p99.9", &told));
    for other in ["span.duration.peak", "span.duration.p", "other.duration.p99", "span.duration"] {
        assert!(!is_quantile_of(other, &told), "{other}");
    }
}

#[test]
fn deltas_become_totals_and_a_repeated_request_changes_nothing() {
    let mut shard = shard();
    let delta = |step: u64, value| {
        let mut point = number(NOW + (step + 1) * SECOND, value, &[]);
        point.start_time_unix_nano = NOW + step * SECOND;
        request(vec![(Vec::new(), vec![metric("d", "", sum(vec![point], true))])])
    };
    let first = written(&shard.pass(&delta(0, 5.0), None, NOW));
    let zero = ((NOW / 1_000_000) as i64 + 1, 0.0);
    assert_eq!(first["d_total{}"], [zero, ((NOW + SECOND) as i64 / 1_000_000, 5.0)], "a total begins with zero");
    assert_eq!(value(&shard.pass(&delta(1, 3.0), None, NOW), "d_total{}"), 8);
    assert_eq!(value(&shard.pass(&delta(1, 3.0), None, NOW), "d_total{}"), 8, "sent again");
    let late = shard.pass(&delta(0, 5.0), None, NOW);
    assert_eq!((late.tally.lost(Loss::LateDelta), written(&late).len()), (1, 0));
    assert_eq!(value(&shard.pass(&delta(2, 2.0), None, NOW), "d_total{}"), 10);
}

#[test]
fn resources_that_differ_only_in_attributes_that_are_no_labels_add_up_as_deltas() {
    let mut shard = shard();
    let resource = |pid: &str| attributes(&[("service.name", "cart"), ("process.pid", pid)]);
    let mut point = number(NOW + SECOND, 4.0, &[]);
    point.start_time_unix_nano = NOW;
    let metrics = || vec![metric("d", "", sum(vec![point.clone()], true))];
    let both = request(vec![(resource("1"), metrics()), (resource("2"), metrics())]);
    assert_eq!(value(&shard.pass(&both, None, NOW), r#"d_total{job="cart"}"#), 8);
    assert_eq!(value(&shard.pass(&both, None, NOW), r#"d_total{job="cart"}"#), 8);
    assert_eq!(shard.series(), 1);
}

#[test]
fn every_point_has_a_score_and_a_flagged_series_says_so_for_an_hour() {
    let mut shard = shard();
    let mut flags = Vec::new();
    for step in 0..1000_u64 {
        let time = NOW + step * 10 * SECOND;
        let value = if step == 300 { 500.0 } else { 100.0 + (step % 7) as f64 };
        let request =
            request(vec![(Vec::new(), vec![metric("g", "", gauge(vec![number(time, value, &[("metric", "m")])]))])]);
        let outcome = shard.pass(&request, None, time);
        assert_conserved(&outcome);
        let sample = |name: &str| {
            outcome.out.series.iter().find(|series| series.labels.value("__name__") == Some(name)).map(|series| {
                assert_eq!(series.labels.value("metric"), Some("g"));
                assert_eq!(series.labels.value("exported_metric"), Some("m"));
                series.samples[0].1
            })
        };
        let score = sample("anomaly_score").unwrap();
        assert!(if step < 64 { score == 0.0 } else { (0.0..=1.0).contains(&score) && score > 0.0 }, "{step}: {score}");
        flags.push(sample("is_anomaly"));
    }
    assert!(flags[..300].iter().all(Option::is_none));
    assert_eq!(flags[300], Some(1.0));
    assert_eq!(flags[301], Some(0.0));
    let last = flags.iter().rposition(|flag| *flag == Some(1.0)).unwrap();
    assert!(last < 330, "the means of the last points forget the outlier: {last}");
    assert_eq!(flags[last + 360], Some(0.0), "an hour later");
    assert!(flags[last + 361].is_some_and(is_stale));
    assert!(flags[last + 362..].iter().all(Option::is_none));
}

#[test]
fn series_over_the_limit_are_written_without_a_score_and_old_ones_make_room() {
    let mut config = Config::default();
    config.series.max_series = 2;
    let mut shard = Shard::new(Arc::new(config), 1);
    let points = |time| ["a", "b", "c"].map(|name| number(time, 1.0, &[("n", name)])).to_vec();
    let send = |shard: &mut Shard, time| {
        shard.pass(&request(vec![(Vec::new(), vec![metric("g", "", gauge(points(time)))])]), None, time)
    };
    let outcome = send(&mut shard, NOW);
    assert_eq!(written(&outcome).len(), 3);
    assert_eq!(outcome.unscored[Unscored::OverLimit as usize], 1);
    assert_conserved(&outcome);
    let later = NOW + 7200 * SECOND;
    let ended = shard.expire(later).0;
    assert_eq!((ended.series.len(), shard.series()), (2, 0));
    assert!(ended.series.iter().all(|series| is_stale(series.samples[0].1)));
    assert!(shard.expire(later).0.series.is_empty());
}

#[test]
fn a_scored_gauge_keeps_less_than_four_kibibytes_of_state() {
    let mut shard = shard();
    for step in 0..1000_u64 {
        let time = NOW + step * SECOND;
        let points = vec![number(time, (step * 7919 % 997) as f64, &[("http.method", "GET"), ("http.route", "/cart")])];
        shard.pass(&shop(vec![metric("g", "", gauge(points))]), None, time);
    }
    let (bytes, families) = (shard.scoring_bytes(), shard.table.families.bytes());
    assert!((1024..=4096).contains(&(bytes - families)), "{bytes} {families}");
}

#[test]
fn two_shards_with_one_seed_give_the_same_scores() {
    let run = || {
        let mut shard = shard();
        let mut scores = Vec::new();
        for step in 0..600_u64 {
            let time = NOW + step * SECOND;
            let value = (step * 7919 % 101) as f64;
            let request = shop(vec![metric("g", "", gauge(vec![number(time, value, &[])]))]);
            for series in shard.pass(&request, None, time).out.series {
                if series.labels.value("__name__") == Some("anomaly_score") {
                    scores.push(series.samples[0].1.to_bits());
                }
            }
        }
        scores
    };
    let scores = run();
    assert_eq!(scores.len(), 600);
    assert_eq!(scores, run());
}

proptest! {
    #[test]
    fn delta_histograms_end_where_cumulative_ones_do(
        steps in prop::collection::vec((prop::collection::vec(0_u64..1000, 4), -50_i32..50, 1_usize..3), 1..30),
    ) {
        let (mut shard, mut cumulative) = (shard(), shard());
        let (mut totals, mut sums) = (vec![0_u64; 4], 0.0);
        for (step, (counts, sum, sent)) in (0_u64..).zip(steps) {
            for (total, count) in totals.iter_mut().zip(&counts) {
                *total += count;
            }
            sums += f64::from(sum);
            let point = |counts: &[u64], sum| HistogramDataPoint {
                start_time_unix_nano: NOW + step * SECOND,
                time_unix_nano: NOW + (step + 1) * SECOND,
                count: counts.iter().sum(),
                sum: Some(sum),
                bucket_counts: counts.to_vec(),
                explicit_bounds: vec![1.0, 2.0, 5.0],
                ..HistogramDataPoint::default()
            };
            let send = |shard: &mut Shard, point, delta| {
                let request = request(vec![(Vec::new(), vec![metric("h", "", histogram(vec![point], delta))])]);
                values(&shard.pass(&request, None, NOW))
            };
            let expected = send(&mut cumulative, point(&totals, sums), false);
            for _ in 0..sent {
                prop_assert_eq!(&send(&mut shard, point(&counts, f64::from(sum)), true), &expected);
            }
        }
    }

    #[test]
    fn the_order_of_attributes_makes_no_difference(
        pairs in prop::collection::btree_map("[a-z.]{1,6}", "[a-z]{1,4}", 1..6), seed: u64,
    ) {
        let mut shuffled: Vec<(&str, &str)> = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let mut shard = shard();
        for step in 0..3 {
            let rotation = (seed as usize).wrapping_add(step) % shuffled.len();
            shuffled.rotate_left(rotation);
            let point = number(NOW + step as u64, 1.0, &shuffled);
            shard.pass(&request(vec![(Vec::new(), vec![metric("g", "", gauge(vec![point]))])]), None, NOW);
        }
        prop_assert_eq!(shard.series(), 1);
    }
}
