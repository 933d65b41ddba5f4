//! Questions that the console asks the embedded store.
//!
//! Never: holds the connection across an await, reads more than [`ROWS`] samples for one answer.

mod red;
mod search;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, params};
use serde::Serialize;

use crate::exporter::embedded::Embedded;
pub(super) use search::{LogFilter, TraceFilter};

/// Samples read for one answer at most.
const ROWS: i64 = 500_000;

/// Labels of one series, sorted by name.
pub(super) type LabelMap = BTreeMap<String, String>;

/// Reads the store, one question at a time.
#[derive(Clone)]
pub(super) struct Store {
    connection: Arc<Mutex<Connection>>,
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
    pub(super) fn new(store: &Embedded) -> anyhow::Result<Self> {
        Ok(Self { connection: Arc::new(Mutex::new(store.reader()?)) })
    }

    /// Runs a question on a thread that may block.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let connection = Arc::clone(&self.connection);
        tokio::task::spawn_blocking(move || question(&connection.lock().unwrap_or_else(PoisonError::into_inner)))
            .await?
    }
}

/// Milliseconds since the epoch.
pub(super) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as i64)
}

/// Every series called `name` whose labels contain `wanted`, with its samples since `since_ms`.
pub(super) fn series(
    connection: &Connection,
    name: &str,
    wanted: &LabelMap,
    since_ms: i64,
) -> anyhow::Result<Vec<SeriesRow>> {
    let mut named = connection.prepare_cached("SELECT id, labels FROM series WHERE name = ?1 ORDER BY id")?;
    let mut select = connection.prepare_cached(
        "SELECT timestamp_ms, value FROM samples WHERE series = ?1 AND timestamp_ms >= ?2 ORDER BY timestamp_ms LIMIT ?3",
    )?;
    let (mut found, mut left) = (Vec::new(), ROWS);
    let mut rows = named.query(params![name])?;
    while let Some(row) = rows.next()? {
        let labels: LabelMap = serde_json::from_str(row.get_ref(1)?.as_str()?)?;
        if left == 0 || !wanted.iter().all(|(key, value)| labels.get(key) == Some(value)) {
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
    let all = series(connection, name, &LabelMap::new(), since_ms)?;
    Ok(all
        .into_iter()
        .filter_map(|row| {
            let values: Vec<(i64, f64)> =
                row.samples.iter().filter_map(|(time, value)| Some((*time, (*value)?))).collect();
            let (first_ms, mut before) = *values.first()?;
            let mut increase = 0.0;
            for &(_, value) in &values[1..] {
                increase += if value >= before { value - before } else { value };
                before = value;
            }
            Some(Growth { labels: row.labels, increase, first_ms, last_ms: values.last()?.0 })
        })
        .collect())
}

pub(super) use red::{anomalies, edges, red};
pub(super) use search::{logs, services, trace, traces};
