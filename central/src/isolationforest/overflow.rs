//! Series beyond the limits: what is kept of them to hold their points against their family.
//!
//! Such a series has no history of its own. Its point is turned into what the virtual series of its kind would show (a
//! value, a rate, a mean, the quantiles of a summary), and each of these is held against what the family's series with
//! state show in the family's unit. Rates and means need the point before, which is all that is kept: 64 bytes a series.
//! Quantiles of histograms would need its buckets and are not looked at.
//!
//! Bounded by [`Beyond::new`]. Never: flags a point, since a family's plain values say nothing of a single series' scale.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::detector::Settings;
use super::detector::codec::{Decoder, Encoder};
use super::families::Families;
use super::table::KeyHasher;
use super::watch::{Before, Virtual, growth, keep_later};
use crate::normalise::stream::Reading;

/// Points before that are kept, by series.
#[derive(Debug, Default)]
pub(super) struct Beyond {
    before: HashMap<u128, Before, BuildHasherDefault<KeyHasher>>,
    limit: usize,
}

/// What virtual series would show.
type Shown = [(Virtual, Option<f64>); 5];

impl Beyond {
    /// Keeps the latest point of `limit` series at most; counters beyond that have no rate.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    /// The score of a point by its family: the highest of what it shows. Nothing while the family has shown too little,
    /// or for the first point of a counter.
    pub(super) fn score(
        &mut self,
        (families, family): (&mut Families, u128),
        settings: &Settings,
        key: u128,
        (time, reading): (u64, Reading),
    ) -> Option<f64> {
        let shown = self.shown(key, time, reading);
        let scores = shown.into_iter().filter_map(|(which, value)| {
            let value = value.filter(|value| value.is_finite())?;
            families.plain(family, which, settings, value)
        });
        scores.fold(None, |highest, score| Some(highest.map_or(score, |highest: f64| highest.max(score))))
    }

    fn shown(&mut self, key: u128, time: u64, reading: Reading) -> Shown {
        let none = (Virtual::Value, None);
        let (now, quantiles) = match reading {
            Reading::Level(value) => return [(Virtual::Value, Some(value)), none, none, none, none],
            Reading::Total { value, start } => (Before { time, start, count: value, sum: None }, [f64::NAN; 3]),
            Reading::Distribution { count, sum, start } => (Before { time, start, count, sum }, [f64::NAN; 3]),
            Reading::Summary { count, sum, start, quantiles } => {
                (Before { time, start, count, sum: Some(sum) }, quantiles)
            }
        };
        let grown = self.grown(key, now);
        let [p50, p95, p99] = quantiles;
        [
            (Virtual::Rate, grown.map(|(rate, _)| rate)),
            (Virtual::Mean, grown.and_then(|(_, mean)| mean)),
            (Virtual::P50, Some(p50)),
            (Virtual::P95, Some(p95)),
            (Virtual::P99, Some(p99)),
        ]
    }

    /// Rate and mean since the point before, which this one replaces.
    fn grown(&mut self, key: u128, now: Before) -> Option<(f64, Option<f64>)> {
        if let Some(before) = self.before.get_mut(&key) {
            let grown = growth(before, &now);
            keep_later(before, now);
            return grown.map(|grown| (grown.rate, grown.mean));
        }
        if self.before.len() < self.limit {
            self.before.insert(key, now);
        }
        None
    }

    /// Forgets what has not been seen since then.
    pub(super) fn expire(&mut self, since_unix_nano: u64) {
        self.before.retain(|_, before| before.time >= since_unix_nano);
    }

    /// Bytes that are kept.
    pub(super) fn bytes(&self) -> usize {
        self.before.capacity() * size_of::<(u128, Before)>()
    }

    /// Appends the state.
    pub(super) fn encode(&self, to: &mut Encoder) {
        to.u32(self.before.len() as u32);
        for (key, before) in &self.before {
            to.u128(*key);
            before.encode(to);
        }
    }

    /// Takes what [`Self::encode`] wrote; nothing when the bytes are anything else.
    pub(super) fn decode(from: &mut Decoder<'_>) -> Option<Vec<(u128, Before)>> {
        (0..from.u32()?).map(|_| Some((from.u128()?, Before::decode(from)?))).collect()
    }

    /// Takes points of a snapshot, as many as there is room for.
    pub(super) fn restore(&mut self, points: Vec<(u128, Before)>) {
        for (key, before) in points {
            if self.before.len() < self.limit {
                self.before.insert(key, before);
            }
        }
    }
}

#[cfg(test)]
mod tests;
