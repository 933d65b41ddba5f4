//! Makes and checks keyspace and tables in a cluster, for the role at its start and for `mirador-central schema`.
//!
//! Cassandra up to 5.0 does not order two changes of the schema that are made at once, so only one process may make
//! it; every statement waits until all nodes agree on the one before.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use mirador_service::backoff::{Backoff, RetryConfig};
use mirador_service::cause::chain;
use scylla::client::session::Session;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::statement::unprepared::Statement;

use super::super::session;
use super::compare::{Difference, Found, FoundColumn, FoundTable, compare};
use super::{Config, TABLES, keyspace_statement, table_statement};

/// How long the coordinator may take for one statement: it waits for the other nodes.
const STATEMENT: Duration = Duration::from_secs(30);

/// Why there is no schema that the role could work with, by who must act.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The cluster does not answer, or its nodes do not agree; trying again may help.
    #[error("{0}")]
    Unavailable(String),
    /// The cluster refuses a statement, as for want of a right.
    #[error("{0}")]
    Refused(String),
    /// Something is missing or has another shape.
    #[error("{0}")]
    Unfit(String),
}

/// What was done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// What was made, in order; empty when everything was there.
    pub made: Vec<String>,
    /// What works, and is not as the configuration says.
    pub notes: Vec<String>,
}

/// Makes what is missing, trying again until `patience` is over.
///
/// # Errors
/// When the cluster cannot be reached in time, refuses, or has a table of another shape.
pub async fn apply(config: &Config, patience: Duration) -> Result<Applied, SchemaError> {
    let mut made = Vec::new();
    let notes = patiently(config, patience, async |session| create(session, config, &mut made).await).await?;
    Ok(Applied { made, notes })
}

/// Checks that everything is there, changes nothing, and returns what is not as the configuration says.
///
/// # Errors
/// When the cluster cannot be reached in time, or something is missing or of another shape.
pub async fn check(config: &Config, patience: Duration) -> Result<Vec<String>, SchemaError> {
    patiently(config, patience, async |session| validate(session, config).await).await
}

/// Connects and does `step`, again and again while the cluster is not available.
async fn patiently<T>(
    config: &Config,
    patience: Duration,
    mut step: impl AsyncFnMut(&Session) -> Result<T, SchemaError>,
) -> Result<T, SchemaError> {
    let end = Instant::now() + patience;
    let retry = RetryConfig {
        initial_interval: Duration::from_millis(250),
        max_interval: Duration::from_secs(5),
        max_elapsed_time: Duration::ZERO,
        ..RetryConfig::default()
    };
    let mut backoff = Backoff::new(&retry, u64::from(std::process::id()));
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let attempt = async {
            let session = session::open(config).await.map_err(|error| {
                SchemaError::Unavailable(format!("cassandra at {:?}: {}", config.hosts, chain(error.as_ref())))
            })?;
            step(&session).await
        };
        let reason = match tokio::time::timeout(left, attempt).await {
            Ok(Err(SchemaError::Unavailable(reason))) => reason,
            Ok(done) => return done,
            Err(_) => format!("cassandra at {:?}: no answer in time", config.hosts),
        };
        let wait = backoff.next_delay().unwrap_or(retry.max_interval);
        if Instant::now() + wait >= end {
            return Err(SchemaError::Unavailable(format!("{reason} (tried for {patience:?})")));
        }
        tracing::warn!(%reason, "cassandra: the schema cannot be looked at, trying again");
        tokio::time::sleep(wait).await;
    }
}

/// Makes what is missing and returns what is not as the configuration says; what is made is added to `made`.
pub(in super::super) async fn create(
    session: &Session,
    config: &Config,
    made: &mut Vec<String>,
) -> Result<Vec<String>, SchemaError> {
    agree(session).await?;
    let found = look(session, config).await?;
    stands_in_the_way(&compare(config, &found))?;
    if found.replication.is_none() {
        run(session, keyspace_statement(config), &format!("create keyspace {}", config.keyspace)).await?;
        made.push(format!("keyspace {}", config.keyspace));
    }
    for table in TABLES.iter().filter(|table| !found.tables.contains_key(table.name)) {
        let name = format!("table {}.{}", config.keyspace, table.name);
        run(session, table_statement(config, table), &format!("create {name}")).await?;
        made.push(name);
    }
    validate(session, config).await
}

