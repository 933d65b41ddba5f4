//! The agent on a node of a simulated cluster: the pods' attributes on everything they send.
//!
//! Each pod is a loopback address of its own from which its requests come.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the line")]

#[path = "../../crates/transport/tests/kubernetes/api_server.rs"]
#[expect(dead_code, reason = "the watch's own tests need more of it")]
mod api_server;
#[path = "agent/central.rs"]
#[expect(dead_code, reason = "the agent's own tests need more of it")]
mod central;
#[path = "kubernetes/owners.rs"]
mod owners;
#[path = "kubernetes/real.rs"]
mod real;
#[path = "kubernetes/under_load.rs"]
mod under_load;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use api_server::ApiServer;
use bytes::Bytes;
use central::{Central, Running, TRACES, agent_config, until};
use mirador_agent::config::Config;
use mirador_agent::kubernetes;
use mirador_otlp::Signal;
use mirador_proto::otlp::collector::logs::v1::ExportLogsServiceRequest;
use mirador_proto::otlp::collector::metrics::v1::ExportMetricsServiceRequest;
use mirador_proto::otlp::collector::trace::v1::ExportTraceServiceRequest;
use mirador_proto::otlp::common::v1::{AnyValue, KeyValue, any_value};
use mirador_proto::otlp::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use mirador_proto::otlp::metrics::v1::{Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric};
use mirador_proto::otlp::resource::v1::Resource;
use mirador_proto::otlp::trace::v1::{ResourceSpans, ScopeSpans, Span};
use mirador_proto::red::ExportRedRequest;
use mirador_transport::Kind;
use mirador_transport::kubernetes::{ApiConfig, AuthType};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

const PODS: &str = "/api/v1/pods";
const NAMESPACES: &str = "/api/v1/namespaces";
const NODES: &str = "/api/v1/nodes";

fn address(pod: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 3, (pod / 200) as u8, (pod % 200) as u8 + 1)
}

/// The pod of a deployment in its n-th life.
fn pod(index: usize, life: usize, node: &str) -> Value {
    let name = name(index, life);
    json!({
        "metadata": {"namespace": "shop", "uid": format!("uid-{name}"), "labels": {"pod-template-hash": "abc", "tier": "web"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("app-{index}-abc"),
                "uid": "rs", "controller": true}],
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}]},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "shop/app:1"}]},
        "status": {"phase": "Running", "podIP": address(index), "startTime": format!("2026-01-01T00:00:{life:02}Z")},
    })
}

fn name(index: usize, life: usize) -> String {
    format!("app-{index}-abc-{life}")
}

struct Rig {
    server: ApiServer,
    agent: Running,
    central: Central,
    _files: tempfile::TempDir,
}

impl Rig {
    async fn start(server: ApiServer, change: impl FnOnce(&mut Config)) -> Self {
        let files = tempfile::tempdir().unwrap();
        let (kubeconfig, token) = (files.path().join("config"), files.path().join("token"));
        std::fs::write(&token, "token").unwrap();
        std::fs::write(&kubeconfig, server.kubeconfig(&token)).unwrap();
        let central = Central::start().await;
        let mut config = agent_config(&[&central]);
        let api = ApiConfig { auth_type: AuthType::KubeConfig, kubeconfig: Some(kubeconfig), context: None };
        let mut k8s = kubernetes::Config { api, ..kubernetes::Config::default() };
        k8s.filter.node = Some("node-1".to_owned());
        config.processors.k8sattributes = Some(Box::new(k8s));
        change(&mut config);
        let agent = Box::pin(Running::start(config)).await;
        Self { server, agent, central, _files: files }
    }

    fn metric(&self, start: &str) -> u64 {
        let page = self.agent.registry.encode();
        let lines = page.lines().filter(|line| line.starts_with(start));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
    }

    async fn knows(&self, pods: u64) {
        until(&format!("{pods} pods were seen"), || self.metric("otelcol_otelsvc_k8s_pod_added_total") == pods).await;
    }
}

