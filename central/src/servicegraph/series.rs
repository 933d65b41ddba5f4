//! The cumulative metrics of the service graph, as OTLP.
//!
//! Never: reads a clock, does IO. Invariants: names and labels are those of the Collector's connector (no resource
//! attributes, scope `traces_service_graph`); a side that sends no spans has no latency; rows leave in a fixed order.

use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::{Exemplar, HistogramDataPoint, NumberDataPoint};

use super::config::Config;
use super::edge::EdgeKey;
use super::half::{Dimensions, Side};
use super::tally::{Counted, Latency, Rules, SeriesKey, Tally, overflow_of};
use crate::cumulative::{Cumulative, Flush, Row};
use crate::metrics_out::points::{
    Buckets, Stand, boolean, encode, exemplar, histogram_metric, push_histogram, push_sum, resource_metrics,
    sum_metric, text,
};

/// Name of the scope that the metrics are under.
pub const SCOPE: &str = "traces_service_graph";

/// Series in one export request; a series has up to 40 samples.
pub const ROWS_PER_REQUEST: usize = 1000;

const NANOS_PER_SECOND: f64 = 1e9;

/// Cumulative series of edges.
#[derive(Debug)]
pub struct EdgeSeries {
    series: Cumulative<SeriesKey, Counted>,
    rules: Rules,
    bounds_seconds: Vec<f64>,
    dimensions: Vec<(String, String)>,
    has_virtual_label: bool,
}

impl EdgeSeries {
    /// No series yet.
    pub fn new(config: &Config) -> Self {
        let rules = Rules::new(config);
        let expiration = (!config.metrics_expiration.is_zero()).then_some(config.metrics_expiration);
        Self {
            series: Cumulative::new(rules.limit, expiration),
            bounds_seconds: rules.bounds_nanos.iter().map(|nanos| *nanos as f64 / NANOS_PER_SECOND).collect(),
            rules,
            dimensions: config
                .dimensions
                .iter()
                .map(|name| (format!("client_{name}"), format!("server_{name}")))
                .collect(),
            has_virtual_label: config.virtual_node_extra_label,
        }
    }

    /// Series that are held.
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Whether there is no series.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// Adds what a shard counted since `begun_unix_nano`. Returns the requests and spans that lost their labels.
    pub fn merge(&mut self, tally: Tally, begun_unix_nano: u64, now_unix_nano: u64) -> u64 {
        let max = self.rules.max_exemplars;
        let mut overflowed = 0;
        for (key, counted) in tally.into_series() {
            let overflow = overflow_of(&key);
            if key == overflow {
                overflowed += counted.total;
            } else if let Some(value) = self.series.update(&key, begun_unix_nano, now_unix_nano) {
                value.merge(counted, max);
                continue;
            } else {
                overflowed += counted.total;
            }
            self.series.update_overflow(&overflow, now_unix_nano).merge(counted, max);
        }
        overflowed
    }

    /// Begins a flush of these series; ask [`Self::request`] for [`ROWS_PER_REQUEST`] of them at a time.
    pub fn begin_flush(&mut self, now_unix_nano: u64) -> (Flush, Vec<SeriesKey>) {
        let flush = self.series.begin_flush(now_unix_nano);
        let max = self.rules.max_exemplars;
        let mut keys = Vec::with_capacity(self.series.len());
        for (key, counted) in self.series.carried(flush) {
            counted.begin_flush(max);
            keys.push(key.clone());
        }
        keys.sort_unstable();
        (flush, keys)
    }

    /// The export request of some series of a flush.
    pub fn request(&mut self, flush: Flush, keys: &[SeriesKey]) -> Bytes {
        let rows: Vec<_> = keys.iter().filter_map(|key| self.series.row(flush, key)).collect();
        let request = self.encode(flush, &rows);
        for key in keys {
            if let Some(counted) = self.series.value_mut(key) {
                counted.end_flush();
            }
        }
        request
    }

    /// The flush has been taken.
    pub fn confirm(&mut self, flush: Flush) {
        self.series.carried(flush).for_each(|(_, counted)| counted.confirm());
        self.series.confirm(flush);
    }

