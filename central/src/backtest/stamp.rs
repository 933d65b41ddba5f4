//! Timestamps as they stand in files.
//!
//! RFC 3339, the same with a blank for the `T` (the form of the Numenta Anomaly Benchmark), and numbers of seconds,
//! milliseconds, microseconds or nanoseconds since the Unix epoch. A time without an offset is UTC.
//!
//! Never: guesses a day-month order; reads a clock.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

const NANOS: u128 = 1_000_000_000;

/// Numbers below are seconds (until the year 5138), those below a thousand times it milliseconds, and so on; a unit
/// is misread only for the first three years after 1970.
const SECONDS_BELOW: u128 = 100_000_000_000;

/// The time of a text in nanoseconds since the Unix epoch; `None` when it is no time or before 1970.
pub(super) fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return number(text);
    }
    written(text).or_else(|| text.contains(['e', 'E']).then(|| text.parse().ok().and_then(seconds)).flatten())
}

/// Whether a text is a time that cannot be taken for a plain number.
pub(super) fn is_written(text: &str) -> bool {
    written(text.trim()).is_some()
}

/// Seconds with a fraction, as Prometheus writes them.
pub(super) fn seconds(value: f64) -> Option<u64> {
    // Microseconds are what a double still tells apart in this century.
    let micros = (value * 1e6).round();
    (0.0..1e16).contains(&micros).then(|| micros as u64 * 1_000)
}

fn written(text: &str) -> Option<u64> {
    // The shortest form is a date, `2014-04-01`.
    if text.len() < 10 || text.as_bytes()[4] != b'-' {
        return None;
    }
    let instant = text
        .parse::<Timestamp>()
        .or_else(|_| text.parse::<DateTime>().and_then(|civil| TimeZone::UTC.to_timestamp(civil)))
        .ok()?;
    u64::try_from(instant.as_nanosecond()).ok()
}

/// Exact for as many digits as a nanosecond needs.
fn number(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() || whole.len() > 20 || fraction.contains('.') {
        return None;
    }
    let whole: u128 = whole.parse().ok()?;
    let mut unit = NANOS;
    let mut bound = SECONDS_BELOW;
    while whole >= bound && unit > 1 {
        unit /= 1_000;
        bound *= 1_000;
    }
    let mut rest = 0;
    let mut place = unit;
    for digit in fraction.bytes() {
        place /= 10;
        rest += u128::from(digit - b'0') * place;
    }
    u64::try_from(whole * unit + rest).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_396_310_400_000_000_000;

    #[test]
    fn every_way_to_write_an_instant_is_read() {
        for text in [
            "2014-04-01 00:00:00",
            " 2014-04-01T00:00:00Z ",
            "2014-04-01 00:00:00.000000",
            "2014-04-01T02:00:00+02:00",
            "2014-04-01T00:00:00",
            "2014-04-01",
            "1396310400",
            "1396310400.000",
            "1396310400000",
            "1396310400000000",
            "1396310400000000000",
            "1.3963104e9",
        ] {
            assert_eq!(parse(text), Some(START), "{text}");
        }
    }

    #[test]
    fn fractions_are_kept_to_the_nanosecond() {
        assert_eq!(parse("2014-04-01 00:00:00.123"), Some(START + 123_000_000));
        assert_eq!(parse("1396310400.123456789"), Some(START + 123_456_789));
        assert_eq!(parse("1396310400123.5"), Some(START + 123_500_000));
        assert_eq!(seconds(1_396_310_400.25), Some(START + 250_000_000));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in
            ["", "yesterday", "2014-13-01", "1969-12-31", "-5", "1.2.3", "NaN", "01/04/2014", "..", "2014-04-01x"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
        assert!(!is_written("1396310400") && is_written("2014-04-01"));
    }

    proptest::proptest! {
        #[test]
        fn property_any_text_is_answered_without_a_panic(text in "\\PC{0,40}", digits in "[0-9.eE+-]{0,40}") {
            parse(&text);
            parse(&digits);
        }
    }
}
