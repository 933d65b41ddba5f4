//! The pod behind every request: `k8s.*` resource attributes from a watch of this node's pods.
//!
//! One watch with the field selector `spec.nodeName` keeps what attributes are made of and nothing
//! else; the rights that it needs and the failures that it survives are those of
//! [`mirador_transport::kubernetes`]. The names of workloads come from the pod's own owner and labels,
//! so no other kind of object is read.
//!
//! # Which pod
//! 1. the pod that steering knows the connection to belong to ([`Caller::pod_uid`]);
//! 2. the pod with the connection's address (pods on the host's network have none of their own);
//! 3. the pod that the resource names in `k8s.pod.uid` or `k8s.pod.ip`.
//!
//! A resource that names another pod than the connection's is never stamped with the connection's: it
//! is another pod's telemetry that is passed on, and gets the attributes of the pod that it names when
//! that runs on this node, and none otherwise. What came through another agent is left as it is.
//!
//! # Invariants
//! - An attribute that is there is never changed. RED and placement see what was added.
//! - At most `max_pods` pods are known; a pod that was deleted is remembered for `pod_delete_grace`, by
//!   its address for some seconds only, so that its last spans find it; an address belongs to the youngest pod that runs with it.
//! - A request waits for a pod only when `wait_for_metadata` says so, and at most once a minute for an
//!   address that stays unknown.

mod associate;
pub mod config;
mod metrics;
mod object;
mod pod;
mod rules;
mod table;
mod wait;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use mirador_otlp::Request;
use mirador_otlp::enrich::{Addition, add_resource_attributes};
use mirador_service::health::{Component, Health};
use mirador_service::metrics::Registry;
use mirador_transport::kubernetes::{Event, Watch, WatchConfig};
use tokio::sync::watch;

pub use self::config::Config;
use self::metrics::Metrics;
use self::object::PodObject;
use self::pod::Pod;
use self::rules::Extract;
use self::table::{Pods, Table};
use self::wait::Unknown;

/// Pods in one answer to a list.
const PAGE_SIZE: u32 = 100;

/// Who sent a request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The pod that owns the socket, when steering told it. It is believed over the address, and when it
    /// is not known yet the address is not tried: a redirected connection has the node's.
    pub pod_uid: Option<Arc<str>>,
    /// The address that the connection came from.
    pub ip: IpAddr,
}

/// Adds what is known about pods; clones share it.
#[derive(Debug, Clone)]
pub struct K8sAttributes {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    table: ArcSwap<Table>,
    /// Counts the tables; ends when the watch does.
    tables: watch::Sender<u64>,
    config: Config,
    unknown: Unknown,
    metrics: Metrics,
}

impl K8sAttributes {
    /// Starts to watch; must be called inside a tokio runtime. The configuration has no
    /// [`Config::problems`].
    ///
    /// The component `k8sattributes` of `health` is ready at once: telemetry flows without attributes
    /// while the API server is away.
    pub fn start(config: &Config, registry: &Registry, health: &Health) -> Self {
        let attributes = Self::new(config, registry);
        let watch = WatchConfig {
            name: "pods".to_owned(),
            api: config.api.clone(),
            labels: String::new(),
            fields: format!("spec.nodeName={}", config.filter.node_name().unwrap_or_default()),
            page_size: PAGE_SIZE,
            timeout: config.timeout,
        };
        // Only the jitter of the waits depends on it.
        let seed = u64::from(std::process::id());
        let watch = Watch::cluster(watch, registry, seed);
        let component = health.component("k8sattributes");
        component.ready(true, "");
        tokio::spawn(follow(watch, attributes.clone(), component));
        attributes
    }

    /// Knows these pods (objects of the API) and watches nothing: for measurements and tests.
    pub fn fixed(config: &Config, registry: &Registry, pods: Vec<serde_json::Value>) -> serde_json::Result<Self> {
        let attributes = Self::new(config, registry);
        let extract = Extract::new(&config.extract);
        let mut known = Pods::new(config.max_pods, config.pod_delete_grace);
        for object in pods {
            let pod = Pod::of(&serde_json::from_value(object)?, &extract, &attributes.shared.metrics);
            known.applied(pod, Instant::now());
        }
        attributes.publish(known.table());
        Ok(attributes)
    }

    fn new(config: &Config, registry: &Registry) -> Self {
        let shared = Shared {
            table: ArcSwap::default(),
            tables: watch::Sender::new(0),
            config: config.clone(),
            unknown: Unknown::default(),
            metrics: Metrics::register(registry),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Adds the attributes of each resource's pod, then `more`, to the resources that lack them.
    pub async fn enrich(&self, request: &Request, caller: &Caller, more: &[Addition]) -> Request {
        if !self.shared.config.wait_for_metadata_timeout.is_zero() && self.shared.config.wait_for_metadata {
            self.shared.wait_for(caller).await;
        }
        let table = self.shared.table.load();
        let known = associate::by_caller(&table, caller);
        add_resource_attributes(request, |resource| {
            let (pod, outcome) = associate::of_resource(&table, caller, known, resource);
            self.shared.metrics.resource(outcome);
            pod.into_iter().flat_map(|(pod, container)| pod.attributes.iter().chain(container)).chain(more)
        })
    }

    fn publish(&self, table: Table) {
        self.shared.metrics.table(&table);
        self.shared.table.store(Arc::new(table));
        self.shared.tables.send_modify(|count| *count += 1);
    }
}

impl Shared {
    /// Waits until the caller's pod is known, for as long as is configured.
    async fn wait_for(&self, caller: &Caller) {
        if associate::by_caller(&self.table.load(), caller).is_some() {
            return;
        }
        if !self.unknown.may_wait(caller, Instant::now()) {
            return;
        }
        let mut tables = self.tables.subscribe();
        let found = tables.wait_for(|_| associate::by_caller(&self.table.load(), caller).is_some());
        let found = tokio::time::timeout(self.config.wait_for_metadata_timeout, found).await.is_ok();
        if !found {
            self.unknown.remember(caller, Instant::now());
        }
        self.metrics.waited(found);
    }
}

async fn follow(mut watch: Watch<PodObject>, attributes: K8sAttributes, component: Component) {
    let config = &attributes.shared.config;
    let metrics = &attributes.shared.metrics;
    let extract = Extract::new(&config.extract);
    let mut pods = Pods::new(config.max_pods, config.pod_delete_grace);
    // The agent's own tasks end with its runtime; there is nothing to hand over.
    loop {
        let event = match pods.wake_at() {
            Some(at) => tokio::time::timeout_at(at.into(), watch.next()).await.ok(),
            None => Some(watch.next().await),
        };
        component.beat();
        let now = Instant::now();
        let listing = matches!(event, Some(Event::Begin | Event::Listed(_)));
        match event {
            Some(Event::Begin) => pods.begin(),
            Some(Event::Listed(object)) => pods.listed(Pod::of(&object, &extract, metrics), now),
            Some(Event::Complete) => pods.complete(now),
            Some(Event::Applied(object)) => pods.applied(Pod::of(&object, &extract, metrics), now),
            Some(Event::Deleted(object)) => pods.deleted(object.uid(), now),
            None => pods.expire(now),
        }
        // What is counted can be found: the numbers follow the table.
        if !listing {
            attributes.publish(pods.table());
            metrics.changes(pods.take_changes());
        }
    }
}

#[cfg(test)]
mod tests;
