//! The task that owns the cumulative series: collects from the shards and flushes.
//!
//! Never: pairs anything. Invariant: what a shard handed over is in the series before the next flush.

use std::path::PathBuf;
use std::time::Duration;

use mirador_service::health::Component;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::meters::Meters;
use super::persist::{Inheritance, KIND, Remains, VERSION};
use super::series::{EdgeSeries, ROWS_PER_REQUEST};
use super::shard::{Take, Taken};
use crate::clock::unix_nano;
use crate::metrics_out::{Flusher, LAST_ATTEMPTS, LAST_PAUSE};
use crate::snapshot::Snapshot;

/// Asks for the last flush; answered when it has been taken or given up.
pub(super) type Finish = oneshot::Sender<()>;

/// The owner of the series.
pub(super) struct Emit {
    pub(super) series: EdgeSeries,
    pub(super) shards: Vec<mpsc::Sender<Take>>,
    pub(super) flusher: Flusher,
    pub(super) meters: Meters,
    pub(super) interval: Duration,
    /// When the shards were asked last, in Unix nanoseconds.
    pub(super) asked_at: u64,
    /// Where what waits at the end is kept; `None`: nowhere.
    pub(super) file: Option<PathBuf>,
    /// Names of the configured dimensions.
    pub(super) dimensions: Vec<String>,
}

impl Emit {
    /// Flushes every interval until it is told to finish.
    pub(super) async fn run(mut self, mut finish: mpsc::Receiver<Finish>, component: Component) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        component.ready(true, "");
        loop {
            tokio::select! {
                _ = ticks.tick() => self.flush(false).await,
                done = finish.recv() => {
                    self.flush(true).await;
                    if let Some(done) = done {
                        // Nobody listening is fine: the flush has been made all the same.
                        done.send(()).ok();
                    }
                    return Ok(());
                }
            }
            component.beat();
        }
    }

    async fn flush(&mut self, is_last: bool) {
        let begun = self.asked_at;
        self.asked_at = unix_nano();
        let mut left = Vec::new();
        for shard in &self.shards {
            let (reply, tally) = oneshot::channel();
            if shard.send(Take { is_last, reply }).await.is_err() {
                continue;
            }
            if let Ok(Taken { tally, remains }) = tally.await {
                left.extend(remains);
                self.meters.overflowed.inc_by(self.series.merge(tally, begun, unix_nano()));
            }
        }
        if is_last && let Some(file) = self.file.take() {
            self.keep(file, left).await;
        }
        self.meters.series.set(self.series.len() as i64);
        if self.series.is_empty() {
            return;
        }
        let attempts = if is_last { LAST_ATTEMPTS } else { 1 };
        for attempt in 1..=attempts {
            let (flush, keys) = self.series.begin_flush(unix_nano());
            let mut chunks = keys.chunks(ROWS_PER_REQUEST);
            if self.flusher.send_all(|| Some(self.series.request(flush, chunks.next()?))).await {
                self.series.confirm(flush);
                return;
            }
            if attempt < attempts {
                tokio::time::sleep(LAST_PAUSE).await;
            }
        }
        if is_last {
            self.flusher.lost();
        }
    }

    /// Writes what the next process goes on with.
    async fn keep(&self, file: PathBuf, shards: Vec<Remains>) {
        let spans = shards.iter().map(|shard| shard.waiting.len()).sum::<usize>();
        let state = Inheritance { written_unix_nano: unix_nano(), shards }.encode(&self.dimensions);
        let kept = tokio::task::spawn_blocking(move || Snapshot::write(&file, KIND, VERSION, &state)).await;
        match kept {
            Ok(Ok(())) => tracing::info!(spans, "spans that still wait for their other side are kept"),
            Ok(Err(error)) => {
                self.meters.unkept.inc_by(spans as u64);
                tracing::error!(%error, spans, "state.directory cannot be written, spans that wait are forgotten");
            }
            Err(error) => tracing::error!(%error, spans, "spans that wait are forgotten"),
        }
    }
}
