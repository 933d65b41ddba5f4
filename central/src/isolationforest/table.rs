//! The series that a shard knows: bounded, one entry per label identity, old ones leave.
//!
//! Never: locks (one shard, one table), grows beyond its limit, reads a clock.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::detector::Settings;
use super::episodes::Event;
use super::families::Families;
use super::resources::{Signals, signals};
use super::watch::{Change, Judged, Rules, Watch};
use crate::normalise::Output;
use crate::normalise::labels::Base;
use crate::normalise::stream::{Reading, Stream};
use crate::series::{LabelSet, Labels, STALE_NAN};

/// The name of the score series.
pub(super) const SCORE: &str = "anomaly_score";
/// The name of the flag series.
pub(super) const FLAG: &str = "is_anomaly";

/// A series is silent when it has missed so many of its points, and for as many seconds.
const MISSED: f64 = 8.0;
const LEAST_SILENCE: f64 = 120.0;

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

/// What is known about a series from which nothing comes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Silence {
    /// Points come, or should.
    #[default]
    None,
    /// An event says that nothing comes any more.
    Told,
    /// Its sender has ended it: nothing is expected.
    Ended,
}

/// One series: how it is written and how it is scored.
#[derive(Debug)]
pub(super) struct Entry {
    /// Turns points into samples.
    pub(super) stream: Stream,
    watch: Watch,
    /// Hash of metric name, unit and type.
    family: u128,
    /// Hash of the labels of the resource.
    owner: u128,
    /// What its virtual series tell about the resource.
    signals: Signals,
    /// Whether anything is expected of it, and whether somebody was told that nothing comes.
    silence: Silence,
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
    /// What the series' virtual series tell about the resource.
    pub(super) fn signals(&self) -> Signals {
        self.signals
    }

    /// The labels of the score series.
    pub(super) fn score_labels(&self) -> &Labels {
        &self.score_labels
    }

    /// Whether another resource wrote to the series before; from now on it is this one's.
    pub(super) fn changes_hands(&mut self, source: u64) -> bool {
        let changed = self.source != source;
        self.source = source;
        changed
    }

    /// Scores a point and writes score and flag.
    pub(super) fn score(
        &mut self,
        scoring: &mut Scoring<'_>,
        time: u64,
        reading: Reading,
        out: &mut Output,
        events: &mut Vec<Event>,
    ) -> Option<Judged> {
        let mut rules = Rules { settings: scoring.settings, priors: scoring.families.priors(self.family) };
        let mut changes = Vec::new();
        let judged = self.watch.judge(&mut rules, time, reading, &out.buckets, &mut changes)?;
        self.tell(&changes, events);
        if std::mem::take(&mut self.silence) == Silence::Told {
            events.push(Event::heard_again(&self.score_labels, time));
        }
        let millis = (time / 1_000_000) as i64;
        out.push(&self.score_labels, millis, judged.score);
        self.score_written = true;
        if judged.is_anomaly {
            self.flagged_until = self.flagged_until.max(time.saturating_add(scoring.hold_nanos));
            if self.flag_labels.is_none() {
                self.flag_labels = Some(flag_labels(&self.score_labels));
            }
        }
        if let Some(labels) = self.flag_labels.as_ref().filter(|_| self.flagged_until > 0) {
            if time <= self.flagged_until {
                out.push(labels, millis, f64::from(u8::from(judged.is_anomaly)));
            } else {
                self.flagged_until = 0;
                out.push(labels, millis, STALE_NAN);
            }
        }
        Some(judged)
    }

    fn tell(&self, changes: &[Change], events: &mut Vec<Event>) {
        events.extend(changes.iter().map(|change| Event::of(&self.score_labels, change)));
    }

