//! The data points of the five kinds of metric, and exemplars.
//!
//! Each point's scalar fields are read in one pass when the view is made.

use crate::repeated::{Message, Numbers, Repeated, Width};
use crate::value::Attributes;
use crate::wire::{Fields, Wire};

/// A number as its sender recorded it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Number {
    /// No value.
    #[default]
    None,
    /// A signed integer.
    Int(i64),
    /// A floating-point number.
    Double(f64),
}

/// Declares a point view: the fields common to all points are written once.
macro_rules! point {
    (
        $(#[$doc:meta])* $name:ident, attributes: $attributes:literal, flags: $flags:literal,
        { $($field:ident: $type:ty = $($number:literal $read:expr),+;)+ }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default)]
        pub struct $name<'a> {
            raw: &'a [u8],
            start_time_unix_nano: u64,
            time_unix_nano: u64,
            flags: u32,
            $($field: $type),+
        }

        impl<'a> Message<'a> for $name<'a> {
            fn of(bytes: &'a [u8]) -> Self {
                let mut point = Self { raw: bytes, ..Self::default() };
                for (number, wire) in Fields::new(bytes) {
                    match number {
                        2 => point.start_time_unix_nano = wire.number(),
                        3 => point.time_unix_nano = wire.number(),
                        $flags => point.flags = wire.number() as u32,
                        $($($number => point.$field = ($read)(wire),)+)+
                        _ => {}
                    }
                }
                point
            }
        }

        impl<'a> $name<'a> {
            /// The attributes that tell this point's series from others of the metric.
            pub fn attributes(&self) -> Attributes<'a> {
                Attributes::new(self.raw, $attributes)
            }

            /// Start of the interval, in nanoseconds since the Unix epoch; 0 when unknown.
            pub fn start_time_unix_nano(&self) -> u64 {
                self.start_time_unix_nano
            }

            /// Time of the value, in nanoseconds since the Unix epoch.
            pub fn time_unix_nano(&self) -> u64 {
                self.time_unix_nano
            }

            /// `DataPointFlags`; bit 0 means that there is no recorded value.
            pub fn flags(&self) -> u32 {
                self.flags
            }

            /// The message's bytes.
            pub fn raw(&self) -> &'a [u8] {
                self.raw
            }
        }
    };
}

fn integer(wire: Wire<'_>) -> u64 {
    wire.number()
}

fn double(wire: Wire<'_>) -> f64 {
    wire.double()
}

#[expect(clippy::unnecessary_wraps, reason = "the shape of an optional field's reader")]
fn present(wire: Wire<'_>) -> Option<f64> {
    Some(wire.double())
}

fn as_double(wire: Wire<'_>) -> Number {
    Number::Double(wire.double())
}

fn as_int(wire: Wire<'_>) -> Number {
    Number::Int(wire.number() as i64)
}

fn bytes(wire: Wire<'_>) -> &[u8] {
    wire.bytes()
}

point!(
    /// A point of a gauge or a sum.
    NumberPoint, attributes: 7, flags: 8,
    {
        value: Number = 4 as_double, 6 as_int;
    }
);

impl<'a> NumberPoint<'a> {
    /// The value. Of several the last one counts.
    pub fn value(&self) -> Number {
        self.value
    }

    /// Example measurements.
    pub fn exemplars(&self) -> Repeated<'a, Exemplar<'a>> {
        Repeated::new(self.raw, 5)
    }
}

point!(
    /// A point of a histogram with explicit bounds.
    HistogramPoint, attributes: 9, flags: 10,
    {
        count: u64 = 4 integer;
        sum: Option<f64> = 5 present;
        min: Option<f64> = 11 present;
        max: Option<f64> = 12 present;
    }
);

impl<'a> HistogramPoint<'a> {
    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their sum.
    pub fn sum(&self) -> Option<f64> {
        self.sum
    }

    /// The smallest value.
    pub fn min(&self) -> Option<f64> {
        self.min
    }

    /// The largest value.
    pub fn max(&self) -> Option<f64> {
        self.max
    }

    /// Counts by bucket: one more than there are bounds, or none.
    pub fn bucket_counts(&self) -> Numbers<'a> {
        Numbers::new(self.raw, 6, Width::Fixed64)
    }

    /// Upper bounds of the buckets, each included in its bucket.
    pub fn explicit_bounds(&self) -> impl Iterator<Item = f64> + Clone + 'a {
        Numbers::new(self.raw, 7, Width::Fixed64).map(f64::from_bits)
    }

    /// Example measurements.
    pub fn exemplars(&self) -> Repeated<'a, Exemplar<'a>> {
        Repeated::new(self.raw, 8)
    }
}

