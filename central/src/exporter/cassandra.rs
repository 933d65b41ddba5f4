//! Log records in Apache Cassandra: native CQL, single-partition batches, rows named by their content.
//!
//! A repeated export lands on the rows that it wrote before, so every write may be retried. Acknowledged
//! means acknowledged by the cluster at the configured consistency level; how durable that is on the
//! server side is decided by its `commitlog_sync` (`periodic` may lose the last seconds when a node dies).
//!
//! Never: sends more than `max_in_flight_bytes` at once, binds nulls (they are tombstones), writes with
//! the event time as the cell timestamp (that would break the expiry of time windows).

mod row;
mod schema;
mod session;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mirador_otlp::Request;
use mirador_service::drain::Drain;
use mirador_service::health::Component;
use mirador_service::metrics::Registry;
use mirador_service::secret::Secret;
use prometheus_client::metrics::counter::Counter;
use schemars::JsonSchema;
use scylla::statement::batch::{Batch, BatchType};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{ExportError, LogStore, Stored};
use row::{LogRow, Partition, Placed};
use session::{Connected, Connection};

/// Rows of one batch at most; together with [`BATCH_BYTES`] well below the server's 50 KiB guard rail.
const BATCH_ROWS: usize = 100;
/// Bytes of one batch, estimated from the texts.
const BATCH_BYTES: usize = 32 * 1024;
/// Catalogue rows remembered as written.
const CATALOGUE: usize = 65_536;

/// Section `exporters.cassandra`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Contact points as `host:port`; the rest of the cluster is discovered.
    pub hosts: Vec<String>,
    /// User name; empty: no authentication.
    pub username: String,
    /// Password; write it as `${env:CASSANDRA_PASSWORD}`.
    pub password: Secret,
    /// The keyspace that holds the tables.
    pub keyspace: String,
    /// The datacenter whose nodes are asked, and that `manage_schema: create` replicates in. Empty: any.
    pub datacenter: String,
    /// Replicas per datacenter when the keyspace is created.
    pub replication_factor: u32,
    /// `create` makes what is missing, `validate` only checks, `none` trusts. Only one process should create.
    pub manage_schema: ManageSchema,
    /// How many replicas must have a row before it is acknowledged.
    pub consistency: Consistency,
    /// Rows expire after this; also how far back an event time may lie.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "String")]
    pub ttl: Duration,
    /// Width of a partition. Raise it for quiet services, lower it for loud ones.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "String")]
    pub bucket_width: Duration,
    /// Partitions that one service writes side by side in a bucket. A row's shard follows from its
    /// identity, so changing this moves rows: a repeated export across the change is stored twice.
    pub shards: u16,
    /// Exceptions from `shards`, by service name.
    pub shards_by_service: BTreeMap<String, u16>,
    /// The tenant under which rows are stored.
    pub tenant: String,
    /// How long one write may take.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// Bytes under way to the cluster at once. Cassandra stops reading a client's socket above its own limit.
    pub max_in_flight_bytes: u32,
    /// Longest body kept; longer ones are cut on a character boundary and counted.
    pub max_body_bytes: usize,
}

/// What is done about tables at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ManageSchema {
    /// Make the keyspace and the tables when they are missing.
    Create,
    /// Refuse to become ready when a table or a column is missing.
    Validate,
    /// Look at nothing.
    None,
}

/// Consistency levels that make sense for writes of logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// One replica of the local datacenter.
    LocalOne,
    /// Most replicas of the local datacenter.
    LocalQuorum,
    /// Most replicas of all datacenters.
    Quorum,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hosts: vec!["127.0.0.1:9042".to_owned()],
            username: String::new(),
            password: Secret::default(),
            keyspace: "otel".to_owned(),
            datacenter: String::new(),
            replication_factor: 3,
            manage_schema: ManageSchema::Create,
            consistency: Consistency::LocalQuorum,
            ttl: Duration::from_secs(7 * 24 * 3600),
            bucket_width: Duration::from_secs(600),
            shards: 4,
            shards_by_service: BTreeMap::new(),
            tenant: "default".to_owned(),
            timeout: Duration::from_secs(5),
            max_in_flight_bytes: 8 << 20,
            max_body_bytes: 64 << 10,
        }
    }
}

