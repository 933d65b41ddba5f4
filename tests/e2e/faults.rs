//! Things that break: what was acknowledged is there afterwards, and no number has changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use mirador_support::backends::client::until;
use mirador_support::oracle;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use serde_json::json;

use crate::exact::{conserved, shop_requests};
use crate::fleet::{Fleet, WAIT};

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
    let requests = shop_requests(21, 4000)?;
    let half = requests.len() / 2;
    insist(&fleet, 0, &requests[..half]).await?;
    // The window is an hour long: only the drain can have sent it.
    fleet.agents[0].stop().await?;
    fleet.wait_for_red(&oracle::red(&requests[..half])).await?;
    fleet.agents[0].restart().await?;
    insist(&fleet, 0, &requests[half..]).await?;
    fleet.agents[0].stop().await?;
    fleet.wait_for_red(&oracle::red(&requests)).await?;
    fleet.wait_for_edges(&oracle::edges(&requests)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_store_that_is_away_for_a_while_costs_no_acknowledged_span_and_no_number() -> Result<()> {
    // Halves of an edge come in on both sides of the absence: they have to wait for each other longer than it lasts.
    let graph = json!({
        "exporters": {"otlphttp_traces": {"timeout": "1s"}, "retry_on_failure": {"max_elapsed_time": "300ms"}},
        "servicegraph": {"store": {"ttl": "45s"}},
    });
    let fleet = Fleet::start(1, json!({}), graph).await?;
    // Its memory would be gone with it: pausing leaves what it has acknowledged.
    let requests = shop_requests(22, 3000)?;
    let third = requests.len() / 3;
    insist(&fleet, 0, &requests[..third]).await?;
    fleet.traces.pause();
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
    fleet.traces.resume();
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
    let requests = shop_requests(23, 3000)?;
    let half = requests.len() / 2;
    insist(&fleet, 0, &requests[..half]).await?;
    fleet.metrics.stop().await?;
    insist(&fleet, 0, &requests[half..]).await?;
    until("a flush to fail", WAIT, async || {
        let mut failed = 0.0;
        for forest in &fleet.forests {
            failed += forest.metric("mirador_exporter_retries_total", &[("exporter", "victoriametrics")]).await?;
        }
        Ok((failed >= 1.0).then_some(()))
    })
    .await?;
    fleet.metrics.restart().await?;
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
