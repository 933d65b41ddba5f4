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

use super::super::engine::average_depth;
use super::elementary::ln;

/// A point with less weight is forgotten: a value that was seen once fades to it in the length of the memory.
const FORGOTTEN: f32 = 0.367;
/// Points nearer to the query than this share of the middle range count as equal to it.
const TIE: f32 = 1e-3;
/// Points that are looked at together, so that the compiler can keep them in vector registers.
const LANES: usize = 8;
/// Room grows by so many points: a whole number of [`LANES`].
const GROW: usize = 16;
/// Gaps whose terms are computed together.
const BLOCK: usize = 64;

/// Weighted points in ascending order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    /// Weights, then values, room for as many of either and for one value more. One block, so that a point costs few
    /// cache lines; places after the last value repeat it, so that no loop has a remainder.
    points: Box<[f32]>,
    /// Points held.
    held: u16,
    /// No removal of an inner point would leave a smaller gap than this.
    pub(crate) finest: f32,
    /// The weighted median, as of the latest [`Self::summarise`].
    pub(crate) middle: f32,
    /// Half the range between the 5th and the 95th percentile, as of then.
    pub(crate) spread: f32,
}

impl PartialEq for Sample {
    fn eq(&self, other: &Self) -> bool {
        let numbers = |sample: &Self| [sample.finest, sample.middle, sample.spread];
        self.values() == other.values() && self.weights() == other.weights() && numbers(self) == numbers(other)
    }
}

impl Sample {
    /// A sample of these points, which ascend.
    pub(crate) fn of(values: &[f32], weights: &[f32], [finest, middle, spread]: [f32; 3]) -> Self {
        let held = values.len().min(weights.len()).min(usize::from(u16::MAX));
        let mut sample = Self { points: Box::default(), held: held as u16, finest, middle, spread };
        if held > 0 {
            let room = held.next_multiple_of(GROW);
            sample.points = vec![0.0; 2 * room + 1].into_boxed_slice();
            sample.points[..held].copy_from_slice(&weights[..held]);
            sample.points[room..][..held].copy_from_slice(&values[..held]);
            sample.pad();
        }
        sample
    }

    /// The points.
    pub(crate) fn values(&self) -> &[f32] {
        &self.points[self.room()..][..usize::from(self.held)]
    }

    /// How many values each point stands for.
    pub(crate) fn weights(&self) -> &[f32] {
        &self.points[..usize::from(self.held)]
    }

    /// Points that there is room for.
    fn room(&self) -> usize {
        self.points.len() / 2
    }

    fn halves(&mut self) -> (&mut [f32], &mut [f32]) {
        let (weights, values) = self.points.split_at_mut(self.points.len() / 2);
        (values, weights)
    }

    /// Repeats the last value in all places after it.
    fn pad(&mut self) {
        let held = usize::from(self.held);
        let (values, _) = self.halves();
        if let Some(last) = held.checked_sub(1).map(|last| values[last]) {
            values[held..].fill(last);
        }
    }

    /// Where a value stands or would be put in.
    pub(crate) fn position(&self, value: f32) -> usize {
        // Counting them all takes no branch and no load that waits for another one.
        let below: u32 = self.points[self.room()..].iter().map(|kept| u32::from(*kept < value)).sum();
        (below as usize).min(usize::from(self.held))
    }

    /// The expected isolation depth of a query.
    pub(crate) fn depth(&self, query: f32) -> f32 {
        let Parts { depth, spread, narrow } = self.depth_at(self.position(query), query);
        depth + ln(spread[0] / narrow[0] * (spread[1] / narrow[1]))
    }

