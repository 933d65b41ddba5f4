//! Retries around any store, and isolation of what a backend refuses for good.
//!
//! A transient failure is tried again with exponential back-off and jitter, or when the backend asks for
//! it, until `max_elapsed_time` is over: then the client is asked to come back. A request that is refused
//! for good is cut in half until the poison stands alone; the rest is stored and the poison is counted.
//!
//! Never: keeps a request after its client has gone (dropping the future ends the loop).

use std::sync::Arc;
use std::time::Duration;

use mirador_otlp::splice;
use mirador_otlp::{Limits, Request, Signal};
use mirador_service::backoff::{Backoff, RetryConfig};
use mirador_service::metrics::Registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::time::Instant;

use super::{ExportError, LogStore, MetricStore, Stored, TraceStore};
use crate::series::SeriesBatch;

/// Attempts that isolating poison in one request may cost.
const SPLITS: usize = 64;

/// A store with retries.
pub struct Retrying<S: ?Sized> {
    store: Arc<S>,
    retry: RetryConfig,
    meters: Meters,
}

/// How a store takes a request.
type Store<S> = for<'a> fn(&'a S, &'a Request) -> Stored<'a>;

/// Counters of every retrying store, by exporter.
#[derive(Clone)]
pub struct Meters {
    exporter: &'static str,
    retries: Family<Vec<(&'static str, &'static str)>, Counter>,
    dropped: Family<Vec<(&'static str, &'static str)>, Counter>,
    exhausted: Family<Vec<(&'static str, &'static str)>, Counter>,
}

/// Registers the counters once; [`Registered::of`] makes the handle of one exporter.
pub struct Registered(Meters);

impl Registered {
    /// Registers the counters.
    pub fn new(registry: &Registry) -> Self {
        Self(Meters {
            exporter: "",
            retries: registry.counter_family(
                "mirador_exporter_retries",
                "Writes that were tried again after a transient failure, by exporter.",
            ),
            dropped: registry.counter_family(
                "mirador_exporter_dropped_items",
                "Items that a backend refused for good, by exporter and reason.",
            ),
            exhausted: registry.counter_family(
                "mirador_exporter_gave_up",
                "Writes that were handed back to the client after max_elapsed_time, by exporter.",
            ),
        })
    }

    /// The counters of `exporter`.
    pub fn of(&self, exporter: &'static str) -> Meters {
        Meters {
            exporter,
            ..self.0.clone()
        }
    }
}

impl Meters {
    fn retried(&self) {
        self.retries
            .get_or_create(&vec![("exporter", self.exporter)])
            .inc();
    }

    fn dropped(&self, items: u64) {
        self.dropped
            .get_or_create(&vec![
                ("exporter", self.exporter),
                ("reason", "refused_by_backend"),
            ])
            .inc_by(items);
    }

    fn gave_up(&self) {
        self.exhausted
            .get_or_create(&vec![("exporter", self.exporter)])
            .inc();
    }
}

impl<S: ?Sized> Retrying<S> {
    /// Wraps `store`.
    pub fn new(store: Arc<S>, retry: RetryConfig, meters: Meters) -> Self {
        Self {
            store,
            retry,
            meters,
        }
    }