point!(
    /// A point of a histogram with exponential bounds.
    ExpHistogramPoint, attributes: 1, flags: 10,
    {
        count: u64 = 4 integer;
        sum: Option<f64> = 5 present;
        scale: i32 = 6 Wire::zigzag32;
        zero_count: u64 = 7 integer;
        positive: &'a [u8] = 8 bytes;
        negative: &'a [u8] = 9 bytes;
        min: Option<f64> = 12 present;
        max: Option<f64> = 13 present;
        zero_threshold: f64 = 14 double;
    }
);

impl<'a> ExpHistogramPoint<'a> {
    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their sum.
    pub fn sum(&self) -> Option<f64> {
        self.sum
    }

    /// The smallest value.
    pub fn min(&self) -> Option<f64> {
        self.min
    }

    /// The largest value.
    pub fn max(&self) -> Option<f64> {
        self.max
    }

    /// The resolution: bucket `i` ends at `2^(2^-scale * (i + 1))`.
    pub fn scale(&self) -> i32 {
        self.scale
    }

    /// How many values lie within the zero threshold.
    pub fn zero_count(&self) -> u64 {
        self.zero_count
    }

    /// Width of the zero bucket.
    pub fn zero_threshold(&self) -> f64 {
        self.zero_threshold
    }

    /// Buckets of positive values.
    pub fn positive(&self) -> Buckets<'a> {
        Buckets { bytes: self.positive }
    }

    /// Buckets of negative values, by their size.
    pub fn negative(&self) -> Buckets<'a> {
        Buckets { bytes: self.negative }
    }

    /// Example measurements.
    pub fn exemplars(&self) -> Repeated<'a, Exemplar<'a>> {
        Repeated::new(self.raw, 11)
    }
}

/// Consecutive buckets of an exponential histogram.
#[derive(Debug, Clone, Copy)]
pub struct Buckets<'a> {
    bytes: &'a [u8],
}

impl<'a> Buckets<'a> {
    /// The index of the first bucket.
    pub fn offset(&self) -> i32 {
        Fields::new(self.bytes).last(1).map_or(0, Wire::zigzag32)
    }

    /// Counts by bucket.
    pub fn counts(&self) -> Numbers<'a> {
        Numbers::new(self.bytes, 2, Width::Varint)
    }
}

point!(
    /// A point of a summary.
    SummaryPoint, attributes: 7, flags: 8,
    { count: u64 = 4 integer; sum: f64 = 5 double; }
);

impl<'a> SummaryPoint<'a> {
    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their sum.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Values at quantiles.
    pub fn quantiles(&self) -> Repeated<'a, Quantile> {
        Repeated::new(self.raw, 6)
    }
}

/// The value at a quantile.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Quantile {
    /// The quantile, from 0 (minimum) to 1 (maximum).
    pub quantile: f64,
    /// The value there.
    pub value: f64,
}

impl<'a> Message<'a> for Quantile {
    fn of(bytes: &'a [u8]) -> Self {
        let mut quantile = Self::default();
        for (number, wire) in Fields::new(bytes) {
            match number {
                1 => quantile.quantile = wire.double(),
                2 => quantile.value = wire.double(),
                _ => {}
            }
        }
        quantile
    }
}

/// An example measurement with the trace it was taken in.
#[derive(Debug, Clone, Copy, Default)]
pub struct Exemplar<'a> {
    raw: &'a [u8],
    trace_id: &'a [u8],
    span_id: &'a [u8],
    time_unix_nano: u64,
    value: Number,
}

impl<'a> Message<'a> for Exemplar<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        let mut exemplar = Self { raw: bytes, ..Self::default() };
        for (number, wire) in Fields::new(bytes) {
            match number {
                2 => exemplar.time_unix_nano = wire.number(),
                3 => exemplar.value = as_double(wire),
                4 => exemplar.span_id = wire.bytes(),
                5 => exemplar.trace_id = wire.bytes(),
                6 => exemplar.value = as_int(wire),
                _ => {}
            }
        }
        exemplar
    }
}

impl<'a> Exemplar<'a> {
    /// Attributes that the metric's view left out.
    pub fn filtered_attributes(&self) -> Attributes<'a> {
        Attributes::new(self.raw, 7)
    }

    /// When it was measured, in nanoseconds since the Unix epoch.
    pub fn time_unix_nano(&self) -> u64 {
        self.time_unix_nano
    }

    /// The measured value.
    pub fn value(&self) -> Number {
        self.value
    }

    /// The trace id as it came; empty when there is none.
    pub fn trace_id(&self) -> &'a [u8] {
        self.trace_id
    }

    /// The span id as it came; empty when there is none.
    pub fn span_id(&self) -> &'a [u8] {
        self.span_id
    }
}
