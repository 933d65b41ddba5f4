//! The numbers of one RED series: calls, durations, buckets, histogram, exemplars.
//!
//! Invariants: `merge` is associative and commutative and `Point::default()` is its identity;
//! counts and sums saturate, they never wrap; buckets and histogram each add up to `calls`.

use crate::{Exemplar, Exemplars, Hdr};

/// The change, or the accumulated state, of one series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// Spans, each with its adjusted count.
    pub calls: u64,
    /// Sum of the durations in nanoseconds, weighted like `calls`.
    pub sum_nanos: u128,
    /// Shortest duration in nanoseconds; `u64::MAX` while `calls` is 0.
    pub min_nanos: u64,
    /// Longest duration in nanoseconds.
    pub max_nanos: u64,
    /// Calls per explicit bucket, not cumulative: one per bound and a last one above all bounds.
    pub buckets: Vec<u64>,
    /// The distribution, exact to less than 1 % of a duration.
    pub hdr: Hdr,
    /// Spans that stand for the series.
    pub exemplars: Exemplars,
}

impl Default for Point {
    fn default() -> Self {
        Self {
            calls: 0,
            sum_nanos: 0,
            min_nanos: u64::MAX,
            max_nanos: 0,
            buckets: Vec::new(),
            hdr: Hdr::default(),
            exemplars: Exemplars::default(),
        }
    }
}

impl Point {
    /// Counts one duration `weight` times; `bounds_nanos` are the ascending bucket bounds.
    pub fn record(&mut self, nanos: u64, weight: u64, bounds_nanos: &[u64]) {
        if weight == 0 {
            return;
        }
        if self.buckets.len() <= bounds_nanos.len() {
            self.buckets.resize(bounds_nanos.len() + 1, 0);
        }
        self.calls = self.calls.saturating_add(weight);
        self.sum_nanos = self.sum_nanos.saturating_add(u128::from(nanos) * u128::from(weight));
        self.min_nanos = self.min_nanos.min(nanos);
        self.max_nanos = self.max_nanos.max(nanos);
        let bucket = &mut self.buckets[bucket_of(bounds_nanos, nanos)];
        *bucket = bucket.saturating_add(weight);
        self.hdr.record(nanos, weight);
    }

    /// Adds `other`. Both must have been recorded with the same bounds; where one knows fewer
    /// buckets (as the identity does), the missing ones count as 0.
    pub fn merge(&mut self, other: &Self) {
        self.calls = self.calls.saturating_add(other.calls);
        self.sum_nanos = self.sum_nanos.saturating_add(other.sum_nanos);
        self.min_nanos = self.min_nanos.min(other.min_nanos);
        self.max_nanos = self.max_nanos.max(other.max_nanos);
        if self.buckets.len() < other.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine = mine.saturating_add(*theirs);
        }
        self.hdr.merge(&other.hdr);
        self.exemplars.merge(&other.exemplars);
    }

    /// Exemplars as a slice, slowest first.
    pub fn exemplars(&self) -> &[Exemplar] {
        self.exemplars.as_slice()
    }
}

/// The bucket of `nanos` under ascending `bounds`: the first bound that is not below it, so a value
/// equal to a bound is in that bound's bucket (`le` is inclusive); `bounds.len()` above all.
#[inline]
pub fn bucket_of(bounds: &[u64], nanos: u64) -> usize {
    bounds.partition_point(|bound| *bound < nanos)
}

#[cfg(test)]
mod tests;
