//! The series of one histogram or summary: their label sets, made once and kept.
//!
//! Never: adds up, reads points.

use super::Output;
use super::labels::Base;
use super::names::number_text;
use crate::series::{Labels, STALE_NAN};

/// What tells the parts apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// `_bucket` series with `le`.
    Bucket,
    /// Series with `quantile`.
    Quantile,
}

/// `_count`, `_sum` and the parts.
#[derive(Debug, Clone)]
pub struct Family {
    part: Part,
    name: Box<str>,
    count: Labels,
    sum: Labels,
    /// Bound or quantile, ascending; buckets end with +Inf.
    parts: Vec<(f64, Labels)>,
    sum_written: bool,
}

impl Family {
    /// No parts yet.
    pub fn new(part: Part, name: &str, base: &Base) -> Self {
        Self {
            part,
            name: name.into(),
            count: base.series(&format!("{name}_count"), None),
            sum: base.series(&format!("{name}_sum"), None),
            parts: Vec::new(),
            sum_written: false,
        }
    }

    /// The bounds or quantiles that there are series for.
    pub fn edges(&self) -> impl Iterator<Item = f64> {
        self.parts.iter().map(|(edge, _)| *edge)
    }

    /// Makes the parts those of `edges`; a part that is no longer there ends with a stale marker.
    pub fn fit(&mut self, edges: impl Iterator<Item = f64> + Clone, timestamp_ms: i64, out: &mut Output) {
        if self.parts.len() == edges.clone().count()
            && self.edges().zip(edges.clone()).all(|(left, right)| left.to_bits() == right.to_bits())
        {
            return;
        }
        let base = Base::of(&self.count);
        let mut old = std::mem::take(&mut self.parts);
        for edge in edges {
            let known = old.iter().position(|(old_edge, _)| old_edge.to_bits() == edge.to_bits());
            let part = match known {
                Some(index) => old.swap_remove(index),
                None => (edge, self.part_labels(&base, edge)),
            };
            self.parts.push(part);
        }
        for (_, labels) in &old {
            out.push(labels, timestamp_ms, STALE_NAN);
        }
    }

    fn part_labels(&self, base: &Base, edge: f64) -> Labels {
        let text = number_text(edge);
        match self.part {
            Part::Bucket => base.series(&format!("{}_bucket", self.name), Some(("le", &text))),
            Part::Quantile => base.series(&self.name, Some(("quantile", &text))),
        }
    }

    /// Writes one value per part, then the sum and the count.
    pub fn write(
        &mut self,
        timestamp_ms: i64,
        values: impl Iterator<Item = f64>,
        sum: Option<f64>,
        count: f64,
        out: &mut Output,
    ) {
        for ((_, labels), value) in self.parts.iter().zip(values) {
            out.push(labels, timestamp_ms, value);
        }
        if let Some(sum) = sum {
            self.sum_written = true;
            out.push(&self.sum, timestamp_ms, sum);
        }
        out.push(&self.count, timestamp_ms, count);
        out.trailing = 1 + usize::from(sum.is_some());
    }

    /// Ends every series that was written.
    pub fn write_stale(&self, timestamp_ms: i64, out: &mut Output) {
        for (_, labels) in &self.parts {
            out.push(labels, timestamp_ms, STALE_NAN);
        }
        if self.sum_written {
            out.push(&self.sum, timestamp_ms, STALE_NAN);
        }
        out.push(&self.count, timestamp_ms, STALE_NAN);
    }
}
