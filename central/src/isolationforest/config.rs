//! What an operator can set for the isolationforest role.
//!
//! Never: reads files; the process's configuration is loaded elsewhere.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::engine::Settings;
use crate::normalise;

/// The role isolationforest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How points are scored.
    pub engine: EngineConfig,
    /// Which series have state.
    pub series: SeriesConfig,
    /// How long after an anomaly the `is_anomaly` series is written.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "mirador_service::duration::GoDuration")]
    pub flag_hold: Duration,
    /// Threads' worth of state; 0: one per core.
    pub shards: usize,
    /// Requests that wait for one shard.
    pub queue: usize,
    /// How long a request waits for room before it is refused.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "mirador_service::duration::GoDuration")]
    pub queue_wait: Duration,
    /// How samples are gathered into writes.
    pub writer: WriterConfig,
    /// How OTLP metrics become series.
    pub normalise: normalise::Config,
}

/// How points are scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// Off: metrics are written without scores.
    pub enabled: bool,
    /// Values kept per feature of a series, 4 bytes each.
    pub sample_size: usize,
    /// Points before the scores of a series count; until then they are 0.
    pub warmup_points: u32,
    /// Scores from here on are anomalies: .73 sensitive, .78 balanced, .84 quiet.
    pub threshold: f64,
    /// The least distance from the median, as a share of the median, that can be an anomaly.
    pub min_relative_deviation: f64,
    /// A full sample takes every n-th point on average.
    pub replace_every: u32,
    /// Two processes with one seed and one input give the same scores.
    pub seed: u64,
}

/// Which series have state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SeriesConfig {
    /// Series (histograms count as one) with state in this process. Points of further ones are written
    /// without a score; deltas of further ones are dropped and counted.
    pub max_series: usize,
    /// A series that is not seen for so long loses its state, and its score series ends.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "mirador_service::duration::GoDuration")]
    pub ttl: Duration,
}

/// How samples are gathered into writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WriterConfig {
    /// Samples of one write.
    pub max_samples: usize,
    /// Bytes of one write, uncompressed.
    pub max_bytes: usize,
    /// How long samples wait for company while another write runs.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "mirador_service::duration::GoDuration")]
    pub max_delay: Duration,
    /// Writes side by side; 1 keeps the samples of a series in order, for stores that insist on it.
    pub concurrency: usize,
    /// Parts of requests that wait to be gathered.
    pub queue: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            engine: EngineConfig::default(),
            series: SeriesConfig::default(),
            flag_hold: Duration::from_hours(1),
            shards: 0,
            queue: 64,
            queue_wait: Duration::from_secs(2),
            writer: WriterConfig::default(),
            normalise: normalise::Config::default(),
        }
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        let settings = Settings::default();
        Self {
            enabled: true,
            sample_size: settings.sample_size,
            warmup_points: settings.warmup_points,
            threshold: settings.threshold,
            min_relative_deviation: settings.min_relative_deviation,
            replace_every: settings.replace_every,
            seed: 0,
        }
    }
}

impl Default for SeriesConfig {
    fn default() -> Self {
        Self { max_series: 1_000_000, ttl: Duration::from_hours(1) }
    }
}

impl Default for WriterConfig {
    fn default() -> Self {
        Self { max_samples: 10_000, max_bytes: 8 << 20, max_delay: Duration::from_secs(1), concurrency: 4, queue: 16 }
    }
}

impl EngineConfig {
    /// The scorer's settings.
    pub fn settings(&self) -> Settings {
        Settings {
            sample_size: self.sample_size,
            warmup_points: self.warmup_points,
            threshold: self.threshold,
            min_relative_deviation: self.min_relative_deviation,
            replace_every: self.replace_every,
        }
    }
}

impl Config {
    /// What is wrong with the values, one line per key.
    pub fn problems(&self) -> Vec<String> {
        let engine = &self.engine;
        let checks = [
            (
                !(16..=1024).contains(&engine.sample_size),
                format!("engine.sample_size is {}; it must be between 16 and 1024", engine.sample_size),
            ),
            (
                engine.warmup_points < 2,
                format!("engine.warmup_points is {}; it must be at least 2", engine.warmup_points),
            ),
            (
                !(0.5..=1.0).contains(&engine.threshold),
                format!("engine.threshold is {}; it must be between 0.5 and 1", engine.threshold),
            ),
            (
                !(0.0..=1e6).contains(&engine.min_relative_deviation),
                format!("engine.min_relative_deviation is {}; it must be 0 or more", engine.min_relative_deviation),
            ),
            (self.series.max_series == 0, "series.max_series is 0; it must be at least 1".to_owned()),
            (self.writer.max_samples == 0, "writer.max_samples is 0; it must be at least 1".to_owned()),
            (self.writer.max_bytes == 0, "writer.max_bytes is 0; it must be at least 1".to_owned()),
            (self.writer.concurrency == 0, "writer.concurrency is 0; it must be at least 1".to_owned()),
            (
                self.normalise.limits.max_labels < 4,
                format!("normalise.limits.max_labels is {}; it must be at least 4", self.normalise.limits.max_labels),
            ),
            (
                self.normalise.limits.max_name_bytes < 32 || self.normalise.limits.max_value_bytes < 32,
                "normalise.limits.max_name_bytes and max_value_bytes must be at least 32".to_owned(),
            ),
            (
                !(-10..=6).contains(&self.normalise.exponential_max_scale),
                format!(
                    "normalise.exponential_max_scale is {}; it must be between -10 and 6",
                    self.normalise.exponential_max_scale
                ),
            ),
        ];
        checks.into_iter().filter_map(|(wrong, text)| wrong.then_some(text)).collect()
    }

    /// Shards to start.
    pub fn shard_count(&self) -> usize {
        match self.shards {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        }
    }
}
