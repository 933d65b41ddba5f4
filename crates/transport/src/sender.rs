//! OTLP out: parts of a request to the owners of a ring, side by side, each acknowledged.
//!
//! A [`Destination`] knows its owners (a fixed list, DNS or a Kubernetes service), keeps one HTTP/2 connection to each, bounds
//! what is in flight to each, and tells whether an owner is up. [`Owners::place`] cuts a request into
//! parts; [`Destination::send`] delivers them.
//!
//! Guarantees:
//! - A request is refused as a whole, with a retry hint, before any part is sent when an owner that it
//!   needs is down, asked to be left alone, or full.
//! - Parts go out side by side; a slow owner delays only the answer, not the other owners' delivery.
//! - A part is tried again with back-off inside the request's deadline; when its owner leaves, it is
//!   placed again on the new ring.
//! - Parts that were delivered although the request failed as a whole are remembered for a short while,
//!   so that the client's byte-identical repetition delivers each part once. After an unclear answer
//!   (the connection broke, time ran out) a part may be stored twice; it is never lost.
//! - Dropping the future of [`Destination::send`] cancels what is in flight (the HTTP/2 streams are
//!   reset) and remembers what was delivered. A caller that wants the request settled although its
//!   client has gone keeps polling the future elsewhere; the agent does.
//!
//! Never: decodes an item, sends to an owner that left, answers before every part is settled. A part of
//! a destination with one owner is the very buffer that was received.

mod answer;
pub mod config;
mod delivery;
mod frame;
mod gather;
mod k8s;
mod link;
mod metrics;
mod outage;
mod owner;
mod placement;
mod remember;
mod resolver;
mod roster;
mod status;

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::uri::Authority;
use mirador_ring::Placement;
use mirador_service::backoff::RetryConfig;
use mirador_service::health::{Component, Health};
use mirador_service::metrics::Registry;
use mirador_service::tls::Connector;
use tokio::sync::watch;
use tokio::time::Instant;

pub use self::config::Config;
use self::config::{DnsConfig, ResolverConfig};
use self::metrics::{DestinationMetrics, Metrics};
use self::owner::Owner;
pub use self::placement::Placed;
pub use self::remember::Remembered;
pub use self::resolver::Member;
use self::resolver::{Answer, Membership};
pub use self::roster::{Roster, resolve_once};
use crate::Refusal;

/// Parts of failed requests that are remembered at most, and for how long. A client gives up within
/// minutes (the OTLP SDKs after 10 s, the collector after 5 min by default).
const REMEMBERED_PARTS: usize = 16_384;
const REMEMBERED_FOR: Duration = Duration::from_secs(300);

/// The ring has no member: the resolver has found none yet, or all have left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no owner is known yet for this destination")]
pub struct NoOwner;

impl From<NoOwner> for Refusal {
    fn from(error: NoOwner) -> Self {
        Self {
            code: tonic::Code::Unavailable,
            message: error.to_string(),
            retry_after: Some(Duration::from_secs(1)),
            reason: "no_owner",
        }
    }
}

/// A configuration that cannot work; every problem, one a line.
#[derive(Debug, thiserror::Error)]
#[error("exporters.{name}: {}", problems.join("; "))]
pub struct InvalidConfig {
    /// The destination.
    pub name: &'static str,
    /// What is wrong and what would be right.
    pub problems: Vec<String>,
}

/// Where one kind of data goes.
#[derive(Debug, Clone)]
pub struct Destination {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: &'static str,
    config: Config,
    dial: link::Dial,
    waits: RetryConfig,
    agent_id: Option<String>,
    metrics: DestinationMetrics,
    set: ArcSwap<OwnerSet>,
    generation: watch::Sender<u64>,
    /// Held while the set is replaced.
    installing: Mutex<()>,
    delivered: Remembered,
    seed: AtomicU64,
    component: Component,
}

#[derive(Debug)]
struct OwnerSet {
    roster: Roster,
    /// In the order of the roster.
    members: Vec<Arc<Owner>>,
    generation: u64,
}

/// A snapshot of the owners; what it says stays true for one request.
#[derive(Debug, Clone)]
pub struct Owners {
    set: Arc<OwnerSet>,
}

