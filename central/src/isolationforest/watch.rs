//! The scoring state of one series: which virtual series it has, what came before, what was said last.
//!
//! A gauge is scored on its value, a monotonic sum on its rate. A histogram, of either kind, is five virtual series:
//! observations per second, mean, and three quantiles of what came new; a summary likewise, with the quantiles that
//! its producer has made. The point's
//! score is the highest among them and the reason names it.
//!
//! Invariant: a point that is not later than the latest one moves nothing; the latest point again gets the score that
//! it got before. Never: builds labels for a point, reads a clock.

mod codec;
mod distribution;

use super::detector::{Detector, EpisodeChange, EpisodeKind, Prior, Reason, Settings, Shape, Status, Verdict};
use crate::normalise::stream::Reading;
pub(super) use distribution::Distribution;

const NANOS: f64 = 1e9;
/// A rate that differs from the usual one by less than so many standard deviations of a count is no anomaly.
const COUNT_NOISE: f64 = 4.0;

/// What is scored of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Virtual {
    Value,
    Rate,
    Mean,
    P50,
    P95,
    P99,
    ErrorRatio,
}

impl Virtual {
    /// The value of the attribute `virtual` and the word in a reason.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Value => "value",
            Self::Rate => "rate",
            Self::Mean => "mean",
            Self::P50 => "p50",
            Self::P95 => "p95",
            Self::P99 => "p99",
            Self::ErrorRatio => "error ratio",
        }
    }

    fn shape(self) -> Shape {
        match self {
            Self::Value => Shape::Level,
            Self::Rate => Shape::Rate,
            Self::ErrorRatio => Shape::Ratio,
            Self::Mean | Self::P50 | Self::P95 | Self::P99 => Shape::Observed,
        }
    }
}

/// How series are judged, and the families of this one's virtual series.
#[derive(Debug)]
pub(super) struct Rules<'a> {
    pub(super) settings: &'a Settings,
    /// The family of each virtual series, in the order of [`Virtual`]; empty when there is none.
    pub(super) priors: &'a mut [Prior],
}

/// What one point got.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Judged {
    /// The highest score among the virtual series; 0 while all of them warm up.
    pub(super) score: f64,
    pub(super) is_anomaly: bool,
    pub(super) warming: bool,
    /// The virtual series behind the score.
    pub(super) top: Virtual,
    pub(super) reason: Option<Reason>,
    /// Signed surprise of each virtual series that was judged, in the order of [`Virtual`]; NaN for the others.
    pub(super) surprises: [f32; 7],
    /// What a counter grew by; 0 where it is none.
    pub(super) grown: f64,
}

impl Judged {
    const WARMING: Self = Self {
        score: 0.0,
        is_anomaly: false,
        warming: true,
        top: Virtual::Value,
        reason: None,
        surprises: [f32::NAN; 7],
        grown: 0.0,
    };

    fn add(&mut self, which: Virtual, verdict: &Verdict) {
        let Some(score) = verdict.score else { return };
        self.surprises[which as usize] = verdict.surprise as f32;
        // An anomaly explains the point better than a higher score that no gate let through.
        let better = (verdict.is_anomaly, score) > (self.is_anomaly, if self.warming { -1.0 } else { self.score });
        if better {
            (self.top, self.reason) = (which, verdict.reason);
        }
        self.score = self.score.max(score);
        self.is_anomaly |= verdict.is_anomaly;
        self.warming = false;
    }
}

/// An episode of a virtual series began, rose or ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Change {
    pub(super) which: Virtual,
    pub(super) episode: EpisodeChange,
    pub(super) reason: Option<Reason>,
}

/// A cumulative point that the next one is compared with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Before {
    pub(crate) time: u64,
    pub(crate) start: u64,
    pub(crate) count: f64,
    pub(crate) sum: Option<f64>,
}

/// What is scored.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) enum Features {
    #[default]
    None,
    Level(Box<Detector>),
    Rate(Box<Detector>, Before),
    Distribution(Box<Distribution>),
}

