//! Enrichment of requests against a known table; the watch itself is tested in `agent/tests`.

use std::time::Duration;

use mirador_otlp::{Limits, Signal};
use mirador_proto::otlp::collector::trace::v1::ExportTraceServiceRequest;
use mirador_proto::otlp::common::v1::{AnyValue, KeyValue, any_value};
use mirador_proto::otlp::resource::v1::Resource;
use mirador_proto::otlp::trace::v1::ResourceSpans;
use prost::Message as _;
use serde_json::{Value, json};

use super::*;

fn object(name: &str, ip: &str, containers: &Value) -> PodObject {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}")},
        "spec": {"nodeName": "node-1", "containers": containers},
        "status": {"phase": "Running", "podIP": ip},
    }))
    .expect("it is a pod")
}

struct Rig {
    attributes: K8sAttributes,
    registry: Registry,
}

/// Knows `cart` (one container) at 10.0.0.1 and `pay` (two) at 10.0.0.2.
fn rig(config: &Config) -> Rig {
    let registry = Registry::new();
    let attributes = K8sAttributes::new(config, &registry);
    let rig = Rig { attributes, registry };
    rig.publish(&[
        object("cart", "10.0.0.1", &json!([{"name": "app", "image": "cart:1"}])),
        object("pay", "10.0.0.2", &json!([{"name": "app", "image": "pay:1"}, {"name": "mesh", "image": "mesh:2"}])),
    ]);
    rig
}

impl Rig {
    fn publish(&self, objects: &[PodObject]) {
        let shared = &self.attributes.shared;
        let extract = Extract::new(&shared.config.extract);
        let mut pods = Pods::new(100, usize::MAX, Duration::from_secs(1));
        for object in objects {
            pods.applied(Pod::of(object, &extract, &shared.metrics), Instant::now());
        }
        self.attributes.publish(pods.table());
    }

