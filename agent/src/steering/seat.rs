//! The place of an agent in the tables that it shares with the one that it takes over from.
//!
//! There are two places. An agent takes the one that nobody uses or whose owner has not been heard of, and
//! otherwise the older agent's, which is to go anyway. The hooks prefer the greater generation among those
//! that live.
//!
//! Invariants: an agent writes into its own place only; one that finds another there has been replaced, and
//! stops showing itself alive.

use std::os::fd::AsRawFd;
use std::time::Duration;

use aya::maps::{MapData, MapError, SockMap};
use mirador_ebpf_shared::{INSTANCES, Instance, listener_index};

use super::load::Owned;

/// Looks after which a neighbour that shows no life is taken for dead.
const DEAD_AFTER: u32 = 60;

/// A taken place.
pub(super) struct Seat {
    index: u32,
    mine: Instance,
    instances: Owned<Instance>,
    heartbeat: Owned<u64>,
}

/// What the heart found as it beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beat {
    /// The place is ours.
    Mine,
    /// It was taken for dead and cleared, and is ours again.
    Again,
    /// Another agent has it.
    Lost,
}

/// One place as it is found: the generation of its owner, 0 for none, and when that was last heard of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) generation: u64,
    pub(super) heard: u64,
}

/// The place for a new agent: a dead one's, then an empty one, then the older agent's.
pub(super) fn choose(places: [Found; INSTANCES as usize], now: u64, max_age: Duration) -> u32 {
    let max_age = u64::try_from(max_age.as_nanos()).unwrap_or(u64::MAX);
    let rank = |place: &Found| match place.generation {
        0 => (1, 0),
        _ if now.saturating_sub(place.heard) > max_age => (0, place.heard),
        generation => (2, generation),
    };
    u32::from(rank(&places[1]) < rank(&places[0]))
}

/// The places as they are now.
pub(super) fn look(instances: &Owned<Instance>, heartbeat: &Owned<u64>) -> Result<[Found; 2], MapError> {
    let found = |index| -> Result<Found, MapError> {
        Ok(Found { generation: instances.get(&index, 0)?.generation, heard: heartbeat.get(&index, 0)? })
    };
    Ok([found(0)?, found(1)?])
}

impl Seat {
    /// Takes place `index` for `mine`. From here on connections come, when `mine` is the newest.
    pub(super) fn take(
        index: u32,
        mine: Instance,
        (instances, heartbeat): (Owned<Instance>, Owned<u64>),
        listeners: &mut SockMap<&mut MapData>,
        sockets: &[&impl AsRawFd],
        now: u64,
    ) -> Result<Self, MapError> {
        let mut seat = Self { index, mine, instances, heartbeat };
        // Nobody is sent to a half-made place.
        seat.heartbeat.set(index, 0, 0)?;
        for (kind, socket) in (0_u32..).zip(sockets) {
            listeners.set(listener_index(index, kind), *socket, 0)?;
        }
        seat.instances.set(index, mine, 0)?;
        seat.heartbeat.set(index, now, 0)?;
        Ok(seat)
    }

    /// Shows that this agent lives.
    pub(super) fn beat(&mut self, now: u64) -> Result<Beat, MapError> {
        let found = self.instances.get(&self.index, 0)?.generation;
        let beat = if found == self.mine.generation {
            Beat::Mine
        } else if found == 0 {
            self.instances.set(self.index, self.mine, 0)?;
            Beat::Again
        } else {
            return Ok(Beat::Lost);
        };
        self.heartbeat.set(self.index, now, 0)?;
        Ok(beat)
    }

    /// Sends new connections elsewhere. The place stays taken: what is in flight is still ours.
    pub(super) fn shed(&mut self) {
        if self.instances.get(&self.index, 0).is_ok_and(|found| found.generation == self.mine.generation) {
            // A failure leaves it to the listeners, which close.
            self.heartbeat.set(self.index, 0, 0).ok();
        }
    }
}

/// The other place, as the agent that shares the tables sees it.
pub(super) struct Neighbour {
    index: u32,
    generation: u64,
    instances: Owned<Instance>,
    heartbeat: Owned<u64>,
    last: Found,
    same: u32,
}

impl Neighbour {
    /// The place beside `index`, which is `generation`'s.
    pub(super) fn beside(index: u32, generation: u64, instances: Owned<Instance>, heartbeat: Owned<u64>) -> Self {
        Self { index: 1 - index.min(1), generation, instances, heartbeat, last: Found::default(), same: 0 }
    }

    /// Whether a newer agent lives there.
    pub(super) fn is_newer(&self, now: u64, max_age: Duration) -> bool {
        let max_age = u64::try_from(max_age.as_nanos()).unwrap_or(u64::MAX);
        self.last.generation > self.generation && now.saturating_sub(self.last.heard) <= max_age
    }

    /// Looks once; clears the place of one that is dead, because its process id may become a pod's.
    pub(super) fn look(&mut self) {
        let Ok(places) = look(&self.instances, &self.heartbeat) else { return };
        let found = places[self.index as usize];
        self.same = if found == self.last && found.generation != 0 { self.same + 1 } else { 0 };
        self.last = found;
        if self.same >= DEAD_AFTER {
            self.instances.set(self.index, Instance::default(), 0).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_nanos(100);

    fn found(generation: u64, heard: u64) -> Found {
        Found { generation, heard }
    }

    #[test]
    fn a_new_agent_takes_a_dead_ones_place_then_an_empty_one_then_the_older_ones() {
        let now = 1000;
        let (empty, dead, old, new) = (found(0, 0), found(5, 800), found(6, 950), found(7, 990));
        for (places, index) in [
            ([empty, empty], 0),
            ([old, empty], 1),
            ([empty, old], 0),
            ([dead, empty], 0),
            ([empty, dead], 1),
            ([old, dead], 1),
            ([dead, new], 0),
            ([old, new], 0),
            ([new, old], 1),
            ([new, found(6, 0)], 1),
        ] {
            assert_eq!(choose(places, now, AGE), index, "{places:?}");
        }
    }
}
