//! Laws of the forest, and truths that were derived or computed elsewhere.

use proptest::prelude::*;

use super::super::engine::average_depth;
use super::*;

const MODES: [Mode; 4] = [Mode::Classic, Mode::RangeAware, Mode::Density, Mode::Combined];

fn settings(mode: Mode) -> Settings {
    Settings { mode, trees: 20, sample: 64, depth: None }
}

fn fit(values: &[f64], width: usize, settings: &Settings, seed: u64) -> Forest {
    Forest::fit(Rows::new(values, width).unwrap(), settings, seed).unwrap()
}

/// Rows with a dense core and some that stray.
fn cloud(rows: usize, width: usize, seed: u64) -> Vec<f64> {
    let mut random = random::Random::new(seed);
    (0..rows * width)
        .map(|index| {
            let core: f64 = (0..6).map(|_| random.unit()).sum::<f64>() - 3.0;
            if (index / width).is_multiple_of(20) { core * 4.0 + 2.0 } else { core }
        })
        .collect()
}

/// Expected depth of `query` among all of `points` by many trees without a height limit that matters.
fn depth_of(points: &[f64], query: f64) -> f64 {
    let settings = Settings { mode: Mode::RangeAware, trees: 10_000, sample: points.len(), depth: Some(9) };
    let forest = fit(points, 1, &settings, 3);
    -forest.score(&[query]).log2() * average_depth(points.len())
}

/// The closed form in one dimension: a gap's cut lies on the query's path when it rings before all nearer gaps.
fn closed_form(points: &[f64], query: f64) -> f64 {
    let side = |mut side: Vec<f64>| {
        side.sort_by(f64::total_cmp);
        let mut nearer = 0.0;
        let mut sum = 0.0;
        for distance in side {
            sum += (distance - nearer) / distance;
            nearer = distance;
        }
        sum
    };
    let above = points.iter().filter(|point| **point > query).map(|point| point - query).collect();
    let below = points.iter().filter(|point| **point < query).map(|point| query - point).collect();
    side(above) + side(below)
}

#[test]
fn the_average_path_has_the_values_of_the_paper_and_of_scikit_learn() {
    let truths = [
        (3, 1.66667, 1.20739),
        (4, 2.16667, 1.85166),
        (8, 3.43571, 3.29625),
        (16, 4.76146, 4.69553),
        (64, 7.48778, 7.47195),
        (256, 10.24869, 10.24477),
        (512, 11.63303, 11.63108),
        (1024, 13.01835, 13.01737),
    ];
    for (points, exact, logarithm) in truths {
        assert!((average_depth(points) - exact).abs() < 6e-6, "{points}: {}", average_depth(points));
        assert!((average_path(points) - logarithm).abs() < 6e-6, "{points}: {}", average_path(points));
    }
    for average in [average_path, average_depth] {
        assert_eq!([0, 1, 2].map(|points| average(points).to_bits()), [0.0, 0.0, 1.0_f64].map(f64::to_bits));
    }
}

