//! Configuration of RED: keys of the OpenTelemetry Collector's span metrics connector where the
//! meaning is the same.
//!
//! Never: reads a file. `Config::problems` is asked at start-up; the tap itself tolerates any
//! configuration, by sorting bounds and ignoring what is repeated.

use std::time::Duration;

use mirador_service::duration::GoDuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::exemplar::MAX_EXEMPLARS;
use crate::key::{LABEL_SERVICE, LABEL_SPAN_KIND, LABEL_SPAN_NAME, LABEL_STATUS};

/// The most explicit bucket bounds.
pub const MAX_BOUNDS: usize = 256;
/// The most configured dimensions.
pub const MAX_DIMENSIONS: usize = 64;
/// The largest cardinality limit: the table's numbers are 32 bits and its memory is the node's.
const MAX_SERIES: usize = 1_000_000;
/// The largest limit of memory for distributions.
const MAX_MEMORY_MIB: usize = 65_536;
/// Shortest and longest allowed limit of label values in bytes.
const VALUE_LENGTHS: std::ops::RangeInclusive<usize> = 16..=65_536;

/// Which RED series are made of spans.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The duration histogram.
    pub histogram: Histogram,
    /// Labels besides the built-in ones. Default none. The value is the span's attribute of that
    /// name, else the resource's, else `default`, else the label is omitted. Each value of each
    /// dimension multiplies the series.
    pub dimensions: Vec<Dimension>,
    /// Built-in labels to leave out: any of service.name, span.name, span.kind, status.code.
    /// Default none. Series that then have the same labels add up.
    pub exclude_dimensions: Vec<BuiltIn>,
    /// The most series in one window, 1 to 1000000. Default 10000. Spans of further series are
    /// counted in one series with the only label otel.metric.overflow=true: totals stay exact,
    /// detail is lost and counted.
    pub aggregation_cardinality_limit: usize,
    /// Example spans for each series.
    pub exemplars: Exemplars,
    /// How often a window is closed and sent, as a Go duration of at least 100ms. Default 15s. What
    /// is not yet sent is lost when the process is killed.
    pub metrics_flush_interval: GoDuration,
    /// Longest label value in bytes, 16 to 65536. Default 1024. Longer ones are cut at a character
    /// and counted; values that are equal up to the cut share a series.
    pub label_value_length_limit: usize,
}

/// The duration histogram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Histogram {
    /// Unit of the durations that leave Mirador. Default ms. The metric's name follows it.
    pub unit: Unit,
    /// Buckets with configured bounds.
    pub explicit: Explicit,
    /// Memory for the fine distributions from which quantiles are computed, in MiB, 1 to 65536. Default
    /// 64. Beyond it the largest ones lose half of their resolution, as often as it takes, which is
    /// counted; counts, sums and the buckets above stay exact.
    pub memory_limit_mib: usize,
}

/// Unit of a duration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Unit {
    /// Milliseconds.
    #[default]
    #[serde(rename = "ms")]
    Milliseconds,
    /// Seconds.
    #[serde(rename = "s")]
    Seconds,
}

impl Unit {
    /// Nanoseconds in one unit.
    pub const fn nanos(self) -> u64 {
        match self {
            Self::Milliseconds => 1_000_000,
            Self::Seconds => 1_000_000_000,
        }
    }

    /// The unit as UCUM writes it: "ms" or "s".
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Seconds => "s",
        }
    }
}

/// Buckets with configured bounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Explicit {
    /// Upper bounds as Go durations, strictly ascending, at most 256. Default 2ms, 4ms, 6ms, 8ms,
    /// 10ms, 50ms, 100ms, 200ms, 400ms, 800ms, 1s, 1.4s, 2s, 5s, 10s, 15s. A duration equal to a
    /// bound is counted in that bound's bucket. Agents and central must agree on them.
    pub buckets: Vec<GoDuration>,
}

/// A label besides the built-in ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dimension {
    /// The attribute's name, which is also the label's. Required.
    pub name: String,
    /// The value when neither the span nor its resource has the attribute. Default: no label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
}

/// A label that every series has unless it is excluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BuiltIn {
    /// The resource's service name.
    #[serde(rename = "service.name")]
    ServiceName,
    /// The span's name.
    #[serde(rename = "span.name")]
    SpanName,
    /// The span's kind.
    #[serde(rename = "span.kind")]
    SpanKind,
    /// The span's status code.
    #[serde(rename = "status.code")]
    StatusCode,
}

impl BuiltIn {
    /// All of them, in the order in which labels are written.
    pub const ALL: [Self; 4] = [Self::ServiceName, Self::SpanName, Self::SpanKind, Self::StatusCode];

    /// The label's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ServiceName => LABEL_SERVICE,
            Self::SpanName => LABEL_SPAN_NAME,
            Self::SpanKind => LABEL_SPAN_KIND,
            Self::StatusCode => LABEL_STATUS,
        }
    }

    pub(crate) const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Example spans for each series.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Exemplars {
    /// Whether to keep any. Default true.
    pub enabled: bool,
    /// The most for one series in one window, 1 to 5. Default 5. The slowest spans get two of five,
    /// a uniform sample the others.
    pub max_per_data_point: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            histogram: Histogram::default(),
            dimensions: Vec::new(),
            exclude_dimensions: Vec::new(),
            aggregation_cardinality_limit: 10_000,
            exemplars: Exemplars::default(),
            metrics_flush_interval: GoDuration(Duration::from_secs(15)),
            label_value_length_limit: 1024,
        }
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self { unit: Unit::default(), explicit: Explicit::default(), memory_limit_mib: 64 }
    }
}

