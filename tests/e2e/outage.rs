//! Half a minute without stores, and agents that come and go: under load, and nothing that was acknowledged is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use mirador_support::backends::VictoriaLogs;
use mirador_support::backends::cassandra::Cassandra;
use mirador_support::backends::client::{self, until};
use mirador_support::node::Node;
use mirador_support::oracle;
use mirador_support::shop::Sender;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::exact::{conserved, shop_halves, shop_requests};
use crate::fleet::{Fleet, Traces, WAIT, owners};
use crate::logs;
use crate::whole::{Repeats, every_trace_is_whole};

/// How long the stores are away.
const AWAY: Duration = Duration::from_secs(30);

/// A client at work in the background.
struct Client<T> {
    /// What has been acknowledged to it.
    acknowledged: Arc<AtomicUsize>,
    done: Arc<AtomicBool>,
    task: JoinHandle<Result<T>>,
}

impl<T> Client<T> {
    fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Waits until `more` requests are acknowledged than before, or all of them.
    async fn goes_on(&self, more: usize) -> Result<()> {
        let before = self.acknowledged();
        until("more requests to be acknowledged", WAIT, async || {
            Ok((self.acknowledged() >= before + more || self.task.is_finished()).then_some(()))
        })
        .await
    }

    /// Lets it finish what it is at, and gives what came of it.
    async fn finish(self) -> Result<T> {
        self.done.store(true, Ordering::SeqCst);
        self.task.await?
    }
}

/// Sends one request after the other, each until it is acknowledged.
fn spans(sender: Sender, requests: Vec<ExportTraceServiceRequest>) -> Client<()> {
    let (acknowledged, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let count = Arc::clone(&acknowledged);
    let task = tokio::spawn(async move {
        for request in &requests {
            until("spans to be acknowledged", WAIT, async || Ok(Some(sender.traces(request).await?))).await?;
            count.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    });
    Client { acknowledged, done, task }
}

/// Sends point after point of one gauge until it is told to finish; gives every point that was acknowledged.
fn points(sender: Sender, job: &'static str) -> Client<BTreeMap<i64, f64>> {
    let (acknowledged, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, end) = (Arc::clone(&acknowledged), Arc::clone(&done));
    let task = tokio::spawn(async move {
        let (mut sent, mut last) = (BTreeMap::new(), 0);
        while !end.load(Ordering::SeqCst) {
            let millis = (SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64).max(last + 1);
            let value = sent.len() as f64;
            let request = point(job, millis, value);
            until("a point to be acknowledged", WAIT, async || Ok(Some(sender.metrics(&request).await?))).await?;
            sent.insert(millis, value);
            last = millis;
            count.fetch_add(1, Ordering::SeqCst);
        }
        Ok(sent)
    });
    Client { acknowledged, done, task }
}

fn point(job: &str, millis: i64, value: f64) -> ExportMetricsServiceRequest {
    let job = AnyValue { value: Some(any_value::Value::StringValue(job.to_owned())) };
    let point = NumberDataPoint {
        time_unix_nano: millis.cast_unsigned() * 1_000_000,
        value: Some(number_data_point::Value::AsDouble(value)),
        ..NumberDataPoint::default()
    };
    let data = metric::Data::Gauge(Gauge { data_points: vec![point] });
    let metric = Metric { name: "load.step".to_owned(), data: Some(data), ..Metric::default() };
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(Resource {
                attributes: vec![KeyValue { key: "service.name".to_owned(), value: Some(job), ..KeyValue::default() }],
                ..Resource::default()
            }),
            scope_metrics: vec![ScopeMetrics { metrics: vec![metric], ..ScopeMetrics::default() }],
            ..ResourceMetrics::default()
        }],
    }
}

/// Every point that was acknowledged is stored with its value, and nothing else.
async fn points_are_stored(fleet: &Fleet, job: &str, sent: &BTreeMap<i64, f64>) -> Result<()> {
    until("every acknowledged point", WAIT, async || {
        fleet.metrics.flush().await?;
        let found = fleet.metrics.export(&format!("load_step{{job=\"{job}\"}}")).await?;
        let found: BTreeMap<i64, f64> = found.into_iter().flat_map(|series| series.samples).collect();
        ensure!(found == *sent, "{} points were acknowledged, {} are stored", sent.len(), found.len());
        Ok(Some(()))
    })
    .await
}

