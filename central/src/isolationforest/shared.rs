//! What the shards of a process have in common: the forests of the kinds of resources, and incidents.
//!
//! One task owns both. Shards send rows and events by a bounded queue and never wait for it; forests come back as atomic
//! pointers ([`super::resources::forests`]), marked events go on to the store of logs. Trees grow on the pool of
//! blocking threads. The state is a snapshot file of its own, beside those of the shards.
//!
//! Never: scores, holds up a shard. Invariant: what [`Shared::decode`] gives back goes on as if nothing had happened.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mirador_service::health::Component;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::config::ForestConfig;
use super::detector::codec::{Decoder, Encoder};
use super::episodes::Event;
use super::incidents::Incidents;
use super::resources::forests::{Forests, Nursery, Rebuilds, Row};
use super::resources::kind::{KINDS, Kind};
use super::telemetry::Telemetry;
use super::trees::family::Rebuilt;
use crate::snapshot::Snapshot;

/// What the file is of.
const KIND: &str = "isolationforest-shared";
/// Version of the payload; another one is refused, and forests and incidents start cold.
const VERSION: u16 = 1;
/// How often forests learn and an eighth of their trees grows anew.
const EPOCH: Duration = Duration::from_secs(10);
/// The snapshot is written every so many epochs.
const KEEP_EVERY: u32 = 6;
/// Messages of shards that wait.
pub(super) const QUEUE: usize = 1024;

/// What a shard tells.
#[derive(Debug)]
pub(super) enum Message {
    /// Rows of a tick.
    Rows(Vec<Row>),
    /// Events of one pass.
    Events(Vec<Event>),
}

/// What the shards have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) nursery: Nursery,
    pub(super) incidents: Incidents,
    most_rows: usize,
}

impl Shared {
    /// Knows nothing.
    pub(super) fn new(config: &ForestConfig, seed: u64) -> Self {
        let nursery = Nursery::new(config.settings(), seed).expect("the configuration is checked");
        Self { nursery, incidents: Incidents::default(), most_rows: config.max_resources.saturating_mul(4) }
    }

    /// The same with what the file of the process before holds. What cannot be used is refused with a warning that says
    /// why, and learned again.
    pub(super) fn restored(config: &ForestConfig, seed: u64, state: Option<&Path>) -> Self {
        let mut shared = Self::new(config, seed);
        let Some(path) = state.map(path) else { return shared };
        let payload = match Snapshot::read(&path, KIND, VERSION) {
            Ok(None) => return shared,
            Ok(Some(payload)) => payload,
            Err(error) => {
                tracing::warn!(%error, "forests of resources start cold");
                return shared;
            }
        };
        let path = path.display();
        let Some(refused) = shared.decode(&payload) else {
            tracing::warn!(%path, "forests of resources start cold: the file does not hold what its version says");
            return Self::new(config, seed);
        };
        for reason in refused {
            tracing::warn!(reason, %path, "a forest of resources starts cold");
        }
        shared
    }

    /// Where shards find what has grown.
    pub(super) fn forests(&self) -> Arc<Forests> {
        self.nursery.forests()
    }

    /// Takes rows; says how many found no room.
    pub(super) fn learn(&mut self, rows: Vec<Row>) -> usize {
        self.nursery.gather(rows, self.most_rows)
    }

    /// The state.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut to = Encoder::default();
        self.incidents.encode(&mut to);
        self.nursery.encode(&mut to);
        to.0
    }

    /// Takes a state: what of it is refused, or nothing when the bytes are none.
    pub(super) fn decode(&mut self, payload: &[u8]) -> Option<Vec<String>> {
        let mut from = Decoder(payload);
        let incidents = Incidents::decode(&mut from)?;
        let refused = self.nursery.decode(&mut from)?;
        self.incidents = incidents;
        from.0.is_empty().then_some(refused)
    }
}

/// The file, beside the one that is named for the role.
pub(super) fn path(file: &Path) -> PathBuf {
    file.with_file_name(format!("{KIND}.state"))
}

/// What the task works with.
pub(super) struct Ways {
    pub(super) messages: mpsc::Receiver<Message>,
    /// Marked events go here.
    pub(super) events: mpsc::Sender<Event>,
    pub(super) telemetry: Telemetry,
    /// Names the file of the role's state.
    pub(super) state: Option<PathBuf>,
}

/// Work that runs on the pool of blocking threads, at most one of each.
#[derive(Default)]
struct Running {
    rebuild: Option<JoinHandle<Vec<(Kind, Rebuilt)>>>,
    write: Option<JoinHandle<()>>,
}

