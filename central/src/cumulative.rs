//! Cumulative series with a life: born with an explicit zero, sent at every flush, ended by a stale marker.
//!
//! Never: does IO, reads a clock, knows what a series measures. Invariants: one start time per incarnation of
//! a series, later than everything sent for the incarnation before it; a zero or a stale marker is repeated
//! until a flush is confirmed; at most `limit` series.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// Prometheus stores milliseconds: two points of a series must be at least this far apart.
const MILLISECOND: u64 = 1_000_000;

/// A bounded map of cumulative values.
#[derive(Debug)]
pub struct Cumulative<K, V> {
    series: HashMap<K, Entry<V>>,
    limit: usize,
    /// Series that stand for others; the limit does not count them.
    overflows: usize,
    expiration: Option<u64>,
    /// Time of the newest flush, confirmed or not.
    flushed_at: u64,
    flush: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    start: u64,
    updated: u64,
    /// The flush that carried the series last.
    carried: u64,
    phase: Phase,
    is_overflow: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No confirmed flush has carried it: the zero at its start is still to be sent.
    New,
    Live,
    /// Expired: a stale marker is to be sent, then it goes.
    Ending,
}

/// A flush that was begun; give it back to [`Cumulative::confirm`] when it has been taken.
#[derive(Debug, Clone, Copy)]
pub struct Flush {
    /// Unix nanoseconds of every point of the flush; later than those of the flush before.
    pub time_unix_nano: u64,
    id: u64,
}

/// What a series is besides its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// When counting began.
    pub start_unix_nano: u64,
    /// The newest update.
    pub updated_unix_nano: u64,
    /// Its first zero has not been confirmed.
    pub is_new: bool,
    /// Its stale marker has not been confirmed.
    pub is_ending: bool,
    /// It stands for others.
    pub is_overflow: bool,
}

/// One series as a flush shows it.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a, K, V> {
    /// The identity of the series.
    pub key: &'a K,
    /// What has been counted since `start_unix_nano`.
    pub value: &'a V,
    /// When counting began; earlier than the flush.
    pub start_unix_nano: u64,
    /// The series' first points: a zero at `start_unix_nano` precedes the value.
    pub is_first: bool,
    /// The series' last point: a marker without a value.
    pub is_stale: bool,
}

impl<K: Hash + Eq + Clone, V: Default> Cumulative<K, V> {
    /// An empty map of at most `limit` series; a series that is not updated for `expiration` ends (`None`: never).
    pub fn new(limit: usize, expiration: Option<Duration>) -> Self {
        Self {
            series: HashMap::new(),
            limit,
            overflows: 0,
            expiration: expiration.map(|after| after.as_nanos() as u64),
            flushed_at: 0,
            flush: 0,
        }
    }

    /// Series that are held, those that wait for their stale marker included.
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Whether no series is held.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// Whether a series of this identity is held.
    pub fn contains(&self, key: &K) -> bool {
        self.series.contains_key(key)
    }

    /// The value of a series that is updated now, made when it is new; `None` when the limit is reached.
    ///
    /// `begun_unix_nano` is when the counting of a new series began, as far as the caller knows; it is moved
    /// between the last flush and now.
    pub fn update(&mut self, key: &K, begun_unix_nano: u64, now_unix_nano: u64) -> Option<&mut V> {
        let is_known = self.series.contains_key(key);
        if !is_known && self.series.len() - self.overflows >= self.limit {
            return None;
        }
        Some(self.insert(key, begun_unix_nano, now_unix_nano, false))
    }

    /// As [`Self::update`], for the one series that stands for all that found no place.
    pub fn update_overflow(&mut self, key: &K, now_unix_nano: u64) -> &mut V {
        self.insert(key, now_unix_nano, now_unix_nano, true)
    }

    fn insert(&mut self, key: &K, begun: u64, now: u64, is_overflow: bool) -> &mut V {
        let start = self.start(begun, now);
        if !self.series.contains_key(key) {
            self.overflows += usize::from(is_overflow);
            self.series.insert(key.clone(), Entry { is_overflow, ..Entry::new(start, now) });
        }
        let entry = self.series.get_mut(key).expect("the key was inserted above");
        if entry.phase == Phase::Ending {
            *entry = Entry { is_overflow: entry.is_overflow, ..Entry::new(start, now) };
        }
        entry.updated = entry.updated.max(now);
        &mut entry.value
    }

