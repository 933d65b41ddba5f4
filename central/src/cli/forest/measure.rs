//! How well scores tell anomalies from the rest.
//!
//! Never: prefers one order of equal scores to another. Invariant: both figures stay the same under any growing
//! function of the scores.

/// The two usual figures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Measured {
    /// The chance that an anomaly scores higher than another row; a tie is half a chance.
    pub(super) auc: f64,
    /// The precision at each recall, averaged over the anomalies, as scikit-learn has it.
    pub(super) average_precision: f64,
}

/// `None` when there are no anomalies or nothing else.
pub(super) fn measure(scores: &[f64], labels: &[bool]) -> Option<Measured> {
    let mut ranked: Vec<(f64, bool)> = scores.iter().copied().zip(labels.iter().copied()).collect();
    ranked.sort_by(|one, other| other.0.total_cmp(&one.0));
    let anomalies = ranked.iter().filter(|(_, is_anomaly)| *is_anomaly).count() as f64;
    let others = ranked.len() as f64 - anomalies;
    if anomalies == 0.0 || others == 0.0 {
        return None;
    }
    let (mut found, mut wrong, mut pairs, mut precision) = (0.0, 0.0, 0.0, 0.0);
    for alike in ranked.chunk_by(|one, other| one.0.total_cmp(&other.0).is_eq()) {
        let hits = alike.iter().filter(|(_, is_anomaly)| *is_anomaly).count() as f64;
        let misses = alike.len() as f64 - hits;
        pairs += misses * (found + hits / 2.0);
        found += hits;
        wrong += misses;
        precision += hits * found / (found + wrong);
    }
    Some(Measured { auc: pairs / (anomalies * others), average_precision: precision / anomalies })
}
