//! The embedded store: one SQLite file that keeps traces, metrics and logs on a laptop.
//!
//! Writes are idempotent: a span is named by its ids, a log record by its content, a sample by its series
//! and time. What bounds it: `retention`, `max_size_mib` and a queue that refuses when it is full.
//!
//! Never: answers a write before its transaction is committed.

mod rows;
mod schema;
mod writer;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use mirador_otlp::Request;
use mirador_service::metrics::{Counter, Family, Gauge, Registry};
use rusqlite::{Connection, OpenFlags};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{ExportError, LogStore, MetricStore, Stored, TraceStore};
use crate::series::SeriesBatch;
pub(crate) use rows::hex;
use writer::{Bounds, Data, Write, Writer};

/// Writes that may wait for the writing thread.
const QUEUE: usize = 256;

/// Section `exporters.embedded`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The SQLite file; it and its folder are created when missing. Default `mirador-data/mirador.sqlite`.
    pub path: PathBuf,
    /// Rows older than this are deleted. Raise it together with `max_size_mib`. Default 24h.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "String")]
    pub retention: Duration,
    /// The file is kept near this size by deleting the oldest rows of all signals; writes are refused for a while
    /// when they outrun that by a quarter. Default 1024.
    pub max_size_mib: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path: PathBuf::from("mirador-data/mirador.sqlite"),
            retention: Duration::from_secs(24 * 3600),
            max_size_mib: 1024,
        }
    }
}

impl Config {
    /// Refuses what cannot work.
    ///
    /// # Errors
    /// The text names the key, the value and what would be right.
    pub fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            !self.path.as_os_str().is_empty(),
            "exporters.embedded.path is empty; mirador-data/mirador.sqlite is the default"
        );
        anyhow::ensure!(
            self.retention >= Duration::from_secs(1),
            "exporters.embedded.retention: {:?} keeps nothing; 24h is the default",
            self.retention
        );
        anyhow::ensure!(
            (1..=1 << 24).contains(&self.max_size_mib),
            "exporters.embedded.max_size_mib: {} cannot work; 1 to 16777216 is right, 1024 by default",
            self.max_size_mib
        );
        Ok(())
    }
}

/// How long the writing thread waits, and for what.
#[derive(Clone, Copy)]
struct Pace {
    /// For a lock that another process holds.
    busy: Duration,
    /// Between two looks at the limits.
    sweep: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { busy: Duration::from_secs(2), sweep: Duration::from_secs(10) }
    }
}

/// A handle to the store; the writing thread ends when the last handle is gone.
#[derive(Clone)]
pub struct Embedded {
    queue: SyncSender<Write>,
    meters: Meters,
    path: PathBuf,
    thread: Arc<Mutex<Option<std::thread::JoinHandle<()>>>>,
}

#[derive(Clone)]
struct Meters {
    written: Counter,
    failed: Counter,
    cut: Counter,
    expired: Family<Vec<(&'static str, &'static str)>, Counter>,
    size: Gauge,
}

impl Meters {
    fn register(registry: &Registry) -> Self {
        let meters = Self {
            written: registry.counter("mirador_embedded_written_rows", "Rows committed to the embedded store."),
            failed: registry.counter("mirador_embedded_failed_writes", "Writes that the embedded store refused."),
            cut: registry.counter(
                "mirador_embedded_cut_rows",
                "Spans and log records that lost the ends of their resource's attributes (over 32 KiB) or of the name of a service or scope (over 4 KiB).",
            ),
            expired: registry.counter_family(
                "mirador_embedded_expired_rows",
                "Rows deleted by the limits of the embedded store, by reason (age, size).",
            ),
            size: registry
                .gauge("mirador_embedded_size_bytes", "Size of the embedded store's file with its write-ahead log."),
        };
        registry.declare_labels("mirador_embedded_expired_rows", &["reason"]);
        meters
    }

    fn written(&self, rows: usize) {
        self.written.inc_by(rows as u64);
    }

    fn failed(&self, writes: usize) {
        self.failed.inc_by(writes as u64);
    }

    fn expired(&self, reason: &'static str, rows: usize) {
        if rows > 0 {
            self.expired.get_or_create(&vec![("reason", reason)]).inc_by(rows as u64);
        }
    }

