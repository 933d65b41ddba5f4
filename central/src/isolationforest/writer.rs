//! Group commit: what many requests want to write goes out together, and each is answered with the truth.
//!
//! A part that arrives while nothing is being written goes out at once; what arrives meanwhile is gathered,
//! so that the batches grow with the load. Further writes run side by side only when a group is full or old.
//!
//! Invariant: every part is answered exactly once, after the store has answered. Never: writes a part twice
//! unless the store refused the group that it was in, forgets a part, holds more than one group and one
//! batch per write in flight.

use std::sync::Arc;
use std::time::{self, Duration};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::WriterConfig;
use super::telemetry::{Commit, Telemetry};
use crate::exporter::{ExportError, MetricStore};
use crate::normalise::Output;
use crate::series::SeriesBatch;

/// What the store has taken of one part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// Points that will never be stored.
    pub(super) rejected: u64,
    /// Why.
    pub(super) message: String,
}

/// What one shard wants to write for one request.
#[derive(Debug)]
pub(super) struct Part {
    /// Series and samples.
    pub(super) out: Output,
    /// Datapoints behind them.
    pub(super) points: u64,
    /// Datapoints that were left out before.
    pub(super) lost: u64,
    /// Who waits; nobody does for stale markers.
    pub(super) reply: Option<oneshot::Sender<Result<Settled, ExportError>>>,
}

impl Part {
    /// What is said when the store has taken everything that could be used.
    pub(super) fn usual(&self) -> Settled {
        let lost = self.lost;
        let message = match lost {
            0 => String::new(),
            _ => format!("{lost} datapoints were not usable; mirador_normalise_dropped_total says why"),
        };
        Settled { rejected: lost, message }
    }

    pub(super) fn answer(self, result: Result<Settled, ExportError>) {
        if let Some(reply) = self.reply {
            // The client may have gone; what was stored stays stored.
            let _gone = reply.send(result);
        }
    }
}

#[derive(Default)]
struct Group {
    parts: Vec<Part>,
    samples: usize,
    bytes: usize,
    since: Option<Instant>,
}

impl Group {
    fn add(&mut self, part: Part) {
        self.samples += part.out.samples;
        self.bytes += part.out.bytes;
        self.since.get_or_insert_with(Instant::now);
        self.parts.push(part);
    }

    fn is_full(&self, config: &WriterConfig) -> bool {
        self.samples >= config.max_samples || self.bytes >= config.max_bytes
    }

    fn age(&self) -> Duration {
        self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// Writes parts until all senders are gone and everything is answered.
pub(super) async fn run(
    config: WriterConfig,
    store: Arc<dyn MetricStore>,
    telemetry: Telemetry,
    mut parts: mpsc::Receiver<Part>,
    beat: impl Fn(),
) {
    let mut group = Group::default();
    let mut writing = JoinSet::new();
    let mut open = true;
    while open || !group.parts.is_empty() || !writing.is_empty() {
        beat();
        let due = config.max_delay.saturating_sub(group.age());
        tokio::select! {
            part = parts.recv(), if open && !group.is_full(&config) => match part {
                Some(part) => {
                    group.add(part);
                    while !group.is_full(&config) && let Ok(part) = parts.try_recv() {
                        group.add(part);
                    }
                }
                None => open = false,
            },
            Some(_) = writing.join_next(), if !writing.is_empty() => {}
            () = tokio::time::sleep(due), if !group.parts.is_empty() && writing.len() < config.concurrency => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        let pressing = group.is_full(&config) || group.age() >= config.max_delay;
        let may = writing.is_empty() || pressing && writing.len() < config.concurrency.max(1);
        if may && !group.parts.is_empty() {
            let (store, telemetry) = (Arc::clone(&store), telemetry.clone());
            writing.spawn(commit(store, telemetry, std::mem::take(&mut group).parts));
        }
    }
}

/// Writes one group; when the store refuses it for good, each part by itself, so that one request's poison is
/// not everybody's.
async fn commit(store: Arc<dyn MetricStore>, telemetry: Telemetry, mut parts: Vec<Part>) {
    let samples: usize = parts.iter().map(|part| part.out.samples).sum();
    let counts: Vec<usize> = parts.iter().map(|part| part.out.series.len()).collect();
    let mut series = Vec::with_capacity(counts.iter().sum());
    for part in &mut parts {
        series.append(&mut part.out.series);
    }
    let batch = Arc::new(SeriesBatch { series });
    match store.write(Arc::clone(&batch)).await {
        Ok(()) => {
            telemetry.samples.inc_by(samples as u64);
            telemetry.stored();
            for part in parts {
                let settled = part.usual();
                part.answer(Ok(settled));
            }
        }
        Err(ExportError::Partial { rejected, reason }) => {
            // Which request the refused samples were of is not known, so all are told.
            telemetry.commit(Commit::Poison);
            telemetry.samples.inc_by((samples as u64).saturating_sub(rejected));
            for part in parts {
                let message = format!("{rejected} samples were refused: {reason}");
                let settled = Settled { rejected: part.lost, message };
                part.answer(Ok(settled));
            }
        }
        Err(ExportError::Drop { reason }) if parts.len() == 1 => {
            telemetry.commit(Commit::Poison);
            for part in parts {
                refuse(&telemetry, part, &reason);
            }
        }
        Err(ExportError::Drop { .. }) => {
            telemetry.commit(Commit::Poison);
            let mut series = Arc::unwrap_or_clone(batch).series.into_iter();
            for (mut part, count) in parts.into_iter().zip(counts) {
                part.out.series = series.by_ref().take(count).collect();
                commit_alone(store.as_ref(), &telemetry, part).await;
            }
        }
        Err(error) => fail(&telemetry, parts, &error),
    }
}

async fn commit_alone(store: &dyn MetricStore, telemetry: &Telemetry, mut part: Part) {
    let samples = part.out.samples;
    let series = std::mem::take(&mut part.out.series);
    match store.write(Arc::new(SeriesBatch { series })).await {
        Ok(()) => {
            telemetry.samples.inc_by(samples as u64);
            telemetry.stored();
            let settled = part.usual();
            part.answer(Ok(settled));
        }
        Err(ExportError::Drop { reason }) => {
            telemetry.commit(Commit::Poison);
            refuse(telemetry, part, &reason);
        }
        Err(error) => fail(telemetry, vec![part], &error),
    }
}

/// All points are rejected; those that were lost before are counted already.
fn refuse(telemetry: &Telemetry, part: Part, reason: &str) {
    telemetry.poisoned.inc_by(part.points.saturating_sub(part.lost));
    let rejected = part.points;
    part.answer(Ok(Settled { rejected, message: format!("the metric store refused the data: {reason}") }));
}

fn fail(telemetry: &Telemetry, parts: Vec<Part>, error: &ExportError) {
    let fatal = matches!(error, ExportError::Fatal { .. });
    telemetry.commit(if fatal { Commit::Fatal } else { Commit::Retry });
    let requests = parts.len();
    if let Some(times) = telemetry.refused.due(time::Instant::now()) {
        tracing::warn!(%error, requests, times, "the metric store did not take a batch");
    } else {
        tracing::debug!(%error, requests, "the metric store did not take a batch again");
    }
    for part in parts {
        part.answer(Err(error.clone()));
    }
}

#[cfg(test)]
mod tests;
