//! The RED deltas that central has not acknowledged: one ordered stream per owner.
//!
//! Sans-IO. Invariants: a delta keeps its bytes, and with them its (epoch, stream, sequence), until it
//! is acknowledged, so central merges it once however often it is sent; central answers when its own flush is
//! stored, so several deltas of a stream are on their way at a time, less than [`SPAN`] numbers apart: central
//! tells late ones from repeated ones over twice that distance; the bytes are bounded, and when the bound is hit
//! the oldest delta that is not on its way is dropped and counted; a sequence number is never used twice.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use mirador_proto::red::ExportRedRequest;
use prost::Message as _;

/// Streams of owners that have left which are remembered for their sequence numbers.
const IDLE_STREAMS: usize = 1024;

/// The oldest and the newest delta of a stream on their way are less than this many numbers apart.
pub const SPAN: u64 = 128;

/// `closing` in a request's bytes: field 12, a varint of 1. Of a field that is given twice the last counts, so it can
/// be added to a request that is encoded.
const CLOSING: [u8; 2] = [12 << 3, 1];

/// One delta as it goes to its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    /// The owner: a ring member.
    pub stream: String,
    /// Contiguous from 1 in the stream, unless deltas were dropped.
    pub sequence: u64,
    /// The encoded request.
    pub bytes: Bytes,
    /// Series in it.
    pub series: usize,
}

/// Deltas that were given up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// Deltas.
    pub deltas: usize,
    /// Series in them.
    pub series: usize,
}

/// Everything that waits for an acknowledgement.
#[derive(Debug)]
pub struct Outbox {
    agent_id: String,
    epoch: u64,
    limit: usize,
    bytes: usize,
    streams: BTreeMap<String, Stream>,
    /// No stream starts below this: numbers of forgotten streams are not used again.
    floor: u64,
}

#[derive(Debug)]
struct Stream {
    next_sequence: u64,
    waiting: VecDeque<Delta>,
    /// The sequences that are on their way.
    in_flight: BTreeSet<u64>,
}

impl Stream {
    /// The oldest delta that is not on its way and may go now.
    fn next(&self) -> Option<&Delta> {
        let limit = self.waiting.front()?.sequence + SPAN;
        let next = self.waiting.iter().find(|delta| !self.in_flight.contains(&delta.sequence))?;
        (next.sequence < limit).then_some(next)
    }
}

impl Delta {
    /// The same delta of a sender that can send nothing more before it is answered.
    #[must_use]
    pub fn closing(&self) -> Self {
        Self { bytes: [&self.bytes, &CLOSING[..]].concat().into(), ..self.clone() }
    }
}

impl Outbox {
    /// An empty outbox of the process that started at `epoch` (unix nanoseconds).
    pub fn new(agent_id: String, epoch: u64, limit_bytes: usize) -> Self {
        Self { agent_id, epoch, limit: limit_bytes, bytes: 0, streams: BTreeMap::new(), floor: 1 }
    }

    /// Numbers a request for a stream and keeps it; returns what had to be dropped for it.
    pub fn push(&mut self, stream: &str, mut request: ExportRedRequest) -> Lost {
        let floor = self.floor;
        let entry = self.streams.entry(stream.to_owned()).or_insert_with(|| Stream {
            next_sequence: floor,
            waiting: VecDeque::new(),
            in_flight: BTreeSet::new(),
        });
        request.agent_id.clone_from(&self.agent_id);
        request.epoch = self.epoch;
        request.sequence = entry.next_sequence;
        stream.clone_into(&mut request.stream);
        entry.next_sequence += 1;
        let delta = Delta {
            stream: stream.to_owned(),
            sequence: request.sequence,
            bytes: Bytes::from(request.encode_to_vec()),
            series: request.series.len(),
        };
        self.bytes += delta.bytes.len();
        entry.waiting.push_back(delta);
        let mut lost = Lost::default();
        while self.bytes > self.limit {
            let Some(dropped) = self.drop_oldest() else { break };
            lost.add(&dropped);
        }
        lost
    }

    /// The next delta to send. The last one that a stream may have on its way asks central to answer soon.
    pub fn next_to_send(&mut self) -> Option<Delta> {
        let (stream, next) = self.streams.values_mut().find_map(|stream| {
            let next = stream.next()?.clone();
            Some((stream, next))
        })?;
        stream.in_flight.insert(next.sequence);
        let first = stream.waiting.front().map_or(next.sequence, |delta| delta.sequence);
        Some(if next.sequence + 1 >= first + SPAN { next.closing() } else { next })
    }

    /// Nothing is on its way any more: what was is sent again.
    pub fn recall(&mut self) {
        self.streams.values_mut().for_each(|stream| stream.in_flight.clear());
    }

    /// Central has it: it is forgotten.
    pub fn acknowledged(&mut self, stream: &str, sequence: u64) {
        self.remove(stream, sequence);
    }

