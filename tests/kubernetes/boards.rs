//! Every panel of every dashboard shows something once the shop is open, and no alert is raised by a healthy one.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use mirador_support::backends::{Jaeger, VictoriaLogs};
use mirador_support::node::Node;
use mirador_support::shop;
use serde_json::{Value, json};

use crate::rig::{Store, forest, owner, servicegraph, spanmetrics};
use crate::{alerts, chart};

/// A query of a panel, as Grafana would send it.
struct Query {
    place: String,
    expression: String,
}

/// What Grafana puts in place of a variable; every variable of ours may be all values.
fn expand(expression: &str, variables: &[&str]) -> String {
    let text = expression.replace("$__rate_interval", "1m");
    variables.iter().fold(text, |text, name| text.replace(&format!("${name}"), ".*"))
}

fn queries() -> Result<Vec<Query>> {
    let mut found = Vec::new();
    let mut ids = BTreeMap::new();
    for entry in std::fs::read_dir(chart::root().join("charts/mirador/dashboards"))? {
        let path = entry?.path();
        let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let board: Value = serde_json::from_str(&std::fs::read_to_string(&path)?).with_context(|| file.clone())?;
        let id = board["uid"].as_str().context("a dashboard has a uid")?;
        ensure!(ids.insert(id.to_owned(), file.clone()).is_none(), "{file}: the uid {id} is taken");
        let variables = board["templating"]["list"].as_array().cloned().unwrap_or_default();
        let names: Vec<&str> = variables.iter().filter_map(|variable| variable["name"].as_str()).collect();
        ensure!(names.contains(&"datasource"), "{file} has no variable for its data source");
        for variable in variables.iter().filter(|variable| variable["type"] == "query") {
            // label_values(metric, label) needs series of the metric that have the label.
            let text = variable["query"]["query"].as_str().unwrap_or_default();
            let inner = text.strip_prefix("label_values(").and_then(|text| text.strip_suffix(')'));
            let (metric, label) = inner.and_then(|inner| inner.split_once(", ")).with_context(|| text.to_owned())?;
            let place = format!("{file}: variable {}", variable["name"]);
            found.push(Query { place, expression: format!("{metric}{{{label}!=\"\"}}") });
        }
        for panel in board["panels"].as_array().context("a dashboard has panels")? {
            ensure!(panel["datasource"]["uid"] == "${datasource}", "{file}: {}", panel["title"]);
            for target in panel["targets"].as_array().context("a panel has targets")? {
                let place = format!("{file}: {}", panel["title"]);
                let text = target["expr"].as_str().with_context(|| place.clone())?;
                found.push(Query { place, expression: expand(text, &names) });
            }
        }
    }
    ensure!(ids.len() == 5, "{ids:?}");
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_shows_something_of_the_shop_and_a_healthy_shop_raises_no_alert() -> Result<()> {
    let store = Store::start().await?;
    let (jaeger, victorialogs) = tokio::try_join!(Jaeger::start(), VictoriaLogs::start())?;
    let forest = forest(&store).await?;
    let graph = servicegraph(&forest, &format!("{}/v1/traces", jaeger.otlp_url()), json!({})).await?;
    let red = spanmetrics(&forest).await?;
    let logs = json!({"exporters": {"otlphttp_logs": {"endpoint": victorialogs.otlp_url()}}});
    let logs = Node::central("logs", logs).await?;
    let agent = Node::agent(json!({
        "red": {"metrics_flush_interval": "250ms"},
        "steering": {"enabled": false},
        "exporters": {"traces": owner(&graph), "red": owner(&red), "metrics": owner(&forest), "logs": owner(&logs)},
    }))
    .await?;
    for (node, component) in [
        (&agent, "agent"),
        (&graph, "servicegraph"),
        (&red, "spanmetrics"),
        (&forest, "isolationforest"),
        (&logs, "logs"),
    ] {
        store.scrape(node, component, &format!("mirador-{component}-0"))?;
    }
    let options = shop::Options {
        endpoint: format!("http://{}", agent.http),
        visits_per_second: 20,
        seed: 3,
        fault: None,
        run_for: None,
    };
    let open = shop::run(options, |_| ());
    let asked = async {
        for query in queries()? {
            store.until(&query.place, &query.expression).await.with_context(|| query.expression.clone())?;
        }
        for alert in alerts::all()? {
            // An alert that waits is not raised by a moment; the shop's own services have a usual share of errors.
            let raised = store.ask(&alert.expression).await.with_context(|| alert.name.clone())?;
            ensure!(raised.is_empty(), "{} is raised by a healthy shop: {raised:?}", alert.name);
        }
        Ok(())
    };
    tokio::select! {
        ended = open => ended.map(drop).and_then(|()| anyhow::bail!("the shop closed")),
        asked = asked => asked,
    }
}
