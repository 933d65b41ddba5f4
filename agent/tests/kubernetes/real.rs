//! The resolver and the attributes against a real control plane: its TLS, its tokens, its rights, its own
//! `EndpointSlices`. The agent's account has the rights of the table in `mirador_transport::kubernetes`
//! and no others.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use mirador_agent::kubernetes::{self, Caller, K8sAttributes};
use mirador_otlp::{Limits, Request, Signal};
use mirador_service::health::Health;
use mirador_service::metrics::Registry;
use mirador_support::backends::controlplane::ControlPlane;
use mirador_transport::kubernetes::{ApiConfig, AuthType};
use mirador_transport::sender::Destination;
use mirador_transport::sender::config::{Config, K8sConfig, PortRef, ResolverConfig};
use serde_json::{Value, json};

const ACCOUNT: &str = "system:serviceaccount:mirador:agent";

/// Waits for some minutes at most: a control plane takes seconds to act.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3600 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("waited in vain: {what}");
}

/// The account with its rights, a service that routes by hostname, and pods on every node.
fn objects() -> Value {
    let subject = |name: &str| json!([{"kind": "ServiceAccount", "name": name, "namespace": "mirador"}]);
    let reference =
        |kind: &str, name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
    let rule =
        |group: &str, kinds: &[&str]| json!([{"apiGroups": [group], "resources": kinds, "verbs": ["list", "watch"]}]);
    let template = |app: &str| {
        json!({
            "metadata": {"labels": {"app": app}},
            "spec": {"containers": [{"name": "main", "image": "registry.local/shop/app:1"}]},
        })
    };
    // A selector, because the scheduler may know some of the nodes later than others.
    let on_node = |app: &str, node: &str| {
        let mut template = template(app);
        template["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": app, "namespace": "mirador"},
            "spec": {"replicas": 10, "selector": {"matchLabels": {"app": app}}, "template": template}})
    };
    let (rbac, here) = ("rbac.authorization.k8s.io/v1", json!({"name": "agent", "namespace": "mirador"}));
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "mirador", "labels": {"team": "blue"}}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": here},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "gateway", "namespace": "mirador"}},
        {"apiVersion": rbac, "kind": "Role", "metadata": here, "rules": rule("discovery.k8s.io", &["endpointslices"])},
        {"apiVersion": rbac, "kind": "RoleBinding", "metadata": here, "subjects": subject("agent"),
            "roleRef": reference("Role", "agent")},
        {"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": "agent"}, "rules": rule("", &["pods"])},
        {"apiVersion": rbac, "kind": "ClusterRoleBinding", "metadata": {"name": "agent"}, "subjects": subject("agent"),
            "roleRef": reference("ClusterRole", "agent")},
        {"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": "gateway"},
            "rules": rule("", &["pods", "namespaces", "nodes"])},
        {"apiVersion": rbac, "kind": "ClusterRoleBinding", "metadata": {"name": "gateway"}, "subjects": subject("gateway"),
            "roleRef": reference("ClusterRole", "gateway")},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "graph", "namespace": "mirador"},
            "spec": {"clusterIP": "None", "selector": {"app": "graph"}, "ports": [{"name": "otlp-grpc", "port": 4317}]}},
        {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "graph", "namespace": "mirador"},
            "spec": {"serviceName": "graph", "replicas": 3, "podManagementPolicy": "Parallel",
                "selector": {"matchLabels": {"app": "graph"}}, "template": template("graph")}},
        on_node("web", "node-1"), on_node("jobs", "node-2"),
    ]})
}

pub(crate) struct Cluster {
    pub(crate) plane: ControlPlane,
    /// The agent's way in.
    pub(crate) api: ApiConfig,
    /// That of a gateway, which also reads namespaces and nodes.
    gateway: ApiConfig,
    registry: Registry,
    _files: tempfile::TempDir,
}

