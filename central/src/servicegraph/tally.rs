//! What a shard has counted since it was last asked.
//!
//! Never: is cumulative, knows a time. Invariants: merging tallies in any order gives the same counts, sums and
//! buckets; at most `limit` series and one overflow series of each kind.

use std::collections::HashMap;
use std::sync::Arc;

use super::config::Config;
use super::edge::{Edge, EdgeKey};
use super::half::{Half, Measure, Side};
use crate::metrics_out::points::bucket_of;

/// One series of the service graph; `None` stands for all that found no place.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SeriesKey {
    /// Requests along an edge.
    Edge(Option<EdgeKey>),
    /// Spans of a service that waited in vain.
    Unpaired(Option<(Side, Arc<str>)>),
    /// Spans of a service for which there was no room to wait in.
    Dropped(Option<(Side, Arc<str>)>),
}

impl SeriesKey {
    fn overflow(&self) -> Self {
        match self {
            Self::Edge(_) => Self::Edge(None),
            Self::Unpaired(_) => Self::Unpaired(None),
            Self::Dropped(_) => Self::Dropped(None),
        }
    }
}

/// What a series has counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// Requests or spans.
    pub total: u64,
    /// As the clients measured it.
    pub client: Latency,
    /// As the servers measured it.
    pub server: Latency,
}

/// A latency histogram in integer nanoseconds, so that its sum does not depend on an order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Latency {
    /// Empty until something was observed, then one more than the bounds.
    pub buckets: Vec<u64>,
    /// Values in all buckets.
    pub count: u64,
    /// Sum of all values.
    pub sum_nanos: u128,
    /// The first few since the last flush, each with the trace at the other end of the edge.
    pub exemplars: Vec<(Measure, Option<[u8; 16]>)>,
    /// Those of the last flush, until it is taken.
    sent: Vec<(Measure, Option<[u8; 16]>)>,
}

impl Latency {
    fn observe(&mut self, bounds: &[u64], measure: &Measure) {
        self.buckets.resize(bounds.len() + 1, 0);
        self.buckets[bucket_of(bounds, measure.nanos)] += 1;
        self.count += 1;
        self.sum_nanos += u128::from(measure.nanos);
    }

    fn merge(&mut self, other: Self, max_exemplars: usize) {
        self.buckets.resize(self.buckets.len().max(other.buckets.len()), 0);
        for (ours, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *ours += theirs;
        }
        self.count += other.count;
        self.sum_nanos += other.sum_nanos;
        let room = max_exemplars.saturating_sub(self.exemplars.len());
        self.exemplars.extend(other.exemplars.into_iter().take(room));
    }
}

impl Latency {
    /// A flush begins: the exemplars of one that was not taken leave again, before newer ones.
    fn begin_flush(&mut self, max_exemplars: usize) {
        let newer = std::mem::replace(&mut self.exemplars, std::mem::take(&mut self.sent));
        let room = max_exemplars.saturating_sub(self.exemplars.len());
        self.exemplars.extend(newer.into_iter().take(room));
    }
}

impl Counted {
    /// A flush begins that will show this.
    pub fn begin_flush(&mut self, max_exemplars: usize) {
        self.client.begin_flush(max_exemplars);
        self.server.begin_flush(max_exemplars);
    }

    /// A request with this has been made.
    pub fn end_flush(&mut self) {
        self.client.sent = std::mem::take(&mut self.client.exemplars);
        self.server.sent = std::mem::take(&mut self.server.exemplars);
    }

    /// The flush that showed this has been taken.
    pub fn confirm(&mut self) {
        self.client.sent = Vec::new();
        self.server.sent = Vec::new();
    }

    /// Adds what another tally counted for the same series.
    pub fn merge(&mut self, other: Self, max_exemplars: usize) {
        self.total += other.total;
        self.client.merge(other.client, max_exemplars);
        self.server.merge(other.server, max_exemplars);
    }
}

/// How edges are counted.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Upper bounds of the histograms, inclusive.
    pub bounds_nanos: Arc<[u64]>,
    /// Most series.
    pub limit: usize,
    /// Most exemplars of a histogram; 0: none.
    pub max_exemplars: usize,
}

impl Rules {
    /// The rules that the configuration sets.
    pub fn new(config: &Config) -> Self {
        Self {
            bounds_nanos: config.bounds_nanos().into(),
            limit: config.aggregation_cardinality_limit,
            max_exemplars: if config.exemplars.enabled { config.exemplars.max_per_data_point } else { 0 },
        }
    }
}

/// Counts by series.
#[derive(Debug)]
pub struct Tally {
    rules: Rules,
    series: HashMap<SeriesKey, Counted>,
}

impl Tally {
    /// An empty tally.
    pub fn new(rules: Rules) -> Self {
        Self { rules, series: HashMap::new() }
    }

    /// What has been counted; the tally is empty again.
    #[must_use]
    pub fn take(&mut self) -> Self {
        Self { rules: self.rules.clone(), series: std::mem::take(&mut self.series) }
    }

    /// Counts one edge.
    pub fn edge(&mut self, edge: Edge) {
        let Edge { key, client, server } = edge;
        let Rules { bounds_nanos, max_exemplars, .. } = self.rules.clone();
        let counted = self.series(SeriesKey::Edge(Some(key)));
        counted.total += 1;
        observe(&mut counted.client, client, server, &bounds_nanos, max_exemplars);
        observe(&mut counted.server, server, client, &bounds_nanos, max_exemplars);
    }

    /// Counts a half that waited in vain.
    pub fn unpaired(&mut self, half: &Half) {
        self.series(SeriesKey::Unpaired(Some((half.side, Arc::clone(&half.service))))).total += 1;
    }

    /// Counts a half that could not wait.
    pub fn dropped(&mut self, half: &Half) {
        self.series(SeriesKey::Dropped(Some((half.side, Arc::clone(&half.service))))).total += 1;
    }

    fn series(&mut self, key: SeriesKey) -> &mut Counted {
        let is_full = self.series.len() >= self.rules.limit && !self.series.contains_key(&key);
        self.series.entry(if is_full { key.overflow() } else { key }).or_default()
    }

    /// Every series with what it counted.
    pub fn into_series(self) -> impl Iterator<Item = (SeriesKey, Counted)> {
        self.series.into_iter()
    }
}

fn observe(latency: &mut Latency, own: Option<Measure>, other: Option<Measure>, bounds: &[u64], max: usize) {
    let Some(measure) = own else { return };
    latency.observe(bounds, &measure);
    if latency.exemplars.len() < max {
        latency.exemplars.push((measure, other.map(|other| other.trace_id)));
    }
}

/// The series that stands for those that found no place.
pub(super) fn overflow_of(key: &SeriesKey) -> SeriesKey {
    key.overflow()
}
