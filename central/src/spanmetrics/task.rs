//! The task that owns the cumulative RED series.
//!
//! Never: waits for a flush before it merges. Invariant: a delta is answered when it is in the series.

use std::time::Duration;

use mirador_otlp::Request;
use mirador_proto::red::ExportRedRequest;
use mirador_service::health::Component;
use mirador_sketch::{SeriesKey, Tap};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::engine::{Engine, MergeError, Merged};
use super::meters::Meters;
use super::series::ROWS_PER_REQUEST;
use crate::clock::unix_nano;
use crate::cumulative::Flush;
use crate::metrics_out::{Flusher, LAST_ATTEMPTS, LAST_PAUSE};

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

/// A flush that is being sent, a piece at a time: a piece is made when the one before has been taken.
struct UnderWay {
    flush: Flush,
    keys: Vec<SeriesKey>,
    /// Series that have been sent, with the piece that is under way.
    sent: usize,
    sending: JoinHandle<bool>,
}

impl Task {
    /// Serves commands and flushes every interval until it is told to finish.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        component: Component,
    ) -> anyhow::Result<()> {
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
                        self.last_flush(under_way.take()).await;
                        // Nobody listening is fine: the flush has been made all the same.
                        done.send(()).ok();
                        return Ok(());
                    }
                    None => return Ok(()),
                },
                is_taken = sent(&mut under_way) => under_way = self.settle(under_way.take(), is_taken),
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

    /// Begins a flush of everything that has been counted until now; `None` when there is nothing.
    fn begin(&mut self) -> Option<(Flush, Vec<SeriesKey>)> {
        let now = unix_nano();
        if let Some(window) = self.tap.close(now) {
            self.meters.merged(self.engine.merge_own(window, now));
        }
        self.meters.streams(self.engine.streams(now));
        self.meters.series.set(self.engine.series() as i64);
        (self.engine.series() > 0).then(|| self.engine.begin_flush(now))
    }

    fn flush(&mut self) -> Option<UnderWay> {
        let (flush, keys) = self.begin()?;
        Some(self.piece(flush, keys, 0))
    }

    /// Sends the next piece of a flush.
    fn piece(&mut self, flush: Flush, keys: Vec<SeriesKey>, begin: usize) -> UnderWay {
        let end = keys.len().min(begin + ROWS_PER_REQUEST);
        let request = self.engine.request(flush, &keys[begin..end]);
        let flusher = self.flusher.clone();
        UnderWay { flush, keys, sent: end, sending: tokio::spawn(async move { flusher.send(request).await }) }
    }

    /// A piece was taken or not: goes on with the next one, or ends the flush.
    fn settle(&mut self, under_way: Option<UnderWay>, is_taken: bool) -> Option<UnderWay> {
        let UnderWay { flush, keys, sent, .. } = under_way?;
        if is_taken && sent < keys.len() {
            return Some(self.piece(flush, keys, sent));
        }
        self.flusher.settled(is_taken);
        if is_taken {
            self.engine.confirm(flush);
        }
        None
    }

    async fn last_flush(&mut self, under_way: Option<UnderWay>) {
        if let Some(UnderWay { sending, .. }) = under_way {
            // The last flush says the same and more; only the order of the two matters.
            sending.await.ok();
        }
        for attempt in 1..=LAST_ATTEMPTS {
            let Some((flush, keys)) = self.begin() else { return };
            let mut pieces = keys.chunks(ROWS_PER_REQUEST);
            if self.flusher.send_all(|| Some(self.engine.request(flush, pieces.next()?))).await {
                self.engine.confirm(flush);
                return;
            }
            if attempt < LAST_ATTEMPTS {
                tokio::time::sleep(LAST_PAUSE).await;
            }
        }
        self.flusher.lost();
    }
}

/// Whether the piece that is under way was taken; never ends when none is.
async fn sent(under_way: &mut Option<UnderWay>) -> bool {
    match under_way {
        // A panic while sending is a flush that failed; the series are untouched by it.
        Some(UnderWay { sending, .. }) => sending.await.unwrap_or(false),
        None => std::future::pending().await,
    }
}
