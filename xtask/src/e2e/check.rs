//! What the stores of the cluster have to show while the shop is open.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use mirador_support::backends::{client, victoriametrics};
use mirador_support::shop;

use super::cluster::Cluster;

/// How long the stores may take to show what was sent.
const WAIT: Duration = Duration::from_secs(300);
/// The service of the pod that sends to an address where nobody is; its manifest names it.
const STRANGER: &str = "stranger";

/// Runs the shop until the stores show all of it, and with `steering` what was never sent to an agent.
pub(super) async fn everything(cluster: &Cluster<'_>, steering: bool) -> Result<()> {
    let agent = cluster.forward("mirador-agent", 4318)?;
    let metrics = cluster.forward("victoriametrics", 8428)?;
    let traces = cluster.forward("victoriatraces", 10428)?;
    let own = cluster.forward("mirador-agent", 8888)?;
    for (what, url, path) in
        [("the agent", &own.url, "/metrics"), ("metrics", &metrics.url, "/health"), ("traces", &traces.url, "/health")]
    {
        client::until(what, WAIT, async || {
            client::text(client::client()?.get(format!("{url}{path}"))).await?;
            Ok(Some(()))
        })
        .await?;
    }
    let options =
        shop::Options { endpoint: agent.url.clone(), visits_per_second: 10, seed: 1, fault: None, run_for: None };
    let asked = async {
        for query in ["traces_span_metrics_calls_total", "traces_service_graph_request_total", "anomaly_score"] {
            client::until(query, WAIT, async || {
                let found = victoriametrics::query(&metrics.url, query, None).await?;
                Ok((!found.is_empty()).then_some(()))
            })
            .await?;
        }
        let services = async || -> Result<Vec<String>> {
            let request = client::client()?.get(format!("{}/select/jaeger/api/services", traces.url));
            let found = client::json(request).await?;
            let names = found["data"].as_array().into_iter().flatten();
            Ok(names.filter_map(|name| name.as_str().map(str::to_owned)).collect())
        };
        client::until("the services of traces", WAIT, async || {
            let found = services().await?;
            Ok(shop::SERVICES.iter().all(|service| found.iter().any(|name| name == service)).then_some(()))
        })
        .await?;
        client::until("log rows", WAIT, async || {
            // The store itself is asked; its client says `(1 rows)`.
            let text = cluster.exec("cassandra", &["cqlsh", "-e", "SELECT service FROM otel.logs_v1 LIMIT 1"])?;
            ensure!(text.contains("(1 rows)"), "no row yet: {text}");
            Ok(Some(()))
        })
        .await?;
        if steering {
            client::until("the spans that were sent to nobody", WAIT, async || {
                let state = client::text(client::client()?.get(format!("{}/metrics", own.url))).await?;
                let state: Vec<&str> =
                    state.lines().filter(|line| line.starts_with("mirador_steering_state{")).collect();
                ensure!(services().await?.iter().any(|name| name == STRANGER), "not steered: {state:?}");
                Ok(Some(()))
            })
            .await?;
            client::until("the pod's name on its spans", WAIT, async || {
                let query = format!("{}/select/jaeger/api/traces?service={STRANGER}&limit=1", traces.url);
                let found = client::text(client::client()?.get(query)).await?;
                Ok(found.contains("k8s.pod.name").then_some(()))
            })
            .await?;
        }
        Ok(())
    };
    tokio::select! {
        ended = shop::run(options, |_| ()) => { ended?; bail!("the shop closed") }
        asked = asked => asked,
    }
}
