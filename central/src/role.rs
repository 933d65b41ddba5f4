//! Which part of central a process is.
//!
//! Never: more than a name and what it takes.

use clap::ValueEnum;
use mirador_otlp::Signal;
use mirador_transport::Kind;

/// A role: one per process, or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
#[value(rename_all = "lowercase")]
pub enum Role {
    /// Pairs spans into edges and stores traces.
    ServiceGraph,
    /// Merges RED deltas into one exact set of series.
    SpanMetrics,
    /// Scores and stores every metric.
    IsolationForest,
    /// Stores log records.
    Logs,
    /// Everything in one process.
    All,
}

impl Role {
    /// The name on the command line and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ServiceGraph => "servicegraph",
            Self::SpanMetrics => "spanmetrics",
            Self::IsolationForest => "isolationforest",
            Self::Logs => "logs",
            Self::All => "all",
        }
    }

    /// Whether this process does the work of `role`.
    pub fn does(self, role: Self) -> bool {
        self == role || self == Self::All
    }

    /// What the receiver takes; everything else is answered as not implemented.
    pub fn kinds(self) -> Vec<Kind> {
        match self {
            Self::ServiceGraph => vec![Kind::Otlp(Signal::Traces)],
            Self::SpanMetrics => vec![Kind::Red, Kind::Otlp(Signal::Traces)],
            Self::IsolationForest => vec![Kind::Otlp(Signal::Metrics)],
            Self::Logs => vec![Kind::Otlp(Signal::Logs)],
            Self::All => Kind::ALL.to_vec(),
        }
    }

    /// Whether the process makes metrics that go on to isolationforest in another process.
    pub fn sends_metrics(self) -> bool {
        matches!(self, Self::ServiceGraph | Self::SpanMetrics)
    }
}