    /// It stays and is sent again.
    pub fn failed(&mut self, stream: &str, sequence: u64) {
        if let Some(stream) = self.streams.get_mut(stream) {
            stream.in_flight.remove(&sequence);
        }
    }

    /// Central refuses it for good: it is given up.
    pub fn rejected(&mut self, stream: &str, sequence: u64) -> Lost {
        let mut lost = Lost::default();
        if let Some(delta) = self.remove(stream, sequence) {
            lost.add(&delta);
        }
        lost
    }

    /// Moves what waits for owners that have left to the owners of its series now; returns how many
    /// deltas were moved and what had to be dropped. Deltas on their way stay until they are settled.
    ///
    /// A delta whose answer got lost on the way from the owner that left is counted by both; that is
    /// rarer and smaller than the loss of what never arrived.
    pub fn move_streams(
        &mut self,
        is_member: impl Fn(&str) -> bool,
        owner_of: impl Fn(&str) -> String,
    ) -> (usize, Lost) {
        let mut moved = Vec::new();
        for (name, stream) in &mut self.streams {
            if !is_member(name) {
                let in_flight = &stream.in_flight;
                let (stay, go) = stream.waiting.drain(..).partition(|delta| in_flight.contains(&delta.sequence));
                stream.waiting = stay;
                moved.extend::<VecDeque<_>>(go);
            }
        }
        let mut lost = Lost::default();
        for delta in &moved {
            self.bytes -= delta.bytes.len();
            let Ok(request) = ExportRedRequest::decode(delta.bytes.clone()) else {
                lost.add(delta);
                continue;
            };
            for (owner, part) in split(request, &owner_of) {
                let dropped = self.push(&owner, part);
                lost.deltas += dropped.deltas;
                lost.series += dropped.series;
            }
        }
        self.forget_idle(&is_member);
        (moved.len(), lost)
    }

    /// Gives everything up: the deadline of the drain has passed.
    pub fn abandon(&mut self) -> Lost {
        let mut lost = Lost::default();
        for stream in self.streams.values_mut() {
            for delta in stream.waiting.drain(..) {
                lost.add(&delta);
            }
            stream.in_flight.clear();
        }
        self.bytes = 0;
        lost
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Deltas that wait.
    pub fn len(&self) -> usize {
        self.streams.values().map(|stream| stream.waiting.len()).sum()
    }

    /// True when central has everything.
    pub fn is_empty(&self) -> bool {
        self.streams.values().all(|stream| stream.waiting.is_empty())
    }

    fn remove(&mut self, stream: &str, sequence: u64) -> Option<Delta> {
        let stream = self.streams.get_mut(stream)?;
        stream.in_flight.remove(&sequence);
        let at = stream.waiting.iter().position(|delta| delta.sequence == sequence)?;
        let delta = stream.waiting.remove(at)?;
        self.bytes -= delta.bytes.len();
        Some(delta)
    }

    /// The oldest delta that is not on its way, in the stream that holds the most bytes.
    fn drop_oldest(&mut self) -> Option<Delta> {
        let stream = self
            .streams
            .values_mut()
            .filter(|stream| stream.waiting.len() > stream.in_flight.len())
            .max_by_key(|stream| stream.waiting.iter().map(|delta| delta.bytes.len()).sum::<usize>())?;
        let at = stream.waiting.iter().position(|delta| !stream.in_flight.contains(&delta.sequence))?;
        let delta = stream.waiting.remove(at)?;
        self.bytes -= delta.bytes.len();
        Some(delta)
    }

    fn forget_idle(&mut self, is_member: &impl Fn(&str) -> bool) {
        if self.streams.len() <= IDLE_STREAMS {
            return;
        }
        let mut floor = self.floor;
        self.streams.retain(|name, stream| {
            let keep = is_member(name) || !stream.waiting.is_empty();
            if !keep {
                floor = floor.max(stream.next_sequence);
            }
            keep
        });
        self.floor = floor;
    }
}

impl Lost {
    fn add(&mut self, delta: &Delta) {
        self.deltas += 1;
        self.series += delta.series;
    }

    /// True when nothing was lost.
    pub fn is_nothing(self) -> bool {
        self.deltas == 0
    }
}

/// Cuts a request by the owner of each series; texts are repeated in every part.
fn split(request: ExportRedRequest, owner_of: &impl Fn(&str) -> String) -> Vec<(String, ExportRedRequest)> {
    let mut by_owner: HashMap<String, Vec<_>> = HashMap::new();
    let mut head = request;
    for series in std::mem::take(&mut head.series) {
        let service = head.strings.get(series.service as usize).map_or("", String::as_str);
        by_owner.entry(owner_of(service)).or_default().push(series);
    }
    let mut parts: Vec<_> =
        by_owner.into_iter().map(|(owner, series)| (owner, ExportRedRequest { series, ..head.clone() })).collect();
    parts.sort_by(|left, right| left.0.cmp(&right.0));
    parts
}

#[cfg(test)]
mod tests;
