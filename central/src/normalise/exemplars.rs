//! Exemplars from OTLP to Prometheus: trace and span ids as labels, on the bucket that they fell into.
//!
//! Never: invents a trace id; an exemplar without one keeps only its attributes.

use std::fmt::Write as _;

use mirador_otlp::metrics::{Exemplar as View, Number};

use super::Output;
use super::names::label_name;
use super::stream::Stream;
use crate::series::{Exemplar, Pair};

/// Characters that the labels of one exemplar may have in all (`OpenMetrics` 1.0, "Exemplars").
const MAX_CHARACTERS: usize = 128;

/// Reads exemplars; nothing when they are switched off.
pub fn read<'a>(enabled: bool, views: impl Iterator<Item = View<'a>>) -> Vec<Exemplar> {
    if !enabled {
        return Vec::new();
    }
    views
        .filter_map(|view| {
            let value = match view.value() {
                Number::Int(value) => value as f64,
                Number::Double(value) => value,
                Number::None => return None,
            };
            Some(Exemplar { labels: labels(&view), value, timestamp_ms: (view.time_unix_nano() / 1_000_000) as i64 })
        })
        .collect()
}

fn labels(view: &View<'_>) -> Vec<Pair> {
    let mut labels: Vec<Pair> = Vec::new();
    for (name, id) in [("trace_id", view.trace_id()), ("span_id", view.span_id())] {
        if id.iter().any(|byte| *byte != 0) {
            labels.push((name.into(), hex(id).into()));
        }
    }
    let mut characters: usize = labels.iter().map(|(name, value)| name.len() + value.len()).sum();
    for attribute in &view.filtered_attributes() {
        let (name, value) = (label_name(attribute.key), attribute.value.to_text().into_owned());
        characters += name.chars().count() + value.chars().count();
        if characters > MAX_CHARACTERS {
            break;
        }
        labels.push((name.into(), value.into()));
    }
    labels.sort_by(|left, right| left.0.cmp(&right.0));
    labels.dedup_by(|later, first| later.0 == first.0);
    labels
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// Hangs each exemplar on the first bucket of the latest point whose bound is not below it.
pub fn hang(exemplars: Vec<Exemplar>, stream: &Stream, out: &mut Output) {
    if exemplars.is_empty() {
        return;
    }
    let edges: Vec<f64> = stream.edges().collect();
    // A point ends with its buckets, its sum where there is one, and its count.
    let Some(first) = out.series.len().checked_sub(edges.len() + out.trailing) else { return };
    for exemplar in exemplars {
        let bucket = edges.partition_point(|edge| *edge < exemplar.value);
        if let Some(series) = out.series.get_mut(first + bucket) {
            series.exemplars.push(exemplar);
        }
    }
}
