//! What belongs together: episodes of one resource that overlap in time are one incident.
//!
//! A fault shows in many series of a service at once, and each of them opens an episode. An incident gives them one
//! identity and names the series that led: the one whose episode opened first, the most anomalous of those that opened
//! together. Services are told apart by name, because their series come in several resources (their own metrics, RED,
//! edges); hosts, containers, pods, databases and brokers, of which many share a job, also by instance.
//!
//! Bounded: [`MOST`] incidents, [`SERIES`] series of each that are told apart. Never: reads a clock, drops an event;
//! without room an event is told without an incident, and counted. Invariant: the same events give the same incidents.

use std::collections::BTreeMap;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::detector::codec::{Decoder, Encoder};
use super::episodes::{Event, EventKind};
use super::resources::kind::Kind;

/// Incidents that are remembered.
const MOST: usize = 1024;
/// Series of an incident that are told apart; further ones are not counted.
const SERIES: usize = 256;
/// How long after its latest word a new episode still belongs to an incident whose episodes have all ended: 5 minutes.
const GAP_NANOS: u64 = 300 * 1_000_000_000;
/// How long an incident with open episodes waits for a word before it is over: 6 hours.
const FORGET_NANOS: u64 = 6 * 3600 * 1_000_000_000;
/// Bytes of the name of the leading series.
const MOST_NAME: usize = 512;

/// What an event is told to belong to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Mark {
    /// The same for all events of one incident.
    pub(super) id: u64,
    pub(super) opened_at: u64,
    /// Series so far.
    pub(super) series: u32,
    /// The leading series, as a selector with its part.
    pub(super) lead: Arc<str>,
}

#[derive(Debug, Clone, PartialEq)]
struct Incident {
    mark: Mark,
    last_at: u64,
    /// Of the leading series: hash, when its episode opened, its highest score.
    lead: (u64, u64, f64),
    /// Hashes of series with open episodes.
    open: Vec<u64>,
    /// Hashes of all of its series.
    known: Vec<u64>,
}

/// The incidents of a process, by the hash of whom they befall.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Incidents {
    all: BTreeMap<u64, Incident>,
}

/// What marking did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Marked {
    /// Incidents that began.
    pub(super) opened: u64,
    /// Events that found no room.
    pub(super) left_out: u64,
}

impl Incidents {
    /// Marks events that came together: the leading series is found among all of them before any is marked.
    pub(super) fn mark(&mut self, events: &mut [Event]) -> Marked {
        let mut marked = Marked::default();
        for event in events.iter() {
            self.note(event, &mut marked);
        }
        for event in events {
            let incident = self.all.get(&whom(event)).filter(|incident| incident.known.contains(&series(event)));
            event.incident = incident.map(|incident| incident.mark.clone());
        }
        marked
    }

    /// Incidents with an open episode.
    pub(super) fn open(&self) -> usize {
        self.all.values().filter(|incident| !incident.open.is_empty()).count()
    }

    /// Forgets incidents that are over.
    pub(super) fn expire(&mut self, now_unix_nano: u64) {
        self.all.retain(|_, incident| !incident.is_over(now_unix_nano));
    }

    fn note(&mut self, event: &Event, marked: &mut Marked) {
        let (whom, series) = (whom(event), series(event));
        if self.all.get(&whom).is_some_and(|incident| incident.is_over(event.time)) {
            self.all.remove(&whom);
        }
        let ends = matches!(event.kind, EventKind::Closed | EventKind::HeardAgain);
        if !self.all.contains_key(&whom) {
            if ends {
                return;
            }
            if self.all.len() >= MOST {
                self.all.retain(|_, incident| !incident.is_over(event.time));
            }
            if self.all.len() >= MOST {
                marked.left_out += 1;
                return;
            }
            marked.opened += 1;
            self.all.insert(whom, Incident::of(event, whom, series));
        }
        let Some(incident) = self.all.get_mut(&whom) else { return };
        incident.last_at = incident.last_at.max(event.time);
        if ends {
            incident.open.retain(|open| *open != series);
            return;
        }
        if !incident.known.contains(&series) {
            if incident.known.len() >= SERIES {
                marked.left_out += 1;
                return;
            }
            incident.known.push(series);
            incident.mark.series += 1;
        }
        if !incident.open.contains(&series) {
            incident.open.push(series);
        }
        incident.follow(event, series);
    }