    /// After the last flush, so that an incarnation never overlaps the one before; before now otherwise.
    fn start(&self, begun: u64, now: u64) -> u64 {
        begun.min(now.saturating_sub(MILLISECOND)).max(self.flushed_at + MILLISECOND)
    }

    /// Begins a flush: series that were not updated for the expiration are now ending.
    pub fn begin_flush(&mut self, now_unix_nano: u64) -> Flush {
        let flush = self.next_flush(now_unix_nano);
        let time = flush.time_unix_nano;
        for entry in self.series.values_mut() {
            let is_idle = self.expiration.is_some_and(|after| time.saturating_sub(entry.updated) >= after);
            if entry.phase == Phase::Live && is_idle {
                entry.phase = Phase::Ending;
            }
            entry.carried = self.flush;
        }
        flush
    }

    /// Begins a flush of the series that `is_wanted`; no series ends by it.
    pub fn begin_flush_of(&mut self, now_unix_nano: u64, is_wanted: impl Fn(&V) -> bool) -> Flush {
        let flush = self.next_flush(now_unix_nano);
        for entry in self.series.values_mut().filter(|entry| is_wanted(&entry.value)) {
            entry.carried = flush.id;
        }
        flush
    }

    fn next_flush(&mut self, now_unix_nano: u64) -> Flush {
        self.flushed_at = now_unix_nano.max(self.flushed_at + 2 * MILLISECOND);
        self.flush += 1;
        Flush { time_unix_nano: self.flushed_at, id: self.flush }
    }

    /// The series of a flush.
    pub fn carried(&mut self, flush: Flush) -> impl Iterator<Item = (&K, &mut V)> {
        let carried = self.series.iter_mut().filter(move |(_, entry)| entry.carried == flush.id);
        carried.map(|(key, entry)| (key, &mut entry.value))
    }

    /// Every series that is held.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.series.keys()
    }

    /// A series as a flush shows it; `None` when it has begun, or begun again, since the flush did.
    pub fn row<'a>(&'a self, flush: Flush, key: &'a K) -> Option<Row<'a, K, V>> {
        let entry = self.series.get(key).filter(|entry| entry.carried == flush.id)?;
        Some(Row {
            key,
            value: &entry.value,
            start_unix_nano: entry.start,
            is_first: entry.phase == Phase::New,
            is_stale: entry.phase == Phase::Ending,
        })
    }

    /// The value of a series, for what belongs to one flush only (exemplars, windows).
    pub fn value_mut(&mut self, key: &K) -> Option<&mut V> {
        self.series.get_mut(key).map(|entry| &mut entry.value)
    }

    /// Time of the newest flush, confirmed or not.
    pub fn flushed_at(&self) -> u64 {
        self.flushed_at
    }

    /// Every series with what another process needs to go on with it.
    pub fn lives(&self) -> impl Iterator<Item = (&K, &V, Life)> {
        self.series.iter().map(|(key, entry)| {
            let life = Life {
                start_unix_nano: entry.start,
                updated_unix_nano: entry.updated,
                is_new: entry.phase == Phase::New,
                is_ending: entry.phase == Phase::Ending,
                is_overflow: entry.is_overflow,
            };
            (key, &entry.value, life)
        })
    }

    /// Goes on where the map of another process was at its flush at `flushed_at`. Series that are held are replaced.
    pub fn resume(&mut self, flushed_at: u64, series: impl Iterator<Item = (K, V, Life)>) {
        self.flushed_at = self.flushed_at.max(flushed_at);
        for (key, value, life) in series {
            self.overflows += usize::from(life.is_overflow);
            let phase = match (life.is_ending, life.is_new) {
                (true, _) => Phase::Ending,
                (false, true) => Phase::New,
                (false, false) => Phase::Live,
            };
            let (start, updated) = (life.start_unix_nano, life.updated_unix_nano);
            let entry = Entry { value, start, updated, carried: 0, phase, is_overflow: life.is_overflow };
            if self.series.insert(key, entry).is_some_and(|before| before.is_overflow) {
                self.overflows -= 1;
            }
        }
    }

    /// Every value.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.series.values_mut().map(|entry| &mut entry.value)
    }

    /// The flush has been taken: zeros are not repeated, ended series go. Returns how many went.
    pub fn confirm(&mut self, flush: Flush) -> usize {
        let before = self.series.len();
        let mut overflows = 0;
        self.series.retain(|_, entry| {
            if entry.carried != flush.id {
                return true;
            }
            match entry.phase {
                Phase::New => {
                    entry.phase = Phase::Live;
                    true
                }
                Phase::Live => true,
                Phase::Ending => {
                    overflows += usize::from(entry.is_overflow);
                    false
                }
            }
        });
        self.overflows -= overflows;
        before - self.series.len()
    }
}

