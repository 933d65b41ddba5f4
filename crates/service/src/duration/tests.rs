//! Go's syntax: accepted, refused, printed.

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::*;

#[test]
fn go_durations_are_read_as_go_reads_them() {
    let cases = [
        ("0", 0),
        ("0s", 0),
        ("+5s", 5_000_000_000),
        ("1h2m3.5s", 3_723_500_000_000),
        ("250ms", 250_000_000),
        ("100us", 100_000),
        ("100µs", 100_000),
        ("100μs", 100_000),
        ("1.5h", 5_400_000_000_000),
        (".5s", 500_000_000),
        ("1.s", 1_000_000_000),
        ("1s1s", 2_000_000_000),
        ("3ns", 3),
        ("0.9ns", 0),
        ("1.0000000001s", 1_000_000_000),
        ("0.000000001000000000000000000000000000000000001s", 1),
        ("9223372036854775807ns", i64::MAX as u128),
        ("2562047h47m16.854775807s", i64::MAX as u128),
    ];
    for (text, nanos) in cases {
        assert_eq!(parse(text).map(|duration| duration.as_nanos()), Ok(nanos), "{text}");
    }
}

#[test]
fn what_is_no_duration_is_refused_and_says_why() {
    use DurationError as E;
    let owned = str::to_owned;
    assert_eq!(parse(""), Err(E::Empty));
    assert_eq!(parse("  "), Err(E::Empty));
    assert_eq!(parse("-5s"), Err(E::Negative(owned("-5s"))));
    assert_eq!(parse("-0"), Err(E::Negative(owned("-0"))));
    assert_eq!(parse("15"), Err(E::MissingUnit(owned("15"))));
    assert_eq!(parse("1h30"), Err(E::MissingUnit(owned("1h30"))));
    assert_eq!(parse("5d"), Err(E::UnknownUnit { text: owned("5d"), unit: owned("d") }));
    assert_eq!(parse("5 s"), Err(E::UnknownUnit { text: owned("5 s"), unit: owned(" s") }));
    assert_eq!(parse("+"), Err(E::Malformed(owned("+"))));
    assert_eq!(parse("."), Err(E::Malformed(owned("."))));
    assert_eq!(parse(".s"), Err(E::Malformed(owned(".s"))));
    assert_eq!(parse("soon"), Err(E::Malformed(owned("soon"))));
    assert_eq!(parse("9223372036854775808ns"), Err(E::TooLong(owned("9223372036854775808ns"))));
    assert_eq!(parse("99999999999999999999999h"), Err(E::TooLong(owned("99999999999999999999999h"))));
    assert!(parse("5d").unwrap_err().to_string().contains("ns, us, ms, s, m, h"));
}

#[test]
fn durations_are_printed_in_their_shortest_exact_form() {
    let cases = [
        (0, "0s"),
        (1, "1ns"),
        (1_500, "1.5us"),
        (250_000_000, "250ms"),
        (1_000_000_000, "1s"),
        (90_000_000_000, "1m30s"),
        (3_600_000_000_000, "1h"),
        (3_600_000_000_001, "1h0.000000001s"),
        (3_723_500_000_000, "1h2m3.5s"),
    ];
    for (nanos, text) in cases {
        assert_eq!(format(Duration::from_nanos(nanos)), text);
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Keys {
    #[serde(with = "crate::duration")]
    wait: Duration,
    #[serde(default, with = "crate::duration::option")]
    limit: Option<Duration>,
    list: Vec<GoDuration>,
}

#[test]
fn serde_adapters_read_and_write_fields_options_and_lists() {
    let keys: Keys = serde_json::from_str(r#"{"wait":"5s","list":["2ms","1h"]}"#).unwrap();
    let list = vec![GoDuration(Duration::from_millis(2)), GoDuration(Duration::from_hours(1))];
    assert_eq!(keys, Keys { wait: Duration::from_secs(5), limit: None, list });
    assert_eq!(serde_json::to_string(&keys).unwrap(), r#"{"wait":"5s","limit":null,"list":["2ms","1h"]}"#);
    let error = serde_json::from_str::<Keys>(r#"{"wait":5,"list":[]}"#).unwrap_err().to_string();
    assert!(error.contains("a duration like"), "{error}");
}

proptest! {
    #[test]
    fn what_is_printed_reads_back_to_the_same_nanosecond(nanos in 0..=i64::MAX as u64) {
        let duration = Duration::from_nanos(nanos);
        prop_assert_eq!(parse(&format(duration)), Ok(duration));
    }

    #[test]
    fn any_text_is_read_or_refused_without_a_panic(text in "\\PC{0,24}") {
        if let Ok(duration) = parse(&text) {
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }
    }

    #[test]
    fn texts_made_of_its_letters_are_read_or_refused_without_a_panic(text in "[-+0-9.nuµmsh]{0,40}") {
        if let Ok(duration) = parse(&text) {
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }
    }
}
