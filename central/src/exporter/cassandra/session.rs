//! The connection to the cluster: made in the background, and what its errors mean.
//!
//! Once made it is the driver's to keep: it reconnects to nodes and prepares statements again by itself.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwapOption;
use mirador_service::backoff::{Backoff, RetryConfig};
use mirador_service::cause::chain;
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
                        let reason = chain(error.as_ref());
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

/// A session without anything prepared; also what looks after the schema uses.
pub(super) async fn open(config: &Config) -> anyhow::Result<Session> {
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
    if let Some(tls) = config.tls.as_ref().filter(|tls| !tls.insecure) {
        let settings = tls.fixed_for_addresses().context("exporters.cassandra.tls")?;
        builder = builder.tls_context(Some(Arc::new(settings)));
    }
    if !config.username.is_empty() {
        builder = builder.user(&config.username, config.password.reveal());
    }
    if !config.datacenter.is_empty() {
        builder = builder.prefer_datacenter(config.datacenter.clone());
    }
    builder.build().await.context("no node answers")
}

async fn connect(config: &Config) -> anyhow::Result<Connected> {
    let session = open(config).await?;
    let mut made = Vec::new();
    let notes = match config.manage_schema {
        ManageSchema::Create => schema::create(&session, config, &mut made).await?,
        ManageSchema::Validate => schema::validate(&session, config).await?,
        ManageSchema::None => Vec::new(),
    };
    for name in made {
        tracing::info!("cassandra: made {name}");
    }
    for note in notes {
        tracing::warn!("cassandra: {note}");
    }
    let prepare = async |name: &str| -> anyhow::Result<PreparedStatement> {
        let table = schema::TABLES.iter().find(|table| table.name == name).context("the table is one of ours")?;
        let mut statement = session
            .prepare(schema::insert(config, table))
            .await
            .with_context(|| format!("cannot prepare the insert into {}.{name}", config.keyspace))?;
        statement.set_is_idempotent(true);
        Ok(statement)
    };
    let insert_log = prepare(schema::LOGS).await?;
    let insert_by_trace = prepare(schema::BY_TRACE).await?;
    let insert_stream = prepare(schema::STREAMS).await?;
    Ok(Connected { session, insert_log, insert_by_trace, insert_stream })
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