    /// The expected isolation depth of a query, in parts.
    ///
    /// Points in the sample enter by the closed form of [`super::super::engine`]. The nearest point on a side stands
    /// for `w` values; spread over its gap `g` to the next one they add the integral of the closed form,
    /// `ln((d + g) / (d + g / w))` at a distance `d`. Values equal to the query add `c(w + 1)`.
    pub(crate) fn depth_at(&self, at: usize, query: f32) -> Parts {
        let mut parts = Parts { depth: 0.0, spread: [1.0; 2], narrow: [1.0; 2] };
        let (values, weights) = (self.values(), self.weights());
        let Some(last) = values.len().checked_sub(1) else { return parts };
        let edge = values.len() / 10;
        let tie = TIE * (values[last - edge] - values[edge]);
        let (mut left, mut right, mut equal) = (at, at, 0.0);
        while left > 0 && values[left - 1] >= query - tie {
            left -= 1;
            equal += weights[left];
        }
        while right <= last && values[right] <= query + tie {
            equal += weights[right];
            right += 1;
        }
        let mut depth = if equal > 0.0 { average_depth((equal + 0.5).max(1.0) as usize + 1) as f32 } else { 0.0 };
        depth += self.gap_terms(query);
        // The gap around the query, and those between points that count as equal to it, are no terms.
        for pair in values[left.saturating_sub(1)..(right + 1).min(values.len())].windows(2) {
            depth -= gap_term(pair[0], pair[1], query);
        }
        if left > 0 {
            depth += 1.0;
            if left > 1 {
                let (near, next) = (values[left - 1], values[left - 2]);
                (parts.spread[0], parts.narrow[0]) = spread_of(query - near, near - next, weights[left - 1]);
            }
        }
        if right <= last {
            depth += 1.0;
            if right < last {
                let (near, next) = (values[right], values[right + 1]);
                (parts.spread[1], parts.narrow[1]) = spread_of(near - query, next - near, weights[right]);
            }
        }
        parts.depth = depth;
        parts
    }

    /// [`gap_term`] of all gaps between neighbours, added up.
    fn gap_terms(&self, query: f32) -> f32 {
        let values = &self.points[self.room()..];
        let (low, high) = (&values[..values.len() - 1], &values[1..]);
        let mut sum = 0.0;
        for (low, high) in low.chunks(BLOCK).zip(high.chunks(BLOCK)) {
            // Each term in its place first: so the compiler computes four at a time.
            let mut terms = [0.0_f32; BLOCK];
            for ((term, low), high) in terms.iter_mut().zip(low).zip(high) {
                *term = gap_term(*low, *high, query);
            }
            sum += total(&terms[..low.len()]);
        }
        sum
    }

    /// Adds a value with weight 1.
    pub(crate) fn learn(&mut self, value: f32, capacity: usize) {
        self.learn_at(self.position(value), value, capacity);
    }

    /// The same where the position is known.
    pub(crate) fn learn_at(&mut self, at: usize, value: f32, capacity: usize) {
        let held = usize::from(self.held);
        let finest = self.finest;
        // One place is for the newcomer that pushes another out.
        let full = held + 1 >= capacity;
        let (values, weights) = self.halves();
        let (values, weights) = (&values[..held], &mut weights[..held]);
        if values.get(at) == Some(&value) {
            weights[at] += 1.0;
            return;
        }
        if full && at > 0 && at < held && values[at] - values[at - 1] <= finest {
            let nearer = if value - values[at - 1] < values[at] - value { at - 1 } else { at };
            weights[nearer] += 1.0;
            return;
        }
        if held == self.room() {
            self.grow();
        }
        let (values, weights) = self.halves();
        values.copy_within(at..held, at + 1);
        values[at] = value;
        if full && held >= 2 {
            self.replace(at);
        } else {
            weights.copy_within(at..held, at + 1);
            weights[at] = 1.0;
            self.held += 1;
            self.finest = if full { finest } else { 0.0 };
        }
        if at + 1 >= usize::from(self.held) {
            self.pad();
        }
    }

    /// Makes room for more points.
    fn grow(&mut self) {
        let had = self.room();
        let mut grown = vec![0.0; 2 * (had + GROW) + 1].into_boxed_slice();
        grown[..had].copy_from_slice(&self.points[..had]);
        grown[had + GROW..][..had].copy_from_slice(&self.points[had..][..had]);
        self.points = grown;
        self.pad();
    }

    /// Removes the point that tells least from a full sample into whose values one has been put at a position; that
    /// may be the point which is removed.
    fn replace(&mut self, at: usize) {
        let held = usize::from(self.held);
        let (values, weights) = self.halves();
        let (least, finest) = least_gap(&values[..=held]);
        let value = values[least];
        let to_left = value - values[least - 1] < values[least + 1] - value;
        values.copy_within(least + 1..=held, least);
        // Positions before the removal; the weights have not made room for the newcomer yet.
        let before = |position: usize| if position > at { position - 1 } else { position };
        let weight = if least == at { 1.0 } else { weights[before(least)] };
        if least > at {
            weights.copy_within(at..least - 1, at + 1);
            weights[at] = 1.0;
        } else if least < at {
            weights.copy_within(least + 1..at, least);
            weights[at - 1] = 1.0;
        }
        weights[if to_left { least - 1 } else { least }] += weight;
        self.finest = finest;
    }

