//! What the demo shows, asked of the store that has it: the console's API over the embedded store, or
//! VictoriaMetrics. Both give the same rows.

use std::collections::BTreeMap;

use anyhow::Result;
use mirador_support::backends::client;
use mirador_support::backends::victoriametrics::{self, Sample};
use serde_json::{Value, json};

use super::config::{Ports, Stores};

/// Calls, edges and anomalies of the last minute, as arrays of rows; null where there is no answer yet.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) red: Value,
    pub(super) edges: Value,
    pub(super) anomalies: Value,
}

/// Asks the store; what cannot be answered now is left out.
pub(super) async fn of(ports: &Ports, stores: &Stores) -> View {
    match stores {
        Stores::Embedded(_) => {
            let ask = async |path: &str| console(ports.console, path).await.unwrap_or_default();
            let (red, edges) = (ask("red?since=1m").await, ask("graph?since=1m").await);
            View { red, edges, anomalies: ask("anomalies?since=1m").await }
        }
        Stores::Real(_) => match stores.address("victoriametrics") {
            Some(url) => metrics(url).await.unwrap_or_default(),
            None => View::default(),
        },
    }
}

async fn console(port: u16, path: &str) -> Result<Value> {
    client::json(client::client()?.get(format!("http://127.0.0.1:{port}/api/v1/{path}"))).await
}

const CALLS: &str = "traces_span_metrics_calls_total";
const DURATION: &str = "traces_span_metrics_duration_milliseconds_bucket";
const EDGES: &str = "traces_service_graph_request_total";
const EDGES_FAILED: &str = "traces_service_graph_request_failed_total";
const EDGES_SECONDS: [&str; 2] =
    ["traces_service_graph_request_server_seconds_bucket", "traces_service_graph_request_client_seconds_bucket"];

async fn metrics(url: &str) -> Result<View> {
    let ask = async |query: String| victoriametrics::query(url, &query, None).await;
    let by = "service_name, span_name, span_kind";
    let mut red = Rows::new(&["service_name", "span_name", "span_kind"]);
    red.add("rate", &ask(format!("sum by ({by}) (rate({CALLS}[1m]))")).await?);
    let failed = format!("sum by ({by}) (rate({CALLS}{{status_code=\"STATUS_CODE_ERROR\"}}[1m]))");
    let all = format!("sum by ({by}) (rate({CALLS}[1m]))");
    // Without a failure there is no series of failures: that is none, and not unknown.
    red.add("error_ratio", &ask(format!("({failed} or 0 * {all}) / {all}")).await?);
    for (quantile, key) in [(0.5, "p50_ms"), (0.99, "p99_ms")] {
        red.add(key, &ask(quantile_of(quantile, by, DURATION)).await?);
    }
    let by = "client, server";
    let mut edges = Rows::new(&["client", "server"]);
    edges.add("rate", &ask(format!("sum by ({by}) (rate({EDGES}[1m]))")).await?);
    let failed = format!("sum by ({by}) (increase({EDGES_FAILED}[1m]))");
    edges.add("failed", &ask(format!("{failed} or 0 * sum by ({by}) (increase({EDGES}[1m]))")).await?);
    for (quantile, key) in [(0.5, "p50_ms"), (0.95, "p95_ms")] {
        // A database has no span of its own: what its client has seen stands for it.
        let [server, client] = EDGES_SECONDS.map(|metric| quantile_of(quantile, by, metric));
        edges.add(key, &ask(format!("1000 * ({server} or {client})")).await?);
    }
    let mut peaks = ask("topk(8, max_over_time(anomaly_score[1m]) > 0)".into()).await?;
    peaks.sort_by(|a, b| b.value.total_cmp(&a.value));
    let scores = ask("anomaly_score".into()).await?;
    let flags = ask("is_anomaly == 1".into()).await?;
    let anomalies = peaks.iter().map(|peak| anomaly(peak, &scores, &flags)).collect();
    Ok(View { red: red.sorted(), edges: edges.sorted(), anomalies })
}

