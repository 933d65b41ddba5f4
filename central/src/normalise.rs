//! OTLP metrics as Prometheus series: names, labels, buckets, cumulative values.
//!
//! The names are made here, not by the store, so that they do not depend on the store's flags. The label sets
//! of a series are made once and kept in its [`stream::Stream`]; a point of a known series costs no text.
//!
//! Never: scores, sends, decides which series are kept.

pub mod delta;
pub mod exemplars;
pub mod exponential;
pub mod family;
pub mod labels;
pub mod names;
pub mod resource;
pub mod stream;
pub mod tally;

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use labels::LabelLimits;

/// Where names and label names come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Naming {
    /// Prometheus names with unit and type suffixes, labels with underscores.
    #[default]
    Prometheus,
    /// Names and attribute keys as they were sent; only `_bucket`, `_sum` and `_count` are added.
    None,
}

/// How OTLP metrics become series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `prometheus` or `none` (names as sent).
    pub naming: Naming,
    /// Resource attributes that become labels of every series, next to `job` and `instance`.
    pub promote_resource_attributes: Vec<String>,
    /// The label `instance` is the first of these resource attributes that is there. Pods that share a
    /// `service.name` and have none of them write into one another's series.
    pub instance_from: Vec<String>,
    /// The `target_info` series with the other resource attributes.
    pub target_info: TargetInfo,
    /// Adds the labels `otel_scope_name` and `otel_scope_version`.
    pub scope_labels: bool,
    /// Passes exemplars on to stores that can carry them.
    pub exemplars: bool,
    /// Buckets per doubling are 2 to the power of this, at most; an exponential histogram becomes a classic one.
    pub exponential_max_scale: i32,
    /// A point further ahead of the clock than this is dropped and counted (VictoriaMetrics would drop it
    /// silently after `-futureRetention`, two days by default).
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "mirador_service::duration::GoDuration")]
    pub max_future: Duration,
    /// A point older than this is dropped, told to the sender and counted; set it to the store's retention, because
    /// VictoriaMetrics drops what is older than `-retentionPeriod` (a month by default) silently. 0s: points of any
    /// age are written.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "mirador_service::duration::GoDuration")]
    pub max_past: Duration,
    /// Limits of a series.
    pub limits: LabelLimits,
}

/// The `target_info` series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TargetInfo {
    /// Whether it is written.
    pub enabled: bool,
    /// How often a sample is written per resource.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "mirador_service::duration::GoDuration")]
    pub interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            naming: Naming::Prometheus,
            promote_resource_attributes: Vec::new(),
            instance_from: ["service.instance.id", "k8s.pod.name", "host.name"].map(String::from).to_vec(),
            target_info: TargetInfo::default(),
            scope_labels: false,
            exemplars: true,
            exponential_max_scale: 1,
            max_future: Duration::from_hours(48),
            max_past: Duration::ZERO,
            limits: LabelLimits::default(),
        }
    }
}

impl Default for TargetInfo {
    fn default() -> Self {
        Self { enabled: true, interval: Duration::from_mins(1) }
    }
}

impl Config {
    /// Resource attributes that end up in labels, besides the service's name and namespace.
    fn label_sources(&self) -> impl Iterator<Item = &str> {
        self.instance_from.iter().chain(&self.promote_resource_attributes).map(String::as_str)
    }
}

/// Samples that leave one pass.
#[derive(Debug, Default)]
pub struct Output {
    /// Series with their samples.
    pub series: Vec<crate::series::Series>,
    /// Samples in them.
    pub samples: usize,
    /// About what they take uncompressed on the wire.
    pub bytes: usize,
    /// Series after the buckets of the latest histogram point: its count, and its sum where there is one.
    trailing: usize,
    /// Upper bounds and counts, not added up, of the latest histogram point, cumulative in time: for the scorer.
    pub buckets: Vec<(f64, u64)>,
}

/// Bytes of a sample and its envelope on the wire.
const SAMPLE_BYTES: usize = 24;

impl Output {
    /// Adds one sample.
    pub fn push(&mut self, labels: &crate::series::Labels, timestamp_ms: i64, value: f64) {
        self.samples += 1;
        self.bytes += labels.encoded().len() + SAMPLE_BYTES;
        self.series.push(crate::series::Series::sample(labels.clone(), timestamp_ms, value));
    }

    /// Adds what another one holds.
    pub fn append(&mut self, mut other: Self) {
        self.series.append(&mut other.series);
        self.samples += other.samples;
        self.bytes += other.bytes;
    }

    /// Hangs exemplars on the latest series.
    pub fn exemplars(&mut self, exemplars: Vec<crate::series::Exemplar>) {
        if let Some(series) = self.series.last_mut() {
            series.exemplars = exemplars;
        }
    }
}

#[cfg(test)]
mod tests;