/// Writes log records to one cluster.
pub struct Cassandra {
    config: Config,
    connection: Connection,
    in_flight: Arc<Semaphore>,
    catalogue: Mutex<std::collections::HashSet<(String, i32)>>,
    rows: Counter,
    truncated: Counter,
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
        check(&config)?;
        let connection = Connection::start(config.clone(), component, drain.clone());
        Ok(Arc::new(Self {
            in_flight: Arc::new(Semaphore::new(config.max_in_flight_bytes as usize)),
            connection,
            catalogue: Mutex::default(),
            rows: registry.counter("mirador_cassandra_rows", "Log rows that Cassandra has acknowledged."),
            truncated: registry.counter("mirador_cassandra_truncated_bodies", "Log bodies cut at max_body_bytes."),
            clamped: registry.counter(
                "mirador_cassandra_clamped_times",
                "Log records whose event time lies outside the kept range; they are filed at its edge.",
            ),
            config,
        }))
    }

    async fn write(&self, request: &Request) -> Result<(), ExportError> {
        let connected = self.connection.get()?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let read = row::read(request, &self.config, now);
        self.truncated.inc_by(read.truncated);
        self.clamped.inc_by(read.clamped);
        let rows = read.rows.len() as u64;
        self.announce(&connected, &read.rows).await?;
        let mut writes = JoinSet::new();
        for batch in by_partition(read.rows) {
            self.spawn_batch(&mut writes, &connected, Arc::new(batch));
        }
        let mut outcome = Ok(());
        while let Some(joined) = writes.join_next().await {
            let written = joined.unwrap_or_else(|error| {
                Err(ExportError::Retry {
                    after: None,
                    reason: format!("cassandra: a write ended early: {error}"),
                })
            });
            outcome = worst(outcome, written);
        }
        if outcome.is_ok() {
            self.rows.inc_by(rows);
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
        let bytes = rows
            .iter()
            .map(|placed| placed.row.estimated_bytes())
            .sum::<usize>();
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
            let lookups = traced.map(|by_trace| {
                connected
                    .session
                    .execute_unpaged(&connected.insert_by_trace, by_trace)
            });
            let (main, lookups) = tokio::join!(main, futures_all(lookups));
            main.map_err(|error| session::classify(&error))?;
            lookups.map_err(|error| session::classify(&error))
        });
    }

    /// The catalogue says which buckets of a service exist; its row stands before the first row of a bucket.
    async fn announce(&self, connected: &Connected, rows: &[Placed]) -> Result<(), ExportError> {
        let mut fresh: Vec<&Placed> = Vec::new();
        {
            let known = self
                .catalogue
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            for placed in rows {
                let key = (&placed.row.service, placed.row.bucket);
                let is_new = !known.contains(&(key.0.clone(), key.1));
                if is_new
                    && !fresh
                        .iter()
                        .any(|other| (&other.row.service, other.row.bucket) == key)
                {
                    fresh.push(placed);
                }
            }
        }
        for placed in fresh {
            let shards =
                i16::try_from(row::shards(&self.config, &placed.row.service)).unwrap_or(i16::MAX);
            let row = row::StreamRow::of(&placed.row, shards, self.config.bucket_width);
            connected
                .session
                .execute_unpaged(&connected.insert_stream, &row)
                .await
                .map_err(|error| session::classify(&error))?;
            let mut known = self
                .catalogue
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if known.len() >= CATALOGUE {
                known.clear();
            }
            known.insert((placed.row.service.clone(), placed.row.bucket));
        }
        Ok(())
    }
}

impl LogStore for Cassandra {
    fn store<'a>(&'a self, request: &'a Request) -> Stored<'a> {
        Box::pin(self.write(request))
    }
}

/// Waits for all of them side by side and returns the first error.
async fn futures_all<T, E>(
    futures: impl Iterator<Item = impl Future<Output = Result<T, E>>>,
) -> Result<(), E> {
    futures_util::future::try_join_all(futures).await.map(drop)
}

/// Groups rows by partition, then cuts each group to the size of a batch.
fn by_partition(rows: Vec<Placed>) -> Vec<Vec<Placed>> {
    let mut groups: BTreeMap<Partition, Vec<Placed>> = BTreeMap::new();
    for placed in rows {
        groups
            .entry(placed.row.partition())
            .or_default()
            .push(placed);
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
    if rank(&right) > rank(&left) {
        right
    } else {
        left
    }
}

fn check(config: &Config) -> anyhow::Result<()> {
    anyhow::ensure!(
        !config.hosts.is_empty(),
        "exporters.cassandra.hosts is empty: name at least one host:port"
    );
    let plain = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    anyhow::ensure!(
        plain(&config.keyspace),
        "exporters.cassandra.keyspace: {:?} is not a name; letters, digits and _ are allowed",
        config.keyspace
    );
    anyhow::ensure!(
        config
            .datacenter
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c)),
        "exporters.cassandra.datacenter: {:?} is not a name; letters, digits, '_', '-' and '.' are allowed",
        config.datacenter
    );
    anyhow::ensure!(
        config.bucket_width >= Duration::from_secs(60),
        "exporters.cassandra.bucket_width: {:?} is too short; 1m or more is right",
        config.bucket_width
    );
    anyhow::ensure!(
        config.ttl >= Duration::from_secs(60),
        "exporters.cassandra.ttl: {:?} is too short; 1m or more is right",
        config.ttl
    );
    anyhow::ensure!(
        config.shards >= 1,
        "exporters.cassandra.shards: 0 keeps nothing; 1 to 64 is right"
    );
    anyhow::ensure!(
        config.shards_by_service.values().all(|&shards| shards >= 1),
        "exporters.cassandra.shards_by_service: 0 keeps nothing; 1 to 64 is right"
    );
    anyhow::ensure!(
        config.max_in_flight_bytes >= 1 << 20,
        "exporters.cassandra.max_in_flight_bytes: {} is too small; 1048576 or more is right",
        config.max_in_flight_bytes
    );
    Ok(())
}
