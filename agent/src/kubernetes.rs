//! The pod behind every request: `k8s.*` resource attributes from a watch of this node's pods, or, in a
//! gateway, of all pods.
//!
//! One watch, on a node with the field selector `spec.nodeName`, keeps what attributes are made of and
//! nothing else; the rights that it needs and the failures that it survives are those of
//! [`mirador_transport::kubernetes`]. The names of workloads come from the pod's own owner and labels, so
//! no other kind of object is read, unless a rule asks for the labels or annotations of namespaces or
//! nodes: then their metadata is watched as well.
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
//! - At most `max_pods` pods are known, in `max_bytes`; a pod that was deleted is remembered for `pod_delete_grace`, by
//!   its address for some seconds only, so that its last spans find it; an address belongs to the youngest pod that runs with it.
//! - A request waits for a pod only when `wait_for_metadata` says so, and at most once a minute for an
//!   address that stays unknown.
//! - Reading the pods takes a tenth of a processor at most, however fast they change: what requests see is
//!   renewed at once after a quiet time, and then as often as that allows.

mod associate;
pub mod config;
mod metrics;
mod object;
mod places;
mod pod;
mod rules;
mod surroundings;
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
use self::config::Scope;
use self::metrics::Metrics;
use self::object::PodObject;
use self::pod::Pod;
use self::rules::Extract;
use self::surroundings::Surroundings;
use self::table::{Pods, Table};
use self::wait::Unknown;

/// Pods in one answer to a list, on a node and in a cluster.
const PAGE_SIZES: [u32; 2] = [100, 500];

/// How many times as long as the making of a snapshot for requests the next one is put off.
const REST: u32 = 9;

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
    namespaces: Surroundings,
    nodes: Surroundings,
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
        // Only the jitter of the waits depends on it.
        let seed = u64::from(std::process::id());
        let watch = Watch::cluster(pods_watch(config), registry, seed);
        let component = health.component("k8sattributes");
        component.ready(true, "");
        tokio::spawn(follow(watch, attributes.clone(), component));
        surroundings::start(&attributes, registry, seed);
        attributes
    }

    /// Knows these pods (objects of the API) and watches nothing: for measurements and tests.
    pub fn fixed(config: &Config, registry: &Registry, pods: Vec<serde_json::Value>) -> serde_json::Result<Self> {
        let attributes = Self::new(config, registry);
        let extract = Extract::new(&config.extract);
        let mut known = Pods::new(config.max_pods, config.max_bytes, config.pod_delete_grace);
        for object in pods {
            let pod = Pod::of(&serde_json::from_value(object)?, &extract, &attributes.shared.metrics);
            known.applied(pod, Instant::now());
        }
        attributes.publish(known.table());
        Ok(attributes)
    }

    fn new(config: &Config, registry: &Registry) -> Self {
        let extract = Extract::new(&config.extract);
        let shared = Shared {
            table: ArcSwap::default(),
            namespaces: Surroundings::new("namespace", !extract.namespace.is_empty()),
            nodes: Surroundings::new("node", !extract.node.is_empty()),
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
        let (namespaces, nodes) = (self.shared.namespaces.load(), self.shared.nodes.load());
        let known = associate::by_caller(&table, caller);
        add_resource_attributes(request, |resource| {
            let origin = associate::of_resource(&table, caller, known, resource);
            self.shared.metrics.resource(origin.outcome);
            let around = namespaces.attributes(origin.namespace()).iter().chain(nodes.attributes(origin.node()));
            let pod = origin.pod.into_iter().flat_map(|pod| &pod.attributes);
            pod.chain(origin.container).chain(around).chain(more)
        })
    }

    fn publish(&self, table: Table) {
        self.shared.metrics.table(&table);
        self.shared.table.store(Arc::new(table));
        self.shared.tables.send_modify(|count| *count += 1);
    }
}

impl Shared {
    /// Whether the caller's pod is known, with everything that it leads to.
    fn knows(&self, caller: &Caller) -> bool {
        let around = self.namespaces.load().complete && self.nodes.load().complete;
        around && associate::by_caller(&self.table.load(), caller).is_some()
    }

    /// Waits until the caller's pod is known, for as long as is configured.
    async fn wait_for(&self, caller: &Caller) {
        if self.knows(caller) {
            return;
        }
        if !self.unknown.may_wait(caller, Instant::now()) {
            return;
        }
        let mut tables = self.tables.subscribe();
        let found = tables.wait_for(|_| self.knows(caller));
        let found = tokio::time::timeout(self.config.wait_for_metadata_timeout, found).await.is_ok();
        if !found {
            self.unknown.remember(caller, Instant::now());
        }
        self.metrics.waited(found);
    }
}

fn pods_watch(config: &Config) -> WatchConfig {
    let [of_node, of_cluster] = PAGE_SIZES;
    let (fields, page_size) = match config.filter.scope() {
        Some(Scope::Node(node)) => (format!("spec.nodeName={node}"), of_node),
        // What has ended sends nothing, and in a cluster there is much of it.
        _ => ("status.phase!=Succeeded,status.phase!=Failed".to_owned(), of_cluster),
    };
    WatchConfig {
        name: "pods".to_owned(),
        api: config.api.clone(),
        labels: String::new(),
        fields,
        page_size,
        timeout: config.timeout,
    }
}

async fn follow(mut watch: Watch<PodObject>, attributes: K8sAttributes, component: Component) {
    let config = &attributes.shared.config;
    let metrics = &attributes.shared.metrics;
    let extract = Extract::new(&config.extract);
    let mut pods = Pods::new(config.max_pods, config.max_bytes, config.pod_delete_grace);
    let (mut is_new, mut renew_at) = (false, Instant::now());
    // The agent's own tasks end with its runtime; there is nothing to hand over.
    loop {
        let wake = pods.wake_at().into_iter().chain(is_new.then_some(renew_at)).min();
        let event = match wake {
            Some(at) => tokio::time::timeout_at(at.into(), watch.next()).await.ok(),
            None => Some(watch.next().await),
        };
        component.beat();
        let now = Instant::now();
        is_new |= !matches!(event, Some(Event::Begin | Event::Listed(_)));
        match event {
            Some(Event::Begin) => pods.begin(),
            Some(Event::Listed(object)) => pods.listed(Pod::of(&object, &extract, metrics), now),
            Some(Event::Complete) => pods.complete(now),
            Some(Event::Applied(object)) => pods.applied(Pod::of(&object, &extract, metrics), now),
            Some(Event::Deleted(object)) => pods.deleted(object.uid(), now),
            None => pods.expire(now),
        }
        if is_new && now >= renew_at {
            attributes.publish(pods.table());
            // What is counted can be found: the numbers follow the table.
            metrics.changes(pods.take_changes());
            is_new = false;
            renew_at = Instant::now() + now.elapsed() * REST;
        }
    }
}

#[cfg(test)]
mod tests;
