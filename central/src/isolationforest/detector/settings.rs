//! How every detector behaves.
//!
//! One set of settings for all series; nothing here depends on what a series shows. Never: reads files.

/// How readily a series is flagged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preset {
    /// More alarms, earlier ones.
    Sensitive,
    /// For alerting on services.
    #[default]
    Balanced,
    /// For alerting on very many series.
    Quiet,
}

/// Which deviations count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    /// Higher and lower values.
    #[default]
    Both,
    /// Higher values only.
    Up,
    /// Lower values only.
    Down,
}

/// How the detector of every series behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Points kept per feature.
    pub kept: usize,
    /// How many points back a series remembers: weights fade by half in 0.7 times as many.
    pub recency: u32,
    /// Points that a series must have shown before it is judged by itself.
    pub warmup_points: u32,
    /// Scores below it are never anomalies.
    pub floor: f64,
    /// How much lower the floor is where the scatter of a value is known and the value is outside of it: for rates,
    /// shares, and what is read from histograms.
    pub known_margin: f64,
    /// A score must be among this share of the series' own highest.
    pub contamination: f64,
    /// The chance of such a score in the tail that was fitted to the series' own scores must be below this.
    pub risk: f64,
    /// The least deviation, as a share of the series' median.
    pub min_relative_deviation: f64,
    /// The least deviation, in half widths of the range that holds nine tenths of the values.
    pub min_spreads: f64,
    /// Which deviations count.
    pub direction: Direction,
    /// Points after an alarm in which only a higher score than its peak raises another one.
    pub refractory_points: u32,
    /// The same in nanoseconds; the longer of both counts.
    pub refractory_nanos: u64,
    /// A score this far above the threshold opens an episode alone; others need a second one within three points.
    pub open_margin: f64,
    /// An episode goes on while scores are above the threshold minus this.
    pub close_margin: f64,
    /// Points below that end an episode.
    pub close_points: u8,
    /// Added to the time before it is taken for a time of day.
    pub day_offset_seconds: i32,
}

impl Preset {
    /// The threshold of the preset.
    pub fn floor(self) -> f64 {
        match self {
            Self::Sensitive => 0.70,
            Self::Balanced => 0.75,
            Self::Quiet => 0.82,
        }
    }
}

impl Settings {
    /// The defaults at a preset.
    pub fn preset(preset: Preset) -> Self {
        Self { floor: preset.floor(), ..Self::default() }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            kept: 48,
            recency: 5120,
            warmup_points: 64,
            floor: Preset::Balanced.floor(),
            known_margin: 0.06,
            contamination: 0.001,
            risk: 1e-4,
            min_relative_deviation: 0.05,
            min_spreads: 1.25,
            direction: Direction::Both,
            refractory_points: 100,
            refractory_nanos: 30 * 60 * 1_000_000_000,
            open_margin: 0.06,
            close_margin: 0.05,
            close_points: 5,
            day_offset_seconds: 0,
        }
    }
}
