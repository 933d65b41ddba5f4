//! RED at the source: the tap that counts acknowledged spans, and the task that gets its windows to
//! central.
//!
//! Invariants: a request is counted after every owner has acknowledged it, never before, and once;
//! a window that central has not acknowledged is sent again with the same (epoch, stream, sequence);
//! central acknowledges at its own flush, so a window that closes goes out while earlier ones wait; when the
//! process drains, what waits is sent again as `closing`, which central answers at once; everything that is
//! given up is counted.
//!
//! Never: holds the tap's lock across an await.

mod metrics;
pub mod outbox;

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use mirador_otlp::Request;
use mirador_otlp::splice::Part;
use mirador_service::health::Component;
use mirador_service::metrics::Registry;
use mirador_sketch::Tap;
use mirador_transport::sender::{Destination, Owners};
use mirador_transport::{Kind, Refusal};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Code;

use self::metrics::Metrics;
use self::outbox::{Delta, Lost, Outbox};

/// The wait after a delta that central does not take for a reason that only an operator can change.
const MISCONFIGURED_WAIT: Duration = Duration::from_secs(10);

/// The longest wait between two attempts while the process drains.
const DRAIN_WAIT: Duration = Duration::from_millis(100);

/// The heartbeat of the task, so that a stuck one is noticed.
const BEAT: Duration = Duration::from_secs(1);

/// How the windows are made and kept.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which series.
    pub tap: mirador_sketch::Config,
    /// How often a window is closed.
    pub flush_interval: Duration,
    /// Bytes of deltas that wait at most.
    pub queue_size_bytes: usize,
    /// Who this agent is.
    pub agent_id: String,
    /// When the process started: unix nanoseconds.
    pub epoch: u64,
    /// Protects the hash tables; no number depends on it.
    pub seed: u64,
}

/// Where acknowledged requests are counted. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Red {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    tap: Mutex<Tap>,
    metrics: Metrics,
}

/// The task that closes windows and sends them.
#[derive(Debug)]
pub struct Windows {
    shared: Arc<Shared>,
    destination: Destination,
    outbox: Outbox,
    flush_interval: Duration,
    component: Component,
}

/// What an attempt to send a delta came to.
struct Attempt {
    delta: Delta,
    outcome: Result<(), Refusal>,
}

/// Builds the tap and the task of its windows.
pub fn build(
    settings: &Settings,
    destination: Destination,
    registry: &Registry,
    component: Component,
) -> (Red, Windows) {
    let shared = Arc::new(Shared {
        tap: Mutex::new(Tap::new(&settings.tap, settings.seed)),
        metrics: Metrics::register(registry),
    });
    let windows = Windows {
        shared: Arc::clone(&shared),
        destination,
        outbox: Outbox::new(settings.agent_id.clone(), settings.epoch, settings.queue_size_bytes),
        flush_interval: settings.flush_interval,
        component,
    };
    (Red { shared }, windows)
}

impl Red {
    /// Counts one acknowledged trace request.
    pub fn observe(&self, request: &Request) {
        let now = unix_nano();
        let observed = self.shared.tap().observe(request, now);
        self.shared.metrics.observed(&observed);
    }
}

