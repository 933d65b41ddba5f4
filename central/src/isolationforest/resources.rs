//! Layer 2: how odd a resource is as a whole.
//!
//! Between two ticks the most surprising value of each signal of a resource (rate, errors, duration, CPU, memory,
//! saturation) makes up a row, which the forest of all resources of its kind scores; the resource's score is the higher
//! one of that and the mean of its most anomalous series. The forests are those of the process ([`forests`]): a shard
//! reads them and sends its rows.
//!
//! Never: reads a clock, keeps a resource that says nothing, watches more resources than its limit. Invariant: what is
//! written of a resource does not depend on the order in which resources are kept.

pub(super) mod forests;
pub(super) mod kind;

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use mirador_otlp::resource;

use super::detector::codec::{Decoder, Encoder};
use super::table::KeyHasher;
use super::trees::family::resource::{Gathered, Part, SIGNALS, Signal};
use super::watch::Judged;
use crate::normalise::Output;
use crate::series::{LabelSet, Labels, Pair};
use forests::{Forests, Row};
use kind::{Evidence, KINDS, Kind};

/// The name of the score series.
const SCORE: &str = "resource_anomaly_score";
/// Ticks without a word after which a resource is forgotten: an hour.
const QUIET: u32 = 360;
/// Bytes of a label that are read back at most.
const MOST_TEXT: usize = 1 << 16;

/// What the virtual series of one metric tell of their resource.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signals {
    /// The signals that they carry, in the order of the virtual series.
    parts: [Option<Signal>; 7],
    /// What the metric is measured at.
    kind: Option<Kind>,
}

/// What the virtual series of a metric tell of their resource.
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
    let middle = of(Part::Middle);
    let parts = [of(Part::Value), rate, middle, middle, of(Part::P95), of(Part::P99), Some(Signal::Errors)];
    Signals { parts, kind: Kind::of_metric(metric) }
}

#[derive(Debug, Clone, PartialEq)]
struct Resource {
    gathered: Gathered,
    evidence: Evidence,
    labels: Labels,
    time: u64,
    quiet_ticks: u32,
}

/// What a tick gave.
#[derive(Debug, Default)]
pub(super) struct Scored {
    /// Score series to write.
    pub(super) out: Output,
    /// What the forests learn from.
    pub(super) rows: Vec<Row>,
}

/// The resources of a shard.
#[derive(Debug)]
pub(super) struct Resources {
    known: HashMap<u128, Resource, BuildHasherDefault<KeyHasher>>,
    limit: usize,
    threshold: f64,
    /// Times that a resource beyond the limit was met, since somebody asked.
    over_limit: u64,
}

impl Resources {
    /// Watches `limit` resources at most; 0: none, which is no loss.
    pub(super) fn new(limit: usize, threshold: f64) -> Self {
        Self { known: HashMap::default(), limit, threshold, over_limit: 0 }
    }

    /// A resource speaks. Those without labels have no identity to write.
    pub(super) fn meet(&mut self, owner: u128, labels: &[Pair], resource: &resource::Resource<'_>) {
        if labels.is_empty() || self.limit == 0 || self.known.contains_key(&owner) {
            return;
        }
        if self.known.len() >= self.limit {
            self.over_limit += 1;
            return;
        }
        let name = (Box::from("__name__"), Box::from(SCORE));
        let resource = Resource {
            gathered: Gathered::default(),
            evidence: Evidence::new(Kind::of_attributes(resource)),
            labels: Labels::new(labels.iter().cloned().chain([name]).collect()),
            time: 0,
            quiet_ticks: 0,
        };
        self.known.insert(owner, resource);
    }

    /// Adds a judged point of a resource that was met.
    pub(super) fn add(&mut self, owner: u128, time: u64, signals: Signals, judged: &Judged) {
        let threshold = self.threshold;
        let Some(resource) = self.known.get_mut(&owner) else { return };
        resource.time = resource.time.max(time);
        resource.evidence.add(signals.kind);
        let score = damped(judged.score, judged.is_anomaly, threshold);
        for (signal, surprise) in signals.parts.iter().zip(judged.surprises).filter(|(_, surprise)| !surprise.is_nan())
        {
            resource.gathered.add(score, *signal, surprise);
        }
    }

    /// Adds a judged share of failed calls of a resource that was met.
    pub(super) fn add_failures(&mut self, owner: u128, time: u64, (score, is_anomaly): (f64, bool), surprise: f64) {
        let threshold = self.threshold;
        let Some(resource) = self.known.get_mut(&owner) else { return };
        resource.time = resource.time.max(time);
        resource.gathered.add(damped(score, is_anomaly, threshold), Some(Signal::Errors), surprise as f32);
    }

