//! Names, labels and lives of the edge series, read back from the wire.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::{HistogramDataPoint, Metric, metric, number_data_point};
use prost::Message;

use super::super::config::{Config, ExemplarsConfig};
use super::super::edge::{ConnectionType, Edge, EdgeKey};
use super::super::half::{Half, Key, Measure, Side, Via};
use super::*;

const SECOND: u64 = 1_000_000_000;

fn measure(nanos: u64, trace: u8) -> Measure {
    Measure { nanos, end_unix_nano: 5, trace_id: [trace; 16], span_id: [trace; 8] }
}

fn edge(client: &str, server: &str) -> Edge {
    Edge {
        key: EdgeKey {
            client: Arc::from(client),
            server: Arc::from(server),
            connection_type: ConnectionType::Direct,
            is_failed: false,
            virtual_side: None,
            client_dimensions: None,
            server_dimensions: None,
        },
        client: Some(measure(3_000_000, 1)),
        server: Some(measure(2_000_000, 2)),
    }
}

struct Graph {
    series: EdgeSeries,
    rules: Rules,
    now: u64,
}

impl Graph {
    fn new(config: &Config) -> Self {
        Self { series: EdgeSeries::new(config), rules: Rules::new(config), now: 1000 * SECOND }
    }

    fn add(&mut self, edges: impl IntoIterator<Item = Edge>) -> u64 {
        let mut tally = Tally::new(self.rules.clone());
        edges.into_iter().for_each(|edge| tally.edge(edge));
        self.series.merge(tally, self.now - SECOND, self.now)
    }

    /// Flushes `after` nanoseconds later.
    fn flush(&mut self, after: u64) -> (Flush, Vec<Line>) {
        self.now += after;
        let (flush, requests) = self.requests();
        (flush, requests.iter().flat_map(lines).collect())
    }

    fn requests(&mut self) -> (Flush, Vec<Bytes>) {
        let (flush, keys) = self.series.begin_flush(self.now);
        (flush, keys.chunks(ROWS_PER_REQUEST).map(|keys| self.series.request(flush, keys)).collect())
    }
}

/// One point: metric, labels, value (a histogram's count), start, time, flags.
#[derive(Debug, Clone, PartialEq)]
struct Line {
    name: String,
    labels: String,
    value: Option<i64>,
    start: u64,
    time: u64,
    histogram: Option<HistogramDataPoint>,
}

fn labels(attributes: &[KeyValue]) -> String {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::BoolValue(value) => value.to_string(),
        other => panic!("unexpected {other:?}"),
    };
    let labels: BTreeMap<_, _> = attributes
        .iter()
        .map(|attribute| (attribute.key.clone(), text(attribute.value.as_ref().unwrap().value.as_ref().unwrap())))
        .collect();
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

fn lines(bytes: &Bytes) -> Vec<Line> {
    let request = ExportMetricsServiceRequest::decode(bytes.clone()).unwrap();
    let mut lines = Vec::new();
    for resource in &request.resource_metrics {
        assert!(resource.resource.as_ref().unwrap().attributes.is_empty());
        for scope in &resource.scope_metrics {
            assert_eq!(scope.scope.as_ref().unwrap().name, "traces_service_graph");
            scope.metrics.iter().for_each(|metric| push(metric, &mut lines));
        }
    }
    lines
}

fn push(metric: &Metric, lines: &mut Vec<Line>) {
    let line = |labels, value, start, time, histogram| Line {
        name: metric.name.clone(),
        labels,
        value,
        start,
        time,
        histogram,
    };
    match metric.data.as_ref().unwrap() {
        metric::Data::Sum(sum) => {
            assert!(sum.is_monotonic && sum.aggregation_temporality == 2 && metric.unit.is_empty());
            lines.extend(sum.data_points.iter().map(|point| {
                let value = point.value.map(|value| match value {
                    number_data_point::Value::AsInt(value) => value,
                    number_data_point::Value::AsDouble(value) => panic!("unexpected {value}"),
                });
                assert_eq!(point.flags, u32::from(value.is_none()));
                line(labels(&point.attributes), value, point.start_time_unix_nano, point.time_unix_nano, None)
            }));
        }
        metric::Data::Histogram(histogram) => {
            assert!(histogram.aggregation_temporality == 2 && metric.unit == "s");
            lines.extend(histogram.data_points.iter().map(|point| {
                let value = (point.flags == 0).then_some(point.count as i64);
                assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count);
                assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
                let (start, time) = (point.start_time_unix_nano, point.time_unix_nano);
                line(labels(&point.attributes), value, start, time, Some(point.clone()))
            }));
        }
        other => panic!("unexpected {other:?}"),
    }
}

