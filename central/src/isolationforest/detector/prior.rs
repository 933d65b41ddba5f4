//! What series of one metric have in common: where a series without a history of its own starts from.
//!
//! Every series of the family gives a value now and then, measured in its own half widths from its own median, so
//! that a small and a large instance of one service teach the same. A new series is measured by its first points and
//! held against that pool. A series that has no state at all is held against the plain values of the family.
//!
//! Never: reads a clock, grows beyond [`KEPT`] points per pool.

use super::UPKEEP;
use super::sample::Sample;
use super::settings::Settings;
use crate::isolationforest::engine::average_depth;

/// Points of each pool.
const KEPT: usize = 80;

/// Pooled history of one family: metric name, unit and type.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prior {
    pub(crate) shape: Pool,
    pub(crate) plain: Pool,
    pub(crate) origin: f64,
}

/// Values of many series.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Pool {
    pub(crate) sample: Sample,
    pub(crate) weight: f32,
    pub(crate) seen: u32,
}

impl Prior {
    /// Knows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Learns a value in the family's unit, and the same in half widths from its series' median where it has one.
    pub fn learn(&mut self, settings: &Settings, value: f64, standard: Option<f64>) {
        if !value.is_finite() {
            return;
        }
        if self.plain.seen == 0 {
            self.origin = value;
        }
        self.plain.learn(settings, (value - self.origin) as f32);
        if let Some(standard) = standard {
            self.shape.learn(settings, standard as f32);
        }
    }

    /// The score of a deviation in half widths; nothing until the family has shown enough.
    pub fn score(&self, settings: &Settings, standard: f64) -> Option<f64> {
        self.shape.score(settings, standard as f32)
    }

    /// The score of a plain value of a series without state.
    pub fn score_plain(&self, settings: &Settings, value: f64) -> Option<f64> {
        self.plain.score(settings, (value - self.origin) as f32)
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.shape.sample.heap_bytes() + self.plain.sample.heap_bytes()
    }
}

impl Pool {
    fn learn(&mut self, settings: &Settings, value: f32) {
        if !value.is_finite() {
            return;
        }
        self.seen = self.seen.saturating_add(1);
        self.weight += 1.0;
        self.sample.learn(value, KEPT);
        if self.seen.is_multiple_of(UPKEEP) {
            let factor = (-(UPKEEP as f32) / settings.recency.max(1) as f32).exp();
            self.weight *= factor;
            self.sample.fade(factor);
        }
    }

    fn score(&self, settings: &Settings, query: f32) -> Option<f64> {
        (self.seen >= settings.warmup_points && query.is_finite()).then(|| {
            let depth = f64::from(self.sample.depth(query));
            (-depth / average_depth((self.weight as usize).max(2))).exp2()
        })
    }
}
