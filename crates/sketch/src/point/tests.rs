//! The laws of merging points.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const BOUNDS: [u64; 4] = [0, 1_000, 2_000_000, 15_000_000_000];

fn any_point() -> impl Strategy<Value = Point> {
    let nanos = prop_oneof![(any::<u64>(), 0..64_u32).prop_map(|(v, s)| v >> s), Just(1_000), Just(0)];
    let weight = prop_oneof![1..4_u64, any::<u64>()];
    vec((nanos, weight, 1..50_u64), 0..12).prop_map(|spans| {
        let mut point = Point::default();
        for &(nanos, weight, _) in &spans {
            point.record(nanos, weight, &BOUNDS);
        }
        point.exemplars = Exemplars::select(spans.iter().map(|&(value_nanos, _, id)| Exemplar {
            trace_id: [1; 16],
            span_id: id.to_le_bytes(),
            value_nanos,
            time_unix_nano: id,
        }));
        point
    })
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
