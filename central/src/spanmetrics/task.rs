//! The task that owns the cumulative RED series.
//!
//! Never: waits for a flush before it merges. Invariants: a delta is answered when the flush that carries it has been
//! taken, and so are spans that were counted here; a flush carries what was merged when it began and nothing later;
//! with a state directory, what a flush carries is in the snapshot before it leaves.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mirador_otlp::Request;
use mirador_proto::red::ExportRedRequest;
use mirador_service::drain::Drain;
use mirador_service::health::Component;
use mirador_service::memory::Permit;
use mirador_sketch::{SeriesKey, Tap};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use super::engine::{Engine, MergeError, Scope};
use super::held::{Held, MAX_WINDOWS, Reply};
use super::meters::Meters;
use super::persist::{KIND, VERSION};
use super::series::ROWS_PER_REQUEST;
use super::streams::StreamId;
use crate::clock::unix_nano;
use crate::cumulative::Flush;
use crate::metrics_out::{Flusher, LAST_ATTEMPTS, LAST_PAUSE};
use crate::snapshot::Snapshot;

/// Flushes that somebody asks for begin at most this often.
const GAP: Duration = Duration::from_secs(1);
/// As [`GAP`], while the process drains.
const DRAIN_GAP: Duration = Duration::from_millis(100);
/// So many windows that wait are a reason to flush early.
const MANY: usize = 1024;

/// Whether a delta was merged: now, or not ever. The reply that came with it follows when it is stored.
pub(super) type Admitted = oneshot::Sender<Result<(), Rejected>>;