fn quantile_of(quantile: f64, by: &str, metric: &str) -> String {
    format!("histogram_quantile({quantile}, sum by (le, {by}) (rate({metric}[1m])))")
}

fn anomaly(peak: &Sample, scores: &[Sample], flags: &[Sample]) -> Value {
    let bare = |labels: &BTreeMap<String, String>| {
        let labels = labels.iter().filter(|(name, _)| *name != "__name__");
        labels.map(|(name, value)| (name.clone(), value.clone())).collect::<BTreeMap<_, _>>()
    };
    let labels = bare(&peak.labels);
    let score = scores.iter().find(|score| bare(&score.labels) == labels).map(|score| score.value);
    let flagged = flags.iter().any(|flag| bare(&flag.labels) == labels);
    json!({"metric": labels.get("metric"), "labels": labels, "score": score, "peak": peak.value, "flagged": flagged})
}

/// Rows under construction: one for each set of these labels.
struct Rows<'a> {
    labels: &'a [&'a str],
    rows: BTreeMap<Vec<String>, serde_json::Map<String, Value>>,
}

impl<'a> Rows<'a> {
    fn new(labels: &'a [&'a str]) -> Self {
        Self { labels, rows: BTreeMap::new() }
    }

    fn add(&mut self, key: &str, samples: &[Sample]) {
        for sample in samples {
            let of = |label: &&str| sample.labels.get(*label).cloned().unwrap_or_default();
            let values: Vec<_> = self.labels.iter().map(of).collect();
            self.rows.entry(values).or_default().insert(key.into(), json!(sample.value));
        }
    }

    /// The rows, busiest first, with the console's names for their labels.
    fn sorted(self) -> Value {
        let mut rows: Vec<_> = self.rows.into_iter().collect();
        let rate = |row: &serde_json::Map<String, Value>| row.get("rate").and_then(Value::as_f64).unwrap_or(0.0);
        rows.sort_by(|(_, a), (_, b)| rate(b).total_cmp(&rate(a)));
        let named = rows.into_iter().map(|(values, mut row)| {
            for (label, value) in self.labels.iter().zip(values) {
                let (name, value) = match *label {
                    "service_name" => ("service", value),
                    "span_name" => ("span", value),
                    "span_kind" => ("kind", value.trim_start_matches("SPAN_KIND_").to_lowercase()),
                    other => (other, value),
                };
                row.insert(name.into(), value.into());
            }
            Value::Object(row)
        });
        named.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(labels: &[(&str, &str)], value: f64) -> Sample {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Sample { labels: labels.collect(), value }
    }

    #[test]
    fn answers_of_several_questions_become_one_row_and_the_busiest_comes_first() {
        let mut rows = Rows::new(&["service_name", "span_kind"]);
        let (a, b) = ([("service_name", "a"), ("span_kind", "SPAN_KIND_SERVER")], [("service_name", "b")]);
        rows.add("rate", &[sample(&a, 1.0), sample(&b, 2.0)]);
        rows.add("p50_ms", &[sample(&a, 5.0)]);
        let expected = json!([{"service": "b", "kind": "", "rate": 2.0},
            {"service": "a", "kind": "server", "rate": 1.0, "p50_ms": 5.0}]);
        assert_eq!(rows.sorted(), expected);
    }

    #[test]
    fn a_peak_is_shown_with_its_last_score_and_whether_it_is_flagged() {
        let labels = [("metric", "calls"), ("service_name", "a")];
        let named = |name| [[("__name__", name)].as_slice(), &labels].concat();
        let row = anomaly(
            &sample(&labels, 0.9),
            &[sample(&named("anomaly_score"), 0.4)],
            &[sample(&named("is_anomaly"), 1.0)],
        );
        assert_eq!(
            (row["metric"].as_str(), row["score"].as_f64(), row["flagged"].as_bool()),
            (Some("calls"), Some(0.4), Some(true))
        );
        assert_eq!(anomaly(&sample(&labels, 0.9), &[], &[])["score"], Value::Null);
    }
}
