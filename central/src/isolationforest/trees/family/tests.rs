//! What a family's forest promises to the role.

use proptest::prelude::*;

use super::resource::{Gathered, MOST_SURPRISE, Part, SIGNALS, Signal, surprise};
use super::*;

fn settings() -> FamilySettings {
    FamilySettings { width: 4, reservoir: 512, horizon_epochs: 100, ..FamilySettings::default() }
}

fn row(random: &mut Random) -> [f32; 4] {
    std::array::from_fn(|_| ((0..4).map(|_| random.unit()).sum::<f64>() as f32 - 2.0) * 2.0)
}

/// A family that has seen `epochs` of 20 rows.
fn lived(epochs: usize, seed: u64) -> FamilyForest {
    let mut family = FamilyForest::new(settings(), seed).unwrap();
    live(&mut family, epochs, &mut Random::new(11));
    family
}

fn live(family: &mut FamilyForest, epochs: usize, random: &mut Random) {
    for _ in 0..epochs {
        for _ in 0..20 {
            family.update(&row(random), false);
        }
        family.rebuild();
    }
}

const ODD: [f32; 4] = [11.0, -11.0, 11.0, 9.0];

#[test]
fn scores_are_zero_until_the_forest_has_grown_and_then_tell_odd_from_usual() {
    let family = lived(3, 1);
    assert_eq!((family.rows(), family.score(&ODD).to_bits()), (60, 0));
    let family = lived(4, 1);
    assert!(family.score(&ODD) > 0.6 && family.score(&[0.0; 4]) < 0.55, "{}", family.score(&ODD));
    let family = lived(60, 1);
    assert_eq!(family.grown().sample(), 256);
    assert!(family.score(&ODD) > 0.7 && family.score(&[0.0; 4]) < 0.5, "{}", family.score(&ODD));
}

#[test]
fn an_eighth_of_the_trees_is_rebuilt_per_epoch_once_the_sample_is_full() {
    let mut family = lived(60, 1);
    let mut random = Random::new(12);
    let mut trees = 0;
    for _ in 0..8 {
        for _ in 0..200 {
            family.update(&row(&mut random), false);
        }
        let rebuild = family.plan().unwrap();
        assert!((6..=7).contains(&rebuild.trees()), "{}", rebuild.trees());
        trees += rebuild.trees();
        family.accept(rebuild.run());
    }
    assert_eq!(trees, 50);
}

#[test]
fn nothing_is_rebuilt_when_nothing_came() {
    let mut family = lived(60, 1);
    for _ in 0..8 {
        family.rebuild();
    }
    assert!(family.plan().is_none());
}

#[test]
fn readers_keep_what_they_hold_while_the_forest_changes() {
    let mut family = lived(30, 1);
    let held = family.grown();
    let before = held.score(&ODD);
    live(&mut family, 30, &mut Random::new(13));
    assert_eq!(held.score(&ODD).to_bits(), before.to_bits());
    assert_ne!(family.grown(), held);
}

#[test]
fn an_incident_does_not_become_the_norm_and_a_lasting_change_does() {
    let mut family = lived(60, 1);
    let before = family.score(&ODD);
    for _ in 0..5 {
        family.update(&ODD, true);
        family.rebuild();
    }
    assert!(family.score(&ODD) > before - 0.1, "{}", family.score(&ODD));
    // A different world from now on: the drift is seen and all trees grow anew.
    let mut all_at_once = false;
    for _ in 0..200 {
        for _ in 0..4 {
            family.update(&ODD, true);
        }
        if let Some(rebuild) = family.plan() {
            all_at_once |= rebuild.trees() == 50;
            family.accept(rebuild.run());
        }
    }
    assert!(all_at_once);
    assert!(family.score(&ODD) < 0.6, "{}", family.score(&ODD));
}

#[test]
fn the_reservoir_is_bounded_and_stands_for_the_horizon() {
    let family = lived(400, 1);
    assert_eq!((family.rows(), family.seen()), (512, 8000));
    // Trees take 300 KiB, the reservoir 8 KiB.
    assert!(family.heap_bytes() < 330_000, "{}", family.heap_bytes());
    // 100 epochs of 20 rows: the rows of the horizon, not all.
    assert!((family.span() - 2000.0).abs() < 100.0, "{}", family.span());
}

#[test]
fn contributions_name_the_signal_that_is_odd() {
    let grown = lived(60, 1).grown();
    let contributions = grown.contributions(&[0.1, 0.2, -12.0, 0.3]);
    assert_eq!(contributions.len(), 4);
    let most = (0..4).max_by(|one, other| contributions[*one].total_cmp(&contributions[*other]));
    assert_eq!(most, Some(2), "{contributions:?}");
    assert!(contributions[2] > 0.1, "{contributions:?}");
}

#[test]
fn a_signal_that_never_moved_counts_when_it_moves() {
    let mut family = FamilyForest::new(settings(), 1).unwrap();
    let mut random = Random::new(2);
    for _ in 0..400 {
        let row = row(&mut random);
        family.update(&[row[0], row[1], 0.0, 0.0], false);
    }
    family.rebuild();
    assert!(family.score(&[0.0, 0.0, 12.0, 0.0]) > family.score(&[0.0; 4]) + 0.05);
}