/// Why a delta was not merged.
#[derive(Debug, thiserror::Error)]
pub(super) enum Rejected {
    /// For good.
    #[error(transparent)]
    Malformed(#[from] MergeError),
    /// Too many windows wait for a store that takes nothing.
    #[error("{MAX_WINDOWS} windows wait for the store of the metrics")]
    Full,
}

/// What the task is asked to do.
pub(super) enum Command {
    /// Merge an agent's delta; the permit pays for its bytes until then.
    Merge { delta: Box<ExportRedRequest>, permit: Option<Permit>, admitted: Admitted, reply: Reply },
    /// Count spans that no agent has counted.
    Observe(Request, Reply),
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
    /// Where the state is kept; `None`: nowhere.
    pub(super) file: Option<PathBuf>,
    /// What waits for the next flush.
    pub(super) held: Held,
    /// When a flush is wanted before the interval ends.
    pub(super) wanted: Option<Instant>,
    /// The state is of another process, and no flush of this one has been taken.
    pub(super) is_resumed: bool,
    pub(super) drain: Drain,
}

/// A flush that is being sent, a piece at a time: a piece is made when the one before has been taken.
struct UnderWay {
    flush: Flush,
    scope: Scope,
    keys: Vec<SeriesKey>,
    /// Series that have been sent, with the piece that is under way.
    sent: usize,
    held: Held,
    sending: JoinHandle<bool>,
}

impl Task {
    /// Serves commands and flushes every interval until it is told to finish.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        component: Component,
    ) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval_at(Instant::now() + self.interval, self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beats = tokio::time::interval(Duration::from_secs(1));
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut under_way: Option<UnderWay> = None;
        let mut last = Instant::now().checked_sub(GAP).unwrap_or_else(Instant::now);
        let drain = self.drain.clone();
        component.ready(true, "");
        loop {
            let gap = if drain.is_draining() { DRAIN_GAP } else { GAP };
            let early = self.wanted.map(|wanted| wanted.max(last + gap));
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Merge { delta, permit, admitted, reply }) => {
                        self.merge(&delta, (admitted, reply), under_way.as_mut());
                        drop(permit);
                    }
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
                _ = ticks.tick(), if under_way.is_none() => {
                    under_way = self.flush(Scope::All);
                    last = under_way.as_ref().map_or(last, |_| Instant::now());
                }
                () = at(early), if under_way.is_none() => {
                    under_way = self.flush(Scope::Changed);
                    last = under_way.as_ref().map_or(last, |_| Instant::now());
                }
                // Requests that wait hold up the drain, and the last flush comes after it.
                () = drain.started(), if self.wanted.is_none() && !self.held.is_empty() => self.want(),
                _ = beats.tick() => {}
            }
            component.beat();
        }
    }

    fn want(&mut self) {
        self.wanted.get_or_insert_with(Instant::now);
    }

    fn merge(
        &mut self,
        delta: &ExportRedRequest,
        (admitted, reply): (Admitted, Reply),
        under_way: Option<&mut UnderWay>,
    ) {
        if delta.closing || self.held.len() >= MANY {
            self.want();
        }
        let waiting = self.held.len() + under_way.as_ref().map_or(0, |flush| flush.held.len());
        if waiting >= MAX_WINDOWS {
            admitted.send(Err(Rejected::Full)).ok();
            return;
        }
        let merged = match self.engine.merge(delta, unix_nano()) {
            Ok(merged) => merged,
            Err(error) => {
                self.meters.invalid.inc();
                admitted.send(Err(error.into())).ok();
                return;
            }
        };
        self.meters.merged(merged);
        admitted.send(Ok(())).ok();
        let id = (StreamId::of(delta), delta.sequence);
        let reply = self.held.again(&id, merged, reply);
        let reply = reply.and_then(|reply| match under_way {
            Some(flush) => flush.held.again(&id, merged, reply),
            None => Some(reply),
        });
        let Some(reply) = reply else { return };
        if merged.is_duplicate && !self.is_resumed {
            // Nobody holds it: the flush that carried it was taken.
            reply.send(merged).ok();
        } else {
            self.held.window(id, merged, reply);
        }
    }

    fn observe(&mut self, request: &Request, reply: Reply) {
        self.meters.observed(self.tap.observe(request, unix_nano()));
        self.held.spans(reply);
        self.want();
    }

    /// Begins a flush of what has been counted until now; `None` when there is nothing.
    fn begin(&mut self, scope: Scope) -> Option<(Flush, Vec<SeriesKey>)> {
        let now = unix_nano();
        if let Some(window) = self.tap.close(now) {
            self.meters.merged(self.engine.merge_own(window, now));
        }
        self.meters.streams(self.engine.streams(now));
        self.meters.series.set(self.engine.series() as i64);
        let (flush, keys) = self.engine.begin_flush(scope, now);
        (!keys.is_empty()).then_some((flush, keys))
    }

    fn flush(&mut self, scope: Scope) -> Option<UnderWay> {
        self.wanted = None;
        let Some((flush, keys)) = self.begin(scope) else {
            // Everything that was counted is stored: spans without a service, a delta without a series.
            std::mem::take(&mut self.held).answer();
            return None;
        };
        let held = std::mem::take(&mut self.held);
        let state = self.file.clone().map(|file| (file, self.engine.export()));
        Some(self.piece(UnderWay { flush, scope, keys, sent: 0, held, sending: tokio::spawn(async { true }) }, state))
    }

    /// Sends the next piece of a flush; the first one when the state is kept.
    fn piece(&mut self, under_way: UnderWay, state: Option<(PathBuf, Vec<u8>)>) -> UnderWay {
        let UnderWay { flush, scope, keys, sent, held, .. } = under_way;
        let end = keys.len().min(sent + ROWS_PER_REQUEST);
        let request = self.engine.request(flush, scope, &keys[sent..end]);
        let (flusher, meters) = (self.flusher.clone(), self.meters.clone());
        let sending = tokio::spawn(async move {
            if let Some((file, state)) = state {
                keep(file, state, &meters).await;
            }
            flusher.send(request).await
        });
        UnderWay { flush, scope, keys, sent: end, held, sending }
    }

    /// A piece was taken or not: goes on with the next one, or ends the flush.
    fn settle(&mut self, under_way: Option<UnderWay>, is_taken: bool) -> Option<UnderWay> {
        let under_way = under_way?;
        if is_taken && under_way.sent < under_way.keys.len() {
            return Some(self.piece(under_way, None));
        }
        self.flusher.settled(is_taken);
        if is_taken {
            self.engine.confirm(under_way.flush);
            self.is_resumed = false;
            under_way.held.answer();
        } else {
            self.held.put_back(under_way.held);
            if !self.held.is_empty() {
                self.want();
            }
        }
        None
    }

    async fn last_flush(&mut self, under_way: Option<UnderWay>) {
        if let Some(UnderWay { sending, held, .. }) = under_way {
            // The last flush says the same and more; only the order of the two matters.
            sending.await.ok();
            self.held.put_back(held);
        }
        for attempt in 1..=LAST_ATTEMPTS {
            let Some((flush, keys)) = self.begin(Scope::All) else { break };
            if let Some(file) = self.file.clone() {
                keep(file, self.engine.export(), &self.meters).await;
            }
            let mut pieces = keys.chunks(ROWS_PER_REQUEST);
            if self.flusher.send_all(|| Some(self.engine.request(flush, Scope::All, pieces.next()?))).await {
                self.engine.confirm(flush);
                std::mem::take(&mut self.held).answer();
                return;
            }
            if attempt < LAST_ATTEMPTS {
                tokio::time::sleep(LAST_PAUSE).await;
            } else {
                self.flusher.lost();
                // Whoever waits is not answered and sends it to the next process.
                return;
            }
        }
        std::mem::take(&mut self.held).answer();
    }
}

/// Replaces the snapshot. When that fails there is none, because an old one would take back what was answered since.
async fn keep(file: PathBuf, state: Vec<u8>, meters: &Meters) {
    let kept = tokio::task::spawn_blocking(move || {
        let kept = Snapshot::write(&file, KIND, VERSION, &state);
        kept.map_err(|error| (error, removed(&file)))
    });
    match kept.await {
        Ok(Ok(())) => {
            if meters.unwritable.is_over() {
                tracing::info!("state.directory is written again");
            }
        }
        Ok(Err((error, removed))) => {
            meters.unkept.inc();
            if let Some(times) = meters.unwritable.due(std::time::Instant::now()) {
                tracing::error!(%error, removed, times, "state.directory cannot be written, a kill would begin new series");
            }
        }
        Err(error) => tracing::error!(%error, "the state was not kept"),
    }
}

fn removed(file: &Path) -> bool {
    Snapshot::remove(file).is_ok()
}

/// Whether the piece that is under way was taken; never ends when none is.
async fn sent(under_way: &mut Option<UnderWay>) -> bool {
    match under_way {
        // A panic while sending is a flush that failed; the series are untouched by it.
        Some(UnderWay { sending, .. }) => sending.await.unwrap_or(false),
        None => std::future::pending().await,
    }
}

/// Never ends without an instant.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
