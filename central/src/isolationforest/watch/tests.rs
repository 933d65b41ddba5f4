//! Which virtual series a point becomes, and what they say.

use proptest::prelude::*;

use super::*;
use crate::isolationforest::detector::codec::{Decoder, Encoder};

const SECOND: u64 = 1_000_000_000;

struct Rig {
    watch: Watch,
    settings: Settings,
    changes: Vec<Change>,
}

impl Rig {
    fn new() -> Self {
        Self { watch: Watch::new(9), settings: Settings::default(), changes: Vec::new() }
    }

    fn judge(&mut self, time: u64, reading: Reading, buckets: &[(f64, u64)]) -> Option<Judged> {
        let mut rules = Rules { settings: &self.settings, priors: &mut [] };
        self.watch.judge(&mut rules, time, reading, buckets, &mut self.changes)
    }
}

fn run(readings: impl IntoIterator<Item = (u64, Reading)>) -> Vec<Option<Judged>> {
    let mut rig = Rig::new();
    readings.into_iter().map(|(time, reading)| rig.judge(time, reading, &[])).collect()
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
    assert!(steady.iter().flatten().all(|judged| !judged.is_anomaly), "a growing counter is ordinary");
    let burst = run(counter(300, |step| if step == 300 { 5000.0 } else { 50.0 + (step % 7) as f64 }));
    let last = burst[299].unwrap();
    assert!(last.is_anomaly && last.top == Virtual::Rate, "{last:?}");
    let quiet = run(counter(300, |step| if step == 300 { 0.0 } else { 50.0 + (step % 7) as f64 }));
    assert!(quiet[299].unwrap().is_anomaly, "a fall to nothing is as odd as a rise: {:?}", quiet[299]);
}

#[test]
fn a_reset_is_not_scored() {
    let mut readings = counter(200, |step| 50.0 + (step % 7) as f64);
    readings.push((201 * 10 * SECOND, Reading::Total { value: 3.0, start: 1 }));
    readings.push((202 * 10 * SECOND, Reading::Total { value: 1e6, start: 202 * 10 * SECOND }));
    let judged = run(readings);
    assert!(judged[200].unwrap().warming, "the value dropped");
    assert!(judged[201].unwrap().warming, "the start time moved past the point before");
}

#[test]
fn a_point_sent_again_gets_the_score_it_got_and_moves_nothing() {
    let readings = counter(200, |step| 50.0 + (step % 7) as f64);
    let doubled: Vec<_> = readings.iter().flat_map(|reading| [*reading, *reading]).collect();
    let (once, twice) = (run(readings), run(doubled));
    let score = |judged: &Option<Judged>| judged.map(|judged| (judged.score, judged.is_anomaly));
    for (one, pair) in once.iter().zip(twice.chunks(2)) {
        assert_eq!((score(one), score(one)), (score(&pair[0]), score(&pair[1])));
    }
}

/// 100 observations per second, all in the second bucket but for the last steps, where they are slow.
fn slow_at_the_end(rig: &mut Rig, steps: u64, slow_from: u64) -> Vec<Judged> {
    let (mut counts, mut sum) = ([0_u64; 4], 0.0);
    (1..=steps)
        .map(|step| {
            let slow = step >= slow_from;
            let shift = step * 7 % 5;
            counts[if slow { 2 } else { 1 }] += 95 - shift;
            counts[0] += 5 + shift;
            sum += 100.0 * if slow { 3.0 } else { 1.4 + (step % 5) as f64 / 100.0 };
            let count: u64 = counts.iter().sum();
            let buckets: Vec<_> = [1.0, 2.0, 4.0, f64::INFINITY].into_iter().zip(counts).collect();
            let reading = Reading::Distribution { count: count as f64, sum: Some(sum), start: 1 };
            rig.judge(step * SECOND, reading, &buckets).unwrap()
        })
        .collect()
}

#[test]
fn a_histogram_is_scored_on_the_mean_and_the_quantiles_of_what_came_new() {
    let mut rig = Rig::new();
    let judged = slow_at_the_end(&mut rig, 302, 300);
    let slow = judged[299];
    assert!(slow.is_anomaly, "the calls got slower: {slow:?}");
    assert!(matches!(slow.top, Virtual::Mean | Virtual::P50 | Virtual::P95 | Virtual::P99), "{slow:?}");
    assert!(judged[..299].iter().all(|judged| !judged.is_anomaly));
    let opened = rig.changes.iter().filter(|change| change.episode.kind == EpisodeKind::Opened).count();
    assert_eq!(opened, 1, "one episode speaks for the histogram: {:?}", rig.changes);
    let reason = rig.changes[0].reason.unwrap().to_string();
    assert!(reason.contains("too high") && reason.contains("is expected"), "{reason}");
}

#[test]
fn values_that_are_not_finite_have_no_score() {
    let judged = run([
        (1, Reading::Level(f64::NAN)),
        (2, Reading::Total { value: f64::INFINITY, start: 0 }),
        (3, Reading::Distribution { count: 1.0, sum: Some(f64::NAN), start: 0 }),
    ]);
    assert_eq!(judged, [None, None, None]);
}

#[test]
fn a_histogram_goes_on_from_its_snapshot() {
    let mut rig = Rig::new();
    slow_at_the_end(&mut rig, 200, u64::MAX);
    let mut bytes = Encoder::default();
    rig.watch.encode(&mut bytes);
    let mut from = Decoder(&bytes.0);
    let watch = Watch::decode(&mut from).unwrap();
    assert!(from.0.is_empty());
    let mut again = Encoder::default();
    watch.encode(&mut again);
    assert_eq!(again.0, bytes.0);
}

proptest! {
    #[test]
    fn no_bytes_make_reading_a_state_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), kind in 0_u8..4) {
        let mut head = Encoder::default();
        Watch::new(1).encode(&mut head);
        let length = head.0.len();
        head.0[length - 1] = kind;
        head.0.extend_from_slice(&bytes);
        drop(Watch::decode(&mut Decoder(&head.0)));
        drop(Watch::decode(&mut Decoder(&bytes)));
    }
}
