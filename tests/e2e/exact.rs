//! Exactness: what the backends hold equals an offline recomputation.

use std::collections::HashSet;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use mirador_support::backends::client::until;
use mirador_support::oracle;
use mirador_support::shop::{Shop, Visit, trace_requests};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use serde_json::json;

use crate::fleet::{Fleet, Traces, WAIT};
use crate::whole::{Repeats, every_trace_is_whole};

const SPANS: usize = 100_000;

pub(crate) fn now_unix_nano() -> Result<u64> {
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
        let groups: Vec<_> = groups.iter().enumerate().skip(worker).step_by(4).map(|(n, of)| (n, of.clone())).collect();
        sending.spawn(async move {
            for (number, group) in &groups {
                // Spans of one trace come in at different nodes, and every series is counted at both.
                for (index, request) in group.iter().enumerate() {
                    senders[(number / 4 + index) % 2].traces(request).await?;
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
    every_trace_is_whole(&fleet, &requests, Repeats::Never).await?;
    every_series_has_a_score(&fleet).await?;
    let sent: usize = requests.iter().map(spans_of).sum();
    for agent in &fleet.agents {
        conserved(agent).await?;
        let share = agent.metric("mirador_agent_received_items_total", &[("signal", "traces")]).await?;
        ensure!(share * 4.0 > sent as f64, "an agent has had {share} of {sent} spans");
    }
    Ok(())
}

fn spans_of(request: &ExportTraceServiceRequest) -> usize {
    request.resource_spans.iter().flat_map(|resource| &resource.scope_spans).map(|scope| scope.spans.len()).sum()
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
    every_trace_is_whole(&fleet, &requests, Repeats::Never).await?;
    for reason in ["mended", "unstorable"] {
        let name = format!("mirador_victoriatraces_{reason}_spans_total");
        ensure!(fleet.servicegraph.metric(&name, &[]).await? == 0.0, "{name}: the shop's spans are sound");
    }
    fleet.wait_for_red(&oracle::red(&requests)).await
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