    /// Scores every resource that has said something since the tick before.
    pub(super) fn tick(&mut self, forests: &Forests) -> Scored {
        let mut spoken: Vec<u128> = Vec::new();
        for (owner, resource) in &mut self.known {
            if resource.gathered.series() == 0 {
                resource.quiet_ticks += 1;
            } else {
                resource.quiet_ticks = 0;
                spoken.push(*owner);
            }
        }
        spoken.sort_unstable();
        let combinations = self.combinations(&spoken, forests);
        let mut scored = Scored::default();
        for (owner, combination) in spoken.iter().zip(combinations) {
            let Some(resource) = self.known.get_mut(owner) else { continue };
            let gathered = std::mem::take(&mut resource.gathered);
            let score = gathered.judge(combination).score;
            let (kind, is_anomalous) = (resource.evidence.kind(), score >= self.threshold);
            scored.rows.push(Row { owner: *owner, kind, signals: *gathered.row(), is_anomalous });
            scored.out.push(&resource.labels, (resource.time / 1_000_000) as i64, score);
        }
        self.known.retain(|_, resource| resource.quiet_ticks < QUIET);
        scored
    }

    /// What the forests of their kinds say of these resources, kind by kind, because rows go through trees in company.
    fn combinations(&self, owners: &[u128], forests: &Forests) -> Vec<f64> {
        let forests = forests.load();
        let mut by_kind: [(Vec<usize>, Vec<f32>); KINDS] = Default::default();
        for (place, resource) in
            owners.iter().enumerate().filter_map(|(place, owner)| Some((place, self.known.get(owner)?)))
        {
            let (places, rows) = &mut by_kind[resource.evidence.kind() as usize];
            places.push(place);
            rows.extend_from_slice(resource.gathered.row());
        }
        let mut combinations = vec![0.0; owners.len()];
        let mut scores = Vec::new();
        for ((places, rows), forest) in by_kind.iter().zip(&forests) {
            scores.clear();
            forest.score_batch(rows, &mut scores);
            for (place, score) in places.iter().zip(&scores) {
                combinations[*place] = *score;
            }
        }
        combinations
    }

    /// Resources by kind.
    pub(super) fn counts(&self) -> [usize; KINDS] {
        let mut counts = [0; KINDS];
        for resource in self.known.values() {
            counts[resource.evidence.kind() as usize] += 1;
        }
        counts
    }

    /// How often a resource beyond the limit was met since the last call.
    pub(super) fn take_over_limit(&mut self) -> u64 {
        std::mem::take(&mut self.over_limit)
    }

    /// Appends the state.
    pub(super) fn encode(&self, to: &mut Encoder) {
        to.u32(self.known.len() as u32);
        for (owner, resource) in &self.known {
            to.u128(*owner);
            to.u8(resource.evidence.metrics);
            to.u8(resource.evidence.attributes as u8);
            to.u64(resource.time);
            to.u32(resource.quiet_ticks);
            let (top, series) = resource.gathered.parts();
            to.f32s(resource.gathered.row());
            to.f32s(top);
            to.u32(series);
            to.u32(resource.labels.texts().count() as u32);
            for text in resource.labels.texts().flat_map(|(name, value)| [name, value]) {
                to.u32(text.len() as u32);
                to.0.extend_from_slice(text.as_bytes());
            }
        }
    }

    /// Takes what [`Self::encode`] wrote; nothing when the bytes are anything else.
    pub(super) fn decode(from: &mut Decoder<'_>) -> Option<Waiting> {
        let mut known = Vec::new();
        for _ in 0..from.u32()? {
            let owner = from.u128()?;
            let metrics = from.u8()?;
            let attributes = Kind::ALL.get(usize::from(from.u8()?)).copied()?;
            let (time, quiet_ticks) = (from.u64()?, from.u32()?);
            let (row, top): ([f32; SIGNALS], _) = (from.f32s()?, from.f32s()?);
            let gathered = Gathered::from_parts(row, top, from.u32()?)?;
            let mut pairs: Vec<Pair> = Vec::new();
            for _ in 0..from.u32()? {
                pairs.push((text(from)?, text(from)?));
            }
            let labels = Labels::new(pairs.into_iter().collect());
            known.push((
                owner,
                Resource { gathered, evidence: Evidence { metrics, attributes }, labels, time, quiet_ticks },
            ));
        }
        Some(Waiting(known))
    }

    /// Takes resources of a snapshot, as many as there is room for.
    pub(super) fn restore(&mut self, waiting: Waiting) {
        for (owner, resource) in waiting.0 {
            if self.known.len() < self.limit {
                self.known.insert(owner, resource);
            }
        }
    }
}

/// Resources of a snapshot.
#[derive(Debug, Default)]
pub(super) struct Waiting(Vec<(u128, Resource)>);

fn text(from: &mut Decoder<'_>) -> Option<Box<str>> {
    let length = usize::try_from(from.u32()?).ok().filter(|length| *length <= MOST_TEXT)?;
    std::str::from_utf8(from.bytes(length)?).ok().map(Box::from)
}

/// A score that no gate let through says less than an anomaly: ordinary series are many.
fn damped(score: f64, is_anomaly: bool, threshold: f64) -> f64 {
    if is_anomaly { score } else { score.min(threshold) }
}

#[cfg(test)]
mod tests;
