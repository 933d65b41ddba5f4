//! The isolation engine: how far a value stands apart from what its series has shown before.
//!
//! In one dimension the expected depth of a point over infinitely many range-aware isolation trees
//! (Liu, Ting, Zhou 2008; cuts proportional to range as in Guha et al. 2016) has a closed form, so there is
//! no tree and no randomness in a score: every gap of the sorted sample rings an exponential clock at a rate
//! equal to its length, and a gap's cut lies on the query's path exactly when it rings before every gap that
//! is nearer to the query.
//!
//! Invariants: the score does not change under `x -> a*x + b`; a late point changes nothing; the same values,
//! times and seed give the same scores. Never: reads a clock, allocates beyond the sample, looks at labels.

mod depth;

pub use depth::{average_depth, expected_depth};

/// How the scorer of every series behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Values that are kept per series (the paper's psi).
    pub sample_size: usize,
    /// Points that a series must have shown before its scores count.
    pub warmup_points: u32,
    /// Scores from here on are anomalies.
    pub threshold: f64,
    /// The least distance from the median, as a share of the median, that can be an anomaly.
    pub min_relative_deviation: f64,
    /// A full sample takes every n-th point on average, so its mean age is `n * sample_size` points.
    pub replace_every: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { sample_size: 256, warmup_points: 64, threshold: 0.78, min_relative_deviation: 0.05, replace_every: 10 }
    }
}

/// What one point got.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// In [0, 1]: about 0.5 is ordinary, towards 1 is isolated, 0 while warming up.
    pub score: f64,
    /// At or over the threshold, and far enough from the median.
    pub is_anomaly: bool,
    /// Too few points so far: `score` is 0 and says nothing.
    pub warming: bool,
}

impl Score {
    /// The score of a point that cannot be judged yet.
    pub const WARMING: Self = Self { score: 0.0, is_anomaly: false, warming: true };

    /// The more anomalous of two: a datapoint with several features is as odd as its oddest one.
    #[must_use]
    pub fn worst(self, other: Self) -> Self {
        Self {
            score: self.score.max(other.score),
            is_anomaly: self.is_anomaly || other.is_anomaly,
            warming: self.warming && other.warming,
        }
    }
}

/// `SplitMix64` (Steele, Lea, Flood 2014): eight bytes of state per series, seeded with the series' key.
#[derive(Debug, Clone)]
pub struct SplitMix(u64);

impl SplitMix {
    /// The same seed gives the same sequence.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in `0..bound`, biased by less than `bound / 2^64`.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// One point in this many enters the sample while it looks anomalous: a spike teaches nothing, a lasting
/// shift is learned.
const ANOMALY_DILUTION: u64 = 5;
/// After so many anomalies in a row the new level is taken as real and every point enters the sample.
const SHIFT_AFTER: u16 = 16;
/// Values are clamped here so that differences of two stay finite.
const LARGEST: f64 = 8.0e37;

/// What is known about one feature of one series.
#[derive(Debug, Clone)]
pub struct Scorer {
    /// The first value; the sample keeps distances from it, so that a large offset costs no precision.
    origin: f64,
    /// Sorted distances from `origin`.
    sample: Vec<f32>,
    last_time: u64,
    seen: u32,
    last_value: f32,
    last_score: f32,
    /// Anomalies in a row.
    run: u16,
    /// The sample has changed since `last_score` was computed.
    changed: bool,
}

impl Default for Scorer {
    fn default() -> Self {
        Self::new()
    }
}

impl Scorer {
    /// Knows nothing.
    pub fn new() -> Self {
        Self {
            origin: 0.0,
            sample: Vec::new(),
            last_time: 0,
            seen: 0,
            last_value: 0.0,
            last_score: 0.0,
            run: 0,
            changed: true,
        }
    }

    /// Scores a finite value against what was seen before, then learns from it.
    ///
    /// A point that is not later than the latest one is scored and not learned, so that a retried request
    /// does not move the state.
    pub fn score(&mut self, settings: &Settings, value: f64, time: u64, rng: &mut SplitMix) -> Score {
        debug_assert!(value.is_finite(), "the caller keeps NaN and infinities out");
        if self.seen == 0 {
            self.origin = value;
        }
        let late = self.seen > 0 && time <= self.last_time;
        let distance = (value - self.origin).clamp(-LARGEST, LARGEST) as f32;
        let warming = self.seen < settings.warmup_points;
        let score = if warming { 0.0 } else { self.isolation(distance) };
        let isolated = !warming && score >= settings.threshold;
        let is_anomaly = isolated && self.deviates(settings, value);
        if !late {
            self.learn(settings, distance, isolated, rng);
            self.seen = self.seen.saturating_add(1);
            self.last_time = time;
        }
        Score { score, is_anomaly, warming }
    }

    /// Points learned or passed over so far.
    pub fn seen(&self) -> u32 {
        self.seen
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.sample.capacity() * size_of::<f32>()
    }

    /// `2^(-E[h] / c(m))`, remembered while neither the value nor the sample changes.
    fn isolation(&mut self, distance: f32) -> f64 {
        if self.changed || distance.to_bits() != self.last_value.to_bits() {
            let depth = expected_depth(&self.sample, distance);
            self.last_score = (-depth / average_depth(self.sample.len().max(2))).exp2().clamp(0.0, 1.0) as f32;
            self.last_value = distance;
            self.changed = false;
        }
        f64::from(self.last_score)
    }

    fn deviates(&self, settings: &Settings, value: f64) -> bool {
        let median = self.sample.get(self.sample.len() / 2).map_or(0.0, |middle| f64::from(*middle)) + self.origin;
        (value - median).abs() >= settings.min_relative_deviation * median.abs()
    }

    fn learn(&mut self, settings: &Settings, distance: f32, isolated: bool, rng: &mut SplitMix) {
        self.run = if isolated { self.run.saturating_add(1) } else { 0 };
        let full = self.sample.len() >= settings.sample_size;
        let mut every = if full { u64::from(settings.replace_every.max(1)) } else { 1 };
        if self.run >= SHIFT_AFTER {
            every = 1;
        } else if isolated {
            every *= ANOMALY_DILUTION;
        }
        if every > 1 && rng.below(every) != 0 {
            return;
        }
        let position = self.sample.partition_point(|kept| *kept < distance);
        if full {
            let evicted = rng.below(self.sample.len() as u64) as usize;
            if evicted < position {
                self.sample.copy_within(evicted + 1..position, evicted);
                self.sample[position - 1] = distance;
            } else {
                self.sample.copy_within(position..evicted, position + 1);
                self.sample[position] = distance;
            }
        } else {
            self.sample.reserve_exact(if self.sample.len() == self.sample.capacity() {
                self.sample.len().clamp(16, settings.sample_size)
            } else {
                0
            });
            self.sample.insert(position, distance);
        }
        self.changed = true;
    }
}

#[cfg(test)]
mod tests;
