//! Questions that the console asks the embedded store.
//!
//! One question is asked at a time, and each has a limit of time, after which it is interrupted.
//!
//! Never: holds more than [`ROWS`] samples for one answer.

mod red;
mod search;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, InterruptHandle, params};
use serde::Serialize;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;

use crate::exporter::embedded::Embedded;
pub(super) use search::{LogFilter, TraceFilter};

/// Samples in one answer at most.
const ROWS: i64 = 500_000;

/// Labels of one series, sorted by name.
pub(super) type LabelMap = BTreeMap<String, String>;

/// A question that is interrupted is interrupted again after this long, until it ends: an interrupt reaches only a
/// statement that is running.
const AGAIN: Duration = Duration::from_millis(10);

/// Reads the store, one question at a time.
#[derive(Clone)]
pub(super) struct Store {
    connection: Arc<Mutex<Connection>>,
    interrupt: Arc<InterruptHandle>,
    limit: Duration,
}

/// Why there is no answer although the question is right.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    /// Others took the time.
    #[error("earlier questions have kept the store busy for {}; ask again", mirador_service::duration::format(*.0))]
    Busy(Duration),
    /// It took the time itself.
    #[error("this takes longer than console.query_timeout, {}; ask for a shorter range (since) or fewer rows (limit)", mirador_service::duration::format(*.0))]
    TooSlow(Duration),
}

/// Samples of one series as the API returns them; a stale marker is `null`.
#[derive(Debug, Serialize)]
pub(super) struct SeriesRow {
    pub(super) name: String,
    pub(super) labels: LabelMap,
    pub(super) samples: Vec<(i64, Option<f64>)>,
}

/// How much a counter grew between its first and its last sample in the range.
struct Growth {
    labels: LabelMap,
    increase: f64,
    first_ms: i64,
    last_ms: i64,
}

impl Store {
    pub(super) fn new(store: &Embedded, limit: Duration) -> anyhow::Result<Self> {
        Ok(Self::of(store.reader()?, limit))
    }

    fn of(connection: Connection, limit: Duration) -> Self {
        let interrupt = Arc::new(connection.get_interrupt_handle());
        Self { connection: Arc::new(Mutex::new(connection)), interrupt, limit }
    }

    /// Runs a question on a thread that may block, within the limit of time.
    ///
    /// # Errors
    /// What the question says, or [`Unanswered`].
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + self.limit;
        let connection = tokio::time::timeout_at(deadline, Arc::clone(&self.connection).lock_owned()).await;
        let connection = connection.map_err(|_| Unanswered::Busy(self.limit))?;
        // A task of its own: it is interrupted in time even if nobody waits for the answer any more.
        tokio::spawn(self.clone().answer(connection, question, deadline)).await?
    }

    async fn answer<T: Send + 'static>(
        self,
        connection: OwnedMutexGuard<Connection>,
        question: impl FnOnce(&Connection) -> anyhow::Result<T> + Send + 'static,
        deadline: Instant,
    ) -> anyhow::Result<T> {
        // The guard moves with the question, so that nobody else's question is ever interrupted.
        let mut answer = tokio::task::spawn_blocking(move || (question(&connection), connection));
        let mut is_late = false;
        let mut next = deadline;
        let (answer, connection) = loop {
            tokio::select! {
                done = &mut answer => break done?,
                () = tokio::time::sleep_until(next) => {
                    is_late = true;
                    self.interrupt.interrupt();
                    next = Instant::now() + AGAIN;
                }
            }
        };
        drop(connection);
        answer.map_err(|error| if is_late { Unanswered::TooSlow(self.limit).into() } else { error })
    }
}

/// Milliseconds since the epoch.
pub(super) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as i64)
}

/// The first `limit` series called `name` whose labels contain `wanted`, with their samples since `since_ms`.
pub(super) fn series(
    connection: &Connection,
    name: &str,
    wanted: &LabelMap,
    (since_ms, limit): (i64, usize),
) -> anyhow::Result<Vec<SeriesRow>> {
    let mut named = connection.prepare_cached("SELECT id, labels FROM series WHERE name = ?1 ORDER BY id")?;
    let mut select = connection.prepare_cached(
        "SELECT timestamp_ms, value FROM samples WHERE series = ?1 AND timestamp_ms >= ?2 ORDER BY timestamp_ms LIMIT ?3",
    )?;
    let (mut found, mut left) = (Vec::new(), ROWS);
    let mut rows = named.query(params![name])?;
    while let Some(row) = rows.next()? {
        let labels: LabelMap = serde_json::from_str(row.get_ref(1)?.as_str()?)?;
        if left == 0 || found.len() == limit {
            break;
        }
        if !wanted.iter().all(|(key, value)| labels.get(key) == Some(value)) {
            continue;
        }
        let id: i64 = row.get(0)?;
        let samples = select
            .query_map(params![id, since_ms, left], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<Vec<_>, _>>()?;
        left -= samples.len() as i64;
        if !samples.is_empty() {
            found.push(SeriesRow { name: name.to_owned(), labels, samples });
        }
    }
    Ok(found)
}

/// Names of all series, with how many series carry each.
pub(super) fn names(connection: &Connection) -> anyhow::Result<Vec<(String, i64)>> {
    let mut statement =
        connection.prepare_cached("SELECT name, count(*) FROM series GROUP BY name ORDER BY name LIMIT 10000")?;
    let names = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    Ok(names)
}

/// Growth of every counter called `name` since `since_ms`; a fall is a reset and counts from zero.
fn growth(connection: &Connection, name: &str, since_ms: i64) -> anyhow::Result<Vec<Growth>> {
    let mut named = connection.prepare_cached("SELECT id, labels FROM series WHERE name = ?1 ORDER BY id")?;
    let mut select = connection.prepare_cached(
        "SELECT timestamp_ms, value FROM samples WHERE series = ?1 AND timestamp_ms >= ?2 AND value IS NOT NULL \
         ORDER BY timestamp_ms",
    )?;
    let (mut found, mut rows) = (Vec::new(), named.query(params![name])?);
    while let Some(row) = rows.next()? {
        // Samples are not kept, so there is no bound to them but time: a sum over a part of them would be wrong.
        let mut samples = select.query(params![row.get::<_, i64>(0)?, since_ms])?;
        let Some(first) = samples.next()? else { continue };
        let (first_ms, mut before): (i64, f64) = (first.get(0)?, first.get(1)?);
        let (mut last_ms, mut increase) = (first_ms, 0.0);
        while let Some(sample) = samples.next()? {
            let value: f64 = sample.get(1)?;
            increase += if value >= before { value - before } else { value };
            (last_ms, before) = (sample.get(0)?, value);
        }
        let labels = serde_json::from_str(row.get_ref(1)?.as_str()?)?;
        found.push(Growth { labels, increase, first_ms, last_ms });
    }
    Ok(found)
}

pub(super) use red::{AnomalyFilter, anomalies, edges, red};
pub(super) use search::{logs, services, trace, traces};

#[cfg(test)]
mod tests;
