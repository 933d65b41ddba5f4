//! Owners from Kubernetes: the endpoints of a service, watched as `EndpointSlices`.
//!
//! The keys are those of the collector's load-balancing exporter (`resolver.k8s`) where they mean the
//! same; readiness, debouncing and the grace of an empty set are ours. What happens when the API server
//! is away, and the rights that the service account needs: [`crate::kubernetes`].
//!
//! Invariants: the owners change only by what the API server says, never by its failure; an owner is
//! known by its hostname, so that a replica that is replaced keeps its part of the ring.

mod slices;

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use mirador_service::duration::GoDuration;
use mirador_service::metrics::{Counter, Gauge, Registry};
use prometheus_client::encoding::EncodeLabelSet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use self::slices::{Rules, Slices, Step, Tally};
use super::{Inner, Roster};
use crate::kubernetes::{ApiConfig, Event, Watch, WatchConfig};

/// Slices in one answer to a list.
const PAGE_SIZE: u32 = 100;

/// Owners from the `EndpointSlices` of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct K8sConfig {
    /// The service: `name` or `name.namespace`. Without a namespace it is looked for in the agent's own.
    pub service: String,
    /// Ports of every owner, by number or by the name that the service gives them; each is a member of
    /// its own, as in the collector. Default none: 4317 is dialled and members carry no port.
    pub ports: Vec<PortRef>,
    /// How long a connect to the API server or its answer to a list may take. Default 5s.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "GoDuration")]
    pub timeout: Duration,
    /// Whether an endpoint with a hostname (those of a `StatefulSet`) is the member
    /// `hostname.service.namespace` instead of its address. It is dialled at its address either way, so
    /// the name needs no DNS. Default true; false places as a collector without `return_hostnames`.
    pub return_hostnames: bool,
    /// Which address of an endpoint with two is dialled. Default `ipv4`.
    pub ip_family: IpFamily,
    /// For how long nothing must change before the owners follow. Default 200ms.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "GoDuration")]
    pub debounce: Duration,
    /// After this long the owners follow although changes go on. Default 2s.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "GoDuration")]
    pub debounce_max: Duration,
    /// For how long the last owners are kept when no endpoint is left. Default 30s; 0s: not at all.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "GoDuration")]
    pub empty_grace: Duration,
    /// How the API server is reached.
    pub api: ApiConfig,
}

impl Default for K8sConfig {
    fn default() -> Self {
        Self {
            service: String::new(),
            ports: Vec::new(),
            timeout: Duration::from_secs(5),
            return_hostnames: true,
            ip_family: IpFamily::default(),
            debounce: Duration::from_millis(200),
            debounce_max: Duration::from_secs(2),
            empty_grace: Duration::from_secs(30),
            api: ApiConfig::default(),
        }
    }
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PortRef {
    /// Its number at the endpoints.
    Number(u16),
    /// Its name in the service.
    Name(String),
}

/// Which address is taken of an endpoint that has two; one that has only the other is taken with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum IpFamily {
    /// The IPv4 address.
    #[default]
    Ipv4,
    /// The IPv6 address.
    Ipv6,
}

impl IpFamily {
    /// The place of a slice's `addressType`, best first.
    fn rank(self, address_type: &str) -> usize {
        match (self, address_type) {
            (Self::Ipv4, "IPv4") | (Self::Ipv6, "IPv6") => 0,
            (_, "IPv4" | "IPv6") => 1,
            _ => 2,
        }
    }
}

impl K8sConfig {
    /// Everything that cannot work; each line names the key below `resolver.k8s`.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut found = self.api.problems();
        let label = |text: &str| {
            let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            (1..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
        };
        let (name, namespace) = self.name_and_namespace();
        if !label(name) || !namespace.is_none_or(label) {
            found.push(format!("service: `{}` is not a service, as in `name` or `name.namespace`", self.service));
        }
        for port in &self.ports {
            let bad = match port {
                PortRef::Number(number) => *number == 0,
                PortRef::Name(name) => name.is_empty(),
            };
            if bad {
                found.push("ports: a port is a number from 1 to 65535 or the name of a port".to_owned());
            }
        }
        if self.timeout.is_zero() {
            found.push("timeout is 0s: it must be longer".to_owned());
        }
        if self.debounce_max < self.debounce {
            found.push(format!(
                "debounce_max is {:?}: it must be at least debounce, {:?}",
                self.debounce_max, self.debounce
            ));
        }
        found
    }

    fn name_and_namespace(&self) -> (&str, Option<&str>) {
        match self.service.split_once('.') {
            Some((name, namespace)) => (name, Some(namespace)),
            None => (&self.service, None),
        }
    }

