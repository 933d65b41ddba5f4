//! What an operator can set for the isolationforest role.
//!
//! Never: reads files; the process's configuration is loaded elsewhere.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::compat::Collector;
pub use super::compat::OutputMode;
use super::detector::{Direction, Preset, Settings};
use super::trees::family::FamilySettings;
use crate::normalise;

/// The role isolationforest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How points are scored.
    pub engine: EngineConfig,
    /// Which series have state.
    pub series: SeriesConfig,
    /// How resources are scored as a whole.
    pub forest: ForestConfig,
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
    /// Where scores are written: `series` (default), or as the predecessor did, `labels` or `attributes`.
    ///
    /// `series` writes `anomaly_score` and `is_anomaly` beside the metrics. The other two add score and flag to every
    /// sample of the metric itself: each new score is a new series in the store, so that a day of one series at 15 s
    /// costs up to 5,760 of them, and queries over the metric break at every point. For stores that something still
    /// reads in the old form, and for as short a time as possible.
    pub output: OutputMode,
    /// Keys of the Collector's isolationforest processor.
    pub collector: Collector,
}

/// How readily a series is flagged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PresetName {
    /// Threshold .70.
    Sensitive,
    /// Threshold .75.
    #[default]
    Balanced,
    /// Threshold .82.
    Quiet,
}

/// Which deviations count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DirectionName {
    /// Higher and lower values.
    #[default]
    Both,
    /// Higher values only.
    Up,
    /// Lower values only.
    Down,
}

/// How points are scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// Off: metrics are written without scores.
    pub enabled: bool,
    /// `sensitive`, `balanced` or `quiet`: the threshold that scores are held against. It is .06 lower for rates, error
    /// shares and what is read from histograms, which must also be further from usual than chance takes them.
    pub preset: PresetName,
    /// A threshold of your own, between 0.5 and 1, instead of the preset's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Points kept per feature of a series, 32 bytes each over the four features.
    pub sample_size: usize,
    /// How many points back a series remembers.
    pub recency_points: u32,
    /// Points before a series is judged by itself; until then its score is 0, or its family's word.
    pub warmup_points: u32,
    /// The share of a series' own scores that may be over its threshold.
    pub contamination: f64,
    /// The chance that a score which is flagged belongs to the tail of the series' own scores.
    pub risk: f64,
    /// The least deviation that can be an anomaly, as a share of the series' median.
    pub min_relative_deviation: f64,
    /// `both`, `up` or `down`: which deviations can be anomalies.
    pub direction: DirectionName,
    /// After an alarm only a score higher than its peak opens another episode for so many points,
    pub refractory_points: u32,
    /// and for so long.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "mirador_service::duration::GoDuration")]
    pub refractory: Duration,
    /// Seconds that local time is ahead of UTC: days of the time-of-day profile begin at local midnight.
    pub day_offset_seconds: i32,
    /// Tells of series from which nothing comes any more.
    pub silent_series: bool,
    /// Watches the share of failed calls of each operation and edge, from their call counters.
    pub error_ratio: bool,
    /// Two processes with one seed and one input give the same scores.
    pub seed: u64,
}

/// Which series have state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SeriesConfig {
    /// Series (histograms count as one) with state in this process. Points of further ones are written, and scored by
    /// what the metric's other series show; deltas of further ones cannot be added up: they are dropped and counted.
    pub max_series: usize,
    /// Series of one metric with state.
    pub max_per_metric: usize,
    /// Series of one resource with state.
    pub max_per_resource: usize,
    /// Metrics per shard whose series are pooled, so that a new series has something to start from.
    pub max_families: usize,
    /// A series that is not seen for so long loses its state, and its score series ends.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "mirador_service::duration::GoDuration")]
    pub ttl: Duration,
}