/// The scoring state of one series.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Watch {
    pub(super) features: Features,
    pub(super) seed: u64,
    pub(super) last_time: u64,
    pub(super) last: Judged,
    /// The virtual series whose episode speaks for the series.
    pub(super) speaker: Option<Virtual>,
}

impl Watch {
    /// Has seen nothing; the seed spreads the upkeep of many series.
    pub(super) fn new(seed: u64) -> Self {
        Self { features: Features::None, seed, last_time: 0, last: Judged::WARMING, speaker: None }
    }

    /// Scores a point; `None` when its value is not finite. `buckets` are those of a distribution, not added up.
    pub(super) fn judge(
        &mut self,
        rules: &mut Rules<'_>,
        time: u64,
        reading: Reading,
        buckets: &[(f64, u64)],
        changes: &mut Vec<Change>,
    ) -> Option<Judged> {
        if !finite(&reading) {
            return None;
        }
        if time == self.last_time {
            return Some(self.last);
        }
        let had = changes.len();
        let judged = match reading {
            Reading::Level(value) => self.level(rules, time, value, changes),
            Reading::Total { value, start } => {
                self.rate(rules, Before { time, start, count: value, sum: None }, changes)
            }
            Reading::Distribution { count, sum, start } => {
                let now = Before { time, start, count, sum };
                if !matches!(self.features, Features::Distribution(_)) {
                    self.features = Features::Distribution(Box::new(Distribution::new(rules.settings, self.seed, now)));
                }
                let Features::Distribution(distribution) = &mut self.features else { return None };
                distribution.judge(rules, now, buckets, changes)
            }
            Reading::Summary { count, sum, start, quantiles } => {
                let now = Before { time, start, count, sum: Some(sum) };
                if !matches!(self.features, Features::Distribution(_)) {
                    self.features = Features::Distribution(Box::new(Distribution::new(rules.settings, self.seed, now)));
                }
                let Features::Distribution(distribution) = &mut self.features else { return None };
                distribution.judge_summary(rules, now, quantiles, changes)
            }
        };
        self.speak(changes, had);
        if time > self.last_time {
            (self.last_time, self.last) = (time, Judged { reason: None, grown: 0.0, ..judged });
        }
        Some(judged)
    }

    /// The series has ended for now: what comes next starts a new stretch, open episodes end.
    pub(super) fn interrupt(&mut self, time: u64, changes: &mut Vec<Change>) {
        let had = changes.len();
        let mut end = |which, detector: &mut Detector| {
            if let Some(change) = detector.end(time) {
                changes.push(Change { which, episode: change, reason: None });
            }
        };
        match &mut self.features {
            Features::None => {}
            Features::Level(detector) => end(Virtual::Value, detector),
            Features::Rate(detector, before) => {
                // No later point can be compared with it.
                before.count = f64::INFINITY;
                end(Virtual::Rate, detector);
            }
            Features::Distribution(distribution) => distribution.interrupt(&mut end),
        }
        self.speak(changes, had);
    }

    /// Usual seconds between points; 0 while warming.
    pub(super) fn interval_seconds(&self, settings: &Settings) -> f64 {
        let detector = match &self.features {
            Features::None => return 0.0,
            Features::Level(detector) | Features::Rate(detector, _) => detector,
            Features::Distribution(distribution) => distribution.first(),
        };
        if detector.seen() < settings.warmup_points { 0.0 } else { detector.interval_seconds() }
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        match &self.features {
            Features::None => 0,
            Features::Level(detector) | Features::Rate(detector, _) => size_of::<Detector>() + detector.heap_bytes(),
            Features::Distribution(distribution) => distribution.bytes(),
        }
    }

    /// One episode speaks for the series: that of the virtual series which opened first.
    fn speak(&mut self, changes: &mut Vec<Change>, had: usize) {
        let mut kept = had;
        for index in had..changes.len() {
            let change = changes[index];
            let said = match (self.speaker, change.episode.kind) {
                (None, EpisodeKind::Opened) => {
                    self.speaker = Some(change.which);
                    true
                }
                (Some(speaker), EpisodeKind::Peak) => speaker == change.which,
                (Some(speaker), EpisodeKind::Closed) if speaker == change.which => {
                    self.speaker = None;
                    true
                }
                _ => false,
            };
            if said {
                changes[kept] = change;
                kept += 1;
            }
        }
        changes.truncate(kept);
    }

