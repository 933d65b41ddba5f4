//! What the process says about itself: who is alive, who is ready, and why not.
//!
//! A worker registers with a maximum age of its heartbeat; when a beat is older, or the worker's
//! handle is dropped without [`Component::finish`] (a panic, an early return), liveness fails and
//! names it. A process whose worker died never reports healthy. Readiness needs every component
//! of its own ready and no drain. What lies behind a connection ([`Health::remote`]) is shown and not
//! counted: a backend that is down must not take the processes in front of it out of service, all at once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// The health of the whole process; clones share it.
#[derive(Debug, Clone)]
pub struct Health {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    started: Instant,
    started_unix: SystemTime,
    components: Mutex<BTreeMap<String, Arc<State>>>,
}

#[derive(Debug)]
struct State {
    max_age: Option<Duration>,
    is_remote: bool,
    /// Milliseconds since `Shared::started` of the last beat.
    beat: AtomicU64,
    status: Mutex<Status>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Status {
    ready: bool,
    reason: String,
    ended: Option<Ended>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Ended {
    /// It said that it is done.
    Finished,
    /// It went away without a word, or said that it failed.
    Died(String),
}

/// One component as /healthz shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComponentReport {
    /// Its name.
    pub name: String,
    /// Whether its heartbeat is young enough and it has not died.
    pub live: bool,
    /// Whether it can do its work.
    pub ready: bool,
    /// Whether it lies behind a connection: the process is ready without it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub remote: bool,
    /// Why it is not live or not ready; empty otherwise.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Seconds since the last heartbeat, for components that have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat_age_seconds: Option<u64>,
}

/// The whole process at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// No component is dead or stuck.
    pub live: bool,
    /// Every component of the process itself is ready.
    pub ready: bool,
    /// All components, by name.
    pub components: Vec<ComponentReport>,
}

impl Report {
    /// `name: reason` of every component that is not live.
    pub fn dead(&self) -> Vec<String> {
        self.reasons(|component| !component.live)
    }

    /// `name: reason` of every component whose absence makes the process unready.
    pub fn unready(&self) -> Vec<String> {
        self.reasons(|component| !component.is_enough())
    }

    fn reasons(&self, wanted: impl Fn(&ComponentReport) -> bool) -> Vec<String> {
        let wanted = self.components.iter().filter(|component| wanted(component));
        wanted.map(|component| format!("{}: {}", component.name, component.reason)).collect()
    }
}