/// Waits until the stores have been away for [`AWAY`].
async fn half_a_minute(since: Instant) -> Result<()> {
    until("half a minute without the stores", WAIT, async || Ok((since.elapsed() >= AWAY).then_some(()))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn trace_and_metric_stores_that_are_stopped_for_30_s_under_load_lose_nothing_that_was_acknowledged() -> Result<()>
{
    // Halves of an edge come in on both sides of the absence: they have to wait for each other longer than it lasts.
    let graph = json!({"servicegraph": {"store": {"ttl": "150s"}}});
    let traces = Traces::on_disk().await?;
    let mut fleet = Fleet::before(traces, json!({}), 2, [json!({}), graph, json!({})]).await?;
    let requests = shop_requests(31, 5000)?;
    let (before, during) = requests.split_at(requests.len() / 2);
    let gauge = points(fleet.sender(1)?, "away");
    spans(fleet.sender(0)?, before.to_vec()).finish().await?;
    // A trace store may acknowledge a span before it writes it, and a Jaeger that ends does not write it.
    every_trace_is_whole(&fleet, before, Repeats::Never).await?;
    gauge.goes_on(3).await?;

    fleet.traces.process_mut().stop().await?;
    fleet.metrics.stop().await?;
    let stopped = Instant::now();
    let sending = spans(fleet.sender(1)?, during.to_vec());
    until("the absence to be felt", WAIT, async || {
        let mut retries = 0.0;
        for forest in &fleet.forests {
            retries += forest.metric("mirador_exporter_retries_total", &[("exporter", "victoriametrics")]).await?;
        }
        let refused = fleet.agents[1].metric("mirador_agent_refused_items_total", &[("signal", "traces")]).await?;
        Ok((retries >= 1.0 && refused >= 1.0).then_some(()))
    })
    .await?;
    let acknowledged = gauge.acknowledged();
    half_a_minute(stopped).await?;
    ensure!(sending.acknowledged() == 0, "spans were acknowledged without a store");
    ensure!(gauge.acknowledged() == acknowledged, "points were acknowledged without a store");
    fleet.metrics.restart().await?;
    fleet.traces.process_mut().restart().await?;

    sending.finish().await?;
    gauge.goes_on(3).await?;
    let sent = gauge.finish().await?;
    fleet.wait_for_red(&oracle::red(&requests)).await?;
    every_trace_is_whole(&fleet, &requests, Repeats::AfterUnclearAnswers).await?;
    points_are_stored(&fleet, "away", &sent).await?;
    fleet.wait_for_edges(&oracle::edges(&requests)).await?;
    for agent in &fleet.agents {
        conserved(agent).await?;
    }
    Ok(())
}

/// Sends log records, five in a request, until it is told to finish; gives the bodies that were acknowledged.
fn records(sender: Sender, service: &'static str) -> Client<BTreeSet<String>> {
    let (acknowledged, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, end) = (Arc::clone(&acknowledged), Arc::clone(&done));
    let task = tokio::spawn(async move {
        let mut sent = BTreeSet::new();
        while !end.load(Ordering::SeqCst) {
            let bodies: Vec<String> = (sent.len()..sent.len() + 5).map(|number| format!("line {number}")).collect();
            let request = logs::request(service, &bodies)?;
            until("records to be acknowledged", WAIT, async || Ok(Some(sender.logs(&request).await?))).await?;
            sent.extend(bodies);
            count.fetch_add(1, Ordering::SeqCst);
        }
        Ok(sent)
    });
    Client { acknowledged, done, task }
}

/// A role `logs` with this exporter, and an agent before it.
async fn logs_into(exporters: Value) -> Result<(Node, Node)> {
    let central = Node::central("logs", json!({"exporters": exporters})).await?;
    let exporters = json!({"logs": owners(&[&central]), "traces": null, "metrics": null, "red": null});
    let agent = Node::agent(json!({"exporters": exporters})).await?;
    Ok((central, agent))
}

#[tokio::test(flavor = "multi_thread")]
async fn log_stores_that_are_stopped_for_30_s_under_load_lose_no_record_that_was_acknowledged() -> Result<()> {
    let mut cassandra = Cassandra::start().await?;
    let mut victorialogs = VictoriaLogs::start().await?;
    let rows = json!({"cassandra": {
        "hosts": [cassandra.cql_addr().to_string()], "replication_factor": 1, "consistency": "local_one",
    }});
    let lines = json!({"otlphttp_logs": {
        "endpoint": format!("{}/insert/opentelemetry/v1/logs", victorialogs.url()),
        "headers": {"VL-Stream-Fields": "service.name"},
    }});
    let (_rows, to_rows) = logs_into(rows).await?;
    let (_lines, to_lines) = logs_into(lines).await?;
    let rows = records(Sender::new(&format!("http://{}", to_rows.http))?, "rows");
    let lines = records(Sender::new(&format!("http://{}", to_lines.http))?, "lines");
    rows.goes_on(3).await?;
    lines.goes_on(3).await?;

    cassandra.stop().await?;
    victorialogs.stop().await?;
    let stopped = Instant::now();
    until("the absence to be felt", WAIT, async || {
        for agent in [&to_rows, &to_lines] {
            if agent.metric("mirador_agent_refused_items_total", &[("signal", "logs")]).await? < 1.0 {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await?;
    let before = (rows.acknowledged(), lines.acknowledged());
    half_a_minute(stopped).await?;
    ensure!(before == (rows.acknowledged(), lines.acknowledged()), "records were acknowledged without a store");
    victorialogs.restart().await?;
    cassandra.restart().await?;

    rows.goes_on(3).await?;
    lines.goes_on(3).await?;
    let (rows, lines) = (rows.finish().await?, lines.finish().await?);
    let reader = logs::session(&cassandra).await?;
    let stored = logs::bodies(&reader, "logs_v1", "body").await?;
    ensure!(stored.len() == rows.len() && stored.into_iter().collect::<BTreeSet<_>>() == rows, "rows differ");
    until("every acknowledged line", WAIT, async || {
        let url = format!("{}/select/logsql/query", victorialogs.url());
        let query = client::client()?.post(url).form(&[("query", "service.name:lines"), ("limit", "1000000")]);
        let found = client::json_lines(query).await?;
        let found: BTreeSet<&str> = found.iter().filter_map(|row| row["_msg"].as_str()).collect();
        ensure!(found == lines.iter().map(String::as_str).collect(), "{} of {} lines", found.len(), lines.len());
        Ok(Some(()))
    })
    .await?;
    conserved(&to_rows).await?;
    conserved(&to_lines).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_told_to_end_again_and_again_under_load_loses_nothing_and_counts_nothing_twice() -> Result<()>
{
    let graph = json!({"servicegraph": {"store": {"ttl": "30s"}}});
    let mut fleet = Fleet::start(1, json!({}), graph).await?;
    let [left, right] = shop_halves(32, 16_000)?;
    let gauge = points(fleet.sender(0)?, "restarted");
    let sending = [spans(fleet.sender(0)?, left.clone()), spans(fleet.sender(0)?, right.clone())];
    for _ in 0..4 {
        for client in &sending {
            client.goes_on(4).await?;
        }
        gauge.goes_on(1).await?;
        fleet.agents[0].stop().await?;
        fleet.agents[0].restart().await?;
    }
    for client in sending {
        client.finish().await?;
    }
    let sent = gauge.finish().await?;
    fleet.agents[0].stop().await?;
    let requests = [left, right].concat();
    fleet.wait_for_red(&oracle::red(&requests)).await?;
    every_trace_is_whole(&fleet, &requests, Repeats::AfterUnclearAnswers).await?;
    points_are_stored(&fleet, "restarted", &sent).await?;
    fleet.wait_for_edges(&oracle::edges(&requests)).await
}
