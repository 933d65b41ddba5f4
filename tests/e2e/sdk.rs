//! Senders that are not ours: an application of stock OpenTelemetry SDKs, and `telemetrygen`.
//!
//! The application answers a known number of orders, some of which fail; everything that the console then says
//! has to follow from these numbers.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use mirador_support::apps::{self, Application, FRONT, GATEWAY, PRICING, STOCK};
use mirador_support::backends::client::until;
use serde_json::{Value, json};

use crate::exact::conserved;
use crate::fleet::{Pair, WAIT};

/// What is ordered, how often, and the status of the answer.
const ORDERS: [(&str, usize, u16); 3] = [("fine", 20, 200), ("absent", 9, 404), ("broken", 6, 502)];
/// All orders.
const ALL: f64 = 35.0;
/// Failures as a server sees them: only what is its own fault.
const BROKEN: f64 = 6.0;
/// Failures as an HTTP client sees them: every answer from 400 up.
const NOT_FINE: f64 = 15.0;

/// Service, span name, kind, calls, errors.
type Operation = (&'static str, &'static str, &'static str, f64, f64);
/// Client, server, connection type, calls, failed.
type Edge = (&'static str, &'static str, &'static str, f64, f64);
/// Service, counter with labels as a question has them, and what it has counted in all.
type Counter = (&'static str, &'static str, f64);

/// The two spans that the gateway adds to an order.
const GATEWAY_OPERATIONS: [Operation; 2] =
    [(GATEWAY, "GET", "server", ALL, BROKEN), (GATEWAY, "GET", "client", ALL, NOT_FINE)];

/// The six spans of an order.
const OPERATIONS: [Operation; 6] = [
    (FRONT, "GET /order/<article>/<int:number>", "server", ALL, BROKEN),
    (FRONT, "GET", "client", ALL, NOT_FINE),
    (PRICING, "GET /price/{article}/{number}", "server", ALL, BROKEN),
    (PRICING, "HTTP GET", "client", ALL, NOT_FINE),
    (STOCK, "GET /stock/<article>/<int:number>", "server", ALL, BROKEN),
    (STOCK, "SELECT", "client", ALL, BROKEN),
];

/// How orders come in, by the gateway or not.
const GATEWAY_EDGES: [Edge; 2] = [("user", GATEWAY, "virtual_node", ALL, BROKEN), (GATEWAY, FRONT, "", ALL, NOT_FINE)];
const FRONT_EDGE: Edge = ("user", FRONT, "virtual_node", ALL, BROKEN);

/// The edges of an order that has come in.
const EDGES: [Edge; 3] = [
    (FRONT, PRICING, "", ALL, NOT_FINE),
    (PRICING, STOCK, "", ALL, NOT_FINE),
    (STOCK, "sqlite", "database", ALL, BROKEN),
];

/// What the gateway's SDK counts: its own exports too, which are no GET.
const GATEWAY_METRICS: [Counter; 2] = [
    (GATEWAY, "http_server_request_duration_seconds_count", ALL),
    (GATEWAY, "http_client_request_duration_seconds_count&http_request_method=GET", ALL),
];

/// What the SDKs count by themselves, and one counter of our own making. An order that is not broken has a price.
const METRICS: [Counter; 6] = [
    (FRONT, "http_server_request_duration_seconds_count", ALL),
    (FRONT, "http_client_request_duration_seconds_count", ALL),
    (PRICING, "http_server_request_duration_seconds_count", ALL),
    (PRICING, "http_client_request_duration_seconds_count", ALL),
    (PRICING, "shop_prices_total", ALL - BROKEN),
    // Delta temporality and exponential buckets, old semantic conventions.
    (STOCK, "http_server_duration_milliseconds_count", ALL),
];

/// What has to be found of an application after every order.
struct Driven {
    /// In the order in which an order passes them.
    operations: Vec<Operation>,
    edges: Vec<Edge>,
    metrics: Vec<Counter>,
    /// Services, and how a log record begins that ends with the order.
    logs: Vec<(&'static str, [&'static str; 2])>,
}

impl Driven {
    fn directly() -> Self {
        Self {
            operations: OPERATIONS.into(),
            edges: [&[FRONT_EDGE], &EDGES[..]].concat(),
            metrics: METRICS.into(),
            logs: vec![
                (FRONT, ["ordered ", "-"]),
                (PRICING, ["priced ", "pricing failed "]),
                (STOCK, ["looked up ", "no stock "]),
            ],
        }
    }

    fn through_gateway() -> Self {
        let mut driven = Self::directly();
        driven.operations.splice(0..0, GATEWAY_OPERATIONS);
        driven.edges.splice(0..1, GATEWAY_EDGES);
        driven.metrics.extend(GATEWAY_METRICS);
        driven.logs.push((GATEWAY, ["forwarded ", "front failed "]));
        driven
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

/// Every order once, each with a number of its own, articles mixed; `before` is called before each round.
async fn order_everything(application: &Application, mut before: impl AsyncFnMut(usize) -> Result<()>) -> Result<()> {
    let mut next = 0;
    for round in 0..ORDERS.iter().map(|(_, count, _)| *count).max().unwrap_or_default() {
        before(round).await?;
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

/// The console says exactly these operations.
async fn red_is_what_was_driven(pair: &Pair, driven: &Driven) -> Result<()> {
    let mut expected: Vec<_> = driven.operations.iter().map(|row| format!("{row:?}")).collect();
    expected.sort();
    until("RED of the application", WAIT, async || {
        let answer = pair.central.ask("/api/v1/red?since=1h").await?;
        let mut found: Vec<_> = rows(&answer)
            .map(|row| {
                (
                    word(row, "service"),
                    word(row, "span"),
                    word(row, "kind"),
                    number(row, "calls"),
                    number(row, "errors"),
                )
            })
            .map(|row| format!("{row:?}"))
            .collect();
        found.sort();
        ensure!(found == expected, "expected {expected:#?}, found {found:#?}");
        Ok(Some(()))
    })
    .await
}

/// The console says exactly these edges.
async fn edges_are_what_was_driven(pair: &Pair, driven: &Driven) -> Result<()> {
    let mut expected: Vec<_> = driven.edges.iter().map(|row| format!("{row:?}")).collect();
    expected.sort();
    until("edges of the application", WAIT, async || {
        let answer = pair.central.ask("/api/v1/graph?since=1h").await?;
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

/// One trace per order: its spans in one chain over the services. Gives the trace ids.
async fn traces_are_whole(pair: &Pair, driven: &Driven) -> Result<BTreeSet<String>> {
    let of_order = driven.operations.len() as i64;
    let ids = until("every trace", WAIT, async || {
        let answer = pair.central.ask("/api/v1/traces?since=1h&limit=1000").await?;
        let spans: i64 = rows(&answer).filter_map(|row| row["spans"].as_i64()).sum();
        ensure!(rows(&answer).count() == ALL as usize && spans == of_order * ALL as i64, "{answer}");
        Ok(Some(rows(&answer).map(|row| word(row, "trace_id").to_owned()).collect::<BTreeSet<_>>()))
    })
    .await?;
    let chain: Vec<_> = driven.operations.iter().map(|(service, name, ..)| (*service, *name)).collect();
    for id in &ids {
        let trace = pair.central.ask(&format!("/api/v1/traces/{id}")).await?;
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
async fn logs_are_there_once(pair: &Pair, driven: &Driven, traces: &BTreeSet<String>) -> Result<()> {
    let mut of_order: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (service, words) in &driven.logs {
        let found = until(&format!("the log records of {service}"), WAIT, async || {
            let answer = pair.central.ask(&format!("/api/v1/logs?since=1h&limit=1000&service={service}")).await?;
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
    ensure!(
        of_order.values().all(|ids| ids.len() == 1),
        "the records of one order have several trace ids: {of_order:?}"
    );
    ensure!(found == *traces, "trace ids of log records {found:?}, of spans {traces:?}");
    Ok(())
}

/// How much a counter has counted since its birth; a fall is a fresh start at zero.
fn total(samples: &Value) -> f64 {
    let (mut total, mut before) = (0.0, 0.0);
    for value in rows(samples).filter_map(|sample| sample[1].as_f64()) {
        total += if value < before { value } else { value - before };
        before = value;
    }
    total
}

/// The SDKs' own counts are whole, and every stored series of the application has its score.
async fn metrics_are_whole_and_scored(pair: &Pair, driven: &Driven) -> Result<()> {
    until("the metrics of the application", WAIT, async || {
        for (service, name, expected) in &driven.metrics {
            let series = pair.central.ask(&format!("/api/v1/series?since=1h&name={name}&job={service}")).await?;
            let found: f64 = rows(&series).map(|one| total(&one["samples"])).sum();
            ensure!((found - expected).abs() < 0.5, "{service}: {name} is {found} instead of {expected}: {series}");
        }
        Ok(Some(()))
    })
    .await?;
    let services: Vec<_> = driven.logs.iter().map(|(service, _)| *service).collect();
    until("a score of every series", WAIT, async || every_series_is_scored(pair, &services).await).await
}

/// Both processes drain, which sends all that they still hold: the numbers are still the same.
async fn nothing_more_comes(mut pair: Pair, driven: &Driven) -> Result<()> {
    pair.agent.stop().await?;
    pair.central.restart().await?;
    red_is_what_was_driven(&pair, driven).await?;
    edges_are_what_was_driven(&pair, driven).await?;
    let traces = traces_are_whole(&pair, driven).await?;
    logs_are_there_once(&pair, driven, &traces).await
}

/// Whether each series of `jobs` has a series `anomaly_score` of its name and labels.
async fn every_series_is_scored(pair: &Pair, jobs: &[&str]) -> Result<Option<()>> {
    let labels = |series: &Value| -> BTreeMap<String, String> {
        let pairs = series["labels"].as_object().into_iter().flatten();
        pairs.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
    };
    let (mut stored, mut rated) = (BTreeSet::new(), BTreeSet::new());
    let names = pair.central.ask("/api/v1/metrics").await?;
    for job in jobs {
        for series in rows(&pair.central.ask(&format!("/api/v1/series?since=1h&name=anomaly_score&job={job}")).await?) {
            let mut labels = labels(series);
            rated.insert((labels.remove("metric").unwrap_or_default(), labels));
        }
        for name in rows(&names).map(|row| word(row, "name")) {
            if matches!(name, "anomaly_score" | "is_anomaly" | "resource_anomaly_score" | "target_info") {
                continue;
            }
            for series in rows(&pair.central.ask(&format!("/api/v1/series?since=1h&name={name}&job={job}")).await?) {
                let mut labels = labels(series);
                // A histogram is scored as one metric.
                labels.remove("le");
                let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
                stored.insert((base.to_owned(), labels));
            }
        }
        ensure!(
            stored.iter().any(|(_, labels)| labels.get("job").is_some_and(|found| found == job)),
            "nothing of {job}"
        );
    }
    let missing: Vec<_> = stored.difference(&rated).take(3).collect();
    ensure!(missing.is_empty(), "without a score: {missing:?}");
    Ok(Some(()))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stock_sdks_of_three_languages_send_over_grpc_and_http_adds_up_to_what_was_asked_of_them() -> Result<()> {
    let pair = Pair::start("20s").await?;
    let driven = Driven::through_gateway();
    let mut application = Application::start_behind_gateway(&pair.agent).await?;
    order_everything(&application, async |_| Ok(())).await?;
    // An orderly end sends the last of everything: nothing of it may be missing afterwards.
    application.stop().await.with_context(|| application.tails())?;
    red_is_what_was_driven(&pair, &driven).await.with_context(|| application.tails())?;
    let traces = traces_are_whole(&pair, &driven).await?;
    logs_are_there_once(&pair, &driven, &traces).await?;
    metrics_are_whole_and_scored(&pair, &driven).await?;
    edges_are_what_was_driven(&pair, &driven).await?;
    conserved(&pair.agent).await?;
    nothing_more_comes(pair, &driven).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stock_sdks_could_not_send_while_central_was_away_arrives_once_by_their_own_retry() -> Result<()> {
    // The halves of an edge come as far apart as the exporters' back-off puts them.
    let mut pair = Pair::start("40s").await?;
    let driven = Driven::directly();
    let mut application = Application::start(&pair.agent).await?;
    // Away only while orders are made: what is asked to wait doubles its wait each time.
    pair.central.stop().await?;
    order_everything(&application, async |_| Ok(())).await?;
    for signal in ["traces", "metrics", "logs"] {
        until(&format!("{signal} to be refused"), WAIT, async || {
            let refused = pair.agent.metric("mirador_agent_refused_items_total", &[("signal", signal)]).await?;
            Ok((refused >= 1.0).then_some(()))
        })
        .await?;
    }
    pair.central.restart().await?;
    red_is_what_was_driven(&pair, &driven).await.with_context(|| application.tails())?;
    let traces = traces_are_whole(&pair, &driven).await?;
    logs_are_there_once(&pair, &driven, &traces).await?;
    metrics_are_whole_and_scored(&pair, &driven).await?;
    edges_are_what_was_driven(&pair, &driven).await?;
    application.stop().await.with_context(|| application.tails())?;
    conserved(&pair.agent).await?;
    nothing_more_comes(pair, &driven).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_central_that_is_restarted_under_stock_sdks_costs_no_span_no_record_and_no_number() -> Result<()> {
    let mut pair = Pair::start("10s").await?;
    let driven = Driven::directly();
    let mut application = Application::start(&pair.agent).await?;
    let central = &mut pair.central;
    order_everything(&application, async |round| match round {
        3 | 9 => central.stop().await,
        6 | 12 => central.restart().await,
        _ => Ok(()),
    })
    .await?;
    let traces = traces_are_whole(&pair, &driven).await?;
    logs_are_there_once(&pair, &driven, &traces).await?;
    red_is_what_was_driven(&pair, &driven).await.with_context(|| application.tails())?;
    metrics_are_whole_and_scored(&pair, &driven).await?;
    application.stop().await.with_context(|| application.tails())?;
    conserved(&pair.agent).await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_telemetrygen_sends_over_grpc_and_http_is_found() -> Result<()> {
    const TRACES: usize = 60;
    const CHILDREN: usize = 3;
    const LOGS: usize = 150;
    const SERIES: usize = 50;
    let pair = Pair::start("3s").await?;
    for (service, endpoint, over_http) in [("gen-grpc", pair.agent.grpc, false), ("gen-http", pair.agent.http, true)] {
        let (traces, children, logs, series) =
            (TRACES.to_string(), CHILDREN.to_string(), LOGS.to_string(), SERIES.to_string());
        let endpoint = endpoint.to_string();
        let run = async |words: &[&str]| {
            apps::telemetrygen(&endpoint, over_http, &[words, &["--service", service]].concat()).await
        };
        run(&["traces", "--traces", &traces, "--child-spans", &children]).await?;
        run(&["logs", "--logs", &logs]).await?;
        let unique = ["--unique-timeseries", "--unique-timeseries-duration", "1h"];
        run(&[&["metrics", "--metrics", &series, "--metric-type", "Sum"][..], &unique].concat()).await?;

        let found = pair.central.ask(&format!("/api/v1/traces?since=1h&limit=1000&service={service}")).await?;
        let whole = rows(&found).filter(|row| row["spans"] == json!(CHILDREN + 1)).count();
        ensure!(whole == TRACES && rows(&found).count() == TRACES, "{service}: {whole} traces are whole: {found}");
        let found = pair.central.ask(&format!("/api/v1/logs?since=1h&limit=1000&service={service}")).await?;
        ensure!(rows(&found).count() == LOGS, "{service}: {} log records", rows(&found).count());
        until("RED and metrics of telemetrygen", WAIT, async || {
            let red = pair.central.ask("/api/v1/red?since=1h").await?;
            let of_service = rows(&red).filter(|row| row["service"] == service);
            let calls: f64 = of_service.map(|row| number(row, "calls")).sum();
            ensure!((calls - (TRACES * (CHILDREN + 1)) as f64).abs() < 0.5, "{service}: {calls} calls");
            let found = pair.central.ask(&format!("/api/v1/series?since=1h&name=gen_total&job={service}")).await?;
            ensure!(rows(&found).count() == SERIES, "{service}: {} series: {found}", rows(&found).count());
            every_series_is_scored(&pair, &[service]).await
        })
        .await?;
    }
    conserved(&pair.agent).await
}
