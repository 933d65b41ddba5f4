//! Quantiles against a naive walk, and counters that begin again.

use proptest::prelude::*;

use super::*;

/// `histogram_quantile` as its documentation says it, over counts per bucket.
fn naive(bounds: &[f64], counts: &[f64], quantile: f64) -> Option<f64> {
    let total: f64 = counts.iter().sum();
    if total == 0.0 {
        return None;
    }
    let mut rank = quantile * total;
    for (index, count) in counts.iter().enumerate() {
        if rank <= *count {
            let lower = if index == 0 { 0.0 } else { bounds[index - 1] };
            let Some(upper) = bounds.get(index) else { return Some(lower) };
            return Some(if *count > 0.0 { lower + (upper - lower) * rank / count } else { *upper });
        }
        rank -= count;
    }
    bounds.last().copied()
}

proptest! {
    #[test]
    fn a_quantile_is_what_a_naive_walk_finds(counts in prop::collection::vec(0..50_u32, 5), quantile in 0.01..0.999_f64) {
        let bounds = [2.0, 4.0, 10.0, 250.0];
        let counts: Vec<f64> = counts.into_iter().map(f64::from).collect();
        let mut buckets = Buckets::default();
        let mut below = 0.0;
        for (index, count) in counts.iter().enumerate() {
            below += count;
            buckets.add(&bounds.get(index).map_or("+Inf".to_owned(), f64::to_string), below);
        }
        match (buckets.quantile(quantile, 1.0), naive(&bounds, &counts, quantile)) {
            (None, None) => {}
            (Some(found), Some(expected)) => {
                prop_assert!((found - expected).abs() < 1e-6 * (1.0 + expected), "{found} for {expected}");
            }
            other => prop_assert!(false, "{other:?}"),
        }
    }
}

#[test]
fn bounds_sort_by_value_and_the_scale_makes_milliseconds() {
    let mut buckets = Buckets::default();
    for (le, count) in [("+Inf", 10.0), ("0.002", 0.0), ("10", 10.0), ("0.5", 10.0), ("not a number", 99.0)] {
        buckets.add(le, count);
    }
    assert_eq!(buckets.quantile(0.5, 1000.0), Some(251.0));
    assert_eq!(Buckets::default().quantile(0.5, 1.0), None);
}