    /// Whether the series has missed so many of its points that somebody should know; says so once.
    fn falls_silent(&mut self, settings: &Settings, now_unix_nano: u64) -> bool {
        let usual = self.watch.interval_seconds(settings);
        let silence = now_unix_nano.saturating_sub(self.watch.last_time) as f64 / 1e9;
        let falls = self.silence == Silence::None && usual > 0.0 && silence > (usual * MISSED).max(LEAST_SILENCE);
        if falls {
            self.silence = Silence::Told;
        }
        falls
    }

    /// Ends the score and the flag series where they were written.
    pub(super) fn end_scores(&mut self, timestamp_ms: i64, out: &mut Output, events: &mut Vec<Event>) {
        if std::mem::take(&mut self.score_written) {
            out.push(&self.score_labels, timestamp_ms, STALE_NAN);
        }
        if let Some(labels) = self.flag_labels.as_ref().filter(|_| self.flagged_until > 0) {
            out.push(labels, timestamp_ms, STALE_NAN);
        }
        self.flagged_until = 0;
        let mut changes = Vec::new();
        self.watch.interrupt(u64::try_from(timestamp_ms).unwrap_or(0).saturating_mul(1_000_000), &mut changes);
        self.tell(&changes, events);
        self.silence = Silence::Ended;
    }

    /// Whether the latest arrival was before.
    fn is_older_than(&self, unix_seconds: u32) -> bool {
        self.seen < unix_seconds
    }

    /// Bytes that the scoring state takes.
    pub(super) fn scoring_bytes(&self) -> usize {
        size_of::<Watch>() + self.watch.heap_bytes() + self.score_labels.encoded().len()
    }
}

/// The labels of the flag series beside a score series.
pub(super) fn flag_labels(score: &LabelSet) -> Labels {
    let pairs = score.texts().map(|(name, value)| (name, if name == "__name__" { FLAG } else { value }));
    Labels::new(LabelSet::from_sorted(pairs))
}

/// How points of this shard are scored.
#[derive(Debug)]
pub(super) struct Scoring<'a> {
    pub(super) settings: &'a Settings,
    pub(super) families: &'a mut Families,
    /// How long after an anomaly the flag is written.
    pub(super) hold_nanos: u64,
}

/// Bounds on series with state.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) series: usize,
    pub(super) per_metric: usize,
    pub(super) per_resource: usize,
}

/// Which bound a new series ran into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    Series,
    Metric,
    Resource,
}

/// Entries by the hash of their labels.
#[derive(Debug)]
pub(super) struct Table {
    entries: HashMap<u128, Box<Entry>, BuildHasherDefault<KeyHasher>>,
    per_resource: HashMap<u128, usize, BuildHasherDefault<KeyHasher>>,
    /// States of a snapshot whose series have not come yet.
    pub(super) restored: HashMap<u128, Watch, BuildHasherDefault<KeyHasher>>,
    pub(super) families: Families,
    limits: Limits,
    seed: u64,
}

impl Table {
    /// The seed and a series' key decide when its upkeep is due.
    pub(super) fn new(limits: Limits, families: usize, seed: u64) -> Self {
        Self {
            entries: HashMap::default(),
            per_resource: HashMap::default(),
            restored: HashMap::default(),
            families: Families::new(families),
            limits,
            seed,
        }
    }

    /// A series that is known, marked as seen, and the families.
    pub(super) fn get(&mut self, key: u128, now_unix_nano: u64) -> Option<(&mut Entry, &mut Families)> {
        let entry = self.entries.get_mut(&key)?;
        entry.seen = seconds(now_unix_nano);
        Some((entry, &mut self.families))
    }

    /// Whether one more series of this family and resource fits.
    pub(super) fn room(&self, family: u128, owner: u128) -> Result<(), Full> {
        if self.entries.len() >= self.limits.series {
            Err(Full::Series)
        } else if self.families.count(family) >= self.limits.per_metric {
            Err(Full::Metric)
        } else if self.per_resource.get(&owner).copied().unwrap_or(0) >= self.limits.per_resource {
            Err(Full::Resource)
        } else {
            Ok(())
        }
    }

