//! Exports of Prometheus and of stores that speak its language.
//!
//! Two forms are read: the JSON answer of `/api/v1/query_range`, also bare or as an array of series, and the lines
//! of VictoriaMetrics' `/api/v1/export`, one JSON object each. The answer is scored while it is parsed; of the lines
//! one at a time is held.
//!
//! Never: reads native histograms; they are named as bad rows.

mod document;
mod lines;

use std::collections::BTreeMap;

use super::judge::Reading;
use super::source::Source;
use super::{Run, stamp};

/// The input holds no series of a Prometheus export.
#[derive(Debug, thiserror::Error)]
#[error("{file} is no Prometheus export: {reason}")]
pub(super) struct NoExport {
    file: String,
    reason: String,
}

/// Whether an input begins like JSON.
pub(super) fn looks_like_one(first: &[u8]) -> bool {
    let first = first.strip_prefix("\u{feff}".as_bytes()).unwrap_or(first);
    matches!(first.iter().find(|byte| !byte.is_ascii_whitespace()), Some(b'{' | b'['))
}

/// Reads an export to its end.
pub(super) fn read(run: &mut Run<'_, '_>, source: &mut Source) -> anyhow::Result<()> {
    let head = String::from_utf8_lossy(source.peek()?);
    let head = head.trim_start_matches('\u{feff}').trim_start();
    // A line of an export begins with its metric; in an answer the metric comes deeper, and on lines of its own.
    let is_line =
        head.strip_prefix('{').is_some_and(|rest| rest.trim_start_matches([' ', '\t']).starts_with("\"metric\""));
    if is_line { lines::read(run, source) } else { document::read(run, source) }
}

/// A metric as in a query: `name{label="value"}`.
fn promql(labels: &BTreeMap<String, String>) -> String {
    let name = labels.get("__name__").map_or("", String::as_str);
    let others = labels.iter().filter(|(name, _)| *name != "__name__");
    let others: Vec<_> = others.map(|(name, value)| format!("{name}={value:?}")).collect();
    if others.is_empty() && !name.is_empty() {
        return name.to_owned();
    }
    format!("{name}{{{}}}", others.join(","))
}

/// A sample's value, a JSON number or a number in a string or nothing, and its text.
fn sample(value: &serde_json::Value) -> (Option<Reading>, String) {
    let read = |number: f64| if number.is_finite() { Reading::Value(number) } else { Reading::Missing };
    match value {
        serde_json::Value::Null => (Some(Reading::Missing), String::new()),
        serde_json::Value::String(text) => {
            let reading = match text.as_str() {
                "Infinity" | "+Inf" | "-Inf" | "-Infinity" => Some(Reading::Missing),
                text => text.parse().ok().map(read),
            };
            (reading, text.clone())
        }
        number => (number.as_f64().map(read), number.to_string()),
    }
}

/// A pair of a time in seconds and a value: both texts, and what they say.
fn pair(pair: &serde_json::Value) -> (String, String, Result<(u64, Reading), &'static str>) {
    let time = pair.get(0).and_then(serde_json::Value::as_f64).and_then(stamp::seconds);
    let (reading, value) = pair.get(1).map_or((None, String::new()), sample);
    let read = match (time, reading) {
        (None, _) => Err("the time is no number of seconds"),
        (_, None) => Err("the value is no number"),
        (Some(time), Some(reading)) => Ok((time, reading)),
    };
    (pair.get(0).map(serde_json::Value::to_string).unwrap_or_default(), value, read)
}

#[cfg(test)]
mod tests;