impl Shared {
    fn tap(&self) -> MutexGuard<'_, Tap> {
        self.tap.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Windows {
    /// Runs until `finish` carries the instant by which everything must be sent; ends when central has
    /// everything, or then, and says what was lost.
    pub async fn run(mut self, finish: watch::Receiver<Option<Instant>>) -> Lost {
        let mut stop = finish.clone();
        let mut owners = self.destination.owners();
        let mut in_flight = FuturesUnordered::new();
        let mut tick = tokio::time::interval_at(Instant::now() + self.flush_interval, self.flush_interval);
        let mut beat = tokio::time::interval(BEAT);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.component.ready(true, "");
        loop {
            while let Some(delta) = self.outbox.next_to_send() {
                in_flight.push(attempt(self.destination.clone(), delta, finish.clone()));
            }
            self.publish();
            tokio::select! {
                Some(attempt) = in_flight.next(), if !in_flight.is_empty() => self.settle(attempt),
                () = self.destination.changed(&owners) => {
                    owners = self.destination.owners();
                    self.move_to(&owners);
                }
                _ = tick.tick() => self.close_window(&owners),
                _ = beat.tick() => self.component.beat(),
                deadline = deadline(&mut stop) => {
                    let lost = self.drain(deadline, in_flight).await;
                    self.component.finish();
                    return lost;
                }
            }
        }
    }

    /// Sends what is left until `deadline`.
    async fn drain(&mut self, deadline: Instant, in_flight: FuturesUnordered<impl Future<Output = Attempt>>) -> Lost {
        // What central holds is asked for again, so that it is answered now and not at the end of an interval.
        drop(in_flight);
        self.outbox.recall();
        let mut lost = self.close_last_window();
        let mut last_attempts = FuturesUnordered::new();
        while !self.outbox.is_empty() {
            while let Some(delta) = self.outbox.next_to_send() {
                last_attempts.push(last_attempt(self.destination.clone(), delta.closing(), deadline));
            }
            tokio::select! {
                Some(attempt) = last_attempts.next(), if !last_attempts.is_empty() => self.settle(attempt),
                () = tokio::time::sleep_until(deadline) => break,
            }
            self.component.beat();
        }
        let left = self.outbox.abandon();
        self.shared.metrics.lost("drain", left);
        lost.deltas += left.deltas;
        lost.series += left.series;
        self.publish();
        lost
    }

    fn settle(&mut self, attempt: Attempt) {
        let Attempt { delta, outcome } = attempt;
        match outcome {
            Ok(()) => {
                self.shared.metrics.acknowledged(&delta);
                self.outbox.acknowledged(&delta.stream, delta.sequence);
            }
            Err(refusal) if is_poison(&refusal) => {
                tracing::error!(stream = delta.stream, sequence = delta.sequence, code = ?refusal.code,
                    message = refusal.message, "central refuses a RED delta for good, it is dropped");
                let lost = self.outbox.rejected(&delta.stream, delta.sequence);
                self.shared.metrics.lost("rejected", lost);
            }
            Err(refusal) => {
                tracing::debug!(stream = delta.stream, sequence = delta.sequence, code = ?refusal.code,
                    message = refusal.message, "a RED delta is sent again");
                self.shared.metrics.resent.inc();
                self.outbox.failed(&delta.stream, delta.sequence);
                let owners = self.destination.owners();
                if owners.position(&delta.stream).is_none() {
                    self.move_to(&owners);
                }
            }
        }
    }

    /// Closes the window into deltas. While no owner is known the window stays open and grows; its
    /// memory is bounded by the limit of series.
    fn close_window(&mut self, owners: &Owners) {
        if owners.is_empty() {
            return;
        }
        let Some(window) = self.shared.tap().close(unix_nano()) else {
            return;
        };
        for (owner, request) in window.split(|service| owners.service_owner(service)) {
            self.shared.metrics.closed(request.series.len());
            let lost = self.outbox.push(owners.name(owner), request);
            self.count_overflow(lost);
        }
    }

    fn close_last_window(&mut self) -> Lost {
        let owners = self.destination.owners();
        self.close_window(&owners);
        let mut lost = Lost::default();
        if let Some(window) = self.shared.tap().close(unix_nano()) {
            // No owner is known, so there is no stream to keep it in.
            for (_, request) in window.split(|_| 0) {
                lost.deltas += 1;
                lost.series += request.series.len();
            }
            self.shared.metrics.lost("no_owner", lost);
        }
        lost
    }

    fn move_to(&mut self, owners: &Owners) {
        if owners.is_empty() {
            return;
        }
        let owner_of = |service: &str| owners.name(owners.service_owner(service)).to_owned();
        let (moved, lost) = self.outbox.move_streams(|name| owners.position(name).is_some(), owner_of);
        self.shared.metrics.moved.inc_by(moved as u64);
        self.count_overflow(lost);
    }

    fn count_overflow(&self, lost: Lost) {
        if !lost.is_nothing() {
            tracing::warn!(
                deltas = lost.deltas,
                series = lost.series,
                "RED deltas dropped: windows.queue_size_bytes is full"
            );
            self.shared.metrics.lost("queue_full", lost);
        }
    }

    fn publish(&self) {
        let series = self.shared.tap().series();
        self.shared.metrics.state(series, self.outbox.len(), self.outbox.bytes());
    }
}

/// One attempt; a failed one returns after the wait that the other side asked for, or when the
/// process drains.
async fn attempt(destination: Destination, delta: Delta, mut finish: watch::Receiver<Option<Instant>>) -> Attempt {
    let outcome = send(&destination, &delta, destination.deadline()).await;
    if let Err(refusal) = &outcome {
        let wait = refusal.retry_after.unwrap_or(MISCONFIGURED_WAIT);
        let owners = destination.owners();
        let settled = is_poison(refusal) || (!owners.is_empty() && owners.position(&delta.stream).is_none());
        if !settled {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = destination.changed(&owners) => {}
                _ = deadline(&mut finish) => {}
            }
        }
    }
    Attempt { delta, outcome }
}

/// One attempt while the process drains.
async fn last_attempt(destination: Destination, delta: Delta, deadline: Instant) -> Attempt {
    let outcome = send(&destination, &delta, deadline).await;
    if outcome.is_err() {
        tokio::time::sleep(DRAIN_WAIT).await;
    }
    Attempt { delta, outcome }
}

async fn send(destination: &Destination, delta: &Delta, deadline: Instant) -> Result<(), Refusal> {
    let owners = destination.owners();
    let Some(owner) = owners.position(&delta.stream) else {
        return Err(Refusal {
            code: Code::Unavailable,
            message: format!("owner {} has left the ring", delta.stream),
            retry_after: Some(DRAIN_WAIT),
            reason: "owner_left",
        });
    };
    let part = Part { owner, bytes: delta.bytes.clone(), items: delta.series };
    destination.send(Kind::Red, &owners, vec![part], deadline).await.map(|_| ())
}

/// Whether central can never take these bytes. Other permanent codes say that the destination is
/// misconfigured, which an operator can change while the deltas wait.
fn is_poison(refusal: &Refusal) -> bool {
    matches!(refusal.code, Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange)
}

/// The instant by which the process must be done, once it is known.
async fn deadline(finish: &mut watch::Receiver<Option<Instant>>) -> Instant {
    match finish.wait_for(Option::is_some).await {
        Ok(deadline) => deadline.unwrap_or_else(Instant::now),
        // The other side is gone: nobody waits for us.
        Err(_) => Instant::now(),
    }
}

/// Unix nanoseconds.
pub fn unix_nano() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
