//! The spanmetrics role: one exact set of RED series for the whole cluster.
//!
//! Agents send deltas; each is merged once, however often it comes. Spans from senders that are no agents are counted
//! here by the same tap that agents use, and merged with the rest.
//!
//! The state lives in memory: after a restart every series has a new start time and counts from zero, and agents go on
//! where they were. Never: writes a series that another process writes as well (one replica owns a service).

pub mod config;
pub mod engine;
mod meters;
pub mod series;
pub mod state;
pub mod streams;
mod task;

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use bytes::Bytes;
use mirador_otlp::Request;
use mirador_proto::red::ExportRedRequest;
use mirador_service::health::Health;
use mirador_service::metrics::Registry;
use mirador_service::supervise::Supervisor;
use mirador_sketch::Tap;
use mirador_transport::{Accepted, Refusal};
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tonic::Code;

pub use self::config::Config;
use self::engine::Engine;
use self::meters::Meters;
use self::task::{Command, Task};
use crate::clock::unix_nano;
use crate::metrics_out::Flusher;

/// Requests that may wait for the task; their bodies are paid for by the receiver's budget.
const QUEUE: usize = 256;

/// The running role.
pub struct SpanMetrics {
    commands: mpsc::Sender<Command>,
    meters: Meters,
}

impl SpanMetrics {
    /// Starts the task that owns the series; must be called inside a tokio runtime.
    pub fn start(
        config: &Config,
        flusher: Flusher,
        registry: &Registry,
        health: &Health,
        supervisor: &mut Supervisor,
    ) -> Self {
        let (commands, input) = mpsc::channel(QUEUE);
        let meters = Meters::new(registry);
        let task = Task {
            engine: Engine::new(config, unix_nano()),
            tap: Tap::new(&config.tap(), RandomState::new().hash_one("spanmetrics")),
            flusher,
            meters: meters.clone(),
            interval: config.metrics_flush_interval,
        };
        let component = health.worker("spanmetrics", Duration::from_secs(30));
        supervisor.adopt(component.clone(), task.run(input, component));
        Self { commands, meters }
    }

    /// Merges a RED delta. A repeated one is accepted with the message `duplicate`.
    ///
    /// # Errors
    /// When the delta is malformed (for good), or the process is about to end (try again).
    pub async fn merge(&self, body: Bytes) -> Result<Accepted, Refusal> {
        let delta = ExportRedRequest::decode(body).map_err(|error| self.malformed(&error))?;
        let (reply, merged) = oneshot::channel();
        self.commands.send(Command::Merge(Box::new(delta), reply)).await.map_err(|_| ending())?;
        let merged = merged.await.map_err(|_| ending())?.map_err(|error| malformed(&error))?;
        let message = if merged.is_duplicate { "duplicate".to_owned() } else { String::new() };
        Ok(Accepted { rejected_items: 0, message })
    }

    /// Counts spans that no agent has counted. Call it when they are stored, or nobody stores them.
    ///
    /// # Errors
    /// When the process is about to end; nothing has been counted then.
    pub async fn observe(&self, request: Request) -> Result<Accepted, Refusal> {
        let (reply, observed) = oneshot::channel();
        self.commands.send(Command::Observe(request, reply)).await.map_err(|_| ending())?;
        observed.await.map_err(|_| ending())?;
        Ok(Accepted::default())
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
