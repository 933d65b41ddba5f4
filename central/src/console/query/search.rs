//! Traces, spans and log records.

use rusqlite::{Connection, Row, params};
use serde::Serialize;
use serde_json::Value as Json;

use crate::exporter::embedded::hex;

/// What `/api/v1/traces` may ask for besides its range.
#[derive(Debug, Default)]
pub(in crate::console) struct TraceFilter {
    /// Traces with a span of this service only.
    pub(in crate::console) service: Option<String>,
    /// Traces with a failed span only.
    pub(in crate::console) errors: bool,
    /// Traces with a span that took so long.
    pub(in crate::console) min_duration_ms: Option<f64>,
}

/// What `/api/v1/logs` may ask for besides its range.
#[derive(Debug, Default)]
pub(in crate::console) struct LogFilter {
    pub(in crate::console) service: Option<String>,
    pub(in crate::console) min_severity: Option<i32>,
    pub(in crate::console) trace_id: Option<Vec<u8>>,
    /// A part of the body, as it is written.
    pub(in crate::console) contains: Option<String>,
}

/// A trace in a list.
#[derive(Debug, Serialize)]
pub(in crate::console) struct TraceRow {
    trace_id: String,
    root_service: String,
    root_span: String,
    start_unix_nano: String,
    duration_ms: f64,
    spans: i64,
    errors: i64,
}

/// One span; nanoseconds are strings because JavaScript's numbers lose them.
#[derive(Debug, Serialize)]
pub(in crate::console) struct SpanOut {
    trace_id: String,
    span_id: String,
    parent_span_id: String,
    service: String,
    name: String,
    kind: i32,
    status: i32,
    status_message: String,
    start_unix_nano: String,
    duration_ms: f64,
    attributes: Json,
    resource: Json,
    events: Json,
    links: Json,
    scope: String,
}

/// One log record.
#[derive(Debug, Serialize)]
pub(in crate::console) struct LogOut {
    time_unix_nano: String,
    service: String,
    severity: i32,
    severity_text: String,
    body: String,
    trace_id: String,
    span_id: String,
    event_name: String,
    attributes: Json,
    resource: Json,
}