/// The way to the API server as a service account.
async fn account(plane: &ControlPlane, files: &Path, name: &str) -> ApiConfig {
    let token = plane.kubectl(["create", "token", name, "-n", "mirador"]).await.unwrap();
    let (kubeconfig, token_file) = (files.join(name), files.join(format!("{name}.token")));
    std::fs::write(&token_file, token.trim()).unwrap();
    let mut config: Value = serde_json::from_slice(&std::fs::read(plane.kubeconfig()).unwrap()).unwrap();
    config["users"][0]["user"] = json!({"tokenFile": token_file});
    std::fs::write(&kubeconfig, config.to_string()).unwrap();
    ApiConfig { auth_type: AuthType::KubeConfig, kubeconfig: Some(kubeconfig), context: None }
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let plane = ControlPlane::start(3).await.unwrap();
        plane.kubectl_with(["apply", "-f", "-"], &objects().to_string()).await.unwrap();
        let files = tempfile::tempdir().unwrap();
        let api = account(&plane, files.path(), "agent").await;
        let gateway = account(&plane, files.path(), "gateway").await;
        Self { plane, api, gateway, registry: Registry::new(), _files: files }
    }

    fn destination(&self, name: &'static str, service: &str) -> Destination {
        let k8s = K8sConfig {
            service: service.to_owned(),
            ports: vec![PortRef::Name("otlp-grpc".to_owned())],
            empty_grace: Duration::from_secs(2),
            api: self.api.clone(),
            ..K8sConfig::default()
        };
        let resolver = ResolverConfig { k8s: Some(Box::new(k8s)), ..ResolverConfig::default() };
        let config = Config { resolver, ..Config::default() };
        Destination::start(name, config, &self.registry, &Health::new(), None).unwrap()
    }

    pub(crate) async fn scale(&self, replicas: usize) {
        let replicas = format!("--replicas={replicas}");
        self.plane.kubectl(["scale", "-n", "mirador", "statefulset/graph", &replicas]).await.unwrap();
    }

    fn metric(&self, start: &str) -> u64 {
        let page = self.registry.encode();
        let lines = page.lines().filter(|line| line.starts_with(start));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
    }

    /// Every pod, once those that were scaled away are gone and each has its address.
    async fn settled_pods(&self) -> Vec<Value> {
        for _ in 0..720 {
            let mut pods = self.plane.get(&["pods", "-A"]).await.unwrap();
            let Value::Array(pods) = pods["items"].take() else { panic!("a list has items") };
            let settled =
                |pod: &Value| pod["status"]["podIP"].is_string() && pod["metadata"]["deletionTimestamp"].is_null();
            if pods.len() == 22 && pods.iter().all(settled) {
                return pods;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        panic!("waited in vain: ten pods of each deployment and two of the set");
    }

    async fn pod(&self, name: &str) -> Option<Value> {
        self.plane.get(&["pod", "-n", "mirador", name]).await.ok()
    }

    async fn allowed(&self, verb: &str, what: &str) -> bool {
        let account = format!("--as={ACCOUNT}");
        // It answers `no` with a failure.
        self.plane.kubectl(["auth", "can-i", verb, what, "-n", "mirador", &account]).await.is_ok()
    }
}

async fn owners(destination: &Destination, count: usize) {
    let expected: Vec<String> = (0..count).map(|index| format!("graph-{index}.graph.mirador:4317")).collect();
    let names = || {
        let owners = destination.owners();
        (0..owners.len()).map(|index| owners.name(index).to_owned()).collect::<Vec<_>>()
    };
    until(&format!("there are {count} owners"), || names() == expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_control_plane_is_followed_with_the_documented_rights_and_no_more() {
    let mut cluster = Cluster::start().await;
    let destination = cluster.destination("traces", "graph.mirador");
    owners(&destination, 3).await;
    let elsewhere = cluster.destination("logs", "graph.default");
    let refused = "mirador_kubernetes_watch_errors_total{watch=\"endpointslices/logs\",reason=\"forbidden\"}";
    until("another namespace is refused", || cluster.metric(refused) > 0).await;
    drop(elsewhere);
    for replicas in [5, 2] {
        cluster.scale(replicas).await;
        owners(&destination, replicas).await;
    }
    a_pod_is_replaced(&cluster, &destination).await;
    attributes_are_right(&cluster).await;

    cluster.plane.apiserver().kill().await.unwrap();
    let failing = "mirador_kubernetes_watch_errors_total{watch=\"endpointslices/traces\"";
    until("the watch fails", || cluster.metric(failing) > 0).await;
    owners(&destination, 2).await;
    cluster.plane.restart_apiserver().await.unwrap();
    cluster.scale(4).await;
    owners(&destination, 4).await;
    until("the watch works", || {
        cluster.metric("mirador_kubernetes_watch_stale_seconds{watch=\"endpointslices/traces\"}") == 0
    })
    .await;
    cluster.scale(0).await;
    until("the empty set is held", || cluster.metric("mirador_sender_empty_endpoints_held_total") > 0).await;
    owners(&destination, 0).await;
    cluster.scale(3).await;
    owners(&destination, 3).await;

    for (verb, what) in [("list", "endpointslices"), ("watch", "endpointslices"), ("list", "pods"), ("watch", "pods")] {
        assert!(cluster.allowed(verb, what).await, "{verb} {what} is needed");
    }
    for (verb, what) in [("get", "pods"), ("get", "endpointslices"), ("list", "secrets"), ("list", "nodes")] {
        assert!(!cluster.allowed(verb, what).await, "{verb} {what} is not needed");
    }
}

/// A pod that is replaced comes back under its name, most often at another address.
async fn a_pod_is_replaced(cluster: &Cluster, destination: &Destination) {
    let updates = || cluster.metric("otelcol_loadbalancer_num_backend_updates_total");
    let (seen, before) = (updates(), cluster.pod("graph-0").await.unwrap());
    cluster.plane.kubectl(["delete", "pod", "-n", "mirador", "graph-0"]).await.unwrap();
    let mut after = Value::Null;
    for _ in 0..720 {
        after = cluster.pod("graph-0").await.unwrap_or_default();
        if after["status"]["podIP"].is_string() && after["metadata"]["uid"] != before["metadata"]["uid"] {
            break;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert_ne!(after["metadata"]["uid"], before["metadata"]["uid"], "the pod came back");
    // With the address of the old one it is the same owner to those who send, and nothing has to be told.
    if after["status"]["podIP"] != before["status"]["podIP"] {
        until("the owner was replaced", || updates() > seen).await;
    }
    owners(destination, 2).await;
}

/// Every pod of one node has its own attributes, and pods of other nodes are not known; a gateway knows all, and what
/// their namespaces and nodes are called by.
async fn attributes_are_right(cluster: &Cluster) {
    for deployment in ["deployment/web", "deployment/jobs"] {
        cluster.plane.kubectl(["rollout", "status", "-n", "mirador", deployment, "--timeout=180s"]).await.unwrap();
    }
    let mut config = kubernetes::Config { api: cluster.api.clone(), ..kubernetes::Config::default() };
    config.filter.node = Some("node-1".to_owned());
    config.pod_delete_grace = Duration::ZERO;
    let agent = K8sAttributes::start(&config, &Registry::new(), &Health::new());
    let extract = json!({"metadata": ["k8s.pod.uid"], "labels": [{"tag_name": "team", "key": "team", "from": "namespace"},
        {"tag_name": "zone", "key": "topology.kubernetes.io/zone", "from": "node"}]});
    config.extract = serde_json::from_value(extract).unwrap();
    (config.api, config.filter.node) = (cluster.gateway.clone(), Some(String::new()));
    let gateway = K8sAttributes::start(&config, &cluster.registry, &Health::new());
    let pods = cluster.settled_pods().await;
    let here = pods.iter().filter(|pod| pod["spec"]["nodeName"] == "node-1").count();
    assert!((10..=12).contains(&here), "{here} pods: those of web, and of graph as the scheduler likes");
    for pod in &pods {
        let uid = pod["metadata"]["uid"].as_str();
        let ip = pod["status"]["podIP"].as_str().unwrap();
        let zone = pod["spec"]["nodeName"].as_str().unwrap().replace("node", "zone");
        let found = known(&gateway, ip, uid).await;
        assert_eq!((found["team"].as_str(), &found["zone"]), ("blue", &zone));
        if pod["spec"]["nodeName"] == "node-1" {
            let found = known(&agent, ip, uid).await;
            let value = |key: &str| found.get(key).map(String::as_str);
            assert_eq!(value("k8s.pod.name"), pod["metadata"]["name"].as_str());
            let is_web = pod["metadata"]["labels"]["app"] == "web";
            assert_eq!(value("k8s.deployment.name"), is_web.then_some("web"));
            assert_eq!(value("k8s.statefulset.name"), (!is_web).then_some("graph"));
            assert_eq!(value("container.image.name"), Some("registry.local/shop/app"));
        }
    }
    for pod in pods.iter().filter(|pod| pod["spec"]["nodeName"] != "node-1") {
        let found = stamped(&agent, pod["status"]["podIP"].as_str().unwrap()).await;
        assert!(!found.contains_key("k8s.pod.name"), "{found:?}");
    }
    let (known, bytes) =
        (cluster.metric("mirador_k8sattributes_pods"), cluster.metric("mirador_k8sattributes_table_bytes"));
    assert!(known >= pods.len() as u64 && bytes / known < 4096, "{bytes} bytes for {known} pods");
    assert!(cluster.metric("mirador_k8sattributes_labelled_bytes") > 0, "it is reported");
}

/// What is added to what comes from an address.
async fn stamped(attributes: &K8sAttributes, ip: &str) -> BTreeMap<String, String> {
    let request = Request::parse(Signal::Traces, super::spans("s", 1), &Limits::default()).unwrap();
    let caller = Caller { pod_uid: None, ip: ip.parse().unwrap() };
    let enriched = attributes.enrich(&request, &caller, &[]).await;
    let resource = enriched.resource_spans().next().unwrap().resource();
    resource.attributes().iter().map(|entry| (entry.key.to_owned(), entry.value.to_string())).collect()
}

/// The same, once the pod with this UID is the one that is known there, with everything that it leads to.
async fn known(attributes: &K8sAttributes, ip: &str, uid: Option<&str>) -> BTreeMap<String, String> {
    for _ in 0..3600 {
        let found = stamped(attributes, ip).await;
        let names = found.contains_key("k8s.pod.name") || (found.contains_key("team") && found.contains_key("zone"));
        if names && found.get("k8s.pod.uid").map(String::as_str) == uid {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("waited in vain: the pod {uid:?} at {ip}");
}
