//! Deltas in any order, repeated and lost, against an offline recomputation; and the life of the series.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use mirador_otlp::{Limits, Request, Signal};
use mirador_sketch::Tap;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::{HistogramDataPoint, NumberDataPoint, metric, number_data_point};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use proptest::prelude::*;
use prost::Message;

use super::super::config::Config;
use super::super::persist;
use super::*;

mod exemplars;
mod quantiles;

const SECOND: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;
const STARTED: u64 = 1_000 * SECOND;

impl Engine {
    fn flush(&mut self, now_unix_nano: u64) -> (Flush, Vec<Bytes>) {
        let (flush, keys) = self.begin_flush(Scope::All, now_unix_nano);
        (flush, keys.chunks(2).map(|keys| self.request(flush, Scope::All, keys)).collect())
    }
}

/// A span as the tests think of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Call {
    service: u8,
    name: u8,
    is_error: bool,
    nanos: u64,
    id: u32,
}

fn call(service: u8, name: u8, nanos: u64, id: u32) -> Call {
    Call { service, name, is_error: false, nanos, id }
}

fn attribute(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) }),
        ..KeyValue::default()
    }
}

fn request(calls: &[Call]) -> Request {
    let span = |call: &Call| {
        let mut trace_id = vec![9; 16];
        trace_id[..4].copy_from_slice(&call.id.to_be_bytes());
        let mut span_id = vec![3; 8];
        span_id[..4].copy_from_slice(&call.id.to_be_bytes());
        Span {
            trace_id,
            span_id,
            name: format!("op-{}", call.name),
            kind: 2,
            start_time_unix_nano: STARTED,
            end_time_unix_nano: STARTED + call.nanos,
            status: Some(Status { code: if call.is_error { 2 } else { 0 }, ..Status::default() }),
            ..Span::default()
        }
    };
    let resource_spans = calls
        .iter()
        .map(|call| ResourceSpans {
            resource: Some(Resource {
                attributes: vec![attribute("service.name", &format!("service-{}", call.service))],
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans { spans: vec![span(call)], ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        })
        .collect();
    let bytes = Bytes::from(ExportTraceServiceRequest { resource_spans }.encode_to_vec());
    Request::parse(Signal::Traces, bytes, &Limits::default()).unwrap()
}

/// An agent: its taps make real deltas.
struct Agent {
    id: String,
    epoch: u64,
    sequence: u64,
    tap: Tap,
}

impl Agent {
    fn new(id: &str, epoch: u64, config: &mirador_sketch::Config) -> Self {
        Self { id: id.to_owned(), epoch, sequence: 0, tap: Tap::new(config, 1) }
    }

    /// The delta of one window.
    fn window(&mut self, calls: &[Call]) -> ExportRedRequest {
        self.tap.observe(&request(calls), STARTED + self.sequence * SECOND);
        let window = self.tap.close(STARTED + (self.sequence + 1) * SECOND).unwrap();
        let mut parts = window.split(|_| 0);
        assert_eq!(parts.len(), 1);
        let (_, mut delta) = parts.remove(0);
        self.sequence += 1;
        delta.agent_id.clone_from(&self.id);
        delta.epoch = self.epoch;
        delta.sequence = self.sequence;
        "central-0".clone_into(&mut delta.stream);
        delta
    }
}

/// Calls, sum and buckets of one series; the key is `service/name/status`.
#[derive(Debug, Clone, Default, PartialEq)]
struct Totals {
    calls: u64,
    sum_ms: f64,
    buckets: Vec<u64>,
    range: Option<(f64, f64)>,
}

fn recompute<'a>(calls: impl IntoIterator<Item = &'a Call>, bounds_nanos: &[u64]) -> BTreeMap<String, Totals> {
    let mut nanos: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for call in calls {
        let status = if call.is_error { "STATUS_CODE_ERROR" } else { "STATUS_CODE_UNSET" };
        nanos.entry(format!("service-{}/op-{}/{status}", call.service, call.name)).or_default().push(call.nanos);
    }
    let totals = |nanos: Vec<u64>| {
        let mut buckets = vec![0; bounds_nanos.len() + 1];
        for one in &nanos {
            buckets[bounds_nanos.iter().position(|bound| one <= bound).unwrap_or(bounds_nanos.len())] += 1;
        }
        Totals {
            calls: nanos.len() as u64,
            sum_ms: nanos.iter().map(|one| u128::from(*one)).sum::<u128>() as f64 / 1e6,
            buckets,
            range: Some((*nanos.iter().min().unwrap() as f64 / 1e6, *nanos.iter().max().unwrap() as f64 / 1e6)),
        }
    };
    nanos.into_iter().map(|(key, nanos)| (key, totals(nanos))).collect()
}

/// Everything that a flush sends, by metric.
#[derive(Debug, Default)]
struct Flushed {
    calls: Vec<(String, NumberDataPoint)>,
    durations: Vec<(String, HistogramDataPoint)>,
    gauges: BTreeMap<String, Vec<(String, NumberDataPoint)>>,
    units: HashSet<String>,
    resources: Vec<String>,
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let value = attributes.iter().find(|attribute| attribute.key == key);
    match value.and_then(|attribute| attribute.value.clone()).and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::BoolValue(value)) => value.to_string(),
        other => panic!("{key}: unexpected {other:?}"),
    }
}

