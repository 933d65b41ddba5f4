//! What is accepted from the predecessor: keys of the Collector's isolationforest processor, and its output forms.
//!
//! A key that means something here is used; one that means nothing, or whose value is out of range here, is accepted and
//! named in a log line at the start, so that a configuration can be taken over without surprises. Never: changes a score.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::{EngineConfig, ForestConfig};
use crate::series::{LabelSet, Labels};

/// Where scores are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OutputMode {
    /// Series of their own.
    #[default]
    Series,
    /// Labels `anomaly_score` and `is_anomaly` on the samples of the metric.
    Labels,
    /// The attributes of the Collector's processor on the samples of the metric.
    Attributes,
}

/// Values that are used of what the Collector takes.
const CONTAMINATION: (f64, f64) = (1e-6, 1.0);
const THRESHOLD: (f64, f64) = (0.5, 1.0);
const MIN_SAMPLES: (f64, f64) = (16.0, 100_000.0);
const FOREST_SIZE: (f64, f64) = (1.0, 1000.0);
const SUBSAMPLE_SIZE: (f64, f64) = (16.0, 4096.0);
/// A row of a resource is gathered for so long.
const LEAST_WINDOW: Duration = Duration::from_secs(10);

/// Keys of the Collector's isolationforest processor, as its code has them (its README names others, which it refuses
/// itself). Every key is accepted with any value that the Collector accepts; what has no effect here, or another one, is
/// named in a log line at the start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Collector {
    /// Used instead of `engine.contamination`, from 0.000001 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contamination_rate: Option<f64>,
    /// Used instead of `engine.threshold`, from 0.5 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Used instead of `engine.warmup_points`, from 16 to 100000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_samples: Option<u32>,
    /// Used instead of `forest.trees`: the trees of the forests that score resources, from 1 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forest_size: Option<u32>,
    /// Used instead of `forest.sample_size`, from 16 to 4096.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subsample_size: Option<u32>,
    /// Used instead of `forest.horizon`, 10s or longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training_window: Option<String>,
    /// The score's attribute with `output: attributes`; `anomaly.isolation_score` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score_attribute: Option<String>,
    /// The flag's attribute with `output: attributes`; `anomaly.is_anomaly` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classification_attribute: Option<String>,
    /// Without effect: every point is written, see `output`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Value>,
    /// Without effect: every point is learned at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_frequency: Option<Value>,
    /// Without effect: every series is scored on the same features.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features: Option<Value>,
    /// Without effect: every series has a model of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<Value>,
    /// Without effect: see `series` and `shards`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub performance: Option<Value>,
    /// Without effect: see `engine.recency_points`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive_window: Option<Value>,
    /// Without effect: trees grow until rows are apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_node_samples: Option<Value>,
}

impl Collector {
    /// Takes over what has a meaning for series.
    pub(super) fn apply(&self, engine: &mut EngineConfig) {
        if let Some(rate) = self.contamination_rate {
            engine.contamination = within(rate, CONTAMINATION);
        }
        if let Some(threshold) = self.threshold {
            engine.threshold = Some(within(threshold, THRESHOLD));
        }
        if let Some(points) = self.min_samples {
            engine.warmup_points = within(f64::from(points), MIN_SAMPLES) as u32;
        }
    }

    /// Takes over what has a meaning for the forests of resources.
    pub(super) fn apply_to_forest(&self, forest: &mut ForestConfig) {
        if let Some(trees) = self.forest_size {
            forest.trees = within(f64::from(trees), FOREST_SIZE) as usize;
        }
        if let Some(rows) = self.subsample_size {
            forest.sample_size = within(f64::from(rows), SUBSAMPLE_SIZE) as usize;
            forest.reservoir = forest.reservoir.max(forest.sample_size);
        }
        if let Some(Ok(window)) = self.window() {
            forest.horizon = window.max(LEAST_WINDOW);
        }
    }

    fn window(&self) -> Option<Result<Duration, String>> {
        self.training_window
            .as_deref()
            .map(|text| mirador_service::duration::parse(text).map_err(|error| error.to_string()))
    }

