//! The scoring state of one series: which feature is scored, what came before, what was said last.
//!
//! Gauges are scored on their value, monotonic sums on their rate, histograms and summaries on their rate of
//! observations and on the mean of the new ones; the odder feature is the point's score.
//!
//! Invariant: a point that is not later than the latest one moves nothing; the latest point again gets the
//! score that it got before. Never: builds labels for a point, reads a clock.

use super::engine::{Score, Scorer, Settings, SplitMix};
use crate::normalise::stream::Reading;

const NANOS: f64 = 1e9;

/// A cumulative point that the next one is compared with.
#[derive(Debug, Clone, Copy)]
struct Before {
    time: u64,
    start: u64,
    count: f64,
    sum: Option<f64>,
}

/// What is scored.
#[derive(Debug, Clone, Default)]
enum Features {
    #[default]
    None,
    Level(Scorer),
    Rate(Scorer, Before),
    Distribution(Box<(Scorer, Scorer)>, Before),
}

/// The scoring state of one series.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    features: Features,
    random: SplitMix,
    last_time: u64,
    last: Score,
}

impl Watch {
    /// Has seen nothing; the seed decides which points the samples keep.
    pub(super) fn new(seed: u64) -> Self {
        Self { features: Features::None, random: SplitMix::new(seed), last_time: 0, last: Score::WARMING }
    }

    /// Scores a point; `None` when its value is not finite.
    pub(super) fn judge(&mut self, settings: &Settings, time: u64, reading: Reading) -> Option<Score> {
        if !finite(&reading) {
            return None;
        }
        if time == self.last_time {
            return Some(self.last);
        }
        let score = match reading {
            Reading::Level(value) => self.level(settings, time, value),
            Reading::Total { value, start } => {
                self.counted(settings, Before { time, start, count: value, sum: None }, false)
            }
            Reading::Distribution { count, sum, start } => {
                self.counted(settings, Before { time, start, count, sum }, true)
            }
        };
        if time > self.last_time {
            (self.last_time, self.last) = (time, score);
        }
        Some(score)
    }

    /// The series has ended for now: what comes next starts a new stretch.
    pub(super) fn interrupt(&mut self) {
        if let Features::Rate(_, before) | Features::Distribution(_, before) = &mut self.features {
            // No later point can be compared with it.
            before.count = f64::INFINITY;
        }
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        match &self.features {
            Features::None => 0,
            Features::Level(scorer) | Features::Rate(scorer, _) => scorer.heap_bytes(),
            Features::Distribution(pair, _) => {
                size_of::<(Scorer, Scorer)>() + pair.0.heap_bytes() + pair.1.heap_bytes()
            }
        }
    }

    fn level(&mut self, settings: &Settings, time: u64, value: f64) -> Score {
        if !matches!(self.features, Features::Level(_)) {
            self.features = Features::Level(Scorer::new());
        }
        let Features::Level(scorer) = &mut self.features else { return Score::WARMING };
        scorer.score(settings, value, time, &mut self.random)
    }

    fn counted(&mut self, settings: &Settings, now: Before, distribution: bool) -> Score {
        match (&mut self.features, distribution) {
            (Features::Rate(scorer, before), false) => {
                let Some((rate, _)) = growth(before, &now) else {
                    keep_later(before, now);
                    return Score::WARMING;
                };
                keep_later(before, now);
                scorer.score(settings, rate, now.time, &mut self.random)
            }
            (Features::Distribution(pair, before), true) => {
                let grown = growth(before, &now);
                keep_later(before, now);
                let Some((rate, mean)) = grown else { return Score::WARMING };
                let score = pair.0.score(settings, rate, now.time, &mut self.random);
                match mean {
                    Some(mean) => score.worst(pair.1.score(settings, mean, now.time, &mut self.random)),
                    None => score,
                }
            }
            (features, _) => {
                *features = if distribution {
                    Features::Distribution(Box::default(), now)
                } else {
                    Features::Rate(Scorer::new(), now)
                };
                Score::WARMING
            }
        }
    }
}