fn key(attributes: &[KeyValue]) -> String {
    if attributes.iter().any(|attribute| attribute.key == "otel.metric.overflow") {
        assert_eq!(attributes.len(), 1);
        return "overflow".to_owned();
    }
    assert_eq!(text(attributes, "span.kind"), "SPAN_KIND_SERVER");
    ["service.name", "span.name", "status.code"].map(|key| text(attributes, key)).join("/")
}

fn read(requests: &[Bytes]) -> Flushed {
    let mut flushed = Flushed::default();
    for bytes in requests {
        for resource in ExportMetricsServiceRequest::decode(bytes.clone()).unwrap().resource_metrics {
            let attributes = resource.resource.unwrap().attributes;
            assert!(attributes.len() <= 1);
            flushed.resources.extend(attributes.first().map(|_| text(&attributes, "service.name")));
            assert_eq!(resource.scope_metrics[0].scope.as_ref().unwrap().name, "spanmetricsconnector");
            for metric in resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
                match metric.data.unwrap() {
                    metric::Data::Sum(sum) => {
                        assert_eq!((metric.name.as_str(), metric.unit.as_str()), ("traces.span.metrics.calls", ""));
                        assert!(sum.is_monotonic && sum.aggregation_temporality == 2);
                        flushed.calls.extend(sum.data_points.into_iter().map(|point| (key(&point.attributes), point)));
                    }
                    metric::Data::Histogram(histogram) => {
                        assert_eq!(metric.name, "traces.span.metrics.duration");
                        assert_eq!(histogram.aggregation_temporality, 2);
                        flushed.units.insert(metric.unit);
                        let points = histogram.data_points.into_iter();
                        flushed.durations.extend(points.map(|point| (key(&point.attributes), point)));
                    }
                    metric::Data::Gauge(gauge) => {
                        let points = gauge.data_points.into_iter().map(|point| (key(&point.attributes), point));
                        flushed.gauges.entry(metric.name).or_default().extend(points);
                    }
                    other => panic!("unexpected {other:?}"),
                }
            }
        }
    }
    flushed
}

fn int(point: &NumberDataPoint) -> Option<i64> {
    point.value.map(|value| match value {
        number_data_point::Value::AsInt(value) => value,
        number_data_point::Value::AsDouble(value) => panic!("unexpected {value}"),
    })
}

/// The last value of every series.
fn totals(requests: &[Bytes]) -> BTreeMap<String, Totals> {
    let flushed = read(requests);
    let mut totals: BTreeMap<String, Totals> = BTreeMap::new();
    for (key, point) in flushed.calls {
        totals.entry(key).or_default().calls = int(&point).unwrap() as u64;
    }
    for (key, point) in flushed.durations {
        let total = totals.get_mut(&key).unwrap();
        assert_eq!(point.count, if point.time_unix_nano == point.start_time_unix_nano { 0 } else { total.calls });
        total.sum_ms = point.sum.unwrap();
        total.buckets = point.bucket_counts;
        total.range = point.min.zip(point.max);
    }
    totals
}