#[test]
fn range_aware_trees_agree_with_the_closed_form_in_one_dimension() {
    let (few, eight) = ([0.0, 1.0, 2.0, 4.0], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    let truths: [(&[f64], f64, f64); 5] = [
        (&few, 3.0, 2.8333),
        (&few, 10.0, 1.4611),
        (&few, -1.0, 2.2333),
        (&[0.0, 10.0], 5.0, 2.0),
        (&eight, 3.5, 4.7048),
    ];
    for (points, query, depth) in truths {
        assert!((closed_form(points, query) - depth).abs() < 1e-4, "{query} in {points:?}");
        let trees = depth_of(points, query);
        // Depths vary by less than 1.2 from tree to tree: four standard errors of 10,000 trees.
        assert!((trees - depth).abs() < 0.05, "{query} in {points:?}: {trees}, not {depth}");
    }
}

#[test]
fn a_gap_between_two_modes_and_the_far_outside_agree_with_the_closed_form() {
    let mut random = random::Random::new(5);
    let points: Vec<f64> =
        (0..90).map(|index| if index < 60 { random.unit() * 2.0 } else { 6.0 + random.unit() * 3.0 }).collect();
    let settings = Settings { mode: Mode::RangeAware, trees: 4000, sample: 90, depth: Some(12) };
    let forest = fit(&points, 1, &settings, 4);
    for query in [-2.5, 1.0, 3.9, 12.0, 40.0] {
        let (trees, exact) = (-forest.score(&[query]).log2() * average_depth(90), closed_form(&points, query));
        assert!((trees / exact - 1.0).abs() < 0.03, "{query}: {trees}, not {exact}");
    }
}

#[test]
fn a_point_twice_in_the_sample_does_not_move_the_depth_of_others() {
    for (query, depth) in [(3.0, 2.8333), (10.0, 1.4611), (-1.0, 2.2333)] {
        let trees = depth_of(&[0.0, 1.0, 1.0, 1.0, 2.0, 4.0], query);
        assert!((trees - depth).abs() < 0.05, "{query}: {trees}, not {depth}");
    }
}

#[test]
fn a_row_that_strays_scores_higher_than_the_core_in_every_mode() {
    let values = cloud(2000, 3, 1);
    for mode in MODES {
        let forest = fit(&values, 3, &settings(mode), 2);
        let (core, stray) = (forest.score(&[0.0, 0.0, 0.0]), forest.score(&[9.0, -7.0, 8.0]));
        assert!(core + 0.15 < stray, "{mode:?}: {core} and {stray}");
    }
}

#[test]
fn far_outside_the_sample_only_the_range_aware_score_still_grows() {
    let values = cloud(1000, 2, 1);
    let near_and_far = |mode| {
        let forest = fit(&values, 2, &settings(mode), 2);
        (forest.score(&[30.0, 0.0]), forest.score(&[3000.0, 0.0]))
    };
    let (near, far) = near_and_far(Mode::Classic);
    assert_eq!(near.to_bits(), far.to_bits());
    let (near, far) = near_and_far(Mode::RangeAware);
    assert!(far > near, "{near} and {far}");
}

#[test]
fn a_single_row_and_rows_that_are_all_alike_are_ordinary() {
    for mode in MODES {
        for rows in [1, 100] {
            let score = fit(&vec![3.5; rows * 2], 2, &settings(mode), 1).score(&[3.5, 3.5]);
            assert!((0.4..=0.55).contains(&score), "{mode:?}, {rows} rows: {score}");
        }
    }
    let classic = fit(&[1.0, 2.0], 2, &settings(Mode::Classic), 1);
    assert_eq!(classic.score(&[7.0, 7.0]).to_bits(), 0.5_f64.to_bits());
}

#[test]
fn a_feature_that_never_varied_counts_only_for_a_row_that_differs_in_it() {
    let plain = cloud(500, 2, 3);
    let with_constant: Vec<f64> = plain.chunks(2).flat_map(|row| [row[0], 7.0, row[1]]).collect();
    for mode in [Mode::Classic, Mode::RangeAware, Mode::Density] {
        let forest = fit(&with_constant, 3, &settings(mode), 2);
        let (usual, odd) = (forest.score(&[0.1, 7.0, 0.2]), forest.score(&[0.1, 7.5, 0.2]));
        if mode == Mode::RangeAware {
            assert!(odd > usual + 0.1, "{usual} and {odd}");
        } else {
            assert_eq!(usual.to_bits(), odd.to_bits(), "{mode:?}");
        }
    }
}

#[test]
fn a_missing_value_stands_for_the_median_and_an_infinite_one_is_beyond_all() {
    let mut values = cloud(501, 2, 3);
    values[7] = f64::NAN;
    values[20] = f64::INFINITY;
    let mut first: Vec<f64> = values.iter().copied().step_by(2).filter(|value| value.is_finite()).collect();
    first.sort_by(f64::total_cmp);
    let median = first[first.len() / 2];
    for mode in MODES {
        let forest = fit(&values, 2, &settings(mode), 2);
        assert_eq!(forest.score(&[f64::NAN, 0.5]).to_bits(), forest.score(&[median, 0.5]).to_bits(), "{mode:?}");
        assert_eq!(forest.score(&[]).to_bits(), forest.score(&[f64::NAN, f64::NAN]).to_bits(), "{mode:?}");
        assert!(forest.score(&[f64::INFINITY, 0.5]) >= forest.score(&[1e6, 0.5]), "{mode:?}");
        assert!(forest.score(&[f64::NEG_INFINITY, f64::INFINITY]) <= 1.0, "{mode:?}");
    }
    let nothing = fit(&[f64::NAN; 8], 2, &settings(Mode::Combined), 1);
    assert!(nothing.score(&[1.0, f64::NAN]).is_finite());
}

#[test]
fn settings_out_of_their_range_are_named() {
    let values = [1.0, 2.0];
    let rows = Rows::new(&values, 1).unwrap();
    let error = |change: fn(&mut Settings)| {
        let mut settings = Settings::default();
        change(&mut settings);
        Forest::fit(rows, &settings, 0).unwrap_err()
    };
    assert_eq!(error(|settings| settings.trees = 0), SettingsError::Trees(0));
    assert_eq!(error(|settings| settings.sample = 0), SettingsError::Sample(0));
    assert_eq!(error(|settings| settings.depth = Some(17)), SettingsError::Depth(17));
    assert_eq!(Forest::fit(Rows::new(&[], 1).unwrap(), &Settings::default(), 0), Err(SettingsError::NoRow));
    assert_eq!(Rows::new(&values, 0).unwrap_err(), RowsError::NoFeature);
    assert_eq!(Rows::new(&values, 3).unwrap_err(), RowsError::Ragged { values: 2, width: 3 });
}

#[test]
fn the_combined_score_is_a_rank_among_the_rows_of_the_forest() {
    let values = cloud(4000, 3, 9);
    let rows = Rows::new(&values, 3).unwrap();
    let forest = Forest::fit(rows, &settings(Mode::Combined), 1).unwrap();
    let mut scores = Vec::new();
    forest.score_batch(rows, &mut scores);
    let over = |bound: f64| scores.iter().filter(|score| **score > bound).count() as f64 / scores.len() as f64;
    // The power mean of two ranks lies over .99 for at least half a percent and at most two.
    assert!((0.005..=0.02).contains(&over(0.99)), "{}", over(0.99));
    assert!((0.05..=0.2).contains(&over(0.9)), "{}", over(0.9));
}

fn any_mode() -> impl Strategy<Value = Mode> {
    prop::sample::select(&MODES[..])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn property_scores_are_in_their_range_and_one_by_one_the_same_as_in_a_batch(
        (width, values) in (1..7_usize).prop_flat_map(|width| {
            let value = prop_oneof![8 => -1e3..1e3_f64, 1 => Just(0.0), 1 => any::<f64>()];
            (Just(width), prop::collection::vec(value, width..width * 200))
        }),
        mode in any_mode(),
        seed: u64,
    ) {
        let values = &values[..values.len() / width * width];
        let rows = Rows::new(values, width).unwrap();
        let forest = Forest::fit(rows, &settings(mode), seed).unwrap();
        let mut batch = Vec::new();
        forest.score_batch(rows, &mut batch);
        prop_assert_eq!(batch.len(), rows.len());
        for (row, score) in rows.iter().zip(batch) {
            prop_assert!(score > 0.0 && score <= 1.0, "{} for {:?}", score, row);
            prop_assert_eq!(score.to_bits(), forest.score(row).to_bits());
        }
    }

    #[test]
    fn property_the_same_seed_grows_the_same_forest_and_another_one_another(seed: u64, mode in any_mode()) {
        let values = cloud(300, 2, 1);
        let forest = fit(&values, 2, &settings(mode), seed);
        prop_assert!(forest == fit(&values, 2, &settings(mode), seed));
        prop_assert!(forest != fit(&values, 2, &settings(mode), seed ^ 1));
    }

    #[test]
    fn property_a_feature_that_is_scaled_and_shifted_changes_no_score(
        factor in prop_oneof![1e-6..1e6_f64, Just(2.0), Just(1e9)],
        shift in -1e4..1e4_f64,
        mode in any_mode(),
    ) {
        // Values in steps of 1/64 and shifts in whole steps: the change itself must not round.
        let shift = (shift * 64.0).round() / 64.0 * factor;
        let plain: Vec<f64> = cloud(400, 3, 5).iter().map(|value| (value * 64.0).round() / 64.0).collect();
        let changed: Vec<f64> = plain.chunks(3).flat_map(|row| [row[0], row[1] * factor + shift, row[2]]).collect();
        let (one, other) = (fit(&plain, 3, &settings(mode), 8), fit(&changed, 3, &settings(mode), 8));
        for row in plain.chunks(3).take(100) {
            let changed = [row[0], row[1] * factor + shift, row[2]];
            let (one, other) = (one.score(row), other.score(&changed));
            prop_assert!((one - other).abs() < 2e-3, "{} became {}", one, other);
        }
    }

    #[test]
    fn property_farther_outside_is_never_less_isolated(start in 5.0..50.0_f64, factor in 1.0..1e6_f64, up: bool) {
        let values = cloud(300, 2, 1);
        let forest = fit(&values, 2, &settings(Mode::RangeAware), 6);
        let sign = if up { 1.0 } else { -1.0 };
        let outside = start + values.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
        let (near, far) = (forest.score(&[0.3, sign * outside]), forest.score(&[0.3, sign * outside * factor]));
        prop_assert!(far >= near, "{} then {}", near, far);
    }

    #[test]
    fn property_ranks_grow_with_the_score(mut scores in prop::collection::vec(0.001..0.999_f64, 1..200)) {
        let ranks = rank::Ranks::of(scores.clone());
        scores.push(1.0);
        scores.sort_by(f64::total_cmp);
        let mut last = 0.0;
        for score in scores {
            let rank = ranks.rank(score);
            prop_assert!(rank >= last && rank <= 1.0, "{} after {}", rank, last);
            last = rank;
        }
    }
}
