//! Every alert is raised by its cause.
//!
//! The cause is brought about at the product: no sample is written that it has not served.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use mirador_support::backends::{client, ports};
use mirador_support::node::Node;
use mirador_support::shop::{Fault, Sender, Shop, Visit, log_requests, trace_requests};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::chart;
use crate::rig::{Store, during, forest, owner, servicegraph, spanmetrics};

/// An alert of the chart.
pub(crate) struct Alert {
    pub(crate) name: String,
    pub(crate) expression: String,
}

/// Every alert of the chart, each with all that a rule needs.
pub(crate) fn all() -> Result<Vec<Alert>> {
    let text = std::fs::read_to_string(chart::root().join("charts/mirador/files/alerts.yaml"))?;
    let file: Value = serde_saphyr::from_str(&text)?;
    let mut found = Vec::new();
    for rule in file["groups"].as_array().into_iter().flatten().filter_map(|group| group["rules"].as_array()).flatten()
    {
        let text = |value: &Value| value.as_str().map(str::to_owned).with_context(|| rule.to_string());
        let severity = text(&rule["labels"]["severity"])?;
        ensure!(["info", "warning", "critical"].contains(&severity.as_str()), "{rule}");
        ensure!(!text(&rule["annotations"]["summary"])?.is_empty() && !text(&rule["for"])?.is_empty(), "{rule}");
        ensure!(!text(&rule["annotations"]["description"])?.is_empty(), "{rule}");
        found.push(Alert { name: text(&rule["alert"])?, expression: text(&rule["expr"])? });
    }
    ensure!(found.len() >= 20, "only {} alerts: is the file whole?", found.len());
    Ok(found)
}

/// The store that judges, and the alerts that it has seen raised.
struct Judge {
    store: Store,
    alerts: Vec<Alert>,
    raised: BTreeSet<String>,
}

impl Judge {
    async fn raised(&mut self, name: &str) -> Result<()> {
        let alert = self.alerts.iter().find(|alert| alert.name == name).with_context(|| format!("no alert {name}"))?;
        self.store.until(name, &alert.expression).await?;
        self.raised.insert(name.to_owned());
        Ok(())
    }
}

fn now_unix_nano() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_nanos() as u64)
}

fn visits(shop: &mut Shop, count: usize) -> Vec<Visit> {
    (0..count).map(|_| shop.visit(now_unix_nano())).collect()
}