fn any_calls() -> impl Strategy<Value = Vec<Call>> {
    let nanos = prop_oneof![Just(0), Just(2 * MS), Just(2 * MS + 1), Just(15 * SECOND), 0..20 * SECOND];
    let one = (0_u8..3, 0_u8..3, any::<bool>(), nanos);
    prop::collection::vec(one, 1..60).prop_map(|drawn| {
        let call = |(id, (service, name, is_error, nanos))| Call { service, name, is_error, nanos, id };
        (1..).zip(drawn).map(call).collect()
    })
}

proptest! {
    #[test]
    fn property_any_order_repetition_and_loss_of_deltas_gives_the_exact_totals_of_what_arrived(
        calls in any_calls(),
        agents in 1_usize..4,
        size in 1_usize..8,
        deliveries in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let config = Config::default();
        let mut taps: Vec<_> =
            (0..agents).map(|number| Agent::new(&format!("agent-{number}"), STARTED + 1, &config.tap())).collect();
        let windows: Vec<(&[Call], ExportRedRequest)> = calls
            .chunks(size)
            .enumerate()
            .map(|(number, calls)| (calls, taps[number % agents].window(calls)))
            .collect();
        let mut engine = Engine::new(&config, STARTED);
        let mut arrived = HashSet::new();
        for delivery in deliveries {
            let number = delivery.index(windows.len());
            let merged = engine.merge(&windows[number].1, STARTED + SECOND).unwrap();
            prop_assert_eq!(merged.is_duplicate, !arrived.insert(number));
        }
        let expected = arrived.iter().flat_map(|number| windows[*number].0);
        let (_, requests) = engine.flush(STARTED + 60 * SECOND);
        prop_assert_eq!(totals(&requests), recompute(expected, &config.tap().bounds_nanos()));
        let (_, missing, lost) = engine.streams(STARTED + 60 * SECOND);
        prop_assert_eq!(lost, 0);
        // Windows before the last one of each agent that did not come.
        let gaps: u64 = (0..agents)
            .map(|agent| {
                let came: Vec<_> = arrived.iter().filter(|number| **number % agents == agent).collect();
                came.iter().max().map_or(0, |last| (**last / agents + 1 - came.len()) as u64)
            })
            .sum();
        prop_assert_eq!(missing, gaps);
    }
}

#[test]
fn a_restarted_agent_begins_a_new_epoch_and_adds_up() {
    let config = Config::default();
    let mut engine = Engine::new(&config, STARTED);
    let mut before = Agent::new("a", STARTED + 1, &config.tap());
    let mut after = Agent::new("a", STARTED + 500, &config.tap());
    let first = before.window(&[call(1, 1, MS, 1)]);
    let second = after.window(&[call(1, 1, MS, 2), call(1, 1, MS, 3)]);
    for (delta, is_duplicate) in [(&first, false), (&second, false), (&first, true), (&second, true)] {
        assert_eq!(engine.merge(delta, STARTED + SECOND).unwrap().is_duplicate, is_duplicate);
    }
    let (_, requests) = engine.flush(STARTED + 2 * SECOND);
    assert_eq!(totals(&requests)["service-1/op-1/STATUS_CODE_UNSET"].calls, 3);
}

#[test]
fn the_same_window_for_two_owners_is_two_windows() {
    let config = Config::default();
    let mut engine = Engine::new(&config, STARTED);
    let mut delta = Agent::new("a", STARTED + 1, &config.tap()).window(&[call(1, 1, MS, 1)]);
    assert!(!engine.merge(&delta, STARTED).unwrap().is_duplicate);
    "central-1".clone_into(&mut delta.stream);
    assert!(!engine.merge(&delta, STARTED).unwrap().is_duplicate);
}

