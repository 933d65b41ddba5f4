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

fn coarsened(mut hdr: Hdr, times: u8) -> Hdr {
    (0..times).for_each(|_| {
        hdr.coarsen();
    });
    hdr
}

proptest! {
    #[test]
    fn coarsening_keeps_every_count_and_halves_the_resolution(counts in any_counts(), times in 0..=7_u8, nanos in any_nanos()) {
        let fine = recorded(&counts);
        let coarse_one = coarsened(fine.clone(), times);
        prop_assert_eq!(coarse_one.count(), fine.count());
        prop_assert_eq!(coarse_one.coarseness(), times);
        // What is counted before and what is counted afterwards is counted alike.
        let mut afterwards = coarsened(Hdr::default(), times);
        for (nanos, count) in &counts {
            afterwards.record(*nanos, *count);
        }
        prop_assert_eq!(&coarse_one, &afterwards);
        let mut one = coarsened(Hdr::default(), times);
        one.record(nanos, 1);
        let read = one.value_at_quantile(0.5).unwrap();
        // Half of the coarse bucket, and half of the fine one that stands for it.
        let most = nanos as f64 * f64::from((1_u32 << times) + 1) / 256.0 + f64::from(1_u32 << times);
        prop_assert!((read as f64 - nanos as f64).abs() <= most, "{} is read back as {}", nanos, read);
    }

    #[test]
    fn merging_is_associative_and_commutative_whatever_the_resolutions(
        parts in proptest::array::uniform3((any_counts(), 0..=13_u8)),
    ) {
        let [a, b, c] = parts.map(|(counts, times)| coarsened(recorded(&counts), times));
        prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
        prop_assert_eq!(merged(&a, &b), merged(&b, &a));
        prop_assert_eq!(merged(&a, &b).coarseness(), a.coarseness().max(b.coarseness()));
    }

    #[test]
    fn the_largest_are_coarsened_until_all_fit(all in vec(any_counts(), 1..20), limit in 0..4_000_usize) {
        let before: Vec<_> = all.iter().map(|counts| recorded(counts)).collect();
        let mut after = before.clone();
        let (times, bytes) = coarsen_largest(&mut after.iter_mut().collect::<Vec<_>>(), limit);
        prop_assert_eq!(bytes, after.iter().map(Hdr::heap_bytes).sum::<usize>());
        prop_assert_eq!(times, after.iter().map(|hdr| u64::from(hdr.coarseness())).sum::<u64>());
        prop_assert!(bytes <= limit || after.iter().all(|hdr| hdr.entries().len() <= 1));
        for (before, after) in before.iter().zip(&after) {
            prop_assert_eq!(before.count(), after.count());
        }
    }
}

#[test]
fn the_coarsest_histogram_has_one_bucket() {
    let mut hdr = recorded(&[(1, 1), (1_000, 2), (u64::MAX, 3)]);
    while hdr.coarsen() {}
    assert_eq!(hdr.entries().iter().map(|entry| entry.1).collect::<Vec<_>>(), [6]);
    hdr.record(77, 1);
    assert_eq!((hdr.entries().len(), hdr.count()), (1, 7));
}
