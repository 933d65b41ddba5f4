//! One OTLP stream (metric and attributes of a resource) turned into samples, point by point.
//!
//! Deltas become cumulative here. A cumulative point is written as it came. Whatever is written, the caller
//! gets a [`Reading`]: what a scorer needs to know, always cumulative, so that scoring has one form to read.
//!
//! Never: scores, looks up streams, reads a clock.

use mirador_otlp::metrics::{ExpHistogramPoint, HistogramPoint, SummaryPoint};

use super::Output;
use super::delta::{Intervals, Step};
use super::exponential::Counts;
use super::family::{Family, Part};
use super::labels::Base;
use super::tally::Loss;
use crate::series::{Labels, STALE_NAN};

/// Scales that OTLP producers use lie within -10..=20.
const SCALES: std::ops::RangeInclusive<i32> = -20..=30;
/// Buckets of one side of an exponential point; producers keep to 160 or 320.
const MAX_EXPONENTIAL: usize = 16_384;

/// When a point is and whose.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// Unix nanoseconds; 0 when the producer did not say.
    pub start: u64,
    /// Unix nanoseconds.
    pub time: u64,
    /// Hash of the resource.
    pub source: u64,
    /// The temporality is delta.
    pub delta: bool,
}

impl Stamp {
    /// The point's time as the store wants it.
    pub fn millis(&self) -> i64 {
        (self.time / 1_000_000) as i64
    }

    /// Just after the start, when that lies before the point: where a new total was still zero.
    fn zero_millis(&self) -> Option<i64> {
        let start = (self.start / 1_000_000) as i64 + 1;
        (self.start > 0 && start < self.millis()).then_some(start)
    }
}

/// What a point says, for the scorer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reading {
    /// A value that goes up and down.
    Level(f64),
    /// A value that only goes up, and since when.
    Total {
        /// The value.
        value: f64,
        /// Unix nanoseconds, 0 when unknown.
        start: u64,
    },
    /// Observations since `start`.
    Distribution {
        /// How many.
        count: f64,
        /// Their sum, where it is kept.
        sum: Option<f64>,
        /// Unix nanoseconds, 0 when unknown.
        start: u64,
    },
    /// The same, with the quantiles that its producer has made of late observations.
    Summary {
        /// How many.
        count: f64,
        /// Their sum.
        sum: f64,
        /// Unix nanoseconds, 0 when unknown.
        start: u64,
        /// The median, the 95th and the 99th percentile; NaN where the quantiles do not tell.
        quantiles: [f64; 3],
    },
}

/// The quantiles of a [`Reading::Summary`].
const READ: [f64; 3] = [0.5, 0.95, 0.99];

/// A quantile of a summary, which has some of them in ascending order: as it is given, or linear between its
/// neighbours. The highest one that is given, if it is above the median, stands for the 95th percentile when that lies
/// beyond it. NaN where nothing is known.
fn quantile_of(given: &[(f64, f64)], quantile: f64) -> f64 {
    /// Quantiles come as decimal fractions, and as what is next to them.
    const SAME: f64 = 1e-6;
    let above = given.partition_point(|(at, _)| *at < quantile - SAME);
    match (above.checked_sub(1).map(|below| given[below]), given.get(above)) {
        (_, Some((at, value))) if (at - quantile).abs() <= SAME => *value,
        (Some((low, from)), Some((high, to))) => from + (to - from) * (quantile - low) / (high - low),
        (Some((at, value)), None) if at > 0.5 + SAME && quantile < 0.96 => value,
        _ => f64::NAN,
    }
}

/// The state that turns deltas into totals.
#[derive(Debug, Clone)]
enum Total {
    Number { intervals: Intervals, value: f64 },
    Histogram { intervals: Intervals, bounds: Vec<f64>, counts: Vec<u64>, count: u64, sum: Option<f64> },
    Exponential { intervals: Intervals, counts: Counts, count: u64, sum: Option<f64> },
}

#[derive(Debug, Clone)]
enum Target {
    Number(Labels),
    Family(Box<Family>),
}

/// One stream.
#[derive(Debug, Clone)]
pub struct Stream {
    target: Target,
    total: Option<Box<Total>>,
}

/// What a stream is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Gauges and sums: one series.
    Number,
    /// Histograms of both kinds.
    Histogram,
    /// Summaries.
    Summary,
}

impl Stream {
    /// A stream without points.
    pub fn new(form: Form, name: &str, base: &Base) -> Self {
        let target = match form {
            Form::Number => Target::Number(base.series(name, None)),
            Form::Histogram => Target::Family(Box::new(Family::new(Part::Bucket, name, base))),
            Form::Summary => Target::Family(Box::new(Family::new(Part::Quantile, name, base))),
        };
        Self { target, total: None }
    }

