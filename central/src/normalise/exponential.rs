//! Exponential histograms as classic cumulative buckets.
//!
//! The bounds are those of the exponential histogram itself, at a scale that is lowered to the configured one
//! and further while the populated range needs more than [`MAX_BUCKETS`] buckets. Bounds of a lower scale are
//! a subset of those of a higher one, so the `le` series that remain continue without a break. The range of a
//! series only grows, so that a bucket that fell empty does not come and go.
//!
//! Bounds are computed from IEEE square roots alone: the same index gives the same text on every machine.
//! Never: keeps per-point memory.

use std::collections::BTreeMap;

/// Buckets of one sign.
pub const MAX_BUCKETS: usize = 80;

/// Buckets of one sign at one scale: index to count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Side {
    counts: BTreeMap<i32, u64>,
}

/// Counts of one exponential histogram, at the scale of its series.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Buckets per doubling are `2^scale`.
    pub scale: i32,
    /// Values around zero.
    pub zero: u64,
    positive: Side,
    negative: Side,
}

impl Counts {
    /// Nothing, at a scale.
    pub fn new(scale: i32) -> Self {
        Self { scale, ..Self::default() }
    }

    /// Adds one bucket of the given scale, not lower than that of `self`.
    pub fn add(&mut self, negative: bool, scale: i32, index: i32, count: u64) {
        let side = if negative { &mut self.negative } else { &mut self.positive };
        // A shift by 31 already brings every index to 0 or -1.
        let shift = scale.saturating_sub(self.scale).clamp(0, 31);
        *side.counts.entry(index >> shift).or_default() += count;
    }

    /// Adds another histogram; the lower of both scales wins.
    pub fn merge(&mut self, other: &Self) {
        self.lower_to(other.scale);
        self.zero += other.zero;
        for (negative, side) in [(false, &other.positive), (true, &other.negative)] {
            for (index, count) in &side.counts {
                self.add(negative, other.scale, *index, *count);
            }
        }
    }

    /// Forgets the counts and keeps scale and range: a bucket once seen stays.
    #[must_use]
    pub fn zeroed(&self) -> Self {
        let zeroed = |side: &Side| Side { counts: side.counts.keys().map(|index| (*index, 0)).collect() };
        Self { scale: self.scale, zero: 0, positive: zeroed(&self.positive), negative: zeroed(&self.negative) }
    }

    /// Lowers the scale.
    pub fn lower_to(&mut self, scale: i32) {
        if scale >= self.scale {
            return;
        }
        let shift = (self.scale - scale).min(31);
        for side in [&mut self.positive, &mut self.negative] {
            let mut lowered = BTreeMap::new();
            for (index, count) in &side.counts {
                *lowered.entry(index >> shift).or_default() += count;
            }
            side.counts = lowered;
        }
        self.scale = scale;
    }

    /// Lowers the scale until both sides fit.
    pub fn fit(&mut self) {
        let fits = |side: &Side, shift: i32| {
            side.ends()
                .is_none_or(|(first, last)| i64::from(last >> shift) - i64::from(first >> shift) < MAX_BUCKETS as i64)
        };
        let shift = (0..31).find(|shift| fits(&self.positive, *shift) && fits(&self.negative, *shift)).unwrap_or(31);
        self.lower_to(self.scale.saturating_sub(shift));
    }

    /// (upper bound, count in the bucket), ascending and gapless between the outermost buckets.
    pub fn buckets(&self, zero_threshold: f64) -> Vec<(f64, u64)> {
        let mut buckets = Vec::new();
        for index in self.negative.range().rev() {
            // (-base^(index+1), -base^index]
            // Adding zero turns the -0 of an underflow into 0.
            buckets.push((0.0 - bound(self.scale, index), self.negative.count(index)));
        }
        buckets.push((zero_threshold, self.zero));
        for index in self.positive.range() {
            buckets.push((bound(self.scale, index.saturating_add(1)), self.positive.count(index)));
        }
        // A wide zero bucket may reach over the innermost bounds.
        buckets.sort_by(|left, right| left.0.total_cmp(&right.0));
        buckets.dedup_by(|later, first| {
            let same = later.0.to_bits() == first.0.to_bits();
            if same {
                first.1 += later.1;
            }
            same
        });
        buckets.retain(|(upper, _)| upper.is_finite());
        buckets
    }
}