fn last<'a>(lines: &'a [Line], name: &str) -> &'a Line {
    lines.iter().rfind(|line| line.name == name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn an_edge_is_four_metrics_with_the_connectors_names_and_labels() {
    let mut graph = Graph::new(&Config::default());
    let mut failed = edge("shop", "cart");
    failed.key.is_failed = true;
    graph.add([edge("shop", "cart"), edge("shop", "cart"), failed]);
    let (_, lines) = graph.flush(SECOND);
    let values: Vec<_> = lines
        .iter()
        .filter(|line| line.value != Some(0))
        .map(|line| (line.name.as_str(), line.labels.as_str(), line.value.unwrap()))
        .collect();
    let ok = "client=shop,connection_type=,failed=false,server=cart";
    let failed = "client=shop,connection_type=,failed=true,server=cart";
    let expected = [
        ("traces_service_graph_request_total", ok, 2),
        ("traces_service_graph_request_total", failed, 1),
        ("traces_service_graph_request_failed_total", failed, 1),
        ("traces_service_graph_request_server", ok, 2),
        ("traces_service_graph_request_server", failed, 1),
        ("traces_service_graph_request_client", ok, 2),
        ("traces_service_graph_request_client", failed, 1),
    ];
    assert_eq!(values, expected);
}

#[test]
fn latencies_are_seconds_and_a_value_on_a_bound_belongs_to_it() {
    let mut graph = Graph::new(&Config::default());
    graph.add([edge("shop", "cart"), edge("shop", "cart")]);
    let (_, lines) = graph.flush(SECOND);
    let server = last(&lines, "traces_service_graph_request_server").histogram.clone().unwrap();
    assert_eq!(server.explicit_bounds[..3], [0.002, 0.004, 0.006]);
    assert_eq!(server.bucket_counts[..3], [2, 0, 0], "2ms is le 2ms");
    assert_eq!(server.sum, Some(0.004));
    let client = last(&lines, "traces_service_graph_request_client").histogram.clone().unwrap();
    assert_eq!(client.bucket_counts[..3], [0, 2, 0]);
    assert_eq!(client.sum, Some(0.006));
}

#[test]
fn a_virtual_side_has_no_latency_series_at_all() {
    let mut graph = Graph::new(&Config { virtual_node_extra_label: true, ..Config::default() });
    let mut virtual_edge = edge("user", "shop");
    virtual_edge.client = None;
    virtual_edge.key.virtual_side = Some(Side::Client);
    virtual_edge.key.connection_type = ConnectionType::VirtualNode;
    graph.add([virtual_edge]);
    let (_, lines) = graph.flush(SECOND);
    assert!(lines.iter().all(|line| line.name != "traces_service_graph_request_client"));
    let total = last(&lines, "traces_service_graph_request_total");
    assert_eq!(total.labels, "client=user,connection_type=virtual_node,failed=false,server=shop,virtual_node=client");
}

#[test]
fn the_first_value_follows_a_zero_and_later_values_do_not() {
    let mut graph = Graph::new(&Config::default());
    graph.add([edge("shop", "cart")]);
    let created = graph.now;
    let (flush, lines) = graph.flush(SECOND);
    for name in ["request_total", "request_server", "request_client"] {
        let points: Vec<_> = lines.iter().filter(|line| line.name.ends_with(name)).collect();
        assert_eq!(points.iter().map(|line| line.value.unwrap()).collect::<Vec<_>>(), [0, 1], "{name}");
        assert_eq!(points[0].time, points[0].start);
        assert!(points[0].start < created && points[1].start == points[0].start && points[1].time == graph.now);
    }
    graph.series.confirm(flush);
    let (_, lines) = graph.flush(SECOND);
    assert!(lines.iter().all(|line| line.value == Some(1)));
}

#[test]
fn a_flush_that_was_not_taken_loses_nothing() {
    let mut graph = Graph::new(&Config::default());
    graph.add([edge("shop", "cart")]);
    let (_, lost) = graph.flush(SECOND);
    graph.add([edge("shop", "cart")]);
    let (_, lines) = graph.flush(SECOND);
    let values = |lines: &[Line]| {
        let totals = lines.iter().filter(|line| line.name.ends_with("request_total"));
        totals.map(|line| (line.value.unwrap(), line.start)).collect::<Vec<_>>()
    };
    let start = values(&lost)[0].1;
    assert_eq!(values(&lines), [(0, start), (2, start)]);
}

#[test]
fn an_idle_series_ends_with_one_stale_marker_in_every_metric_and_returns_with_a_new_start() {
    let mut graph = Graph::new(&Config { metrics_expiration: Duration::from_secs(60), ..Config::default() });
    graph.add([edge("shop", "cart")]);
    let (flush, before) = graph.flush(SECOND);
    graph.series.confirm(flush);
    let (flush, lines) = graph.flush(60 * SECOND);
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|line| line.value.is_none()));
    assert_eq!(lines[1].histogram.as_ref().unwrap().explicit_bounds.len(), 16, "every bucket can be marked");
    let marked_at = graph.now;
    graph.series.confirm(flush);
    assert!(graph.series.is_empty());
    graph.now += SECOND;
    graph.add([edge("shop", "cart")]);
    let (_, after) = graph.flush(SECOND);
    assert!(after[0].start > marked_at && after[0].start > before[0].start);
    assert_eq!(last(&after, "traces_service_graph_request_total").value, Some(1));
}

