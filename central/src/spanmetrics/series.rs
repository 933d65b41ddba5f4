//! The cumulative RED metrics, as OTLP.
//!
//! Never: reads a clock, does IO. Invariants: names and labels are those of the Collector's connector (scope
//! `spanmetricsconnector`); one resource per service with `service.name` and nothing else, so that a service's
//! metrics stay together; rows leave in a fixed order.

use bytes::Bytes;
use mirador_sketch::{LABEL_OVERFLOW, LABEL_SERVICE, SeriesKey};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::{Exemplar, HistogramDataPoint, NumberDataPoint, ResourceMetrics};

use super::config::Config;
use super::state::{Gauge, State};
use crate::cumulative::{Flush, Row};
use crate::metrics_out::points::{
    Buckets, Stand, boolean, encode, exemplar, gauge_metric, histogram_metric, push_gauge, push_histogram, push_sum,
    resource_metrics, sum_metric, text,
};

/// Name of the scope that the metrics are under.
pub const SCOPE: &str = "spanmetricsconnector";

/// Series in one export request; a series has some 25 samples.
pub const ROWS_PER_REQUEST: usize = 1000;

/// Names, units and quantiles.
#[derive(Debug)]
pub struct Exposition {
    calls: String,
    duration: String,
    /// Name and share of each gauge.
    quantiles: Vec<(String, f64)>,
    unit: &'static str,
    nanos_per_unit: f64,
    bounds: Vec<f64>,
    max_exemplars: usize,
}

impl Exposition {
    /// As configured.
    pub fn new(config: &Config, bounds_nanos: &[u64]) -> Self {
        let nanos_per_unit = config.histogram.unit.nanos() as f64;
        let namespace = &config.namespace;
        let quantile = |share: &f64| (format!("{namespace}.duration.p{}", percent(*share)), *share);
        Self {
            calls: format!("{namespace}.calls"),
            duration: format!("{namespace}.duration"),
            quantiles: config.quantiles.values.iter().map(quantile).collect(),
            unit: config.histogram.unit.as_str(),
            nanos_per_unit,
            bounds: bounds_nanos.iter().map(|nanos| *nanos as f64 / nanos_per_unit).collect(),
            max_exemplars: if config.exemplars.enabled { config.exemplars.max_per_data_point } else { 0 },
        }
    }

    /// Whether any quantile is asked for.
    pub fn has_quantiles(&self) -> bool {
        !self.quantiles.is_empty()
    }

    /// The export request of some series of a flush, in their order.
    pub fn request(&self, flush: Flush, rows: &[Row<'_, SeriesKey, State>]) -> Bytes {
        let services = rows.chunk_by(|one, other| one.key.service == other.key.service);
        encode(services.map(|rows| self.service(flush, rows)).collect())
    }

    fn service(&self, flush: Flush, rows: &[Row<'_, SeriesKey, State>]) -> ResourceMetrics {
        let mut points = Points { gauges: vec![Vec::new(); self.quantiles.len()], ..Points::default() };
        for row in rows {
            self.row(flush, row, &mut points);
        }
        let mut metrics = vec![
            sum_metric(&self.calls, "Spans", points.calls),
            histogram_metric(&self.duration, "Duration of spans", self.unit, points.durations),
        ];
        for ((name, _), points) in self.quantiles.iter().zip(points.gauges) {
            metrics.push(gauge_metric(name, "Quantile of the duration of recent spans", self.unit, points));
        }
        let service = rows.first().map_or("", |row| &*row.key.service);
        let resource = if service.is_empty() { Vec::new() } else { vec![text(LABEL_SERVICE, service)] };
        resource_metrics(resource, SCOPE, metrics)
    }

    fn row(&self, flush: Flush, row: &Row<'_, SeriesKey, State>, points: &mut Points) {
        let stand = Stand {
            start_unix_nano: row.start_unix_nano,
            time_unix_nano: flush.time_unix_nano,
            is_first: row.is_first,
            is_stale: row.is_stale,
        };
        let (state, counts) = (row.value, row.value.counts());
        let attributes = attributes(row.key);
        let exemplars = self.exemplars(state);
        push_sum(&mut points.calls, stand, &attributes, counts.calls);
        if !row.is_stale
            && let Some(point) = points.calls.last_mut()
        {
            point.exemplars.clone_from(&exemplars);
        }
        let buckets = Buckets {
            count: counts.calls,
            sum: counts.sum_nanos as f64 / self.nanos_per_unit,
            range: (counts.calls > 0).then(|| (self.scaled(counts.min_nanos), self.scaled(counts.max_nanos))),
            bucket_counts: &counts.buckets,
            bounds: &self.bounds,
        };
        push_histogram(&mut points.durations, stand, &attributes, buckets, exemplars);
        self.gauges(row, stand, &attributes, &mut points.gauges);
    }

    fn gauges(
        &self,
        row: &Row<'_, SeriesKey, State>,
        stand: Stand,
        attributes: &[KeyValue],
        points: &mut [Vec<NumberDataPoint>],
    ) {
        if row.value.gauge == Gauge::Absent {
            return;
        }
        let counts = row.value.counts();
        let distribution = if row.is_stale { None } else { row.value.distribution() };
        for ((_, share), points) in self.quantiles.iter().zip(points) {
            let nanos = distribution.as_ref().and_then(|all| all.value_at_quantile(*share));
            // The middle of a bucket may lie outside of what was measured.
            let nanos = nanos.map(|nanos| nanos.clamp(counts.min_nanos, counts.max_nanos));
            push_gauge(points, stand, attributes, nanos.map(|nanos| self.scaled(nanos)));
        }
    }

    fn exemplars(&self, state: &State) -> Vec<Exemplar> {
        let scaled = |one: &mirador_sketch::Exemplar| {
            exemplar(&one.trace_id, &one.span_id, self.scaled(one.value_nanos), one.time_unix_nano)
        };
        let mut chosen = state.exemplars.clone();
        chosen.limit(self.max_exemplars);
        chosen.as_slice().iter().map(scaled).collect()
    }

    fn scaled(&self, nanos: u64) -> f64 {
        nanos as f64 / self.nanos_per_unit
    }
}

#[derive(Default)]
struct Points {
    calls: Vec<NumberDataPoint>,
    durations: Vec<HistogramDataPoint>,
    gauges: Vec<Vec<NumberDataPoint>>,
}

fn attributes(key: &SeriesKey) -> Vec<KeyValue> {
    let attribute =
        |(name, value): (&str, &str)| if name == LABEL_OVERFLOW { boolean(name, true) } else { text(name, value) };
    key.labels().map(attribute).collect()
}

/// A share as percent without superfluous digits: `50`, `99`, `99.9`.
pub(super) fn percent(share: f64) -> String {
    let digits = format!("{:.6}", share * 100.0);
    digits.trim_end_matches('0').trim_end_matches('.').to_owned()
}
