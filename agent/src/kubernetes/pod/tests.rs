//! Pods as the API gives them, and what becomes of them.

use mirador_service::metrics::Registry;
use serde_json::{Value, json};

use super::super::config::{ExtractConfig, FieldRule};
use super::super::rules::{MAX_ATTRIBUTES, MAX_VALUE};
use super::*;

fn read(object: Value) -> PodObject {
    serde_json::from_value(object).expect("it is a pod")
}

fn object(change: impl FnOnce(&mut Value)) -> PodObject {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "cart-6d4cf56db6-x7k2p", "namespace": "shop", "uid": "0e1c", "resourceVersion": "7",
            "labels": {"pod-template-hash": "6d4cf56db6", "app": "cart", "app.kubernetes.io/version": "1.2"},
            "annotations": {"team": "blue"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "cart-6d4cf56db6",
                "uid": "rs-1", "controller": true}],
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {"f:phase": {}}}}],
        },
        "spec": {"nodeName": "node-1", "containers": [
            {"name": "app", "image": "registry.local:5000/shop/cart:2.0@sha256:abc", "env": [{"name": "A"}]}]},
        "status": {"phase": "Running", "podIP": "10.1.2.3", "podIPs": [{"ip": "10.1.2.3"}, {"ip": "fd00::3"}],
            "startTime": "2026-01-02T03:04:05Z",
            "containerStatuses": [{"name": "app", "containerID": "containerd://c0ffee"}]},
    });
    change(&mut object);
    read(object)
}

fn pod_with(object: &PodObject, config: &ExtractConfig) -> Pod {
    Pod::of(object, &Extract::new(config), &Metrics::register(&Registry::new()))
}

fn pod(change: impl FnOnce(&mut Value)) -> Pod {
    pod_with(&object(change), &ExtractConfig::default())
}

fn every() -> ExtractConfig {
    let all = [
        "k8s.namespace.name",
        "k8s.pod.name",
        "k8s.pod.uid",
        "k8s.pod.ip",
        "k8s.pod.hostname",
        "k8s.pod.start_time",
        "k8s.node.name",
        "k8s.deployment.name",
        "k8s.replicaset.name",
        "k8s.replicaset.uid",
        "k8s.statefulset.name",
        "k8s.statefulset.uid",
        "k8s.daemonset.name",
        "k8s.daemonset.uid",
        "k8s.job.name",
        "k8s.job.uid",
        "k8s.cronjob.name",
        "k8s.container.name",
        "container.id",
        "container.image.name",
        "container.image.tag",
        "service.name",
        "service.namespace",
        "service.version",
        "service.instance.id",
    ];
    serde_json::from_value(json!({"metadata": all})).expect("every name is known")
}

fn texts(additions: &[Addition]) -> Vec<String> {
    additions.iter().map(|addition| format!("{addition:?}")).collect()
}

fn value<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.attributes.iter().find(|addition| addition.key() == key).map(Addition::value)
}

fn owned(kind: &'static str, name: &'static str) -> impl FnOnce(&mut Value) {
    move |object| {
        let owner = &mut object["metadata"]["ownerReferences"][0];
        (owner["kind"], owner["name"]) = (json!(kind), json!(name));
    }
}

#[test]
fn a_deployments_pod_has_the_attributes_that_are_asked_for() {
    let usual = pod(|_| {});
    let expected = [
        "k8s.namespace.name=shop",
        "k8s.pod.name=cart-6d4cf56db6-x7k2p",
        "k8s.pod.uid=0e1c",
        "k8s.node.name=node-1",
        "k8s.deployment.name=cart",
    ];
    assert_eq!(texts(&usual.attributes), expected);
    let container =
        ["k8s.container.name=app", "container.image.name=registry.local:5000/shop/cart", "container.image.tag=2.0"];
    assert_eq!(texts(&usual.containers[0].attributes), container);
    assert_eq!((&*usual.containers[0].id, usual.ips.len()), ("c0ffee", 2));
    let all = pod_with(&object(|_| {}), &every());
    let expected = [
        "k8s.namespace.name=shop",
        "k8s.pod.name=cart-6d4cf56db6-x7k2p",
        "k8s.pod.uid=0e1c",
        "k8s.pod.ip=10.1.2.3",
        "k8s.pod.hostname=cart-6d4cf56db6-x7k2p",
        "k8s.pod.start_time=2026-01-02T03:04:05Z",
        "k8s.node.name=node-1",
        "k8s.replicaset.name=cart-6d4cf56db6",
        "k8s.replicaset.uid=rs-1",
        "k8s.deployment.name=cart",
        "service.name=cart",
        "service.namespace=shop",
        "service.version=1.2",
    ];
    assert_eq!(texts(&all.attributes), expected);
    assert!(
        texts(&all.containers[0].attributes).contains(&"service.instance.id=shop.cart-6d4cf56db6-x7k2p.app".to_owned())
    );
}

#[test]
fn every_workload_gives_its_name() {
    let cases = [
        ("StatefulSet", "db", "k8s.statefulset.name", "db"),
        ("DaemonSet", "log", "k8s.daemonset.name", "log"),
        ("Job", "migrate", "k8s.job.name", "migrate"),
        ("Job", "report-29485690", "k8s.cronjob.name", "report"),
        ("ReplicaSet", "cart-6d4cf56db6", "k8s.deployment.name", "cart"),
    ];
    for (kind, name, key, expected) in cases {
        let pod = pod_with(&object(owned(kind, name)), &every());
        assert_eq!(value(&pod, key), Some(expected), "{kind} {name}");
        assert_eq!(value(&pod, "service.name"), Some(expected), "{kind} {name}");
    }
}