impl<V: Default> Entry<V> {
    fn new(start: u64, now: u64) -> Self {
        Self { value: V::default(), start, updated: now, carried: 0, phase: Phase::New, is_overflow: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn only(series: &Cumulative<&'static str, u64>, flush: Flush) -> (u64, u64, bool, bool) {
        assert_eq!(series.keys().collect::<Vec<_>>(), [&"a"]);
        let row = series.row(flush, &"a").unwrap();
        (*row.value, row.start_unix_nano, row.is_first, row.is_stale)
    }

    #[test]
    fn the_first_zero_is_repeated_until_a_flush_is_confirmed() {
        let mut series = Cumulative::new(10, None);
        *series.update(&"a", 5 * SECOND, 6 * SECOND).unwrap() += 1;
        let lost = series.begin_flush(7 * SECOND);
        assert_eq!(only(&series, lost), (1, 5 * SECOND, true, false));
        let flush = series.begin_flush(8 * SECOND);
        assert_eq!(only(&series, flush), (1, 5 * SECOND, true, false));
        series.confirm(flush);
        let flush = series.begin_flush(9 * SECOND);
        assert_eq!(only(&series, flush), (1, 5 * SECOND, false, false));
    }

    #[test]
    fn a_series_that_returns_after_its_stale_marker_starts_again_later() {
        let mut series = Cumulative::new(10, Some(Duration::from_secs(10)));
        *series.update(&"a", 0, SECOND).unwrap() += 7;
        let flush = series.begin_flush(2 * SECOND);
        series.confirm(flush);
        let flush = series.begin_flush(11 * SECOND);
        assert!(only(&series, flush).3);
        // It comes back while the marker is on its way: the confirmation must not remove it.
        *series.update(&"a", 0, 11 * SECOND).unwrap() += 1;
        assert!(series.row(flush, &"a").is_none(), "and the flush that is under way must not show it");
        assert_eq!(series.confirm(flush), 0);
        let later = series.begin_flush(12 * SECOND);
        let (value, start, is_first, is_stale) = only(&series, later);
        assert_eq!((value, is_first, is_stale), (1, true, false));
        assert!(start > flush.time_unix_nano);
    }

    #[test]
    fn an_unconfirmed_stale_marker_is_sent_again_and_then_the_series_goes() {
        let mut series = Cumulative::new(10, Some(Duration::from_secs(10)));
        *series.update(&"a", 0, SECOND).unwrap() += 7;
        let flush = series.begin_flush(2 * SECOND);
        series.confirm(flush);
        let lost = series.begin_flush(20 * SECOND);
        assert!(only(&series, lost).3);
        let flush = series.begin_flush(30 * SECOND);
        assert!(only(&series, flush).3);
        assert_eq!(series.confirm(flush), 1);
        assert!(series.is_empty());
    }

    #[test]
    fn a_value_that_was_never_delivered_is_sent_before_it_may_end() {
        let mut series = Cumulative::new(10, Some(Duration::from_secs(10)));
        *series.update(&"a", 0, SECOND).unwrap() += 7;
        series.begin_flush(2 * SECOND);
        let flush = series.begin_flush(100 * SECOND);
        assert_eq!(only(&series, flush), (7, MILLISECOND, true, false));
    }

    #[test]
    fn a_full_map_refuses_new_series_and_takes_known_ones() {
        let mut series: Cumulative<&'static str, u64> = Cumulative::new(1, None);
        assert!(series.update(&"a", 0, 1).is_some());
        assert!(series.update(&"b", 0, 1).is_none());
        assert!(series.update(&"a", 0, 1).is_some());
        *series.update_overflow(&"rest", 1) += 1;
        assert_eq!(series.len(), 2);
    }

    #[test]
    fn points_of_two_flushes_never_share_a_millisecond_even_when_the_clock_steps_back() {
        let mut series: Cumulative<&'static str, u64> = Cumulative::new(1, None);
        let first = series.begin_flush(5 * SECOND);
        let second = series.begin_flush(SECOND);
        assert!(second.time_unix_nano / MILLISECOND > first.time_unix_nano / MILLISECOND);
        series.update(&"a", 0, SECOND).unwrap();
        let third = series.begin_flush(SECOND);
        let (_, start, ..) = only(&series, third);
        assert!(start > second.time_unix_nano && start < third.time_unix_nano);
    }
}
