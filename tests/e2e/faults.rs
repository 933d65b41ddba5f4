//! Things that break: what was acknowledged is there afterwards, and no number has changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use mirador_support::backends::client::until;
use mirador_support::oracle;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use serde_json::json;

use crate::exact::{conserved, shop_halves, shop_requests};
use crate::fleet::{Fleet, Traces, WAIT};

/// Sends one request after the other until each is acknowledged, however often it takes.
async fn insist(fleet: &Fleet, agent: usize, requests: &[ExportTraceServiceRequest]) -> Result<()> {
    let sender = fleet.sender(agent)?;
    for request in requests {
        until("a request to be acknowledged", WAIT, async || {
            sender.traces(request).await?;
            Ok(Some(()))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_asked_to_end_loses_nothing_that_it_has_acknowledged() -> Result<()> {
    let mut fleet = Fleet::start(1, json!({"red": {"metrics_flush_interval": "1h"}}), json!({})).await?;
    let [before, after] = shop_halves(21, 4000)?;
    insist(&fleet, 0, &before).await?;
    // The window is an hour long: only the drain can have sent it.
    fleet.agents[0].stop().await?;
    fleet.wait_for_red(&oracle::red(&before)).await?;
    fleet.agents[0].restart().await?;
    insist(&fleet, 0, &after).await?;
    fleet.agents[0].stop().await?;
    let requests = [before, after].concat();
    fleet.wait_for_red(&oracle::red(&requests)).await?;
    fleet.wait_for_edges(&oracle::edges(&requests)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_store_that_is_away_for_a_while_costs_no_acknowledged_span_and_no_number() -> Result<()> {
    // Halves of an edge come in on both sides of the absence: they have to wait for each other longer than it lasts.
    let graph = json!({
        "exporters": {"retry_on_failure": {"max_elapsed_time": "300ms"}},
        "servicegraph": {"store": {"ttl": "45s"}},
    });
    let traces = Traces::start().await?;
    let fleet = Fleet::before(traces, json!({"timeout": "1s"}), 1, [json!({}), graph, json!({})]).await?;
    // Its memory would be gone with it: pausing leaves what it has acknowledged.
    let requests = shop_requests(22, 3000)?;
    let third = requests.len() / 3;
    insist(&fleet, 0, &requests[..third]).await?;
    fleet.traces.process().pause();
    let resumed = Arc::new(AtomicBool::new(false));
    let sender = fleet.sender(0)?;
    let (waiting, middle) = (Arc::clone(&resumed), requests[third..2 * third].to_vec());
    let sending = tokio::spawn(async move {
        let mut refused_before_resume = 0;
        for request in &middle {
            until("a request to be acknowledged", WAIT, async || match sender.traces(request).await {
                Ok(()) => Ok(Some(())),
                Err(error) => {
                    anyhow::bail!(error)
                }
            })
            .await?;
            refused_before_resume += usize::from(!waiting.load(Ordering::SeqCst));
        }
        anyhow::Ok(refused_before_resume)
    });
    until("the store's absence to be felt", WAIT, async || {
        let given_up = fleet.servicegraph.metric("mirador_exporter_gave_up_total", &[]).await?;
        Ok((given_up >= 1.0).then_some(()))
    })
    .await?;
    resumed.store(true, Ordering::SeqCst);
    fleet.traces.process().resume();
    let acknowledged_while_away = sending.await??;
    ensure!(acknowledged_while_away == 0, "{acknowledged_while_away} requests were acknowledged without a store");
    insist(&fleet, 0, &requests[2 * third..]).await?;
    fleet.wait_for_red(&oracle::red(&requests)).await?;
    fleet.wait_for_edges(&oracle::edges(&requests)).await?;
    conserved(&fleet.agents[0]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metric_store_that_is_stopped_and_started_again_loses_nothing_that_was_acknowledged() -> Result<()> {
    let mut fleet = Fleet::start(1, json!({}), json!({})).await?;
    let [before, after] = shop_halves(23, 3000)?;
    insist(&fleet, 0, &before).await?;
    fleet.metrics.stop().await?;
    insist(&fleet, 0, &after).await?;
    until("a flush to fail", WAIT, async || {
        let mut failed = 0.0;
        for forest in &fleet.forests {
            failed += forest.metric("mirador_exporter_retries_total", &[("exporter", "victoriametrics")]).await?;
        }
        Ok((failed >= 1.0).then_some(()))
    })
    .await?;
    fleet.metrics.restart().await?;
    let requests = [before, after].concat();
    fleet.wait_for_red(&oracle::red(&requests)).await?;
    fleet.wait_for_edges(&oracle::edges(&requests)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_sent_again_changes_no_number() -> Result<()> {
    let fleet = Fleet::start(1, json!({}), json!({})).await?;
    let requests = shop_requests(24, 1500)?;
    for _ in 0..3 {
        insist(&fleet, 0, &requests).await?;
    }
    fleet.wait_for_red(&oracle::red(&requests)).await?;
    fleet.wait_for_edges(&oracle::edges(&requests)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn deltas_that_no_flush_has_carried_are_not_acknowledged_and_a_kill_loses_none_of_them() -> Result<()> {
    // The interval never ends: only an agent that ends, and asks for it, makes spanmetrics flush.
    let red = json!({"spanmetrics": {"metrics_flush_interval": "1h"}});
    let mut fleet = Fleet::start_with(2, json!({}), json!({}), red).await?;
    let requests = shop_requests(25, 3000)?;
    let half = requests.len() / 2;
    insist(&fleet, 0, &requests[..half]).await?;
    until("deltas to be held", WAIT, async || {
        let merged = fleet.spanmetrics.metric("mirador_spanmetrics_deltas_total", &[]).await?;
        Ok((merged >= 1.0).then_some(()))
    })
    .await?;
    fleet.spanmetrics.kill().await?;
    let acknowledged = fleet.agents[0].metric("mirador_agent_red_acknowledged_deltas_total", &[]).await?;
    ensure!(acknowledged == 0.0, "{acknowledged} deltas were acknowledged before they were stored");
    fleet.spanmetrics.restart().await?;
    insist(&fleet, 1, &requests[half..]).await?;
    for agent in &mut fleet.agents {
        agent.stop().await?;
    }
    fleet.wait_for_red(&oracle::red(&requests)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spanmetrics_with_a_state_directory_that_is_killed_again_and_again_counts_every_span_once() -> Result<()> {
    let red = json!({"state": {"directory": "state"}, "spanmetrics": {"metrics_flush_interval": "100ms"}});
    let agent = json!({"red": {"metrics_flush_interval": "100ms"}});
    let mut fleet = Fleet::start_with(2, agent, json!({}), red).await?;
    let requests = shop_requests(26, 12_000)?;
    let sending: Vec<_> = (0..2)
        .map(|agent| {
            let (sender, requests) = (fleet.sender(agent)?, requests.clone());
            Ok(tokio::spawn(async move {
                for request in requests.iter().skip(agent).step_by(2) {
                    until("a request to be acknowledged", WAIT, async || Ok(Some(sender.traces(request).await?)))
                        .await?;
                }
                anyhow::Ok(())
            }))
        })
        .collect::<Result<_>>()?;
    for _ in 0..5 {
        // It has merged something since it began, and is flushing all the time.
        until("deltas to be merged", WAIT, async || {
            let merged = fleet.spanmetrics.metric("mirador_spanmetrics_deltas_total", &[]).await?;
            Ok((merged >= 1.0 || sending.iter().all(tokio::task::JoinHandle::is_finished)).then_some(()))
        })
        .await?;
        fleet.spanmetrics.kill().await?;
        fleet.spanmetrics.restart().await?;
    }
    for sent in sending {
        sent.await??;
    }
    fleet.wait_for_red(&oracle::red(&requests)).await?;
    // And it stays so: what the agents sent again last changes nothing.
    for agent in &mut fleet.agents {
        agent.stop().await?;
    }
    fleet.spanmetrics.stop().await?;
    fleet.wait_for_red(&oracle::red(&requests)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_gives_up_waiting_and_sends_again_changes_no_number() -> Result<()> {
    let red = json!({"spanmetrics": {"metrics_flush_interval": "4s"}});
    let agent = json!({"windows": {"acknowledge_timeout": "1s"}});
    let fleet = Fleet::start_with(1, agent, json!({}), red).await?;
    let requests = shop_requests(27, 2000)?;
    insist(&fleet, 0, &requests).await?;
    until("a delta to be sent again", WAIT, async || {
        let again = fleet.spanmetrics.metric("mirador_spanmetrics_duplicate_deltas_total", &[]).await?;
        Ok((again >= 1.0).then_some(()))
    })
    .await?;
    fleet.wait_for_red(&oracle::red(&requests)).await?;
    until("every delta to be acknowledged", WAIT, async || {
        let waiting = fleet.agents[0].metric("mirador_agent_red_waiting_deltas", &[]).await?;
        Ok((waiting == 0.0).then_some(()))
    })
    .await?;
    fleet.wait_for_red(&oracle::red(&requests)).await
}

/// The requests with the spans of some kinds only.
fn only(requests: &[ExportTraceServiceRequest], is_wanted: impl Fn(i32) -> bool) -> Vec<ExportTraceServiceRequest> {
    let mut requests = requests.to_vec();
    let scopes = requests.iter_mut().flat_map(|request| &mut request.resource_spans);
    for scope in scopes.flat_map(|resource| &mut resource.scope_spans) {
        scope.spans.retain(|span| is_wanted(span.kind));
    }
    requests
}

#[tokio::test(flavor = "multi_thread")]
async fn edges_whose_sides_come_in_before_and_after_a_restart_of_servicegraph_are_drawn_once() -> Result<()> {
    let graph = json!({"state": {"directory": "state"}, "servicegraph": {"store": {"ttl": "30s"}}});
    let mut fleet = Fleet::start(1, json!({}), graph).await?;
    let requests = shop_requests(28, 2000)?;
    // Clients and producers first: nobody has answered them when the process ends.
    let is_caller = |kind| matches!(kind, 3 | 4);
    insist(&fleet, 0, &only(&requests, is_caller)).await?;
    let waiting = fleet.servicegraph.metric("mirador_servicegraph_waiting_spans", &[]).await?;
    ensure!(waiting >= 1.0, "no span waits for its other side");
    fleet.servicegraph.stop().await?;
    fleet.servicegraph.restart().await?;
    insist(&fleet, 0, &only(&requests, |kind| !is_caller(kind))).await?;
    fleet.wait_for_edges(&oracle::edges(&requests)).await?;
    // Whoever waits in vain is drawn at the end of its wait: nobody does.
    until("every wait to end", WAIT, async || {
        let waiting = fleet.servicegraph.metric("mirador_servicegraph_waiting_spans", &[]).await?;
        Ok((waiting == 0.0).then_some(()))
    })
    .await?;
    fleet.wait_for_edges(&oracle::edges(&requests)).await
}
