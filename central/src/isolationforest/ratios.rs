//! The share of failed calls of each operation and each edge, from the call counters that say which calls failed.
//!
//! A counter of errors that begins with the fault has no history to be held against; the share of errors has, since it
//! was 0 all the time. What calls and errors grew by at one time is added up over a request and judged at its end.
//!
//! Never: scores a share of nothing, keeps more than [`MOST`] of them.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use mirador_otlp::value::{Attributes, Value};

use super::detector::codec::{Decoder, Encoder};
use super::detector::{Detector, EpisodeKind, Settings, Shape};
use super::episodes::Event;
use super::resources::Resources;
use super::table::{KeyHasher, SCORE, flag_labels};
use super::watch::{Change, Virtual};
use crate::normalise::Output;
use crate::series::{LabelSet, Labels, STALE_NAN};

/// Operations and edges that are watched at most, per shard.
const MOST: usize = 50_000;
/// A share is told apart from the usual one when it differs by so many standard errors of the usual one.
const NOISE: f64 = 3.5;

/// Whether a point counts failed calls, and the attribute that says so; nothing for other counters.
pub(super) fn failure(metric: &str, attributes: Attributes<'_>) -> Option<(bool, &'static str)> {
    let (name, label) = if metric.rsplit('.').next() == Some("calls") {
        ("status.code", "status_code")
    } else if metric == "traces_service_graph_request_total" {
        ("failed", "failed")
    } else {
        return None;
    };
    let entry = attributes.iter().find(|entry| entry.key == name)?;
    let failed = match entry.value {
        Value::Bool(failed) => failed,
        Value::Str(code) => code == "STATUS_CODE_ERROR" || code == "true",
        _ => return None,
    };
    Some((failed, label))
}

/// One operation or edge.
#[derive(Debug)]
struct Ratio {
    detector: Detector,
    /// Hash of the labels of the resource.
    owner: u128,
    labels: Option<Labels>,
    /// Of the flag series, while it is written: until this time.
    flag: Option<(Labels, u64)>,
    calls: f64,
    errors: f64,
    time: u64,
    touched: bool,
}

/// All of a shard.
#[derive(Debug, Default)]
pub(super) struct Ratios {
    ratios: HashMap<u128, Ratio, BuildHasherDefault<KeyHasher>>,
    touched: Vec<u128>,
}

impl Ratios {
    /// Adds what a counter of calls grew by.
    pub(super) fn add(&mut self, settings: &Settings, key: u128, grown: Grown<'_>) {
        if !self.ratios.contains_key(&key) && self.ratios.len() >= MOST {
            return;
        }
        let ratio = self.ratios.entry(key).or_insert_with(|| Ratio {
            detector: Detector::new(settings, Shape::Ratio, key as u64),
            owner: grown.owner,
            labels: None,
            flag: None,
            calls: 0.0,
            errors: 0.0,
            time: 0,
            touched: false,
        });
        if ratio.labels.is_none() {
            ratio.labels = Some(labels(grown.score_labels, grown.label));
        }
        ratio.owner = grown.owner;
        ratio.calls += grown.count;
        ratio.errors += if grown.failed { grown.count } else { 0.0 };
        ratio.time = ratio.time.max(grown.time);
        if !std::mem::replace(&mut ratio.touched, true) {
            self.touched.push(key);
        }
    }

    /// Judges what the request has told; gives the number of anomalies.
    pub(super) fn judge(
        &mut self,
        (settings, hold_nanos): (&Settings, u64),
        resources: &mut Resources,
        out: &mut Output,
        events: &mut Vec<Event>,
    ) -> u64 {
        let mut anomalies = 0;
        for key in self.touched.drain(..) {
            let Some(ratio) = self.ratios.get_mut(&key) else { continue };
            ratio.touched = false;
            let (calls, errors) = (std::mem::take(&mut ratio.calls), std::mem::take(&mut ratio.errors));
            let Some(labels) = ratio.labels.as_ref().filter(|_| calls > 0.0) else { continue };
            let share = errors / calls;
            // One error and one success on top: a share of few calls is never known to be 0 or 1.
            let usual = (ratio.detector.median().clamp(0.0, 1.0) * calls + 1.0) / (calls + 2.0);
            let noise = (NOISE * (usual * (1.0 - usual) / calls).sqrt()).max(1.5 / calls);
            let verdict = ratio.detector.observe_noisy(settings, None, ratio.time, share, noise);
            if let Some(score) = verdict.score {
                resources.add_failures(ratio.owner, ratio.time, (score, verdict.is_anomaly), verdict.surprise);
            }
            let millis = (ratio.time / 1_000_000) as i64;
            out.push(labels, millis, verdict.score.unwrap_or(0.0));
            anomalies += u64::from(verdict.is_anomaly);
            if verdict.is_anomaly {
                let until = ratio.time.saturating_add(hold_nanos);
                ratio.flag.get_or_insert_with(|| (flag_labels(labels), until)).1 = until;
            }
            if let Some((flag, until)) = &ratio.flag {
                let is_held = ratio.time <= *until;
                out.push(flag, millis, if is_held { f64::from(u8::from(verdict.is_anomaly)) } else { STALE_NAN });
                if !is_held {
                    ratio.flag = None;
                }
            }
            if let Some(change) = verdict.episode {
                let reason = verdict.reason.filter(|_| change.kind != EpisodeKind::Closed);
                events.push(Event::of(labels, &Change { which: Virtual::ErrorRatio, episode: change, reason }));
            }
        }
        anomalies
    }

