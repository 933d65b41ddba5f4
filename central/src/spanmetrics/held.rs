//! Who waits for which flush: a delta, and every repetition of it, is answered when the flush that carries it has
//! been taken.
//!
//! Never: does IO, knows a time. Invariants: a window is held by one flush at a time; it stays held, and known as not
//! yet stored, also when nobody waits for it any more; at most [`MAX_WINDOWS`] windows are held.

use std::collections::HashMap;

use tokio::sync::oneshot;

use super::engine::Merged;
use super::streams::StreamId;

/// Most windows that may wait; about 200 bytes each.
pub(super) const MAX_WINDOWS: usize = 65_536;
/// Most requests that may wait for one window: its sender repeats one after the other.
const MAX_REPETITIONS: usize = 4;

/// The way back to somebody who waits.
pub(super) type Reply = oneshot::Sender<Merged>;

/// One window of one agent.
pub(super) type WindowId = (StreamId, u64);

/// What one flush answers.
#[derive(Debug, Default)]
pub(super) struct Held {
    windows: HashMap<WindowId, Vec<(Merged, Reply)>>,
    spans: Vec<Reply>,
}

impl Held {
    /// Windows that wait.
    pub(super) fn len(&self) -> usize {
        self.windows.len()
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.windows.is_empty() && self.spans.is_empty()
    }

    /// A window that has just been merged.
    pub(super) fn window(&mut self, id: WindowId, merged: Merged, reply: Reply) {
        self.windows.insert(id, vec![(merged, reply)]);
    }

    /// A window that comes again; gives the way back when it is not held here.
    pub(super) fn again(&mut self, id: &WindowId, merged: Merged, reply: Reply) -> Option<Reply> {
        let Some(waiting) = self.windows.get_mut(id) else { return Some(reply) };
        waiting.retain(|(_, reply)| !reply.is_closed());
        if waiting.len() < MAX_REPETITIONS {
            waiting.push((merged, reply));
        }
        None
    }

    /// Spans that have just been counted here.
    pub(super) fn spans(&mut self, reply: Reply) {
        self.spans.push(reply);
    }

    /// The flush was not taken: the next one carries the same.
    pub(super) fn put_back(&mut self, other: Self) {
        self.windows.extend(other.windows);
        for waiting in self.windows.values_mut() {
            waiting.retain(|(_, reply)| !reply.is_closed());
        }
        self.spans.extend(other.spans);
        self.spans.retain(|reply| !reply.is_closed());
    }

    /// The flush was taken: whoever still waits is answered.
    pub(super) fn answer(self) {
        for (merged, reply) in self.windows.into_values().flatten() {
            // Nobody waiting means that the sender has gone; it repeats the delta and hears that it is a duplicate.
            reply.send(merged).ok();
        }
        for reply in self.spans {
            reply.send(Merged::default()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(sequence: u64) -> WindowId {
        (StreamId { agent: "a".into(), epoch: 1, stream: "s".into() }, sequence)
    }

    #[test]
    fn a_window_and_its_repetitions_are_answered_together_and_only_by_their_flush() {
        let mut held = Held::default();
        let (first, mut first_answer) = oneshot::channel();
        let (again, mut again_answer) = oneshot::channel();
        let duplicate = Merged { is_duplicate: true, ..Merged::default() };
        held.window(window(1), Merged::default(), first);
        assert!(held.again(&window(1), duplicate, again).is_none());
        let (other, _other) = oneshot::channel();
        assert!(held.again(&window(2), duplicate, other).is_some(), "window 2 is not held here");
        let mut next = Held::default();
        next.put_back(held);
        assert!(first_answer.try_recv().is_err(), "a flush that was not taken answers nobody");
        next.answer();
        assert!(!first_answer.try_recv().unwrap().is_duplicate);
        assert!(again_answer.try_recv().unwrap().is_duplicate);
    }

    #[test]
    fn a_window_stays_held_when_nobody_waits_for_it_and_repetitions_are_bounded() {
        let mut held = Held::default();
        held.window(window(1), Merged::default(), oneshot::channel().0);
        let mut next = Held::default();
        next.put_back(held);
        assert_eq!(next.len(), 1);
        let answers: Vec<_> = (0..10)
            .map(|_| {
                let (reply, answer) = oneshot::channel();
                assert!(next.again(&window(1), Merged::default(), reply).is_none());
                answer
            })
            .collect();
        next.answer();
        let answered = answers.into_iter().filter_map(|mut answer| answer.try_recv().ok()).count();
        assert_eq!(answered, MAX_REPETITIONS);
    }
}
