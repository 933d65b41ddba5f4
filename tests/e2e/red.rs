//! RED beyond its totals: quantiles over all nodes, the end of a series, spans that pass two agents.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use mirador_support::backends::client::until;
use mirador_support::capture::Capture;
use mirador_support::connector::last_points;
use mirador_support::node::Node;
use mirador_support::odd::{Maker, of_service, request};
use mirador_support::oracle::{self, RedKey};
use mirador_support::shop::Sender;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use serde_json::{Value, json};

use crate::exact::{now_unix_nano, shop_requests};
use crate::fleet::{Fleet, WAIT, red_key};

/// spanmetrics before an end that keeps what it is sent.
pub(crate) struct Counting {
    /// Takes whatever leaves.
    pub(crate) store: Capture,
    /// The role.
    pub(crate) spanmetrics: Node,
}

/// One destination with one owner.
pub(crate) fn owner(address: SocketAddr) -> Value {
    json!({"resolver": {"static": {"hostnames": [address.to_string()]}}})
}

impl Counting {
    pub(crate) async fn start() -> Result<Self> {
        let store = Capture::start().await?;
        let config = json!({
            "exporters": {"metrics": owner(store.address)}, "spanmetrics": {"metrics_flush_interval": "250ms"},
        });
        let spanmetrics = Node::central("spanmetrics", config).await?;
        Ok(Self { store, spanmetrics })
    }

    /// An agent that sends its spans to `traces` and its RED here.
    pub(crate) async fn agent(&self, id: &str, traces: SocketAddr) -> Result<Node> {
        Node::agent(json!({
            "agent_id": id,
            "red": {"metrics_flush_interval": "250ms"},
            "exporters": {
                "traces": owner(traces), "red": owner(self.spanmetrics.grpc), "metrics": null, "logs": null,
            },
        }))
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_that_pass_two_agents_are_counted_by_the_first_alone() -> Result<()> {
    let counting = Counting::start().await?;
    let mut back = counting.agent("back", counting.store.address).await?;
    let mut front = counting.agent("front", back.grpc).await?;
    let mut make = Maker::new(8, now_unix_nano()?);
    let mut spans = |count: usize| of_service("shop", (0..count).map(|_| make.span("work", 2, 1_000_000)).collect());
    Sender::new(&format!("http://{}", front.http))?.traces(&spans(10)).await?;
    Sender::new(&format!("http://{}", back.http))?.traces(&spans(5)).await?;
    // Whoever ends has sent everything that it has counted.
    front.stop().await?;
    back.stop().await?;
    until("15 calls", WAIT, async || {
        let found = last_points(&counting.store.metrics()?)?;
        let calls = found.iter().find(|((about, ..), _)| about.name == "traces.span.metrics.calls");
        let calls = calls.and_then(|(_, last)| last.count);
        ensure!(calls == Some(15.0), "{calls:?} calls");
        Ok(Some(()))
    })
    .await?;
    let passed: usize = counting.store.traces()?.iter().map(spans_of).sum();
    ensure!(passed == 15, "{passed} spans have come through");
    Ok(())
}

fn spans_of(request: &ExportTraceServiceRequest) -> usize {
    request.resource_spans.iter().flat_map(|resource| &resource.scope_spans).map(|scope| scope.spans.len()).sum()
}

/// Durations of every series in ascending order, in nanoseconds.
fn durations(requests: &[ExportTraceServiceRequest]) -> BTreeMap<RedKey, Vec<u64>> {
    let mut found: BTreeMap<RedKey, Vec<u64>> = BTreeMap::new();
    for one in requests {
        for resource in &one.resource_spans {
            for span in resource.scope_spans.iter().flat_map(|scope| &scope.spans) {
                // The recomputation of one span has one key.
                let attributes = resource.resource.clone().unwrap_or_default().attributes;
                let nanos = span.end_time_unix_nano - span.start_time_unix_nano;
                for key in oracle::red([&request(attributes, vec![span.clone()])]).into_keys() {
                    found.entry(key).or_default().push(nanos);
                }
            }
        }
    }
    for nanos in found.values_mut() {
        nanos.sort_unstable();
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quantiles_of_a_series_are_those_of_all_its_spans_over_all_nodes() -> Result<()> {
    // No interval ends: agents that end have their windows flushed, and the gauges look back on all of them.
    let hour = json!({"metrics_flush_interval": "1h"});
    let mut fleet = Fleet::start_with(2, json!({"red": hour}), json!({}), json!({"spanmetrics": hour})).await?;
    let requests = shop_requests(41, 6000)?;
    for (index, request) in requests.iter().enumerate() {
        fleet.sender(index % 2)?.traces(request).await?;
    }
    for agent in &mut fleet.agents {
        agent.stop().await?;
    }
    let exact = durations(&requests);
    until("the quantiles", WAIT, async || {
        fleet.metrics.flush().await?;
        for (name, share) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)] {
            let mut found = BTreeMap::new();
            for series in fleet.metrics.export(&format!("traces_span_metrics_duration_{name}_milliseconds")).await? {
                let (_, last) = series.samples.last().context("a series without a sample")?;
                found.insert(red_key(&series.labels), *last);
            }
            ensure!(found.keys().eq(exact.keys()), "{name} of {:?}", found.keys());
            for (key, nanos) in &exact {
                let rank = (share * nanos.len() as f64).ceil() as usize;
                let millis = nanos[rank.max(1) - 1] as f64 / 1e6;
                ensure!((found[key] - millis).abs() <= 0.01 * millis, "{name} of {key:?}: {} not {millis}", found[key]);
            }
        }
        Ok(Some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn series_without_calls_end_with_a_stale_marker_in_the_store_and_begin_again_at_zero() -> Result<()> {
    let graph = json!({"servicegraph": {"metrics_expiration": "2s"}});
    let red = json!({"spanmetrics": {"series_expiration": "2s", "quantiles": {"windows": 240}}});
    let fleet = Fleet::start_with(1, json!({}), graph, red).await?;
    let mut make = Maker::new(9, now_unix_nano()?);
    // A root: its edge, from `user`, is drawn at once.
    let mut visits = |count: usize| of_service("shop", (0..count).map(|_| make.span("visit", 2, 3_000_000)).collect());
    for (round, calls) in [(1, 3), (2, 4)] {
        fleet.sender(0)?.traces(&visits(calls)).await?;
        until("every series to have ended", WAIT, async || {
            fleet.metrics.flush().await?;
            let all = fleet.metrics.export(r#"{__name__=~"traces_(span_metrics|service_graph)_.+"}"#).await?;
            let names: BTreeSet<_> = all.iter().map(|series| &series.labels["__name__"]).collect();
            // Of RED calls, buckets, sum, count and three gauges; of the edge its total and the server's histogram.
            ensure!(names.len() == 7 + 4, "{names:?}");
            for series in &all {
                let (labels, samples) = (&series.labels, &series.samples);
                let lives = samples.split(|(_, value)| value.is_nan());
                let lives: Vec<_> = lives.filter(|life| !life.is_empty()).collect();
                let is_over = samples.last().is_some_and(|(_, value)| value.is_nan());
                ensure!(lives.len() == round && is_over, "{labels:?}: {samples:?}");
                if labels["__name__"].ends_with("_total") {
                    let life: Vec<f64> = lives[round - 1].iter().map(|(_, value)| *value).collect();
                    let (first, last) = (life.first().copied(), life.last().copied());
                    ensure!((first, last) == (Some(0.0), Some(calls as f64)), "{labels:?}: {samples:?}");
                }
            }
            Ok(Some(()))
        })
        .await?;
    }
    Ok(())
}
