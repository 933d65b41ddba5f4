//! One shard of the pairing store and the task that owns it.
//!
//! Never: shares its state, does IO. Invariant: a half that was taken is in the tally, or waits, when the next batch
//! is read.

use std::time::{Duration, Instant};

use mirador_service::health::Component;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{mpsc, oneshot};

use super::half::Half;
use super::meters::Meters;
use super::pairing::{Outcome, Pairing};
use super::persist::Remains;
use super::tally::Tally;

/// The longest a shard sleeps, so that its heartbeat stays young.
const BEAT: Duration = Duration::from_secs(1);

/// The engine's time when the process starts: above the age of everything that another process handed over.
pub(super) const START: u64 = 1 << 60;

/// Asks for what was counted since the last time. It has a queue of its own: requests that wait for a slow store hold
/// places in the other one.
pub(super) struct Take {
    /// No more halves follow: stop waiting.
    pub(super) is_last: bool,
    pub(super) reply: oneshot::Sender<Taken>,
}

/// What a shard gives.
pub(super) struct Taken {
    pub(super) tally: Tally,
    /// What still waits, when it is the last time and state is kept.
    pub(super) remains: Option<Remains>,
}

/// The ends at which a shard listens.
pub(super) struct Inputs {
    pub(super) halves: mpsc::Receiver<Vec<Half>>,
    pub(super) takes: mpsc::Receiver<Take>,
}

/// The state of one shard.
pub(super) struct Shard {
    pub(super) pairing: Pairing,
    pub(super) tally: Tally,
    pub(super) meters: Meters,
    pub(super) waiting: Gauge,
    /// The engine's time [`START`].
    pub(super) epoch: Instant,
    /// Whether what waits at the end is handed over.
    pub(super) is_kept: bool,
}

impl Shard {
    /// Pairs until it has been asked for the last time.
    pub(super) async fn run(mut self, mut inputs: Inputs, component: Component) -> anyhow::Result<()> {
        component.ready(true, "");
        loop {
            let sleep = self.until_timeout();
            tokio::select! {
                Some(halves) = inputs.halves.recv() => self.push(halves),
                take = inputs.takes.recv() => {
                    let Some(Take { is_last, reply }) = take else { return Ok(()) };
                    while is_last && let Ok(halves) = inputs.halves.try_recv() {
                        self.push(halves);
                    }
                    self.take(is_last, reply);
                    if is_last {
                        return Ok(());
                    }
                }
                () = tokio::time::sleep(sleep) => self.expire(),
            }
            self.waiting.set(self.pairing.len() as i64);
            self.meters.forgotten.inc_by(self.pairing.take_forgotten());
            component.beat();
        }
    }

    /// Goes on with what another process handed over.
    pub(super) fn take_over(&mut self, remains: Remains) {
        let Self { pairing, tally, meters, .. } = self;
        pairing.take_over(remains, START, &mut |outcome| count(outcome, tally, meters));
        self.waiting.set(self.pairing.len() as i64);
    }

    fn now(&self) -> u64 {
        START + self.epoch.elapsed().as_nanos() as u64
    }

    fn until_timeout(&self) -> Duration {
        let wait = self.pairing.poll_timeout().map(|at| Duration::from_nanos(at.saturating_sub(self.now())));
        // Expiring a little late and many at a time costs less than a timer for each.
        wait.map_or(BEAT, |wait| wait.clamp(Duration::from_millis(10), BEAT))
    }

    fn push(&mut self, halves: Vec<Half>) {
        let now = self.now();
        for half in halves {
            let Self { pairing, tally, meters, .. } = self;
            pairing.push(half, now, &mut |outcome| count(outcome, tally, meters));
        }
    }

    fn expire(&mut self) {
        let now = self.now();
        let Self { pairing, tally, meters, .. } = self;
        pairing.expire(now, &mut |outcome| count(outcome, tally, meters));
    }

    fn take(&mut self, is_last: bool, reply: oneshot::Sender<Taken>) {
        self.expire();
        let mut remains = None;
        if is_last && self.is_kept {
            remains = Some(self.pairing.hand_over(self.now()));
        } else if is_last {
            let Self { pairing, tally, meters, .. } = self;
            if !pairing.is_empty() {
                tracing::info!(spans = pairing.len(), "spans that still wait for their other side stay unpaired");
            }
            pairing.abandon(&mut |outcome| count(outcome, tally, meters));
        }
        if let Err(unwanted) = reply.send(Taken { tally: self.tally.take(), remains }) {
            // Nobody waits for the answer any more: what was counted stays here.
            self.tally = unwanted.tally;
        }
    }
}

fn count(outcome: Outcome, tally: &mut Tally, meters: &Meters) {
    match outcome {
        Outcome::Edge(edge) => {
            meters.edges.inc();
            tally.edge(edge);
        }
        Outcome::Unpaired(half) => {
            meters.unpaired(&half);
            tally.unpaired(&half);
        }
        Outcome::Dropped(half) => {
            meters.dropped.inc();
            tally.dropped(&half);
        }
        Outcome::Duplicate => {
            meters.duplicates.inc();
        }
    }
}