/// Runs until all shards are gone; then writes the last snapshot.
pub(super) async fn run(mut shared: Shared, mut ways: Ways, component: Component, now: fn() -> u64) {
    let mut ticks = tokio::time::interval(EPOCH);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut running, mut round, mut counted) = (Running::default(), 0_u32, Counted::default());
    loop {
        component.beat();
        tokio::select! {
            biased;
            message = ways.messages.recv() => match message {
                None => break,
                Some(Message::Rows(rows)) => {
                    ways.telemetry.forest.rows_dropped.inc_by(shared.learn(rows) as u64);
                }
                Some(Message::Events(events)) => pass_on(&mut shared, events, &ways),
            },
            _ = ticks.tick() => {
                round = round.wrapping_add(1);
                running.epoch(&mut shared, &ways.telemetry).await;
                shared.incidents.expire(now());
                counted.show(&shared, &ways.telemetry);
                if round.is_multiple_of(KEEP_EVERY) {
                    running.keep(&shared, &ways, false).await;
                }
            }
        }
    }
    running.settle(&mut shared).await;
    running.keep(&shared, &ways, true).await;
    counted.clear(&ways.telemetry);
    component.finish();
}

/// Marks events and hands them to the store of logs; nobody waits for it, what finds the queue full is counted.
fn pass_on(shared: &mut Shared, mut events: Vec<Event>, ways: &Ways) {
    let marked = shared.incidents.mark(&mut events);
    ways.telemetry.forest.incidents.inc_by(marked.opened);
    ways.telemetry.forest.incidents_left_out.inc_by(marked.left_out);
    for event in events {
        if ways.events.try_send(event).is_err() {
            ways.telemetry.events_dropped.inc();
        }
    }
}

impl Running {
    /// Shows the trees of the epoch before and begins those of this one.
    async fn epoch(&mut self, shared: &mut Shared, telemetry: &Telemetry) {
        self.settle(shared).await;
        let rebuilds = shared.nursery.plan();
        if rebuilds.trees() > 0 {
            telemetry.forest.trees_grown.inc_by(rebuilds.trees() as u64);
            self.rebuild = Some(tokio::task::spawn_blocking(move || Rebuilds::run(rebuilds)));
        }
    }

    /// Puts what has grown in its place. It began an epoch ago and takes milliseconds.
    async fn settle(&mut self, shared: &mut Shared) {
        if let Some(rebuild) = self.rebuild.take()
            && let Ok(rebuilt) = rebuild.await
        {
            shared.nursery.accept(rebuilt);
        }
    }

    /// Writes the snapshot; skipped while the write before still runs, unless it is the last.
    async fn keep(&mut self, shared: &Shared, ways: &Ways, last: bool) {
        let Some(path) = ways.state.as_deref().map(path) else { return };
        if let Some(write) = self.write.take_if(|write| last || write.is_finished()) {
            // A panic in a write is one failed snapshot; the next one says the same and more.
            write.await.ok();
        }
        if self.write.is_some() {
            return;
        }
        let payload = shared.encode();
        let [written, failed] = [ways.telemetry.snapshots[0].clone(), ways.telemetry.snapshots[1].clone()];
        let write = tokio::task::spawn_blocking(move || match Snapshot::write(&path, KIND, VERSION, &payload) {
            Ok(()) => {
                written.inc();
            }
            Err(error) => {
                failed.inc();
                tracing::warn!(%error, file = %path.display(), "the snapshot was not written");
            }
        });
        if last {
            write.await.ok();
        } else {
            self.write = Some(write);
        }
    }
}

/// What the gauges hold.
#[derive(Default)]
struct Counted {
    rows: [i64; KINDS],
    bytes: i64,
    incidents: i64,
}

impl Counted {
    fn of(shared: &Shared) -> Self {
        Self {
            rows: Kind::ALL.map(|kind| shared.nursery.rows(kind) as i64),
            bytes: shared.nursery.bytes() as i64,
            incidents: shared.incidents.open() as i64,
        }
    }

    fn show(&mut self, shared: &Shared, telemetry: &Telemetry) {
        self.set(Self::of(shared), telemetry);
    }

    fn clear(&mut self, telemetry: &Telemetry) {
        self.set(Self::default(), telemetry);
    }

    fn set(&mut self, now: Self, telemetry: &Telemetry) {
        for ((gauge, now), had) in telemetry.forest.rows.iter().zip(now.rows).zip(self.rows) {
            gauge.inc_by(now - had);
        }
        telemetry.forest.bytes.inc_by(now.bytes - self.bytes);
        telemetry.forest.incidents_open.inc_by(now.incidents - self.incidents);
        *self = now;
    }
}
