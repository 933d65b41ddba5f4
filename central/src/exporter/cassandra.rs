//! Log records in Apache Cassandra: native CQL, single-partition batches, rows named by their content.
//!
//! A repeated export lands on the rows that it wrote before, so every write may be retried. Acknowledged
//! means acknowledged by the cluster at the configured consistency level; how durable that is on the
//! server side is decided by its `commitlog_sync` (`periodic` may lose the last seconds when a node dies).
//!
//! Never: sends more than `max_in_flight_bytes` at once, binds nulls (they are tombstones), writes with
//! the event time as the cell timestamp (that would break the expiry of time windows).

mod config;
mod row;
pub mod schema;
mod session;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mirador_otlp::Request;
use mirador_service::drain::Drain;
use mirador_service::health::Component;
use mirador_service::metrics::Registry;
use prometheus_client::metrics::counter::Counter;
use scylla::errors::ExecutionError;
use scylla::statement::batch::{Batch, BatchType};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{ExportError, LogStore, Stored};
use row::{LogRow, Partition, Placed};
use session::{Connected, Connection};

pub use config::{Config, Consistency, ManageSchema};

/// Rows of one batch at most; together with [`BATCH_BYTES`] well below the server's 50 KiB guard rail.
const BATCH_ROWS: usize = 100;
/// Bytes of one batch, estimated from the texts.
const BATCH_BYTES: usize = 32 * 1024;
/// Catalogue rows remembered as written.
const CATALOGUE: usize = 65_536;

/// Writes log records to one cluster.
pub struct Cassandra {
    config: Config,
    connection: Connection,
    in_flight: Arc<Semaphore>,
    catalogue: Mutex<HashSet<(String, i32)>>,
    rows: Counter,
    truncated: Counter,
    cut: Counter,
    clamped: Counter,
}

impl Cassandra {
    /// Checks the configuration and starts connecting in the background; until the cluster answers, writes
    /// are refused as retryable and `component` is not ready.
    ///
    /// # Errors
    /// When a key of the configuration makes no sense.
    pub fn start(
        config: Config,
        registry: &Registry,
        component: Component,
        drain: &Drain,
    ) -> anyhow::Result<Arc<Self>> {
        config.check()?;
        let connection = Connection::start(config.clone(), component, drain.clone());
        Ok(Arc::new(Self {
            in_flight: Arc::new(Semaphore::new(config.max_in_flight_bytes as usize)),
            connection,
            catalogue: Mutex::default(),
            rows: registry.counter("mirador_cassandra_rows", "Log rows that Cassandra has acknowledged."),
            truncated: registry.counter("mirador_cassandra_truncated_bodies", "Log bodies cut at max_body_bytes."),
            cut: registry.counter(
                "mirador_cassandra_cut_attributes",
                "Log records that lost the ends of their attributes (over 1 MiB), of their resource's (over 32 KiB) or of a name (over 4 KiB).",
            ),
            clamped: registry.counter(
                "mirador_cassandra_clamped_times",
                "Log records whose event time lies outside the kept range; they are filed at its edge.",
            ),
            config,
        }))
    }

    async fn write(&self, request: &Request) -> Result<(), ExportError> {
        let connected = self.connection.get()?;
        let now = Duration::from_nanos(crate::clock::unix_nano());
        let read = row::read(request, &self.config, now);
        let rows = read.rows.len() as u64;
        let batches = by_partition(read.rows);
        self.announce(&connected, &batches).await?;
        let mut writes = JoinSet::new();
        for batch in batches {
            self.spawn_batch(&mut writes, &connected, Arc::new(batch));
        }
        let mut outcome = Ok(());
        while let Some(joined) = writes.join_next().await {
            let written = joined.unwrap_or_else(|error| {
                Err(ExportError::Retry { after: None, reason: format!("cassandra: a write ended early: {error}") })
            });
            outcome = worst(outcome, written);
        }
        // Counted only now: a retry would count again.
        if outcome.is_ok() {
            self.rows.inc_by(rows);
            self.truncated.inc_by(read.truncated);
            self.cut.inc_by(read.cut);
            self.clamped.inc_by(read.clamped);
        }
        outcome
    }

