//! Views of metrics: resource, scope, metric and its data; the points are in [`points`].

pub mod points;

pub use points::{Buckets, Exemplar, ExpHistogramPoint, HistogramPoint, Number, NumberPoint, Quantile, SummaryPoint};

use crate::entry::entries;
use crate::repeated::{Message, Repeated};
use crate::value::Attributes;
use crate::wire::{Fields, text};

entries!(ResourceMetrics, ScopeMetrics: metrics of Metric, "metrics");

/// Whether a sum or a histogram counts from its start or from its last report.
///
/// OTLP's numbers: 0 unspecified, 1 delta, 2 cumulative.
pub type Temporality = i32;

/// `AGGREGATION_TEMPORALITY_DELTA`.
pub const DELTA: Temporality = 1;
/// `AGGREGATION_TEMPORALITY_CUMULATIVE`.
pub const CUMULATIVE: Temporality = 2;

/// One metric; its fields are read in one pass when the view is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Metric<'a> {
    raw: &'a [u8],
    name: &'a [u8],
    description: &'a [u8],
    unit: &'a [u8],
    data: &'a [u8],
    /// The field number of `data`, 0 without.
    member: u32,
}

impl<'a> Message<'a> for Metric<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        let mut metric = Self { raw: bytes, ..Self::default() };
        for (number, wire) in Fields::new(bytes) {
            match number {
                1 => metric.name = wire.bytes(),
                2 => metric.description = wire.bytes(),
                3 => metric.unit = wire.bytes(),
                5 | 7 | 9 | 10 | 11 => {
                    metric.data = wire.bytes();
                    metric.member = number;
                }
                _ => {}
            }
        }
        metric
    }
}

impl<'a> Metric<'a> {
    /// The metric's name.
    pub fn name(&self) -> &'a str {
        text(self.name)
    }

    /// What the metric means.
    pub fn description(&self) -> &'a str {
        text(self.description)
    }

    /// The unit (UCUM).
    pub fn unit(&self) -> &'a str {
        text(self.unit)
    }

    /// Attributes of the metric itself, not of its points.
    pub fn metadata(&self) -> Attributes<'a> {
        Attributes::new(self.raw, 12)
    }

    /// The data points.
    pub fn data(&self) -> Data<'a> {
        let temporality = || Fields::new(self.data).last(2).map_or(0, |wire| wire.number() as i32);
        match self.member {
            5 => Data::Gauge(Repeated::new(self.data, 1)),
            7 => Data::Sum {
                points: Repeated::new(self.data, 1),
                temporality: temporality(),
                monotonic: Fields::new(self.data).last(3).is_some_and(|wire| wire.number() != 0),
            },
            9 => Data::Histogram { points: Repeated::new(self.data, 1), temporality: temporality() },
            10 => Data::ExponentialHistogram { points: Repeated::new(self.data, 1), temporality: temporality() },
            11 => Data::Summary { points: Repeated::new(self.data, 1) },
            _ => Data::Empty,
        }
    }

    /// The message's bytes.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }
}

/// The points of a metric, by kind.
#[derive(Debug, Clone)]
pub enum Data<'a> {
    /// No data.
    Empty,
    /// Current values.
    Gauge(Repeated<'a, NumberPoint<'a>>),
    /// Sums over time.
    Sum {
        /// The points.
        points: Repeated<'a, NumberPoint<'a>>,
        /// Delta or cumulative.
        temporality: Temporality,
        /// Whether the sum never falls.
        monotonic: bool,
    },
    /// Histograms with explicit bounds.
    Histogram {
        /// The points.
        points: Repeated<'a, HistogramPoint<'a>>,
        /// Delta or cumulative.
        temporality: Temporality,
    },
    /// Histograms with exponential bounds.
    ExponentialHistogram {
        /// The points.
        points: Repeated<'a, ExpHistogramPoint<'a>>,
        /// Delta or cumulative.
        temporality: Temporality,
    },
    /// Quantiles calculated by the sender.
    Summary {
        /// The points.
        points: Repeated<'a, SummaryPoint<'a>>,
    },
}