    fn encode(&self, flush: Flush, rows: &[Row<'_, SeriesKey, Counted>]) -> Bytes {
        let mut points = Points::default();
        for row in rows {
            self.row(flush, row, &mut points);
        }
        let sum = |name: &str, text: &str, points| sum_metric(format!("{SCOPE}_{name}"), text, points);
        let histogram = |name: &str, text: &str, points| histogram_metric(format!("{SCOPE}_{name}"), text, "s", points);
        let metrics = vec![
            sum("request_total", "Requests between two services", points.total),
            sum("request_failed_total", "Requests of which either side failed", points.failed),
            histogram("request_server", "Duration as the server measured it", points.server),
            histogram("request_client", "Duration as the client measured it", points.client),
            sum("unpaired_spans_total", "Spans whose other side did not come in time", points.unpaired),
            sum("dropped_spans_total", "Spans for which there was no room to wait in", points.dropped),
        ];
        encode(vec![resource_metrics(Vec::new(), SCOPE, metrics)])
    }

    fn row(&self, flush: Flush, row: &Row<'_, SeriesKey, Counted>, points: &mut Points) {
        let stand = Stand {
            start_unix_nano: row.start_unix_nano,
            time_unix_nano: flush.time_unix_nano,
            is_first: row.is_first,
            is_stale: row.is_stale,
        };
        match row.key {
            SeriesKey::Edge(key) => {
                let attributes = key.as_ref().map_or_else(overflow_attributes, |key| self.attributes(key));
                push_sum(&mut points.total, stand, &attributes, row.value.total);
                if key.as_ref().is_some_and(|key| key.is_failed) {
                    push_sum(&mut points.failed, stand, &attributes, row.value.total);
                }
                self.latency(&mut points.client, stand, &attributes, &row.value.client, "server_trace_id");
                self.latency(&mut points.server, stand, &attributes, &row.value.server, "client_trace_id");
            }
            SeriesKey::Unpaired(of) => {
                push_sum(&mut points.unpaired, stand, &side_attributes(of.as_ref()), row.value.total);
            }
            SeriesKey::Dropped(of) => {
                push_sum(&mut points.dropped, stand, &side_attributes(of.as_ref()), row.value.total);
            }
        }
    }

    fn latency(
        &self,
        points: &mut Vec<HistogramDataPoint>,
        stand: Stand,
        attributes: &[KeyValue],
        latency: &Latency,
        other_trace: &str,
    ) {
        if latency.count == 0 {
            return;
        }
        let buckets = Buckets {
            count: latency.count,
            sum: latency.sum_nanos as f64 / NANOS_PER_SECOND,
            range: None,
            bucket_counts: &latency.buckets,
            bounds: &self.bounds_seconds,
        };
        push_histogram(points, stand, attributes, buckets, exemplars(latency, other_trace));
    }

    fn attributes(&self, key: &EdgeKey) -> Vec<KeyValue> {
        let mut attributes = vec![
            text("client", &*key.client),
            text("server", &*key.server),
            text("connection_type", key.connection_type.as_str()),
            boolean("failed", key.is_failed),
        ];
        if self.has_virtual_label {
            attributes.push(text("virtual_node", key.virtual_side.map_or("", side_name)));
        }
        for (index, (client, server)) in self.dimensions.iter().enumerate() {
            attributes.extend(dimension(&key.client_dimensions, index).map(|value| text(client, value)));
            attributes.extend(dimension(&key.server_dimensions, index).map(|value| text(server, value)));
        }
        attributes
    }
}

#[derive(Default)]
struct Points {
    total: Vec<NumberDataPoint>,
    failed: Vec<NumberDataPoint>,
    client: Vec<HistogramDataPoint>,
    server: Vec<HistogramDataPoint>,
    unpaired: Vec<NumberDataPoint>,
    dropped: Vec<NumberDataPoint>,
}

fn dimension(dimensions: &Dimensions, index: usize) -> Option<&str> {
    dimensions.as_ref()?.get(index)?.as_deref()
}

fn side_name(side: Side) -> &'static str {
    match side {
        Side::Client => "client",
        Side::Server => "server",
    }
}

fn overflow_attributes() -> Vec<KeyValue> {
    vec![boolean("otel.metric.overflow", true)]
}

fn side_attributes(of: Option<&(Side, std::sync::Arc<str>)>) -> Vec<KeyValue> {
    let Some((side, service)) = of else { return overflow_attributes() };
    let named = |of: Side| if of == *side { &**service } else { "" };
    vec![text("client", named(Side::Client)), text("server", named(Side::Server))]
}

/// Each exemplar names its own span, and the trace at the other end when that is another one.
fn exemplars(latency: &Latency, other_trace: &str) -> Vec<Exemplar> {
    let one = |(measure, other): &(super::half::Measure, Option<[u8; 16]>)| {
        let value = measure.nanos as f64 / NANOS_PER_SECOND;
        let mut exemplar = exemplar(&measure.trace_id, &measure.span_id, value, measure.end_unix_nano);
        let other = other.filter(|trace| *trace != measure.trace_id);
        exemplar.filtered_attributes.extend(other.map(|trace| text(other_trace, hex(&trace))));
        exemplar
    };
    latency.exemplars.iter().map(one).collect()
}

fn hex(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            hex.push(char::from_digit(u32::from(nibble), 16).expect("a nibble is a hexadecimal digit"));
        }
    }
    hex
}

#[cfg(test)]
mod tests;
