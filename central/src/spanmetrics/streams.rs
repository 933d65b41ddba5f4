//! Which windows of which agent have been merged: every window once, whatever is repeated, late or lost.
//!
//! Never: reads a clock, keeps a window. Invariants: a (agent, epoch, stream, sequence) is new at most once as long as
//! its stream is known; at most `limit` streams and [`REORDER`] open windows of each; a window that never came is
//! counted as lost exactly once.

use std::collections::BTreeSet;

use hashlink::LinkedHashMap;
use mirador_proto::red::ExportRedRequest;

/// Windows of a stream that may be overtaken by later ones. Beyond it the missing ones are lost.
pub const REORDER: usize = 256;

/// Who sends which sequence.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StreamId {
    /// The agent.
    pub agent: Box<str>,
    /// When the agent's process started.
    pub epoch: u64,
    /// The owner that the deltas are for, as the agent names it.
    pub stream: Box<str>,
}

impl StreamId {
    /// Who sent a delta.
    pub fn of(delta: &ExportRedRequest) -> Self {
        Self { agent: delta.agent_id.as_str().into(), epoch: delta.epoch, stream: delta.stream.as_str().into() }
    }
}

/// What is known of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Every window below has come or is lost.
    pub next: u64,
    /// Windows that came, all above `next`.
    pub ahead: Vec<u64>,
    /// Windows below are never missed.
    pub first: u64,
    /// When it was heard of last, in Unix nanoseconds.
    pub heard: u64,
}

/// Streams of all agents, the one heard of longest ago first.
#[derive(Debug)]
pub struct Streams {
    known: LinkedHashMap<StreamId, Stream>,
    limit: usize,
    expiration: u64,
    /// When this process began to listen.
    since: u64,
    lost: u64,
}

#[derive(Debug, Default)]
struct Stream {
    /// Every window below has come or is lost.
    next: u64,
    /// Windows that came, all above `next`.
    ahead: BTreeSet<u64>,
    /// Windows below are somebody else's: they may have come before this process listened.
    first: u64,
    heard: u64,
}

impl Streams {
    /// No stream yet. A stream is forgotten `expiration_nanos` after its last window, or when `limit` others were
    /// heard of later.
    pub fn new(limit: usize, expiration_nanos: u64, since_unix_nano: u64) -> Self {
        Self {
            known: LinkedHashMap::new(),
            limit: limit.max(1),
            expiration: expiration_nanos,
            since: since_unix_nano,
            lost: 0,
        }
    }

    /// Whether the window is new. It is noted as merged, so merge it now.
    pub fn admit(&mut self, id: &StreamId, sequence: u64, now_unix_nano: u64) -> bool {
        self.expire(now_unix_nano);
        if !self.known.contains_key(id) {
            if self.known.len() >= self.limit {
                self.forget_oldest();
            }
            let first = if id.epoch >= self.since && sequence <= REORDER as u64 { 1 } else { sequence };
            let next = first.saturating_sub(REORDER as u64).max(1);
            self.known.insert(id.clone(), Stream { next, first, ..Stream::default() });
        }
        let Some(stream) = self.known.to_back(id) else { return false };
        stream.heard = stream.heard.max(now_unix_nano);
        let (is_new, lost) = stream.admit(sequence);
        self.lost += lost;
        is_new
    }

    /// Forgets streams that have been silent for the expiration.
    pub fn expire(&mut self, now_unix_nano: u64) {
        while self
            .known
            .front()
            .is_some_and(|(_, stream)| now_unix_nano.saturating_sub(stream.heard) >= self.expiration)
        {
            self.forget_oldest();
        }
    }

    /// Every stream, the one heard of longest ago first.
    pub fn positions(&self) -> impl Iterator<Item = (&StreamId, Position)> {
        self.known.iter().map(|(id, stream)| {
            let Stream { next, ref ahead, first, heard } = *stream;
            (id, Position { next, ahead: ahead.iter().copied().collect(), first, heard })
        })
    }

    /// Goes on where another process was; in the order of [`Self::positions`]. Streams beyond the limit push out the
    /// oldest.
    pub fn resume(&mut self, id: StreamId, position: Position) {
        if self.known.len() >= self.limit {
            self.forget_oldest();
        }
        let Position { next, ahead, first, heard } = position;
        let ahead = ahead.into_iter().filter(|window| *window > next).take(REORDER).collect();
        self.known.insert(id, Stream { next, ahead, first, heard });
    }

    fn forget_oldest(&mut self) {
        if let Some((_, stream)) = self.known.pop_front() {
            self.lost += stream.missing();
        }
    }

    /// Streams that are known.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether no stream is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Windows that were given up since the last call.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// Windows that were overtaken and may still come.
    pub fn missing(&self) -> u64 {
        self.known.values().map(Stream::missing).sum()
    }
}