    /// Tries until it is settled or time is up.
    async fn attempt<'a>(&self, write: impl Fn() -> Stored<'a>) -> Result<(), ExportError> {
        let started = Instant::now();
        let mut backoff = Backoff::new(&self.retry, seed());
        loop {
            let Err(error) = write().await else {
                return Ok(());
            };
            let ExportError::Retry { after, reason } = error else {
                return Err(error);
            };
            let wait = backoff
                .next_delay()
                .map(|delay| after.map_or(delay, |asked| asked.max(delay)));
            match wait {
                Some(wait)
                    if self.retry.enabled && within(started, wait, self.retry.max_elapsed_time) =>
                {
                    self.meters.retried();
                    tracing::debug!(exporter = self.meters.exporter, %reason, ?wait, "the backend did not take the data, trying again");
                    tokio::time::sleep(wait).await;
                }
                _ => {
                    self.meters.gave_up();
                    return Err(ExportError::Retry {
                        after: after.or(Some(Duration::from_secs(1))),
                        reason,
                    });
                }
            }
        }
    }

    /// Stores what can be stored of a request that was refused as a whole.
    async fn isolate(
        &self,
        request: &Request,
        refusal: String,
        store: Store<S>,
    ) -> Result<(), ExportError> {
        let mut waiting = halves(request);
        let (mut rejected, mut attempts) = (0, 0);
        if waiting.is_empty() {
            rejected = request.items() as u64;
        }
        while let Some(part) = waiting.pop() {
            attempts += 1;
            match self.attempt(|| store(&self.store, &part)).await {
                Ok(()) => {}
                Err(ExportError::Drop { .. }) => {
                    let smaller = if attempts < SPLITS {
                        halves(&part)
                    } else {
                        Vec::new()
                    };
                    if smaller.is_empty() {
                        rejected += part.items() as u64;
                    }
                    waiting.extend(smaller);
                }
                Err(ExportError::Partial { rejected: more, .. }) => rejected += more,
                Err(error) => return Err(error),
            }
        }
        if rejected == 0 {
            return Ok(());
        }
        self.meters.dropped(rejected);
        tracing::warn!(exporter = self.meters.exporter, rejected, reason = %refusal, "the backend refuses items for good; they are dropped");
        Err(ExportError::Partial {
            rejected,
            reason: refusal,
        })
    }

    async fn settle(
        &self,
        request: &Request,
        store: Store<S>,
    ) -> Result<(), ExportError> {
        match self.attempt(|| store(&self.store, request)).await {
            Err(ExportError::Drop { reason }) => self.isolate(request, reason, store).await,
            settled => settled,
        }
    }
}

/// Jitter has to differ between processes, so that they do not come back to a backend all at once.
fn seed() -> u64 {
    std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id())
}

fn within(started: Instant, wait: Duration, limit: Duration) -> bool {
    limit.is_zero() || started.elapsed() + wait <= limit
}

/// Cuts a request into two by its items, or by its resources where items have no owner of their own; empty
/// when it cannot be cut.
fn halves(request: &Request) -> Vec<Request> {
    let parts = if request.signal() == Signal::Traces {
        let half = request.items() / 2;
        let mut index = 0;
        splice::split_spans(request, 2, |_| {
            index += 1;
            usize::from(index > half)
        })
    } else {
        let resources = request.resource_metrics().count() + request.resource_logs().count();
        let mut index = 0;
        splice::split_resources(request, 2, |_| {
            index += 1;
            usize::from(index > resources / 2)
        })
    };
    if parts.len() < 2 {
        return Vec::new();
    }
    // What was cut out of a valid request is valid.
    parts
        .into_iter()
        .filter_map(|part| Request::parse(request.signal(), part.bytes, &Limits::default()).ok())
        .collect()
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
        Box::pin(async move {
            let Err(error) = self.attempt(|| self.store.write(Arc::clone(&batch))).await else {
                return Ok(());
            };
            let ExportError::Drop { reason } = error else {
                return Err(error);
            };
            let mut waiting = series_halves(&batch);
            let (mut rejected, mut attempts) = (
                if waiting.is_empty() {
                    batch.samples() as u64
                } else {
                    0
                },
                0,
            );
            while let Some(part) = waiting.pop() {
                attempts += 1;
                match self.attempt(|| self.store.write(Arc::clone(&part))).await {
                    Ok(()) => {}
                    Err(ExportError::Drop { .. }) => {
                        let smaller = if attempts < SPLITS {
                            series_halves(&part)
                        } else {
                            Vec::new()
                        };
                        if smaller.is_empty() {
                            rejected += part.samples() as u64;
                        }
                        waiting.extend(smaller);
                    }
                    Err(ExportError::Partial { rejected: more, .. }) => rejected += more,
                    Err(error) => return Err(error),
                }
            }
            if rejected == 0 {
                return Ok(());
            }
            self.meters.dropped(rejected);
            tracing::warn!(exporter = self.meters.exporter, rejected, %reason, "the backend refuses samples for good; they are dropped");
            Err(ExportError::Partial { rejected, reason })
        })
    }
}

fn series_halves(batch: &SeriesBatch) -> Vec<Arc<SeriesBatch>> {
    if batch.series.len() < 2 {
        return Vec::new();
    }
    let (left, right) = batch.series.split_at(batch.series.len() / 2);
    [left, right]
        .into_iter()
        .map(|series| {
            Arc::new(SeriesBatch {
                series: series.to_vec(),
            })
        })
        .collect()
}
