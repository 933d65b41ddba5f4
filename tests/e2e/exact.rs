//! Exactness: what the backends hold equals an offline recomputation.

use std::collections::{BTreeMap, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use mirador_support::backends::client::until;
use mirador_support::oracle;
use mirador_support::shop::{Shop, Visit, trace_requests};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use serde_json::json;

use crate::fleet::{Fleet, Traces, WAIT};

const SPANS: usize = 100_000;

fn now_unix_nano() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64)
}

/// Groups of visits with at least `spans` spans in all; a group's requests are what its services would send.
fn shop_groups(seed: u64, spans: usize) -> Result<Vec<Vec<ExportTraceServiceRequest>>> {
    let now = now_unix_nano()?;
    let mut shop = Shop::new(seed, now);
    let (mut groups, mut count) = (Vec::new(), 0);
    while count < spans {
        let visits: Vec<Visit> = (0..60).map(|_| shop.visit(now)).collect();
        count += visits.iter().map(|visit| visit.spans.len()).sum::<usize>();
        groups.push(trace_requests(&visits));
    }
    Ok(groups)
}

/// The requests of [`shop_groups`] in two parts. No trace is in both: however long a test takes between them, no half
/// of an edge waits for the other meanwhile.
pub(crate) fn shop_halves(seed: u64, spans: usize) -> Result<[Vec<ExportTraceServiceRequest>; 2]> {
    let groups = shop_groups(seed, spans)?;
    let (first, second) = groups.split_at(groups.len() / 2);
    ensure!(!first.is_empty(), "{spans} spans are one group");
    Ok([first.concat(), second.concat()])
}

/// The requests of [`shop_groups`] one after the other.
pub(crate) fn shop_requests(seed: u64, spans: usize) -> Result<Vec<ExportTraceServiceRequest>> {
    Ok(shop_groups(seed, spans)?.concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn red_edges_and_traces_of_100_000_spans_over_two_agents_equal_the_offline_recomputation() -> Result<()> {
    let fleet = Fleet::start(2, json!({}), json!({})).await?;
    let groups = shop_groups(11, SPANS)?;
    let mut sending = tokio::task::JoinSet::new();
    for worker in 0..4 {
        let senders = [fleet.sender(0)?, fleet.sender(1)?];
        let groups: Vec<_> = groups.iter().skip(worker).step_by(4).cloned().collect();
        sending.spawn(async move {
            for group in &groups {
                // Services are spread over both agents: spans of one trace come in at different nodes.
                for (index, request) in group.iter().enumerate() {
                    senders[index % 2].traces(request).await?;
                }
            }
            anyhow::Ok(())
        });
    }
    let requests = groups.concat();
    while let Some(sent) = sending.join_next().await {
        sent??;
    }
    fleet.wait_for_red(&oracle::red(&requests)).await?;
    fleet.wait_for_edges(&oracle::edges(&requests)).await?;
    every_sampled_trace_is_complete(&fleet, &requests).await?;
    every_series_has_a_score(&fleet).await?;
    for agent in &fleet.agents {
        conserved(agent).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_the_contract_of_victoriatraces_has_every_span_once() -> Result<()> {
    let traces = Traces::victoria().await?;
    let fleet = Fleet::before(traces, json!({}), 1, [json!({}), json!({}), json!({})]).await?;
    let requests = shop_requests(12, 5000)?;
    let sender = fleet.sender(0)?;
    for request in &requests {
        sender.traces(request).await?;
    }
    every_sampled_trace_is_complete(&fleet, &requests).await?;
    for reason in ["mended", "unstorable"] {
        let name = format!("mirador_victoriatraces_{reason}_spans_total");
        ensure!(fleet.servicegraph.metric(&name, &[]).await? == 0.0, "{name}: the shop's spans are sound");
    }
    fleet.wait_for_red(&oracle::red(&requests)).await
}

/// A spread sample of the traces: each is stored with exactly the spans that were sent.
async fn every_sampled_trace_is_complete(fleet: &Fleet, requests: &[ExportTraceServiceRequest]) -> Result<()> {
    let mut sent: BTreeMap<&[u8], Vec<&[u8]>> = BTreeMap::new();
    let spans = requests.iter().flat_map(|request| &request.resource_spans).flat_map(|resource| &resource.scope_spans);
    for span in spans.flat_map(|scope| &scope.spans) {
        sent.entry(&span.trace_id).or_default().push(&span.span_id);
    }
    let step = (sent.len() / 300).max(1);
    for (trace_id, span_ids) in sent.iter().step_by(step) {
        let id = hex(trace_id);
        let stored = until("a trace to be stored", WAIT, async || {
            let stored = fleet.traces.query().trace(&id).await?;
            Ok((stored.len() >= span_ids.len()).then_some(stored))
        })
        .await?;
        let found: HashSet<String> =
            stored.iter().filter_map(|span| span["spanID"].as_str().map(str::to_owned)).collect();
        let expected: HashSet<String> = span_ids.iter().map(|span_id| hex(span_id)).collect();
        ensure!(found == expected && stored.len() == expected.len(), "trace {id}: sent {expected:?}, stored {found:?}");
    }
    Ok(())
}

/// Every metric that is stored has a series `anomaly_score` with its name and labels.
pub(crate) async fn every_series_has_a_score(fleet: &Fleet) -> Result<()> {
    until("every series to have its score", WAIT, async || {
        fleet.metrics.flush().await?;
        let (mut scored, mut wanted) = (HashSet::new(), HashSet::new());
        for mut series in fleet.metrics.export(r#"{__name__!=""}"#).await? {
            let name = series.labels.remove("__name__").unwrap_or_default();
            series.labels.remove("le");
            series.labels.remove("quantile");
            if name == "anomaly_score" {
                let metric = series.labels.remove("metric").unwrap_or_default();
                scored.insert((metric, series.labels));
            } else if !matches!(name.as_str(), "is_anomaly" | "resource_anomaly_score" | "target_info") {
                // A histogram is scored as one metric.
                let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
                wanted.insert((base.to_owned(), series.labels));
            }
        }
        ensure!(!wanted.is_empty(), "nothing is stored");
        let missing: Vec<_> = wanted.difference(&scored).take(3).collect();
        ensure!(
            missing.is_empty(),
            "without a score: {missing:?}; scored are {:?}",
            scored.iter().take(3).collect::<Vec<_>>()
        );
        Ok(Some(()))
    })
    .await
}

/// received = sent + dropped + refused + in flight, for every signal.
pub(crate) async fn conserved(agent: &mirador_support::node::Node) -> Result<()> {
    for signal in ["traces", "metrics", "logs"] {
        let labels = [("signal", signal)];
        let received = agent.metric("mirador_agent_received_items_total", &labels).await?;
        let mut accounted = 0.0;
        for name in ["sent_items_total", "dropped_items_total", "refused_items_total", "in_flight_items"] {
            accounted += agent.metric(&format!("mirador_agent_{name}"), &labels).await?;
        }
        ensure!((received - accounted).abs() < 0.5, "{signal}: {received} received, {accounted} accounted for");
    }
    Ok(())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(u32::from(digit), 16))
        .collect()
}