impl Default for Explicit {
    fn default() -> Self {
        let millis = [2, 4, 6, 8, 10, 50, 100, 200, 400, 800, 1_000, 1_400, 2_000, 5_000, 10_000, 15_000];
        Self { buckets: millis.map(|ms| GoDuration(Duration::from_millis(ms))).into() }
    }
}

impl Default for Exemplars {
    fn default() -> Self {
        Self { enabled: true, max_per_data_point: MAX_EXEMPLARS }
    }
}

/// A value that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {value} is not usable, {expected}")]
pub struct ConfigError {
    /// The key, relative to this section.
    pub key: String,
    /// The value, as text.
    pub value: String,
    /// What would be right.
    pub expected: String,
}

impl Config {
    /// Everything that is wrong with the values; empty when all is well.
    pub fn problems(&self) -> Vec<ConfigError> {
        let mut problems = Vec::new();
        let mut require = |holds: bool, key: &str, value: String, expected: &str| {
            if !holds {
                problems.push(ConfigError { key: key.into(), value, expected: expected.into() });
            }
        };
        let limit = self.aggregation_cardinality_limit;
        require(
            (1..=MAX_SERIES).contains(&limit),
            "aggregation_cardinality_limit",
            limit.to_string(),
            "expected 1 to 1000000 (a table without a limit can take the node's memory)",
        );
        let places = self.exemplars.max_per_data_point;
        require(
            (1..=MAX_EXEMPLARS).contains(&places),
            "exemplars.max_per_data_point",
            places.to_string(),
            "expected 1 to 5 (exemplars.enabled: false switches them off)",
        );
        let interval = self.metrics_flush_interval.0;
        require(
            interval >= Duration::from_millis(100),
            "metrics_flush_interval",
            format!("{interval:?}"),
            "expected at least 100ms",
        );
        let length = self.label_value_length_limit;
        require(
            VALUE_LENGTHS.contains(&length),
            "label_value_length_limit",
            length.to_string(),
            "expected 16 to 65536",
        );
        let limit = self.histogram.memory_limit_mib;
        require(
            (1..=MAX_MEMORY_MIB).contains(&limit),
            "histogram.memory_limit_mib",
            limit.to_string(),
            "expected 1 to 65536 (64 is the default)",
        );
        problems.extend(self.bound_problems());
        problems.extend(self.dimension_problems());
        problems
    }

    /// The bucket bounds in nanoseconds, strictly ascending.
    pub fn bounds_nanos(&self) -> Vec<u64> {
        let nanos = |bound: &GoDuration| u64::try_from(bound.0.as_nanos()).unwrap_or(u64::MAX);
        let mut bounds: Vec<u64> = self.histogram.explicit.buckets.iter().map(nanos).collect();
        bounds.sort_unstable();
        bounds.dedup();
        bounds.truncate(MAX_BOUNDS);
        bounds
    }

    fn bound_problems(&self) -> impl Iterator<Item = ConfigError> {
        let buckets = &self.histogram.explicit.buckets;
        let problem = |value: String, expected: &str| ConfigError {
            key: "histogram.explicit.buckets".into(),
            value,
            expected: expected.into(),
        };
        let ascending = buckets.windows(2).find(|pair| pair[1].0 <= pair[0].0);
        let ascending = ascending.map(|pair| {
            let value = format!("{:?} after {:?}", pair[1].0, pair[0].0);
            problem(value, "expected strictly ascending bounds")
        });
        let many = (buckets.len() > MAX_BOUNDS)
            .then(|| problem(format!("a list of {}", buckets.len()), "expected at most 256 bounds"));
        ascending.into_iter().chain(many)
    }

    fn dimension_problems(&self) -> impl Iterator<Item = ConfigError> {
        let problem = |key: String, value: &str, expected: &str| ConfigError {
            key,
            value: format!("{value:?}"),
            expected: expected.into(),
        };
        let many = (self.dimensions.len() > MAX_DIMENSIONS).then(|| ConfigError {
            key: "dimensions".into(),
            value: format!("a list of {}", self.dimensions.len()),
            expected: "expected at most 64 dimensions".into(),
        });
        let each = self.dimensions.iter().enumerate().filter_map(move |(at, one)| {
            let name = one.name.as_str();
            let key = format!("dimensions[{at}].name");
            let before = &self.dimensions[..at];
            if name.is_empty() {
                Some(problem(key, name, "expected the name of an attribute"))
            } else if BuiltIn::ALL.iter().any(|label| label.name() == name) {
                Some(problem(key, name, "expected a name that is not a built-in label"))
            } else if before.iter().any(|other| other.name == name) {
                Some(problem(key, name, "expected each name once"))
            } else {
                None
            }
        });
        many.into_iter().chain(each)
    }
}

#[cfg(test)]
mod tests;
