//! Reading of thresholds and the mean of adjusted counts.

use proptest::prelude::*;

use super::*;
use crate::identity;

#[test]
fn thresholds_are_read_from_any_place_in_the_trace_state() {
    let cases = [
        ("ot=th:8", Some(1 << 55)),
        ("ot=th:c", Some(3 << 54)),
        ("ot=th:0", Some(0)),
        ("ot=rv:6e6d1a75832a2f;th:fd70a3d70a3d7", Some(0x00fd_70a3_d70a_3d70)),
        ("vendor=a:b, ot=th:8;rv:123 ,x=1", Some(1 << 55)),
        ("ot=th:C", Some(3 << 54)),
        ("ot=th:ffffffffffffff", Some((1 << 56) - 1)),
    ];
    for (text, expected) in cases {
        assert_eq!(threshold(text), expected, "{text}");
    }
}

#[test]
fn what_is_no_threshold_means_not_sampled() {
    let cases = [
        "",
        "ot=",
        "ot=th:",
        "ot=th:xyz",
        "ot=th:+8",
        "ot=rv:8",
        "not=th:8",
        "ot=th:100000000000000",
        "th:8",
        "ot=th:é",
    ];
    for text in cases {
        assert_eq!(threshold(text), None, "{text}");
    }
}

#[test]
fn whole_counts_are_exact() {
    for random in [0, 1, u64::MAX / 2, u64::MAX] {
        assert_eq!(adjusted_count(0, random), 1);
        assert_eq!(adjusted_count(1 << 55, random), 2);
        assert_eq!(adjusted_count(3 << 54, random), 4);
        assert_eq!(adjusted_count((1 << 56) - 1, random), 1 << 56);
        assert_eq!(adjusted_count(u64::MAX, random), 1 << 56);
    }
}

#[test]
fn the_mean_of_many_rounded_counts_is_unbiased() {
    // Keep 70 %, 30 % and 1 %: n = 1.43, 3.33, 100.0...
    for kept in [0.7, 0.3, 0.013] {
        let threshold = ((1.0 - kept) * (1_u64 << 56) as f64) as u64;
        let spans = 200_000_u64;
        let total: u64 =
            (0..spans).map(|span| adjusted_count(threshold, identity::rounding((span * 7 + 1).to_le_bytes()))).sum();
        let mean = total as f64 / spans as f64;
        // The deviation of one rounding is at most 1/2; allow 5 standard errors of the mean.
        let allowed = 5.0 * 0.5 / (spans as f64).sqrt();
        assert!((mean - 1.0 / kept).abs() < allowed, "kept {kept}: mean {mean}");
    }
}

proptest! {
    #[test]
    fn property_a_count_is_one_of_its_neighbouring_integers(t in 0..1_u64 << 56, random in any::<u64>()) {
        let count = adjusted_count(t, random);
        let floor = (1_u64 << 56) / ((1_u64 << 56) - t);
        prop_assert!(count == floor || count == floor + 1);
        prop_assert!(count >= 1);
    }

    #[test]
    fn property_any_text_is_read_without_panic(text in ".{0,40}") {
        let text = format!("ot=th:{text}");
        prop_assert!(threshold(&text).is_none_or(|t| t < 1 << 56));
    }
}