    /// Every weight becomes less by the factor; points that stand for nothing any more go.
    pub(crate) fn fade(&mut self, factor: f32) {
        let held = usize::from(self.held);
        let (values, weights) = self.halves();
        let mut kept = 0;
        for index in 0..held {
            let weight = weights[index] * factor;
            if weight >= FORGOTTEN {
                (values[kept], weights[kept]) = (values[index], weight);
                kept += 1;
            }
        }
        self.held = kept as u16;
        self.pad();
    }

    /// Computes median and spread.
    pub(crate) fn summarise(&mut self) {
        let total: f32 = self.weights().iter().sum();
        let mut quantiles = [0.0; 3];
        let (mut before, mut next) = (0.0, 0);
        for (value, weight) in self.values().iter().zip(self.weights()) {
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
        self.values().first().copied().zip(self.values().last().copied())
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.points.len() * size_of::<f32>()
    }
}

/// The depth of a query: `depth + ln(spread[0] / narrow[0]) + ln(spread[1] / narrow[1])`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts {
    pub(crate) depth: f32,
    /// Numerators of what dense points add on either side.
    pub(crate) spread: [f32; 2],
    /// Denominators.
    pub(crate) narrow: [f32; 2],
}

/// What `weight` values add that lie in a gap of this width at this distance, as a fraction under the logarithm:
/// `(distance + gap) / (distance + gap / weight)`.
fn spread_of(distance: f32, gap: f32, weight: f32) -> (f32, f32) {
    if weight <= 1.0 { (1.0, 1.0) } else { (weight * (distance + gap), weight * distance + gap) }
}

/// A gap divided by the distance of its farther end; 0 for the gap between a point and itself.
fn gap_term(low: f32, high: f32, query: f32) -> f32 {
    (high - low) / larger(larger(query - low, high - query), f32::MIN_POSITIVE)
}

/// Unlike `f32::max` one instruction: there is no NaN here.
fn larger(one: f32, other: f32) -> f32 {
    if one > other { one } else { other }
}

/// A sum in parts that do not wait for each other.
pub(crate) fn total(terms: &[f32]) -> f32 {
    let (eights, rest) = terms.as_chunks::<LANES>();
    let mut sums = [0.0_f32; LANES];
    for eight in eights {
        for lane in 0..LANES {
            sums[lane] += eight[lane];
        }
    }
    for (sum, term) in sums.iter_mut().zip(rest) {
        *sum += term;
    }
    let four: [f32; 4] = std::array::from_fn(|lane| sums[lane] + sums[lane + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}

/// The inner point whose removal leaves the smallest gap, the first of equal ones, and that gap.
fn least_gap(values: &[f32]) -> (usize, f32) {
    let (low, high) = (&values[..values.len() - 2], &values[2..]);
    let (low_chunks, low_rest) = low.as_chunks::<LANES>();
    let (high_chunks, high_rest) = high.as_chunks::<LANES>();
    let (mut least, mut at) = ([f32::MAX; LANES], [0_u32; LANES]);
    for (chunk, (low, high)) in (0_u32..).zip(low_chunks.iter().zip(high_chunks)) {
        for lane in 0..LANES {
            let gap = high[lane] - low[lane];
            let is_less = gap < least[lane];
            least[lane] = if is_less { gap } else { least[lane] };
            at[lane] = if is_less { chunk } else { at[lane] };
        }
    }
    let first_of_rest = low_chunks.len() * LANES;
    let rest = low_rest.iter().zip(high_rest).enumerate().map(|(lane, (low, high))| (first_of_rest + lane, high - low));
    let lanes = (0..LANES).map(|lane| (at[lane] as usize * LANES + lane, least[lane]));
    let (at, gap) = lanes.chain(rest).fold((usize::MAX, f32::MAX), |(best, gap), (other, other_gap)| {
        if other_gap < gap || other_gap <= gap && other < best { (other, other_gap) } else { (best, gap) }
    });
    (at + 1, gap)
}