/// How resources are scored as a whole: one forest for all resources of a kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ForestConfig {
    /// Off: no `resource_anomaly_score`.
    pub enabled: bool,
    /// Trees of each kind's forest.
    pub trees: usize,
    /// Rows that each tree grows from. A row says how surprising the signals of one resource were in ten seconds.
    pub sample_size: usize,
    /// Rows that are kept of each kind to grow trees from.
    pub reservoir: usize,
    /// How long a row stays on average.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "mirador_service::duration::GoDuration")]
    pub horizon: Duration,
    /// Resources that are watched as a whole in this process; further ones are counted, their series are scored.
    pub max_resources: usize,
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
            forest: ForestConfig::default(),
            flag_hold: Duration::from_hours(1),
            shards: 0,
            queue: 64,
            queue_wait: Duration::from_secs(2),
            writer: WriterConfig::default(),
            normalise: normalise::Config::default(),
            output: OutputMode::default(),
            collector: Collector::default(),
        }
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        let settings = Settings::default();
        Self {
            enabled: true,
            preset: PresetName::default(),
            threshold: None,
            sample_size: settings.kept,
            recency_points: settings.recency,
            warmup_points: settings.warmup_points,
            contamination: settings.contamination,
            risk: settings.risk,
            min_relative_deviation: settings.min_relative_deviation,
            direction: DirectionName::default(),
            refractory_points: settings.refractory_points,
            refractory: Duration::from_nanos(settings.refractory_nanos),
            day_offset_seconds: 0,
            silent_series: true,
            error_ratio: true,
            seed: 0,
        }
    }
}

impl Default for SeriesConfig {
    fn default() -> Self {
        Self {
            max_series: 1_000_000,
            max_per_metric: 50_000,
            max_per_resource: 5_000,
            max_families: 4_096,
            ttl: Duration::from_hours(1),
        }
    }
}

impl Default for ForestConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            trees: 50,
            sample_size: 256,
            reservoir: 4096,
            horizon: Duration::from_hours(24),
            max_resources: 20_000,
        }
    }
}

impl ForestConfig {
    /// Epochs of the forests: see [`super::shared`].
    const EPOCH_SECONDS: u64 = 10;

    /// The settings of each kind's forest.
    pub(super) fn settings(&self) -> FamilySettings {
        let epochs = (self.horizon.as_secs() / Self::EPOCH_SECONDS).max(1);
        FamilySettings {
            trees: self.trees,
            sample: self.sample_size,
            reservoir: self.reservoir,
            horizon_epochs: u32::try_from(epochs).unwrap_or(u32::MAX),
            ..FamilySettings::default()
        }
    }

    /// What cannot work, by key.
    fn problems(&self) -> Vec<String> {
        let checks = [
            (
                !(1..=1000).contains(&self.trees),
                format!("forest.trees is {}; it must be between 1 and 1000", self.trees),
            ),
            (
                !(16..=4096).contains(&self.sample_size),
                format!("forest.sample_size is {}; it must be between 16 and 4096", self.sample_size),
            ),
            (
                !(self.sample_size.max(64)..=1 << 20).contains(&self.reservoir),
                format!(
                    "forest.reservoir is {}; it must be at least 64 and forest.sample_size ({}), and at most 1048576",
                    self.reservoir, self.sample_size
                ),
            ),
            (
                self.horizon < Duration::from_secs(Self::EPOCH_SECONDS),
                "forest.horizon is shorter than the 10 s in which a row is gathered; 24h is the default".to_owned(),
            ),
            (
                !(1..=1_000_000).contains(&self.max_resources),
                format!(
                    "forest.max_resources is {}; it must be between 1 and 1000000 (forest.enabled turns it off)",
                    self.max_resources
                ),
            ),
        ];
        checks.into_iter().filter_map(|(wrong, text)| wrong.then_some(text)).collect()
    }
}

impl Default for WriterConfig {
    fn default() -> Self {
        Self { max_samples: 10_000, max_bytes: 8 << 20, max_delay: Duration::from_secs(1), concurrency: 4, queue: 16 }
    }
}

