//! The laws of merging points.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const BOUNDS: [u64; 4] = [0, 1_000, 2_000_000, 15_000_000_000];

/// Durations with what counts them, bounds and values beside them among the durations.
type Spans = Vec<(u64, u64, u64)>;

fn any_spans() -> impl Strategy<Value = Spans> {
    let on_a_bound = (0..BOUNDS.len(), -1..=1_i64).prop_map(|(at, off)| BOUNDS[at].saturating_add_signed(off));
    let nanos = prop_oneof![(any::<u64>(), 0..64_u32).prop_map(|(v, s)| v >> s), on_a_bound];
    let weight = prop_oneof![1..4_u64, any::<u64>()];
    vec((nanos, weight, 1..50_u64), 0..12)
}

fn recorded(spans: &[(u64, u64, u64)]) -> Point {
    let mut point = Point::default();
    for &(nanos, weight, _) in spans {
        point.record(nanos, weight, &BOUNDS);
    }
    point.exemplars = Exemplars::select(spans.iter().map(|&(value_nanos, _, id)| Exemplar {
        trace_id: [1; 16],
        span_id: id.to_le_bytes(),
        value_nanos,
        time_unix_nano: id,
    }));
    point
}

fn any_point() -> impl Strategy<Value = Point> {
    any_spans().prop_map(|spans| recorded(&spans))
}

fn merged(one: &Point, other: &Point) -> Point {
    let mut sum = one.clone();
    sum.merge(other);
    sum
}

#[test]
fn a_duration_equal_to_a_bound_is_in_that_bounds_bucket() {
    let expected = [(0, 0), (1, 1), (999, 1), (1_000, 1), (1_001, 2), (15_000_000_000, 3), (u64::MAX, 4)];
    for (nanos, bucket) in expected {
        assert_eq!(bucket_of(&BOUNDS, nanos), bucket, "{nanos}");
    }
    assert_eq!(bucket_of(&[], 3), 0);
}

#[test]
fn numbers_saturate_and_never_wrap() {
    let mut point = Point::default();
    for _ in 0..3 {
        point.record(u64::MAX, u64::MAX, &BOUNDS);
    }
    assert_eq!(point.calls, u64::MAX);
    assert_eq!(point.buckets, [0, 0, 0, 0, u64::MAX]);
    assert_eq!(point.sum_nanos, u128::MAX);
    assert_eq!(point.hdr.count(), u64::MAX);
}

proptest! {
    /// Exactness: merged parts are what one recording of all spans is, and that is what is counted by hand,
    /// bucket for bucket as `le` includes its bound.
    #[test]
    fn property_merged_parts_equal_the_whole_and_a_count_by_hand(spans in any_spans(), cut in any::<prop::sample::Index>()) {
        let (left, right) = spans.split_at(cut.index(spans.len() + 1));
        let whole = recorded(&spans);
        prop_assert_eq!(&merged(&recorded(left), &recorded(right)), &whole);
        let sum = |wanted: &dyn Fn(u64) -> bool| {
            spans.iter().filter(|span| wanted(span.0)).fold(0_u64, |sum, span| sum.saturating_add(span.1))
        };
        prop_assert_eq!(whole.calls, sum(&|_| true));
        let nanos = spans.iter().map(|span| u128::from(span.0) * u128::from(span.1));
        prop_assert_eq!(whole.sum_nanos, nanos.fold(0_u128, u128::saturating_add));
        for (at, count) in whole.buckets.iter().enumerate() {
            let above = |nanos| at == 0 || nanos > BOUNDS[at - 1];
            let within = |nanos| at == BOUNDS.len() || nanos <= BOUNDS[at];
            prop_assert_eq!(*count, sum(&|nanos| above(nanos) && within(nanos)), "bucket {}", at);
        }
    }

    #[test]
    fn property_merge_is_associative_commutative_and_has_an_identity(
        a in any_point(), b in any_point(), c in any_point(),
    ) {
        prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
        prop_assert_eq!(merged(&a, &b), merged(&b, &a));
        prop_assert_eq!(merged(&a, &Point::default()), a.clone());
        prop_assert_eq!(merged(&Point::default(), &a), a);
    }
}
