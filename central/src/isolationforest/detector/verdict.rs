//! What a detector says about one point.
//!
//! Never: holds text; a reason becomes a line when somebody writes it.

use std::fmt;

use super::episode::EpisodeChange;

/// What a detector says about one point.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Verdict {
    /// In (0, 1): about 0.5 is ordinary, towards 1 is isolated. `None` where [`Status`] says why.
    pub score: Option<f64>,
    /// Whether there is a score.
    pub status: Status,
    /// Above every gate: threshold, own scores, least deviation, direction.
    pub is_anomaly: bool,
    /// Where the value was expected, for anomalies.
    pub expected: Option<Expected>,
    /// What made the point stand out, for anomalies.
    pub reason: Option<Reason>,
    /// What happened to the episode of the series.
    pub episode: Option<EpisodeChange>,
    /// `-log2` of the chance of such a score in this series, negative when the value is low; within ±20.
    pub surprise: f64,
}

/// Why a point has a score or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Status {
    /// The series has too little history, and no family that could stand in.
    #[default]
    Warming,
    /// Judged by its own history.
    Scored,
    /// Judged by the pooled history of its family.
    ByFamily,
    /// Earlier than the latest point: judged, not learned.
    Late,
    /// The latest point again: judged as before, not learned.
    Repeated,
    /// NaN or infinite.
    NotFinite,
}

/// The range that would not have been an anomaly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expected {
    /// Lowest value, in the series' unit.
    pub low: f64,
    /// Highest value.
    pub high: f64,
    /// The usual value.
    pub middle: f64,
}

impl Expected {
    /// Bounds that are nothing but the rounding of single precision are 0.
    pub(crate) fn without_dust(self) -> Self {
        const DUST: f64 = 1e-5;
        let widest = self.low.abs().max(self.high.abs());
        let settle = |bound: f64| if bound.abs() < DUST * widest { 0.0 } else { bound };
        Self { low: settle(self.low), high: settle(self.high), middle: settle(self.middle) }
    }
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// The value.
    Value,
    /// The mean of the last 6 values.
    ShortMean,
    /// The mean of the last 24 values.
    LongMean,
    /// The value against what is usual at this time of day.
    TimeOfDay,
    /// The value against series of the same metric.
    Family,
}

/// Which way a value stands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Above what is usual.
    High,
    /// Below what is usual.
    Low,
    /// Between two usual levels.
    Gap,
}

/// What made a point stand out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reason {
    /// The feature that contributes most.
    pub feature: Feature,
    /// Which way.
    pub side: Side,
    /// The value of the point.
    pub value: f64,
    /// Where it was expected.
    pub expected: Expected,
    /// Share of the feature in the point's isolation, in [0, 1].
    pub contribution: f64,
}

impl Feature {
    /// The feature in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Value => "value",
            Self::ShortMean => "mean of the last 6",
            Self::LongMean => "mean of the last 24",
            Self::TimeOfDay => "value for this time of day",
            Self::Family => "value among series of this metric",
        }
    }
}

impl Side {
    /// The direction in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Low => "low",
            Self::Gap => "gap",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stands = match self.side {
            Side::High => "too high",
            Side::Low => "too low",
            Side::Gap => "between its usual levels",
        };
        let Expected { low, high, .. } = self.expected;
        write!(
            formatter,
            "{} {stands}: {} where {}..{} is expected ({:.0}% of the score)",
            self.feature.as_str(),
            Short(self.value),
            Short(low),
            Short(high),
            self.contribution * 100.0
        )
    }
}

/// Four significant digits.
struct Short(f64);

impl fmt::Display for Short {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(value) = *self;
        if value == 0.0 || !value.is_finite() {
            return write!(formatter, "{value}");
        }
        let magnitude = value.abs().log10().floor() as i32;
        if (-4..7).contains(&magnitude) {
            let digits = usize::try_from(3 - magnitude).unwrap_or(0);
            let text = format!("{value:.digits$}");
            let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
            write!(formatter, "{text}")
        } else {
            write!(formatter, "{value:.3e}")
        }
    }
}
