//! One series and the engine that scores it, fed the way the role isolationforest feeds it.
//!
//! Never: looks ahead; what a row gets depends on the rows before it.

use crate::isolationforest::detector::{Detector, EpisodeKind, Settings, Shape};
use crate::isolationforest::watch::{Before, growth, keep_later};

use super::Kind;

/// What a row holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Reading {
    /// A number.
    Value(f64),
    /// Nothing that could be scored: empty, NaN, infinite.
    Missing,
}

/// What a row got.
#[derive(Debug, Clone, Default)]
pub(super) struct Judged {
    /// What the engine saw: the value of a gauge, the rate of a counter.
    pub(super) seen: Option<f64>,
    pub(super) score: Option<f64>,
    pub(super) is_anomaly: bool,
    /// What the score was held against.
    pub(super) threshold: f64,
    /// Why the row is flagged, or why it has no score.
    pub(super) reason: String,
    /// What happened to the episode of the series.
    pub(super) episode: Option<EpisodeKind>,
    pub(super) late: bool,
}

/// A series' engine.
pub(super) struct Judge {
    detector: Detector,
    counter: bool,
    /// The latest point of a counter.
    before: Option<Before>,
    last: Option<u64>,
}

impl Judge {
    /// Knows nothing of the series but its name, which tells a counter from a gauge unless `kind` does.
    pub(super) fn new(settings: &Settings, kind: Kind, name: &str, seed: u64) -> Self {
        let counter = match kind {
            Kind::Gauge => false,
            Kind::Counter => true,
            Kind::Auto => counts(name),
        };
        let shape = if counter { Shape::Rate } else { Shape::Level };
        // Two series of one name and one seed are scored alike, wherever their files lie.
        let seed = xxhash_rust::xxh3::xxh3_64_with_seed(name.as_bytes(), seed);
        Self { detector: Detector::new(settings, shape, seed), counter, before: None, last: None }
    }

    /// Scores a row, then learns from it.
    pub(super) fn observe(&mut self, settings: &Settings, time: u64, reading: Reading) -> Judged {
        let late = self.last.is_some_and(|last| time <= last);
        if !late {
            self.last = Some(time);
        }
        let blank = |reason: &str| Judged { reason: reason.to_owned(), late, ..Judged::default() };
        let Reading::Value(value) = reading else { return blank("no value") };
        let (seen, noise) = if self.counter {
            match self.rate(time, value, late) {
                Ok(rate) => rate,
                Err(reason) => return blank(reason),
            }
        } else {
            (value, 0.0)
        };
        let threshold = self.detector.threshold(settings);
        let verdict = self.detector.observe_noisy(settings, None, time, seen, noise);
        let reason = match (&verdict.reason, verdict.score) {
            (_, None) => "warming up".to_owned(),
            (Some(reason), _) if verdict.is_anomaly => reason.to_string(),
            _ => String::new(),
        };
        Judged {
            seen: Some(seen),
            score: verdict.score,
            is_anomaly: verdict.is_anomaly,
            threshold,
            reason,
            episode: verdict.episode.map(|change| change.kind),
            late,
        }
    }

    /// The range outside of which the next value would be an anomaly by itself.
    pub(super) fn band(&self, settings: &Settings) -> Option<(f64, f64)> {
        self.detector.expected(settings).map(|expected| (expected.low, expected.high))
    }

    /// Growth per second since the latest point, and how far it scatters by itself.
    fn rate(&mut self, time: u64, value: f64, late: bool) -> Result<(f64, f64), &'static str> {
        // A file tells no start time; a drop tells a reset.
        let now = Before { time, start: 0, count: value, sum: None };
        let Some(before) = &mut self.before else {
            self.before = Some(now);
            return Err("first point of a counter");
        };
        let grown = growth(before, &now);
        keep_later(before, now);
        let reason = if late { "late point of a counter" } else { "counter reset" };
        let grown = grown.ok_or(reason)?;
        Ok((grown.rate, grown.noise(self.detector.median())))
    }
}

/// Whether a name is one that Prometheus gives to counters.
fn counts(name: &str) -> bool {
    let metric = name.split('{').next().unwrap_or(name);
    ["_total", "_count", "_sum", "_bucket"].iter().any(|suffix| metric.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn counter(points: &[(u64, f64)]) -> Vec<Judged> {
        let settings = Settings::default();
        let mut judge = Judge::new(&settings, Kind::Auto, "requests_total{a=\"1\"}", 1);
        points.iter().map(|(second, value)| judge.observe(&settings, second * SECOND, Reading::Value(*value))).collect()
    }

    #[test]
    fn a_counter_is_scored_on_its_rate_and_not_across_a_reset() {
        let judged = counter(&[(10, 100.0), (20, 150.0), (30, 20.0), (40, 40.0), (40, 60.0)]);
        assert_eq!(judged.iter().map(|row| row.seen).collect::<Vec<_>>(), [None, Some(5.0), None, Some(2.0), None]);
        assert_eq!(judged[0].reason, "first point of a counter");
        assert_eq!(judged[2].reason, "counter reset");
        assert!(judged[4].late && judged[4].reason == "late point of a counter");
    }

    #[test]
    fn names_of_counters_are_known() {
        assert!(counts("http_requests_total") && counts("rpc_duration_seconds_count{le=\"1\"}"));
        assert!(!counts("value") && !counts("accounts") && !counts("up{job=\"x_total\"}"));
    }

    #[test]
    fn what_has_no_value_has_no_score_and_teaches_nothing() {
        let settings = Settings::default();
        let mut judge = Judge::new(&settings, Kind::Auto, "value", 1);
        let judged = judge.observe(&settings, SECOND, Reading::Missing);
        assert!(judged.score.is_none() && !judged.is_anomaly && judged.reason == "no value");
    }
}
