//! The threads over which connections are spread, each with a runtime and listeners of its own.
//!
//! A connection lives on one thread from its first byte to its last. What it hands to the consumer may go
//! on elsewhere: owners are reached from the runtime that started the receiver.
//!
//! Invariant: a thread that ends although nobody has asked it to makes the process drain. Until that is
//! over the others serve what comes, which includes what would have come to it.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mirador_service::drain::Drain;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::connection::Shared;
use super::listener::Listener;
use super::spread::{self, Balance, Seat};
use crate::Consume;

/// How often a thread says that it turns.
const PULSE: Duration = Duration::from_millis(50);

/// Connections on their way to one thread at most; what is above is served where it came in.
const HANDED: usize = 256;

/// A connection on its way to another thread.
#[derive(Debug)]
pub(super) struct Handed {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) seat: Seat,
}

/// What a listener of a thread knows of the others.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) index: usize,
    pub(super) balance: Arc<Balance>,
    /// The same port's listeners on all threads, this one included.
    pub(super) others: Vec<mpsc::Sender<Handed>>,
    pub(super) handed: mpsc::Receiver<Handed>,
}

impl Lane {
    /// The lanes of one port.
    pub(super) fn all(balance: &Arc<Balance>, count: usize) -> Vec<Self> {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(HANDED)).unzip();
        let lane = |(index, handed)| Self { index, balance: Arc::clone(balance), others: senders.clone(), handed };
        receivers.into_iter().enumerate().map(lane).collect()
    }
}

/// Whether the threads that accept connections still turn.
#[derive(Debug, Clone)]
pub struct Pulse {
    begin: Instant,
    /// Milliseconds after `begin`, by thread.
    beats: Arc<[AtomicU64]>,
}

impl Pulse {
    pub(super) fn new(threads: usize) -> Self {
        Self { begin: Instant::now(), beats: (0..threads).map(|_| AtomicU64::new(0)).collect() }
    }

    /// How long ago the slowest thread was last heard of; zero when connections are accepted by the runtime
    /// that asks.
    pub fn age(&self) -> Duration {
        let now = self.begin.elapsed().as_millis() as u64;
        let oldest = self.beats.iter().map(|beat| beat.load(Ordering::Relaxed)).min().unwrap_or(now);
        Duration::from_millis(now.saturating_sub(oldest))
    }

    async fn beat(&self, index: usize) {
        let mut ticks = tokio::time::interval(PULSE);
        loop {
            ticks.tick().await;
            self.beats[index].store(self.begin.elapsed().as_millis() as u64, Ordering::Relaxed);
        }
    }
}

/// Serves on as many threads as there are pairs of listeners, until the drain is over; dropped, it ends them.
pub(super) async fn serve<C: Consume>(pairs: Vec<[Listener; 2]>, shared: Arc<Shared<C>>, pulse: Pulse) {
    let count = pairs.len();
    // Closed when this future is dropped.
    let (_stop, stopped) = watch::channel(());
    let mut ends = Vec::new();
    for (index, pair) in pairs.into_iter().enumerate() {
        let (finished, end) = oneshot::channel();
        let thread =
            Thread { index, count, pulse: pulse.clone(), stopped: stopped.clone(), drain: shared.drain.clone() };
        let shared = Arc::clone(&shared);
        let started = std::thread::Builder::new().name(format!("receiver-{index}")).spawn(move || {
            if thread.run(pair, shared) {
                // Nobody waits any more once the receiver was dropped.
                finished.send(()).ok();
            }
        });
        if let Err(error) = started {
            tracing::error!(index, %error, "a thread of the receiver cannot be started");
        }
        ends.push(end);
    }
    drop(stopped);
    let mut watchers = JoinSet::new();
    for (index, end) in ends.into_iter().enumerate() {
        let drain = shared.drain.clone();
        watchers.spawn(async move {
            if end.await.is_err() && !drain.is_draining() {
                tracing::error!(index, "a thread of the receiver has ended while the process was serving, draining");
                drain.start();
            }
        });
    }
    while watchers.join_next().await.is_some() {}
}

struct Thread {
    index: usize,
    count: usize,
    pulse: Pulse,
    stopped: watch::Receiver<()>,
    drain: Drain,
}

impl Thread {
    /// Whether it has ended as it should.
    fn run<C: Consume>(mut self, pair: [Listener; 2], shared: Arc<Shared<C>>) -> bool {
        spread::stay(self.index, self.count);
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(index = self.index, %error, "a thread of the receiver has no runtime");
                return false;
            }
        };
        let [grpc, http] = pair;
        runtime.block_on(async {
            let serving = async { tokio::join!(grpc.run(Arc::clone(&shared)), http.run(shared)) };
            tokio::select! {
                _ = serving => self.drain.is_draining(),
                () = self.pulse.beat(self.index) => false,
                _ = self.stopped.changed() => true,
            }
        })
    }
}
