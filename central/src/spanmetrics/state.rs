//! What one RED series has counted, and its recent distribution.
//!
//! Never: reads a clock. Invariants: calls, sum and buckets are exact and do not depend on the order of merging;
//! a flush shows what was counted when it began, whatever is merged while it is on its way; the distribution covers
//! the last `windows` intervals only, and loses resolution where the engine runs out of memory.

use std::collections::VecDeque;

use mirador_sketch::{Exemplars, Hdr, Point, bucket_of};

/// The exact part of a series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
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
}

/// One cumulative series.
#[derive(Debug, Clone, Default)]
pub struct State {
    counts: Counts,
    /// What the flush that has begun and has not shown the series yet is to show; `None`: the counts as they are.
    cut: Option<Box<Counts>>,
    /// A flush has begun and has not shown the series yet.
    is_awaited: bool,
    /// Grows with every merge.
    version: u64,
    /// The version that the flush that began last shows.
    shown: u64,
    /// The newest version that was taken.
    taken: u64,
    /// Since the last flush.
    pub exemplars: Exemplars,
    /// Of the last flush, until it is taken.
    sent: Exemplars,
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

impl Default for Counts {
    fn default() -> Self {
        Self { calls: 0, sum_nanos: 0, min_nanos: u64::MAX, max_nanos: 0, buckets: Vec::new() }
    }
}

impl Counts {
    fn merge(&mut self, delta: &Point, bounds: usize) {
        self.calls = self.calls.saturating_add(delta.calls);
        self.sum_nanos = self.sum_nanos.saturating_add(delta.sum_nanos);
        self.min_nanos = self.min_nanos.min(delta.min_nanos);
        self.max_nanos = self.max_nanos.max(delta.max_nanos);
        self.buckets.resize(bounds + 1, 0);
        for (ours, theirs) in self.buckets.iter_mut().zip(&delta.buckets) {
            *ours = ours.saturating_add(*theirs);
        }
    }
}

impl State {
    /// A series as another process left it; the first flush shows it.
    pub fn resumed(counts: Counts) -> Self {
        Self { counts, version: 1, ..Self::default() }
    }

    /// What the flush that began last shows.
    pub fn counts(&self) -> &Counts {
        self.cut.as_deref().unwrap_or(&self.counts)
    }

    /// Whether something was merged that no flush that was taken has shown.
    pub fn is_changed(&self) -> bool {
        self.version != self.taken
    }

    /// Adds a delta whose buckets have `bounds`, and tells by how many bytes the distribution has grown.
    /// `keeps_distribution` is off when nobody asks for quantiles.
    pub fn merge(&mut self, delta: &Point, bounds: usize, keeps_distribution: bool) -> usize {
        if self.is_awaited && self.cut.is_none() {
            self.cut = Some(Box::new(self.counts.clone()));
        }
        self.counts.merge(delta, bounds);
        self.version += 1;
        self.exemplars.merge(&delta.exemplars);
        if !keeps_distribution {
            return 0;
        }
        if self.windows.is_empty() {
            self.windows.push_back(Hdr::default());
        }
        self.windows.back_mut().map_or(0, |current| {
            let before = current.heap_bytes();
            current.merge(&delta.hdr);
            current.heap_bytes().saturating_sub(before)
        })
    }

    /// The parts of the distribution, for a limit of memory.
    pub fn distributions_mut(&mut self) -> impl Iterator<Item = &mut Hdr> {
        self.windows.iter_mut()
    }

    /// The distribution over all windows that are kept; `None` without a call.
    pub fn distribution(&self) -> Option<Hdr> {
        let mut filled = self.windows.iter().filter(|window| !window.is_empty());
        let mut all = filled.next()?.clone();
        filled.for_each(|window| all.merge(window));
        Some(all)
    }

    /// A flush begins that will show the series as it is now.
    pub fn await_flush(&mut self) {
        self.cut = None;
        self.is_awaited = true;
        self.shown = self.version;
        // Those of a flush that was not taken leave again.
        self.exemplars.merge(&std::mem::take(&mut self.sent));
    }

    /// Decides what the gauges show in the request that is made now.
    pub fn begin_flush(&mut self) {
        let has_calls = self.windows.iter().any(|window| !window.is_empty());
        self.gauge = match self.gauge {
            _ if has_calls => Gauge::Live,
            Gauge::Absent => Gauge::Absent,
            Gauge::Live | Gauge::Ending => Gauge::Ending,
        };
    }

    /// The request has been made.
    pub fn end_flush(&mut self) {
        self.sent = std::mem::take(&mut self.exemplars);
        self.cut = None;
        self.is_awaited = false;
    }

    /// An interval has ended: a window of the distribution begins.
    pub fn turn(&mut self, windows: usize) {
        if self.windows.iter().all(Hdr::is_empty) {
            self.windows = VecDeque::new();
            return;
        }
        self.windows.push_back(Hdr::default());
        while self.windows.len() > windows {
            self.windows.pop_front();
        }
    }

    /// The flush that carried the series has been taken.
    pub fn confirm(&mut self) {
        self.taken = self.shown;
        self.sent = Exemplars::default();
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
