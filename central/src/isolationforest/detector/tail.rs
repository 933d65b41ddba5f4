//! How high the scores of a series usually get: a small t-digest of its own scores and an exponential tail.
//!
//! Scores are gathered and folded in at once, older ones lose weight, so that the quantiles follow the series.
//! The digest (Dunning, *Computing extremely accurate quantiles using t-digests*) bounds a cluster at quantile
//! `q` by `4 * weight * q * (1 - q) / CLUSTERS`. It is kept in single precision in place because it is one of
//! many: the general one takes a kilobyte and allocates at every fold. Beyond the ninth decile the tail is an
//! exponential, which is a generalised Pareto with shape 0 (Siffer et al., KDD 2017).
//!
//! Never: allocates, reads a clock.

use super::elementary::ln;

/// Clusters at most.
const CLUSTERS: usize = 24;
/// Scores that are gathered before they are folded in.
const BUFFER: usize = 32;
/// Where the exponential tail begins.
const TAIL: f32 = 0.9;
/// `log2(1 - TAIL)`.
const LOG2_TAIL: f32 = -std::f32::consts::LOG2_10;
/// The narrowest tail: scores of a constant series do not make every other score impossible.
const LEAST_EXCESS: f32 = 0.004;

/// Quantiles and tail of recent scores.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tail {
    pub(crate) means: [f32; CLUSTERS],
    pub(crate) weights: [f32; CLUSTERS],
    pub(crate) buffer: [f32; BUFFER],
    pub(crate) clusters: u8,
    pub(crate) buffered: u8,
    /// The median of the scores.
    pub(crate) middle: f32,
    /// The ninth decile.
    pub(crate) start: f32,
    /// Mean excess over it.
    pub(crate) excess: f32,
}

impl Tail {
    pub(crate) fn new() -> Self {
        Self {
            means: [0.0; CLUSTERS],
            weights: [0.0; CLUSTERS],
            buffer: [0.0; BUFFER],
            clusters: 0,
            buffered: 0,
            middle: 0.5,
            start: 0.62,
            excess: 0.02,
        }
    }

    /// Chance that a score of this series is at least this high; 1 for what is below the median.
    pub(crate) fn chance(&self, score: f32) -> f32 {
        if score >= self.start {
            return (1.0 - TAIL) * (-(score - self.start) / self.excess).exp();
        }
        let below = (self.start - score) / (self.start - self.middle).max(1e-6);
        ((1.0 - TAIL) + below * (TAIL - 0.5)).min(1.0)
    }

    /// `-log2` of [`Self::chance`].
    pub(crate) fn surprise(&self, score: f32) -> f32 {
        if score >= self.start {
            return -LOG2_TAIL + (score - self.start) / self.excess * std::f32::consts::LOG2_E;
        }
        -ln(self.chance(score)) * std::f32::consts::LOG2_E
    }

    /// The score that a share of the series' scores exceeds.
    pub(crate) fn quantile_above(&self, share: f64) -> f64 {
        let steps = (f64::from(1.0 - TAIL) / share.max(1e-12)).ln().max(0.0);
        f64::from(self.start) + f64::from(self.excess) * steps
    }

    /// Adds a score; `keep` is what older scores keep of their weight with each new one.
    pub(crate) fn add(&mut self, score: f32, keep: f32) {
        self.buffer[usize::from(self.buffered)] = score;
        self.buffered += 1;
        if usize::from(self.buffered) == BUFFER {
            self.fold(keep.powi(BUFFER as i32));
        }
    }

    fn fold(&mut self, keep: f32) {
        self.buffer.sort_unstable_by(f32::total_cmp);
        let (means, weights, had) = (self.means, self.weights, usize::from(self.clusters));
        let total: f32 = weights[..had].iter().sum::<f32>() * keep + BUFFER as f32;
        let (mut old, mut new) = (0, 0);
        let mut next = || {
            let take_old = old < had && (new == BUFFER || means[old] <= self.buffer[new]);
            if take_old {
                old += 1;
                Some((means[old - 1], weights[old - 1] * keep))
            } else {
                new += 1;
                self.buffer.get(new - 1).map(|score| (*score, 1.0))
            }
        };
        let Some((mut mean, mut weight)) = next() else { return };
        let (mut before, mut count) = (0.0, 0);
        while let Some((add_mean, add_weight)) = next() {
            let quantile = (before + f32::midpoint(weight, add_weight)) / total;
            let most = 4.0 * total * quantile * (1.0 - quantile) / CLUSTERS as f32;
            if weight + add_weight <= most.max(1.0) || count == CLUSTERS - 1 {
                weight += add_weight;
                mean += (add_mean - mean) * add_weight / weight;
            } else {
                (self.means[count], self.weights[count]) = (mean, weight);
                count += 1;
                before += weight;
                (mean, weight) = (add_mean, add_weight);
            }
        }
        (self.means[count], self.weights[count]) = (mean, weight);
        self.clusters = count as u8 + 1;
        self.buffered = 0;
        self.middle = self.quantile(0.5, total);
        self.start = self.quantile(TAIL, total).max(self.middle);
        self.excess = self.mean_excess().max(LEAST_EXCESS);
    }

    /// Linear between the middles of neighbouring clusters.
    fn quantile(&self, quantile: f32, total: f32) -> f32 {
        let rank = quantile * total;
        let (mut before, mut last) = (0.0, None);
        for (mean, weight) in self.clusters() {
            let at = before + weight / 2.0;
            if at >= rank {
                let Some((last_at, last_mean)) = last else { return mean };
                return last_mean + (mean - last_mean) * (rank - last_at) / (at - last_at);
            }
            before += weight;
            last = Some((at, mean));
        }
        last.map_or(0.5, |(_, mean)| mean)
    }

    fn mean_excess(&self) -> f32 {
        let (mut sum, mut over) = (0.0, 0.0);
        for (mean, weight) in self.clusters().filter(|(mean, _)| *mean > self.start) {
            sum += (mean - self.start) * weight;
            over += weight;
        }
        if over > 0.0 { sum / over } else { 0.0 }
    }

    /// Whether lengths and numbers can be those of a digest.
    pub(crate) fn is_sound(&self) -> bool {
        usize::from(self.clusters) <= CLUSTERS
            && usize::from(self.buffered) < BUFFER
            && self.excess > 0.0
            && [self.middle, self.start, self.excess].iter().all(|value| value.is_finite())
    }

    fn clusters(&self) -> impl Iterator<Item = (f32, f32)> {
        let count = usize::from(self.clusters);
        self.means[..count].iter().copied().zip(self.weights[..count].iter().copied())
    }
}
