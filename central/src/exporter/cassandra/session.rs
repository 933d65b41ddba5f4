//! The connection to the cluster: made in the background, and what its errors mean.
//!
//! Once made it is the driver's to keep: it reconnects to nodes and prepares statements again by itself.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwapOption;
use mirador_service::backoff::{Backoff, RetryConfig};
use mirador_service::drain::Drain;
use mirador_service::health::Component;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::frame::Compression;
use scylla::statement::Consistency as Level;
use scylla::statement::prepared::PreparedStatement;

use super::{Config, Consistency, ManageSchema, schema};
use crate::exporter::ExportError;

/// A session with its prepared statements.
pub(super) struct Connected {
    pub(super) session: Session,
    pub(super) insert_log: PreparedStatement,
    pub(super) insert_by_trace: PreparedStatement,
    pub(super) insert_stream: PreparedStatement,
}

/// What the writer sees of the connection.
pub(super) struct Connection {
    current: Arc<ArcSwapOption<Connected>>,
    problem: Arc<arc_swap::ArcSwap<String>>,
}

impl Connection {
    /// Connects in the background until it succeeds or the process drains.
    pub(super) fn start(config: Config, component: Component, drain: Drain) -> Self {
        let current = Arc::new(ArcSwapOption::empty());
        let problem = Arc::new(arc_swap::ArcSwap::from_pointee("not connected yet".to_owned()));
        component.ready(false, "not connected yet");
        let (made, seen) = (Arc::clone(&current), Arc::clone(&problem));
        tokio::spawn(async move {
            let retry = RetryConfig {
                initial_interval: Duration::from_millis(250),
                max_interval: Duration::from_secs(10),
                max_elapsed_time: Duration::ZERO,
                ..RetryConfig::default()
            };
            let mut backoff = Backoff::new(&retry, u64::from(std::process::id()));
            loop {
                match connect(&config).await {
                    Ok(connected) => {
                        tracing::info!(hosts = ?config.hosts, keyspace = %config.keyspace, "cassandra: connected");
                        made.store(Some(Arc::new(connected)));
                        component.ready(true, "");
                        return;
                    }
                    Err(error) => {
                        let reason = format!("{error:#}");
                        tracing::warn!(hosts = ?config.hosts, %reason, "cassandra: cannot connect, trying again");
                        component.ready(false, &reason);
                        seen.store(Arc::new(reason));
                    }
                }
                let wait = backoff.next_delay().unwrap_or(retry.max_interval);
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = drain.started() => return,
                }
            }
        });
        Self { current, problem }
    }

    /// The session, or why there is none.
    pub(super) fn get(&self) -> Result<Arc<Connected>, ExportError> {
        self.current.load_full().ok_or_else(|| ExportError::Retry {
            after: Some(Duration::from_secs(1)),
            reason: format!("cassandra: {}", self.problem.load()),
        })
    }
}

async fn connect(config: &Config) -> anyhow::Result<Connected> {
    let level = match config.consistency {
        Consistency::LocalOne => Level::LocalOne,
        Consistency::LocalQuorum => Level::LocalQuorum,
        Consistency::Quorum => Level::Quorum,
    };
    let profile =
        ExecutionProfile::builder().consistency(level).request_timeout(Some(config.timeout)).build().into_handle();
    let mut builder = SessionBuilder::new()
        .known_nodes(&config.hosts)
        .connection_timeout(config.timeout)
        .compression(Some(Compression::Lz4))
        .cluster_metadata_refresh_interval(Duration::from_secs(300))
        .schema_agreement_timeout(Duration::from_secs(30))
        .default_execution_profile_handle(profile);
    if !config.username.is_empty() {
        builder = builder.user(&config.username, config.password.reveal());
    }
    if !config.datacenter.is_empty() {
        builder = builder.prefer_datacenter(config.datacenter.clone());
    }
    let session = builder.build().await.context("no node answers")?;
    match config.manage_schema {
        ManageSchema::Create => create(&session, config).await?,
        ManageSchema::Validate => validate(&session, config).await?,
        ManageSchema::None => {}
    }
    let prepare = async |table: &str| -> anyhow::Result<PreparedStatement> {
        let mut statement = session
            .prepare(insert(config, table))
            .await
            .with_context(|| format!("cannot prepare the insert into {}.{table}", config.keyspace))?;
        statement.set_is_idempotent(true);
        Ok(statement)
    };
    let insert_log = prepare("logs_v1").await?;
    let insert_by_trace = prepare("logs_by_trace_v1").await?;
    let insert_stream = prepare("log_streams_v1").await?;
    Ok(Connected { session, insert_log, insert_by_trace, insert_stream })
}

fn insert(config: &Config, table: &str) -> String {
    let columns = schema::COLUMNS.iter().find(|(name, _)| *name == table).map_or(&[][..], |(_, columns)| columns);
    let marks = vec!["?"; columns.len()].join(", ");
    format!("INSERT INTO {}.{table} ({}) VALUES ({marks})", config.keyspace, columns.join(", "))
}

async fn create(session: &Session, config: &Config) -> anyhow::Result<()> {
    for statement in schema::statements(config) {
        let what = statement.split(['(', '=']).next().unwrap_or_default().trim().to_owned();
        session.query_unpaged(statement, ()).await.with_context(|| format!("schema: {what}"))?;
        session.await_schema_agreement().await.context("schema: the nodes do not agree")?;
    }
    Ok(())
}

async fn validate(session: &Session, config: &Config) -> anyhow::Result<()> {
    for (table, columns) in schema::COLUMNS {
        let found = session
            .query_unpaged(
                "SELECT column_name FROM system_schema.columns WHERE keyspace_name = ? AND table_name = ?",
                (&config.keyspace, table),
            )
            .await
            .context("schema: cannot read system_schema.columns")?
            .into_rows_result()
            .context("schema: unexpected answer")?;
        let names: Vec<String> =
            found.rows::<(String,)>()?.map(|row| row.map(|(name,)| name)).collect::<Result<_, _>>()?;
        let missing: Vec<_> = columns.iter().filter(|column| !names.iter().any(|name| name == *column)).collect();
        anyhow::ensure!(
            missing.is_empty(),
            "schema: {}.{table} lacks {missing:?}; create the tables or set exporters.cassandra.manage_schema: create",
            config.keyspace
        );
    }
    Ok(())
}

/// Who must act on a failed write. Rows are named by content, so whatever is unclear may be sent again.
pub(super) fn classify(error: &ExecutionError) -> ExportError {
    let reason = format!("cassandra: {error}");
    match error {
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(db, message)) => match db {
            // A guard rail (a full disk among them) answers as an invalid request.
            DbError::Invalid if message.contains("uardrail") || message.contains("disk usage") => {
                ExportError::Retry { after: Some(Duration::from_secs(10)), reason }
            }
            DbError::Invalid if message.contains("unconfigured table") || message.contains("does not exist") => {
                ExportError::Fatal { reason }
            }
            DbError::SyntaxError | DbError::Invalid => ExportError::Drop { reason },
            DbError::AuthenticationError | DbError::Unauthorized | DbError::ConfigError => {
                ExportError::Fatal { reason }
            }
            _ => ExportError::Retry { after: None, reason },
        },
        ExecutionError::BadQuery(_)
        | ExecutionError::LastAttemptError(
            RequestAttemptError::SerializationError(_) | RequestAttemptError::CqlRequestSerialization(_),
        ) => ExportError::Drop { reason },
        _ => ExportError::Retry { after: None, reason },
    }
}

#[cfg(test)]
mod tests;
