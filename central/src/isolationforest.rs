//! The isolationforest role: every datapoint of every series is scored, then written to the metric store.
//!
//! A request is spread over shards by the labels of its resources; a shard owns the state of its series alone,
//! without locks. What shards want to write is gathered into group commits, and a request is answered when
//! the store has taken all of its samples.
//!
//! Output next to the metrics themselves: `anomaly_score{metric="<name>", <the series' labels>}` in [0, 1] for
//! every point (0 while the series warms up), and `is_anomaly{..}` 0 or 1 for series that were flagged within the
//! last hour, ended by a stale marker. A histogram or summary has one score for the family. Scores are not scored,
//! neither is `target_info`. Episodes go to the store of logs as records named `mirador.anomaly`.
//!
//! Never: buffers without a bound, answers before the store has, advances state twice for one point.

mod compat;
pub mod config;
pub mod detector;
pub mod engine;
pub mod episodes;
mod families;
mod incidents;
mod overflow;
pub mod pass;
mod ratios;
mod resources;
mod shared;
pub mod state;
mod table;
mod telemetry;
pub mod trees;
pub(crate) mod watch;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mirador_otlp::{Limits, Request, Signal};
use mirador_service::health::{Component, Health};
use mirador_service::metrics::Registry;
use mirador_transport::{Accepted, Consume, Incoming, Kind, Refusal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

pub use config::{Config, EngineConfig, ForestConfig, OutputMode, SeriesConfig, WriterConfig};
use episodes::Event;
use pass::Shard;
use resources::forests::Forests;
use resources::kind::KINDS;
use shared::{Message, Shared};
use telemetry::Telemetry;
use writer::{Part, Settled};

use crate::exporter::{self, ExportError, LogStore, MetricStore};
use crate::normalise::Output;
use crate::normalise::resource::placement;
use crate::snapshot::Snapshot;

/// A worker that has not moved for so long is dead.
const WORKER_MAX_AGE: Duration = Duration::from_secs(60);
/// How often a shard looks for series to forget and shows that it lives.
const TICK: Duration = Duration::from_secs(5);
/// Shards look for series to forget, and write their snapshot, every so many ticks.
const EXPIRE_EVERY: u32 = 12;
/// Shards score resources every so many ticks.
const RESOURCES_EVERY: u32 = 2;
/// Events that wait for the store of logs.
const EVENTS: usize = 4096;

/// One request for one shard.
struct Job {
    request: Request,
    /// Indexes of its resources, ascending; all of them when it is `None`.
    picks: Option<Box<[u32]>>,
    reply: oneshot::Sender<Result<Settled, ExportError>>,
}

/// The way into the role; clones share it. When the last one is gone the tasks write what they hold and end.
#[derive(Debug, Clone)]
pub struct Role {
    config: Arc<Config>,
    shards: Arc<[mpsc::Sender<Job>]>,
}

/// The role's tasks.
#[derive(Debug)]
pub struct Tasks(JoinSet<()>);

impl Tasks {
    /// Waits until all have ended, which they do after the last [`Role`] is dropped; an error names a panic.
    pub async fn ended(mut self) -> anyhow::Result<()> {
        while let Some(result) = self.0.join_next().await {
            result?;
        }
        Ok(())
    }
}

/// What the role needs around it.
pub struct Parts<'a> {
    /// Keeps metrics and scores.
    pub store: Arc<dyn MetricStore>,
    /// Keeps episodes as log records; without it they are counted only.
    pub logs: Option<Arc<dyn LogStore>>,
    /// Names the file of the scoring state, beside which each shard has its own; `None`: it dies with the process.
    pub state: Option<PathBuf>,
    /// The process' own metrics.
    pub registry: &'a Registry,
    /// Components and workers.
    pub health: &'a Health,
}

