//! A bounded memory of fingerprints: was this counted before?
//!
//! Never: forgets a fingerprint sooner than `span` after it came, unless more than `limit` came since.
//! Invariant: at most `2 * limit` fingerprints, in two generations of which the older is dropped whole.

use std::collections::HashSet;

use super::persist::Generations;

/// Two generations of fingerprints.
#[derive(Debug)]
pub struct Seen {
    young: HashSet<u64>,
    old: HashSet<u64>,
    limit: usize,
    span_nanos: u64,
    turned_at: u64,
    /// Fingerprints that had to go although they were younger than the span, or may have been.
    early: u64,
}

impl Seen {
    /// Remembers at least `limit` fingerprints or `span_nanos`, whichever is less.
    pub fn new(limit: usize, span_nanos: u64) -> Self {
        Self { young: HashSet::new(), old: HashSet::new(), limit: limit.max(1), span_nanos, turned_at: 0, early: 0 }
    }

    /// Whether the fingerprint is remembered.
    pub fn contains(&self, fingerprint: u64) -> bool {
        self.young.contains(&fingerprint) || self.old.contains(&fingerprint)
    }

    /// Remembers a fingerprint from now on.
    pub fn insert(&mut self, fingerprint: u64, now: u64) {
        self.turn(now);
        self.young.insert(fingerprint);
    }

    /// Fingerprints that are remembered.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fingerprints that were forgotten for want of room since the last call.
    pub fn take_early(&mut self) -> u64 {
        std::mem::take(&mut self.early)
    }

    /// Everything that is remembered.
    pub fn export(&self, now: u64) -> Generations {
        Generations {
            young: self.young.iter().copied().collect(),
            old: self.old.iter().copied().collect(),
            age: now.saturating_sub(self.turned_at),
        }
    }

    /// Remembers what another process remembered, as far as there is room.
    pub fn resume(&mut self, generations: Generations, now: u64) {
        self.young.extend(generations.young.into_iter().take(self.limit));
        self.old.extend(generations.old.into_iter().take(self.limit));
        self.turned_at = now.saturating_sub(generations.age);
    }

    /// Drops the older generation when the younger one is full or old enough to stand alone.
    pub fn turn(&mut self, now: u64) {
        let is_old = now.saturating_sub(self.turned_at) >= self.span_nanos;
        if self.young.len() >= self.limit || is_old {
            std::mem::swap(&mut self.old, &mut self.young);
            self.early += if is_old { 0 } else { self.young.len() as u64 };
            self.young.clear();
            self.young.shrink_to(self.old.len());
            self.turned_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_remembered_for_the_span_and_forgotten_after_two() {
        let mut seen = Seen::new(1000, 100);
        seen.insert(1, 150);
        seen.insert(2, 249);
        assert!(seen.contains(1));
        seen.insert(3, 251);
        assert!(seen.contains(1));
        seen.insert(4, 360);
        assert!(!seen.contains(1));
        assert!(seen.contains(3));
        assert_eq!(seen.take_early(), 0);
    }

    #[test]
    fn more_fingerprints_than_the_limit_push_out_the_oldest_and_the_size_stays_bounded() {
        let mut seen = Seen::new(10, u64::MAX);
        for fingerprint in 0..1000 {
            seen.insert(fingerprint, 0);
            assert!(seen.len() <= 20);
            let remembered = fingerprint.saturating_sub(9)..=fingerprint;
            assert!(remembered.clone().all(|one| seen.contains(one)), "the last ten stay");
        }
        assert!(!seen.contains(900));
        assert_eq!(seen.take_early() + seen.len() as u64, 1000, "each that was forgotten is counted");
        assert_eq!(seen.take_early(), 0);
    }
}