    fn rules(&self) -> Rules {
        Rules {
            service: self.name_and_namespace().0.to_owned(),
            ports: self.ports.clone(),
            return_hostnames: self.return_hostnames,
            ip_family: self.ip_family,
            debounce: self.debounce,
            debounce_max: self.debounce_max,
            empty_grace: self.empty_grace,
        }
    }

    fn watch(&self, name: String, registry: &Registry, seed: u64) -> Watch<EndpointSlice> {
        let (service, namespace) = self.name_and_namespace();
        let config = WatchConfig {
            name,
            api: self.api.clone(),
            labels: format!("kubernetes.io/service-name={service}"),
            fields: String::new(),
            page_size: PAGE_SIZE,
            timeout: self.timeout,
        };
        Watch::namespaced(config, namespace.map(str::to_owned), registry, seed)
    }
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    destination: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabels {
    destination: &'static str,
    state: &'static str,
}

/// The numbers of one destination's endpoints.
#[derive(Debug)]
struct Metrics {
    holds: Counter,
    states: [Gauge; 5],
}

impl Metrics {
    fn register(registry: &Registry, destination: &'static str) -> Self {
        let holds = registry.counter_family::<Labels>(
            "mirador_sender_empty_endpoints_held",
            "How often the last owners were kept because no endpoint was left.",
        );
        let states = registry.gauge_family::<StateLabels>(
            "mirador_sender_endpoints",
            "Endpoints of the service by state: ready, draining, not_ready, no_port, over_limit.",
        );
        let state = |state| states.get_or_create_owned(&StateLabels { destination, state });
        Self {
            holds: holds.get_or_create_owned(&Labels { destination }),
            states: ["ready", "draining", "not_ready", "no_port", "over_limit"].map(state),
        }
    }

    fn show(&self, tally: Tally) {
        let values = [tally.ready, tally.draining, tally.not_ready, tally.no_port, tally.over_limit];
        for (gauge, value) in self.states.iter().zip(values) {
            gauge.set(value as i64);
        }
    }
}

/// Starts to follow the endpoints, until the destination is dropped.
pub(super) fn start(inner: &Arc<Inner>, config: K8sConfig, registry: &Registry) {
    let metrics = Metrics::register(registry, inner.name);
    let watch = config.watch(format!("endpointslices/{}", inner.name), registry, inner.next_seed());
    tokio::spawn(follow(Arc::downgrade(inner), inner.generation.subscribe(), config, watch, metrics));
}

async fn follow(
    destination: Weak<Inner>,
    mut generations: watch::Receiver<u64>,
    config: K8sConfig,
    mut watch: Watch<EndpointSlice>,
    metrics: Metrics,
) {
    let mut slices = Slices::new(config.rules());
    loop {
        let event = tokio::select! {
            event = watch.next() => Some(event),
            () = at(slices.wake_at()) => None,
            // Ends when the destination does.
            changed = generations.changed() => if changed.is_ok() { continue } else { return },
        };
        let Some(inner) = destination.upgrade() else { return };
        inner.component.beat();
        if let Some(event) = event {
            if event == Event::Complete {
                inner.metrics.resolved.inc();
            }
            slices.apply(event, Instant::now());
        }
        match slices.poll(Instant::now()) {
            Some(Step::Install(members)) => inner.install(members),
            Some(Step::Hold) => {
                metrics.holds.inc();
                inner.metrics.unresolved.inc();
                tracing::warn!(destination = inner.name, service = config.service, grace = ?config.empty_grace,
                    "the service has no endpoint, its last ones are kept for now");
            }
            None => {}
        }
        metrics.show(slices.tally());
    }
}

/// The owners as one list says them: for `explain`.
pub(super) async fn resolve_once(config: &K8sConfig, placement: mirador_ring::Placement) -> Result<Roster, String> {
    let mut watch = config.watch("explain".to_owned(), &Registry::new(), 0);
    let mut slices = Slices::new(config.rules());
    let listed = async {
        loop {
            let event = watch.next().await;
            let complete = event == Event::Complete;
            slices.apply(event, Instant::now());
            if complete {
                return slices.poll(Instant::now());
            }
        }
    };
    match tokio::time::timeout(config.timeout, listed).await {
        Ok(Some(Step::Install(members))) if !members.is_empty() => {
            Ok(Roster::new(placement, members.into_iter().map(|member| member.name)))
        }
        Ok(_) => Err(format!("the service {} has no endpoint that is ready", config.service)),
        Err(_) => {
            Err(format!("the API server did not list the endpoints of {} in {:?}", config.service, config.timeout))
        }
    }
}

async fn at(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}