impl Role {
    /// Starts shards and writer on the current runtime; reads the snapshot, if there is one.
    pub fn start(config: Config, parts: Parts<'_>) -> (Self, Tasks) {
        let Parts { store, logs, state, registry, health } = parts;
        for note in config.collector.notes(config.output) {
            tracing::warn!("isolationforest.collector.{note}");
        }
        let config = Arc::new(config);
        let telemetry = Telemetry::new(registry);
        let shards = config.shard_count();
        let mut tasks = JoinSet::new();
        let (parts, parts_in) = mpsc::channel(config.writer.queue.max(1));
        let component = health.worker("isolationforest/writer", WORKER_MAX_AGE);
        component.ready(true, "");
        let (writer, counters) = (config.writer.clone(), telemetry.clone());
        tasks.spawn(async move {
            writer::run(writer, store, counters, parts_in, || component.beat()).await;
            component.finish();
        });
        let (events, events_in) = mpsc::channel(EVENTS);
        tasks.spawn(episodes::run(logs, events_in, telemetry.clone()));
        let (told, told_in) = mpsc::channel(shared::QUEUE);
        let common = Shared::restored(&config.resource_forests(), config.engine.seed, state.as_deref());
        let forests = common.forests();
        let component = health.worker("isolationforest/shared", WORKER_MAX_AGE);
        component.ready(true, "");
        let ways = shared::Ways { messages: told_in, events, telemetry: telemetry.clone(), state: state.clone() };
        tasks.spawn(shared::run(common, ways, component, now_unix_nano));
        let senders = (0..shards).map(|index| {
            let (jobs, jobs_in) = mpsc::channel(config.queue.max(1));
            let component = health.worker(format!("isolationforest/shard-{index}"), WORKER_MAX_AGE);
            component.ready(true, "");
            let mut shard = Shard::new(Arc::clone(&config), shards);
            if let Some(file) = &state {
                let restored = state::read(file, index, shards);
                telemetry.restored.inc_by(restored.watches.len() as u64);
                shard.restore(restored);
            }
            let keeper = Keeper { file: state.as_ref().map(|file| state::path(file, index)), shards, running: None };
            let (telemetry, forests) = (telemetry.clone(), Arc::clone(&forests));
            let ways = Ways { parts: parts.clone(), told: told.clone(), forests, telemetry, keeper };
            tasks.spawn(work(shard, jobs_in, ways, component));
            jobs
        });
        let role = Self { config: Arc::clone(&config), shards: senders.collect() };
        (role, Tasks(tasks))
    }

    /// Scores and stores one request; returns when the store has answered.
    ///
    /// Nothing is touched when a shard that it needs has no room within `queue_wait`.
    pub async fn take(&self, request: Request) -> Result<Accepted, Refusal> {
        let mut replies = Vec::new();
        {
            let spread = self.spread(&request);
            let mut rooms = Vec::with_capacity(spread.len());
            for (shard, _) in &spread {
                let room = tokio::time::timeout(self.config.queue_wait, self.shards[*shard].reserve());
                rooms.push(room.await.map_err(|_| busy())?.map_err(|_| stopping())?);
            }
            for (room, (_, picks)) in rooms.into_iter().zip(spread) {
                let (reply, settled) = oneshot::channel();
                room.send(Job { request: request.clone(), picks, reply });
                replies.push(settled);
            }
        }
        let mut accepted = Accepted::default();
        let mut refused = None;
        for reply in replies {
            match reply.await {
                Ok(Ok(settled)) => {
                    accepted.rejected_items += settled.rejected;
                    if !settled.message.is_empty() {
                        accepted.message = settled.message;
                    }
                }
                Ok(Err(error)) => refused = exporter::answer(Err(error), 0).err(),
                Err(_) => refused = Some(stopping()),
            }
        }
        refused.map_or(Ok(accepted), Err)
    }