impl EngineConfig {
    /// The detectors' settings.
    pub fn settings(&self) -> Settings {
        let preset = match self.preset {
            PresetName::Sensitive => Preset::Sensitive,
            PresetName::Balanced => Preset::Balanced,
            PresetName::Quiet => Preset::Quiet,
        };
        let direction = match self.direction {
            DirectionName::Both => Direction::Both,
            DirectionName::Up => Direction::Up,
            DirectionName::Down => Direction::Down,
        };
        Settings {
            kept: self.sample_size,
            recency: self.recency_points,
            warmup_points: self.warmup_points,
            floor: self.threshold.unwrap_or(preset.floor()),
            contamination: self.contamination,
            risk: self.risk,
            min_relative_deviation: self.min_relative_deviation,
            direction,
            refractory_points: self.refractory_points,
            refractory_nanos: u64::try_from(self.refractory.as_nanos()).unwrap_or(u64::MAX),
            day_offset_seconds: self.day_offset_seconds,
            ..Settings::default()
        }
    }

    /// What cannot work, by key.
    fn problems(&self) -> Vec<String> {
        let share = |key: &str, value: f64| {
            let wrong = !(value > 0.0 && value <= 1.0);
            (wrong, format!("engine.{key} is {value}; it must be above 0 and at most 1"))
        };
        let threshold = self.threshold.unwrap_or(0.75);
        let checks = [
            (
                !(16..=512).contains(&self.sample_size),
                format!("engine.sample_size is {}; it must be between 16 and 512", self.sample_size),
            ),
            (
                !(256..=1_000_000).contains(&self.recency_points),
                format!("engine.recency_points is {}; it must be between 256 and 1000000", self.recency_points),
            ),
            (
                !(16..=100_000).contains(&self.warmup_points),
                format!("engine.warmup_points is {}; it must be between 16 and 100000", self.warmup_points),
            ),
            (
                !(0.5..=1.0).contains(&threshold),
                format!("engine.threshold is {threshold}; it must be between 0.5 and 1"),
            ),
            share("contamination", self.contamination),
            share("risk", self.risk),
            (
                !(0.0..=1e6).contains(&self.min_relative_deviation),
                format!("engine.min_relative_deviation is {}; it must be 0 or more", self.min_relative_deviation),
            ),
            (
                !(-86_400..=86_400).contains(&self.day_offset_seconds),
                format!("engine.day_offset_seconds is {}; it must be within a day", self.day_offset_seconds),
            ),
        ];
        checks.into_iter().filter_map(|(wrong, text)| wrong.then_some(text)).collect()
    }
}

impl Config {
    /// What is wrong with the values, one line per key.
    pub fn problems(&self) -> Vec<String> {
        let limits = &self.series;
        let checks = [
            (self.series.max_series == 0, "series.max_series is 0; it must be at least 1".to_owned()),
            (limits.max_per_metric == 0, "series.max_per_metric is 0; it must be at least 1".to_owned()),
            (limits.max_per_resource == 0, "series.max_per_resource is 0; it must be at least 1".to_owned()),
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
        let mut problems = self.scoring().problems();
        problems.extend(self.resource_forests().problems());
        problems.extend(checks.into_iter().filter_map(|(wrong, text)| wrong.then_some(text)));
        problems.extend(self.collector.problems());
        problems
    }

    /// How points are scored, with what the Collector's keys say.
    pub fn scoring(&self) -> EngineConfig {
        let mut engine = self.engine.clone();
        self.collector.apply(&mut engine);
        engine
    }

    /// How the forests of resources grow, with what the Collector's keys say.
    pub fn resource_forests(&self) -> ForestConfig {
        let mut forest = self.forest.clone();
        self.collector.apply_to_forest(&mut forest);
        forest
    }

    /// Shards to start.
    pub fn shard_count(&self) -> usize {
        match self.shards {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        }
    }
}