#[test]
fn a_snapshot_goes_on_as_if_nothing_had_happened() {
    let mut family = lived(37, 5);
    let mut bytes = vec![1, 2, 3];
    family.save(&mut bytes);
    let mut restored = FamilyForest::restore(settings(), &bytes[3..]).unwrap();
    assert_eq!(restored.score(&ODD).to_bits(), family.score(&ODD).to_bits());
    live(&mut family, 50, &mut Random::new(17));
    live(&mut restored, 50, &mut Random::new(17));
    assert_eq!(family.grown(), restored.grown());
    let (mut one, mut other) = (Vec::new(), Vec::new());
    family.save(&mut one);
    restored.save(&mut other);
    assert!(one == other);
}

#[test]
fn foreign_cut_and_damaged_snapshots_are_refused_with_a_reason() {
    let mut bytes = Vec::new();
    lived(37, 5).save(&mut bytes);
    let restore = |bytes: &[u8]| FamilyForest::restore(settings(), bytes).unwrap_err();
    assert_eq!(restore(b"MFF0 something"), SnapshotError::Foreign);
    assert_eq!(restore(&bytes[..4]), SnapshotError::Length);
    for length in [20, 100, 4000, bytes.len() - 1] {
        assert_eq!(restore(&bytes[..length]), SnapshotError::Damaged);
    }
    let other = FamilySettings { sample: 128, ..settings() };
    assert_eq!(FamilyForest::restore(other, &bytes).unwrap_err(), SnapshotError::Settings("sample"));
    let mut turned = bytes.clone();
    turned[200] ^= 4;
    assert_eq!(restore(&turned), SnapshotError::Damaged);
}

#[test]
fn settings_out_of_their_range_are_refused() {
    for change in [
        (|settings| settings.width = 17) as fn(&mut FamilySettings),
        |settings| settings.trees = 0,
        |settings| settings.reservoir = 100,
        |settings| settings.expected_anomalies = 0.5,
    ] {
        let mut settings = settings();
        change(&mut settings);
        assert!(FamilyForest::new(settings, 1).is_err());
    }
}

#[test]
fn names_of_metrics_tell_signals() {
    let cases = [
        ("traces.span.metrics.calls", Part::Value, false, Some(Signal::Rate)),
        ("traces.span.metrics.calls", Part::Value, true, Some(Signal::Errors)),
        ("traces.span.metrics.duration", Part::P99, false, Some(Signal::P99)),
        ("http.server.request.duration", Part::Middle, false, Some(Signal::P50)),
        ("http.server.request.duration", Part::Count, true, Some(Signal::Errors)),
        ("http_server_request_duration_seconds", Part::P95, false, Some(Signal::P95)),
        ("container.cpu.usage", Part::Value, false, Some(Signal::Cpu)),
        ("process_resident_memory_bytes", Part::Value, false, Some(Signal::Memory)),
        ("jvm.gc.duration", Part::P99, false, Some(Signal::Saturation)),
        ("kafka.consumer.lag", Part::Value, false, Some(Signal::Saturation)),
        ("feature.flag.count", Part::Value, false, None),
    ];
    for (name, part, is_error, signal) in cases {
        assert_eq!(Signal::of(name, part, is_error), signal, "{name}");
    }
    assert_eq!(Signal::ALL.map(Signal::place), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn a_resource_is_as_odd_as_its_signals_together_or_its_oddest_series() {
    let mut gathered = Gathered::default();
    assert_eq!(gathered.judge(0.4).score.to_bits(), 0.4_f64.to_bits());
    for (score, signal, bits) in
        [(0.5, Signal::P99, 3.0), (0.9, Signal::P99, -7.0), (0.7, Signal::Cpu, 40.0), (0.1, Signal::Cpu, 1.0)]
    {
        gathered.add(score, Some(signal), bits);
    }
    let mut row = [0.0; SIGNALS];
    (row[Signal::P99.place()], row[Signal::Cpu.place()]) = (-7.0, MOST_SURPRISE);
    assert_eq!((*gathered.row(), gathered.series()), (row, 4));
    let judged = gathered.judge(0.3);
    assert!((judged.series - 0.7).abs() < 1e-6 && judged.score.to_bits() == judged.series.to_bits());
    assert_eq!(gathered.judge(0.95).score.to_bits(), 0.95_f64.to_bits());
}

proptest! {
    #[test]
    fn property_surprise_is_bounded_and_signed(probability: f64, is_above: bool) {
        let bits = surprise(probability, is_above);
        prop_assert!(bits.abs() <= MOST_SURPRISE);
        prop_assert!(bits == 0.0 || (bits > 0.0) == is_above);
    }

    #[test]
    fn property_a_snapshot_that_is_changed_anywhere_is_refused(at in 0..3000_usize, bit in 0..8_u8) {
        let mut bytes = Vec::new();
        lived(4, 5).save(&mut bytes);
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        prop_assert!(FamilyForest::restore(settings(), &bytes).is_err());
    }

    #[test]
    fn property_rows_in_batches_score_as_alone(values in prop::collection::vec(-12.0..12.0_f32, 4..200)) {
        let grown = lived(10, 3).grown();
        let values = &values[..values.len() / 4 * 4];
        let mut scores = Vec::new();
        grown.score_batch(values, &mut scores);
        for (row, score) in values.chunks(4).zip(scores) {
            prop_assert_eq!(score.to_bits(), grown.score(row).to_bits());
        }
    }
}