    /// Which shards take which resources of a request, shards ascending.
    fn spread(&self, request: &Request) -> Vec<(usize, Option<Box<[u32]>>)> {
        if self.shards.len() == 1 {
            return vec![(0, None)];
        }
        let mut picks: Vec<Vec<u32>> = vec![Vec::new(); self.shards.len()];
        let mut resources = 0;
        for (index, entry) in request.resource_metrics().enumerate() {
            let shard = placement(&self.config.normalise, &entry.resource()) % self.shards.len() as u64;
            picks[shard as usize].push(index as u32);
            resources += 1;
        }
        let used = picks.into_iter().enumerate().filter(|(_, picks)| !picks.is_empty());
        used.map(|(shard, picks)| (shard, (picks.len() < resources).then(|| picks.into_boxed_slice()))).collect()
    }
}

impl Consume for Role {
    async fn consume(&self, incoming: Incoming) -> Result<Accepted, Refusal> {
        if incoming.kind != Kind::Otlp(Signal::Metrics) {
            return Err(Refusal {
                code: tonic::Code::Unimplemented,
                message: format!("isolationforest takes metrics, not {}", incoming.kind.as_str()),
                retry_after: None,
                reason: "wrong_signal",
            });
        }
        let request = Request::parse(Signal::Metrics, incoming.body, &Limits::default()).map_err(|error| Refusal {
            code: tonic::Code::InvalidArgument,
            message: error.to_string(),
            retry_after: None,
            reason: "malformed",
        })?;
        self.take(request).await
        // The permit is held until here, so what waits in the queues is paid for.
    }
}

/// Where a shard's results go.
struct Ways {
    parts: mpsc::Sender<Part>,
    /// To what the shards have in common.
    told: mpsc::Sender<Message>,
    forests: Arc<Forests>,
    telemetry: Telemetry,
    keeper: Keeper,
}

impl Ways {
    /// Metrics do not wait for events: what finds the queue full is counted.
    fn tell(&self, events: Vec<Event>) {
        let count = events.len() as u64;
        if count > 0 && self.told.try_send(Message::Events(events)).is_err() {
            self.telemetry.events_dropped.inc_by(count);
        }
    }

    /// Scores what the shard's resources have said, and tells the forests.
    fn score_resources(&self, shard: &mut Shard) -> Output {
        let resources::Scored { out, rows } = shard.score_resources(&self.forests);
        let count = rows.len() as u64;
        if count > 0 && self.told.try_send(Message::Rows(rows)).is_err() {
            self.telemetry.forest.rows_dropped.inc_by(count);
        }
        out
    }
}

/// Writes the snapshots of one shard, one at a time and off the shard's task.
struct Keeper {
    file: Option<PathBuf>,
    shards: usize,
    running: Option<tokio::task::JoinHandle<()>>,
}

impl Keeper {
    /// Writes the shard's state; skipped while the write before still runs, unless it is the last.
    async fn keep(&mut self, shard: &Shard, telemetry: &Telemetry, last: bool) {
        let Some(file) = self.file.clone() else { return };
        if let Some(running) = self.running.take_if(|running| last || running.is_finished()) {
            // A panic in a write is one failed snapshot; the next one says the same and more.
            running.await.ok();
        }
        if self.running.is_some() {
            return;
        }
        let encode = || shard.snapshot(self.shards, now_unix_nano());
        // The state cannot leave its task while it is read, but no other task has to wait for that on this thread.
        let (payload, left_out) = match tokio::runtime::Handle::current().runtime_flavor() {
            tokio::runtime::RuntimeFlavor::MultiThread => tokio::task::block_in_place(encode),
            _ => encode(),
        };
        if left_out > 0 {
            tracing::warn!(series = left_out, "the snapshot has no room for all series; these will start cold");
        }
        let [written, failed] = [telemetry.snapshots[0].clone(), telemetry.snapshots[1].clone()];
        let write = tokio::task::spawn_blocking(move || {
            match Snapshot::write(&file, state::KIND, state::VERSION, &payload) {
                Ok(()) => written.inc(),
                Err(error) => {
                    failed.inc();
                    tracing::warn!(%error, file = %file.display(), "the snapshot was not written");
                    0
                }
            };
        });
        if last {
            write.await.ok();
        } else {
            self.running = Some(write);
        }
    }
}