    fn level(&mut self, rules: &mut Rules<'_>, time: u64, value: f64, changes: &mut Vec<Change>) -> Judged {
        if !matches!(self.features, Features::Level(_)) {
            self.features = Features::Level(Box::new(Detector::new(rules.settings, Virtual::Value.shape(), self.seed)));
        }
        let Features::Level(detector) = &mut self.features else { return Judged::WARMING };
        let mut judged = Judged::WARMING;
        observe(rules, Virtual::Value, detector, (time, value, 0.0), &mut judged, changes);
        judged
    }

    fn rate(&mut self, rules: &mut Rules<'_>, now: Before, changes: &mut Vec<Change>) -> Judged {
        let mut judged = Judged::WARMING;
        let Features::Rate(detector, before) = &mut self.features else {
            self.features =
                Features::Rate(Box::new(Detector::new(rules.settings, Virtual::Rate.shape(), self.seed)), now);
            return judged;
        };
        let is_later = now.time > before.time;
        let grown = growth(before, &now);
        keep_later(before, now);
        if let Some(grown) = grown {
            judged.grown = if is_later { grown.count } else { 0.0 };
            let noise = grown.noise(detector.median());
            observe(rules, Virtual::Rate, detector, (now.time, grown.rate, noise), &mut judged, changes);
        }
        judged
    }
}

/// Judges one value of one virtual series, teaches its family, notes what happened.
pub(super) fn observe(
    rules: &mut Rules<'_>,
    which: Virtual,
    detector: &mut Detector,
    (time, value, noise): (u64, f64, f64),
    judged: &mut Judged,
    changes: &mut Vec<Change>,
) {
    /// Every so many points teach the family.
    const TEACH: u32 = 16;
    let prior = rules.priors.get_mut(which as usize);
    let verdict = detector.observe_noisy(rules.settings, prior.as_deref(), time, value, noise);
    judged.add(which, &verdict);
    if let Some(change) = verdict.episode {
        changes.push(Change { which, episode: change, reason: verdict.reason });
    }
    if let Some(prior) = prior
        && verdict.status != Status::Late
        && detector.seen().is_multiple_of(TEACH)
        && !verdict.is_anomaly
    {
        prior.learn(rules.settings, value, detector.standard(rules.settings, value));
    }
}

fn finite(reading: &Reading) -> bool {
    match reading {
        Reading::Level(value) | Reading::Total { value, .. } => value.is_finite(),
        Reading::Summary { count, sum, .. } => count.is_finite() && sum.is_finite(),
        Reading::Distribution { count, sum, .. } => count.is_finite() && sum.is_none_or(f64::is_finite),
    }
}

pub(crate) fn keep_later(before: &mut Before, now: Before) {
    if now.time > before.time {
        *before = now;
    }
}

/// What came new between two cumulative points.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Growth {
    pub(crate) count: f64,
    pub(crate) seconds: f64,
    pub(crate) rate: f64,
    pub(crate) mean: Option<f64>,
}

impl Growth {
    /// How far a rate of counts scatters by itself around the usual one.
    pub(crate) fn noise(&self, usual: f64) -> f64 {
        COUNT_NOISE * self.count.max(usual * self.seconds).max(0.0).sqrt() / self.seconds
    }
}

/// Growth between two points, in either order of arrival; nothing across a reset.
pub(crate) fn growth(before: &Before, now: &Before) -> Option<Growth> {
    let (early, late) = if now.time > before.time { (before, now) } else { (now, before) };
    let restarted = early.start != late.start && late.start >= early.time;
    let count = late.count - early.count;
    if restarted || count < 0.0 || !count.is_finite() || late.time == early.time {
        return None;
    }
    let seconds = (late.time - early.time) as f64 / NANOS;
    let mean = early.sum.zip(late.sum).filter(|_| count > 0.0).map(|(early, late)| (late - early) / count);
    Some(Growth { count, seconds, rate: count / seconds, mean: mean.filter(|mean| mean.is_finite()) })
}

#[cfg(test)]
mod tests;