    /// Writes a point of a gauge or a sum.
    pub fn number(&mut self, stamp: Stamp, value: f64, monotonic: bool, out: &mut Output) -> Result<Reading, Loss> {
        let Target::Number(labels) = &self.target else { return Err(Loss::NoData) };
        let mut value = value;
        if stamp.delta {
            let fresh = || Total::Number { intervals: Intervals::default(), value: 0.0 };
            let first = self.total.is_none();
            let Total::Number { intervals, value: total } =
                self.total.get_or_insert_with(|| Box::new(fresh())).as_mut()
            else {
                return Err(Loss::NoData);
            };
            if add(intervals, &stamp)? {
                *total += value;
            }
            value = *total;
            if let Some(zero) = stamp.zero_millis().filter(|_| first) {
                out.push(labels, zero, 0.0);
            }
        }
        out.push(labels, stamp.millis(), value);
        let start = if stamp.delta { 0 } else { stamp.start };
        Ok(if monotonic { Reading::Total { value, start } } else { Reading::Level(value) })
    }

    /// Writes a point of a histogram with explicit bounds.
    pub fn histogram(&mut self, stamp: Stamp, point: &HistogramPoint<'_>, out: &mut Output) -> Result<Reading, Loss> {
        let mut bounds: Vec<f64> = point.explicit_bounds().collect();
        let mut counts: Vec<u64> = point.bucket_counts().collect();
        if counts.is_empty() && bounds.is_empty() {
            counts.push(point.count());
        }
        let ascending = bounds.windows(2).all(|pair| pair[0] < pair[1]);
        if counts.len() != bounds.len() + 1 || !ascending || bounds.iter().any(|bound| bound.is_nan()) {
            return Err(Loss::BadBuckets);
        }
        if bounds.last() == Some(&f64::INFINITY) {
            bounds.pop();
            let beyond = counts.pop().unwrap_or_default();
            if let Some(last) = counts.last_mut() {
                *last = last.saturating_add(beyond);
            }
        }
        let (mut count, mut sum) = (point.count(), point.sum());
        let mut first = false;
        if stamp.delta {
            first = self.total.is_none();
            let total = self.total.get_or_insert_with(|| {
                let intervals = Intervals::default();
                Box::new(Total::Histogram {
                    intervals,
                    bounds: Vec::new(),
                    counts: Vec::new(),
                    count: 0,
                    sum: Some(0.0),
                })
            });
            let Total::Histogram { intervals, bounds: had, counts: totals, count: all, sum: sums } = total.as_mut()
            else {
                return Err(Loss::NoData);
            };
            if add(intervals, &stamp)? {
                if *had != bounds {
                    // Counts in other buckets do not add up: the totals start again.
                    had.clone_from(&bounds);
                    *totals = vec![0; counts.len()];
                    (*all, *sums) = (0, Some(0.0));
                }
                for (total, count) in totals.iter_mut().zip(&counts) {
                    *total = total.saturating_add(*count);
                }
                *all = all.saturating_add(count);
                *sums = sums.zip(sum).map(|(total, sum)| total + sum);
            }
            bounds.clone_from(had);
            counts.clone_from(totals);
            (count, sum) = (*all, *sums);
        }
        let edges = bounds.iter().copied().chain([f64::INFINITY]);
        let first_zero = stamp.zero_millis().filter(|_| first);
        self.write(stamp.millis(), first_zero, edges, &Cumulative { counts: &counts, count, sum }, out)?;
        Ok(distribution(&stamp, count, sum))
    }

    /// Writes a point of an exponential histogram as classic buckets, see [`super::exponential`].
    pub fn exponential(
        &mut self,
        stamp: Stamp,
        point: &ExpHistogramPoint<'_>,
        max_scale: i32,
        out: &mut Output,
    ) -> Result<Reading, Loss> {
        let fresh = read_exponential(point, max_scale)?;
        let first = self.total.is_none() && stamp.delta;
        let total = self.total.get_or_insert_with(|| {
            let counts = Counts::new(fresh.scale);
            Box::new(Total::Exponential { intervals: Intervals::default(), counts, count: 0, sum: Some(0.0) })
        });
        let Total::Exponential { intervals, counts, count, sum } = total.as_mut() else { return Err(Loss::NoData) };
        if !stamp.delta {
            // The latest cumulative point, in the range of all that came before.
            *counts = counts.zeroed();
            counts.merge(&fresh);
            (*count, *sum) = (point.count(), point.sum());
        } else if add(intervals, &stamp)? {
            counts.merge(&fresh);
            *count = count.saturating_add(point.count());
            *sum = sum.zip(point.sum()).map(|(total, sum)| total + sum);
        }
        counts.fit();
        let (edges, counts): (Vec<f64>, Vec<u64>) =
            counts.buckets(point.zero_threshold()).into_iter().chain([(f64::INFINITY, 0)]).unzip();
        let (count, sum) = (*count, *sum);
        let first_zero = stamp.zero_millis().filter(|_| first);
        self.write(
            stamp.millis(),
            first_zero,
            edges.iter().copied(),
            &Cumulative { counts: &counts, count, sum },
            out,
        )?;
        Ok(distribution(&stamp, count, sum))
    }