impl Side {
    /// The outermost indexes.
    fn ends(&self) -> Option<(i32, i32)> {
        Some((*self.counts.first_key_value()?.0, *self.counts.last_key_value()?.0))
    }

    /// All indexes between the outermost buckets.
    fn range(&self) -> impl DoubleEndedIterator<Item = i32> {
        self.ends().into_iter().flat_map(|(first, last)| first..=last)
    }

    fn count(&self, index: i32) -> u64 {
        self.counts.get(&index).copied().unwrap_or_default()
    }
}

/// `2^(index * 2^-scale)`.
pub fn bound(scale: i32, index: i32) -> f64 {
    if scale <= 0 {
        let exponent = i64::from(index) << scale.unsigned_abs().min(31);
        return 2.0_f64.powi(exponent.clamp(-1100, 1100) as i32);
    }
    let scale = scale.min(20);
    let whole = index >> scale;
    let mut value = 2.0_f64.powi(whole.clamp(-1100, 1100));
    let mut root = 2.0_f64;
    for bit in (0..scale).rev() {
        root = root.sqrt();
        if index >> bit & 1 == 1 {
            value *= root;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bounds_are_powers_of_the_base() {
        for (scale, index, expected) in [
            (0, 0, 1.0),
            (0, 3, 8.0),
            (0, -2, 0.25),
            (-1, 1, 4.0),
            (1, 1, 2.0_f64.sqrt()),
            (1, 2, 2.0),
            (3, 8, 2.0),
            (2, -4, 0.5),
        ] {
            assert!((bound(scale, index) - expected).abs() < 1e-15, "{scale} {index}: {}", bound(scale, index));
        }
        assert!(bound(-11, 1).is_infinite());
        for index in -40..40 {
            let exact = (f64::from(index) / 8.0).exp2();
            assert!((bound(3, index) / exact - 1.0).abs() < 1e-14);
            assert_eq!(bound(3, index * 2).to_bits(), bound(2, index).to_bits(), "lower scales are subsets");
        }
    }

    #[test]
    fn negative_zero_and_positive_buckets_ascend() {
        let mut counts = Counts::new(0);
        counts.add(true, 0, 1, 3);
        counts.add(true, 0, 0, 2);
        counts.zero = 5;
        counts.add(false, 0, 0, 1);
        counts.add(false, 0, 2, 4);
        assert_eq!(counts.buckets(0.0), [(-2.0, 3), (-1.0, 2), (0.0, 5), (2.0, 1), (4.0, 0), (8.0, 4)]);
    }

    proptest! {
        #[test]
        fn no_count_is_lost_by_lowering_the_scale(
            rows in prop::collection::vec((prop::bool::ANY, -2000_i32..2000, 0_u64..100), 0..100), scale in -3_i32..8,
        ) {
            let mut counts = Counts::new(scale);
            for (negative, index, count) in &rows {
                counts.add(*negative, scale, *index, *count);
            }
            let all: u64 = rows.iter().map(|(.., count)| count).sum();
            counts.fit();
            let held: u64 = counts.positive.counts.values().chain(counts.negative.counts.values()).sum();
            prop_assert_eq!(held, all);
            prop_assert!(counts.positive.range().count() <= MAX_BUCKETS && counts.negative.range().count() <= MAX_BUCKETS);
            prop_assert!(counts.buckets(0.0).is_sorted_by(|left, right| left.0 < right.0));
        }
    }
}
