//! Layer 2: how odd a resource is as a whole.
//!
//! Between two ticks the most surprising value of each signal of a resource (rate, errors, duration, CPU, memory,
//! saturation) makes up a row, which the forest of all resources scores; the resource's score is the higher one of
//! that and the mean of its most anomalous series. Never: reads a clock, keeps a resource that says nothing.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::table::KeyHasher;
use super::trees::family::resource::{Gathered, Part, Signal};
use super::trees::family::{FamilyForest, FamilySettings};
use super::watch::Judged;
use crate::normalise::Output;
use crate::series::{LabelSet, Labels, Pair};

/// The name of the score series.
const SCORE: &str = "resource_anomaly_score";
/// Signals of the virtual series of one metric, in the order of the virtual series.
pub(super) type Signals = [Option<Signal>; 7];

/// Which signals the virtual series of a metric carry.
pub(super) fn signals(metric: &str, labels: &LabelSet) -> Signals {
    let is_error = labels.texts().any(|(name, value)| match name {
        "status_code" => value == "STATUS_CODE_ERROR",
        "failed" => value == "true",
        "http_response_status_code" => value.starts_with('5'),
        _ => false,
    });
    let of = |part| Signal::of(metric, part, is_error);
    let rate = match of(Part::Count) {
        Some(Signal::P50) | None => of(Part::Value),
        signal => signal,
    };
    [of(Part::Value), rate, of(Part::Middle), of(Part::Middle), of(Part::P95), of(Part::P99), Some(Signal::Errors)]
}

#[derive(Debug, Default)]
struct Resource {
    gathered: Gathered,
    labels: Option<Labels>,
    time: u64,
    quiet_ticks: u32,
}

/// The resources of a shard, and the forest that they share.
#[derive(Debug)]
pub(super) struct Resources {
    known: HashMap<u128, Resource, BuildHasherDefault<KeyHasher>>,
    forest: Option<FamilyForest>,
    limit: usize,
    threshold: f64,
}

impl Resources {
    /// Watches `limit` resources at most.
    pub(super) fn new(limit: usize, threshold: f64, seed: u64) -> Self {
        // The default settings are within their ranges; without a forest the series alone speak.
        let forest = FamilyForest::new(FamilySettings::default(), seed).ok();
        Self { known: HashMap::default(), forest, limit, threshold }
    }

    /// Adds a judged point of a resource; resources without labels have no identity to write.
    pub(super) fn add(&mut self, owner: u128, labels: &[Pair], time: u64, signals: Signals, judged: &Judged) {
        if labels.is_empty() || (self.known.len() >= self.limit && !self.known.contains_key(&owner)) {
            return;
        }
        let resource = self.known.entry(owner).or_default();
        if resource.labels.is_none() {
            let name = (Box::from("__name__"), Box::from(SCORE));
            resource.labels = Some(Labels::new(labels.iter().cloned().chain([name]).collect()));
        }
        resource.time = resource.time.max(time);
        // A score that no gate let through says less than an anomaly: ordinary series are many.
        let score = if judged.is_anomaly { judged.score } else { judged.score.min(self.threshold) };
        for (signal, surprise) in signals.iter().zip(judged.surprises).filter(|(_, surprise)| !surprise.is_nan()) {
            resource.gathered.add(score, *signal, surprise);
        }
    }

    /// Scores every resource that has said something, and lets the forest learn.
    pub(super) fn tick(&mut self, out: &mut Output) {
        /// Ticks without a word after which a resource is forgotten.
        const QUIET: u32 = 360;
        for resource in self.known.values_mut() {
            if resource.gathered.series() == 0 {
                resource.quiet_ticks += 1;
                continue;
            }
            resource.quiet_ticks = 0;
            let gathered = std::mem::take(&mut resource.gathered);
            let combination = self.forest.as_ref().map_or(0.0, |forest| forest.score(gathered.row()));
            let score = gathered.judge(combination).score;
            if let Some(forest) = &mut self.forest {
                forest.update(gathered.row(), score >= self.threshold);
            }
            if let Some(labels) = &resource.labels {
                out.push(labels, (resource.time / 1_000_000) as i64, score);
            }
        }
        self.known.retain(|_, resource| resource.quiet_ticks < QUIET);
        if let Some(forest) = &mut self.forest
            && let Some(rebuild) = forest.plan()
        {
            // An eighth of fifty trees: less than a millisecond.
            forest.accept(rebuild.run());
        }
    }
}