    fn metric(&self, start: &str) -> u64 {
        let page = self.registry.encode();
        let lines = page.lines().filter(|line| line.starts_with(start));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// `key=value` of the resource of a request with these attributes.
    async fn enriched(&self, caller: &Caller, attributes: &[(&str, &str)]) -> Vec<String> {
        let request = request(attributes);
        let enriched = self.attributes.enrich(&request, caller, &[Addition::string("host.name", "node-1")]).await;
        let entry = enriched.resource_spans().next().expect("there is one entry");
        entry.resource().attributes().iter().map(|attribute| format!("{}={}", attribute.key, attribute.value)).collect()
    }

    async fn pod_name(&self, caller: &Caller, attributes: &[(&str, &str)]) -> Option<String> {
        let enriched = self.enriched(caller, attributes).await;
        let mut names = enriched.iter().filter_map(|attribute| attribute.strip_prefix("k8s.pod.name="));
        let name = names.next().map(str::to_owned);
        assert_eq!(names.next(), None, "never two");
        name
    }
}

fn request(attributes: &[(&str, &str)]) -> Request {
    let attribute = |(key, value): &(&str, &str)| KeyValue {
        key: (*key).to_owned(),
        value: Some(AnyValue { value: Some(any_value::Value::StringValue((*value).to_owned())) }),
        ..KeyValue::default()
    };
    let resource = Resource { attributes: attributes.iter().map(attribute).collect(), ..Resource::default() };
    let entry = ResourceSpans { resource: Some(resource), ..ResourceSpans::default() };
    let body = ExportTraceServiceRequest { resource_spans: vec![entry] }.encode_to_vec();
    Request::parse(Signal::Traces, body.into(), &Limits::default()).expect("prost wrote it")
}

fn at(ip: &str) -> Caller {
    Caller { pod_uid: None, ip: ip.parse().expect("it is an address") }
}

fn steered(uid: &str, ip: &str) -> Caller {
    Caller { pod_uid: Some(uid.into()), ..at(ip) }
}

#[tokio::test]
async fn a_connection_leads_to_its_pod_and_what_is_there_stays() {
    let rig = rig(&Config::default());
    let got = rig.enriched(&at("10.0.0.1"), &[("service.name", "mine"), ("k8s.namespace.name", "said")]).await;
    let expected = [
        "service.name=mine",
        "k8s.namespace.name=said",
        "k8s.pod.name=cart",
        "k8s.pod.uid=uid-cart",
        "k8s.node.name=node-1",
        "k8s.container.name=app",
        "container.image.name=cart",
        "container.image.tag=1",
        "host.name=node-1",
    ];
    assert_eq!(got, expected);
    assert_eq!(rig.enriched(&at("::ffff:10.0.0.1"), &[]).await.len(), 8, "the same address on a dual-stack socket");
    assert_eq!(rig.enriched(&at("10.0.0.9"), &[]).await, ["host.name=node-1"]);
    assert_eq!(rig.metric("mirador_k8sattributes_resources_total{outcome=\"connection\"}"), 2);
    assert_eq!(rig.metric("mirador_k8sattributes_resources_total{outcome=\"unknown\"}"), 1);
}

#[tokio::test]
async fn steering_is_believed_over_the_address() {
    let rig = rig(&Config::default());
    assert_eq!(rig.pod_name(&steered("uid-pay", "10.0.0.1"), &[]).await.as_deref(), Some("pay"));
    assert_eq!(rig.pod_name(&steered("uid-new", "10.0.0.1"), &[]).await, None, "not the address of another");
}

#[tokio::test]
async fn a_resource_of_another_pod_is_never_stamped_with_the_connections() {
    let rig = rig(&Config::default());
    let cart = at("10.0.0.1");
    for (claim, expected) in [
        (("k8s.pod.uid", "uid-cart"), Some("cart")),
        (("k8s.pod.uid", "uid-pay"), Some("pay")),
        (("k8s.pod.uid", "uid-elsewhere"), None),
        (("k8s.pod.ip", "10.0.0.2"), Some("pay")),
        (("k8s.pod.ip", "10.9.9.9"), None),
        (("k8s.pod.ip", "no address"), Some("cart")),
    ] {
        assert_eq!(rig.pod_name(&cart, &[claim]).await.as_deref(), expected, "{claim:?}");
    }
    let named = rig.enriched(&cart, &[("k8s.pod.name", "elsewhere")]).await;
    assert_eq!(named, ["k8s.pod.name=elsewhere", "host.name=node-1"]);
    assert_eq!(rig.pod_name(&at("10.0.0.9"), &[("k8s.pod.uid", "uid-pay")]).await.as_deref(), Some("pay"));
}

#[tokio::test]
async fn the_container_is_added_when_it_is_certain() {
    let rig = rig(&Config::default());
    let image = async |attributes: &[(&str, &str)]| {
        let enriched = rig.enriched(&at("10.0.0.2"), attributes).await;
        enriched.into_iter().find_map(|attribute| attribute.strip_prefix("container.image.name=").map(str::to_owned))
    };
    assert_eq!(image(&[]).await, None, "the pod has two");
    assert_eq!(image(&[("k8s.container.name", "mesh")]).await.as_deref(), Some("mesh"));
    assert_eq!(image(&[("k8s.container.name", "gone")]).await, None);
}

#[tokio::test]
async fn a_pod_that_asks_to_be_left_alone_is() {
    let rig = rig(&Config::default());
    let mut object = json!({"metadata": {"name": "quiet", "namespace": "shop", "uid": "q",
        "annotations": {"opentelemetry.io/k8s-processor/ignore": "true"}}, "status": {"podIP": "10.0.0.3"}});
    rig.publish(&[serde_json::from_value(object.take()).expect("it is a pod")]);
    assert_eq!(rig.enriched(&at("10.0.0.3"), &[]).await, ["host.name=node-1"]);
    assert_eq!(rig.metric("mirador_k8sattributes_resources_total{outcome=\"ignored\"}"), 1);
}

#[tokio::test]
async fn a_request_waits_for_its_pod_when_that_is_configured() {
    let timeout = Duration::from_millis(200);
    let mut config = Config { wait_for_metadata: true, ..Config::default() };
    let rig = Arc::new(rig(&config));
    let waiting = tokio::spawn({
        let rig = Arc::clone(&rig);
        async move { rig.pod_name(&at("10.0.0.7"), &[]).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    rig.publish(&[object("late", "10.0.0.7", &json!([]))]);
    assert_eq!(waiting.await.expect("it ends").as_deref(), Some("late"));
    assert_eq!(rig.metric("mirador_k8sattributes_waits_total{outcome=\"found\"}"), 1);
    config.wait_for_metadata_timeout = timeout;
    let rig = self::rig(&config);
    let before = Instant::now();
    assert_eq!(rig.pod_name(&at("10.0.0.8"), &[]).await, None);
    assert!(before.elapsed() >= timeout);
    assert_eq!(rig.pod_name(&at("10.0.0.8"), &[]).await, None);
    assert_eq!(rig.metric("mirador_k8sattributes_waits_total{outcome=\"timeout\"}"), 1, "not again so soon");
}

#[test]
fn what_cannot_work_is_named() {
    let problems =
        |text: Value| serde_json::from_value::<Config>(text).expect("the keys are known").problems().join("\n");
    assert_eq!(problems(json!({"filter": {"node": "n"}})), "");
    assert!(problems(json!({"filter": {"node_from_env_var": "NO_SUCH_VARIABLE"}})).contains("NO_SUCH_VARIABLE"));
    let rules =
        json!({"filter": {"node": "n"}, "extract": {"labels": [{"key": "a", "key_regex": "b"}, {"key_regex": "("}]}});
    let found = problems(rules);
    assert!(found.contains("extract.labels[0]") && found.contains("extract.labels[1]: key_regex: `(`"), "{found}");
    let elsewhere = json!({"extract": {"labels": [{"key": "a", "from": "deployment"}]}});
    assert!(serde_json::from_value::<Config>(elsewhere).is_err());
    assert!(problems(json!({"filter": {"node": "a,b"}})).contains("`a,b`"));
    assert!(problems(json!({"filter": {"node": "n"}, "max_bytes": 0})).contains("max_bytes"));
    assert_eq!(problems(json!({"filter": {"node": "", "node_from_env_var": "NO_SUCH_VARIABLE"}})), "");
}

#[test]
fn a_node_that_is_said_to_be_empty_means_the_whole_cluster_and_one_that_is_not_said_does_not() {
    let filter = |value: Value| serde_json::from_value::<config::FilterConfig>(value).expect("the keys are known");
    assert_eq!(filter(json!({"node": ""})).scope(), Some(Scope::Cluster));
    assert_eq!(filter(json!({"node": "a"})).scope(), Some(Scope::Node("a".to_owned())));
    assert_eq!(filter(json!({"node": null, "node_from_env_var": "NO_SUCH_VARIABLE"})).scope(), None);
}

#[tokio::test]
async fn labels_of_the_namespace_and_of_the_node_are_added_by_what_the_resource_names_or_else_by_its_pod() {
    let extract = json!({"metadata": [], "labels": [
        {"tag_name": "team", "key": "team", "from": "namespace"}, {"key": "zone", "from": "node"}, {"key": "zone"}]});
    let extract = serde_json::from_value(extract).expect("the keys are known");
    let rig = rig(&Config { extract, ..Config::default() });
    let shared = &rig.attributes.shared;
    let known = |around: &Surroundings, names: [&str; 2], key: &str| {
        let mut places = places::Places::new(usize::MAX);
        for name in names {
            places.put(name, vec![Addition::string(key, name)]);
        }
        around.show(&mut places, &shared.metrics);
    };
    known(&shared.namespaces, ["shop", "bank"], "team");
    known(&shared.nodes, ["node-1", "node-2"], "k8s.node.labels.zone");
    let of_pod = ["team=shop", "k8s.node.labels.zone=node-1", "host.name=node-1"];
    assert_eq!(rig.enriched(&at("10.0.0.1"), &[]).await, of_pod);
    let named = rig.enriched(&at("10.9.9.9"), &[("k8s.namespace.name", "bank"), ("k8s.node.name", "node-2")]).await;
    assert_eq!(named[2..], ["team=bank", "k8s.node.labels.zone=node-2", "host.name=node-1"]);
    assert_eq!(rig.enriched(&at("10.9.9.9"), &[("k8s.namespace.name", "none")]).await.len(), 2);
    let own = rig.enriched(&at("10.0.0.1"), &[("team", "mine")]).await;
    assert_eq!(own, ["team=mine", "k8s.node.labels.zone=node-1", "host.name=node-1"]);
    assert_eq!(rig.metric("mirador_k8sattributes_labelled_objects{kind=\"node\"}"), 2);
}

#[tokio::test]
async fn a_request_that_waits_for_its_pod_waits_for_what_the_rules_read_elsewhere_too() {
    let extract = json!({"labels": [{"tag_name": "team", "key": "team", "from": "namespace"}]});
    let extract = serde_json::from_value(extract).expect("the keys are known");
    let rig = Arc::new(rig(&Config { extract, wait_for_metadata: true, ..Config::default() }));
    let waiting = tokio::spawn({
        let rig = Arc::clone(&rig);
        async move { rig.enriched(&at("10.0.0.1"), &[]).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished(), "the pod is known, its namespace is not");
    let mut places = places::Places::new(usize::MAX);
    places.begin();
    places.put("shop", vec![Addition::string("team", "blue")]);
    places.finish();
    let shared = &rig.attributes.shared;
    shared.namespaces.show(&mut places, &shared.metrics);
    shared.tables.send_modify(|count| *count += 1);
    assert!(waiting.await.expect("it ends").contains(&"team=blue".to_owned()));
}