    /// Adds a series; the caller has asked [`Self::room`].
    pub(super) fn insert(&mut self, key: u128, fresh: Fresh<'_>, now_unix_nano: u64) -> (&mut Entry, &mut Families) {
        let seed = self.seed ^ key as u64 ^ (key >> 64) as u64;
        let score_labels = fresh.base.series(SCORE, Some(("metric", fresh.name)));
        let entry = Entry {
            stream: fresh.stream,
            signals: signals(fresh.name, &score_labels),
            watch: self.restored.remove(&key).unwrap_or_else(|| Watch::new(seed)),
            family: fresh.family,
            owner: fresh.owner,
            silence: Silence::None,
            score_labels,
            flag_labels: None,
            flagged_until: 0,
            score_written: false,
            source: fresh.source,
            seen: seconds(now_unix_nano),
        };
        self.families.join(fresh.family);
        *self.per_resource.entry(fresh.owner).or_default() += 1;
        (self.entries.entry(key).insert_entry(Box::new(entry)).into_mut(), &mut self.families)
    }

    /// Removes what has not been seen for `ttl_seconds`; its score series end now.
    pub(super) fn expire(&mut self, now_unix_nano: u64, ttl_seconds: u32, out: &mut Output, events: &mut Vec<Event>) {
        let oldest = seconds(now_unix_nano).saturating_sub(ttl_seconds.saturating_sub(1));
        let millis = (now_unix_nano / 1_000_000) as i64;
        let (families, per_resource) = (&mut self.families, &mut self.per_resource);
        self.entries.retain(|_, entry| {
            let goes = entry.is_older_than(oldest);
            if goes {
                entry.end_scores(millis, out, events);
                families.leave(entry.family);
                if let Some(count) = per_resource.get_mut(&entry.owner) {
                    *count -= 1;
                    if *count == 0 {
                        per_resource.remove(&entry.owner);
                    }
                }
            }
            !goes
        });
        self.restored.retain(|_, watch| seconds(watch.last_time) >= oldest);
        if self.entries.len() * 4 < self.entries.capacity() {
            self.entries.shrink_to(self.entries.len() * 2);
        }
    }

    /// Notes series from which nothing comes any more: one event for a resource that fell silent as a whole.
    pub(super) fn silence(&mut self, settings: &Settings, now_unix_nano: u64, events: &mut Vec<Event>) {
        let mut fallen: HashMap<u128, Vec<Labels>> = HashMap::new();
        for entry in self.entries.values_mut() {
            if entry.falls_silent(settings, now_unix_nano) {
                fallen.entry(entry.owner).or_default().push(entry.score_labels.clone());
            }
        }
        for (owner, series) in fallen {
            let all = self.per_resource.get(&owner).copied().unwrap_or(0);
            // A resource that loses three tenths of its series at once has one problem, not many.
            if series.len() > 1 && series.len() * 10 >= all * 3 {
                events.push(Event::resource_silent(&series[0], series.len(), now_unix_nano));
            } else {
                events.extend(series.iter().map(|labels| Event::silent(labels, now_unix_nano)));
            }
        }
    }

    /// Every series' key and scoring state, for the snapshot.
    pub(super) fn watches(&self) -> impl Iterator<Item = (u128, &Watch)> {
        self.entries.iter().map(|(key, entry)| (*key, &entry.watch))
    }

    /// Series held.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of scoring state in all series and families.
    pub(super) fn scoring_bytes(&self) -> usize {
        self.entries.values().map(|entry| entry.scoring_bytes()).sum::<usize>() + self.families.bytes()
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
    /// Hash of metric name, unit and type.
    pub(super) family: u128,
    /// Hash of the labels of the resource.
    pub(super) owner: u128,
}

fn seconds(unix_nano: u64) -> u32 {
    u32::try_from(unix_nano / 1_000_000_000).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