impl Stream {
    /// Whether the window is new, and how many windows before it are now given up.
    fn admit(&mut self, sequence: u64) -> (bool, u64) {
        if sequence < self.next || !self.ahead.insert(sequence) {
            return (false, 0);
        }
        self.close_up();
        let mut lost = 0;
        while self.ahead.len() > REORDER {
            let Some(&first) = self.ahead.first() else { break };
            lost += self.missing_before(first);
            self.next = first;
            self.close_up();
        }
        (true, lost)
    }

    /// Moves `next` over everything that came without a gap.
    fn close_up(&mut self) {
        while self.ahead.first() == Some(&self.next) {
            self.ahead.pop_first();
            self.next += 1;
        }
    }

    fn missing_before(&self, sequence: u64) -> u64 {
        sequence.saturating_sub(self.next.max(self.first))
    }

    /// Windows between those that came.
    fn missing(&self) -> u64 {
        let Some(&last) = self.ahead.last() else { return 0 };
        let came = self.ahead.iter().filter(|sequence| **sequence >= self.first).count() as u64;
        (last + 1).saturating_sub(self.next.max(self.first)).saturating_sub(came)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NEVER: u64 = u64::MAX;

    fn agent(name: &str, epoch: u64) -> StreamId {
        StreamId { agent: name.into(), epoch, stream: "owner-0".into() }
    }

    #[test]
    fn a_repeated_window_is_new_once_whatever_came_between() {
        let mut streams = Streams::new(10, NEVER, 0);
        let news: Vec<bool> = [1, 1, 3, 2, 3, 2, 1, 4].map(|window| streams.admit(&agent("a", 5), window, 0)).to_vec();
        assert_eq!(news, [true, false, true, true, false, false, false, true]);
        assert_eq!((streams.take_lost(), streams.missing()), (0, 0));
    }

    #[test]
    fn epochs_agents_and_owners_have_sequences_of_their_own() {
        let mut streams = Streams::new(10, NEVER, 0);
        let other_owner = StreamId { stream: "owner-1".into(), ..agent("a", 5) };
        for id in [agent("a", 5), agent("a", 6), agent("b", 5), other_owner] {
            assert!(streams.admit(&id, 1, 0));
            assert!(!streams.admit(&id, 1, 0));
        }
        assert_eq!(streams.len(), 4);
    }

    #[test]
    fn a_window_that_never_comes_is_lost_once_and_is_not_merged_afterwards() {
        let mut streams = Streams::new(10, NEVER, 0);
        let last = REORDER as u64 + 2;
        for window in (1..=last).filter(|window| *window != 2) {
            assert!(streams.admit(&agent("a", 5), window, 0));
        }
        assert_eq!((streams.missing(), streams.take_lost()), (1, 0));
        assert!(streams.admit(&agent("a", 5), last + 1, 0));
        assert_eq!((streams.missing(), streams.take_lost()), (0, 1));
        assert!(!streams.admit(&agent("a", 5), 2, 0));
        assert_eq!(streams.take_lost(), 0);
    }

    #[test]
    fn the_first_window_of_an_agent_of_this_process_must_have_been_number_one() {
        let mut streams = Streams::new(10, NEVER, 100);
        streams.admit(&agent("a", 200), 3, 200);
        assert_eq!(streams.missing(), 2);
    }

    #[test]
    fn windows_from_before_this_process_listened_are_merged_but_never_missed() {
        let mut streams = Streams::new(10, NEVER, 100);
        assert!(streams.admit(&agent("a", 50), 1000, 100));
        assert!(streams.admit(&agent("a", 50), 998, 100));
        assert!(!streams.admit(&agent("a", 50), 998, 100));
        assert_eq!(streams.missing(), 0);
        streams.admit(&agent("a", 50), 1002, 100);
        assert_eq!(streams.missing(), 1);
    }

    #[test]
    fn silent_streams_and_those_beyond_the_limit_are_forgotten_and_their_gaps_counted() {
        let mut streams = Streams::new(2, 1000, 0);
        streams.admit(&agent("a", 5), 1, 10);
        streams.admit(&agent("a", 5), 3, 10);
        streams.admit(&agent("b", 5), 1, 20);
        streams.admit(&agent("c", 5), 1, 30);
        assert_eq!((streams.len(), streams.take_lost()), (2, 1));
        streams.expire(1025);
        assert_eq!(streams.len(), 1);
        streams.expire(1030);
        assert!(streams.is_empty());
    }

    proptest! {
        #[test]
        fn property_every_window_is_new_exactly_once_in_any_order_with_any_repetition(
            windows in prop::collection::vec(1_u64..60, 0..200),
        ) {
            let mut streams = Streams::new(10, NEVER, 0);
            let mut merged = BTreeSet::new();
            for window in &windows {
                prop_assert_eq!(streams.admit(&agent("a", 5), *window, 0), merged.insert(*window));
            }
            let last = merged.last().copied().unwrap_or(0);
            prop_assert_eq!(streams.missing(), last - merged.len() as u64);
        }
    }
}
