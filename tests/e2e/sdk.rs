//! Senders that are not ours: an application of stock OpenTelemetry SDKs, and `telemetrygen`.
//!
//! The application answers a known number of orders, some of which fail; everything that the console then says
//! has to follow from these numbers.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use mirador_support::apps::{self, Application, FRONT, PRICING, STOCK};
use mirador_support::backends::client::until;
use serde_json::Value;

use crate::fleet::WAIT;
use crate::laptop::{Laptop, number, start};

/// What is ordered, how often, and the status of the answer.
const ORDERS: [(&str, usize, u16); 3] = [("fine", 20, 200), ("absent", 9, 404), ("broken", 6, 502)];
/// All orders.
const ALL: f64 = 35.0;
/// Failures as a server sees them: only what is its own fault.
const BROKEN: f64 = 6.0;
/// Failures as an HTTP client sees them: every answer from 400 up.
const NOT_FINE: f64 = 15.0;

/// Service, span name, kind, calls, errors: the six spans of an order.
const OPERATIONS: [(&str, &str, &str, f64, f64); 6] = [
    (FRONT, "GET /order/<article>/<int:number>", "server", ALL, BROKEN),
    (FRONT, "GET", "client", ALL, NOT_FINE),
    (PRICING, "GET /price/{article}/{number}", "server", ALL, BROKEN),
    (PRICING, "HTTP GET", "client", ALL, NOT_FINE),
    (STOCK, "GET /stock/<article>/<int:number>", "server", ALL, BROKEN),
    (STOCK, "SELECT", "client", ALL, BROKEN),
];

/// Client, server, connection type, calls, failed.
const EDGES: [(&str, &str, &str, f64, f64); 4] = [
    ("user", FRONT, "virtual_node", ALL, BROKEN),
    (FRONT, PRICING, "", ALL, NOT_FINE),
    (PRICING, STOCK, "", ALL, NOT_FINE),
    (STOCK, "sqlite", "database", ALL, BROKEN),
];

fn rows(answer: &Value) -> impl Iterator<Item = &Value> {
    answer.as_array().into_iter().flatten()
}

fn word<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap_or_default()
}

/// Every order once, each with a number of its own, articles mixed.
async fn order_everything(application: &Application) -> Result<()> {
    let mut next = 0;
    for round in 0..ORDERS.iter().map(|(_, count, _)| *count).max().unwrap_or_default() {
        for (article, count, status) in ORDERS {
            if round < count {
                let answer = application.order(article, next).await?;
                ensure!(answer == status, "{article} was answered {answer}\n{}", application.tails());
                next += 1;
            }
        }
    }
    Ok(())
}

/// The console says exactly `OPERATIONS` of the three services.
async fn red_is_what_was_driven(laptop: &Laptop) -> Result<()> {
    let mut expected: Vec<_> = OPERATIONS.iter().map(|row| format!("{row:?}")).collect();
    expected.sort();
    until("RED of the application", WAIT, async || {
        let answer = laptop.central.ask("/api/red?since=1h").await?;
        let mut found: Vec<_> = rows(&answer)
            .map(|row| (word(row, "service"), word(row, "span"), word(row, "kind"), number(row, "calls"), number(row, "errors")))
            .map(|row| format!("{row:?}"))
            .collect();
        found.sort();
        ensure!(found == expected, "expected {expected:#?}, found {found:#?}");
        Ok(Some(()))
    })
    .await
}

/// The console says exactly `EDGES`.
async fn edges_are_what_was_driven(laptop: &Laptop) -> Result<()> {
    let mut expected: Vec<_> = EDGES.iter().map(|row| format!("{row:?}")).collect();
    expected.sort();
    until("edges of the application", WAIT, async || {
        let answer = laptop.central.ask("/api/edges?since=1h").await?;
        let mut found: Vec<_> = rows(&answer)
            .map(|row| {
                let kind = word(row, "connection_type");
                (word(row, "client"), word(row, "server"), kind, number(row, "calls"), number(row, "failed"))
            })
            .map(|row| format!("{row:?}"))
            .collect();
        found.sort();
        ensure!(found == expected, "expected {expected:#?}, found {found:#?}");
        Ok(Some(()))
    })
    .await
}

