//! What one feature of a series has shown: a few dozen weighted points that cover its range.
//!
//! The expected depth of a query depends on the gaps between points. Every value is added; when there are too many
//! points the one whose removal leaves the smallest gap goes, and its weight goes to its nearer neighbour. So wide
//! gaps stay as they were shown and dense stretches become a grid with weights, from which the closed form is nearly
//! that of all values (see [`Sample::depth`]). Weights fade, and a point that stands for less than
//! [`FORGOTTEN`] of a value goes: an outlier is forgotten after about as many points as the memory is long.
//!
//! Invariants: values are finite and ascend strictly; weights are positive; never longer than its capacity; no
//! randomness. Never: reads a clock.

use super::super::engine::{average_depth, gap_terms};

/// A point with less weight is forgotten: a value that was seen once fades to it in the length of the memory.
const FORGOTTEN: f32 = 0.367;
/// Points nearer to the query than this share of the middle range count as equal to it.
const TIE: f32 = 1e-3;
/// Capacity grows by so many points.
const GROW: usize = 16;

/// Weighted points in ascending order.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sample {
    pub(crate) values: Vec<f32>,
    pub(crate) weights: Vec<f32>,
    /// No removal of an inner point would leave a smaller gap than this.
    pub(crate) finest: f32,
    /// The weighted median, as of the latest [`Self::summarise`].
    pub(crate) middle: f32,
    /// Half the range between the 5th and the 95th percentile, as of then.
    pub(crate) spread: f32,
}

impl Sample {
    /// Where a value stands or would be put in.
    pub(crate) fn position(&self, value: f32) -> usize {
        self.values.partition_point(|kept| *kept < value)
    }

    /// The expected isolation depth of a query.
    pub(crate) fn depth(&self, query: f32) -> f32 {
        self.depth_at(self.position(query), query)
    }

    /// Points in the sample enter by the closed form of [`super::super::engine`]. The nearest point on a side stands
    /// for `w` values; spread over its gap `g` to the next one they add the integral of the closed form,
    /// `ln((d + g) / (d + g / w))` at a distance `d`. Values equal to the query add `c(w + 1)`.
    pub(crate) fn depth_at(&self, at: usize, query: f32) -> f32 {
        let values = self.values.as_slice();
        let Some(last) = values.len().checked_sub(1) else { return 0.0 };
        let edge = values.len() / 10;
        let tie = TIE * (values[last - edge] - values[edge]);
        let (mut left, mut right, mut equal) = (at, at, 0.0);
        while left > 0 && values[left - 1] >= query - tie {
            left -= 1;
            equal += self.weights[left];
        }
        while right <= last && values[right] <= query + tie {
            equal += self.weights[right];
            right += 1;
        }
        let mut depth = if equal > 0.0 { average_depth(equal.round().max(1.0) as usize + 1) as f32 } else { 0.0 };
        let mut density = 1.0;
        if left > 0 {
            depth += 1.0 + gap_terms(&values[..left], query, false);
            if left > 1 {
                let (near, next) = (values[left - 1], values[left - 2]);
                density *= spread_of(query - near, near - next, self.weights[left - 1]);
            }
        }
        if right <= last {
            depth += 1.0 + gap_terms(&values[right..], query, true);
            if right < last {
                let (near, next) = (values[right], values[right + 1]);
                density *= spread_of(near - query, next - near, self.weights[right]);
            }
        }
        if density > 1.0 { depth + density.ln() } else { depth }
    }

    /// Adds a value with weight 1.
    pub(crate) fn learn(&mut self, value: f32, capacity: usize) {
        self.learn_at(self.position(value), value, capacity);
    }

