//! What has been delivered although its client was not told so.
//!
//! A client repeats a request byte for byte until it hears an answer. When some parts of a request
//! were taken and others were not, or when a request was taken and nobody was left to hear it, the
//! fingerprints of what was taken are kept for a short while so that the repetition delivers it once.
//!
//! Never: remembers anything on the good path (the set is empty and asking it costs one atomic load);
//! grows over its bound (the oldest is forgotten and counted).

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::Kind;

/// A bounded, short-lived set of fingerprints (xxh3-128 of kind and bytes).
#[derive(Debug)]
pub struct Remembered {
    count: AtomicUsize,
    capacity: usize,
    keep: Duration,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    until: HashMap<u128, Instant>,
    order: VecDeque<(u128, Instant)>,
    forgotten: u64,
}

impl Remembered {
    /// At most `capacity` fingerprints, each for `keep`.
    pub fn new(capacity: usize, keep: Duration) -> Self {
        Self { count: AtomicUsize::new(0), capacity: capacity.max(1), keep, entries: Mutex::new(Entries::default()) }
    }

    /// True when nothing is remembered: the good path.
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Remembers that these bytes were delivered.
    pub fn remember(&self, kind: Kind, bytes: &[u8], now: Instant) {
        let fingerprint = fingerprint(kind, bytes);
        let until = now + self.keep;
        let mut entries = self.lock();
        entries.until.insert(fingerprint, until);
        entries.order.push_back((fingerprint, until));
        entries.expire(now);
        while entries.order.len() > self.capacity {
            entries.forgotten += u64::from(entries.drop_oldest());
        }
        self.count.store(entries.until.len(), Ordering::Release);
    }

    /// Whether these bytes were delivered a short while ago.
    pub fn contains(&self, kind: Kind, bytes: &[u8], now: Instant) -> bool {
        if self.is_empty() {
            return false;
        }
        let fingerprint = fingerprint(kind, bytes);
        let mut entries = self.lock();
        entries.expire(now);
        let found = entries.until.contains_key(&fingerprint);
        self.count.store(entries.until.len(), Ordering::Release);
        found
    }

    /// Forgets bytes whose client has been told.
    pub fn forget(&self, kind: Kind, bytes: &[u8]) {
        let fingerprint = fingerprint(kind, bytes);
        let mut entries = self.lock();
        entries.until.remove(&fingerprint);
        self.count.store(entries.until.len(), Ordering::Release);
    }

    /// How many were forgotten early because the set was full; each may be stored twice.
    pub fn forgotten(&self) -> u64 {
        self.lock().forgotten
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Entries {
    fn expire(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(_, until)| *until <= now) {
            self.drop_oldest();
        }
    }

    /// Drops the oldest entry unless the same fingerprint was remembered again later.
    fn drop_oldest(&mut self) -> bool {
        if let Some((fingerprint, until)) = self.order.pop_front()
            && self.until.get(&fingerprint) == Some(&until)
        {
            return self.until.remove(&fingerprint).is_some();
        }
        false
    }
}

fn fingerprint(kind: Kind, bytes: &[u8]) -> u128 {
    let seed = match kind {
        Kind::Otlp(signal) => 1 + signal as u64,
        Kind::Red => 0,
    };
    xxh3_128_with_seed(bytes, seed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirador_otlp::Signal;

    const TRACES: Kind = Kind::Otlp(Signal::Traces);

    #[test]
    fn what_is_remembered_is_found_until_it_expires() {
        let set = Remembered::new(8, Duration::from_secs(10));
        let start = Instant::now();
        assert!(set.is_empty());
        set.remember(TRACES, b"a", start);
        assert!(set.contains(TRACES, b"a", start + Duration::from_secs(9)));
        assert!(!set.contains(Kind::Red, b"a", start));
        assert!(!set.contains(TRACES, b"b", start));
        assert!(!set.contains(TRACES, b"a", start + Duration::from_secs(10)));
        assert!(set.is_empty(), "an expired set is free again");
    }

    #[test]
    fn a_full_set_forgets_the_oldest_and_counts_it() {
        let set = Remembered::new(3, Duration::from_secs(10));
        let now = Instant::now();
        for name in [b"a", b"b", b"c", b"d"] {
            set.remember(TRACES, name, now);
        }
        assert!(!set.contains(TRACES, b"a", now));
        assert!(set.contains(TRACES, b"d", now));
        assert_eq!(set.forgotten(), 1);
    }

    #[test]
    fn what_is_remembered_again_lives_from_then_on() {
        let set = Remembered::new(8, Duration::from_secs(10));
        let start = Instant::now();
        set.remember(TRACES, b"a", start);
        set.remember(TRACES, b"a", start + Duration::from_secs(5));
        assert!(set.contains(TRACES, b"a", start + Duration::from_secs(12)));
        set.forget(TRACES, b"a");
        assert!(set.is_empty());
    }
}