impl Owners {
    /// The owner of a key: an index for [`Owners::name`] and [`mirador_otlp::splice::Part::owner`].
    pub fn owner(&self, key: &[u8]) -> Result<usize, NoOwner> {
        self.set.roster.owner(key)
    }

    /// How many owners there are.
    pub fn len(&self) -> usize {
        self.set.members.len()
    }

    /// True when nobody can take anything.
    pub fn is_empty(&self) -> bool {
        self.set.members.is_empty()
    }

    /// The ring member at an index: what the resolver returned.
    pub fn name(&self, index: usize) -> &str {
        self.set.members.get(index).map_or("", |owner| owner.name())
    }

    /// The index of a member.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.set.members.iter().position(|owner| owner.name() == name)
    }

    /// How keys are placed.
    pub fn placement(&self) -> Placement {
        self.set.roster.placement()
    }

    /// Grows with every change of the set.
    pub fn generation(&self) -> u64 {
        self.set.generation
    }
}

impl Destination {
    /// Starts resolving and connecting; must be called inside a tokio runtime.
    ///
    /// `name` is the key under `exporters` and the label of its metrics, `agent_id` the value of
    /// [`crate::AGENT_HEADER`]. The component `exporter/<name>` of `health` is ready once an owner is known; the process is ready without it.
    pub fn start(
        name: &'static str,
        config: Config,
        registry: &Registry,
        health: &Health,
        agent_id: Option<String>,
    ) -> Result<Self, InvalidConfig> {
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(InvalidConfig { name, problems });
        }
        let tls = config.encryption().map(|tls| Connector::new(tls.clone()).map(Arc::new)).transpose();
        let tls = tls.map_err(|error| InvalidConfig { name, problems: vec![format!("tls.{error}")] })?;
        let dial = link::Dial { destination: name, connection: config.connection.clone(), tls };
        let resolver = config.resolver.clone();
        let destination = Self {
            inner: Arc::new(Inner {
                name,
                metrics: Metrics::register(registry).destination(name, resolver.name()),
                set: ArcSwap::from_pointee(OwnerSet {
                    roster: Roster::new(config.placement, []),
                    members: Vec::new(),
                    generation: 0,
                }),
                generation: watch::Sender::new(0),
                installing: Mutex::new(()),
                delivered: Remembered::new(REMEMBERED_PARTS, REMEMBERED_FOR),
                // Jitter must differ between the nodes of a cluster; nothing else depends on it.
                seed: AtomicU64::new(RandomState::new().hash_one(name)),
                component: health.remote(format!("exporter/{name}")),
                waits: config.retry_on_failure.waits(),
                config,
                dial,
                agent_id,
            }),
        };
        destination.inner.component.ready(false, "no owner is known yet");
        destination.resolve(resolver, registry);
        Ok(destination)
    }

    fn resolve(&self, resolver: ResolverConfig, registry: &Registry) {
        if let Some(fixed) = resolver.fixed {
            self.inner.metrics.resolved.inc();
            self.set_owners(fixed.hostnames);
        } else if let Some(dns) = resolver.dns {
            tokio::spawn(watch_dns(Arc::downgrade(&self.inner), dns));
        } else if let Some(k8s) = resolver.k8s {
            k8s::start(&self.inner, *k8s, registry);
        }
    }

    /// The owners as they are now.
    pub fn owners(&self) -> Owners {
        Owners { set: self.inner.set.load_full() }
    }

    /// Replaces the owners: for a resolver outside this crate (Kubernetes `EndpointSlices`) and for tests.
    ///
    /// Connections to owners that stay are kept; what waits for an owner that left is placed again.
    pub fn set_owners(&self, members: Vec<String>) {
        self.inner.install(members.into_iter().map(Member::from).collect());
    }

    /// As [`Destination::set_owners`], with addresses that differ from the names.
    ///
    /// The connection to a member whose address changed is replaced; what waited for it is sent to the
    /// new address.
    pub fn set_members(&self, members: Vec<Member>) {
        self.inner.install(members);
    }

    /// Waits until the set of owners differs from a snapshot's.
    pub async fn changed(&self, since: &Owners) {
        let mut watch = self.inner.generation.subscribe();
        // The sender lives in `self`, so the watch cannot end.
        drop(watch.wait_for(|generation| *generation != since.generation()).await);
    }

    /// How long a request that begins now may be held open (`retry_on_failure.max_elapsed_time`).
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.inner.config.retry_on_failure.max_elapsed_time
    }

    /// Whether the connection to an owner is open.
    pub fn is_up(&self, owners: &Owners, index: usize) -> bool {
        owners.set.members.get(index).is_some_and(|owner| owner.is_up())
    }

    /// The name it was started with.
    pub fn name(&self) -> &'static str {
        self.inner.name
    }
}