    /// Appends the state.
    pub(super) fn encode(&self, to: &mut Encoder) {
        to.u32(self.all.len() as u32);
        for (whom, incident) in &self.all {
            let Mark { id, opened_at, series, lead } = &incident.mark;
            for number in [*whom, *id, *opened_at, incident.last_at, incident.lead.0, incident.lead.1] {
                to.u64(number);
            }
            to.f64(incident.lead.2);
            to.u32(*series);
            to.u32(lead.len() as u32);
            to.0.extend_from_slice(lead.as_bytes());
            for hashes in [&incident.open, &incident.known] {
                to.u32(hashes.len() as u32);
                for hash in hashes {
                    to.u64(*hash);
                }
            }
        }
    }

    /// Takes a state; nothing when the bytes are none.
    pub(super) fn decode(from: &mut Decoder<'_>) -> Option<Self> {
        let mut incidents = Self::default();
        for _ in 0..from.u32()? {
            let (whom, id, opened_at, last_at) = (from.u64()?, from.u64()?, from.u64()?, from.u64()?);
            let lead = (from.u64()?, from.u64()?, from.f64()?);
            let series = from.u32()?;
            let length = usize::try_from(from.u32()?).ok().filter(|length| *length <= MOST_NAME)?;
            let name = std::str::from_utf8(from.bytes(length)?).ok()?;
            let mut hashes = || {
                let count = usize::try_from(from.u32()?).ok().filter(|count| *count <= SERIES)?;
                (0..count).map(|_| from.u64()).collect::<Option<Vec<u64>>>()
            };
            let (open, known) = (hashes()?, hashes()?);
            let mark = Mark { id, opened_at, series, lead: Arc::from(name) };
            incidents.all.insert(whom, Incident { mark, last_at, lead, open, known });
        }
        (incidents.all.len() <= MOST).then_some(incidents)
    }
}

impl Incident {
    fn of(event: &Event, whom: u64, series: u64) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&whom.to_le_bytes());
        bytes[8..].copy_from_slice(&event.time.to_le_bytes());
        let mark = Mark { id: xxh3_64(&bytes), opened_at: event.time, series: 0, lead: name(event) };
        let lead = (series, event.opened_at, event.peak);
        Self { mark, last_at: event.time, lead, open: Vec::new(), known: Vec::new() }
    }

    fn is_over(&self, unix_nano: u64) -> bool {
        let waits = if self.open.is_empty() { GAP_NANOS } else { FORGET_NANOS };
        unix_nano.saturating_sub(self.last_at) > waits
    }

    /// An episode leads when it opened before the leading one, or with it and is more anomalous.
    fn follow(&mut self, event: &Event, series: u64) {
        let (lead, opened_at, peak) = self.lead;
        let leads = event.opened_at < opened_at || event.opened_at == opened_at && event.peak > peak;
        if leads || series == lead {
            self.lead = (series, opened_at.min(event.opened_at), peak.max(event.peak));
            self.mark.lead = name(event);
        }
    }
}

/// Whom an event befalls.
fn whom(event: &Event) -> u64 {
    let is_one_of_many = !matches!(Kind::of_metric(event.label("metric")), Some(Kind::Service | Kind::Process) | None);
    let service = event.named_service();
    let instance = if is_one_of_many || service.is_none() { event.label("instance") } else { "" };
    xxh3_64(format!("{}\0{instance}", service.unwrap_or_default()).as_bytes())
}

/// Which series an event is about.
fn series(event: &Event) -> u64 {
    xxh3_64(event.labels().encoded())
}

/// `metric{label="value",..} part`, cut where it is too long.
fn name(event: &Event) -> Arc<str> {
    let metric = event.label("metric");
    let own = event.labels().texts().filter(|(name, _)| !matches!(*name, "__name__" | "metric"));
    let labels: Vec<String> = own.map(|(name, value)| format!("{name}={value:?}")).collect();
    let part = event.part();
    let gap = if part.is_empty() { "" } else { " " };
    let mut text = format!("{metric}{{{}}}{gap}{part}", labels.join(","));
    if text.len() > MOST_NAME {
        let end = (0..=MOST_NAME - 3).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text.into()
}

#[cfg(test)]
mod tests;
