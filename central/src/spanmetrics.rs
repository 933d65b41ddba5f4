//! The spanmetrics role: one exact set of RED series for the whole cluster.
//!
//! Agents send deltas; each is merged once, however often it comes, and answered when the flush that carries it has been
//! taken. Spans from senders that are no agents are counted here by the same tap that agents use, merged with the rest
//! and answered in the same way; for them, and for an agent that ends, a flush of what changed begins at once (at most
//! one a second).
//!
//! The state lives in memory, and with a state directory in a snapshot too, which is written before each flush leaves: a
//! restart goes on with the same series, and what was merged before a kill is never merged again. Without one a restart
//! begins every series anew, and a kill between the store's taking a flush and our answering it counts that flush
//! twice. Never: writes a series that another process writes as well (one replica owns a service).

pub mod config;
pub mod engine;
mod held;
mod meters;
pub mod persist;
pub mod series;
pub mod state;
pub mod streams;
mod task;

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use mirador_otlp::Request;
use mirador_proto::red::ExportRedRequest;
use mirador_service::drain::Drain;
use mirador_service::health::Health;
use mirador_service::memory::Permit;
use mirador_service::metrics::Registry;
use mirador_service::supervise::Supervisor;
use mirador_sketch::Tap;
use mirador_transport::{Accepted, Refusal};
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tonic::Code;

pub use self::config::Config;
use self::engine::Engine;
use self::held::Held;
use self::meters::Meters;
use self::task::{Command, Rejected, Task};
use crate::clock::unix_nano;
use crate::metrics_out::Flusher;
use crate::snapshot::Snapshot;

/// Requests that may wait for the task; their bodies are paid for by the receiver's budget.
const QUEUE: usize = 256;

/// How long a delta may wait for the store beyond the interval. Agents wait for a minute by default.
const HOLD: Duration = Duration::from_secs(30);

/// How long spans of other senders wait for the store: SDKs give up after 10 s.
const HOLD_SPANS: Duration = Duration::from_secs(8);

/// What the role is built from.
pub struct Parts<'a> {
    /// Where RED metrics go.
    pub flusher: Flusher,
    /// The process' own metrics.
    pub registry: &'a Registry,
    /// Where the task reports.
    pub health: &'a Health,
    /// Requests that wait are answered soon once it has begun.
    pub drain: &'a Drain,
    /// Who notices when the task dies.
    pub supervisor: &'a mut Supervisor,
    /// The snapshot's file; `None`: the state dies with the process.
    pub state: Option<PathBuf>,
}

/// The running role.
pub struct SpanMetrics {
    commands: mpsc::Sender<Command>,
    meters: Meters,
    hold: Duration,
}

impl SpanMetrics {
    /// Starts the task that owns the series; must be called inside a tokio runtime. A snapshot that cannot be used is
    /// reported, and the role starts cold.
    pub fn start(config: &Config, parts: Parts<'_>) -> Self {
        let Parts { flusher, registry, health, drain, supervisor, state } = parts;
        let (commands, input) = mpsc::channel(QUEUE);
        let meters = Meters::new(registry);
        let mut engine = Engine::new(config, unix_nano());
        let is_resumed = state.as_deref().is_some_and(|file| resume(&mut engine, file));
        let task = Task {
            engine,
            tap: Tap::new(&config.tap(), RandomState::new().hash_one("spanmetrics")),
            flusher,
            meters: meters.clone(),
            interval: config.metrics_flush_interval,
            file: state,
            held: Held::default(),
            // What another process merged may not be stored yet.
            wanted: is_resumed.then(Instant::now),
            is_resumed,
            drain: drain.clone(),
        };
        let component = health.worker("spanmetrics", Duration::from_secs(30));
        supervisor.adopt(component.clone(), task.run(input, component));
        Self { commands, meters, hold: config.metrics_flush_interval.saturating_add(HOLD) }
    }