    /// Two writes for a group of rows: the rows themselves and, for those with a trace, the look-up table.
    fn spawn_batch(
        &self,
        writes: &mut JoinSet<Result<(), ExportError>>,
        connected: &Arc<Connected>,
        rows: Arc<Vec<Placed>>,
    ) {
        let bytes = rows.iter().map(|placed| placed.row.estimated_bytes()).sum::<usize>();
        let permits = bytes.clamp(1, self.config.max_in_flight_bytes as usize) as u32;
        let (connected, in_flight) = (Arc::clone(connected), Arc::clone(&self.in_flight));
        writes.spawn(async move {
            let _permit = in_flight.acquire_many_owned(permits).await;
            let mut batch = Batch::new(BatchType::Unlogged);
            batch.set_is_idempotent(true);
            for _ in rows.iter() {
                batch.append_statement(connected.insert_log.clone());
            }
            let values: Vec<&LogRow> = rows.iter().map(|placed| &placed.row).collect();
            let main = connected.session.batch(&batch, &values);
            let traced = rows.iter().filter_map(|placed| placed.by_trace.as_ref());
            let lookups =
                traced.map(|by_trace| connected.session.execute_unpaged(&connected.insert_by_trace, by_trace));
            let (main, lookups) = tokio::join!(main, futures_all(lookups));
            main.map_err(|error| session::classify(&error))?;
            lookups.map_err(|error| session::classify(&error))
        });
    }

    /// The catalogue says which buckets of a service exist; its row stands before the first row of a bucket.
    async fn announce(&self, connected: &Connected, batches: &[Vec<Placed>]) -> Result<(), ExportError> {
        let fresh: BTreeMap<(&str, i32), &LogRow> = {
            let known = self.catalogue();
            // All rows of a batch share a partition.
            let firsts = batches.iter().filter_map(|batch| batch.first()).map(|placed| &placed.row);
            firsts
                .filter(|row| !known.contains(&(row.service.clone(), row.bucket)))
                .map(|row| ((row.service.as_str(), row.bucket), row))
                .collect()
        };
        let written = fresh.into_values().map(async |row| {
            let shards = i16::try_from(row::shards(&self.config, &row.service)).unwrap_or(i16::MAX);
            let stream = row::StreamRow::of(row, shards, self.config.bucket_width);
            connected.session.execute_unpaged(&connected.insert_stream, &stream).await?;
            let mut known = self.catalogue();
            if known.len() >= CATALOGUE {
                known.clear();
            }
            known.insert((row.service.clone(), row.bucket));
            Ok(())
        });
        futures_all(written).await.map_err(|error| session::classify(&error))
    }

    fn catalogue(&self) -> MutexGuard<'_, HashSet<(String, i32)>> {
        self.catalogue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogStore for Cassandra {
    fn store<'a>(&'a self, request: &'a Request) -> Stored<'a> {
        Box::pin(self.write(request))
    }
}

/// Waits for all of them side by side and returns the first error.
async fn futures_all<T>(
    futures: impl Iterator<Item = impl Future<Output = Result<T, ExecutionError>>>,
) -> Result<(), ExecutionError> {
    futures_util::future::try_join_all(futures).await.map(drop)
}

/// Groups rows by partition, then cuts each group to the size of a batch.
fn by_partition(rows: Vec<Placed>) -> Vec<Vec<Placed>> {
    let mut groups: BTreeMap<Partition, Vec<Placed>> = BTreeMap::new();
    for placed in rows {
        groups.entry(placed.row.partition()).or_default().push(placed);
    }
    let mut batches = Vec::new();
    for group in groups.into_values() {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for placed in group {
            let size = placed.row.estimated_bytes();
            if !batch.is_empty() && (batch.len() >= BATCH_ROWS || bytes + size > BATCH_BYTES) {
                batches.push(std::mem::take(&mut batch));
                bytes = 0;
            }
            bytes += size;
            batch.push(placed);
        }
        batches.push(batch);
    }
    batches
}

/// Of two outcomes the one that must win: configuration before transient before poison before success.
fn worst(left: Result<(), ExportError>, right: Result<(), ExportError>) -> Result<(), ExportError> {
    let rank = |outcome: &Result<(), ExportError>| match outcome {
        Ok(()) => 0,
        Err(ExportError::Partial { .. }) => 1,
        Err(ExportError::Drop { .. }) => 2,
        Err(ExportError::Retry { .. }) => 3,
        Err(ExportError::Fatal { .. }) => 4,
    };
    if rank(&right) > rank(&left) { right } else { left }
}

#[cfg(test)]
mod tests;
