//! Shutdown that loses nothing: stop taking, finish what is in flight, within one deadline.
//!
//! [`Drain::start`] is called once (a signal or an error); receivers stop taking new work, every
//! piece of work holds a [`DrainGuard`], and [`Drain::finished`] ends when the last guard is gone
//! or the grace period is over. It never cancels work by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::metrics::Registry;

/// Work that was still in flight when the grace period ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{in_flight} pieces of work were still in flight when the grace period ended")]
pub struct Left {
    /// Guards that were still held.
    pub in_flight: usize,
}

/// The process-wide switch from serving to draining. Clones share it.
#[derive(Debug, Clone)]
pub struct Drain {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    grace: Duration,
    /// When draining began; None while serving.
    since: watch::Sender<Option<Instant>>,
    in_flight: AtomicUsize,
    /// Woken whenever the last guard goes.
    idle: tokio::sync::Notify,
}

impl Drain {
    /// Serving; `grace` is the time that work in flight gets once draining starts.
    pub fn new(grace: Duration) -> Self {
        let shared = Shared {
            grace,
            since: watch::Sender::new(None),
            in_flight: AtomicUsize::new(0),
            idle: tokio::sync::Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Begins to drain; later calls change nothing (the deadline does not move).
    pub fn start(&self) {
        self.shared.since.send_if_modified(|since| {
            let first = since.is_none();
            since.get_or_insert_with(Instant::now);
            first
        });
    }

    /// Whether draining has begun.
    pub fn is_draining(&self) -> bool {
        self.shared.since.borrow().is_some()
    }

    /// Waits until draining begins; returns at once when it has.
    pub async fn started(&self) {
        self.began().await;
    }

    /// The instant at which the grace period ends; None while serving.
    pub fn deadline(&self) -> Option<Instant> {
        self.shared.since.borrow().map(|since| since + self.shared.grace)
    }

    /// The configured grace period.
    pub fn grace(&self) -> Duration {
        self.shared.grace
    }

    /// Counts a piece of work until the guard is dropped. Allowed while draining: work that came
    /// in before may have follow-up work.
    pub fn guard(&self) -> DrainGuard {
        self.shared.in_flight.fetch_add(1, Ordering::AcqRel);
        DrainGuard { shared: Arc::clone(&self.shared) }
    }

    /// Pieces of work in flight.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::Acquire)
    }

    /// Waits until draining has begun and no guard is held, or the grace period is over.
    pub async fn finished(&self) -> Result<(), Left> {
        let deadline = self.began().await + self.shared.grace;
        let idle = async {
            loop {
                let woken = self.shared.idle.notified();
                tokio::pin!(woken);
                // Registered before the count is read, so a guard that goes in between is seen.
                woken.as_mut().enable();
                if self.in_flight() == 0 {
                    return;
                }
                woken.await;
            }
        };
        match tokio::time::timeout_at(deadline, idle).await {
            Ok(()) => Ok(()),
            Err(_) => match self.in_flight() {
                0 => Ok(()),
                in_flight => Err(Left { in_flight }),
            },
        }
    }

    /// Waits, once draining has begun, until no guard is held, and tells how many are when time is up: one
    /// `share`th of the grace period is kept for what comes after the answers (the last flush).
    pub async fn answered(&self, share: u32) -> usize {
        let by = self.began().await + self.shared.grace - self.shared.grace / share.max(1);
        // What has ended by now has ended in time, however late this is asked.
        let by = by.max(Instant::now() + Duration::from_millis(1));
        match tokio::time::timeout_at(by, self.finished()).await {
            Ok(Ok(())) => 0,
            Ok(Err(left)) => left.in_flight,
            Err(_) => self.in_flight(),
        }
    }

    /// Shows the drain and the work in flight as metrics.
    pub fn register_metrics(&self, registry: &Registry) {
        let (draining, work) = (self.clone(), self.clone());
        registry.observe_gauge("mirador_process_draining", "1 while the process is draining.", move || {
            f64::from(u8::from(draining.is_draining()))
        });
        registry.observe_gauge("mirador_process_in_flight", "Pieces of work that a drain would wait for.", move || {
            work.in_flight() as f64
        });
    }

    async fn began(&self) -> Instant {
        let mut since = self.shared.since.subscribe();
        loop {
            if let Some(since) = *since.borrow_and_update() {
                return since;
            }
            // The sender lives in `self`, so the channel cannot close.
            since.changed().await.expect("the sender is held by self");
        }
    }
}

/// One piece of work in flight; dropping it ends the count.
#[derive(Debug)]
pub struct DrainGuard {
    shared: Arc<Shared>,
}

impl Clone for DrainGuard {
    fn clone(&self) -> Self {
        self.shared.in_flight.fetch_add(1, Ordering::AcqRel);
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl Drop for DrainGuard {
    fn drop(&mut self) {
        if self.shared.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.idle.notify_waiters();
        }
    }
}

/// Exit code when a second signal cuts the drain short: 128 + SIGINT, as shells report it.
pub const EXIT_INTERRUPTED: i32 = 130;

/// Starts the drain on the first SIGTERM or SIGINT and ends the process on the second.
/// Ends only with an error (no handler could be set up), so it is a task of its own and none of a
/// [`Supervisor`](crate::supervise::Supervisor)'s, which waits for all of its tasks.
pub async fn signals(drain: Drain) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        if drain.is_draining() {
            tracing::warn!(signal = name, in_flight = drain.in_flight(), "second signal, exiting now");
            std::process::exit(EXIT_INTERRUPTED);
        }
        tracing::info!(signal = name, grace = ?drain.grace(), "draining");
        drain.start();
    }
}

#[cfg(test)]
mod tests;
