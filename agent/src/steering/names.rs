//! What names in rules stand for, as the API server tells it: the cluster addresses of Services, and the
//! labels, annotations and namespaces of this node's pods.
//!
//! Each Service is watched by itself and by its name, so that neither its rights nor what is sent grow with
//! the cluster; of pods only the metadata is sent. A watch that fails leaves what is known as it is.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::core::{ObjectMeta, PartialObjectMeta};
use mirador_service::metrics::Registry;
use mirador_transport::kubernetes::{Event, Watch, WatchConfig};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::config::KubernetesConfig;
use super::rules::ServiceName;
use super::scope::Scope;

/// Objects in one answer to a list.
const PAGE_SIZE: u32 = 100;

/// Starts to fill `scope`, when names are used. What comes back counts the lists that have been read,
/// one for each of [`watches`].
pub(super) fn start(scope: &Arc<Scope>, registry: &Registry, tasks: &mut JoinSet<()>) -> watch::Receiver<usize> {
    let (lists, read) = watch::channel(0);
    let Some(kubernetes) = &scope.config.kubernetes else { return read };
    // Only the jitter of the waits depends on it.
    let seed = u64::from(std::process::id());
    for name in services(scope) {
        let config = config(kubernetes, format!("services/{name}"), format!("metadata.name={}", name.name));
        let watch = Watch::namespaced(config, Some(name.namespace.clone()), registry, seed);
        tasks.spawn(follow_service(watch, name.clone(), Arc::clone(scope), lists.clone()));
    }
    if scope.config.pods.has_names() {
        let fields = format!("spec.nodeName={}", kubernetes.node_name().unwrap_or_default());
        let watch = Watch::metadata(config(kubernetes, "pods/steering".to_owned(), fields), registry, seed);
        tasks.spawn(follow_pods(watch, Arc::clone(scope), lists));
    }
    read
}

fn services(scope: &Scope) -> impl Iterator<Item = &ServiceName> {
    let services = &scope.config.destinations.services;
    services.steer.iter().chain(&services.leave)
}

/// How many watches [`start`] starts.
pub(super) fn watches(scope: &Scope) -> usize {
    services(scope).count() + usize::from(scope.config.pods.has_names())
}

fn config(kubernetes: &KubernetesConfig, name: String, fields: String) -> WatchConfig {
    let (api, timeout): (_, Duration) = (kubernetes.api.clone(), kubernetes.timeout);
    WatchConfig { name, api, labels: String::new(), fields, page_size: PAGE_SIZE, timeout }
}

async fn follow_service(mut watch: Watch<Service>, name: ServiceName, scope: Arc<Scope>, lists: watch::Sender<usize>) {
    let mut listed = Vec::new();
    loop {
        let addresses = match watch.next().await {
            Event::Begin => {
                listed.clear();
                continue;
            }
            Event::Listed(service) => {
                listed = addresses(&service);
                continue;
            }
            Event::Complete => {
                lists.send_modify(|lists| *lists += 1);
                std::mem::take(&mut listed)
            }
            Event::Applied(service) => addresses(&service),
            Event::Deleted(_) => Vec::new(),
        };
        if scope.set_service(&name, addresses.clone()) {
            tracing::info!(service = %name, ?addresses, "a Service that rules name has these addresses");
        }
    }
}

/// The cluster's addresses of a Service; a headless one has none.
fn addresses(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let listed = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let mut found: Vec<IpAddr> = listed.filter_map(|address| address.parse().ok()).collect();
    found.sort_unstable();
    found.dedup();
    found
}

async fn follow_pods(mut watch: Watch<PartialObjectMeta<Pod>>, scope: Arc<Scope>, lists: watch::Sender<usize>) {
    let mut listed: Vec<ObjectMeta> = Vec::new();
    loop {
        match watch.next().await {
            Event::Begin => listed.clear(),
            Event::Listed(pod) => {
                scope.set_pod(&pod.metadata);
                listed.push(ObjectMeta { managed_fields: None, ..pod.metadata });
            }
            Event::Complete => {
                scope.retain_pods(&std::mem::take(&mut listed));
                lists.send_modify(|lists| *lists += 1);
            }
            Event::Applied(pod) => scope.set_pod(&pod.metadata),
            Event::Deleted(pod) => scope.remove_pod(&pod.metadata),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_stands_for_its_cluster_addresses_and_a_headless_one_for_none() {
        let of =
            |spec: serde_json::Value| addresses(&serde_json::from_value(serde_json::json!({"spec": spec})).unwrap());
        let both = serde_json::json!({"clusterIP": "10.0.0.7", "clusterIPs": ["10.0.0.7", "fd00::7"]});
        let expected: Vec<IpAddr> = vec!["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
        assert_eq!(of(both), expected);
        assert_eq!(of(serde_json::json!({"clusterIP": "10.0.0.7"})), expected[..1]);
        assert_eq!(of(serde_json::json!({"clusterIP": "None", "clusterIPs": ["None"]})), Vec::<IpAddr>::new());
    }
}
