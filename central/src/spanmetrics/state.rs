//! What one RED series has counted, and its recent distribution.
//!
//! Never: reads a clock. Invariants: calls, sum and buckets are exact and do not depend on the order of merging;
//! the distribution covers the last `windows` flushes only.

use std::collections::VecDeque;

use mirador_sketch::{Exemplars, Hdr, Point, bucket_of};

/// One cumulative series.
#[derive(Debug, Clone)]
pub struct State {
    /// Spans.
    pub calls: u64,
    /// Sum of their durations.
    pub sum_nanos: u128,
    /// Shortest duration.
    pub min_nanos: u64,
    /// Longest duration.
    pub max_nanos: u64,
    /// One more than the bounds; empty before the first merge.
    pub buckets: Vec<u64>,
    /// Since the last flush.
    pub exemplars: Exemplars,
    /// Distribution by flush, the current one last.
    windows: VecDeque<Hdr>,
    /// What the quantile gauges show.
    pub gauge: Gauge,
}

/// The life of the quantile gauges of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gauge {
    /// Nothing is shown.
    #[default]
    Absent,
    /// A value was shown.
    Live,
    /// No call in any window: a stale marker is to be sent.
    Ending,
}

impl Default for State {
    fn default() -> Self {
        Self {
            calls: 0,
            sum_nanos: 0,
            min_nanos: u64::MAX,
            max_nanos: 0,
            buckets: Vec::new(),
            exemplars: Exemplars::default(),
            windows: VecDeque::new(),
            gauge: Gauge::Absent,
        }
    }
}

impl State {
    /// Adds a delta whose buckets have `bounds`. `keeps_distribution` is off when nobody asks for quantiles.
    pub fn merge(&mut self, delta: &Point, bounds: usize, keeps_distribution: bool) {
        self.calls = self.calls.saturating_add(delta.calls);
        self.sum_nanos = self.sum_nanos.saturating_add(delta.sum_nanos);
        self.min_nanos = self.min_nanos.min(delta.min_nanos);
        self.max_nanos = self.max_nanos.max(delta.max_nanos);
        self.buckets.resize(bounds + 1, 0);
        for (ours, theirs) in self.buckets.iter_mut().zip(&delta.buckets) {
            *ours = ours.saturating_add(*theirs);
        }
        self.exemplars.merge(&delta.exemplars);
        if keeps_distribution {
            if self.windows.is_empty() {
                self.windows.push_back(Hdr::default());
            }
            if let Some(current) = self.windows.back_mut() {
                current.merge(&delta.hdr);
            }
        }
    }

    /// The distribution over all windows that are kept; `None` without a call.
    pub fn distribution(&self) -> Option<Hdr> {
        let mut filled = self.windows.iter().filter(|window| !window.is_empty());
        let mut all = filled.next()?.clone();
        filled.for_each(|window| all.merge(window));
        Some(all)
    }

    /// Decides what the gauges show in the flush that begins.
    pub fn begin_flush(&mut self) {
        let has_calls = self.windows.iter().any(|window| !window.is_empty());
        self.gauge = match self.gauge {
            _ if has_calls => Gauge::Live,
            Gauge::Absent => Gauge::Absent,
            Gauge::Live | Gauge::Ending => Gauge::Ending,
        };
    }

    /// The flush has been put together: its exemplars are gone, and a window begins.
    pub fn end_flush(&mut self, windows: usize) {
        self.exemplars.clear();
        if self.windows.iter().all(Hdr::is_empty) {
            self.windows = VecDeque::new();
            return;
        }
        self.windows.push_back(Hdr::default());
        while self.windows.len() > windows {
            self.windows.pop_front();
        }
    }

    /// The flush has been taken.
    pub fn confirm(&mut self) {
        if self.gauge == Gauge::Ending {
            self.gauge = Gauge::Absent;
        }
    }
}

/// Counts a delta into other bounds by its distribution: calls and sum stay exact, a duration within 1 % of a bound
/// may change sides.
pub fn rebucket(delta: &mut Point, bounds_nanos: &[u64]) {
    let mut buckets = vec![0_u64; bounds_nanos.len() + 1];
    for (nanos, count) in delta.hdr.iter() {
        let bucket = &mut buckets[bucket_of(bounds_nanos, nanos)];
        *bucket = bucket.saturating_add(count);
    }
    delta.buckets = buckets;
}