#[test]
fn more_series_than_the_limit_are_one_overflow_series_and_no_request_is_lost() {
    let config = Config { aggregation_cardinality_limit: 3, ..Config::default() };
    let mut graph = Graph::new(&config);
    let mut overflowed = 0;
    for round in 0..2 {
        overflowed += graph.add((0..10).map(|number| edge("shop", &format!("server-{round}-{number}"))));
    }
    let (_, lines) = graph.flush(SECOND);
    let totals: Vec<_> = lines.iter().filter(|line| line.name.ends_with("request_total")).collect();
    assert_eq!(totals.iter().map(|line| line.value.unwrap()).sum::<i64>(), 20);
    let overflow = totals.iter().rfind(|line| line.labels == "otel.metric.overflow=true").unwrap();
    assert_eq!((overflow.value, overflowed), (Some(17), 17));
    assert_eq!(graph.series.len(), 4);
}

#[test]
fn unpaired_and_dropped_spans_are_metrics_by_service_and_side() {
    let mut graph = Graph::new(&Config::default());
    let half = |side, service: &str| Half {
        key: Key { trace_id: [1; 16], span_id: [1; 8] },
        side,
        via: Via::Parent,
        is_messaging: false,
        is_failed: false,
        service: Arc::from(service),
        measure: measure(1, 1),
        dimensions: None,
        peer: None,
        database: None,
    };
    let mut tally = Tally::new(graph.rules.clone());
    tally.unpaired(&half(Side::Client, "shop"));
    tally.unpaired(&half(Side::Server, "cart"));
    tally.dropped(&half(Side::Server, "cart"));
    graph.series.merge(tally, graph.now, graph.now);
    let (_, lines) = graph.flush(SECOND);
    let seen: Vec<_> = lines
        .iter()
        .filter(|line| line.value == Some(1))
        .map(|line| (line.name.as_str(), line.labels.as_str()))
        .collect();
    let expected = [
        ("traces_service_graph_unpaired_spans_total", "client=shop,server="),
        ("traces_service_graph_unpaired_spans_total", "client=,server=cart"),
        ("traces_service_graph_dropped_spans_total", "client=,server=cart"),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn exemplars_name_their_own_span_and_the_other_trace_and_leave_once() {
    let exemplars = ExemplarsConfig { enabled: true, max_per_data_point: 2 };
    let mut graph = Graph::new(&Config { exemplars, ..Config::default() });
    graph.add((0..5).map(|_| edge("shop", "cart")));
    graph.add([edge("shop", "cart")]);
    let (_, lines) = graph.flush(SECOND);
    let client = last(&lines, "traces_service_graph_request_client").histogram.clone().unwrap();
    assert_eq!(client.exemplars.len(), 2);
    assert_eq!(client.exemplars[0].trace_id, [1; 16]);
    assert_eq!(labels(&client.exemplars[0].filtered_attributes), format!("server_trace_id={}", "02".repeat(16)));
    // It was not taken: they leave again, and no others for them.
    let mut other = edge("shop", "cart");
    other.client = Some(measure(1_000_000, 9));
    graph.add([other]);
    let (flush, lines) = graph.flush(SECOND);
    let again = last(&lines, "traces_service_graph_request_client").histogram.clone().unwrap();
    assert_eq!(again.exemplars, client.exemplars);
    graph.series.confirm(flush);
    let (_, lines) = graph.flush(SECOND);
    assert!(last(&lines, "traces_service_graph_request_client").histogram.as_ref().unwrap().exemplars.is_empty());
}

#[test]
fn dimensions_are_labels_of_their_side_and_absent_ones_are_left_out() {
    let config = Config { dimensions: vec!["zone".to_owned(), "tier".to_owned()], ..Config::default() };
    let mut graph = Graph::new(&config);
    let mut with = edge("shop", "cart");
    with.key.client_dimensions = Some(Arc::from([Some(Box::from("a")), None]));
    with.key.server_dimensions = Some(Arc::from([Some(Box::from("b")), Some(Box::from("gold"))]));
    graph.add([with]);
    let (_, lines) = graph.flush(SECOND);
    assert_eq!(
        last(&lines, "traces_service_graph_request_total").labels,
        "client=shop,client_zone=a,connection_type=,failed=false,server=cart,server_tier=gold,server_zone=b"
    );
}

#[test]
fn many_series_leave_in_several_requests_in_a_fixed_order() {
    let config = Config { aggregation_cardinality_limit: 5000, ..Config::default() };
    let mut graph = Graph::new(&config);
    graph.add((0..2500).map(|number| edge("shop", &format!("server-{number:04}"))));
    graph.now += SECOND;
    let (_, requests) = graph.requests();
    assert_eq!(requests.len(), 3);
    let servers: Vec<_> = requests
        .iter()
        .flat_map(lines)
        .filter(|line| line.name.ends_with("request_total") && line.value == Some(1))
        .map(|line| line.labels)
        .collect();
    assert_eq!(servers.len(), 2500);
    assert!(servers.is_sorted());
}