    /// Writes a point of a summary.
    pub fn summary(&mut self, stamp: Stamp, point: &SummaryPoint<'_>, out: &mut Output) -> Result<Reading, Loss> {
        let Target::Family(family) = &mut self.target else { return Err(Loss::NoData) };
        let mut quantiles: Vec<(f64, f64)> =
            point.quantiles().map(|quantile| (quantile.quantile, quantile.value)).collect();
        quantiles.sort_by(|left, right| left.0.total_cmp(&right.0));
        quantiles.dedup_by(|later, first| later.0.to_bits() == first.0.to_bits());
        family.fit(quantiles.iter().map(|(quantile, _)| *quantile), stamp.millis(), out);
        let (count, sum) = (point.count() as f64, point.sum());
        out.buckets.clear();
        family.write(stamp.millis(), quantiles.iter().map(|(_, value)| *value), Some(sum), count, out);
        Ok(Reading::Summary { count, sum, start: stamp.start, quantiles: READ.map(|at| quantile_of(&quantiles, at)) })
    }

    /// Ends every series of the stream (the flag "no recorded value").
    pub fn stale(&self, timestamp_ms: i64, out: &mut Output) {
        match &self.target {
            Target::Number(labels) => out.push(labels, timestamp_ms, STALE_NAN),
            Target::Family(family) => family.write_stale(timestamp_ms, out),
        }
    }

    /// The bounds that there are bucket series for, to hang exemplars on.
    pub fn edges(&self) -> impl Iterator<Item = f64> {
        let family = match &self.target {
            Target::Number(_) => None,
            Target::Family(family) => Some(family),
        };
        family.into_iter().flat_map(|family| family.edges())
    }

    fn write(
        &mut self,
        timestamp_ms: i64,
        first_zero: Option<i64>,
        edges: impl Iterator<Item = f64> + Clone,
        values: &Cumulative<'_>,
        out: &mut Output,
    ) -> Result<(), Loss> {
        let Target::Family(family) = &mut self.target else { return Err(Loss::NoData) };
        family.fit(edges.clone(), timestamp_ms, out);
        if let Some(zero) = first_zero {
            family.write(zero, edges.clone().map(|_| 0.0), values.sum.map(|_| 0.0), 0.0, out);
        }
        out.buckets.clear();
        out.buckets.extend(edges.zip(values.counts.iter().copied()));
        // A producer that read its counters while they moved may have counted on: the last bucket is all.
        let held = values.counts.iter().fold(0_u64, |sum, count| sum.saturating_add(*count));
        let all = values.count.max(held);
        let mut running = 0_u64;
        let buckets = values.counts.iter().enumerate().map(|(index, count)| {
            running = running.saturating_add(*count);
            (if index + 1 == values.counts.len() { all } else { running }) as f64
        });
        family.write(timestamp_ms, buckets, values.sum, all as f64, out);
        Ok(())
    }
}

/// Buckets (not added up yet), count and sum of one point.
struct Cumulative<'a> {
    counts: &'a [u64],
    count: u64,
    sum: Option<f64>,
}

fn distribution(stamp: &Stamp, count: u64, sum: Option<f64>) -> Reading {
    Reading::Distribution { count: count as f64, sum, start: if stamp.delta { 0 } else { stamp.start } }
}

/// Whether the interval is to be added.
fn add(intervals: &mut Intervals, stamp: &Stamp) -> Result<bool, Loss> {
    match intervals.admit(stamp.source, stamp.start, stamp.time) {
        Step::Fresh => Ok(true),
        Step::Repeat => Ok(false),
        Step::Late => Err(Loss::LateDelta),
    }
}

fn read_exponential(point: &ExpHistogramPoint<'_>, max_scale: i32) -> Result<Counts, Loss> {
    let scale = point.scale();
    if !SCALES.contains(&scale) || point.zero_threshold().is_nan() || point.zero_threshold() < 0.0 {
        return Err(Loss::BadBuckets);
    }
    let mut counts = Counts::new(scale.min(max_scale));
    counts.zero = point.zero_count();
    for (negative, side) in [(false, point.positive()), (true, point.negative())] {
        let offset = i64::from(side.offset());
        for (position, count) in (0_i64..).zip(side.counts()) {
            if position as usize >= MAX_EXPONENTIAL {
                return Err(Loss::BadBuckets);
            }
            if count > 0 {
                let index = i32::try_from(offset + position).map_err(|_| Loss::BadBuckets)?;
                counts.add(negative, scale, index, count);
            }
        }
    }
    counts.fit();
    Ok(counts)
}
