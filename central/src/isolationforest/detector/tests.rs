//! The laws of a detector, and what it says about the series that operations have most of.

use proptest::prelude::*;

use super::codec::{Decoder, Encoder};
use super::*;

const MINUTE: u64 = 60_000_000_000;
const START: u64 = 1_700_000_000_000_000_000;

/// `SplitMix64` (Steele, Lea, Flood 2014) with the distributions that the fixtures need.
struct Noise(u64);

impl Noise {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().max(1e-12).ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Knuth's product of uniforms; for small means.
    fn poisson(&mut self, mean: f64) -> f64 {
        let (least, mut product, mut count) = ((-mean).exp(), self.unit(), 0.0);
        while product > least {
            product *= self.unit();
            count += 1.0;
        }
        count
    }
}

fn feed(values: impl IntoIterator<Item = f64>) -> (Detector, Vec<Verdict>) {
    feed_every(MINUTE, values)
}

fn feed_every(interval: u64, values: impl IntoIterator<Item = f64>) -> (Detector, Vec<Verdict>) {
    let settings = Settings::default();
    let mut detector = Detector::new(&settings, Shape::Level, 3);
    let verdicts = (0..)
        .zip(values)
        .map(|(step, value)| detector.observe(&settings, None, START + step * interval, value))
        .collect();
    (detector, verdicts)
}

fn wave(points: u32) -> impl Iterator<Item = f64> {
    (0..points).map(|step| 100.0 + (f64::from(step) * 0.7).sin() * 10.0)
}

fn opened(verdicts: &[Verdict]) -> usize {
    let opens = |verdict: &&Verdict| verdict.episode.is_some_and(|change| change.kind == EpisodeKind::Opened);
    verdicts.iter().filter(opens).count()
}

#[test]
fn a_series_warms_up_for_64_points() {
    let (_, verdicts) = feed(wave(80));
    assert!(verdicts[..64].iter().all(|verdict| verdict.score.is_none() && verdict.status == Status::Warming));
    assert!(verdicts[64..].iter().all(|verdict| verdict.score.is_some_and(|score| score > 0.0 && score < 1.0)));
}

#[test]
fn an_outlier_is_flagged_with_a_reason_and_an_ordinary_value_is_not() {
    let (_, verdicts) = feed(wave(500).chain([103.0, 250.0]));
    assert!(!verdicts[500].is_anomaly && verdicts[500].score.unwrap() < 0.7, "{:?}", verdicts[500]);
    let outlier = verdicts[501];
    assert!(outlier.is_anomaly && outlier.score.unwrap() > 0.85, "{outlier:?}");
    let reason = outlier.reason.unwrap();
    assert_eq!(reason.side, Side::High);
    assert!(reason.expected.low < 100.0 && reason.expected.high > 105.0 && reason.expected.high < 200.0, "{reason:?}");
    assert!(reason.to_string().contains("too high: 250 where "), "{reason}");
    assert!(outlier.surprise > 13.0, "{outlier:?}");
    assert!(verdicts[501].episode.is_some_and(|change| change.kind == EpisodeKind::Opened));
}

#[test]
fn bounds_that_are_rounding_alone_are_zero() {
    let expected = Expected { low: 5.588e-8, high: 229.6, middle: 80.0 }.without_dust();
    assert_eq!((expected.low, expected.high), (0.0, 229.6));
}

#[test]
fn an_episode_opens_once_rises_and_closes() {
    let fault = (0..20).map(|step| 250.0 + 25.0 * f64::from(step));
    let (_, verdicts) = feed(wave(500).chain(fault).chain(wave(60)));
    let kinds: Vec<EpisodeKind> = verdicts.iter().filter_map(|verdict| Some(verdict.episode?.kind)).collect();
    assert_eq!(kinds.first(), Some(&EpisodeKind::Opened), "{kinds:?}");
    assert_eq!(kinds.iter().filter(|kind| **kind == EpisodeKind::Opened).count(), 1, "{kinds:?}");
    assert_eq!(kinds.last(), Some(&EpisodeKind::Closed), "{kinds:?}");
}