impl ComponentReport {
    /// Whether the process can be ready with it as it is.
    fn is_enough(&self) -> bool {
        self.live && (self.ready || self.remote)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The guarded values are replaced as a whole, so a poisoned lock still holds a whole value.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// A process that starts now, without components.
    pub fn new() -> Self {
        let shared = Shared {
            started: Instant::now(),
            started_unix: SystemTime::now(),
            components: Mutex::new(BTreeMap::new()),
        };
        Self { shared: Arc::new(shared) }
    }

    /// A component that has readiness only: a listener, a connection. Not ready until it says so.
    pub fn component(&self, name: impl Into<String>) -> Component {
        self.register(&name.into(), None, false)
    }

    /// What lies behind a connection: shown with its reason, not counted for readiness.
    pub fn remote(&self, name: impl Into<String>) -> Component {
        self.register(&name.into(), None, true)
    }

    /// A worker with a heartbeat: liveness fails when it is older than `max_age`, or when the
    /// handle (all clones) goes away without [`Component::finish`]. The first beat is now.
    pub fn worker(&self, name: impl Into<String>, max_age: Duration) -> Component {
        self.register(&name.into(), Some(max_age), false)
    }

    /// A name that is taken gets a number: two workers never share one state.
    fn register(&self, name: &str, max_age: Option<Duration>, is_remote: bool) -> Component {
        let state = Arc::new(State {
            max_age,
            is_remote,
            beat: AtomicU64::new(self.now_millis()),
            status: Mutex::new(Status { ready: false, reason: "starting".to_owned(), ended: None }),
        });
        let mut components = lock(&self.shared.components);
        let mut unique = name.to_owned();
        let mut number = 2;
        while components.get(&unique).is_some_and(|taken| lock(&taken.status).ended != Some(Ended::Finished)) {
            unique = format!("{name}-{number}");
            number += 1;
        }
        components.insert(unique.clone(), Arc::clone(&state));
        let handle = Handle { name: unique, state, shared: Arc::clone(&self.shared) };
        Component { handle: Arc::new(handle) }
    }

    /// When the process started, in Unix time.
    pub fn up_since(&self) -> SystemTime {
        self.shared.started_unix
    }

    /// When the process started, in Unix nanoseconds.
    pub fn up_since_unix_nano(&self) -> u64 {
        self.shared.started_unix.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
    }

    /// How long the process has been up.
    pub fn uptime(&self) -> Duration {
        self.shared.started.elapsed()
    }

    /// All components now.
    pub fn report(&self) -> Report {
        self.report_at(Instant::now())
    }

    /// As [`Health::report`], at a given instant.
    pub fn report_at(&self, now: Instant) -> Report {
        let now = now.saturating_duration_since(self.shared.started).as_millis() as u64;
        let components: Vec<_> =
            lock(&self.shared.components).iter().filter_map(|(name, state)| state.report(name, now)).collect();
        Report {
            live: components.iter().all(|component| component.live),
            ready: components.iter().all(ComponentReport::is_enough),
            components,
        }
    }

    fn now_millis(&self) -> u64 {
        self.shared.started.elapsed().as_millis() as u64
    }
}

impl State {
    fn report(&self, name: &str, now: u64) -> Option<ComponentReport> {
        let status = lock(&self.status).clone();
        let age = now.saturating_sub(self.beat.load(Ordering::Acquire));
        let mut report = ComponentReport {
            name: name.to_owned(),
            live: true,
            ready: status.ready,
            remote: self.is_remote,
            reason: status.reason,
            heartbeat_age_seconds: self.max_age.map(|_| age / 1_000),
        };
        match status.ended {
            Some(Ended::Finished) => return None,
            Some(Ended::Died(reason)) => {
                report.live = false;
                report.ready = false;
                report.reason = reason;
            }
            None => {}
        }
        if let Some(max_age) = self.max_age
            && report.live
            && u128::from(age) > max_age.as_millis()
        {
            report.live = false;
            report.ready = false;
            report.reason = format!("no heartbeat for {}s, expected one every {}s", age / 1_000, max_age.as_secs_f64());
        }
        Some(report)
    }
}

/// A component's handle; clones speak for the same component.
#[derive(Debug, Clone)]
pub struct Component {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    name: String,
    state: Arc<State>,
    shared: Arc<Shared>,
}

impl Component {
    /// The name under which it is reported.
    pub fn name(&self) -> &str {
        &self.handle.name
    }

    /// Says that the worker is alive and doing its rounds. One atomic store.
    pub fn beat(&self) {
        let now = self.handle.shared.started.elapsed().as_millis() as u64;
        self.handle.state.beat.store(now, Ordering::Release);
    }

    /// Sets readiness; `reason` says why not, and is dropped when ready.
    pub fn ready(&self, ready: bool, reason: &str) {
        let mut status = lock(&self.handle.state.status);
        status.ready = ready;
        status.reason = if ready { String::new() } else { reason.to_owned() };
    }

    /// The component is done, as planned: it leaves the report.
    pub fn finish(&self) {
        lock(&self.handle.state.status).ended.get_or_insert(Ended::Finished);
    }

    /// The component failed for good: liveness fails with `reason`, which nothing takes back.
    pub fn fail(&self, reason: &str) {
        lock(&self.handle.state.status).ended = Some(Ended::Died(reason.to_owned()));
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.state.max_age.is_some() {
            lock(&self.state.status).ended.get_or_insert_with(|| Ended::Died("the worker ended".to_owned()));
        }
    }
}

#[cfg(test)]
mod tests;