/// One shard: passes requests, hands on what is to be written, forgets what is old.
async fn work(mut shard: Shard, mut jobs: mpsc::Receiver<Job>, mut ways: Ways, component: Component) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let telemetry = ways.telemetry.clone();
    let (mut counted, mut counted_bytes) = (0_i64, 0_i64);
    let mut counted_resources = [0_i64; KINDS];
    let mut round = 0_u32;
    loop {
        component.beat();
        let part = tokio::select! {
            biased;
            _ = ticks.tick() => {
                round = round.wrapping_add(1);
                let scores = if round.is_multiple_of(RESOURCES_EVERY) { ways.score_resources(&mut shard) } else { Output::default() };
                if !round.is_multiple_of(EXPIRE_EVERY) {
                    if !scores.series.is_empty()
                        && ways.parts.send(Part { out: scores, points: 0, lost: 0, reply: None }).await.is_err()
                    {
                        break;
                    }
                    continue;
                }
                let (mut out, events) = shard.expire(now_unix_nano());
                telemetry.events.inc_by(events.len() as u64);
                ways.tell(events);
                counted_resources = show(&telemetry, counted_resources, shard.resources().map(|count| count as i64));
                let bytes = shard.scoring_bytes() as i64;
                telemetry.state_bytes.inc_by(bytes - counted_bytes);
                counted_bytes = bytes;
                ways.keeper.keep(&shard, &telemetry, false).await;
                out.append(scores);
                Part { out, points: 0, lost: 0, reply: None }
            }
            job = jobs.recv() => match job {
                Some(job) => pass(&mut shard, job, &ways),
                None => break,
            },
        };
        let series = shard.series() as i64;
        telemetry.series.inc_by(series - counted);
        counted = series;
        if part.out.series.is_empty() {
            let settled = part.usual();
            part.answer(Ok(settled));
        } else if ways.parts.send(part).await.is_err() {
            break;
        }
    }
    ways.keeper.keep(&shard, &telemetry, true).await;
    telemetry.series.dec_by(counted);
    telemetry.state_bytes.dec_by(counted_bytes);
    show(&telemetry, counted_resources, [0; KINDS]);
    component.finish();
}

/// Sets this shard's part of the gauges of resources.
fn show(telemetry: &Telemetry, had: [i64; KINDS], now: [i64; KINDS]) -> [i64; KINDS] {
    for ((gauge, had), now) in telemetry.forest.resources.iter().zip(had).zip(now) {
        gauge.inc_by(now - had);
    }
    now
}

fn pass(shard: &mut Shard, job: Job, ways: &Ways) -> Part {
    let mut outcome = shard.pass(&job.request, job.picks.as_deref(), now_unix_nano());
    ways.telemetry.add(&outcome);
    ways.tell(std::mem::take(&mut outcome.events));
    let lost = outcome.tally.lost_in_all();
    Part { out: outcome.out, points: outcome.tally.points, lost, reply: Some(job.reply) }
}

fn now_unix_nano() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn busy() -> Refusal {
    Refusal {
        code: tonic::Code::ResourceExhausted,
        message: "isolationforest has no room; send the same data again later".to_owned(),
        retry_after: Some(Duration::from_secs(1)),
        reason: "queue_full",
    }
}

fn stopping() -> Refusal {
    Refusal {
        code: tonic::Code::Unavailable,
        message: "isolationforest is stopping; send the same data again".to_owned(),
        retry_after: Some(Duration::from_secs(1)),
        reason: "stopping",
    }
}

#[cfg(test)]
mod tests;
