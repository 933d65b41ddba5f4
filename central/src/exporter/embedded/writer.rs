//! The one thread that writes the embedded store.
//!
//! Writes of many requests share one transaction (group commit): the thread takes what waits, commits
//! once and then answers everyone. Invariants: a write is answered `Ok` after its commit; one bad write
//! fails alone; the queue is bounded; the file never grows beyond its limit by more than a quarter (the
//! database refuses, writers are told to come back, and the oldest rows make room).

mod insert;
mod sweep;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use tokio::sync::oneshot;

use super::Meters;
use super::rows::{LogRow, SpanRow};
use crate::exporter::ExportError;
use crate::series::SeriesBatch;
use sweep::Sweep;

/// Most writes in one transaction; keeps the wait of the first one short.
const GROUP: usize = 64;
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
    /// How often the limits are looked at.
    pub(super) sweep: Duration,
}

/// The state of the writing thread.
pub(super) struct Writer {
    connection: Connection,
    series: HashMap<Box<[u8]>, i64>,
    sweep: Sweep,
    meters: Meters,
    /// Whether the last step towards the limits failed, as each does while the disk is full.
    is_stuck: bool,
}

impl Writer {
    pub(super) fn new(connection: Connection, bounds: Bounds, meters: Meters) -> rusqlite::Result<Self> {
        let sweep = Sweep::new(&connection, bounds)?;
        Ok(Self { connection, series: HashMap::new(), sweep, meters, is_stuck: false })
    }

    /// Runs until every sender is gone and the queue is empty.
    pub(super) fn run(mut self, queue: &Receiver<Write>, alive: &dyn Fn()) {
        loop {
            alive();
            let due = self.sweep.due(Instant::now());
            match queue.recv_timeout(due.min(Duration::from_secs(1))) {
                Ok(first) => {
                    let mut group = vec![first];
                    group.extend(queue.try_iter().take(GROUP - 1));
                    self.commit(group);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.sweep.due(Instant::now()).is_zero() {
                self.enforce();
            }
        }
        // A failure leaves the log beside the file, where it is read at the next start.
        self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").ok();
    }

    fn enforce(&mut self) {
        match self.sweep.step(&mut self.connection, &self.meters) {
            Ok(swept) => {
                if swept.series_gone {
                    self.series.clear();
                }
                if std::mem::take(&mut self.is_stuck) {
                    tracing::info!("embedded store: the limits are enforced again");
                }
            }
            Err(error) => {
                // It may have come this far that ids of series are free again.
                self.series.clear();
                if std::mem::replace(&mut self.is_stuck, true) {
                    tracing::debug!(%error, "embedded store: the limits could still not be enforced");
                } else {
                    tracing::warn!(%error, "embedded store: the limits could not be enforced, this is tried again and again");
                }
            }
        }
    }

    fn commit(&mut self, group: Vec<Write>) {
        match self.apply(group.iter().map(|write| &write.data)) {
            Ok(()) => {
                for write in group {
                    // The one who asked may have gone; the rows are named by content, so a repetition is harmless.
                    write.answer.send(Ok(())).ok();
                }
            }
            // Only a fault of the data is somebody's own.
            Err(error) if group.len() > 1 && is_poison(&error) => {
                for write in group {
                    self.commit(vec![write]);
                }
            }
            Err(error) => {
                if error.sqlite_error_code() == Some(ErrorCode::DiskFull) {
                    self.sweep.hurry();
                }
                self.meters.failed(group.len());
                for write in group {
                    write.answer.send(Err(classify(&error))).ok();
                }
            }
        }
    }

    fn apply<'a>(&mut self, writes: impl Iterator<Item = &'a Data>) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut fresh = Vec::new();
        let mut rows = 0;
        for data in writes {
            rows += match data {
                Data::Spans(spans) => insert::spans(&transaction, spans)?,
                Data::Logs(logs) => insert::logs(&transaction, logs)?,
                Data::Samples(batch) => insert::samples(&transaction, batch, &self.series, &mut fresh)?,
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
}

fn is_poison(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::TooBig | ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch)
    )
}

/// A full disk or a locked file passes; a broken file or a forbidden one needs an operator.
fn classify(error: &rusqlite::Error) -> ExportError {
    let reason = format!("embedded store: {}", explain(error));
    if is_poison(error) {
        return ExportError::Drop { reason };
    }
    match error.sqlite_error_code() {
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure
            | ErrorCode::OutOfMemory,
        ) => ExportError::Retry { after: Some(Duration::from_secs(1)), reason },
        _ => ExportError::Fatal { reason },
    }
}

/// What an error means for the one who runs the process.
#[derive(Debug, thiserror::Error)]
#[error("{error}{hint}")]
pub(super) struct Explained {
    error: String,
    hint: &'static str,
}

/// Adds what to do.
pub(super) fn explain(error: &rusqlite::Error) -> Explained {
    let hint = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "; another process holds the file's lock: give every process a file of its own"
        }
        Some(ErrorCode::DiskFull) => {
            "; the disk is full, or the file has reached exporters.embedded.max_size_mib and old rows are being deleted"
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            "; the process needs write access to the file and to its folder"
        }
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            "; the file is no SQLite database or is damaged: stop, move it away together with its -wal and -shm files, and start again"
        }
        _ => "",
    };
    Explained { error: error.to_string(), hint }
}