    /// The same where the position is known.
    pub(crate) fn learn_at(&mut self, at: usize, value: f32, capacity: usize) {
        if self.values.get(at) == Some(&value) {
            self.weights[at] += 1.0;
            return;
        }
        // One place is for the newcomer that pushes another out.
        let full = self.values.len() + 1 >= capacity;
        if full && at > 0 && at < self.values.len() && self.values[at] - self.values[at - 1] <= self.finest {
            let nearer = if value - self.values[at - 1] < self.values[at] - value { at - 1 } else { at };
            self.weights[nearer] += 1.0;
            return;
        }
        if self.values.len() == self.values.capacity() {
            let more = GROW.min(capacity.saturating_sub(self.values.len())).max(1);
            self.values.reserve_exact(more);
            self.weights.reserve_exact(more);
        }
        if full {
            self.replace(at, value);
        } else {
            self.values.insert(at, value);
            self.weights.insert(at, 1.0);
            self.finest = 0.0;
        }
    }

    /// Adds a value to a full sample and removes the point that tells least, which may be that value.
    fn replace(&mut self, at: usize, value: f32) {
        self.values.insert(at, value);
        self.weights.insert(at, 1.0);
        if self.values.len() < 3 {
            return;
        }
        let (least, finest) = least_gap(&self.values);
        self.finest = finest;
        let (value, weight) = (self.values.remove(least), self.weights.remove(least));
        // What was `least + 1` is at `least` now.
        let to_left = value - self.values[least - 1] < self.values[least] - value;
        self.weights[if to_left { least - 1 } else { least }] += weight;
    }

    /// Every weight becomes less by the factor; points that stand for nothing any more go.
    pub(crate) fn fade(&mut self, factor: f32) {
        let mut kept = 0;
        for index in 0..self.values.len() {
            let weight = self.weights[index] * factor;
            if weight >= FORGOTTEN {
                (self.values[kept], self.weights[kept]) = (self.values[index], weight);
                kept += 1;
            }
        }
        self.values.truncate(kept);
        self.weights.truncate(kept);
    }

    /// Computes median and spread.
    pub(crate) fn summarise(&mut self) {
        let total: f32 = self.weights.iter().sum();
        let mut quantiles = [0.0; 3];
        let (mut before, mut next) = (0.0, 0);
        for (value, weight) in self.values.iter().zip(&self.weights) {
            before += weight;
            while next < 3 && before >= total * [0.05, 0.5, 0.95][next] {
                quantiles[next] = *value;
                next += 1;
            }
        }
        self.middle = quantiles[1];
        self.spread = (quantiles[2] - quantiles[0]) / 2.0;
    }

    /// The lowest and the highest point.
    pub(crate) fn ends(&self) -> Option<(f32, f32)> {
        self.values.first().copied().zip(self.values.last().copied())
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        (self.values.capacity() + self.weights.capacity()) * size_of::<f32>()
    }
}

/// What `weight` values add that lie in a gap of this width at this distance, as a factor under the logarithm.
fn spread_of(distance: f32, gap: f32, weight: f32) -> f32 {
    if weight <= 1.0 { 1.0 } else { (distance + gap) / (distance + gap / weight) }
}

/// The inner point whose removal leaves the smallest gap, and that gap.
fn least_gap(values: &[f32]) -> (usize, f32) {
    const LANES: usize = 8;
    let (low, high) = (&values[..values.len() - 2], &values[2..]);
    let less = |gap: f32, least: f32| if gap < least { gap } else { least };
    let mut lanes = [f32::MAX; LANES];
    let (low_chunks, low_rest) = low.as_chunks::<LANES>();
    let (high_chunks, high_rest) = high.as_chunks::<LANES>();
    for (low, high) in low_chunks.iter().zip(high_chunks) {
        for lane in 0..LANES {
            lanes[lane] = less(high[lane] - low[lane], lanes[lane]);
        }
    }
    let rest = low_rest.iter().zip(high_rest).map(|(low, high)| high - low);
    let least = lanes.into_iter().chain(rest).fold(f32::MAX, |least, gap| less(gap, least));
    let at = low.iter().zip(high).position(|(low, high)| high - low <= least).unwrap_or(0);
    (at + 1, least)
}