#[test]
fn names_that_are_not_certain_are_left_out() {
    // A replica set of its own: its pods carry no hash, or one that is not in its name.
    let alone = pod(|object| object["metadata"]["labels"] = json!({}));
    assert_eq!(value(&alone, "k8s.deployment.name"), None);
    assert_eq!(value(&pod(owned("ReplicaSet", "cart-7")), "k8s.deployment.name"), None);
    for job in ["migrate-2", "backup-2026-01-02", "-29485690", "29485690"] {
        assert_eq!(value(&pod(owned("Job", job)), "k8s.cronjob.name"), None, "{job}");
    }
    let bare = pod(|object| object["metadata"]["ownerReferences"] = json!(null));
    assert_eq!(bare.attributes.len(), 4);
    let not_controlled = pod(|object| object["metadata"]["ownerReferences"][0]["controller"] = json!(false));
    assert_eq!(value(&not_controlled, "k8s.deployment.name"), None);
}

#[test]
fn addresses_that_are_not_the_pods_own_lead_to_no_pod() {
    assert_eq!(pod(|object| object["spec"]["hostNetwork"] = json!(true)).ips, Vec::<IpAddr>::new());
    assert_eq!(pod(|object| object["status"]["phase"] = json!("Succeeded")).ips, Vec::<IpAddr>::new());
    assert_eq!(pod(|object| object["status"] = json!({"phase": "Pending"})).ips, Vec::<IpAddr>::new());
}

#[test]
fn a_container_is_certain_only_when_there_is_no_other() {
    assert!(pod(|_| {}).only_one);
    let two = pod(|object| object["spec"]["containers"] = json!([{"name": "a"}, {"name": "b", "image": "x"}]));
    assert!(!two.only_one);
    assert_eq!(texts(&two.containers[1].attributes)[1..], ["container.image.name=x", "container.image.tag=latest"]);
    let sidecar = |policy: Value| {
        pod(move |object| object["spec"]["initContainers"] = json!([{"name": "mesh", "restartPolicy": policy}]))
    };
    assert!(!sidecar(json!("Always")).only_one);
    assert!(sidecar(json!(null)).only_one, "an init container has ended");
}

#[test]
fn images_are_taken_apart_as_the_reference_is_written() {
    assert_eq!(image("nginx"), ("nginx", Some("latest")));
    assert_eq!(image("localhost:5000/nginx"), ("localhost:5000/nginx", Some("latest")));
    assert_eq!(image("a.b/c/nginx:1.27"), ("a.b/c/nginx", Some("1.27")));
    assert_eq!(image("nginx@sha256:00"), ("nginx", None));
    assert_eq!(image("h:1/nginx:2@sha256:00"), ("h:1/nginx", Some("2")));
}

#[test]
fn labels_and_annotations_follow_their_rules() {
    let rule = |tag_name: &str, key: &str, key_regex: &str| FieldRule {
        tag_name: tag_name.to_owned(),
        key: key.to_owned(),
        key_regex: key_regex.to_owned(),
        ..FieldRule::default()
    };
    let config = ExtractConfig {
        metadata: Vec::new(),
        labels: vec![
            rule("", "app", ""),
            rule("app.$1", "", "app\\.kubernetes\\.io/(.*)"),
            rule("never", "absent", ""),
        ],
        annotations: vec![rule("team", "team", ""), rule("", "", "tea")],
    };
    let pod = pod_with(&object(|_| {}), &config);
    assert_eq!(texts(&pod.attributes), ["k8s.pod.labels.app=cart", "app.version=1.2", "team=blue"]);
}

#[test]
fn values_beyond_the_bounds_are_left_out_and_counted() {
    let rule = FieldRule { key_regex: ".*".to_owned(), ..FieldRule::default() };
    let config = ExtractConfig { metadata: Vec::new(), labels: vec![rule.clone()], annotations: vec![rule] };
    let many: serde_json::Map<String, Value> = (0..80).map(|number| (format!("l{number}"), json!("v"))).collect();
    let object = object(|object| {
        object["metadata"]["labels"] = Value::Object(many);
        object["metadata"]["annotations"] = json!({"big": "x".repeat(MAX_VALUE + 1)});
    });
    let registry = Registry::new();
    let pod = Pod::of(&object, &Extract::new(&config), &Metrics::register(&registry));
    assert_eq!(pod.attributes.len(), MAX_ATTRIBUTES);
    let page = registry.encode();
    assert!(page.contains("mirador_k8sattributes_skipped_total{reason=\"too_long\"} 1"), "{page}");
    assert!(page.contains("mirador_k8sattributes_skipped_total{reason=\"too_many\"} 16"), "{page}");
}

#[test]
fn a_static_pod_is_known_by_the_uid_of_its_cgroups_too() {
    let pod = pod(|object| object["metadata"]["annotations"] = json!({"kubernetes.io/config.hash": "f00"}));
    assert_eq!(pod.static_uid.as_deref(), Some("f00"));
}