    /// What of the keys that are set does not do what it does in the Collector: one line per key.
    pub fn notes(&self, output: OutputMode) -> Vec<String> {
        let mut notes = Vec::new();
        let mut clamped = |key: &str, value: Option<f64>, range: (f64, f64)| {
            if let Some(value) = value.filter(|value| within(*value, range).total_cmp(value).is_ne()) {
                notes.push(format!("{key} is {value}; {} is used", within(value, range)));
            }
        };
        clamped("contamination_rate", self.contamination_rate, CONTAMINATION);
        clamped("threshold", self.threshold, THRESHOLD);
        clamped("min_samples", self.min_samples.map(f64::from), MIN_SAMPLES);
        clamped("forest_size", self.forest_size.map(f64::from), FOREST_SIZE);
        clamped("subsample_size", self.subsample_size.map(f64::from), SUBSAMPLE_SIZE);
        if let (Some(text), Some(Ok(window))) = (&self.training_window, self.window())
            && window < LEAST_WINDOW
        {
            notes.push(format!("training_window is {text}; 10s is used"));
        }
        if output != OutputMode::Attributes {
            let names = [
                ("score_attribute", &self.score_attribute),
                ("classification_attribute", &self.classification_attribute),
            ];
            for (key, _) in names.into_iter().filter(|(_, value)| value.is_some()) {
                notes.push(format!("{key} has no effect: scores are series, unless output is attributes"));
            }
        }
        let inert = [
            ("mode", &self.mode, "every point is written, with its score beside it (output)"),
            (
                "update_frequency",
                &self.update_frequency,
                "every point is learned at once, forests of resources every 10 s",
            ),
            ("features", &self.features, "every series is scored on the same features"),
            ("models", &self.models, "every series has a model of its own, every kind of resource a forest"),
            (
                "performance",
                &self.performance,
                "series.max_series, forest.max_resources and shards bound memory and work",
            ),
            ("adaptive_window", &self.adaptive_window, "engine.recency_points says how far a series remembers"),
            ("min_node_samples", &self.min_node_samples, "trees grow until rows are apart"),
        ];
        let set = inert.into_iter().filter(|(_, value, _)| value.is_some());
        notes.extend(set.map(|(key, _, instead)| format!("{key} has no effect: {instead}")));
        notes
    }

    /// What cannot work.
    pub(super) fn problems(&self) -> Vec<String> {
        let (score, flag) = (self.score_name(), self.flag_name());
        let same = (score == flag).then(|| {
            format!("collector.score_attribute and classification_attribute are both {score}; they must differ")
        });
        let window = self.window().and_then(Result::err).map(|error| {
            format!("collector.training_window is {:?}: {error}", self.training_window.as_deref().unwrap_or_default())
        });
        let no_number = [("contamination_rate", self.contamination_rate), ("threshold", self.threshold)]
            .into_iter()
            .filter(|(_, value)| value.is_some_and(|value| !(0.0..=1.0).contains(&value)))
            .map(|(key, value)| {
                format!("collector.{key} is {}; it must be between 0 and 1", value.unwrap_or_default())
            });
        same.into_iter().chain(window).chain(no_number).collect()
    }

    fn score_name(&self) -> &str {
        self.score_attribute.as_deref().unwrap_or("anomaly.isolation_score")
    }

    fn flag_name(&self) -> &str {
        self.classification_attribute.as_deref().unwrap_or("anomaly.is_anomaly")
    }
}

/// Labels of a sample with its own score and flag: a new series for every new score.
pub(super) fn labelled(
    labels: &LabelSet,
    mode: OutputMode,
    collector: &Collector,
    score: f64,
    is_anomaly: bool,
) -> Labels {
    let names = match mode {
        OutputMode::Series | OutputMode::Labels => ("anomaly_score", "is_anomaly"),
        OutputMode::Attributes => (collector.score_name(), collector.flag_name()),
    };
    let name = |text: &str| -> Box<str> {
        text.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect::<String>().into()
    };
    let own = [
        (name(names.0), format!("{score:.4}").into_boxed_str()),
        (name(names.1), Box::from(if is_anomaly { "true" } else { "false" })),
    ];
    let pairs = labels.texts().map(|(name, value)| (Box::from(name), Box::from(value)));
    Labels::new(own.into_iter().chain(pairs).collect())
}

/// The nearest value of a range, NaN the lowest.
fn within(value: f64, (low, high): (f64, f64)) -> f64 {
    value.max(low).min(high)
}

#[cfg(test)]
mod tests;