fn finite(reading: &Reading) -> bool {
    match reading {
        Reading::Level(value) | Reading::Total { value, .. } => value.is_finite(),
        Reading::Distribution { count, sum, .. } => count.is_finite() && sum.is_none_or(f64::is_finite),
    }
}

fn keep_later(before: &mut Before, now: Before) {
    if now.time > before.time {
        *before = now;
    }
}

/// Growth per second and the mean of what was added between two points, in either order of arrival; nothing
/// across a reset.
fn growth(before: &Before, now: &Before) -> Option<(f64, Option<f64>)> {
    let (early, late) = if now.time > before.time { (before, now) } else { (now, before) };
    let restarted = early.start != late.start && late.start >= early.time;
    let count = late.count - early.count;
    if restarted || count < 0.0 || !count.is_finite() || late.time == early.time {
        return None;
    }
    let seconds = (late.time - early.time) as f64 / NANOS;
    let mean = early.sum.zip(late.sum).filter(|_| count > 0.0).map(|(early, late)| (late - early) / count);
    Some((count / seconds, mean.filter(|mean| mean.is_finite())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn run(readings: impl IntoIterator<Item = (u64, Reading)>) -> Vec<Option<Score>> {
        let mut watch = Watch::new(9);
        let settings = Settings::default();
        readings.into_iter().map(|(time, reading)| watch.judge(&settings, time, reading)).collect()
    }

    fn counter(points: u64, rate: impl Fn(u64) -> f64) -> Vec<(u64, Reading)> {
        let mut value = 0.0;
        (1..=points)
            .map(|step| {
                value += rate(step) * 10.0;
                (step * 10 * SECOND, Reading::Total { value, start: 1 })
            })
            .collect()
    }

    #[test]
    fn a_counter_is_scored_on_its_rate() {
        let steady = run(counter(300, |step| 50.0 + (step % 7) as f64));
        assert!(steady[100..].iter().flatten().all(|score| !score.is_anomaly), "a growing counter is ordinary");
        let burst = run(counter(300, |step| if step == 300 { 5000.0 } else { 50.0 + (step % 7) as f64 }));
        assert!(burst[299].is_some_and(|score| score.is_anomaly));
    }

    #[test]
    fn a_reset_is_not_scored() {
        let mut readings = counter(200, |step| 50.0 + (step % 7) as f64);
        readings.push((201 * 10 * SECOND, Reading::Total { value: 3.0, start: 1 }));
        readings.push((202 * 10 * SECOND, Reading::Total { value: 1e6, start: 202 * 10 * SECOND }));
        let scores = run(readings);
        assert_eq!(scores[200], Some(Score::WARMING), "the value dropped");
        assert_eq!(scores[201], Some(Score::WARMING), "the start time moved past the point before");
    }

    #[test]
    fn a_point_sent_again_gets_the_score_it_got_and_moves_nothing() {
        let readings = counter(200, |step| 50.0 + (step % 7) as f64);
        let doubled: Vec<_> = readings.iter().flat_map(|reading| [*reading, *reading]).collect();
        let (once, twice) = (run(readings), run(doubled));
        for (score, pair) in once.iter().zip(twice.chunks(2)) {
            assert_eq!((score, score), (&pair[0], &pair[1]));
        }
    }

    #[test]
    fn a_histogram_is_scored_on_the_mean_of_what_came_new() {
        let (mut count, mut sum) = (0.0, 0.0);
        let scores = run((1..=300_u64).map(|step| {
            count += 100.0;
            sum += 100.0 * if step == 300 { 9.0 } else { 0.2 + (step % 5) as f64 / 100.0 };
            (step * SECOND, Reading::Distribution { count, sum: Some(sum), start: 1 })
        }));
        assert!(scores[299].is_some_and(|score| score.is_anomaly), "the calls got slower");
        assert!(scores[298].is_some_and(|score| !score.is_anomaly));
    }

    #[test]
    fn values_that_are_not_finite_have_no_score() {
        let scores = run([
            (1, Reading::Level(f64::NAN)),
            (2, Reading::Total { value: f64::INFINITY, start: 0 }),
            (3, Reading::Distribution { count: 1.0, sum: Some(f64::NAN), start: 0 }),
        ]);
        assert_eq!(scores, [None, None, None]);
    }
}
