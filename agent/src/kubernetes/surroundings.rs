//! Watches of the namespaces' and nodes' metadata, each only when a rule asks for it.
//!
//! Never: reads a spec or a status, which are not even sent; holds anything back but a request that waits
//! for its pod anyway.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::core::{ObjectMeta, PartialObjectMeta, Resource};
use mirador_service::metrics::Registry;
use mirador_transport::kubernetes::{Event, Watch, WatchConfig};
use serde::de::DeserializeOwned;

use super::config::Scope;
use super::metrics::Metrics;
use super::places::{Places, Snapshot};
use super::rules::{Extract, Fields};
use super::{K8sAttributes, Shared};

/// Objects in one answer to a list: their metadata is small.
const PAGE_SIZE: u32 = 500;

/// The part of `max_bytes` that each kind may take.
const SHARE: usize = 8;

/// What is known of the objects of one kind.
#[derive(Debug)]
pub(super) struct Surroundings {
    kind: &'static str,
    known: ArcSwap<Snapshot>,
}

impl Surroundings {
    /// Nothing is known yet; when nothing is `asked` for, that is all there is to know.
    pub(super) fn new(kind: &'static str, asked: bool) -> Self {
        Self { kind, known: ArcSwap::from_pointee(Snapshot::empty(!asked)) }
    }

    pub(super) fn load(&self) -> Guard<Arc<Snapshot>> {
        self.known.load()
    }

    /// Lets requests see what has changed; whether there was anything.
    pub(super) fn show(&self, places: &mut Places, metrics: &Metrics) -> bool {
        metrics.over_limit(places.take_refused());
        let Some(snapshot) = places.take_snapshot() else { return false };
        metrics.labelled(self.kind, &snapshot);
        self.known.store(Arc::new(snapshot));
        true
    }
}

/// Starts the watches that the rules ask for; must be called inside a tokio runtime.
pub(super) fn start(attributes: &K8sAttributes, registry: &Registry, seed: u64) {
    let config = &attributes.shared.config;
    let extract = Extract::new(&config.extract);
    if !extract.namespace.is_empty() {
        let watch =
            Watch::<PartialObjectMeta<Namespace>>::metadata(watch(attributes, "namespaces", ""), registry, seed);
        tokio::spawn(follow(watch, extract.namespace, attributes.clone(), |shared| &shared.namespaces));
    }
    if !extract.node.is_empty() {
        let only = match config.filter.scope() {
            Some(Scope::Node(node)) => format!("metadata.name={node}"),
            _ => String::new(),
        };
        let watch = Watch::<PartialObjectMeta<Node>>::metadata(watch(attributes, "nodes", &only), registry, seed);
        tokio::spawn(follow(watch, extract.node, attributes.clone(), |shared| &shared.nodes));
    }
}

fn watch(attributes: &K8sAttributes, name: &str, fields: &str) -> WatchConfig {
    let config = &attributes.shared.config;
    WatchConfig {
        name: name.to_owned(),
        api: config.api.clone(),
        labels: String::new(),
        fields: fields.to_owned(),
        page_size: PAGE_SIZE,
        timeout: config.timeout,
    }
}

async fn follow<K>(
    mut watch: Watch<PartialObjectMeta<K>>,
    fields: Fields,
    attributes: K8sAttributes,
    of: fn(&Shared) -> &Surroundings,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let shared = &attributes.shared;
    let metrics = &shared.metrics;
    let mut places = Places::new(shared.config.max_bytes / SHARE);
    // The agent's own tasks end with its runtime; there is nothing to hand over.
    loop {
        let event = watch.next().await;
        let listing = matches!(event, Event::Begin | Event::Listed(_));
        match event {
            Event::Begin => places.begin(),
            Event::Complete => places.finish(),
            Event::Deleted(object) => places.remove(object.metadata.name.as_deref().unwrap_or_default()),
            Event::Listed(object) | Event::Applied(object) => {
                let ObjectMeta { name, labels, annotations, .. } = object.metadata;
                let mut found = Vec::new();
                fields.add(labels.iter().flatten(), annotations.iter().flatten(), &mut found, metrics);
                places.put(name.as_deref().unwrap_or_default(), found);
            }
        }
        if !listing && of(shared).show(&mut places, metrics) {
            shared.tables.send_modify(|count| *count += 1);
        }
    }
}
