//! Counts of one pass over a request: plain integers, added to the process's counters once at the end.
//!
//! Never: drops anything; it only says why something was dropped.

/// Why a datapoint or a series did not get through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Loss {
    /// The point has no time.
    NoTime,
    /// The point lies so far ahead that the store would discard it silently.
    FarFuture,
    /// The point is older than what is kept.
    TooOld,
    /// The point has neither a value nor the flag that says so.
    NoValue,
    /// A histogram whose bucket counts do not fit its bounds, or whose bounds do not ascend.
    BadBuckets,
    /// A delta or cumulative metric without a temporality.
    NoTemporality,
    /// The metric has no data or no name.
    NoData,
    /// A delta that ends before one that was added already.
    LateDelta,
    /// A delta of a series that the table has no place for: without state it cannot be made cumulative.
    DeltaOverLimit,
    /// More labels than the limit.
    TooManyLabels,
    /// A label name over the limit, with `on_limit: drop`.
    LabelName,
    /// A label value over the limit, with `on_limit: drop`.
    LabelValue,
}

impl Loss {
    /// All reasons, in the order of the enum.
    pub const ALL: [Self; 12] = [
        Self::NoTime,
        Self::FarFuture,
        Self::TooOld,
        Self::NoValue,
        Self::BadBuckets,
        Self::NoTemporality,
        Self::NoData,
        Self::LateDelta,
        Self::DeltaOverLimit,
        Self::TooManyLabels,
        Self::LabelName,
        Self::LabelValue,
    ];

    /// The value of the label `reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoTime => "no_time",
            Self::FarFuture => "far_future",
            Self::TooOld => "too_old",
            Self::NoValue => "no_value",
            Self::BadBuckets => "bad_buckets",
            Self::NoTemporality => "no_temporality",
            Self::NoData => "no_data",
            Self::LateDelta => "late_delta",
            Self::DeltaOverLimit => "delta_over_limit",
            Self::TooManyLabels => "too_many_labels",
            Self::LabelName => "label_name_too_long",
            Self::LabelValue => "label_value_too_long",
        }
    }
}

/// What one pass saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Datapoints read.
    pub points: u64,
    losses: [u64; Loss::ALL.len()],
    /// Names and values that were cut.
    pub truncated: u64,
    /// Points whose labels are those of another resource.
    pub conflicts: u64,
}

impl Tally {
    /// One point did not get through.
    pub fn lose(&mut self, loss: Loss) {
        self.losses[loss as usize] += 1;
    }

    /// One name or value was cut.
    pub fn truncate(&mut self) {
        self.truncated += 1;
    }

    /// Points lost for one reason.
    pub fn lost(&self, loss: Loss) -> u64 {
        self.losses[loss as usize]
    }

    /// Points lost for any reason; a delta that came late is not among them when it was a repetition, because
    /// a repetition is written again.
    pub fn lost_in_all(&self) -> u64 {
        self.losses.iter().sum()
    }
}