/// One trace per order: six spans in one chain over the three services. Gives the trace ids.
async fn traces_are_whole(laptop: &Laptop) -> Result<BTreeSet<String>> {
    let ids = until("every trace", WAIT, async || {
        let answer = laptop.central.ask("/api/traces?since=1h&limit=1000").await?;
        let spans: i64 = rows(&answer).filter_map(|row| row["spans"].as_i64()).sum();
        ensure!(rows(&answer).count() == ALL as usize && spans == 6 * ALL as i64, "{answer}");
        Ok(Some(rows(&answer).map(|row| word(row, "trace_id").to_owned()).collect::<BTreeSet<_>>()))
    })
    .await?;
    let chain: Vec<_> = OPERATIONS.iter().map(|(service, name, ..)| (*service, *name)).collect();
    for id in &ids {
        let trace = laptop.central.ask(&format!("/api/traces/{id}")).await?;
        let by_parent: BTreeMap<&str, &Value> = rows(&trace).map(|span| (word(span, "parent_span_id"), span)).collect();
        let mut found = Vec::new();
        let mut parent = "";
        while let Some(span) = by_parent.get(parent) {
            found.push((word(span, "service"), word(span, "name")));
            parent = word(span, "span_id");
        }
        ensure!(found == chain && rows(&trace).count() == chain.len(), "trace {id} is {found:?}: {trace}");
    }
    Ok(ids)
}

/// One log record per order and service, with the order's trace id.
async fn logs_are_there_once(laptop: &Laptop, traces: &BTreeSet<String>) -> Result<()> {
    let mut of_order: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (service, words) in
        [(FRONT, ["ordered ", "-"]), (PRICING, ["priced ", "pricing failed "]), (STOCK, ["looked up ", "no stock "])]
    {
        until(&format!("the log records of {service}"), WAIT, async || {
            let answer = laptop.central.ask(&format!("/api/logs?since=1h&limit=1000&service={service}")).await?;
            let mut orders = Vec::new();
            for row in rows(&answer) {
                let body = word(row, "body");
                if let Some(order) = words.iter().find_map(|start| body.strip_prefix(start)) {
                    orders.push(order.to_owned());
                    of_order.entry(order.to_owned()).or_default().insert(word(row, "trace_id").to_owned());
                }
            }
            let different: BTreeSet<_> = orders.iter().collect();
            ensure!(orders.len() == ALL as usize && different.len() == orders.len(), "{orders:?}: {answer}");
            Ok(Some(()))
        })
        .await?;
    }
    let found: BTreeSet<String> = of_order.values().flatten().cloned().collect();
    ensure!(of_order.values().all(|ids| ids.len() == 1), "the records of one order have several trace ids: {of_order:?}");
    ensure!(found == *traces, "trace ids of log records {found:?}, of spans {traces:?}");
    Ok(())
}

/// Every stored series of the application has its score, and the SDK's own request counts are whole.
async fn metrics_are_there_and_scored(laptop: &Laptop) -> Result<()> {
    let answer = laptop.central.ask("/api/metrics").await?;
    for row in rows(&answer) {
        let name = word(row, "name");
        let series = laptop.central.ask(&format!("/api/series?since=1h&name={name}")).await?;
        for one in rows(&series) {
            if name != "anomaly_score" { eprintln!("{name} {} {:?}", one["labels"], one["samples"].as_array().unwrap().last()); }
        }
    }
    anyhow::bail!("look")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stock_sdks_send_over_grpc_and_http_adds_up_to_what_was_asked_of_them() -> Result<()> {
    let laptop = start().await?;
    let mut application = Application::start(&laptop.agent).await?;
    order_everything(&application).await?;
    application.stop().await.with_context(|| application.tails())?;
    red_is_what_was_driven(&laptop).await.with_context(|| application.tails())?;
    edges_are_what_was_driven(&laptop).await?;
    let traces = traces_are_whole(&laptop).await?;
    logs_are_there_once(&laptop, &traces).await?;
    metrics_are_there_and_scored(&laptop).await
}
