//! The one thread that writes the embedded store.
//!
//! Writes of many requests share one transaction (group commit): the thread takes what waits, commits
//! once and then answers everyone. Invariants: a write is answered `Ok` after its commit; one bad write
//! fails alone; the queue is bounded.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode, Transaction, params};
use tokio::sync::oneshot;

use super::Meters;
use super::rows::{LogRow, SpanRow};
use crate::exporter::ExportError;
use crate::series::{Labels, SeriesBatch};

/// Most writes in one transaction; keeps the wait of the first one short.
const GROUP: usize = 64;
/// How often retention is enforced.
const SWEEP: Duration = Duration::from_secs(10);
/// Rows that one sweep deletes from a table at most, so that writers never wait long behind it.
const SWEEP_ROWS: i64 = 20_000;
/// Series ids that are kept at hand; beyond it the table is asked.
const CACHED_SERIES: usize = 100_000;

/// What is to be written.
pub(super) enum Data {
    Spans(Vec<SpanRow>),
    Logs(Vec<LogRow>),
    Samples(Arc<SeriesBatch>),
}

/// A write with the one who waits for it.
pub(super) struct Write {
    pub(super) data: Data,
    pub(super) answer: oneshot::Sender<Result<(), ExportError>>,
}

/// What bounds the file.
pub(super) struct Bounds {
    pub(super) path: PathBuf,
    pub(super) retention: Duration,
    pub(super) max_bytes: u64,
}

/// The state of the writing thread.
pub(super) struct Writer {
    connection: Connection,
    series: HashMap<Box<[u8]>, i64>,
    bounds: Bounds,
    meters: Meters,
    swept: Instant,
}

impl Writer {
    pub(super) fn new(connection: Connection, bounds: Bounds, meters: Meters) -> Self {
        Self {
            connection,
            series: HashMap::new(),
            bounds,
            meters,
            swept: Instant::now(),
        }
    }

    /// Runs until every sender is gone and the queue is empty.
    pub(super) fn run(mut self, queue: &Receiver<Write>, alive: &dyn Fn()) {
        loop {
            alive();
            let first = match queue.recv_timeout(Duration::from_secs(1)) {
                Ok(write) => Some(write),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if let Some(first) = first {
                let mut group = vec![first];
                group.extend(queue.try_iter().take(GROUP - 1));
                self.commit(group);
            }
            if self.swept.elapsed() >= SWEEP {
                self.swept = Instant::now();
                if let Err(error) = self.sweep() {
                    tracing::warn!(%error, "embedded store: retention could not be enforced");
                }
            }
        }
        let _checkpoint = self
            .connection
            .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
    }

    fn commit(&mut self, group: Vec<Write>) {
        let together = group.len() > 1;
        match self.apply(group.iter().map(|write| &write.data)) {
            Ok(()) => {
                for write in group {
                    // The one who asked may have gone; the rows are named by content, so a repetition is harmless.
                    let _gone = write.answer.send(Ok(()));
                }
            }
            Err(_) if together => {
                for write in group {
                    self.commit(vec![write]);
                }
            }
            Err(error) => {
                self.meters.failed();
                for write in group {
                    let _gone = write.answer.send(Err(classify(&error)));
                }
            }
        }
    }

    fn apply<'a>(&mut self, writes: impl Iterator<Item = &'a Data>) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        let mut fresh = Vec::new();
        let mut rows = 0;
        for data in writes {
            rows += match data {
                Data::Spans(spans) => write_spans(&transaction, spans)?,
                Data::Logs(logs) => write_logs(&transaction, logs)?,
                Data::Samples(batch) => {
                    write_samples(&transaction, batch, &self.series, &mut fresh)?
                }
            };
        }
        transaction.commit()?;
        self.meters.written(rows);
        // Ids become known only after the commit: a rolled back one may be given to another series.
        if self.series.len() + fresh.len() > CACHED_SERIES {
            self.series.clear();
        }
        self.series.extend(fresh);
        Ok(())
    }

    fn sweep(&mut self) -> rusqlite::Result<()> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let oldest = now.saturating_sub(self.bounds.retention);
        self.delete_before(oldest, "age")?;
        // The file is shrunk a slice of the kept time at a time until it fits again.
        if self.size() > self.bounds.max_bytes {
            let start = self.oldest_nanos()?.unwrap_or(now.as_nanos() as i64);
            let kept = (now.as_nanos() as i64).saturating_sub(start).max(0);
            let cut = Duration::from_nanos((start.saturating_add(kept / 10)).max(0) as u64);
            self.delete_before(cut, "size")?;
        }
        self.connection
            .execute_batch("PRAGMA incremental_vacuum(4000); PRAGMA wal_checkpoint(TRUNCATE);")?;
        self.meters.size(self.size());
        Ok(())
    }

    fn size(&self) -> u64 {
        std::fs::metadata(&self.bounds.path).map_or(0, |file| file.len())
    }

    fn oldest_nanos(&self) -> rusqlite::Result<Option<i64>> {
        self.connection.query_row(
            "SELECT min(t) FROM (SELECT min(start_nanos) AS t FROM spans UNION ALL \
             SELECT min(time_nanos) FROM logs UNION ALL SELECT min(timestamp_ms) * 1000000 FROM samples)",
            [],
            |row| row.get(0),
        )
    }

    fn delete_before(&mut self, time: Duration, reason: &'static str) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        let nanos = time.as_nanos() as i64;
        let spans = transaction.execute(
            "DELETE FROM spans WHERE (trace_id, span_id, kind) IN \
             (SELECT trace_id, span_id, kind FROM spans WHERE start_nanos < ?1 ORDER BY start_nanos LIMIT ?2)",
            params![nanos, SWEEP_ROWS],
        )?;
        let logs = transaction.execute(
            "DELETE FROM logs WHERE id IN (SELECT id FROM logs WHERE time_nanos < ?1 ORDER BY time_nanos LIMIT ?2)",
            params![nanos, SWEEP_ROWS],
        )?;
        let samples = transaction.execute(
            "DELETE FROM samples WHERE (series, timestamp_ms) IN \
             (SELECT series, timestamp_ms FROM samples WHERE timestamp_ms < ?1 ORDER BY timestamp_ms LIMIT ?2)",
            params![nanos / 1_000_000, SWEEP_ROWS],
        )?;
        if samples > 0 {
            let orphans = transaction.execute(
                "DELETE FROM series WHERE NOT EXISTS (SELECT 1 FROM samples WHERE samples.series = series.id)",
                [],
            )?;
            if orphans > 0 {
                self.series.clear();
            }
        }
        transaction.commit()?;
        self.meters.expired(reason, spans + logs + samples);
        Ok(())
    }
}

fn write_spans(transaction: &Transaction<'_>, spans: &[SpanRow]) -> rusqlite::Result<usize> {
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

fn write_logs(transaction: &Transaction<'_>, logs: &[LogRow]) -> rusqlite::Result<usize> {
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

fn write_samples(
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

/// A full disk or a locked file passes; a broken file or a forbidden one needs an operator.
fn classify(error: &rusqlite::Error) -> ExportError {
    let reason = format!("embedded store: {error}");
    match error.sqlite_error_code() {
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure,
        ) => ExportError::Retry {
            after: Some(Duration::from_secs(1)),
            reason,
        },
        Some(ErrorCode::TooBig | ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch) => {
            ExportError::Drop { reason }
        }
        _ => ExportError::Fatal { reason },
    }
}
