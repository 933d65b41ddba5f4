//! Rows into tables, inside a transaction of the caller.

use std::collections::HashMap;

use rusqlite::{Transaction, params};

use super::super::rows::{LogRow, SpanRow};
use crate::series::{Labels, SeriesBatch};

/// A span that is written again replaces itself.
pub(super) fn spans(transaction: &Transaction<'_>, spans: &[SpanRow]) -> rusqlite::Result<usize> {
    let mut insert = transaction.prepare_cached(
        "INSERT OR REPLACE INTO spans (trace_id, span_id, parent_span_id, service, name, kind, status, start_nanos, \
         duration_nanos, status_message, attributes, resource, events, links, scope) \
         VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15)",
    )?;
    for span in spans {
        insert.execute(params![
            span.trace_id,
            span.span_id,
            span.parent_span_id,
            span.service,
            span.name,
            span.kind,
            span.status,
            span.start_nanos,
            span.duration_nanos,
            span.status_message,
            span.attributes,
            span.resource,
            span.events,
            span.links,
            span.scope,
        ])?;
    }
    Ok(spans.len())
}

/// A record that is written again stays as it is.
pub(super) fn logs(transaction: &Transaction<'_>, logs: &[LogRow]) -> rusqlite::Result<usize> {
    let mut insert = transaction.prepare_cached(
        "INSERT OR IGNORE INTO logs (id, time_nanos, service, severity, severity_text, body, trace_id, span_id, \
         event_name, attributes, resource, scope) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12)",
    )?;
    for log in logs {
        insert.execute(params![
            log.id,
            log.time_nanos,
            log.service,
            log.severity,
            log.severity_text,
            log.body,
            log.trace_id,
            log.span_id,
            log.event_name,
            log.attributes,
            log.resource,
            log.scope,
        ])?;
    }
    Ok(logs.len())
}

/// A sample that is written again replaces itself. Series that were not `known` are added to `fresh`.
pub(super) fn samples(
    transaction: &Transaction<'_>,
    batch: &SeriesBatch,
    known: &HashMap<Box<[u8]>, i64>,
    fresh: &mut Vec<(Box<[u8]>, i64)>,
) -> rusqlite::Result<usize> {
    let mut insert = transaction.prepare_cached(
        "INSERT OR REPLACE INTO samples (series, timestamp_ms, value, exemplars) VALUES (?1,?2,?3,?4)",
    )?;
    let mut rows = 0;
    for series in &batch.series {
        let id = if let Some(id) = known.get(series.labels.encoded()) {
            *id
        } else {
            let id = series_id(transaction, &series.labels)?;
            fresh.push((series.labels.encoded().into(), id));
            id
        };
        for (index, (timestamp_ms, value)) in series.samples.iter().enumerate() {
            // SQLite stores NaN as NULL, which is how a stale marker is read back.
            let exemplars = (index + 1 == series.samples.len() && !series.exemplars.is_empty())
                .then(|| exemplars_text(&series.exemplars));
            insert.execute(params![id, timestamp_ms, value, exemplars])?;
            rows += 1;
        }
    }
    Ok(rows)
}

fn exemplars_text(exemplars: &[crate::series::Exemplar]) -> String {
    let list: Vec<serde_json::Value> = exemplars
        .iter()
        .map(|exemplar| {
            let labels: serde_json::Map<_, _> =
                exemplar.labels.iter().map(|(name, value)| (name.to_string(), value.as_ref().into())).collect();
            serde_json::json!({"labels": labels, "value": exemplar.value, "timestamp_ms": exemplar.timestamp_ms})
        })
        .collect();
    serde_json::Value::Array(list).to_string()
}

fn series_id(transaction: &Transaction<'_>, labels: &Labels) -> rusqlite::Result<i64> {
    let mut name = "";
    let mut rest = serde_json::Map::new();
    for (key, value) in labels.iter() {
        if key.as_ref() == "__name__" {
            name = value;
        } else {
            rest.insert(key.to_string(), value.as_ref().into());
        }
    }
    let text = serde_json::Value::Object(rest).to_string();
    transaction
        .prepare_cached("INSERT INTO series (name, labels) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
        .execute(params![name, text])?;
    transaction
        .prepare_cached("SELECT id FROM series WHERE name = ?1 AND labels = ?2")?
        .query_row(params![name, text], |row| row.get(0))
}
