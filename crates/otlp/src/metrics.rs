//! Views of metrics: resource, scope, metric and its data; the points are in [`points`].

pub mod points;

pub use points::{Buckets, Exemplar, ExpHistogramPoint, HistogramPoint, Number, NumberPoint, Quantile, SummaryPoint};

use crate::repeated::{Message, Repeated};
use crate::resource::Resource;
use crate::scope::{Scope, string};
use crate::value::Attributes;
use crate::wire::{Fields, text};

/// The metrics of one resource (`ResourceMetrics`).
#[derive(Debug, Clone, Copy)]
pub struct ResourceMetrics<'a> {
    bytes: &'a [u8],
}

impl<'a> Message<'a> for ResourceMetrics<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }
}

impl<'a> ResourceMetrics<'a> {
    /// The resource.
    pub fn resource(&self) -> Resource<'a> {
        Resource::in_entry(self.bytes)
    }

    /// Schema URL of the resource. Walks the scopes, behind which it stands.
    pub fn schema_url(&self) -> &'a str {
        string(self.bytes, 3)
    }

    /// The metrics by scope.
    pub fn scopes(&self) -> Repeated<'a, ScopeMetrics<'a>> {
        Repeated::new(self.bytes, 2)
    }
}

/// The metrics of one scope (`ScopeMetrics`).
#[derive(Debug, Clone, Copy)]
pub struct ScopeMetrics<'a> {
    bytes: &'a [u8],
}

impl<'a> Message<'a> for ScopeMetrics<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }
}

impl<'a> ScopeMetrics<'a> {
    /// The scope.
    pub fn scope(&self) -> Scope<'a> {
        Scope::in_entry(self.bytes)
    }

    /// Schema URL of the metrics. Walks the metrics, behind which it stands.
    pub fn schema_url(&self) -> &'a str {
        string(self.bytes, 3)
    }

    /// The metrics.
    pub fn metrics(&self) -> Repeated<'a, Metric<'a>> {
        Repeated::new(self.bytes, 2)
    }
}

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
