//! What is accepted from the predecessor: keys of the Collector's isolationforest processor, and its output forms.
//!
//! A key that means something here is used; one that means nothing is accepted and named in a log line at the start,
//! so that a configuration can be taken over without surprises. Never: changes a score.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::EngineConfig;
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

/// Keys of the Collector's isolationforest processor.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Collector {
    /// Used instead of `engine.contamination`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contamination_rate: Option<f64>,
    /// Used instead of `engine.threshold`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Used instead of `engine.warmup_points`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_samples: Option<u32>,
    /// The score's attribute with `output: attributes`; `anomaly.isolation_score` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score_attribute: Option<String>,
    /// The flag's attribute with `output: attributes`; `anomaly.is_anomaly` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classification_attribute: Option<String>,
    /// Without effect: one dimension needs no trees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forest_size: Option<Value>,
    /// Without effect: see `engine.sample_size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subsample_size: Option<Value>,
    /// Without effect: every point is written, see `output`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Value>,
    /// Without effect: see `engine.recency_points`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training_window: Option<Value>,
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
    /// Without effect: one dimension needs no trees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_node_samples: Option<Value>,
}

impl Collector {
    /// Takes over what has a meaning.
    pub(super) fn apply(&self, engine: &mut EngineConfig) {
        engine.contamination = self.contamination_rate.unwrap_or(engine.contamination);
        engine.threshold = self.threshold.or(engine.threshold);
        engine.warmup_points = self.min_samples.unwrap_or(engine.warmup_points);
    }

    /// Keys that are set and have no effect.
    pub fn inert(&self) -> Vec<&'static str> {
        let keys = [
            ("forest_size", &self.forest_size),
            ("subsample_size", &self.subsample_size),
            ("mode", &self.mode),
            ("training_window", &self.training_window),
            ("update_frequency", &self.update_frequency),
            ("features", &self.features),
            ("models", &self.models),
            ("performance", &self.performance),
            ("adaptive_window", &self.adaptive_window),
            ("min_node_samples", &self.min_node_samples),
        ];
        keys.into_iter().filter_map(|(key, value)| value.as_ref().map(|_| key)).collect()
    }

    /// What cannot work.
    pub(super) fn problems(&self) -> Option<String> {
        let (score, flag) = (self.score_name(), self.flag_name());
        (score == flag).then(|| {
            format!("collector.score_attribute and classification_attribute are both {score}; they must differ")
        })
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
