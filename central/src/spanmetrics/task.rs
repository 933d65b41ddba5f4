//! The task that owns the cumulative RED series.
//!
//! Never: waits for a flush before it merges. Invariant: a delta is answered when it is in the series.

use std::time::Duration;

use mirador_otlp::Request;
use mirador_proto::red::ExportRedRequest;
use mirador_service::health::Component;
use mirador_sketch::Tap;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::engine::{Engine, MergeError, Merged};
use super::meters::Meters;
use crate::clock::unix_nano;
use crate::cumulative::Flush;
use crate::metrics_out::Flusher;

/// What the task is asked to do.
pub(super) enum Command {
    /// Merge an agent's delta.
    Merge(Box<ExportRedRequest>, oneshot::Sender<Result<Merged, MergeError>>),
    /// Count spans that no agent has counted.
    Observe(Request, oneshot::Sender<()>),
    /// Flush for the last time.
    Finish(oneshot::Sender<()>),
}

/// The owner of the series.
pub(super) struct Task {
    pub(super) engine: Engine,
    pub(super) tap: Tap,
    pub(super) flusher: Flusher,
    pub(super) meters: Meters,
    pub(super) interval: Duration,
}

/// A flush that is being sent.
struct UnderWay {
    flush: Flush,
    sending: JoinHandle<bool>,
}

impl Task {
    /// Serves commands and flushes every interval until it is told to finish.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>, component: Component) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beats = tokio::time::interval(Duration::from_secs(1));
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut under_way: Option<UnderWay> = None;
        component.ready(true, "");
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Merge(delta, reply)) => self.merge(&delta, reply),
                    Some(Command::Observe(request, reply)) => self.observe(&request, reply),
                    Some(Command::Finish(done)) => {
                        self.settle(under_way.take()).await;
                        self.last_flush().await;
                        // Nobody listening is fine: the flush has been made all the same.
                        done.send(()).ok();
                        return Ok(());
                    }
                    None => return Ok(()),
                },
                taken = sent(&mut under_way) => {
                    if let Some(UnderWay { flush, .. }) = under_way.take() && taken {
                        self.engine.confirm(flush);
                    }
                }
                _ = ticks.tick(), if under_way.is_none() => under_way = self.flush(),
                _ = beats.tick() => {}
            }
            component.beat();
        }
    }

    fn merge(&mut self, delta: &ExportRedRequest, reply: oneshot::Sender<Result<Merged, MergeError>>) {
        let merged = self.engine.merge(delta, unix_nano());
        match &merged {
            Ok(merged) => self.meters.merged(*merged),
            Err(_) => {
                self.meters.invalid.inc();
            }
        }
        // Nobody waiting means that the sender has gone; it will repeat the delta and hear that it is a duplicate.
        drop(reply.send(merged));
    }

    fn observe(&mut self, request: &Request, reply: oneshot::Sender<()>) {
        self.meters.observed(self.tap.observe(request, unix_nano()));
        reply.send(()).ok();
    }

    fn collect(&mut self) -> Option<(Flush, Vec<bytes::Bytes>)> {
        let now = unix_nano();
        if let Some(window) = self.tap.close(now) {
            self.meters.merged(self.engine.merge_own(window, now));
        }
        let is_empty = self.engine.series() == 0;
        let flush = (!is_empty).then(|| self.engine.flush(now));
        self.meters.streams(self.engine.streams(now));
        self.meters.series.set(self.engine.series() as i64);
        flush
    }

    fn flush(&mut self) -> Option<UnderWay> {
        let (flush, requests) = self.collect()?;
        let flusher = self.flusher.clone();
        Some(UnderWay { flush, sending: tokio::spawn(async move { flusher.send(requests).await }) })
    }

    async fn settle(&mut self, under_way: Option<UnderWay>) {
        if let Some(UnderWay { flush, sending }) = under_way
            && sending.await.unwrap_or(false)
        {
            self.engine.confirm(flush);
        }
    }

    async fn last_flush(&mut self) {
        if let Some((flush, requests)) = self.collect()
            && self.flusher.send_last(requests).await
        {
            self.engine.confirm(flush);
        }
    }
}

/// Whether the flush that is under way was taken; never ends when none is.
async fn sent(under_way: &mut Option<UnderWay>) -> bool {
    match under_way {
        // A panic while sending is a flush that failed; the series are untouched by it.
        Some(UnderWay { sending, .. }) => sending.await.unwrap_or(false),
        None => std::future::pending().await,
    }
}
