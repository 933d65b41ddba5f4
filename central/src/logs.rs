//! The logs role: takes log records and answers when the store has them.
//!
//! Never: keeps a record after its request was answered.

pub mod identity;

use std::sync::Arc;

use mirador_otlp::Request;
use mirador_service::metrics::Registry;
use mirador_transport::{Accepted, Refusal};
use prometheus_client::metrics::counter::Counter;

use crate::exporter::{LogStore, answer};

/// Stores log records in one backend.
pub struct Logs {
    store: Arc<dyn LogStore>,
    stored: Counter,
    rejected: Counter,
}

impl Logs {
    /// Wraps `store`, which retries by itself.
    pub fn new(store: Arc<dyn LogStore>, registry: &Registry) -> Self {
        Self {
            store,
            stored: registry.counter("mirador_logs_stored_records", "Log records that the store has taken."),
            rejected: registry.counter("mirador_logs_rejected_records", "Log records that the store refused for good."),
        }
    }

    /// Stores every record of the request.
    ///
    /// # Errors
    /// When the store cannot take them now; the client is told when to come back.
    pub async fn consume(&self, request: &Request) -> Result<Accepted, Refusal> {
        let items = request.items() as u64;
        if items == 0 {
            return Ok(Accepted::default());
        }
        let accepted = answer(self.store.store(request).await, items)?;
        self.rejected.inc_by(accepted.rejected_items);
        self.stored.inc_by(items.saturating_sub(accepted.rejected_items));
        Ok(accepted)
    }
}
