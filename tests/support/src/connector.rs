//! What the OpenTelemetry Collector's span metrics connector makes of a fixed input, and how to read such metrics.
//!
//! The connector takes minutes to build, so its answer is committed and the program that asked it stands beside:
//! `cargo run -p mirador-support --bin mirador-connector` writes `tests/golden/spanmetrics/connector.jsonl` anew.
//! Never: asks the connector in a test.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::metrics::v1::{Metric, NumberDataPoint, metric, number_data_point};
use serde_json::{Value, json};

use crate::backends::client::until;
use crate::backends::server::{Ready, Server, Spec};
use crate::backends::{install_blocking, ports};
use crate::capture::Capture;
use crate::odd;
use crate::shop::{Sender, Shop, Visit, trace_requests};

/// The answer that is committed.
pub const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../golden/spanmetrics/connector.jsonl");
/// 2026-01-01, so that the same spans are made whenever it is.
const START: u64 = 1_767_225_600_000_000_000;
/// The attribute whose value is of one process.
pub const INSTANCE: &str = "collector.instance.id";

/// What a metric is besides its points.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct About {
    /// Its OpenTelemetry name.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// The scope that it is under.
    pub scope: String,
    /// `sum`, `gauge` or `histogram`, with temporality and monotonicity as OTLP numbers them.
    pub kind: String,
}

/// Attributes of a point as text, those of its resource apart.
pub type Labels = BTreeMap<String, String>;

/// The last point of a series.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Last {
    /// The value, or a histogram's count; `None`: a marker that there is none any more.
    pub count: Option<f64>,
    /// A histogram's sum.
    pub sum: f64,
    /// A histogram's bounds.
    pub bounds: Vec<f64>,
    /// A histogram's buckets.
    pub buckets: Vec<u64>,
    /// How many exemplars it has.
    pub exemplars: usize,
}

/// A series: its metric, its resource's attributes, its own.
pub type Series = (About, Labels, Labels);

/// The spans that the connector is asked about: everyday ones of the shop, odd ones and sampled ones.
pub fn input() -> Vec<ExportTraceServiceRequest> {
    let mut shop = Shop::new(31, START);
    let visits: Vec<Visit> = (0..150).map(|_| shop.visit(START)).collect();
    let mut requests = trace_requests(&visits);
    requests.extend(odd::requests(START));
    requests.push(odd::sampled(START));
    requests
}

/// The last point of every series of the exports.
///
/// # Errors
/// When a point is of a type that neither connector nor we send.
pub fn last_points(exports: &[ExportMetricsServiceRequest]) -> Result<BTreeMap<Series, Last>> {
    let mut found = BTreeMap::new();
    for resource in exports.iter().flat_map(|export| &export.resource_metrics) {
        let of_resource = labels(resource.resource.iter().flat_map(|resource| &resource.attributes))?;
        for scope in &resource.scope_metrics {
            let name = scope.scope.as_ref().map_or("", |scope| &scope.name);
            for metric in &scope.metrics {
                for (about, own, last) in points(metric, name)? {
                    found.insert((about, of_resource.clone(), own), last);
                }
            }
        }
    }
    Ok(found)
}

fn points(metric: &Metric, scope: &str) -> Result<Vec<(About, Labels, Last)>> {
    let about =
        |kind: String| About { name: metric.name.clone(), unit: metric.unit.clone(), scope: scope.to_owned(), kind };
    let number = |point: &NumberDataPoint| {
        let count = point.value.map(|value| match value {
            number_data_point::Value::AsInt(value) => value as f64,
            number_data_point::Value::AsDouble(value) => value,
        });
        Ok((labels(&point.attributes)?, Last { count, exemplars: point.exemplars.len(), ..Last::default() }))
    };
    let (kind, points): (String, Result<Vec<_>>) = match metric.data.as_ref().context("a metric without data")? {
        metric::Data::Sum(sum) => (
            format!("sum, temporality {}, monotonic {}", sum.aggregation_temporality, sum.is_monotonic),
            sum.data_points.iter().map(number).collect(),
        ),
        metric::Data::Gauge(gauge) => ("gauge".to_owned(), gauge.data_points.iter().map(number).collect()),
        metric::Data::Histogram(histogram) => {
            let points = histogram.data_points.iter().map(|point| {
                let last = Last {
                    count: (point.flags & 1 == 0).then_some(point.count as f64),
                    sum: point.sum.unwrap_or_default(),
                    bounds: point.explicit_bounds.clone(),
                    buckets: point.bucket_counts.clone(),
                    exemplars: point.exemplars.len(),
                };
                Ok((labels(&point.attributes)?, last))
            });
            (format!("histogram, temporality {}", histogram.aggregation_temporality), points.collect())
        }
        other => anyhow::bail!("{}: nobody sends {other:?}", metric.name),
    };
    let about = about(kind);
    Ok(points?.into_iter().map(|(labels, last)| (about.clone(), labels, last)).collect())
}

