//! Vectors of the closed form and its laws.

use proptest::prelude::*;

use super::*;

fn depth(sample: &[f32], query: f32) -> f64 {
    expected_depth(sample, query)
}

#[test]
fn average_depth_is_exact() {
    let expected = [
        (0, 0.0),
        (1, 0.0),
        (2, 1.0),
        (3, 1.66667),
        (4, 2.16667),
        (8, 3.43571),
        (16, 4.76146),
        (64, 7.48778),
        (256, 10.24869),
        (512, 11.63303),
        (1024, 13.01835),
    ];
    for (points, depth) in expected {
        assert!((average_depth(points) - depth).abs() < 5e-6, "c({points}) = {}", average_depth(points));
    }
    assert!((average_depth(1026) - average_depth(1025)).abs() < 0.01, "the approximation continues the table");
}

#[test]
fn expected_depth_matches_the_vectors() {
    let ramp: Vec<f32> = (0..8_u8).map(f32::from).collect();
    let cases: [(&[f32], f32, f64); 5] = [
        (&[0.0, 1.0, 2.0, 4.0], 3.0, 2.8333),
        (&[0.0, 1.0, 2.0, 4.0], 10.0, 1.4611),
        (&[0.0, 1.0, 2.0, 4.0], -1.0, 2.2333),
        (&[0.0, 10.0], 5.0, 2.0),
        (&ramp, 3.5, 4.7048),
    ];
    for (sample, query, expected) in cases {
        assert!((depth(sample, query) - expected).abs() < 1e-4, "{sample:?} {query}: {}", depth(sample, query));
    }
}

#[test]
fn expected_depth_agrees_with_range_aware_trees() {
    // Bimodal: the gap between the modes is found, which a z-score cannot do.
    let mut sample: Vec<f32> = (0..45_u8).map(|step| f32::from(step) / 45.0 - 0.5).collect();
    sample.extend((0..45_u8).map(|step| f32::from(step) / 45.0 + 7.5));
    sample.sort_by(f32::total_cmp);
    let mut rng = 7;
    for query in [0.013_f32, 3.9, 12.0, 40.0, -2.5] {
        let trees = 5_000;
        let mean = (0..trees).map(|_| f64::from(isolate(&sample, query, &mut rng))).sum::<f64>() / f64::from(trees);
        let closed = depth(&sample, query);
        assert!((closed - mean).abs() < 0.05 * mean + 0.05, "{query}: closed {closed}, trees {mean}");
    }
}

/// `SplitMix64`, uniform in `[0, 1)`.
fn uniform(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 31)) >> 40) as f32 / (1_u64 << 24) as f32
}

/// One random range-aware isolation path: the depth at which the query is alone.
fn isolate(sample: &[f32], query: f32, rng: &mut u64) -> u32 {
    let mut rest = sample;
    let mut depth = 0;
    while !rest.is_empty() {
        let low = rest[0].min(query);
        let high = rest[rest.len() - 1].max(query);
        let cut = low + (high - low) * uniform(rng);
        let at = rest.partition_point(|value| *value <= cut);
        rest = if query <= cut { &rest[..at] } else { &rest[at..] };
        depth += 1;
    }
    depth
}

proptest! {
    #[test]
    fn depth_is_between_one_and_the_number_of_distinct_points(
        mut sample in prop::collection::btree_set(-10_000_i32..10_000, 2..300), query in -20_000_i32..20_000,
    ) {
        sample.remove(&query);
        prop_assume!(sample.len() >= 2);
        let sorted: Vec<f32> = sample.iter().map(|value| *value as f32).collect();
        let depth = depth(&sorted, query as f32);
        prop_assert!(depth >= 1.0 - 1e-5);
        prop_assert!(depth <= sorted.len() as f64 + average_depth(sorted.len()) + 1e-3, "{depth}");
    }

    #[test]
    fn depth_does_not_change_under_affine_maps(
        sample in prop::collection::btree_set(-1000_i32..1000, 2..100), query in -1500_i32..1500,
        factor in prop::sample::select(vec![-4.0_f32, -1.0, 0.5, 2.0, 8.0]), offset in -64_i32..64,
    ) {
        let sorted: Vec<f32> = sample.iter().map(|value| *value as f32).collect();
        let mut mapped: Vec<f32> = sorted.iter().map(|value| value * factor + offset as f32).collect();
        mapped.sort_by(f32::total_cmp);
        let plain = depth(&sorted, query as f32);
        let image = depth(&mapped, query as f32 * factor + offset as f32);
        // A tie at the very edge of its tolerance may round either way; integers are never there.
        prop_assert!((plain - image).abs() < 1e-3, "{plain} {image}");
    }

    #[test]
    fn the_tails_are_monotone_and_end_at_one(
        sample in prop::collection::vec(-1000.0_f32..1000.0, 2..300), side in prop::bool::ANY,
    ) {
        let mut sorted = sample;
        sorted.sort_by(f32::total_cmp);
        let sign = if side { 1.0 } else { -1.0 };
        let depths: Vec<f64> = [1.1_f32, 1.5, 2.0, 4.0, 16.0, 1024.0, 1e7].iter().map(|far| depth(&sorted, sign * far * 1000.0)).collect();
        prop_assert!(depths.windows(2).all(|pair| pair[1] <= pair[0] + 1e-5), "{depths:?}");
        prop_assert!((depths[6] - 1.0).abs() < 1e-2);
    }

    #[test]
    fn depth_is_continuous_inside_a_gap(
        mut sample in prop::collection::vec(-1000.0_f32..0.0, 20..100), at in 20.0_f32..80.0,
    ) {
        sample.sort_by(f32::total_cmp);
        sample.push(100.0);
        let here = depth(&sample, at);
        prop_assert!((depth(&sample, at + 0.01) - here).abs() < 0.01);
    }

    #[test]
    fn a_duplicate_elsewhere_changes_no_depth(
        sample in prop::collection::btree_set(-1000_i32..1000, 30..100), pick in 0_usize..30, query in 2000_i32..3000,
    ) {
        let sorted: Vec<f32> = sample.iter().map(|value| *value as f32).collect();
        let mut doubled = sorted.clone();
        doubled.insert(pick, sorted[pick]);
        prop_assert!((depth(&sorted, query as f32) - depth(&doubled, query as f32)).abs() < 1e-4);
    }
}
