//! The histogram against the reference implementation and its own laws.

use hdrhistogram::Histogram;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Durations of every magnitude.
fn any_nanos() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0..64_u32).prop_map(|(value, shift)| value >> shift)
}

fn any_counts() -> impl Strategy<Value = Vec<(u64, u64)>> {
    vec((any_nanos(), prop_oneof![1..5_u64, any::<u64>()]), 0..40)
}

fn recorded(counts: &[(u64, u64)]) -> Hdr {
    let mut hdr = Hdr::default();
    for &(nanos, count) in counts {
        hdr.record(nanos, count);
    }
    hdr
}

fn merged(one: &Hdr, other: &Hdr) -> Hdr {
    let mut sum = one.clone();
    sum.merge(other);
    sum
}

fn reference() -> Histogram<u64> {
    Histogram::new_with_bounds(1, u64::MAX, 2).expect("the full range is valid")
}

#[test]
fn the_layout_has_as_many_buckets_as_the_reference() {
    assert_eq!(reference().distinct_values(), BUCKETS);
    assert_eq!(usize::from(index_of(u64::MAX)), BUCKETS - 1);
}

#[test]
fn every_bucket_spans_the_values_that_the_reference_puts_into_it() {
    let reference = reference();
    for index in 0..BUCKETS as u16 {
        let lowest = lowest_of(index);
        assert_eq!(index_of(lowest), index);
        assert_eq!(index_of(middle_of(index)), index);
        assert_eq!(reference.lowest_equivalent(lowest), lowest);
        assert_eq!(index_of(reference.highest_equivalent(lowest)), index);
        if index > 0 {
            assert_eq!(index_of(lowest - 1), index - 1);
        }
    }
}

#[test]
fn counts_saturate_and_never_wrap() {
    let mut hdr = Hdr::default();
    hdr.record(5, u64::MAX - 1);
    hdr.record(5, 3);
    hdr.record(900, 2);
    assert_eq!(hdr.entries(), [(5, u64::MAX), (index_of(900), 2)]);
    assert_eq!(hdr.count(), u64::MAX);
    assert_eq!(merged(&hdr, &hdr).entries()[0], (5, u64::MAX));
}

#[test]
fn an_empty_histogram_has_no_quantile_and_takes_no_memory() {
    let mut hdr = Hdr::default();
    hdr.record(7, 0);
    assert_eq!(hdr.value_at_quantile(0.5), None);
    assert_eq!(hdr.heap_bytes(), 0);
    assert!(hdr.is_empty());
}

#[test]
fn a_histogram_of_every_bucket_holds_all_of_them() {
    let mut hdr = Hdr::default();
    for index in (0..BUCKETS as u16).rev() {
        hdr.add(index, u64::from(index) + 1);
    }
    let expected: Vec<_> = (0..BUCKETS as u16).map(|index| (index, u64::from(index) + 1)).collect();
    assert_eq!(hdr.entries(), expected);
}

proptest! {
    #[test]
    fn property_a_value_read_back_is_off_by_at_most_one_percent(nanos in any_nanos()) {
        let back = middle_of(index_of(nanos));
        prop_assert!(back.abs_diff(nanos) as f64 <= nanos as f64 * 0.01, "{nanos} became {back}");
    }

    #[test]
    fn property_quantiles_are_those_of_the_values_within_one_percent(
        mut values in vec(any_nanos(), 1..200),
        quantile in 0.0..=1.0_f64,
    ) {
        let mut reference = reference();
        let mut hdr = Hdr::default();
        for value in &values {
            hdr.record(*value, 1);
            reference.record(*value).expect("in range");
        }
        values.sort_unstable();
        let rank = ((quantile * values.len() as f64).ceil() as usize).clamp(1, values.len());
        let exact = values[rank - 1];
        let got = hdr.value_at_quantile(quantile).expect("not empty");
        prop_assert!(got.abs_diff(exact) as f64 <= exact as f64 * 0.01, "{exact} became {got}");
        prop_assert!(reference.equivalent(got, exact));
    }

    #[test]
    fn property_counts_per_bucket_equal_the_reference(counts in vec((any_nanos(), 1..1000_u64), 0..60)) {
        let mut reference = reference();
        for &(nanos, count) in &counts {
            reference.record_n(nanos, count).expect("in range");
        }
        let theirs: Vec<_> = reference
            .iter_recorded()
            .map(|step| (index_of(step.value_iterated_to()), step.count_at_value()))
            .collect();
        prop_assert_eq!(recorded(&counts).entries(), theirs);
    }

    #[test]
    fn property_merge_is_associative_commutative_and_has_an_identity(
        a in any_counts(), b in any_counts(), c in any_counts(),
    ) {
        let [x, y, z] = [&a, &b, &c].map(|counts| recorded(counts));
        prop_assert_eq!(merged(&merged(&x, &y), &z), merged(&x, &merged(&y, &z)));
        prop_assert_eq!(merged(&x, &y), merged(&y, &x));
        prop_assert_eq!(merged(&x, &Hdr::default()), x.clone());
        prop_assert_eq!(merged(&x, &y), recorded(&[a, b].concat()));
    }
}
