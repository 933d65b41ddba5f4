//! Histograms and summaries as virtual series: rate, mean, and quantiles of what came new.
//!
//! Quantiles are read from bucket counts that are gathered until there are enough of them, so that a quiet series has
//! few good quantiles instead of many bad ones. Never: keeps more than two sets of bucket counts.

use super::{Before, Change, Detector, Growth, Judged, Rules, Settings, Virtual, growth, keep_later, observe};

/// Observations from which quantiles are read.
const ENOUGH: u64 = 20;
/// Virtual series in the order of the detectors.
const PARTS: [Virtual; 5] = [Virtual::Rate, Virtual::Mean, Virtual::P50, Virtual::P95, Virtual::P99];
const QUANTILES: [f64; 3] = [0.5, 0.95, 0.99];
/// A mean differs from the usual one when it is so many half widths of its usual range away: four standard deviations.
const MEAN_NOISE: f64 = 2.4;
/// A quantile does when so many standard deviations of its rank do not reach the usual value.
const RANK_NOISE: f64 = 3.5;

/// The scoring state of a histogram or summary.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::isolationforest) struct Distribution {
    pub(in crate::isolationforest) before: Before,
    /// Upper bounds and counts of the latest point.
    pub(in crate::isolationforest) bounds: Vec<f64>,
    pub(in crate::isolationforest) counts: Vec<u64>,
    /// What came new since quantiles were read.
    pub(in crate::isolationforest) pending: Vec<u64>,
    /// In the order of [`PARTS`]; those of quantiles exist once they are needed.
    pub(in crate::isolationforest) detectors: Vec<Detector>,
}

impl Distribution {
    pub(super) fn new(settings: &Settings, seed: u64, now: Before) -> Self {
        let detectors = PARTS[..2].iter().map(|part| Detector::new(settings, part.shape(), seed)).collect();
        Self { before: now, bounds: Vec::new(), counts: Vec::new(), pending: Vec::new(), detectors }
    }

    pub(super) fn judge(
        &mut self,
        rules: &mut Rules<'_>,
        now: Before,
        buckets: &[(f64, u64)],
        changes: &mut Vec<Change>,
    ) -> Judged {
        let mut judged = Judged::WARMING;
        let grown = growth(&self.before, &now);
        let is_later = now.time > self.before.time;
        keep_later(&mut self.before, now);
        if is_later {
            self.gather(buckets, grown.is_some());
        }
        let Some(grown) = grown else { return judged };
        self.rate_and_mean(rules, (now.time, grown), &mut judged, changes);
        if is_later && self.pending.iter().sum::<u64>() >= ENOUGH {
            self.quantiles(rules, now.time, &mut judged, changes);
        }
        judged
    }

    /// Judges a point of a summary. Its quantiles are those of a time of its producer's choice: they are judged as they
    /// are, when anything was observed since the point before, and how far they scatter is not known.
    pub(super) fn judge_summary(
        &mut self,
        rules: &mut Rules<'_>,
        now: Before,
        quantiles: [f64; 3],
        changes: &mut Vec<Change>,
    ) -> Judged {
        let mut judged = Judged::WARMING;
        let grown = growth(&self.before, &now);
        keep_later(&mut self.before, now);
        let Some(grown) = grown else { return judged };
        self.rate_and_mean(rules, (now.time, grown), &mut judged, changes);
        if grown.count > 0.0 && quantiles.iter().any(|value| value.is_finite()) {
            self.make_quantiles(rules.settings);
            for (index, value) in quantiles.into_iter().enumerate().filter(|(_, value)| value.is_finite()) {
                let detector = &mut self.detectors[2 + index];
                observe(rules, PARTS[2 + index], detector, (now.time, value, 0.0), &mut judged, changes);
            }
        }
        judged
    }

    fn rate_and_mean(
        &mut self,
        rules: &mut Rules<'_>,
        (time, grown): (u64, Growth),
        judged: &mut Judged,
        changes: &mut Vec<Change>,
    ) {
        let usual_rate = self.detectors[0].median();
        let noise = grown.noise(usual_rate);
        observe(rules, PARTS[0], &mut self.detectors[0], (time, grown.rate, noise), judged, changes);
        if let Some(mean) = grown.mean {
            // A mean of fewer values than usual scatters more.
            let fewer = (usual_rate * grown.seconds / grown.count).max(1.0).sqrt();
            let noise = MEAN_NOISE * fewer * self.detectors[1].scatter();
            observe(rules, PARTS[1], &mut self.detectors[1], (time, mean, noise), judged, changes);
        }
    }

    /// Adds what came new in each bucket; other bounds or a reset start again.
    fn gather(&mut self, buckets: &[(f64, u64)], goes_on: bool) {
        let same = self.bounds.len() == buckets.len()
            && self.bounds.iter().zip(buckets).all(|(bound, (upper, _))| bound.to_bits() == upper.to_bits());
        if same && goes_on {
            for ((pending, before), (_, count)) in self.pending.iter_mut().zip(&self.counts).zip(buckets) {
                *pending = pending.saturating_add(count.saturating_sub(*before));
            }
        } else {
            self.pending.clear();
            self.pending.resize(buckets.len(), 0);
            self.bounds.clear();
            self.bounds.extend(buckets.iter().map(|(upper, _)| *upper));
        }
        self.counts.clear();
        self.counts.extend(buckets.iter().map(|(_, count)| *count));
    }

