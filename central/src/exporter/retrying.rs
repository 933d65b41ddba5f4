//! Retries around any store, and isolation of what a backend refuses for good.
//!
//! A transient failure is tried again with exponential back-off and jitter, or when the backend asks for
//! it, until `max_elapsed_time` is over: then the client is asked to come back. A request that is refused
//! for good is cut in half until the poison stands alone; the rest is stored and the poison is counted.
//!
//! Invariants: one clock runs for a request and all its parts; at most `CUTS` cuts are made for it, and
//! what is refused after that is dropped in the parts that it has been cut into; items are counted as
//! dropped once, when the request as a whole is settled, so that a client's retry counts nothing twice.
//!
//! Never: keeps a request after its client has gone (dropping the future ends the loop).

mod halves;
mod meters;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time;

use mirador_otlp::Request;
use mirador_service::backoff::{Backoff, RetryConfig};
use tokio::time::Instant;

use super::{ExportError, LogStore, MetricStore, Stored, TraceStore};
use crate::complaint::Complaint;
use crate::series::SeriesBatch;
use halves::Divide;
pub use meters::{Meters, Registered};

/// Cuts that isolating poison in one request may cost; each costs two writes.
const CUTS: usize = 64;

/// A store with retries.
pub struct Retrying<S: ?Sized> {
    store: Arc<S>,
    retry: RetryConfig,
    meters: Meters,
    dropped: Complaint,
}

/// How a store takes a request.
type Store<S, T> = for<'a> fn(&'a S, &'a T) -> Stored<'a>;

impl<S: ?Sized> Retrying<S> {
    /// Wraps `store`.
    pub fn new(store: Arc<S>, retry: RetryConfig, meters: Meters) -> Self {
        Self { store, retry, meters, dropped: Complaint::default() }
    }

    /// Tries until it is settled or the time since `started` is up.
    async fn attempt<T>(&self, part: &T, store: Store<S, T>, started: Instant) -> Result<(), ExportError> {
        let mut backoff = Backoff::new(&self.retry, seed());
        loop {
            let (after, reason) = match store(&self.store, part).await {
                Err(ExportError::Retry { after, reason }) => (after, reason),
                settled => return settled,
            };
            let wait = backoff.next_wait().max(after.unwrap_or_default());
            let limit = self.retry.max_elapsed_time;
            if !self.retry.enabled || !limit.is_zero() && started.elapsed().saturating_add(wait) > limit {
                self.meters.gave_up();
                return Err(ExportError::Retry { after, reason });
            }
            self.meters.retried();
            tracing::debug!(exporter = self.meters.exporter(), %reason, ?wait, "the backend did not take the data, trying again");
            tokio::time::sleep(wait).await;
        }
    }

    /// Stores what can be stored.
    async fn settle<T: Divide>(&self, whole: &T, store: Store<S, T>) -> Result<(), ExportError> {
        let started = Instant::now();
        let (rejected, reason) = match self.attempt(whole, store, started).await {
            Err(ExportError::Drop { reason }) => self.isolate(whole, reason, store, started).await?,
            Err(ExportError::Partial { rejected, reason }) => (rejected.min(whole.items()), reason),
            settled => return settled,
        };
        if rejected == 0 {
            return Ok(());
        }
        self.meters.dropped(rejected);
        if let Some(times) = self.dropped.due(time::Instant::now()) {
            let exporter = self.meters.exporter();
            tracing::warn!(exporter, rejected, %reason, times, "the backend refuses items for good; they are dropped");
        }
        Err(ExportError::Partial { rejected, reason })
    }

    /// Stores the sound parts of what was refused as a whole. Says how many items were not stored, and why.
    async fn isolate<T: Divide>(
        &self,
        whole: &T,
        refusal: String,
        store: Store<S, T>,
        started: Instant,
    ) -> Result<(u64, String), ExportError> {
        let (mut rejected, mut reason) = (0, refusal);
        let Some(halves) = whole.halves() else {
            return Ok((whole.items(), reason));
        };
        // The widest parts are cut first: when the cuts run out, no part that is left is large.
        let mut waiting = VecDeque::from(halves);
        let mut cuts = 1;
        while let Some(part) = waiting.pop_front() {
            match self.attempt(&part, store, started).await {
                Ok(()) => {}
                Err(ExportError::Drop { reason: said }) => {
                    let halves = if cuts < CUTS { part.halves() } else { None };
                    if let Some(halves) = halves {
                        cuts += 1;
                        waiting.extend(halves);
                    } else {
                        rejected += part.items();
                        // What is said of the poison alone is nearer to the cause.
                        reason = said;
                    }
                }
                Err(ExportError::Partial { rejected: more, reason: said }) => {
                    rejected += more.min(part.items());
                    reason = said;
                }
                // The client sends all of it again; nothing has been counted.
                Err(error) => return Err(error),
            }
        }
        Ok((rejected, reason))
    }
}

/// Jitter has to differ between processes, so that they do not come back to a backend all at once.
fn seed() -> u64 {
    std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id())
}

impl TraceStore for Retrying<dyn TraceStore> {
    fn store<'a>(&'a self, request: &'a Request) -> Stored<'a> {
        Box::pin(self.settle(request, |store, part| store.store(part)))
    }
}

impl LogStore for Retrying<dyn LogStore> {
    fn store<'a>(&'a self, request: &'a Request) -> Stored<'a> {
        Box::pin(self.settle(request, |store, part| store.store(part)))
    }
}

impl MetricStore for Retrying<dyn MetricStore> {
    fn write(&self, batch: Arc<SeriesBatch>) -> Stored<'_> {
        Box::pin(async move { self.settle(&batch, |store, part| store.write(Arc::clone(part))).await })
    }
}