    /// Forgets what has not been seen since then.
    pub(super) fn expire(&mut self, since_unix_nano: u64) {
        self.ratios.retain(|_, ratio| ratio.detector.last_time() >= since_unix_nano);
    }

    /// Bytes of all detectors.
    pub(super) fn bytes(&self) -> usize {
        self.ratios.values().map(|ratio| size_of::<Ratio>() + ratio.detector.heap_bytes()).sum()
    }

    /// Appends the states.
    pub(super) fn encode(&self, to: &mut Encoder) {
        to.u32(self.ratios.len() as u32);
        for (key, ratio) in &self.ratios {
            to.u128(*key);
            ratio.detector.encode(to);
        }
    }

    /// Takes states; nothing when they are none.
    pub(super) fn decode(from: &mut Decoder<'_>) -> Option<Self> {
        let mut ratios = Self::default();
        for _ in 0..from.u32()? {
            let key = from.u128()?;
            let detector = Detector::decode(from)?;
            let (labels, flag) = (None, None);
            let ratio = Ratio { detector, owner: 0, labels, flag, calls: 0.0, errors: 0.0, time: 0, touched: false };
            ratios.ratios.insert(key, ratio);
        }
        Some(ratios)
    }

    /// Adds those of another file.
    pub(super) fn extend(&mut self, other: Self) {
        self.ratios.extend(other.ratios);
    }
}

/// What a counter of calls grew by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grown<'a> {
    /// Hash of the labels of the resource.
    pub(super) owner: u128,
    pub(super) time: u64,
    pub(super) count: f64,
    pub(super) failed: bool,
    /// The label that tells failed calls from others.
    pub(super) label: &'static str,
    pub(super) score_labels: &'a Labels,
}

/// The labels of the score of a share: those of the counter's score without the label that tells calls apart.
fn labels(score: &LabelSet, without: &str) -> Labels {
    let metric = score.value("metric").unwrap_or_default();
    let metric = metric.trim_end_matches("_total").trim_end_matches("_calls").trim_end_matches("_request");
    let metric = format!("{metric}_error_ratio");
    let pairs = score.texts().filter(|(name, _)| *name != without).map(|(name, value)| match name {
        "metric" => (name, metric.as_str()),
        "__name__" => (name, SCORE),
        _ => (name, value),
    });
    Labels::new(LabelSet::from_sorted(pairs))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Anomalies at each step of `(calls, errors)`, a second apart.
    fn judged(steps: impl IntoIterator<Item = (f64, f64)>) -> Vec<u64> {
        let labels = Labels::new(LabelSet::from_sorted([("__name__", SCORE), ("metric", "shop_calls_total")]));
        let (settings, mut ratios) = (Settings::default(), Ratios::default());
        let mut judge = |(step, (calls, errors)): (u64, (f64, f64))| {
            for (count, failed) in [(calls - errors, false), (errors, true)] {
                let time = (1_000_000 + step) * 1_000_000_000;
                let grown = Grown { owner: 0, time, count, failed, label: "status_code", score_labels: &labels };
                ratios.add(&settings, 1, grown);
            }
            ratios.judge((&settings, 0), &mut Resources::new(0, 0.7), &mut Output::default(), &mut Vec::new())
        };
        (0..).zip(steps).map(&mut judge).collect()
    }

    #[test]
    fn one_failure_among_one_or_two_calls_is_no_anomaly_and_a_burst_is() {
        let healthy = std::iter::repeat_n((1.0, 0.0), 200);
        assert_eq!(judged(healthy.clone().chain([(1.0, 1.0), (2.0, 2.0)])).iter().sum::<u64>(), 0);
        let burst = judged(healthy.chain([(12.0, 12.0)]));
        assert_eq!((burst.iter().sum::<u64>(), burst.last()), (1, Some(&1)));
    }
}