    /// Makes the detectors of the quantiles, once they are needed.
    fn make_quantiles(&mut self, settings: &Settings) {
        let seed = u64::from(self.detectors[0].seen());
        while self.detectors.len() < PARTS.len() {
            let shape = PARTS[self.detectors.len()].shape();
            self.detectors.push(Detector::new(settings, shape, seed));
        }
    }

    fn quantiles(&mut self, rules: &mut Rules<'_>, time: u64, judged: &mut Judged, changes: &mut Vec<Change>) {
        self.make_quantiles(rules.settings);
        for (index, quantile) in QUANTILES.into_iter().enumerate() {
            if let Some(value) = quantile_of(&self.bounds, &self.pending, quantile) {
                let noise = self.rank_noise(quantile, value, self.detectors[2 + index].median());
                let detector = &mut self.detectors[2 + index];
                observe(rules, PARTS[2 + index], detector, (time, value, noise), judged, changes);
            }
        }
        self.pending.fill(0);
    }

    /// How far a quantile of so few observations may be from its true value, on the side of the usual one: their rank
    /// scatters as a binomial does, with the skew that rare events add to it.
    fn rank_noise(&self, quantile: f64, value: f64, usual: f64) -> f64 {
        let total = self.pending.iter().sum::<u64>().max(1) as f64;
        let skew = (RANK_NOISE * RANK_NOISE - 1.0) / 6.0;
        let ranks = (RANK_NOISE * (quantile * (1.0 - quantile) * total).sqrt() + skew) / total;
        let rank = if value > usual { quantile - ranks } else { quantile + ranks };
        if !(0.0..1.0).contains(&rank) {
            return f64::INFINITY;
        }
        quantile_of(&self.bounds, &self.pending, rank).map_or(f64::INFINITY, |bound| (value - bound).abs())
    }

    pub(super) fn interrupt(&mut self, end: &mut impl FnMut(Virtual, &mut Detector)) {
        self.before.count = f64::INFINITY;
        self.pending.fill(0);
        for (which, detector) in PARTS.into_iter().zip(&mut self.detectors) {
            end(which, detector);
        }
    }

    /// The detector of the rate.
    pub(super) fn first(&self) -> &Detector {
        &self.detectors[0]
    }

    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>()
            + (self.bounds.capacity() + self.counts.capacity() + self.pending.capacity()) * size_of::<u64>()
            + self.detectors.capacity() * size_of::<Detector>()
            + self.detectors.iter().map(Detector::heap_bytes).sum::<usize>()
    }
}

/// Linear inside a bucket; what lies above the last finite bound counts as that bound.
fn quantile_of(bounds: &[f64], counts: &[u64], quantile: f64) -> Option<f64> {
    let total: u64 = counts.iter().sum();
    let rank = quantile * total as f64;
    let (mut below, mut lower) = (0.0, None);
    for (bound, count) in bounds.iter().zip(counts) {
        let count = *count as f64;
        if below + count >= rank && count > 0.0 {
            if bound.is_infinite() {
                return lower;
            }
            let from = lower.unwrap_or(if *bound > 0.0 { 0.0 } else { *bound });
            return Some(from + (bound - from) * ((rank - below) / count).clamp(0.0, 1.0));
        }
        below += count;
        lower = Some(*bound);
    }
    lower.filter(|bound| bound.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_linear_in_their_bucket_and_end_at_the_last_bound() {
        let bounds = [1.0, 2.0, 4.0, f64::INFINITY];
        assert_eq!(quantile_of(&bounds, &[10, 10, 0, 0], 0.5), Some(1.0));
        assert_eq!(quantile_of(&bounds, &[10, 10, 0, 0], 0.75), Some(1.5));
        assert_eq!(quantile_of(&bounds, &[0, 0, 0, 5], 0.5), Some(4.0));
        assert_eq!(quantile_of(&bounds, &[0, 0, 0, 0], 0.5), None);
    }

    #[test]
    fn one_slow_call_of_few_says_nothing_of_a_high_quantile_and_many_do() {
        let before = Before { time: 0, start: 0, count: 0.0, sum: None };
        let mut few = Distribution::new(&Settings::default(), 0, before);
        (few.bounds, few.pending) = (vec![10.0, 50.0], vec![26, 1]);
        assert!(few.rank_noise(0.99, 39.0, 9.9) > 29.1, "39 may as well be 9.9");
        few.pending = vec![20, 7];
        assert!(few.rank_noise(0.99, 49.0, 9.9) < 39.1, "seven of 27 are no chance");
        assert!(few.rank_noise(0.99, 2.0, 9.9).is_infinite(), "27 calls have no lowest p99");
    }
}
