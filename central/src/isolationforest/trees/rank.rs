//! Where a score stands among the scores of the rows that a forest was grown from.
//!
//! Never: ties two scores that differ. Invariant: the rank is in (0, 1), grows with the score and has no jumps.

/// Scores that are enough: a rank is off by less than one in so many.
pub(crate) const KEPT: usize = 16_384;

/// The distribution of scores.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ranks {
    /// Distinct scores, ascending, each with the share of scores below it (half of its own among them).
    steps: Box<[(f64, f64)]>,
}

impl Ranks {
    /// Of these scores, in (0, 1). Needs at least one.
    pub(crate) fn of(mut kept: Vec<f64>) -> Self {
        kept.sort_by(f64::total_cmp);
        let all = kept.len() as f64;
        let mut below = 0;
        let steps = kept.chunk_by(|a, b| a.total_cmp(b).is_eq()).map(|alike| {
            let share = (below as f64 + alike.len() as f64 / 2.0) / all;
            below += alike.len();
            (alike[0], share)
        });
        Self { steps: steps.collect() }
    }

    /// The rank of a score, linear between the scores that were kept and towards 0 and 1 beyond them.
    pub(crate) fn rank(&self, score: f64) -> f64 {
        let next = self.steps.partition_point(|(kept, _)| *kept < score);
        let (right, above) = self.steps.get(next).copied().unwrap_or((1.0, 1.0));
        let (left, below) = if next == 0 { (0.0, 0.0) } else { self.steps[next - 1] };
        if right <= left {
            return above;
        }
        below + (above - below) * ((score - left) / (right - left)).clamp(0.0, 1.0)
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.steps)
    }
}
