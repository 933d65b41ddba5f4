//! How the features of a row become the numbers that trees compare.
//!
//! Distances from the feature's median, measured by its range, in single precision: a large offset costs no
//! precision, and forests of rescaled features are the same. Never: gives NaN.

use super::rows::Rows;

/// Scaled values are kept within this, so that differences of two and their squares stay finite.
const FARTHEST: f64 = 1e15;

/// One feature.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scale {
    median: f64,
    /// One over the range; 1 for a feature that does not vary.
    factor: f64,
}

impl Scale {
    /// Of feature number `feature` of all rows.
    fn of(rows: &Rows<'_>, feature: usize, values: &mut Vec<f64>) -> Self {
        values.clear();
        values.extend(rows.iter().map(|row| row[feature]).filter(|value| value.is_finite()));
        let middle = values.len() / 2;
        if values.is_empty() {
            return Self { median: 0.0, factor: 1.0 };
        }
        let (_, median, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
        let median = *median;
        let (least, most) =
            values.iter().fold((f64::MAX, f64::MIN), |(least, most), value| (least.min(*value), most.max(*value)));
        // Halves first: the range of finite values may be infinite.
        let range = (most / 2.0 - least / 2.0) * 2.0;
        let factor = if range > 0.0 && range.is_finite() { 1.0 / range } else { 1.0 };
        Self { median, factor: if factor.is_finite() { factor } else { 1.0 } }
    }

    /// Every feature of the rows.
    pub(crate) fn all(rows: &Rows<'_>) -> Box<[Self]> {
        let mut values = Vec::with_capacity(rows.len());
        (0..rows.width()).map(|feature| Self::of(rows, feature, &mut values)).collect()
    }

    /// A value of a row that is scored. Missing: the median, which is 0 here.
    pub(crate) fn apply(self, value: f64) -> f32 {
        if value.is_nan() {
            return 0.0;
        }
        ((value - self.median) * self.factor).clamp(-FARTHEST, FARTHEST) as f32
    }

    /// A value of a row that a tree grows from: infinities count as missing.
    pub(crate) fn learn(self, value: f64) -> f32 {
        if value.is_finite() { self.apply(value) } else { 0.0 }
    }
}
