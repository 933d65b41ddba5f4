//! Settings of span metrics, named as the Collector's `span_metrics` connector names them.
//!
//! Never: binds or opens anything.

use std::time::Duration;

use mirador_service::duration::GoDuration;
use mirador_sketch::{BuiltIn, Dimension, ExemplarsConfig, Histogram};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::series::percent;

/// How RED deltas become cumulative series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What the metrics' names begin with: `<namespace>.calls`, `<namespace>.duration`.
    pub namespace: String,
    /// Unit and bounds of the duration histogram. The bounds should be those of the agents: deltas with others are
    /// counted into these by their HDR histograms, which is exact to 1 %.
    pub histogram: Histogram,
    /// Dimensions of spans that come from senders that are not our agents; agents add their own.
    pub dimensions: Vec<Dimension>,
    /// Built-in dimensions that are left out, whoever counted the spans.
    pub exclude_dimensions: Vec<BuiltIn>,
    /// Most series; what does not fit is counted in one series `otel.metric.overflow=true`.
    pub aggregation_cardinality_limit: usize,
    /// Exemplars of calls and durations, whoever counted the spans.
    pub exemplars: ExemplarsConfig,
    /// How often metrics leave, at least 100ms.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "String")]
    pub metrics_flush_interval: Duration,
    /// A series without a call for this long ends with a stale marker. `0s`: never.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "String")]
    pub series_expiration: Duration,
    /// Quantiles over all nodes, as gauges.
    pub quantiles: QuantilesConfig,
}

/// Gauges `<namespace>.duration.p<percent>` of every series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct QuantilesConfig {
    /// Shares between 0 and 1, each once. An empty list turns the gauges off and saves their memory.
    pub values: Vec<f64>,
    /// How many of the last flush intervals a gauge looks back on.
    pub windows: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            namespace: "traces.span.metrics".to_owned(),
            histogram: Histogram::default(),
            dimensions: Vec::new(),
            exclude_dimensions: Vec::new(),
            aggregation_cardinality_limit: 100_000,
            exemplars: ExemplarsConfig::default(),
            metrics_flush_interval: Duration::from_secs(15),
            series_expiration: Duration::from_mins(15),
            quantiles: QuantilesConfig::default(),
        }
    }
}

impl Default for QuantilesConfig {
    fn default() -> Self {
        Self { values: vec![0.5, 0.95, 0.99], windows: 4 }
    }
}

impl Config {
    /// What a deserializer cannot see; each problem names the key, the value and what would be right.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.namespace.is_empty() {
            problems.push("spanmetrics.namespace: must not be empty".to_owned());
        }
        if let Some(value) = self.quantiles.values.iter().find(|value| !(0.0..=1.0).contains(*value)) {
            problems.push(format!("spanmetrics.quantiles.values: {value} is not a share, use one from 0 to 1"));
        }
        let names: Vec<_> = self.quantiles.values.iter().map(|share| percent(*share)).collect();
        if let Some((at, name)) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            let value = self.quantiles.values[at];
            problems.push(format!("spanmetrics.quantiles.values: {value} is p{name} a second time, use each once"));
        }
        if self.quantiles.windows == 0 || self.quantiles.windows > 240 {
            problems.push(format!("spanmetrics.quantiles.windows: {} is not in 1..240", self.quantiles.windows));
        }
        problems.extend(self.tap().problems().into_iter().map(|problem| format!("spanmetrics.{problem}")));
        problems
    }

    /// How spans are counted that no agent has counted.
    pub fn tap(&self) -> mirador_sketch::Config {
        mirador_sketch::Config {
            histogram: self.histogram.clone(),
            dimensions: self.dimensions.clone(),
            exclude_dimensions: self.exclude_dimensions.clone(),
            aggregation_cardinality_limit: self.aggregation_cardinality_limit,
            exemplars: self.exemplars.clone(),
            metrics_flush_interval: GoDuration(self.metrics_flush_interval),
            ..mirador_sketch::Config::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_a_share_and_has_one_gauge() {
        let problems = |values: &[f64]| {
            let quantiles = QuantilesConfig { values: values.to_vec(), ..QuantilesConfig::default() };
            Config { quantiles, ..Config::default() }.problems()
        };
        assert!(problems(&[]).is_empty() && problems(&[0.0, 0.5, 0.999, 1.0]).is_empty());
        assert_eq!(problems(&[0.5, 50.0]), ["spanmetrics.quantiles.values: 50 is not a share, use one from 0 to 1"]);
        assert!(problems(&[f64::NAN])[0].contains("not a share"));
        let twice = ["spanmetrics.quantiles.values: 0.5 is p50 a second time, use each once"];
        assert_eq!(problems(&[0.5, 0.99, 0.5]), twice);
    }
}
