//! The text form of values, as the OpenTelemetry Collector writes it (`pcommon.Value.AsString`).
//!
//! Strings are themselves, numbers as in JSON, bytes base64, arrays and maps JSON text with sorted
//! keys and without HTML escapes; of a name that occurs twice the last value counts, and a list or
//! map with a number that JSON cannot write is the empty string.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Value;

/// A number that JSON has no text for.
struct Unsupported;

impl<'a> Value<'a> {
    /// The value as the collector would print it; borrowed for strings.
    pub fn to_text(&self) -> Cow<'a, str> {
        match *self {
            Self::Empty => Cow::Borrowed(""),
            Self::Str(string) => Cow::Borrowed(string),
            Self::Bool(true) => Cow::Borrowed("true"),
            Self::Bool(false) => Cow::Borrowed("false"),
            Self::Int(number) => Cow::Owned(number.to_string()),
            Self::Double(number) => Cow::Owned(double_text(number)),
            Self::Bytes(bytes) => Cow::Owned(STANDARD.encode(bytes)),
            Self::Array(_) | Self::Map(_) => {
                let mut out = String::new();
                if json(self, &mut out).is_err() {
                    out.clear();
                }
                Cow::Owned(out)
            }
        }
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

fn double_text(number: f64) -> String {
    if number.is_nan() {
        "json: unsupported value: NaN".to_owned()
    } else if number.is_infinite() {
        let sign = if number < 0.0 { '-' } else { '+' };
        format!("json: unsupported value: {sign}Inf")
    } else {
        finite_text(number)
    }
}

/// A finite number as ECMAScript writes it: an exponent only below 1e-6 and from 1e21.
fn finite_text(number: f64) -> String {
    let size = number.abs();
    if size == 0.0 || (1e-6..1e21).contains(&size) {
        return number.to_string();
    }
    let text = format!("{number:e}");
    if text.contains("e-") { text } else { text.replace('e', "e+") }
}

fn json(value: &Value<'_>, out: &mut String) -> Result<(), Unsupported> {
    match value {
        Value::Empty => out.push_str("null"),
        Value::Str(string) => json_string(string, out),
        Value::Double(number) if !number.is_finite() => return Err(Unsupported),
        Value::Bool(_) | Value::Int(_) | Value::Double(_) => out.push_str(&value.to_text()),
        Value::Bytes(_) => json_string(&value.to_text(), out),
        Value::Array(array) => {
            out.push('[');
            for (index, item) in array.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                json(&item, out)?;
            }
            out.push(']');
        }
        Value::Map(map) => {
            let sorted: BTreeMap<&str, Value<'_>> = map.iter().map(|entry| (entry.key, entry.value)).collect();
            out.push('{');
            for (index, (key, item)) in sorted.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                json_string(key, out);
                out.push(':');
                json(item, out)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

fn json_string(string: &str, out: &mut String) {
    out.push('"');
    for char in string.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            // The line separators are legal in JSON and not in JavaScript; the collector escapes them.
            '\0'..='\u{1f}' | '\u{2028}' | '\u{2029}' => {
                // Writing to a string cannot fail.
                let _ignored = write!(out, "\\u{:04x}", u32::from(char));
            }
            plain => out.push(plain),
        }
    }
    out.push('"');
}