#[test]
fn a_level_shift_is_learned_and_its_end_closes_nothing_twice() {
    let (_, verdicts) = feed(wave(1000).chain(wave(2000).map(|value| value + 500.0)));
    assert!(verdicts[1000].is_anomaly);
    assert!(!verdicts[2999].is_anomaly, "{:?}", verdicts[2999]);
    assert_eq!(opened(&verdicts), 1);
}

#[test]
fn a_constant_series_is_ordinary_and_its_first_small_step_is_not_flagged() {
    let (_, verdicts) = feed(std::iter::repeat_n(1000.0, 300).chain([1001.0]));
    assert!((verdicts[299].score.unwrap() - 0.5).abs() < 0.02, "{:?}", verdicts[299]);
    assert!(verdicts[300].score.unwrap() > 0.9 && !verdicts[300].is_anomaly, "{:?}", verdicts[300]);
    let (_, verdicts) = feed(std::iter::repeat_n(1000.0, 300).chain([2000.0]));
    assert!(verdicts[300].is_anomaly);
}

#[test]
fn precision_does_not_suffer_from_a_large_offset() {
    let (_, plain) = feed(wave(400));
    let (_, shifted) = feed(wave(400).map(|value| value + 1.0e9));
    for (plain, shifted) in plain.iter().zip(&shifted).filter_map(|(left, right)| Some((left.score?, right.score?))) {
        assert!((plain - shifted).abs() < 5e-3, "{plain} {shifted}");
    }
}

#[test]
fn extreme_values_stay_in_range() {
    let swings = (0..200).map(|step| if step % 2 == 0 { f64::MAX } else { f64::MIN });
    let (_, verdicts) = feed(swings.chain([0.0, f64::MAX, f64::MIN_POSITIVE, 1e300, -0.0, f64::NAN]));
    for verdict in &verdicts[64..205] {
        assert!(verdict.score.is_some_and(|score| (0.0..=1.0).contains(&score)), "{verdict:?}");
    }
    assert_eq!(verdicts[205].status, Status::NotFinite);
}

#[test]
fn a_young_series_is_judged_by_its_family() {
    let settings = Settings::default();
    let mut prior = Prior::new();
    let (old, _) = feed(wave(500));
    for value in wave(300) {
        prior.learn(&settings, value, old.standard(&settings, value));
    }
    let mut young = Detector::new(&settings, Shape::Level, 1);
    let mut verdicts = Vec::new();
    // Another level and another width, but the same kind of series.
    for (step, value) in (0..).zip(wave(30).map(|value| 7.0 * value).chain([5000.0, 5000.0])) {
        verdicts.push(young.observe(&settings, Some(&prior), START + step * MINUTE, value));
    }
    assert!(verdicts[..30].iter().all(|verdict| !verdict.is_anomaly), "{verdicts:?}");
    assert_eq!(verdicts[29].status, Status::ByFamily);
    assert!(verdicts[30].is_anomaly, "{:?}", verdicts[30]);
    assert_eq!(verdicts[30].reason.unwrap().feature, Feature::Family);
}

#[test]
fn a_detector_takes_four_kibibytes_at_most() {
    let mut noise = Noise(1);
    let (detector, _) = feed((0..20_000).map(|_| noise.normal()));
    let bytes = size_of::<Detector>() + detector.heap_bytes();
    assert!(bytes <= 4096, "{bytes}");
}