impl Inner {
    fn install(&self, members: Vec<Member>) {
        let _guard = self.installing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.set.load_full();
        let mut kept: HashMap<&str, &Arc<Owner>> = before.members.iter().map(|owner| (owner.name(), owner)).collect();
        let mut authorities = HashMap::with_capacity(members.len());
        for Member { name, address } in members {
            if let Some(authority) = resolver::authority(&address) {
                authorities.insert(name, authority);
            } else {
                tracing::warn!(destination = self.name, owner = %name, %address,
                    "not host or host:port, left out of the ring");
            }
        }
        let roster = Roster::new(self.config.placement, authorities.keys().cloned());
        let mut succeeded = Vec::new();
        let owners: Vec<Arc<Owner>> = roster
            .members()
            .iter()
            .filter_map(|name| {
                let authority = authorities.get(name)?;
                match kept.remove(name.as_str()) {
                    Some(owner) if owner.authority() == authority => return Some(Arc::clone(owner)),
                    Some(moved) => succeeded.push(moved),
                    None => {}
                }
                Some(self.start_owner(name, authority))
            })
            .collect();
        let generation = before.generation + 1;
        self.metrics.backends.set(owners.len() as i64);
        self.metrics.backend_updates.inc();
        let capacity = self.config.sending_queue.queue_size_requests.saturating_mul(owners.len() as u64);
        self.metrics.queue_capacity.set(i64::try_from(capacity).unwrap_or(i64::MAX));
        self.component.ready(!owners.is_empty(), "no owner is known");
        tracing::info!(destination = self.name, owners = ?roster.members(), generation, "owners changed");
        self.set.store(Arc::new(OwnerSet { roster, members: owners, generation }));
        // After the new set is visible, so that what is placed again finds it.
        for owner in kept.into_values() {
            owner.leave();
        }
        for owner in succeeded {
            owner.leave_to_successor();
        }
        self.generation.send_replace(generation);
    }

    fn start_owner(&self, name: &str, authority: &Authority) -> Arc<Owner> {
        let owner = Arc::new(Owner::new(
            name.to_owned(),
            authority.clone(),
            &self.config,
            self.agent_id.as_deref(),
            self.metrics.owner(name),
        ));
        tokio::spawn(link::keep(Arc::clone(&owner), self.dial.clone(), self.next_seed()));
        owner
    }

    fn next_seed(&self) -> u64 {
        self.seed.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The connections' tasks end when their owner has left.
        for owner in &self.set.load().members {
            owner.leave();
        }
    }
}

async fn watch_dns(destination: Weak<Inner>, config: DnsConfig) {
    let mut membership = Membership::default();
    loop {
        let answer = resolver::lookup(&config).await;
        let Some(inner) = destination.upgrade() else {
            return;
        };
        match &answer {
            Answer::Members(_) => inner.metrics.resolved.inc(),
            Answer::Empty => {
                tracing::warn!(destination = inner.name, hostname = %config.hostname, "DNS knows no owner");
                inner.metrics.unresolved.inc()
            }
            Answer::Failed(why) => {
                tracing::warn!(destination = inner.name, hostname = %config.hostname, %why, "DNS look-up failed");
                inner.metrics.unresolved.inc()
            }
        };
        inner.component.beat();
        if let Some(members) = membership.apply(answer) {
            inner.install(members.iter().cloned().map(Member::from).collect());
        }
        drop(inner);
        tokio::time::sleep(config.interval).await;
    }
}