    fn size(&self, bytes: u64) {
        self.size.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

impl Embedded {
    /// Opens or creates the file and starts the writing thread, which calls `alive` at least once a second
    /// while it is idle.
    ///
    /// # Errors
    /// When the folder cannot be made, the file is not ours or is of another version.
    pub fn open(config: &Config, registry: &Registry, alive: impl Fn() + Send + 'static) -> anyhow::Result<Self> {
        Self::open_at(config, registry, alive, Pace::default())
    }

    fn open_at(
        config: &Config,
        registry: &Registry,
        alive: impl Fn() + Send + 'static,
        pace: Pace,
    ) -> anyhow::Result<Self> {
        config.check()?;
        let path = config.path.clone();
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("exporters.embedded.path: cannot create the folder {}", folder.display()))?;
        }
        let connection = Connection::open(&path)
            .with_context(|| format!("exporters.embedded.path: cannot open {}", path.display()))?;
        connection.busy_timeout(pace.busy)?;
        connection.set_prepared_statement_cache_capacity(16);
        schema::prepare(&connection).with_context(|| format!("exporters.embedded.path: {}", path.display()))?;
        let meters = Meters::register(registry);
        let bounds = Bounds {
            path: path.clone(),
            retention: config.retention,
            max_bytes: config.max_size_mib.saturating_mul(1 << 20),
            sweep: pace.sweep,
        };
        let writer = Writer::new(connection, bounds, meters.clone())?;
        let (queue, waiting) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("embedded-store".to_owned())
            .spawn(move || writer.run(&waiting, &alive))?;
        Ok(Self { queue, meters, path, thread: Arc::new(Mutex::new(Some(thread))) })
    }

    /// A connection that can only read, for the console.
    ///
    /// # Errors
    /// When the file has gone.
    pub fn reader(&self) -> anyhow::Result<Connection> {
        reader(&self.path)
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Drops this handle; when it was the last one, waits until everything queued is committed.
    pub fn close(self) {
        let Self { queue, thread, .. } = self;
        drop(queue);
        if let Some(thread) = Arc::into_inner(thread) {
            let handle = thread.into_inner().unwrap_or_else(PoisonError::into_inner);
            if let Some(handle) = handle
                && handle.join().is_err()
            {
                tracing::error!("embedded store: the writing thread panicked");
            }
        }
    }

    async fn write(&self, data: Data) -> Result<(), ExportError> {
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(Write { data, answer }).map_err(|error| {
            self.meters.failed(1);
            match error {
                TrySendError::Full(_) => ExportError::Retry {
                    after: Some(Duration::from_secs(1)),
                    reason: "embedded store: too many writes are waiting".to_owned(),
                },
                TrySendError::Disconnected(_) => stopped(),
            }
        })?;
        answered.await.unwrap_or_else(|_| Err(stopped()))
    }
}

fn stopped() -> ExportError {
    ExportError::Fatal { reason: "embedded store: the writing thread has stopped".to_owned() }
}

/// Opens `path` for reading only.
fn reader(path: &Path) -> anyhow::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)
        .with_context(|| format!("cannot open {} for reading", path.display()))?;
    connection.busy_timeout(Duration::from_secs(2))?;
    Ok(connection)
}

impl TraceStore for Embedded {
    fn store<'a>(&'a self, request: &'a Request) -> Stored<'a> {
        Box::pin(async move {
            let rows::Read { rows, rejected, cut } = rows::spans(request, crate::clock::unix_nano());
            self.write(Data::Spans(rows)).await?;
            self.meters.cut.inc_by(cut);
            if rejected == 0 {
                return Ok(());
            }
            let reason = format!(
                "{rejected} spans without a valid trace id and span id cannot be stored; 16 and 8 bytes that are not all zero are right"
            );
            Err(ExportError::Partial { rejected, reason })
        })
    }
}

impl LogStore for Embedded {
    fn store<'a>(&'a self, request: &'a Request) -> Stored<'a> {
        Box::pin(async move {
            let rows::Read { rows, cut, .. } = rows::logs(request, crate::clock::unix_nano());
            self.write(Data::Logs(rows)).await?;
            self.meters.cut.inc_by(cut);
            Ok(())
        })
    }
}

impl MetricStore for Embedded {
    fn write(&self, batch: Arc<SeriesBatch>) -> Stored<'_> {
        Box::pin(async move { Embedded::write(self, Data::Samples(batch)).await })
    }
}