/// Services that sent spans, log records or RED, by name.
pub(in crate::console) fn services(connection: &Connection) -> anyhow::Result<Vec<String>> {
    // Every step jumps to the next name in the index instead of walking all rows.
    let mut statement = connection.prepare_cached(
        "WITH RECURSIVE spanned(service) AS (SELECT min(service) FROM spans UNION ALL \
            SELECT (SELECT min(service) FROM spans WHERE service > spanned.service) FROM spanned \
            WHERE spanned.service IS NOT NULL), \
         logged(service) AS (SELECT min(service) FROM logs UNION ALL \
            SELECT (SELECT min(service) FROM logs WHERE service > logged.service) FROM logged \
            WHERE logged.service IS NOT NULL) \
         SELECT service FROM (SELECT service FROM spanned UNION SELECT service FROM logged UNION \
            SELECT json_extract(labels, '$.service_name') FROM series WHERE name = ?1) AS named \
         WHERE service <> '' ORDER BY 1 LIMIT 10000",
    )?;
    let found = statement.query_map(params![super::red::CALLS], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(found)
}

/// The latest traces that match, newest first.
pub(in crate::console) fn traces(
    connection: &Connection,
    filter: &TraceFilter,
    since_nanos: i64,
    limit: i64,
) -> anyhow::Result<Vec<TraceRow>> {
    let mut statement = connection.prepare_cached(
        "WITH recent AS (SELECT trace_id, max(start_nanos) AS newest FROM spans \
            WHERE start_nanos >= ?1 AND (?2 IS NULL OR service = ?2) AND (?3 = 0 OR status = 2) \
              AND (?4 IS NULL OR duration_nanos >= ?4) \
            GROUP BY trace_id ORDER BY newest DESC LIMIT ?5) \
         SELECT spans.trace_id, count(*), sum(status = 2), min(start_nanos), \
                max(start_nanos + duration_nanos) FROM spans JOIN recent USING (trace_id) \
         GROUP BY spans.trace_id ORDER BY min(start_nanos) DESC",
    )?;
    let minimum = filter.min_duration_ms.map(|ms| (ms * 1e6) as i64);
    let mut rows = statement.query(params![since_nanos, filter.service, filter.errors, minimum, limit])?;
    let mut root = connection.prepare_cached(
        "SELECT service, name FROM spans WHERE trace_id = ?1 \
         ORDER BY length(parent_span_id) > 0, start_nanos LIMIT 1",
    )?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let trace_id: Vec<u8> = row.get(0)?;
        let (root_service, root_span) = root.query_row(params![trace_id], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let (start, end): (i64, i64) = (row.get(3)?, row.get(4)?);
        found.push(TraceRow {
            trace_id: hex(&trace_id),
            root_service,
            root_span,
            start_unix_nano: start.to_string(),
            duration_ms: end.saturating_sub(start) as f64 / 1e6,
            spans: row.get(1)?,
            errors: row.get(2)?,
        });
    }
    Ok(found)
}

/// Every span of one trace, oldest first.
pub(in crate::console) fn trace(connection: &Connection, trace_id: &[u8]) -> anyhow::Result<Vec<SpanOut>> {
    let mut statement = connection.prepare_cached(
        "SELECT trace_id, span_id, parent_span_id, service, name, kind, status, status_message, start_nanos, \
                duration_nanos, attributes, resource, events, links, scope \
         FROM spans WHERE trace_id = ?1 ORDER BY start_nanos LIMIT 20000",
    )?;
    let mut rows = statement.query(params![trace_id])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(SpanOut {
            trace_id: id(row, 0)?,
            span_id: id(row, 1)?,
            parent_span_id: id(row, 2)?,
            service: row.get(3)?,
            name: row.get(4)?,
            kind: row.get(5)?,
            status: row.get(6)?,
            status_message: row.get(7)?,
            start_unix_nano: row.get::<_, i64>(8)?.to_string(),
            duration_ms: row.get::<_, i64>(9)? as f64 / 1e6,
            attributes: parsed(row, 10)?,
            resource: parsed(row, 11)?,
            events: parsed(row, 12)?,
            links: parsed(row, 13)?,
            scope: row.get(14)?,
        });
    }
    Ok(found)
}

/// The latest log records that match, newest first.
pub(in crate::console) fn logs(
    connection: &Connection,
    filter: &LogFilter,
    since_nanos: i64,
    limit: i64,
) -> anyhow::Result<Vec<LogOut>> {
    let mut statement = connection.prepare_cached(
        "SELECT time_nanos, service, severity, severity_text, body, trace_id, span_id, event_name, attributes, resource \
         FROM logs WHERE time_nanos >= ?1 AND (?2 IS NULL OR service = ?2) AND (?3 IS NULL OR severity >= ?3) \
           AND (?4 IS NULL OR trace_id = ?4) AND (?5 IS NULL OR instr(body, ?5) > 0) \
         ORDER BY time_nanos DESC LIMIT ?6",
    )?;
    let LogFilter { service, min_severity, trace_id, contains } = filter;
    let mut rows = statement.query(params![since_nanos, service, min_severity, trace_id, contains, limit])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(LogOut {
            time_unix_nano: row.get::<_, i64>(0)?.to_string(),
            service: row.get(1)?,
            severity: row.get(2)?,
            severity_text: row.get(3)?,
            body: row.get(4)?,
            trace_id: id(row, 5)?,
            span_id: id(row, 6)?,
            event_name: row.get(7)?,
            attributes: parsed(row, 8)?,
            resource: parsed(row, 9)?,
        });
    }
    Ok(found)
}

fn id(row: &Row<'_>, column: usize) -> anyhow::Result<String> {
    Ok(hex(row.get_ref(column)?.as_blob()?))
}

fn parsed(row: &Row<'_>, column: usize) -> anyhow::Result<Json> {
    Ok(serde_json::from_str(row.get_ref(column)?.as_str()?)?)
}
