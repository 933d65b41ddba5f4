//! Where data leaves central: one trait per signal, one implementation per backend.
//!
//! Never: answers `Ok` before the backend has taken the data.

pub mod cassandra;
pub mod embedded;
pub mod otlphttp;
pub mod retrying;
mod shorten;
pub mod victoriametrics;
pub mod victoriatraces;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mirador_otlp::Request;
use mirador_transport::{Accepted, Refusal};
use tonic::Code;

use crate::series::SeriesBatch;

/// A boxed future, because a store is chosen by configuration.
pub type Stored<'a> = Pin<Box<dyn Future<Output = Result<(), ExportError>> + Send + 'a>>;

/// Why a backend did not take something, by who must act.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ExportError {
    /// The backend is down, slow or full: the same data may be sent again.
    #[error("{reason}")]
    Retry {
        /// The back-off that the backend asked for.
        after: Option<Duration>,
        /// What was seen, for the log and the client.
        reason: String,
    },
    /// The backend refuses this data for good (poison).
    #[error("{reason}")]
    Drop {
        /// What the backend said.
        reason: String,
    },
    /// All of it was stored but some items, which were refused for good (poison that was isolated).
    #[error("{reason}")]
    Partial {
        /// Items that were left out.
        rejected: u64,
        /// What the backend said of them.
        reason: String,
    },
    /// The configuration is wrong (credentials, path, schema): an operator must act, data is kept.
    #[error("{reason}")]
    Fatal {
        /// What is wrong and what would be right.
        reason: String,
    },
}

/// Keeps spans.
pub trait TraceStore: Send + Sync {
    /// Stores every span of the request.
    fn store<'a>(&'a self, request: &'a Request) -> Stored<'a>;
}

/// Keeps log records.
pub trait LogStore: Send + Sync {
    /// Stores every record of the request; storing it again changes nothing.
    fn store<'a>(&'a self, request: &'a Request) -> Stored<'a>;
}

/// Keeps samples.
pub trait MetricStore: Send + Sync {
    /// Writes every sample of the batch.
    fn write(&self, batch: Arc<SeriesBatch>) -> Stored<'_>;
}

/// The answer to the client: pressure and faults of ours may be retried, poison must not be.
///
/// # Errors
/// A [`Refusal`] whose status tells the client whether to send the same request again.
pub fn answer(stored: Result<(), ExportError>, items: u64) -> Result<Accepted, Refusal> {
    match stored {
        Ok(()) => Ok(Accepted::default()),
        Err(ExportError::Partial { rejected, reason }) => Ok(Accepted { rejected_items: rejected, message: reason }),
        Err(ExportError::Drop { reason }) => Ok(Accepted { rejected_items: items, message: reason }),
        Err(ExportError::Retry { after, reason }) => Err(Refusal {
            code: Code::Unavailable,
            message: reason,
            retry_after: Some(after.unwrap_or(Duration::from_secs(1))),
            reason: "backend_unavailable",
        }),
        // The operator can mend the configuration while clients keep their data, so they are asked to wait.
        Err(ExportError::Fatal { reason }) => Err(Refusal {
            code: Code::Unavailable,
            message: reason,
            retry_after: Some(Duration::from_secs(10)),
            reason: "backend_misconfigured",
        }),
    }
}

/// Whether `bytes` is an id of OTLP: of this length and not all zero.
pub(crate) fn is_id(bytes: &[u8], length: usize) -> bool {
    bytes.len() == length && bytes.iter().any(|&byte| byte != 0)
}
