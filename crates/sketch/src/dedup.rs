//! Memory of what has been counted, so that a request that is sent again changes no number.
//!
//! Fingerprints live in two generations. The younger one takes new entries until it is full or
//! `GENERATION_NANOS` old, then it becomes the older one, which is asked but no longer written.
//! A fingerprint is remembered for at least one and at most two generations.
//!
//! Never: reads a clock. Invariant: at most `2 * GENERATION_ENTRIES` fingerprints of 16 bytes.

use hashbrown::HashTable;

/// Entries that one generation takes: 7/8 of 2^17, which fills its table without growing it again.
pub(crate) const GENERATION_ENTRIES: usize = 114_688;

/// How long a generation takes new entries: longer than any client retries by default (the
/// collector's sending queue gives up after 5 minutes, an SDK's exporter after 1; the two
/// generations together cover what reaches an agent within a minute of its first try).
pub(crate) const GENERATION_NANOS: u64 = 60_000_000_000;

/// Which fingerprints were seen.
#[derive(Debug)]
pub(crate) struct Seen {
    young: HashTable<u128>,
    old: HashTable<u128>,
    capacity: usize,
    /// When the younger generation began; `None` before the first question.
    since: Option<u64>,
}

impl Seen {
    /// Remembers at most twice `capacity` fingerprints.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { young: HashTable::new(), old: HashTable::new(), capacity: capacity.max(1), since: None }
    }

    /// True when `fingerprint` is remembered; remembers it otherwise.
    pub(crate) fn check(&mut self, fingerprint: u128, now_unix_nano: u64) -> bool {
        self.age(now_unix_nano);
        // A fingerprint is the output of a seeded hash: its low bits need no further hashing.
        let hash = fingerprint as u64;
        let known = |table: &HashTable<u128>| table.find(hash, |one| *one == fingerprint).is_some();
        if known(&self.young) || known(&self.old) {
            return true;
        }
        if self.young.len() >= self.capacity {
            self.rotate(now_unix_nano);
        }
        self.young.insert_unique(hash, fingerprint, |one| *one as u64);
        false
    }

    /// Rotates by time. A clock that steps back only lengthens the memory.
    fn age(&mut self, now: u64) {
        let age = now.saturating_sub(*self.since.get_or_insert(now));
        if age >= GENERATION_NANOS {
            self.rotate(now);
        }
        if age >= 2 * GENERATION_NANOS {
            self.old.clear();
        }
    }

    fn rotate(&mut self, now: u64) {
        std::mem::swap(&mut self.young, &mut self.old);
        self.young.clear();
        self.since = Some(now);
    }
}

#[cfg(test)]
mod tests;
