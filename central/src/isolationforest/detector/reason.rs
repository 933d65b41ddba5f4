//! Why a point stood out: the feature, the side, the range that was expected.
//!
//! The range is the inverse of the closed form at the threshold, found by bisection. Computed for anomalies only.

use super::settings::Settings;
use super::{Detector, Expected, FEATURES, Feature, Reason, Side};

/// Doublings and halvings of a search.
const STEPS: u32 = 24;

impl Detector {
    /// The reason for an anomaly whose most isolated feature is `top`.
    pub(crate) fn explain(&self, settings: &Settings, top: usize, value: f64) -> Reason {
        let sample = &self.samples[top];
        let feature = self.features[top];
        let side = match sample.ends() {
            Some((_, high)) if feature > high => Side::High,
            Some((low, _)) if feature < low => Side::Low,
            _ => Side::Gap,
        };
        // What isolates is how much shorter than an ordinary path the feature's own is.
        let isolation = |score: f32| (score - 0.5).max(0.0);
        let all: f32 = self.scores.iter().map(|score| isolation(*score)).sum();
        let contribution = if all > 0.0 { isolation(self.scores[top]) / all } else { 1.0 / FEATURES as f32 };
        let base = self.base(top);
        let at = self.outward(feature, base);
        let mut expected = self.range(settings, top);
        // The value itself was never expected; in a gap, what was is the stretch that holds the median.
        let edge = if side == Side::Gap { self.outward(self.inner_edge(settings, top), base) } else { at };
        if feature >= sample.middle {
            expected.high = expected.high.min(edge);
        } else {
            expected.low = expected.low.max(edge);
        }
        Reason {
            feature: [Feature::Value, Feature::ShortMean, Feature::TimeOfDay, Feature::LongMean][top],
            side,
            value: if matches!(top, 1 | 3) { at } else { value },
            expected: expected.without_dust(),
            contribution: f64::from(contribution),
        }
    }

    /// The reason for an anomaly against the family.
    pub(crate) fn explain_family(&self, standard: f64, value: f64) -> Reason {
        let sample = &self.samples[0];
        let at = |spreads: f32| self.outward(sample.middle + spreads * sample.spread, 0.0);
        let most = standard.abs().min(3.0) as f32;
        let expected = Expected { low: at(-most), high: at(most), middle: at(0.0) }.without_dust();
        let side = if standard >= 0.0 { Side::High } else { Side::Low };
        Reason { feature: Feature::Family, side, value, expected, contribution: 1.0 }
    }

    /// Where a feature, and with it the value, would not reach the threshold.
    pub(crate) fn range(&self, settings: &Settings, top: usize) -> Expected {
        let (sample, base) = (&self.samples[top], self.base(top));
        let Some((low, high)) = sample.ends() else {
            let middle = self.outward(0.0, base);
            return Expected { low: middle, high: middle, middle };
        };
        Expected {
            low: self.bounded(self.outward(self.edge(settings, top, low, high - low, -1.0), base)),
            high: self.outward(self.edge(settings, top, high, high - low, 1.0), base),
            middle: self.outward(sample.middle, base),
        }
    }

    /// Between the median and an isolated feature: where scores begin to reach the threshold.
    fn inner_edge(&self, settings: &Settings, top: usize) -> f32 {
        let threshold = self.threshold(settings) as f32;
        let (mut inside, mut outside) = (self.samples[top].middle, self.features[top]);
        for _ in 0..STEPS {
            let between = f32::midpoint(inside, outside);
            if self.isolation(top, between) >= threshold { outside = between } else { inside = between }
        }
        outside
    }

    /// The value beyond an end of a sample of this width at which the feature's score reaches the threshold.
    fn edge(&self, settings: &Settings, top: usize, end: f32, width: f32, sign: f32) -> f32 {
        let threshold = self.threshold(settings) as f32;
        let reaches = |reach: f32| self.isolation(top, end + sign * reach) >= threshold;
        if width <= 0.0 || reaches(0.0) {
            return end;
        }
        let mut reach = width / 1024.0;
        for _ in 0..STEPS {
            if reaches(reach) {
                break;
            }
            reach *= 2.0;
        }
        let (mut inside, mut outside) = (reach / 2.0, reach);
        for _ in 0..STEPS / 2 {
            let between = f32::midpoint(inside, outside);
            if reaches(between) { outside = between } else { inside = between }
        }
        end + sign * outside
    }

    /// The lower bound of a series that was never negative is not either.
    fn bounded(&self, low: f64) -> f64 {
        let lowest = self.samples[0].ends().map_or(0.0, |(low, _)| low);
        if self.outward(lowest, 0.0) >= 0.0 { low.max(0.0) } else { low }
    }
}