/// A gauge that is steady for so long that it is known, and then is not.
fn spike() -> Result<opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest> {
    let start = now_unix_nano() - 200_000_000_000;
    let point = |index: u64| {
        let value = if index < 120 { 100.0 + (index % 7) as f64 } else { 5000.0 };
        json!({"timeUnixNano": (start + index * 1_000_000_000).to_string(), "asDouble": value})
    };
    let points: Vec<Value> = (0..125).map(point).collect();
    let attributes = json!([{"key": "service.name", "value": {"stringValue": "spiky"}}]);
    Ok(serde_json::from_value(json!({"resourceMetrics": [{
        "resource": {"attributes": attributes},
        "scopeMetrics": [{"metrics": [{"name": "load", "gauge": {"dataPoints": points}}]}],
    }]}))?)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_alert_is_raised_by_its_cause() -> Result<()> {
    let store = Store::start().await?;
    let mut judge = Judge { store, alerts: all()?, raised: BTreeSet::new() };
    judge.raised("MiradorMetricsAbsent").await?;
    of_services(&mut judge).await?;
    of_refusing_stores(&mut judge).await?;
    of_limits(&mut judge).await?;
    of_what_is_down(&mut judge).await?;
    of_missing_cgroups(&mut judge).await?;
    let missing: Vec<_> = judge.alerts.iter().filter(|alert| !judge.raised.contains(&alert.name)).collect();
    ensure!(missing.is_empty(), "no cause is known for {:?}", missing.iter().map(|it| &it.name).collect::<Vec<_>>());
    Ok(())
}

/// A service that falters, one whose calls nobody answers, a metric that jumps, points of the far future.
async fn of_services(judge: &mut Judge) -> Result<()> {
    let jaeger = mirador_support::backends::Jaeger::start().await?;
    let forest = forest(&judge.store).await?;
    let traces = format!("{}/v1/traces", jaeger.otlp_url());
    let graph = servicegraph(&forest, &traces, json!({"store": {"ttl": "500ms"}})).await?;
    let red = spanmetrics(&forest).await?;
    let agent = Node::agent(json!({
        "red": {"metrics_flush_interval": "250ms"},
        "steering": {"enabled": false},
        "exporters": {"traces": owner(&graph), "red": owner(&red), "metrics": owner(&forest), "logs": null},
    }))
    .await?;
    judge.store.scrape(&graph, "servicegraph", "graph")?;
    judge.store.scrape(&forest, "isolationforest", "forest")?;
    let sender = Sender::new(&format!("http://{}", agent.http))?;
    sender.metrics(&spike()?).await?;
    judge.raised("MiradorAnomaly").await?;

    let mut shop = Shop::new(1, now_unix_nano());
    shop.set_fault(Fault {
        service: "payment",
        from_unix_nano: 0,
        until_unix_nano: u64::MAX,
        slower: 1.0,
        failing: 0.9,
    });
    let whole = async || {
        for request in trace_requests(&visits(&mut shop, 3)) {
            sender.traces(&request).await?;
        }
        // Data points beyond `max_future`.
        sender.metrics(&shop.metrics(now_unix_nano() + 100 * 3_600_000_000_000)).await
    };
    let watching = async {
        for name in ["MiradorServiceErrors", "MiradorEdgeErrors", "MiradorSamplesDropped"] {
            judge.raised(name).await?;
        }
        Ok(())
    };
    during(whole, watching).await?;
    let last = async || {
        // Of all that these visitors cause only the last service's spans are ever sent.
        match trace_requests(&visits(&mut shop, 30)).last() {
            Some(request) => sender.traces(request).await,
            None => Ok(()),
        }
    };
    during(last, judge.raised("MiradorUnpairedEdges")).await
}

/// A log store that answers every write with 400: the address is no place to write to.
async fn of_refusing_stores(judge: &mut Judge) -> Result<()> {
    let nowhere = format!("{}/no/such/path", judge.store.metrics.url());
    let logs = Node::central("logs", json!({"exporters": {"otlphttp_logs": {"endpoint": nowhere}}})).await?;
    let exporters = json!({"logs": owner(&logs), "traces": null, "red": null, "metrics": null});
    let agent = Node::agent(json!({"steering": {"enabled": false}, "exporters": exporters})).await?;
    judge.store.scrape(&logs, "logs", "refused-logs")?;
    judge.store.scrape(&agent, "agent", "refused-agent")?;
    let sender = Sender::new(&format!("http://{}", agent.http))?;
    let mut shop = Shop::new(2, now_unix_nano());
    let sending = async || {
        for request in log_requests(&visits(&mut shop, 3)) {
            sender.logs(&request).await?;
        }
        Ok(())
    };
    let watching = async {
        judge.raised("MiradorBackendRefusesItems").await?;
        judge.raised("MiradorOwnersRejectItems").await
    };
    during(sending, watching).await
}

/// An agent before a servicegraph, and the spanmetrics that both agents and tests may share.
async fn agent(config: Value, graph: &Node, red: &Node) -> Result<Node> {
    let mut traces = owner(graph);
    if let (Some(traces), Value::Object(over)) = (traces.as_object_mut(), config["traces"].clone()) {
        traces.extend(over);
    }
    let exporters = json!({"traces": traces, "red": owner(red), "metrics": null, "logs": null});
    let mut whole = json!({
        "red": {"metrics_flush_interval": "250ms"}, "steering": {"enabled": false}, "exporters": exporters,
    });
    for key in ["red", "memory", "windows"] {
        for (name, value) in config[key].as_object().into_iter().flatten() {
            whole[key][name] = value.clone();
        }
    }
    Node::agent(whole).await
}

/// Posts spans to an agent; any answer is fine, because it is the agent that is looked at.
async fn post(agent: SocketAddr, body: Vec<u8>) -> Result<()> {
    let post = client::client()?.post(format!("http://{agent}/v1/traces"));
    post.header("content-type", "application/x-protobuf").body(body).send().await?;
    Ok(())
}

/// Limits that the shop exceeds: series, spans that wait, the queue of an owner that does not move, bytes of requests.
async fn of_limits(judge: &mut Judge) -> Result<()> {
    let jaeger = mirador_support::backends::Jaeger::start().await?;
    let forest = forest(&judge.store).await?;
    let few = json!({"store": {"max_items": 2}});
    let graph = servicegraph(&forest, &format!("{}/v1/traces", jaeger.otlp_url()), few).await?;
    let red = spanmetrics(&forest).await?;
    let scarce = agent(json!({"red": {"aggregation_cardinality_limit": 2}}), &graph, &red).await?;
    judge.store.scrape(&scarce, "agent", "few-series")?;
    judge.store.scrape(&graph, "servicegraph", "few-items")?;
    let sender = Sender::new(&format!("http://{}", scarce.http))?;
    let mut shop = Shop::new(3, now_unix_nano());
    let sending = async || {
        for request in trace_requests(&visits(&mut shop, 3)) {
            sender.traces(&request).await?;
        }
        Ok(())
    };
    let watching = async {
        judge.raised("MiradorCardinalityOverflow").await?;
        judge.raised("MiradorGraphDropsSpans").await
    };
    during(sending, watching).await?;

    let patient = |queue: u32| {
        json!({
            "sending_queue": {"queue_size_requests": queue}, "timeout": "60s",
            "retry_on_failure": {"max_elapsed_time": "60s"}, "connection": {"keepalive_time": "300s"},
        })
    };
    let narrow = agent(json!({"traces": patient(4)}), &graph, &red).await?;
    let small = agent(
        json!({"traces": patient(1000), "memory": {"limit_mib": 8, "request_share_percentage": 50}}),
        &graph,
        &red,
    )
    .await?;
    judge.store.scrape(&narrow, "agent", "narrow")?;
    judge.store.scrape(&small, "agent", "small")?;
    graph.pause();
    // Each request is another one: a repeated one waits for the first of its kind and takes no room.
    let mut bodies =
        |count: usize, size: usize| -> Vec<_> { (0..count).map(|_| encoded(&visits(&mut shop, size))).collect() };
    let mut waiting = JoinSet::new();
    for (agent, bodies) in [(narrow.http, bodies(4, 1)), (small.http, bodies(16, 330))] {
        for body in bodies {
            waiting.spawn(post(agent, body));
        }
    }
    judge.raised("MiradorQueueNearlyFull").await?;
    judge.raised("MiradorMemoryNearlyFull").await?;
    waiting.shutdown().await;
    graph.resume();
    Ok(())
}

/// One request with all spans of these visits.
fn encoded(visits: &[Visit]) -> Vec<u8> {
    use prost::Message as _;
    let mut whole = opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest::default();
    for request in trace_requests(visits) {
        whole.resource_spans.extend(request.resource_spans);
    }
    whole.encode_to_vec()
}

/// Owners that are gone, a destination without any, a process that starts again and again.
async fn of_what_is_down(judge: &mut Judge) -> Result<()> {
    let jaeger = mirador_support::backends::Jaeger::start().await?;
    let forest = forest(&judge.store).await?;
    let mut graph = servicegraph(&forest, &format!("{}/v1/traces", jaeger.otlp_url()), json!({})).await?;
    let mut red = spanmetrics(&forest).await?;
    let patient = agent(json!({}), &graph, &red).await?;
    let forgetful = agent(json!({"windows": {"queue_size_bytes": 1}}), &graph, &red).await?;
    judge.store.scrape(&patient, "agent", "patient")?;
    judge.store.scrape(&forgetful, "agent", "forgetful")?;
    red.stop().await?;
    let mut shop = Shop::new(4, now_unix_nano());
    let senders =
        [Sender::new(&format!("http://{}", patient.http))?, Sender::new(&format!("http://{}", forgetful.http))?];
    let sending = async || {
        for request in trace_requests(&visits(&mut shop, 3)) {
            for sender in &senders {
                sender.traces(&request).await?;
            }
        }
        Ok(())
    };
    let watching = async {
        judge.raised("MiradorRedWindowsLost").await?;
        judge.raised("MiradorRedWindowsWait").await
    };
    during(sending, watching).await?;

    graph.stop().await?;
    judge.raised("MiradorOwnerDown").await?;
    let body = encoded(&visits(&mut shop, 1));
    let refused = async || post(patient.http, body.clone()).await;
    during(refused, judge.raised("MiradorRefusesItems")).await?;

    // Nothing stands behind this one: it gives up and hands back.
    red.restart().await?;
    let nowhere = format!("http://127.0.0.1:{}/v1/traces", ports::free()?);
    let graph = servicegraph(&forest, &nowhere, json!({})).await?;
    let sent_back = agent(json!({}), &graph, &red).await?;
    judge.store.scrape(&graph, "servicegraph", "stranded")?;
    let returned = async || post(sent_back.http, body.clone()).await;
    during(returned, judge.raised("MiradorBackendDown")).await?;

    let nobody = json!({"resolver": {"dns": {"hostname": "nobody.invalid", "interval": "100ms"}}});
    let exporters = json!({"traces": nobody, "red": null, "metrics": null, "logs": null});
    let mut lonely = Node::lonely_agent(json!({"steering": {"enabled": false}, "exporters": exporters})).await?;
    judge.store.scrape(&lonely, "agent", "lonely")?;
    judge.raised("MiradorNoOwners").await?;
    for life in 1..=3 {
        // A reset is seen between two samples, so each life lasts longer than the next one's first sample may take.
        let old = "last_over_time(mirador_process_uptime_seconds{pod=\"lonely\"}[3s]) >= 8";
        judge.store.until("eight seconds of life", old).await?;
        lonely.kill().await?;
        lonely.restart().await?;
        let seen = format!("resets(mirador_process_uptime_seconds{{pod=\"lonely\"}}[30m]) >= {life}");
        judge.store.until("a new life", &seen).await?;
    }
    judge.raised("MiradorRestarts").await
}

/// Steering that is wanted where there is no tree of cgroups, whatever this machine has.
async fn of_missing_cgroups(judge: &mut Judge) -> Result<()> {
    let nothing = tempfile::tempdir()?;
    let steering = json!({"enabled": true, "cgroup": {"mount": nothing.path()}});
    let exporters = json!({"traces": {}, "red": null, "metrics": null, "logs": null});
    let unsteered = Node::lonely_agent(json!({"steering": steering, "exporters": exporters})).await?;
    judge.store.scrape(&unsteered, "agent", "unsteered")?;
    judge.raised("MiradorSteeringOff").await
}
