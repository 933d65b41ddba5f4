//! The servicegraph role: stores traces and pairs their spans into edges.
//!
//! A request is stored first and paired only when the store has taken it, so that a request that was refused and comes
//! again is paired once. Pairing is spread over shards by the trace id of the edge's client span, each owned by one
//! task; a consumer that is linked to a producer in another trace meets it in that trace's shard.
//!
//! At the end of a drain, what still waits is written to the state directory, when there is one, and the next process
//! pairs on from there.
//!
//! Never: answers before the store has taken the spans, waits for a pair before it answers.

pub mod config;
pub mod edge;
mod emit;
pub mod half;
mod interest;
mod meters;
pub mod pairing;
pub mod persist;
pub mod seen;
pub mod series;
mod shard;
pub mod tally;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mirador_otlp::Request;
use mirador_service::health::Health;
use mirador_service::metrics::Registry;
use mirador_service::supervise::Supervisor;
use mirador_transport::{Accepted, Refusal};
use tokio::sync::{mpsc, oneshot};
use tonic::Code;

pub use self::config::Config;
use self::emit::{Emit, Finish};
use self::half::{Extract, Half};
use self::meters::Meters;
use self::pairing::Pairing;
use self::persist::{Inheritance, KIND, VERSION};
use self::series::EdgeSeries;
use self::shard::{Inputs, Shard};
use self::tally::{Rules, Tally};
use crate::clock::unix_nano;
use crate::exporter::{TraceStore, answer};
use crate::metrics_out::Flusher;
use crate::snapshot::Snapshot;

/// Requests that may wait for a shard; each holds its halves only.
const SHARD_QUEUE: usize = 256;
/// More shards than this do not pair faster than requests are read.
const MAX_SHARDS: usize = 8;

/// What the role is built from.
pub struct Parts<'a> {
    /// Where spans go.
    pub store: Arc<dyn TraceStore>,
    /// Where edge metrics go.
    pub flusher: Flusher,
    /// The process' own metrics.
    pub registry: &'a Registry,
    /// Where the shards report.
    pub health: &'a Health,
    /// Who notices when a shard dies.
    pub supervisor: &'a mut Supervisor,
    /// The snapshot's file; `None`: what waits dies with the process.
    pub state: Option<PathBuf>,
}

/// The running role.
pub struct ServiceGraph {
    extract: Extract,
    store: Arc<dyn TraceStore>,
    shards: Vec<mpsc::Sender<Vec<Half>>>,
    finish: mpsc::Sender<Finish>,
    meters: Meters,
}

impl ServiceGraph {
    /// Starts the shards and the flushing task; must be called inside a tokio runtime.
    pub fn start(config: &Config, parts: Parts<'_>) -> Self {
        let Parts { store, flusher, registry, health, supervisor, state } = parts;
        let meters = Meters::new(registry);
        let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MAX_SHARDS);
        let epoch = Instant::now();
        let inherited = state.as_deref().and_then(|file| inherit(config, file));
        let mut inherited = inherited.map(|inheritance| inheritance.spread(count).into_iter());
        let (shards, takes): (Vec<_>, Vec<_>) = (0..count)
            .map(|index| {
                let (sender, halves) = mpsc::channel(SHARD_QUEUE);
                let (asker, takes) = mpsc::channel(1);
                let mut shard = Shard {
                    pairing: Pairing::new(config, count),
                    tally: Tally::new(Rules::new(config)),
                    meters: meters.clone(),
                    waiting: meters.waiting(index),
                    epoch,
                    is_kept: state.is_some(),
                };
                if let Some(remains) = inherited.as_mut().and_then(Iterator::next) {
                    shard.take_over(remains);
                }
                let component = health.worker(format!("servicegraph/shard-{index}"), Duration::from_secs(30));
                supervisor.adopt(component.clone(), shard.run(Inputs { halves, takes }, component));
                (sender, asker)
            })
            .unzip();
        let (finish, finished) = mpsc::channel(1);
        let emit = Emit {
            series: EdgeSeries::new(config),
            shards: takes,
            flusher,
            meters: meters.clone(),
            interval: config.metrics_flush_interval,
            asked_at: unix_nano(),
            file: state,
            dimensions: config.dimensions.clone(),
        };
        let component = health.component("servicegraph/flush");
        supervisor.adopt(component.clone(), emit.run(finished, component));
        Self { extract: Extract::new(config), store, shards, finish, meters }
    }

    /// Stores the spans, then pairs them. Full shards make senders wait before anything is stored.
    ///
    /// # Errors
    /// When the store cannot take the spans now, or the process is about to end; nothing has been counted then.
    pub async fn consume(&self, request: &Request) -> Result<Accepted, Refusal> {
        let items = request.items() as u64;
        if items == 0 {
            return Ok(Accepted::default());
        }
        let mut places = Vec::with_capacity(self.shards.len());
        for shard in &self.shards {
            places.push(shard.reserve().await.map_err(|_| ending())?);
        }
        let accepted = answer(self.store.store(request).await, items)?;
        if accepted.rejected_items < items {
            let mut halves = vec![Vec::new(); places.len()];
            let skipped = self.extract.halves(request, |half| halves[half.shard(places.len())].push(half));
            self.meters.skipped(skipped);
            for (place, halves) in places.into_iter().zip(halves).filter(|(_, halves)| !halves.is_empty()) {
                place.send(halves);
            }
        }
        Ok(accepted)
    }

    /// Flushes for the last time. Call it when no request is in flight any more.
    pub async fn finish(&self) {
        let (done, finished) = oneshot::channel();
        if self.finish.send(done).await.is_ok() {
            // An error means that the task has ended, which the supervisor has noticed.
            drop(finished.await);
        }
    }
}

/// What the process before left behind; the file is gone then, so that it is taken over once, whatever happens next.
fn inherit(config: &Config, file: &Path) -> Option<Inheritance> {
    let state = match Snapshot::read(file, KIND, VERSION) {
        Ok(state) => state?,
        Err(error) => {
            tracing::error!(%error, "the service graph starts cold: spans that waited are not known any more");
            return None;
        }
    };
    if let Err(error) = Snapshot::remove(file) {
        tracing::error!(%error, file = %file.display(), "the snapshot cannot be removed, the service graph starts cold");
        return None;
    }
    let inheritance = match Inheritance::decode(&state, &config.dimensions) {
        Ok(inheritance) => inheritance,
        Err(error) => {
            tracing::error!(%error, file = %file.display(), "the service graph starts cold");
            return None;
        }
    };
    let away = Duration::from_nanos(unix_nano().saturating_sub(inheritance.written_unix_nano));
    if away > config.store.remember {
        tracing::warn!(?away, remember = ?config.store.remember, "the process was away for longer than spans are \
            remembered (servicegraph.store.remember), the service graph starts cold");
        return None;
    }
    let spans = inheritance.shards.iter().map(|shard| shard.waiting.len()).sum::<usize>();
    tracing::info!(spans, "the service graph goes on with the spans that waited");
    Some(inheritance)
}

fn ending() -> Refusal {
    Refusal {
        code: Code::Unavailable,
        message: "the service graph is shutting down".to_owned(),
        retry_after: Some(Duration::from_secs(1)),
        reason: "draining",
    }
}

#[cfg(test)]
mod tests;
