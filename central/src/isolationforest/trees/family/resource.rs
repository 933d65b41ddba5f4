//! From the series of a resource to the row that its family's forest scores, and to the resource's score.
//!
//! A signal's place in the row holds the most surprising of the series that carry the signal. Surprise is the
//! binary logarithm of one over the tail probability of a value, positive above the expected and negative below,
//! at most 12 either way: the same for every series, whatever its unit.
//! Never: keeps anything between ticks but what the caller keeps.

/// Places of a row.
pub const SIGNALS: usize = 8;
/// Surprise ends here: one in 4,096.
pub const MOST_SURPRISE: f32 = 12.0;

/// What a series tells about its resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signal {
    /// Calls, requests or messages per second.
    Rate,
    /// The share of calls that fail, or failures per second.
    Errors,
    /// The median of a duration; also its mean, where that is all there is.
    P50,
    /// The 95th percentile of a duration.
    P95,
    /// The 99th percentile of a duration.
    P99,
    /// Processor time or utilization.
    Cpu,
    /// Memory in use.
    Memory,
    /// Work that waits or capacity that is nearly used up: queues, pools, disks, garbage collection.
    Saturation,
}

/// Which number of a datapoint a series is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The value of a gauge, the rate of a sum.
    Value,
    /// Observations per second of a histogram or summary.
    Count,
    /// The mean of a histogram or summary, or its median.
    Middle,
    /// Its 95th percentile.
    P95,
    /// Its 99th percentile.
    P99,
}

/// Words of metric names (OpenTelemetry semantic conventions and common exporters) that tell a signal; names are
/// read with a dot between and around words. The first that is found decides, so the more special come first.
const WORDS: [(&str, Signal); 25] = [
    ("queue", Signal::Saturation),
    ("pending", Signal::Saturation),
    ("saturation", Signal::Saturation),
    ("throttl", Signal::Saturation),
    ("backlog", Signal::Saturation),
    (".lag.", Signal::Saturation),
    ("wait", Signal::Saturation),
    (".gc.", Signal::Saturation),
    ("error", Signal::Errors),
    ("exception", Signal::Errors),
    ("fail", Signal::Errors),
    ("refused", Signal::Errors),
    ("dropped", Signal::Errors),
    ("cpu", Signal::Cpu),
    ("memory", Signal::Memory),
    ("heap", Signal::Memory),
    (".rss.", Signal::Memory),
    ("duration", Signal::P50),
    ("latency", Signal::P50),
    ("response.time", Signal::P50),
    ("calls", Signal::Rate),
    ("request", Signal::Rate),
    ("messages", Signal::Rate),
    ("operations", Signal::Rate),
    ("utilization", Signal::Saturation),
];

impl Signal {
    /// All of them, in the order of the row's places.
    pub const ALL: [Self; SIGNALS] =
        [Self::Rate, Self::Errors, Self::P50, Self::P95, Self::P99, Self::Cpu, Self::Memory, Self::Saturation];

    /// The signal that a part of a metric carries; `None` when the name tells none. `is_error` says that the
    /// series counts failures by its attributes (a status of ERROR, a code of 5xx).
    pub fn of(metric: &str, part: Part, is_error: bool) -> Option<Self> {
        let name = format!(".{}.", metric.to_ascii_lowercase().replace('_', "."));
        let (_, signal) = WORDS.iter().find(|(word, _)| name.contains(word))?;
        match (signal, part) {
            (Self::P50, Part::P95) => Some(Self::P95),
            (Self::P50, Part::P99) => Some(Self::P99),
            (Self::P50, Part::Count) | (Self::Rate, _) => Some(if is_error { Self::Errors } else { Self::Rate }),
            _ => Some(*signal),
        }
    }

    /// Its place in the row.
    pub fn place(self) -> usize {
        self as usize
    }

    /// A word for a reason.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Errors => "errors",
            Self::P50 => "p50",
            Self::P95 => "p95",
            Self::P99 => "p99",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Saturation => "saturation",
        }
    }
}

/// The surprise of a value whose tail has `probability`; 0 when that is no probability.
pub fn surprise(probability: f64, is_above: bool) -> f32 {
    if !(probability > 0.0 && probability <= 1.0) {
        return if probability == 0.0 { if is_above { MOST_SURPRISE } else { -MOST_SURPRISE } } else { 0.0 };
    }
    let size = (-probability.log2()).min(f64::from(MOST_SURPRISE)) as f32;
    if is_above { size } else { -size }
}

/// What the series of one resource have shown since the last tick.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Gathered {
    row: [f32; SIGNALS],
    top: [f32; TOP],
    series: u32,
}

/// Series whose mean score is a resource's score, if there are so many.
pub(crate) const TOP: usize = 3;

/// How odd a resource is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ResourceScore {
    /// The higher one of the other two, in [0, 1].
    pub score: f64,
    /// How odd the combination of its signals is; 0 while the family's forest warms up.
    pub combination: f64,
    /// The mean of its most anomalous series' scores.
    pub series: f64,
}

impl Gathered {
    /// Adds a series: its score and, if it carries a signal, how surprising its value was.
    pub fn add(&mut self, score: f64, signal: Option<Signal>, surprise: f32) {
        self.series = self.series.saturating_add(1);
        let mut score = score.clamp(0.0, 1.0) as f32;
        for kept in &mut self.top {
            if score > *kept {
                std::mem::swap(&mut score, kept);
            }
        }
        if let Some(signal) = signal {
            let kept = &mut self.row[signal.place()];
            if surprise.abs() > kept.abs() {
                *kept = surprise.clamp(-MOST_SURPRISE, MOST_SURPRISE);
            }
        }
    }

    /// Highest scores and number of the series, which with the row are all that is gathered.
    pub(crate) fn parts(&self) -> (&[f32], u32) {
        (&self.top, self.series)
    }

    /// Of a row, highest scores and a number of series; nothing when they are out of their ranges.
    pub(crate) fn from_parts(row: [f32; SIGNALS], top: [f32; TOP], series: u32) -> Option<Self> {
        let is_sound = row.iter().all(|value| value.abs() <= MOST_SURPRISE)
            && top.iter().all(|score| (0.0..=1.0).contains(score))
            && top.is_sorted_by(|higher, lower| higher >= lower);
        is_sound.then_some(Self { row, top, series })
    }

    /// The row for the family's forest.
    pub fn row(&self) -> &[f32; SIGNALS] {
        &self.row
    }

    /// Series so far.
    pub fn series(&self) -> u32 {
        self.series
    }

    /// Judges the resource, given what the family's forest says of [`Gathered::row`].
    pub fn judge(&self, combination: f64) -> ResourceScore {
        let counted = (self.series as usize).clamp(1, TOP);
        let series = self.top[..counted].iter().map(|score| f64::from(*score)).sum::<f64>() / counted as f64;
        ResourceScore { score: combination.max(series), combination, series }
    }
}
