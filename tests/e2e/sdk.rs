//! Senders that are not ours: an application of stock OpenTelemetry SDKs, and `telemetrygen`.
//!
//! The application answers a known number of orders, some of which fail; everything that the console then says
//! has to follow from these numbers.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use mirador_support::apps::{Application, FRONT, PRICING, STOCK};
use mirador_support::backends::client::until;
use mirador_support::node::Node;
use serde_json::{Value, json};

use crate::fleet::{WAIT, owners};

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

/// An agent before `central all` on the embedded store.
struct Pair {
    agent: Node,
    central: Node,
}

impl Pair {
    async fn start() -> Result<Self> {
        let central = Node::central(
            "all",
            json!({
                "exporters": {"embedded": {"path": "store.sqlite"}},
                "servicegraph": {"metrics_flush_interval": "250ms", "store": {"ttl": "10s"}},
                "spanmetrics": {"metrics_flush_interval": "250ms"},
                "isolationforest": {"writer": {"max_delay": "20ms"}},
            }),
        )
        .await?;
        let to_central = owners(&[&central]);
        let agent = Node::agent(json!({
            "red": {"metrics_flush_interval": "250ms"},
            "exporters": {"traces": to_central, "metrics": to_central, "logs": to_central, "red": to_central},
        }))
        .await?;
        Ok(Self { agent, central })
    }
}

fn rows(answer: &Value) -> impl Iterator<Item = &Value> {
    answer.as_array().into_iter().flatten()
}

fn number(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or(f64::NAN)
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
async fn red_is_what_was_driven(pair: &Pair) -> Result<()> {
    let mut expected: Vec<_> = OPERATIONS.iter().map(|row| format!("{row:?}")).collect();
    expected.sort();
    until("RED of the application", WAIT, async || {
        let answer = pair.central.ask("/api/red?since=1h").await?;
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
async fn edges_are_what_was_driven(pair: &Pair) -> Result<()> {
    let mut expected: Vec<_> = EDGES.iter().map(|row| format!("{row:?}")).collect();
    expected.sort();
    until("edges of the application", WAIT, async || {
        let answer = pair.central.ask("/api/edges?since=1h").await?;
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
async fn traces_are_whole(pair: &Pair) -> Result<BTreeSet<String>> {
    let ids = until("every trace", WAIT, async || {
        let answer = pair.central.ask("/api/traces?since=1h&limit=1000").await?;
        let spans: i64 = rows(&answer).filter_map(|row| row["spans"].as_i64()).sum();
        ensure!(rows(&answer).count() == ALL as usize && spans == 6 * ALL as i64, "{answer}");
        Ok(Some(rows(&answer).map(|row| word(row, "trace_id").to_owned()).collect::<BTreeSet<_>>()))
    })
    .await?;
    let chain: Vec<_> = OPERATIONS.iter().map(|(service, name, ..)| (*service, *name)).collect();
    for id in &ids {
        let trace = pair.central.ask(&format!("/api/traces/{id}")).await?;
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
async fn logs_are_there_once(pair: &Pair, traces: &BTreeSet<String>) -> Result<()> {
    let mut of_order: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (service, words) in
        [(FRONT, ["ordered ", "-"]), (PRICING, ["priced ", "pricing failed "]), (STOCK, ["looked up ", "no stock "])]
    {
        let found = until(&format!("the log records of {service}"), WAIT, async || {
            let answer = pair.central.ask(&format!("/api/logs?since=1h&limit=1000&service={service}")).await?;
            let mut orders = Vec::new();
            for row in rows(&answer) {
                let body = word(row, "body");
                if let Some(order) = words.iter().find_map(|start| body.strip_prefix(start)) {
                    orders.push((order.to_owned(), word(row, "trace_id").to_owned()));
                }
            }
            let different: BTreeSet<_> = orders.iter().map(|(order, _)| order).collect();
            ensure!(orders.len() == ALL as usize && different.len() == orders.len(), "{orders:?}: {answer}");
            Ok(Some(orders))
        })
        .await?;
        for (order, trace) in found {
            of_order.entry(order).or_default().insert(trace);
        }
    }
    let found: BTreeSet<String> = of_order.values().flatten().cloned().collect();
    ensure!(of_order.values().all(|ids| ids.len() == 1), "the records of one order have several trace ids: {of_order:?}");
    ensure!(found == *traces, "trace ids of log records {found:?}, of spans {traces:?}");
    Ok(())
}

/// Every stored series of the application has its score, and the SDK's own request counts are whole.
async fn metrics_are_there_and_scored(pair: &Pair) -> Result<()> {
    let answer = pair.central.ask("/api/metrics").await?;
    for row in rows(&answer) {
        let name = word(row, "name");
        let series = pair.central.ask(&format!("/api/series?since=1h&name={name}")).await?;
        for one in rows(&series) {
            if name != "anomaly_score" { eprintln!("{name} {} {:?}", one["labels"], one["samples"].as_array().unwrap().last()); }
        }
    }
    anyhow::bail!("look")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stock_sdks_send_over_grpc_and_http_adds_up_to_what_was_asked_of_them() -> Result<()> {
    let pair = Pair::start().await?;
    let mut application = Application::start(&pair.agent).await?;
    order_everything(&application).await?;
    application.stop().await.with_context(|| application.tails())?;
    red_is_what_was_driven(&pair).await.with_context(|| application.tails())?;
    edges_are_what_was_driven(&pair).await?;
    let traces = traces_are_whole(&pair).await?;
    logs_are_there_once(&pair, &traces).await?;
    metrics_are_there_and_scored(&pair).await
}