/// A name and the value at a part of a day.
type Fixture = (&'static str, fn(usize, f64, &mut Noise) -> f64);

/// A week at a point every quarter of a minute and two at one every minute, after a day: what operations have most of.
#[test]
fn ordinary_series_open_one_episode_a_week_at_most() {
    let fixtures: [Fixture; 11] = [
        ("flat", |_, _, _| 42.0),
        ("normal", |_, _, noise| 100.0 + 10.0 * noise.normal()),
        ("integer", |_, _, noise| (20.0 + 3.0 * noise.normal()).round()),
        ("seldom one more", |step, _, _| if step % 977 == 0 { 4.0 } else { 3.0 }),
        ("low count", |_, _, noise| noise.poisson(0.05)),
        ("count", |_, _, noise| noise.poisson(3.0)),
        ("step once", |_, day, noise| (if day < 5.0 { 100.0 } else { 150.0 }) + noise.normal()),
        ("flat step once", |_, day, _| if day < 5.0 { 100.0 } else { 150.0 }),
        ("noisy days", |_, day, noise| 100.0 + 50.0 * (day * std::f64::consts::TAU).sin() + 5.0 * noise.normal()),
        ("heavy tail", |_, _, noise| (3.0 + 0.5 * noise.normal()).exp()),
        ("hourly job", |step, _, noise| (if step % 240 == 0 { 500.0 } else { 50.0 }) * (1.0 + 0.1 * noise.normal())),
    ];
    for (seconds, seeds, weeks) in [(15, 2, 1), (60, 2, 2)] {
        let day = 86_400 / seconds;
        for (name, make) in fixtures {
            for seed in 0..seeds {
                let mut noise = Noise(seed);
                let values = (0..day * (1 + weeks * 7)).map(|step| make(step, step as f64 / day as f64, &mut noise));
                let (_, verdicts) = feed_every(seconds as u64 * (MINUTE / 60), values);
                for (week, verdicts) in verdicts[day..].chunks(7 * day).enumerate() {
                    let opened = opened(verdicts);
                    assert!(opened <= 1, "{name} every {seconds} s, seed {seed}, week {week}: {opened}");
                }
            }
        }
    }
}

/// The faults that RED has to show, after 40 minutes of history at 15 s.
#[test]
fn faults_of_red_series_are_flagged_within_three_windows() {
    type Fault = (&'static str, Shape, fn(bool, &mut Noise) -> f64);
    let faults: [Fault; 4] = [
        ("traffic drop", Shape::Rate, |fault, noise| noise.poisson(if fault { 2.0 } else { 30.0 }) / 15.0),
        ("traffic burst", Shape::Rate, |fault, noise| noise.poisson(if fault { 150.0 } else { 30.0 }) / 15.0),
        ("latency", Shape::Observed, |fault, noise| (if fault { 150.0 } else { 50.0 }) * (1.0 + 0.1 * noise.normal())),
        ("errors", Shape::Ratio, |fault, noise| if fault { noise.poisson(9.0) / 30.0 } else { 0.0 }),
    ];
    let settings = Settings::default();
    for (name, shape, make) in faults {
        for seed in 0..20 {
            let (mut noise, mut detector) = (Noise(seed), Detector::new(&settings, shape, seed));
            let mut observe = |step: u64, fault: bool| {
                detector.observe(&settings, None, START + step * MINUTE / 4, make(fault, &mut noise)).is_anomaly
            };
            let before: Vec<bool> = (0..160).map(|step| observe(step, false)).collect();
            assert!(!before[156..].contains(&true), "{name}, seed {seed}: flagged in the minute before");
            assert!((160..163).any(|step| observe(step, true)), "{name}, seed {seed}: not flagged");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_reason_never_expects_the_value(
        seed: u64,
        shape in prop::sample::select(vec![Shape::Level, Shape::Rate, Shape::Observed]),
        odd in prop::collection::vec(0.0_f64..400.0, 5..20),
    ) {
        let (settings, mut noise) = (Settings { floor: 0.6, risk: 0.5, ..Settings::default() }, Noise(seed));
        let mut detector = Detector::new(&settings, shape, 3);
        for step in 0..600 {
            let value = if step > 100 && step % 25 == 0 { odd[step / 25 % odd.len()] } else { 100.0 + noise.normal() };
            let verdict = detector.observe(&settings, None, START + step as u64 * MINUTE, value);
            if let Some(Reason { value, expected, .. }) = verdict.reason {
                let slack = 1e-4 * (value.abs() + expected.high.abs());
                let is_outside = value <= expected.low + slack || value >= expected.high - slack;
                prop_assert!(is_outside, "{:?}", verdict.reason);
            }
        }
    }

    #[test]
    fn scores_do_not_change_under_affine_maps(
        values in prop::collection::vec(-1000_i32..1000, 80..300),
        factor in prop::sample::select(vec![0.25_f64, 0.5, 2.0, 8.0]), offset in -64_i32..64,
    ) {
        let (_, plain) = feed(values.iter().map(|value| f64::from(*value)));
        let (_, image) = feed(values.iter().map(|value| f64::from(*value) * factor + f64::from(offset)));
        for (plain, image) in plain.iter().zip(&image) {
            prop_assert!((plain.score.unwrap_or(0.0) - image.score.unwrap_or(0.0)).abs() < 1e-3);
        }
    }

    #[test]
    fn the_tails_are_monotone_and_continuous(values in prop::collection::vec(-100.0_f64..100.0, 100..300), up: bool) {
        let (detector, _) = feed(values);
        let sign = if up { 1.0 } else { -1.0 };
        let score = |far: f64| detector.clone().observe(&Settings::default(), None, u64::MAX / 2, sign * far).score.unwrap();
        // Beyond every feature: a value against what is usual at its time is within 200 for all that was learned.
        let scores: Vec<f64> = [310.0, 350.0, 500.0, 1e3, 1e4, 1e6].into_iter().map(score).collect();
        prop_assert!(scores.windows(2).all(|pair| pair[1] >= pair[0] - 2e-3), "{:?}", scores);
        prop_assert!((score(350.0) - score(350.01)).abs() < 1e-3);
    }

    #[test]
    fn the_same_seed_gives_the_same_verdicts_and_late_points_change_nothing(
        values in prop::collection::vec(-1e6_f64..1e6, 100..300), seed: u64, late in prop::collection::vec(-1e6_f64..1e6, 0..4),
    ) {
        let settings = Settings::default();
        let mut plain = Detector::new(&settings, Shape::Level, seed);
        let mut disturbed = plain.clone();
        for (step, value) in (1000..).zip(&values) {
            let expected = plain.observe(&settings, None, step * MINUTE, *value);
            prop_assert_eq!(disturbed.observe(&settings, None, step * MINUTE, *value), expected);
            for old in &late {
                disturbed.observe(&settings, None, step * MINUTE - 1, *old);
                disturbed.observe(&settings, None, step * MINUTE, *old);
            }
        }
    }

    #[test]
    fn replaying_a_snapshot_equals_never_having_stopped(
        values in prop::collection::vec(-1e3_f64..1e3, 2..400), stop in 0_usize..400, seed: u64,
    ) {
        let settings = Settings::default();
        let mut whole = Detector::new(&settings, Shape::Rate, seed);
        let mut stopped = whole.clone();
        for (step, value) in values.iter().enumerate() {
            if step == stop {
                let mut bytes = Encoder::default();
                stopped.encode(&mut bytes);
                let mut from = Decoder(&bytes.0);
                stopped = Detector::decode(&mut from).expect("what was written can be read");
                prop_assert!(from.0.is_empty());
                for cut in [0, bytes.0.len() / 2, bytes.0.len() - 1] {
                    prop_assert!(Detector::decode(&mut Decoder(&bytes.0[..cut])).is_none());
                }
            }
            let time = START + step as u64 * MINUTE;
            prop_assert_eq!(
                stopped.observe(&settings, None, time, *value), whole.observe(&settings, None, time, *value)
            );
        }
    }

    #[test]
    fn the_depth_in_a_sample_of_single_values_is_that_of_the_closed_form(
        values in prop::collection::btree_set(-10_000_i32..10_000, 1..70), queries in prop::collection::vec(-20_000_i32..20_000, 1..30),
    ) {
        let mut sample = Sample::default();
        for value in &values {
            sample.learn(*value as f32 / 7.0, 80);
        }
        let sorted: Vec<f32> = values.iter().map(|value| *value as f32 / 7.0).collect();
        prop_assert_eq!(sample.values(), sorted.as_slice());
        for query in queries.iter().map(|query| *query as f32 / 7.0).chain(sorted.iter().copied()) {
            let (depth, exact) = (f64::from(sample.depth(query)), super::super::engine::expected_depth(&sorted, query));
            prop_assert!((depth - exact).abs() < 1e-4 * exact, "{query}: {depth}, not {exact}");
        }
    }

    #[test]
    fn samples_ascend_and_stay_within_their_capacity(values in prop::collection::vec(-100_i32..100, 1..900)) {
        let (detector, _) = feed(values.iter().map(|value| f64::from(*value)));
        for sample in &detector.samples {
            prop_assert!(sample.values().windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(sample.values().len() <= 80 && sample.weights().iter().all(|weight| *weight > 0.0));
            prop_assert_eq!(sample.values().len(), sample.weights().len());
        }
    }
}