    /// Merges a RED delta and waits until a flush with it has been taken. The permit pays for the body until it is
    /// merged. A repeated one is accepted with the message `duplicate`.
    ///
    /// # Errors
    /// When the delta is malformed (for good); when the store of the metrics does not take it in time, or the process
    /// is about to end (send it again: it is merged once).
    pub async fn merge(&self, body: Bytes, permit: Option<Permit>) -> Result<Accepted, Refusal> {
        let delta = ExportRedRequest::decode(body).map_err(|error| self.malformed(&error))?;
        let (admitted, admission) = oneshot::channel();
        let (reply, stored) = oneshot::channel();
        let command = Command::Merge { delta: Box::new(delta), permit, admitted, reply };
        self.commands.send(command).await.map_err(|_| ending())?;
        match admission.await.map_err(|_| ending())? {
            Ok(()) => {}
            Err(Rejected::Malformed(error)) => return Err(malformed(&error)),
            Err(full @ Rejected::Full) => return Err(not_stored(&full.to_string())),
        }
        let merged = match timeout(self.hold, stored).await {
            Ok(answer) => answer.map_err(|_| ending())?,
            Err(_) => return Err(not_stored("the store of the metrics has not taken the delta yet")),
        };
        Ok(if merged.is_duplicate { Accepted::duplicate() } else { Accepted::default() })
    }

    /// Counts spans that no agent has counted and waits until a flush with them has been taken. Call it when they are
    /// stored, or nobody stores them.
    ///
    /// # Errors
    /// When the store of the metrics does not take them in time, or the process is about to end. Spans that are sent
    /// again are counted once.
    pub async fn observe(&self, request: Request) -> Result<Accepted, Refusal> {
        let (reply, stored) = oneshot::channel();
        self.commands.send(Command::Observe(request, reply)).await.map_err(|_| ending())?;
        if let Ok(answer) = timeout(HOLD_SPANS, stored).await {
            return answer.map(|_| Accepted::default()).map_err(|_| ending());
        }
        self.meters.unconfirmed.inc();
        Err(not_stored("the store of the metrics has not taken the counts of these spans yet"))
    }

    /// Flushes for the last time. Call it when no request is in flight any more.
    pub async fn finish(&self) {
        let (done, finished) = oneshot::channel();
        if self.commands.send(Command::Finish(done)).await.is_ok() {
            // An error means that the task has ended, which the supervisor has noticed.
            drop(finished.await);
        }
    }

    fn malformed(&self, error: &dyn std::fmt::Display) -> Refusal {
        self.meters.invalid.inc();
        malformed(error)
    }
}

fn malformed(error: &dyn std::fmt::Display) -> Refusal {
    Refusal {
        code: Code::InvalidArgument,
        message: format!("not a RED delta: {error}"),
        retry_after: None,
        reason: "malformed",
    }
}

fn not_stored(message: &str) -> Refusal {
    Refusal {
        code: Code::Unavailable,
        message: message.to_owned(),
        retry_after: Some(Duration::from_secs(1)),
        reason: "store_unavailable",
    }
}

/// Goes on where the process before was; false when there is nothing to go on from.
fn resume(engine: &mut Engine, file: &Path) -> bool {
    let state = match Snapshot::read(file, persist::KIND, persist::VERSION) {
        Ok(None) => return false,
        Ok(Some(state)) => state,
        Err(error) => {
            tracing::error!(%error, "span metrics start cold: every series begins anew");
            return false;
        }
    };
    match engine.resume(&state) {
        Ok((series, streams)) => {
            tracing::info!(series, streams, file = %file.display(), "span metrics go on where they were");
            true
        }
        Err(error) => {
            tracing::error!(%error, file = %file.display(), "span metrics start cold: every series begins anew");
            false
        }
    }
}

fn ending() -> Refusal {
    Refusal {
        code: Code::Unavailable,
        message: "span metrics are shutting down".to_owned(),
        retry_after: Some(Duration::from_secs(1)),
        reason: "draining",
    }
}

#[cfg(test)]
mod tests;