/// That everything is there; returns what is not as the configuration says.
pub(in super::super) async fn validate(session: &Session, config: &Config) -> Result<Vec<String>, SchemaError> {
    let difference = compare(config, &look(session, config).await?);
    stands_in_the_way(&difference)?;
    if difference.missing.is_empty() {
        return Ok(difference.notes);
    }
    Err(SchemaError::Unfit(format!(
        "schema: there is no {}; `mirador-central schema apply` makes what is missing, or an administrator by what \
         `mirador-central schema print` prints, or the role itself with exporters.cassandra.manage_schema: create",
        difference.missing.join(", no ")
    )))
}

fn stands_in_the_way(difference: &Difference) -> Result<(), SchemaError> {
    if difference.wrong.is_empty() {
        return Ok(());
    }
    Err(SchemaError::Unfit(format!(
        "schema: {}; a table that exists is never changed: name another exporters.cassandra.keyspace, or drop the \
         table when its rows may go",
        difference.wrong.join("; ")
    )))
}

async fn run(session: &Session, text: String, what: &str) -> Result<(), SchemaError> {
    let mut statement = Statement::new(text);
    statement.set_request_timeout(Some(STATEMENT));
    statement.set_is_idempotent(true);
    if let Err(error) = session.query_unpaged(statement, ()).await {
        // Made by somebody else since we looked: what it is like is checked at the end.
        let exists = matches!(
            &error,
            ExecutionError::LastAttemptError(RequestAttemptError::DbError(DbError::AlreadyExists { .. }, _))
        );
        if !exists {
            return Err(refused(&error, what));
        }
    }
    agree(session).await
}

async fn agree(session: &Session) -> Result<(), SchemaError> {
    let agreed = session.await_schema_agreement().await;
    agreed
        .map(drop)
        .map_err(|error| SchemaError::Unavailable(format!("schema: the nodes do not agree: {}", chain(&error))))
}

/// A statement that failed: by the account, by the statement, or for now.
fn refused(error: &ExecutionError, what: &str) -> SchemaError {
    match error {
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(DbError::Unauthorized, said)) => {
            SchemaError::Refused(format!(
                "schema: the account may not {what}: {said}; grant it CREATE, or have an administrator run what \
                 `mirador-central schema print` prints"
            ))
        }
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(
            DbError::SyntaxError | DbError::Invalid | DbError::ConfigError,
            said,
        )) => SchemaError::Refused(format!("schema: the cluster refuses to {what}: {said}")),
        other => SchemaError::Unavailable(format!("schema: cannot {what} now: {}", chain(other))),
    }
}

type Options = HashMap<String, String>;

/// Reads what stands; every account may.
async fn look(session: &Session, config: &Config) -> Result<Found, SchemaError> {
    // A name without quotes is in lower case on the server.
    look_at(session, &config.keyspace.to_lowercase()).await.map_err(|error| {
        SchemaError::Unavailable(format!("schema: cannot read system_schema: {}", chain(error.as_ref())))
    })
}

async fn look_at(session: &Session, keyspace: &str) -> anyhow::Result<Found> {
    let ask = async |columns: &str, table: &str| {
        let text = format!("SELECT {columns} FROM system_schema.{table} WHERE keyspace_name = ?");
        anyhow::Ok(session.query_unpaged(text, (keyspace,)).await?.into_rows_result()?)
    };
    let mut found = Found::default();
    for row in ask("replication", "keyspaces").await?.rows::<(Options,)>()? {
        found.replication = Some(row?.0.into_iter().collect());
    }
    for row in ask("table_name, default_time_to_live, compaction", "tables").await?.rows::<(String, i32, Options)>()? {
        let (name, ttl, compaction) = row?;
        let table = FoundTable { ttl, compaction: compaction.into_iter().collect(), columns: BTreeMap::new() };
        found.tables.insert(name, table);
    }
    let columns = ask("table_name, column_name, type, kind, position, clustering_order", "columns").await?;
    for row in columns.rows::<(String, String, String, String, i32, String)>()? {
        let (table, name, cql, kind, position, order) = row?;
        if let Some(table) = found.tables.get_mut(&table) {
            table.columns.insert(name, FoundColumn { cql, kind, position, order });
        }
    }
    Ok(found)
}
