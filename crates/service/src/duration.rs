//! Durations in Go's syntax (`1h2m3.5s`, `250ms`, `100us`, `1.5h`, `0`), as the OpenTelemetry
//! Collector's configuration writes them.
//!
//! Use `#[serde(with = "mirador_service::duration")]` together with
//! `#[schemars(with = "mirador_service::duration::GoDuration")]` on a `std::time::Duration` field,
//! [`option`] for an `Option<Duration>`, and [`GoDuration`] in lists.
//!
//! Never negative: every key in our configuration is a wait, an age or a bound, so `-5s` is an
//! error. Printing is exact and parses back to the same value.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text is no duration; the message quotes the text and says what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Nothing between the quotes.
    #[error("a duration is empty; expected one like \"1m30s\" or \"250ms\"")]
    Empty,
    /// A minus sign, where only a wait, an age or a bound makes sense.
    #[error("duration {0:?} is negative; expected zero or more")]
    Negative(String),
    /// A number without a unit (only `0` may stand alone).
    #[error("duration {0:?} has a number without a unit; expected a unit of ns, us, ms, s, m, h")]
    MissingUnit(String),
    /// A unit that Go does not know either.
    #[error("duration {text:?} has the unknown unit {unit:?}; expected ns, us, ms, s, m, h")]
    UnknownUnit {
        /// The whole text.
        text: String,
        /// The unit as written.
        unit: String,
    },
    /// No digits where a number must be.
    #[error("{0:?} is not a duration; expected one like \"1m30s\" or \"250ms\"")]
    Malformed(String),
    /// More than Go's `time.Duration` can hold (about 292 years).
    #[error("duration {0:?} is too long; expected at most 2562047h47m16s")]
    TooLong(String),
}

/// Go's largest `time.Duration`, in nanoseconds.
const MAX_NANOS: u128 = i64::MAX as u128;
const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// Parses Go's syntax: decimal numbers, each with an optional fraction and a unit.
/// A fraction below one nanosecond is cut off, as Go does.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let malformed = || DurationError::Malformed(text.to_owned());
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(DurationError::Empty);
    }
    let body = match trimmed.as_bytes()[0] {
        b'-' => return Err(DurationError::Negative(text.to_owned())),
        b'+' => &trimmed[1..],
        _ => trimmed,
    };
    if body == "0" {
        return Ok(Duration::ZERO);
    }
    if body.is_empty() {
        return Err(malformed());
    }
    let mut rest = body;
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let (whole, after) = split_digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => split_digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(malformed());
        }
        let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let scale = unit_nanos(unit, text)?;
        let too_long = || DurationError::TooLong(text.to_owned());
        let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().map_err(|_| too_long())? };
        nanos = nanos
            .checked_add(u128::from(whole) * scale)
            .and_then(|sum| sum.checked_add(fraction_nanos(fraction, scale)))
            .filter(|sum| *sum <= MAX_NANOS)
            .ok_or_else(too_long)?;
        rest = after;
    }
    Ok(Duration::new((nanos / NANOS_PER_SECOND) as u64, (nanos % NANOS_PER_SECOND) as u32))
}

/// The leading ASCII digits and what follows them.
fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn unit_nanos(unit: &str, text: &str) -> Result<u128, DurationError> {
    Ok(match unit {
        "ns" => 1,
        // Go accepts both the micro sign and the Greek letter mu.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => NANOS_PER_SECOND,
        "m" => 60 * NANOS_PER_SECOND,
        "h" => 3_600 * NANOS_PER_SECOND,
        "" => return Err(DurationError::MissingUnit(text.to_owned())),
        other => return Err(DurationError::UnknownUnit { text: text.to_owned(), unit: other.to_owned() }),
    })
}

/// `0.<digits>` of `scale`, cut to whole nanoseconds. Twenty digits are more than an hour's
/// nanoseconds can show, so the rest is not read and nothing overflows.
fn fraction_nanos(digits: &str, scale: u128) -> u128 {
    let mut nanos = 0;
    let mut divisor: u128 = 1;
    for digit in digits.bytes().take(20) {
        divisor *= 10;
        nanos = nanos * 10 + u128::from(digit - b'0');
    }
    nanos * scale / divisor
}

/// Prints Go's syntax in its shortest exact form: `1h2m3.5s`, `1m30s`, `1h`, `250ms`, `0s`.
/// Unlike Go, units whose number is zero are left out (`1h`, not `1h0m0s`), as people write them.
pub fn format(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < 1_000 {
        return format!("{nanos}ns");
    }
    if nanos < 1_000_000 {
        return decimal(nanos, 1_000) + "us";
    }
    if nanos < NANOS_PER_SECOND {
        return decimal(nanos, 1_000_000) + "ms";
    }
    let seconds = nanos / NANOS_PER_SECOND;
    let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
    let rest = nanos % (60 * NANOS_PER_SECOND);
    let mut text = String::new();
    if hours > 0 {
        text += &hours.to_string();
        text.push('h');
    }
    if minutes > 0 {
        text += &minutes.to_string();
        text.push('m');
    }
    if rest > 0 {
        text += &decimal(rest, NANOS_PER_SECOND);
        text.push('s');
    }
    text
}

/// `value / unit` without trailing zeros; `unit` is a power of ten.
fn decimal(value: u128, unit: u128) -> String {
    let fraction = value % unit;
    if fraction == 0 {
        return (value / unit).to_string();
    }
    let width = unit.ilog10() as usize;
    let digits = format!("{fraction:0width$}");
    format!("{}.{}", value / unit, digits.trim_end_matches('0'))
}

/// Serialises as text; for `#[serde(with = "mirador_service::duration")]`.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*duration))
}

/// Reads a text; for `#[serde(with = "mirador_service::duration")]`.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_str(Text)
}

struct Text;

impl de::Visitor<'_> for Text {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration like \"1m30s\" or \"250ms\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
        parse(text).map_err(E::custom)
    }
}

/// The same for `Option<Duration>`: `#[serde(default, with = "mirador_service::duration::option")]`.
pub mod option {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::GoDuration;

    /// Serialises as text or null.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        duration.map(GoDuration).serialize(serializer)
    }

    /// Reads a text or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<GoDuration>::deserialize(deserializer)?.map(|duration| duration.0))
    }
}

/// A duration that reads and writes Go's syntax by itself, for lists and maps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(pub Duration);

impl GoDuration {
    /// The duration itself.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl From<Duration> for GoDuration {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl From<GoDuration> for Duration {
    fn from(duration: GoDuration) -> Self {
        duration.0
    }
}

impl FromStr for GoDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        parse(text).map(Self)
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format(self.0))
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize(deserializer).map(Self)
    }
}

impl JsonSchema for GoDuration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "GoDuration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // The format name is our own: JSON Schema's "duration" is ISO 8601, which this is not.
        json_schema!({ "type": "string", "format": "go-duration" })
    }
}

#[cfg(test)]
mod tests;