#[test]
fn a_delta_that_is_not_named_or_contradicts_itself_is_refused_and_changes_nothing() {
    let config = Config::default();
    let mut engine = Engine::new(&config, STARTED);
    let good = Agent::new("a", STARTED + 1, &config.tap()).window(&[call(1, 1, MS, 1)]);
    let mut broken = vec![good.clone(); 4];
    broken[0].agent_id.clear();
    broken[1].epoch = 0;
    broken[2].sequence = 0;
    broken[3].series[0].bucket_counts.pop();
    for delta in &broken {
        assert!(engine.merge(delta, STARTED).is_err());
    }
    assert_eq!(engine.series(), 0);
    assert!(!engine.merge(&good, STARTED).unwrap().is_duplicate, "a refused window is not noted as merged");
}

#[test]
fn the_first_values_follow_zeros_that_lie_before_them() {
    let config = Config::default();
    let mut engine = Engine::new(&config, STARTED);
    let delta = Agent::new("a", STARTED + 1, &config.tap()).window(&[call(1, 1, MS, 1)]);
    engine.merge(&delta, STARTED + 2 * SECOND).unwrap();
    let (flush, requests) = engine.flush(STARTED + 3 * SECOND);
    let flushed = read(&requests);
    let calls: Vec<_> = flushed.calls.iter().map(|(_, point)| (int(point).unwrap(), point.time_unix_nano)).collect();
    assert_eq!(calls, [(0, STARTED), (1, STARTED + 3 * SECOND)]);
    assert_eq!(flushed.durations.iter().map(|(_, point)| point.count).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(flushed.durations[0].1.bucket_counts.len(), 17);
    engine.confirm(flush);
    let (_, requests) = engine.flush(STARTED + 4 * SECOND);
    assert_eq!(read(&requests).calls.len(), 1);
}

#[test]
fn the_series_of_a_process_begin_after_the_last_samples_of_the_process_before_it() {
    let config = Config::default();
    let mut agent = Agent::new("a", STARTED + 1, &config.tap());
    let (first, second) = (agent.window(&[call(1, 1, MS, 1)]), agent.window(&[call(1, 1, MS, 2)]));
    let mut before = Engine::new(&config, STARTED);
    before.merge(&first, STARTED + SECOND).unwrap();
    let last = STARTED + 3 * SECOND / 2;
    before.flush(last);
    // The window that the next process gets began before this one's last flush.
    assert!(second.start_unix_nano < last);
    let mut after = Engine::new(&config, STARTED + 2 * SECOND);
    after.merge(&second, STARTED + 3 * SECOND).unwrap();
    let (_, requests) = after.flush(STARTED + 4 * SECOND);
    let zero = &read(&requests).calls[0].1;
    assert_eq!(int(zero), Some(0));
    assert!(zero.time_unix_nano > last && zero.start_time_unix_nano > last, "no reset is seen between the two");
}

#[test]
fn a_flush_that_was_not_taken_is_made_up_for_by_the_next() {
    let config = Config::default();
    let mut engine = Engine::new(&config, STARTED);
    let mut agent = Agent::new("a", STARTED + 1, &config.tap());
    engine.merge(&agent.window(&[call(1, 1, MS, 1)]), STARTED + SECOND).unwrap();
    engine.flush(STARTED + 2 * SECOND);
    engine.merge(&agent.window(&[call(1, 1, MS, 2)]), STARTED + 3 * SECOND).unwrap();
    let (_, requests) = engine.flush(STARTED + 4 * SECOND);
    let values: Vec<_> = read(&requests).calls.iter().map(|(_, point)| int(point).unwrap()).collect();
    assert_eq!(values, [0, 2]);
}

#[test]
fn a_silent_series_ends_with_a_stale_marker_and_returns_with_a_new_start_from_zero() {
    let config = Config { series_expiration: Duration::from_secs(100), ..Config::default() };
    let mut engine = Engine::new(&config, STARTED);
    let mut agent = Agent::new("a", STARTED + 1, &config.tap());
    engine.merge(&agent.window(&[call(1, 1, MS, 1)]), STARTED + SECOND).unwrap();
    let (flush, _) = engine.flush(STARTED + 2 * SECOND);
    engine.confirm(flush);
    let ended_at = STARTED + 101 * SECOND;
    let (flush, requests) = engine.flush(ended_at);
    let flushed = read(&requests);
    assert_eq!(flushed.calls.len(), 1);
    assert_eq!((int(&flushed.calls[0].1), flushed.calls[0].1.flags), (None, 1));
    let duration = &flushed.durations[0].1;
    assert_eq!((duration.flags, duration.explicit_bounds.len()), (1, 16));
    assert!(flushed.gauges.values().flatten().all(|(_, point)| point.flags == 1 && point.value.is_none()));
    assert_eq!(flushed.gauges.len(), 3);
    engine.confirm(flush);
    assert_eq!(engine.series(), 0);
    engine.merge(&agent.window(&[call(1, 1, MS, 2)]), ended_at + SECOND).unwrap();
    let (_, requests) = engine.flush(ended_at + 2 * SECOND);
    let calls = read(&requests).calls;
    assert_eq!(calls.iter().map(|(_, point)| int(point).unwrap()).collect::<Vec<_>>(), [0, 1]);
    assert!(calls[0].1.time_unix_nano > ended_at);
}

#[test]
fn more_series_than_the_limit_are_one_overflow_series_and_no_call_is_lost() {
    let config = Config { aggregation_cardinality_limit: 3, ..Config::default() };
    let mut engine = Engine::new(&config, STARTED);
    let agents = Config::default().tap();
    let mut overflowed = 0;
    for number in 0..4 {
        let calls: Vec<_> = (0..5).map(|name| call(number, name, MS, u32::from(number * 5 + name) + 1)).collect();
        let delta = Agent::new(&format!("agent-{number}"), STARTED + 1, &agents).window(&calls);
        overflowed += engine.merge(&delta, STARTED + SECOND).unwrap().overflowed_calls;
    }
    let (_, requests) = engine.flush(STARTED + 2 * SECOND);
    let totals = totals(&requests);
    assert_eq!(totals.values().map(|total| total.calls).sum::<u64>(), 20);
    assert_eq!((totals.len(), totals["overflow"].calls, overflowed), (4, 17, 17));
}

#[test]
fn the_overflow_of_agents_adds_up_in_the_one_overflow_series() {
    let config = Config::default();
    let small = mirador_sketch::Config { aggregation_cardinality_limit: 1, ..config.tap() };
    let mut engine = Engine::new(&config, STARTED);
    for number in 0..2 {
        let calls = [call(1, 1, MS, 1), call(1, 2, MS, 2), call(1, 3, MS, 3)];
        let delta = Agent::new(&format!("agent-{number}"), STARTED + 1, &small).window(&calls);
        assert_eq!(engine.merge(&delta, STARTED + SECOND).unwrap().overflowed_calls, 0, "not ours");
    }
    let (_, requests) = engine.flush(STARTED + 2 * SECOND);
    let totals = totals(&requests);
    assert_eq!((totals.len(), totals["overflow"].calls), (2, 4));
}

#[test]
fn every_service_is_a_resource_of_its_own() {
    let config = Config::default();
    let mut engine = Engine::new(&config, STARTED);
    let calls = [call(2, 1, MS, 1), call(1, 1, MS, 2), call(1, 2, MS, 3)];
    engine.merge(&Agent::new("a", STARTED + 1, &config.tap()).window(&calls), STARTED + SECOND).unwrap();
    let (_, requests) = engine.flush(STARTED + 2 * SECOND);
    let flushed = read(&requests);
    assert_eq!(flushed.resources, ["service-1", "service-2"]);
    assert_eq!(requests.len(), 2, "a flush leaves in pieces");
    assert_eq!(flushed.units, HashSet::from(["ms".to_owned()]));
}

#[test]
fn seconds_scale_bounds_sums_and_exemplars() {
    let mut config = Config::default();
    config.histogram.unit = mirador_sketch::Unit::Seconds;
    let mut engine = Engine::new(&config, STARTED);
    engine.merge(&Agent::new("a", STARTED + 1, &config.tap()).window(&[call(1, 1, 1400 * MS, 1)]), STARTED).unwrap();
    let (_, requests) = engine.flush(STARTED + SECOND);
    let flushed = read(&requests);
    let duration = &flushed.durations.last().unwrap().1;
    assert_eq!(flushed.units, HashSet::from(["s".to_owned()]));
    assert_eq!((duration.explicit_bounds[0], duration.explicit_bounds[11], duration.sum), (0.002, 1.4, Some(1.4)));
    assert_eq!(duration.bucket_counts[11], 1, "le is inclusive");
    assert_eq!(duration.exemplars.len(), 1);
    assert_eq!(flushed.calls.last().unwrap().1.exemplars, duration.exemplars);
    assert_eq!(duration.exemplars[0].trace_id[..4], [0, 0, 0, 1]);
}

#[test]
fn deltas_with_other_bounds_keep_calls_and_sums_exact() {
    let config = Config::default();
    let mut other = config.tap();
    other.histogram.explicit.buckets.remove(0);
    let mut engine = Engine::new(&config, STARTED);
    let calls = [call(1, 1, MS, 1), call(1, 1, 30 * MS, 2), call(1, 1, 3 * SECOND, 3)];
    let merged = engine.merge(&Agent::new("a", STARTED + 1, &other).window(&calls), STARTED + SECOND).unwrap();
    assert_eq!(merged.rebucketed, 1);
    let (_, requests) = engine.flush(STARTED + 2 * SECOND);
    assert_eq!(totals(&requests), recompute(&calls, &config.tap().bounds_nanos()));
}

#[test]
fn labels_that_are_excluded_here_are_left_out_and_their_series_add_up() {
    let config = Config { exclude_dimensions: vec![BuiltIn::SpanName], ..Config::default() };
    let mut engine = Engine::new(&config, STARTED);
    let agents = Config::default().tap();
    let calls = [call(1, 1, MS, 1), call(1, 2, MS, 2)];
    engine.merge(&Agent::new("a", STARTED + 1, &agents).window(&calls), STARTED + SECOND).unwrap();
    assert_eq!(engine.series(), 1);
    let (_, requests) = engine.flush(STARTED + 2 * SECOND);
    let bytes = ExportMetricsServiceRequest::decode(requests[0].clone()).unwrap();
    let Some(metric::Data::Sum(sum)) = &bytes.resource_metrics[0].scope_metrics[0].metrics[0].data else { panic!() };
    let point = sum.data_points.last().unwrap();
    let keys: Vec<_> = point.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
    assert_eq!(keys, ["service.name", "span.kind", "status.code"]);
    assert_eq!(int(point), Some(2));
}

#[test]
fn what_this_process_counts_itself_adds_to_the_same_series() {
    let config = Config::default();
    let mut engine = Engine::new(&config, STARTED);
    let mut tap = Tap::new(&config.tap(), 7);
    engine.merge(&Agent::new("a", STARTED + 1, &config.tap()).window(&[call(1, 1, MS, 1)]), STARTED + SECOND).unwrap();
    let own = request(&[call(1, 1, 3 * MS, 2)]);
    tap.observe(&own, STARTED);
    tap.observe(&own, STARTED);
    engine.merge_own(tap.close(STARTED + SECOND).unwrap(), STARTED + SECOND);
    let (_, requests) = engine.flush(STARTED + 2 * SECOND);
    assert_eq!(totals(&requests), recompute(&[call(1, 1, MS, 1), call(1, 1, 3 * MS, 2)], &config.tap().bounds_nanos()));
}

#[test]
fn a_limit_of_memory_costs_resolution_and_no_count_sum_or_bucket() {
    let mut config = Config::default();
    config.histogram.memory_limit_mib = 1;
    let mut engine = Engine::new(&config, STARTED);
    let mut agent = Agent::new("a", STARTED + 1, &Config::default().tap());
    // 160,000 calls of which nearly all touch a bucket of their own, and each of those takes 8 bytes or more.
    let (mut all, mut coarsened) = (Vec::new(), 0);
    for window in 0..8 {
        let calls: Vec<_> = (1..=20_000_u32)
            .map(|at| {
                let id = window * 20_000 + at;
                let random = u64::from(id).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                call(1, (at % 200) as u8, (random >> 3 >> (random % 40)).clamp(1, 3_600 * SECOND), id)
            })
            .collect();
        coarsened += engine.merge(&agent.window(&calls), STARTED + SECOND).unwrap().coarsened;
        assert!(engine.distribution_bytes <= 1 << 20, "{}", engine.distribution_bytes);
        all.extend(calls);
    }
    assert!(coarsened > 0);
    let (_, requests) = engine.flush(STARTED + 2 * SECOND);
    assert_eq!(totals(&requests), recompute(&all, &config.tap().bounds_nanos()));
}

#[test]
fn a_flush_shows_what_was_merged_when_it_began_and_one_of_changes_only_what_changed() {
    let config = Config::default();
    let mut engine = Engine::new(&config, STARTED);
    let mut agent = Agent::new("a", STARTED + 1, &config.tap());
    let calls = [call(1, 1, MS, 1), call(2, 1, MS, 2), call(1, 1, 3 * MS, 3)];
    engine.merge(&agent.window(&calls[..2]), STARTED + SECOND).unwrap();
    let (flush, keys) = engine.begin_flush(Scope::All, STARTED + 2 * SECOND);
    engine.merge(&agent.window(&calls[2..]), STARTED + SECOND).unwrap();
    let request = engine.request(flush, Scope::All, &keys);
    assert_eq!(totals(&[request]), recompute(&calls[..2], &config.tap().bounds_nanos()));
    engine.confirm(flush);
    let (flush, keys) = engine.begin_flush(Scope::Changed, STARTED + 3 * SECOND);
    assert_eq!(keys.len(), 1, "the other service has not changed");
    // It is not taken: the next one carries it again.
    engine.request(flush, Scope::Changed, &keys);
    let (flush, keys) = engine.begin_flush(Scope::Changed, STARTED + 4 * SECOND);
    let request = engine.request(flush, Scope::Changed, &keys);
    assert_eq!(totals(&[request]), recompute(&[calls[0], calls[2]], &config.tap().bounds_nanos()));
    engine.confirm(flush);
    assert!(engine.begin_flush(Scope::Changed, STARTED + 5 * SECOND).1.is_empty());
}

#[test]
fn an_engine_that_goes_on_from_bytes_has_the_same_totals_and_knows_every_window() {
    let config = Config::default();
    let mut engine = Engine::new(&config, STARTED);
    let mut agent = Agent::new("a", STARTED + 1, &config.tap());
    let calls = [call(1, 1, MS, 1), call(2, 1, MS, 2), call(1, 2, 3 * MS, 3)];
    let windows = [agent.window(&calls[..1]), agent.window(&calls[1..2]), agent.window(&calls[2..])];
    engine.merge(&windows[2], STARTED + SECOND).unwrap();
    engine.merge(&windows[0], STARTED + SECOND).unwrap();
    let (before, _) = engine.begin_flush(Scope::All, STARTED + 2 * SECOND);
    let bytes = engine.export();
    let mut next = Engine::new(&config, STARTED + 10 * SECOND);
    assert_eq!(next.resume(&bytes).unwrap(), (2, 1));
    let merged = windows.each_ref().map(|window| !next.merge(window, STARTED + 11 * SECOND).unwrap().is_duplicate);
    assert_eq!(merged, [false, true, false]);
    let (flush, requests) = next.flush(STARTED);
    assert!(flush.time_unix_nano > before.time_unix_nano, "also when the clock has stepped back");
    assert_eq!(totals(&requests), recompute(&calls, &config.tap().bounds_nanos()));
    assert!(next.resume(&bytes[..bytes.len() - 1]).is_err());
    let mut other = Config::default();
    other.histogram.explicit.buckets.pop();
    assert!(matches!(Engine::new(&other, STARTED).resume(&bytes), Err(persist::ResumeError::Bounds)));
}