/// One request from a pod's address, and the status of its answer.
async fn post(to: SocketAddr, pod: usize, path: &str, body: &[u8]) -> u16 {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((address(pod), 0).into()).unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: agent\r\ncontent-type: application/x-protobuf\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

fn resource() -> Resource {
    let value = Some(any_value::Value::StringValue("web".to_owned()));
    let attributes =
        vec![KeyValue { key: "service.name".to_owned(), value: Some(AnyValue { value }), ..KeyValue::default() }];
    Resource { attributes, ..Resource::default() }
}

/// A span that is named as the pod that sends it.
fn spans(name: &str, count: usize) -> Bytes {
    let span = |index: usize| Span {
        trace_id: (index as u128 + 1).to_be_bytes().to_vec(),
        span_id: vec![7; 8],
        name: name.to_owned(),
        ..Span::default()
    };
    let scope = ScopeSpans { spans: (0..count).map(span).collect(), ..ScopeSpans::default() };
    let entry = ResourceSpans { resource: Some(resource()), scope_spans: vec![scope], ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![entry] }.encode_to_vec().into()
}

fn texts(resource: Option<Resource>) -> BTreeMap<String, String> {
    let attributes = resource.unwrap_or_default().attributes.into_iter();
    attributes
        .map(|attribute| match attribute.value.and_then(|value| value.value) {
            Some(any_value::Value::StringValue(value)) => (attribute.key, value),
            other => panic!("{}: {other:?}", attribute.key),
        })
        .collect()
}

/// Span name and the pod's name on its resource, for every acknowledged span.
fn stamped(central: &Central) -> Vec<(String, Option<String>)> {
    let calls = central.calls(TRACES).into_iter().filter(|call| call.accepted);
    calls
        .flat_map(|call| ExportTraceServiceRequest::decode(call.body).unwrap().resource_spans)
        .flat_map(|entry| {
            let pod = texts(entry.resource).remove("k8s.pod.name");
            let spans = entry.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.map(move |span| (span.name, pod.clone())).collect::<Vec<_>>()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_span_of_five_hundred_pods_has_its_pod_while_pods_come_and_go() {
    const COUNT: usize = 500;
    const ROUNDS: usize = 6;
    let server = ApiServer::start().await;
    for index in 0..COUNT {
        server.apply(PODS, &name(index, 0), pod(index, 0, "node-1"));
        server.apply(PODS, &format!("{}-other", name(index, 0)), pod(index, 0, "node-2"));
    }
    let mut rig = Rig::start(server, |_| {}).await;
    rig.knows(COUNT as u64).await;
    let mut lives = vec![0; COUNT];
    let mut added = COUNT as u64;
    for round in 0..ROUNDS {
        // A seventh of the pods is replaced; the new ones have the old ones' addresses.
        let replaced: Vec<usize> = (0..COUNT).filter(|index| index % 7 == round % 7).collect();
        let staying: Vec<usize> = (0..COUNT).filter(|index| index % 7 != round % 7).collect();
        let to = rig.agent.http;
        let load = staying.into_iter().map(|index| (index, name(index, lives[index]))).collect::<Vec<_>>();
        let sending = tokio::spawn(async move {
            for (index, name) in load {
                assert_eq!(post(to, index, "/v1/traces", &spans(&name, 2)).await, 200);
            }
        });
        for &index in &replaced {
            rig.server.delete(PODS, &name(index, lives[index]));
            lives[index] += 1;
            rig.server.apply(PODS, &name(index, lives[index]), pod(index, lives[index], "node-1"));
        }
        if round == 3 {
            rig.server.compact();
            rig.server.cut().await;
        }
        added += replaced.len() as u64;
        rig.knows(added).await;
        for index in replaced {
            assert_eq!(post(to, index, "/v1/traces", &spans(&name(index, lives[index]), 2)).await, 200);
        }
        sending.await.unwrap();
    }
    let stamped = stamped(&rig.central);
    assert_eq!(stamped.len(), COUNT * ROUNDS * 2, "every acknowledged span arrived once");
    for (span, pod) in &stamped {
        assert_eq!(Some(span), pod.as_ref());
    }
    let bytes = rig.metric("mirador_k8sattributes_table_bytes");
    let pods = rig.metric("mirador_k8sattributes_pods");
    assert!(pods >= COUNT as u64 && bytes / pods < 4096, "{bytes} bytes for {pods} pods");
    println!("memory: {bytes} bytes for {pods} pods, deleted ones included");
    assert_eq!(rig.metric("mirador_k8sattributes_resources_total{outcome=\"connection\"}"), (COUNT * ROUNDS) as u64);
    assert_eq!(rig.metric("mirador_k8sattributes_skipped_total"), 0);
}

#[tokio::test]
async fn every_signal_and_red_have_the_pods_attributes() {
    let server = ApiServer::start().await;
    server.apply(PODS, &name(0, 0), pod(0, 0, "node-1"));
    let rig = Rig::start(server, |config| {
        let k8s = config.processors.k8sattributes.as_mut().unwrap();
        let rule = json!({"labels": [{"tag_name": "tier", "key": "tier"}], "metadata": ["k8s.deployment.name", "k8s.pod.name"]});
        k8s.extract = serde_json::from_value(rule).unwrap();
        config.processors.resourcedetection = Some(serde_json::from_value(json!({"detectors": ["system"]})).unwrap());
        let dimensions = json!([{"name": "k8s.deployment.name"}]);
        config.red.dimensions = serde_json::from_value(dimensions).unwrap();
    })
    .await;
    rig.knows(1).await;
    let gauge = Gauge { data_points: vec![NumberDataPoint::default()] };
    let metric = Metric { name: "m".to_owned(), data: Some(metric::Data::Gauge(gauge)), ..Metric::default() };
    let scope = ScopeMetrics { metrics: vec![metric], ..ScopeMetrics::default() };
    let entry =
        ResourceMetrics { resource: Some(resource()), scope_metrics: vec![scope], ..ResourceMetrics::default() };
    let metrics = ExportMetricsServiceRequest { resource_metrics: vec![entry] }.encode_to_vec();
    let scope = ScopeLogs { log_records: vec![LogRecord::default()], ..ScopeLogs::default() };
    let entry = ResourceLogs { resource: Some(resource()), scope_logs: vec![scope], ..ResourceLogs::default() };
    let logs = ExportLogsServiceRequest { resource_logs: vec![entry] }.encode_to_vec();
    assert_eq!(post(rig.agent.http, 0, "/v1/traces", &spans("s", 1)).await, 200);
    assert_eq!(post(rig.agent.http, 0, "/v1/metrics", &metrics).await, 200);
    assert_eq!(post(rig.agent.http, 0, "/v1/logs", &logs).await, 200);
    let body = |signal| rig.central.calls(Kind::Otlp(signal)).remove(0).body;
    let traces = ExportTraceServiceRequest::decode(body(Signal::Traces)).unwrap().resource_spans.remove(0).resource;
    let metrics =
        ExportMetricsServiceRequest::decode(body(Signal::Metrics)).unwrap().resource_metrics.remove(0).resource;
    let logs = ExportLogsServiceRequest::decode(body(Signal::Logs)).unwrap().resource_logs.remove(0).resource;
    for resource in [traces, metrics, logs] {
        let attributes = texts(resource);
        let keys: Vec<&str> = attributes.keys().map(String::as_str).collect();
        assert_eq!(keys, ["host.name", "k8s.deployment.name", "k8s.pod.name", "os.type", "service.name", "tier"]);
        assert_eq!(attributes["k8s.deployment.name"], "app-0");
    }
    until("a RED delta with the dimension arrived", || {
        rig.central.calls(Kind::Red).iter().any(|call| {
            let request = ExportRedRequest::decode(call.body.clone()).unwrap();
            let mut series = mirador_sketch::decode(&request).unwrap();
            series.any(|(key, _)| format!("{key:?}").contains("app-0"))
        })
    })
    .await;
}

#[tokio::test]
async fn telemetry_flows_while_the_api_server_is_away() {
    let mut server = ApiServer::start().await;
    server.apply(PODS, &name(0, 0), pod(0, 0, "node-1"));
    server.kill().await;
    let mut rig = Rig::start(server, |_| {}).await;
    assert_eq!(post(rig.agent.http, 0, "/v1/traces", &spans("early", 1)).await, 200);
    rig.server.restart().await;
    rig.knows(1).await;
    assert_eq!(post(rig.agent.http, 0, "/v1/traces", &spans("late", 1)).await, 200);
    let expected = [("early".to_owned(), None), ("late".to_owned(), Some(name(0, 0)))];
    assert_eq!(stamped(&rig.central), expected);
}

#[tokio::test]
async fn a_request_that_comes_before_its_pod_is_known_waits_for_it() {
    let server = ApiServer::start().await;
    let rig = Rig::start(server, |config| {
        let k8s = config.processors.k8sattributes.as_mut().unwrap();
        k8s.wait_for_metadata = true;
        k8s.wait_for_metadata_timeout = std::time::Duration::from_secs(9);
    })
    .await;
    let to = rig.agent.http;
    let sending = tokio::spawn(async move { post(to, 0, "/v1/traces", &spans("first", 1)).await });
    until("the request is in the agent", || rig.metric("mirador_process_in_flight") > 0).await;
    rig.server.apply(PODS, &name(0, 0), pod(0, 0, "node-1"));
    assert_eq!(sending.await.unwrap(), 200);
    assert_eq!(stamped(&rig.central), [("first".to_owned(), Some(name(0, 0)))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_knows_the_pods_of_every_node_and_the_labels_of_their_namespaces_and_nodes() {
    const COUNT: usize = 40;
    let server = ApiServer::start().await;
    server.apply(NAMESPACES, "shop", json!({"metadata": {"name": "shop", "labels": {"team": "blue"}}}));
    for index in 0..COUNT {
        let node = format!("node-{}", index % 4);
        server.apply(NODES, &node, json!({"metadata": {"name": node, "annotations": {"rack": node}}}));
        server.apply(PODS, &name(index, 0), pod(index, 0, &node));
    }
    let mut ended = pod(COUNT, 0, "node-1");
    ended["status"]["phase"] = json!("Succeeded");
    server.apply(PODS, &name(COUNT, 0), ended);
    let mut rig = Rig::start(server, |config| {
        let k8s = config.processors.k8sattributes.as_mut().unwrap();
        k8s.filter.node = Some(String::new());
        k8s.extract = serde_json::from_value(json!({
            "metadata": ["k8s.pod.name", "k8s.node.name"],
            "labels": [{"key": "team", "from": "namespace"}],
            "annotations": [{"tag_name": "rack", "key": "rack", "from": "node"}],
        }))
        .unwrap();
    })
    .await;
    rig.knows(COUNT as u64).await;
    until("namespace and nodes are known", || rig.metric("mirador_k8sattributes_labelled_objects") == 5).await;
    for index in 0..COUNT {
        assert_eq!(post(rig.agent.http, index, "/v1/traces", &spans(&name(index, 0), 1)).await, 200);
    }
    assert_eq!(post(rig.agent.http, COUNT, "/v1/traces", &spans("ended", 1)).await, 200);
    let calls = rig.central.calls(TRACES);
    assert_eq!(calls.len(), COUNT + 1);
    for call in calls {
        let entry = ExportTraceServiceRequest::decode(call.body).unwrap().resource_spans.remove(0);
        let (span, attributes) = (&entry.scope_spans[0].spans[0].name, texts(entry.resource.clone()));
        if span == "ended" {
            assert_eq!(attributes.keys().collect::<Vec<_>>(), ["service.name"]);
            continue;
        }
        assert_eq!(&attributes["k8s.pod.name"], span);
        assert_eq!(attributes["rack"], attributes["k8s.node.name"]);
        assert_eq!(attributes["k8s.namespace.labels.team"], "blue");
    }
    // What changes there is seen, and what is gone is not stamped any more.
    rig.server.apply(NAMESPACES, "shop", json!({"metadata": {"name": "shop", "labels": {"team": "red"}}}));
    rig.server.delete(NODES, "node-0");
    until("the node is forgotten", || rig.metric("mirador_k8sattributes_labelled_objects") == 4).await;
    until("the namespace was read again", || {
        rig.metric("mirador_kubernetes_watch_events_total{watch=\"namespaces\"") > 1
    })
    .await;
    rig.server.cut().await;
    assert_eq!(post(rig.agent.http, 0, "/v1/traces", &spans("again", 1)).await, 200);
    let last = rig.central.calls(TRACES).pop().unwrap();
    let attributes = texts(ExportTraceServiceRequest::decode(last.body).unwrap().resource_spans.remove(0).resource);
    assert_eq!((attributes["k8s.namespace.labels.team"].as_str(), attributes.get("rack")), ("red", None));
}

#[tokio::test]
async fn pods_that_are_more_than_may_be_known_are_counted_and_their_spans_pass_without_attributes() {
    let server = ApiServer::start().await;
    for index in 0..8 {
        server.apply(PODS, &name(index, 0), pod(index, 0, "node-1"));
    }
    let rig = Rig::start(server, |config| {
        let k8s = config.processors.k8sattributes.as_mut().unwrap();
        k8s.filter.node = Some(String::new());
        k8s.max_pods = 5;
    })
    .await;
    rig.knows(5).await;
    until("the others are counted", || rig.metric("mirador_k8sattributes_skipped_total{reason=\"over_limit\"}") == 3)
        .await;
    for index in 0..8 {
        assert_eq!(post(rig.agent.http, index, "/v1/traces", &spans(&name(index, 0), 1)).await, 200);
    }
    let stamped = stamped(&rig.central);
    assert_eq!(stamped.len(), 8);
    assert_eq!(stamped.iter().filter(|(span, pod)| Some(span) == pod.as_ref()).count(), 5);
    assert_eq!(stamped.iter().filter(|(_, pod)| pod.is_none()).count(), 3);
}
