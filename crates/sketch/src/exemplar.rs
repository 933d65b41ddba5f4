//! Exemplars: a few spans that stand for a series.
//!
//! Two of five places go to the slowest spans, the others to a uniform sample of the rest. Failed
//! spans have series of their own (the status code is a label), so they are always represented.
//! Both choices are the first places under a total order that depends on the span alone, which
//! makes the selection of a union computable from the selections: merging is associative,
//! commutative and idempotent.
//!
//! Invariants: at most `MAX_EXEMPLARS`; no exemplar twice; canonical order, so equal sets are equal
//! values.

use std::cmp::Ordering;

use crate::identity;

/// The most exemplars that one series has in one window.
pub const MAX_EXEMPLARS: usize = 5;

/// One span that stands for a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exemplar {
    /// Trace id, never all zero.
    pub trace_id: [u8; 16],
    /// Span id, never all zero.
    pub span_id: [u8; 8],
    /// The span's duration in nanoseconds.
    pub value_nanos: u64,
    /// When the span ended, in nanoseconds since the Unix epoch.
    pub time_unix_nano: u64,
}

impl Exemplar {
    fn priority(&self) -> u64 {
        identity::priority(self.trace_id, self.span_id)
    }

    fn ids(&self) -> ([u8; 16], [u8; 8], u64) {
        (self.trace_id, self.span_id, self.time_unix_nano)
    }
}

/// The exemplars of one series: the slowest first, then the uniform sample.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exemplars(Vec<Exemplar>);

impl Exemplars {
    /// Selects from any number of candidates.
    pub fn select(candidates: impl IntoIterator<Item = Exemplar>) -> Self {
        let mut all = Self(candidates.into_iter().collect());
        all.reduce(MAX_EXEMPLARS);
        all
    }

    /// Takes the selection from both.
    pub fn merge(&mut self, other: &Self) {
        if !other.0.is_empty() {
            self.0.extend_from_slice(&other.0);
            self.reduce(MAX_EXEMPLARS);
        }
    }

    /// Keeps `places` of them at most: those that a selection of so many from all candidates would be.
    pub fn limit(&mut self, places: usize) {
        if self.0.len() > places {
            self.reduce(places);
        }
    }

    /// The selected spans.
    pub fn as_slice(&self) -> &[Exemplar] {
        &self.0
    }

    /// True without any exemplar.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets all of them, as after a flush.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Brings the candidates down to `places` and into canonical order.
    fn reduce(&mut self, places: usize) {
        let slow = slow_places(places).min(self.0.len());
        self.0.sort_unstable_by(slower);
        self.0.dedup();
        let slow = slow.min(self.0.len());
        self.0[slow..].sort_unstable_by(sampled);
        self.0.truncate(places);
    }

    /// As pushing `candidate` and [`Self::reduce`], for a list that is reduced: nothing is sorted anew.
    fn insert(&mut self, candidate: Exemplar, places: usize) {
        let list = &mut self.0;
        if list.contains(&candidate) {
            return;
        }
        let most = slow_places(places);
        let slow = most.min(list.len());
        let mut moving = candidate;
        let rank = list[..slow].partition_point(|one| slower(one, &candidate).is_lt());
        if rank < most {
            if slow < most {
                return list.insert(rank, candidate);
            }
            // Whoever had the last slow place competes for the sample.
            list[rank..slow].rotate_right(1);
            moving = std::mem::replace(&mut list[rank], candidate);
        }
        let rank = slow + list[slow..].partition_point(|one| sampled(one, &moving).is_lt());
        if rank < places {
            if list.len() == places {
                list.pop();
            }
            list.insert(rank, moving);
        }
    }
}

/// Who comes first among the slowest.
fn slower(one: &Exemplar, other: &Exemplar) -> Ordering {
    let longer = other.value_nanos.cmp(&one.value_nanos);
    longer.then_with(|| one.priority().cmp(&other.priority())).then_with(|| one.ids().cmp(&other.ids()))
}

/// Who comes first in the uniform sample.
fn sampled(one: &Exemplar, other: &Exemplar) -> Ordering {
    let first = one.priority().cmp(&other.priority());
    first.then_with(|| one.ids().cmp(&other.ids())).then_with(|| one.value_nanos.cmp(&other.value_nanos))
}

/// Collects exemplars on the hot path: three comparisons tell most spans that they are not wanted.
#[derive(Debug, Clone)]
pub(crate) struct Reservoir {
    chosen: Exemplars,
    /// What a span has to reach for a slow place: a longer duration, or an equal one and a priority
    /// that is not higher.
    slow: (u64, u64),
    /// The highest priority that may have a place in the uniform sample.
    ceiling: u64,
}

impl Reservoir {
    /// A reservoir for at most `places` exemplars; `offer` must get the same number.
    pub(crate) const fn new(places: usize) -> Self {
        let (slow, ceiling) = if places == 0 { ((u64::MAX, 0), 0) } else { ((0, u64::MAX), u64::MAX) };
        Self { chosen: Exemplars(Vec::new()), slow, ceiling }
    }

    /// Takes the span if it belongs to the selection. `priority` is `identity::priority` of its ids.
    #[inline]
    pub(crate) fn offer(&mut self, candidate: &Exemplar, priority: u64, places: usize) {
        let (value, floor) = self.slow;
        // Equal ones go on too: only the whole order tells spans with the same ids apart.
        if priority <= self.ceiling
            || candidate.value_nanos > value
            || (candidate.value_nanos == value && priority <= floor)
        {
            self.take(*candidate, places);
        }
    }

    /// The selection so far.
    pub(crate) fn chosen(&self) -> &Exemplars {
        &self.chosen
    }

    #[inline(never)]
    fn take(&mut self, candidate: Exemplar, places: usize) {
        if places == 0 {
            return;
        }
        let list = &mut self.chosen.0;
        if list.len() == list.capacity() && list.len() < places {
            list.reserve_exact(if list.is_empty() { 1 } else { places - list.len() });
        }
        self.chosen.insert(candidate, places);
        let list = &self.chosen.0;
        if list.len() == places {
            let slow = slow_places(places);
            self.slow = match list[..slow].last() {
                Some(fastest_of_them) => (fastest_of_them.value_nanos, fastest_of_them.priority()),
                None => (u64::MAX, 0),
            };
            self.ceiling = list[places - 1].priority();
        }
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.chosen.0.capacity() * size_of::<Exemplar>()
    }
}

/// How many of `places` go to the slowest spans.
const fn slow_places(places: usize) -> usize {
    places / 2
}

#[cfg(test)]
mod tests;