fn labels<'a>(attributes: impl IntoIterator<Item = &'a KeyValue>) -> Result<Labels> {
    let text = |attribute: &KeyValue| {
        let value = attribute.value.as_ref().and_then(|value| value.value.as_ref());
        let text = match value.context("an attribute without a value")? {
            Any::StringValue(text) => text.clone(),
            Any::BoolValue(value) => value.to_string(),
            Any::IntValue(value) => value.to_string(),
            other => anyhow::bail!("{}: nobody labels by {other:?}", attribute.key),
        };
        Ok((attribute.key.clone(), text))
    };
    attributes.into_iter().map(text).collect()
}

/// What the connector has answered, as it is committed.
///
/// # Errors
/// When the file cannot be read.
pub fn golden() -> Result<BTreeMap<Series, Last>> {
    let text = std::fs::read_to_string(GOLDEN).with_context(|| format!("cannot read {GOLDEN}"))?;
    text.lines().skip(1).map(read).collect()
}

/// The text of a file that [`golden`] reads: what made it, then a line for each series.
pub fn written(found: &BTreeMap<Series, Last>) -> String {
    let head = json!({
        "made_by": "cargo run -p mirador-support --bin mirador-connector",
        "of": "the span metrics connector in tests/backends/collectorspanmetrics/go.mod, its defaults but the interval",
    });
    let mut lines = vec![head.to_string()];
    for ((about, resource, labels), last) in found {
        let mut line = json!({
            "name": about.name, "unit": about.unit, "scope": about.scope, "kind": about.kind,
            "resource": resource, "labels": labels, "count": last.count,
        });
        if !last.bounds.is_empty() {
            line["sum"] = json!(last.sum);
            line["bounds"] = json!(last.bounds);
            line["buckets"] = json!(last.buckets);
        }
        lines.push(line.to_string());
    }
    lines.join("\n") + "\n"
}

fn read(line: &str) -> Result<(Series, Last)> {
    let line: Value = serde_json::from_str(line)?;
    let text = |key: &str| line[key].as_str().map(str::to_owned).with_context(|| format!("no {key} in {line}"));
    let pairs = |key: &str| -> Labels {
        let pairs = line[key].as_object().into_iter().flatten();
        pairs.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
    };
    let numbers = |key: &str| line[key].as_array().into_iter().flatten();
    let about = About { name: text("name")?, unit: text("unit")?, scope: text("scope")?, kind: text("kind")? };
    let last = Last {
        count: line["count"].as_f64(),
        sum: line["sum"].as_f64().unwrap_or_default(),
        bounds: numbers("bounds").filter_map(Value::as_f64).collect(),
        buckets: numbers("buckets").filter_map(Value::as_u64).collect(),
        exemplars: 0,
    };
    Ok(((about, pairs("resource"), pairs("labels")), last))
}

/// Builds the Collector when it is not there, lets it count [`input`], and returns what it has sent then.
///
/// # Errors
/// When it cannot be built or started, or does not count every span in time.
pub async fn ask() -> Result<BTreeMap<Series, Last>> {
    let program = install_blocking("collectorspanmetrics").await?;
    let (sink, folder) = (Capture::start().await?, tempfile::tempdir()?);
    let (http, port) = (ports::free()?, sink.address.port());
    let config = folder.path().join("config.yaml");
    std::fs::write(
        &config,
        format!(
            "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{http}'}}}}}}}}\n\
             connectors: {{span_metrics: {{metrics_flush_interval: 500ms}}}}\n\
             exporters: {{otlp_grpc: {{endpoint: '127.0.0.1:{port}', compression: none, tls: {{insecure: true}}}}}}\n\
             service:\n  telemetry: {{metrics: {{level: none}}}}\n  pipelines:\n    \
             traces: {{receivers: [otlp], exporters: [span_metrics]}}\n    \
             metrics: {{receivers: [span_metrics], exporters: [otlp_grpc]}}\n"
        ),
    )?;
    let collector = Server::start(Spec {
        name: "collector".into(),
        program,
        args: vec!["--config".into(), config.display().to_string()],
        env: Vec::new(),
        folder: folder.path().to_owned(),
        ready: Ready::Tcp(([127, 0, 0, 1], http).into()),
    })
    .await?;
    let sender = Sender::new(&format!("http://127.0.0.1:{http}"))?;
    let requests = input();
    for request in &requests {
        sender.traces(request).await?;
    }
    // A span of the resource whose name is empty is counted by the connector.
    let expected: f64 = crate::oracle::red(&requests).values().map(|red| red.calls as f64).sum::<f64>() + 1.0;
    let found = until("the connector to have counted every span", Duration::from_secs(60), async || {
        let found = last_points(&sink.metrics()?)?;
        let calls = |name: &str| -> f64 {
            found.iter().filter(|((about, ..), _)| about.name.ends_with(name)).filter_map(|(_, last)| last.count).sum()
        };
        let (calls, durations) = (calls(".calls"), calls(".duration"));
        ensure!(calls >= expected && durations >= expected, "{calls} calls, {durations} durations of {expected}");
        Ok(Some(found))
    })
    .await
    .with_context(|| collector.log_tail(30))?;
    Ok(found.into_iter().map(without_instance).collect())
}

/// The instance is another one in each process.
fn without_instance(((about, resource, mut labels), last): (Series, Last)) -> (Series, Last) {
    labels.entry(INSTANCE.to_owned()).and_modify(|id| "<instance>".clone_into(id));
    ((about, resource, labels), last)
}
