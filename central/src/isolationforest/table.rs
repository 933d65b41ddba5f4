//! The series that a shard knows: bounded, one entry per label identity, old ones leave.
//!
//! Never: locks (one shard, one table), grows beyond its limit, reads a clock.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::engine::{Score, Settings};
use super::watch::Watch;
use crate::normalise::Output;
use crate::normalise::labels::Base;
use crate::normalise::stream::{Reading, Stream};
use crate::series::{LabelSet, Labels, STALE_NAN};

/// The name of the score series.
pub(super) const SCORE: &str = "anomaly_score";
/// The name of the flag series.
pub(super) const FLAG: &str = "is_anomaly";

/// Keys are hashes already: the lower half is used as it is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }
}

/// One series: how it is written and how it is scored.
#[derive(Debug)]
pub(super) struct Entry {
    /// Turns points into samples.
    pub(super) stream: Stream,
    watch: Watch,
    score_labels: Labels,
    flag_labels: Option<Labels>,
    /// Unix nanoseconds until which the flag series is written; 0: it is not.
    flagged_until: u64,
    score_written: bool,
    /// Hash of the resource that wrote last.
    source: u64,
    /// Arrival of the latest point, unix seconds.
    seen: u32,
}

impl Entry {
    /// Whether another resource wrote to the series before; from now on it is this one's.
    pub(super) fn changes_hands(&mut self, source: u64) -> bool {
        let changed = self.source != source;
        self.source = source;
        changed
    }

    /// Scores a point and writes score and flag.
    pub(super) fn score(
        &mut self,
        settings: &Settings,
        hold_nanos: u64,
        time: u64,
        reading: Reading,
        out: &mut Output,
    ) -> Option<Score> {
        let score = self.watch.judge(settings, time, reading)?;
        let millis = (time / 1_000_000) as i64;
        out.push(&self.score_labels, millis, score.score);
        self.score_written = true;
        if score.is_anomaly {
            self.flagged_until = self.flagged_until.max(time.saturating_add(hold_nanos));
            if self.flag_labels.is_none() {
                self.flag_labels = Some(flag_labels(&self.score_labels));
            }
        }
        if let Some(labels) = self.flag_labels.as_ref().filter(|_| self.flagged_until > 0) {
            if time <= self.flagged_until {
                out.push(labels, millis, f64::from(u8::from(score.is_anomaly)));
            } else {
                self.flagged_until = 0;
                out.push(labels, millis, STALE_NAN);
            }
        }
        Some(score)
    }

    /// Ends the score and the flag series where they were written.
    pub(super) fn end_scores(&mut self, timestamp_ms: i64, out: &mut Output) {
        if std::mem::take(&mut self.score_written) {
            out.push(&self.score_labels, timestamp_ms, STALE_NAN);
        }
        if let Some(labels) = self.flag_labels.as_ref().filter(|_| self.flagged_until > 0) {
            out.push(labels, timestamp_ms, STALE_NAN);
        }
        self.flagged_until = 0;
        self.watch.interrupt();
    }

    /// Bytes that the scoring state takes.
    pub(super) fn scoring_bytes(&self) -> usize {
        size_of::<Watch>() + self.watch.heap_bytes() + self.score_labels.encoded().len()
    }
}

fn flag_labels(score: &LabelSet) -> Labels {
    let pairs = score.texts().map(|(name, value)| (name, if name == "__name__" { FLAG } else { value }));
    Labels::new(LabelSet::from_sorted(pairs))
}

/// Entries by the hash of their labels.
#[derive(Debug)]
pub(super) struct Table {
    entries: HashMap<u128, Box<Entry>, BuildHasherDefault<KeyHasher>>,
    max_entries: usize,
    seed: u64,
}

impl Table {
    /// Holds `max_entries` at most; the seed and a series' key decide what its sample keeps.
    pub(super) fn new(max_entries: usize, seed: u64) -> Self {
        Self { entries: HashMap::default(), max_entries, seed }
    }

    /// A series that is known, marked as seen.
    pub(super) fn get(&mut self, key: u128, now_unix_nano: u64) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(&key)?;
        entry.seen = seconds(now_unix_nano);
        Some(entry)
    }

    /// Whether one more series fits.
    pub(super) fn has_room(&self) -> bool {
        self.entries.len() < self.max_entries
    }

    /// Adds a series; the caller has asked [`Self::has_room`].
    pub(super) fn insert(&mut self, key: u128, fresh: Fresh<'_>, now_unix_nano: u64) -> &mut Entry {
        let entry = Entry {
            stream: fresh.stream,
            watch: Watch::new(self.seed ^ key as u64 ^ (key >> 64) as u64),
            score_labels: fresh.base.series(SCORE, Some(("metric", fresh.name))),
            flag_labels: None,
            flagged_until: 0,
            score_written: false,
            source: fresh.source,
            seen: seconds(now_unix_nano),
        };
        self.entries.entry(key).insert_entry(Box::new(entry)).into_mut()
    }

    /// Removes what has not been seen for `ttl_seconds`; its score series end now.
    pub(super) fn expire(&mut self, now_unix_nano: u64, ttl_seconds: u32, out: &mut Output) {
        let now = seconds(now_unix_nano);
        let millis = (now_unix_nano / 1_000_000) as i64;
        self.entries.retain(|_, entry| {
            let keep = now.saturating_sub(entry.seen) < ttl_seconds;
            if !keep {
                entry.end_scores(millis, out);
            }
            keep
        });
        if self.entries.len() * 4 < self.entries.capacity() {
            self.entries.shrink_to(self.entries.len() * 2);
        }
    }

    /// Series held.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of scoring state in all series.
    pub(super) fn scoring_bytes(&self) -> usize {
        self.entries.values().map(|entry| entry.scoring_bytes()).sum()
    }
}

/// What a new series is made of.
#[derive(Debug)]
pub(super) struct Fresh<'a> {
    /// Turns points into samples.
    pub(super) stream: Stream,
    /// The family's name.
    pub(super) name: &'a str,
    /// Labels of the family.
    pub(super) base: &'a Base,
    /// Hash of the resource.
    pub(super) source: u64,
}

fn seconds(unix_nano: u64) -> u32 {
    u32::try_from(unix_nano / 1_000_000_000).unwrap_or(u32::MAX)
}
