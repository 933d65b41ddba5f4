//! Pairs client and server halves into edges.
//!
//! Never: does IO, reads a clock, blocks. Invariants: the edges are the same whatever the order in which the halves
//! of a key arrive within `ttl` of the first; a half is counted once however often it is sent, as long as it is
//! remembered; at most `max_items` halves wait and as many answered clients are kept; every half ends in an edge, an
//! `Unpaired`, a `Dropped` or a `Duplicate`, but for a consumer's parent beside its links, which need not be a client.
//!
//! A client that was answered stays for another `ttl`, because it may have several servers (a topic's
//! consumers, a retry below the client span): each of them is an edge of its own.

use std::collections::VecDeque;

use hashlink::LinkedHashMap;

use super::config::Config;
use super::edge::Edge;
use super::half::{Half, Key, Side, Via};
use super::persist::Remains;
use super::seen::Seen;

/// What became of halves.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// A request from a client to a server.
    Edge(Edge),
    /// A half waited in vain; a client's edge to a virtual node follows when those are on.
    Unpaired(Half),
    /// There was no room to wait in.
    Dropped(Half),
    /// The half was counted before.
    Duplicate,
}

/// The halves of one shard that wait for each other. Time is any monotonic count of nanoseconds.
#[derive(Debug)]
pub struct Pairing {
    ttl: u64,
    max_items: usize,
    has_virtual_nodes: bool,
    waiting: LinkedHashMap<Key, Waiting>,
    /// Halves in `waiting`.
    halves: usize,
    answered: LinkedHashMap<Key, (u64, Half)>,
    seen: Seen,
    now: u64,
}

#[derive(Debug)]
struct Waiting {
    since: u64,
    halves: Halves,
}

/// A client waits alone; servers may be many. They never wait together.
#[derive(Debug)]
enum Halves {
    Client(Box<Half>),
    Servers(VecDeque<Half>),
}

impl Pairing {
    /// One of `shards` equal parts of the configured store.
    pub fn new(config: &Config, shards: usize) -> Self {
        let part = |whole: usize| whole.div_ceil(shards.max(1)).max(1);
        Self {
            ttl: config.store.ttl.as_nanos() as u64,
            max_items: part(config.store.max_items),
            has_virtual_nodes: config.has_virtual_nodes(),
            waiting: LinkedHashMap::new(),
            halves: 0,
            answered: LinkedHashMap::new(),
            seen: Seen::new(part(config.store.max_remembered), config.store.remember.as_nanos() as u64),
            now: 0,
        }
    }

    /// Halves that wait.
    pub fn len(&self) -> usize {
        self.halves
    }

    /// Whether no half waits.
    pub fn is_empty(&self) -> bool {
        self.halves == 0
    }

    /// Halves that were forgotten before their time, for want of room, since the last call.
    pub fn take_forgotten(&mut self) -> u64 {
        self.seen.take_early()
    }

    /// Takes one half.
    pub fn push(&mut self, half: Half, now: u64, out: &mut impl FnMut(Outcome)) {
        self.expire(now, out);
        let fingerprint = half.fingerprint();
        if self.seen.contains(fingerprint) {
            out(Outcome::Duplicate);
        } else if let Some(refused) = self.settle(half, out) {
            out(Outcome::Dropped(refused));
        } else {
            self.seen.insert(fingerprint, self.now);
        }
    }

    /// Makes what edges the half completes, or lets it wait; gives it back when there is no room.
    fn settle(&mut self, half: Half, out: &mut impl FnMut(Outcome)) -> Option<Half> {
        match half.side {
            Side::Client => self.client(half, out),
            Side::Server => self.server(half, out),
        }
    }

    fn client(&mut self, mut half: Half, out: &mut impl FnMut(Outcome)) -> Option<Half> {
        if let Some(database) = half.database.take() {
            out(Outcome::Edge(Edge::database(half, database)));
            return None;
        }
        if self.answered.contains_key(&half.key) {
            // A second client span of one id, of the other client kind: the id stands for the first.
            out(Outcome::Unpaired(half));
            return None;
        }
        match self.waiting.get(&half.key).map(|waiting| &waiting.halves) {
            Some(Halves::Client(_)) => {
                out(Outcome::Unpaired(half));
                None
            }
            Some(Halves::Servers(servers)) => {
                for server in servers {
                    out(Outcome::Edge(Edge::paired(&half, server)));
                }
                self.halves -= servers.len();
                self.waiting.remove(&half.key);
                self.answer(half);
                None
            }
            None => self.wait(half),
        }
    }

    fn server(&mut self, half: Half, out: &mut impl FnMut(Outcome)) -> Option<Half> {
        if half.key.span_id == [0; 8] {
            out(if self.has_virtual_nodes { Outcome::Edge(Edge::from_user(half)) } else { Outcome::Unpaired(half) });
            return None;
        }
        if let Some((_, client)) = self.answered.get(&half.key) {
            out(Outcome::Edge(Edge::paired(client, &half)));
            return None;
        }
        let has_client = matches!(self.waiting.get(&half.key), Some(Waiting { halves: Halves::Client(_), .. }));
        if !has_client {
            return self.wait(half);
        }
        if let Some(Waiting { halves: Halves::Client(client), .. }) = self.waiting.remove(&half.key) {
            self.halves -= 1;
            out(Outcome::Edge(Edge::paired(&client, &half)));
            self.answer(*client);
        }
        None
    }

    /// Keeps a client whose first server has come, for the servers that follow.
    fn answer(&mut self, client: Half) {
        if self.answered.len() >= self.max_items {
            self.answered.pop_front();
        }
        self.answered.insert(client.key, (self.now, client));
    }

    fn wait(&mut self, half: Half) -> Option<Half> {
        if self.halves >= self.max_items {
            return Some(half);
        }
        self.halves += 1;
        let since = self.now;
        match (half.side, self.waiting.get_mut(&half.key)) {
            (Side::Server, Some(Waiting { halves: Halves::Servers(servers), .. })) => servers.push_back(half),
            (Side::Server, _) => {
                self.waiting.insert(half.key, Waiting { since, halves: Halves::Servers(VecDeque::from([half])) });
            }
            (Side::Client, _) => {
                self.waiting.insert(half.key, Waiting { since, halves: Halves::Client(Box::new(half)) });
            }
        }
        None
    }

    /// Ends the wait of everything that has waited for `ttl`.
    pub fn expire(&mut self, now: u64, out: &mut impl FnMut(Outcome)) {
        self.now = self.now.max(now);
        self.seen.turn(self.now);
        while self.waiting.front().is_some_and(|(_, waiting)| self.now - waiting.since >= self.ttl) {
            if let Some((_, waiting)) = self.waiting.pop_front() {
                self.give_up(waiting.halves, out);
            }
        }
        while self.answered.front().is_some_and(|(_, (since, _))| self.now - since >= self.ttl) {
            self.answered.pop_front();
        }
    }

    fn give_up(&mut self, halves: Halves, out: &mut impl FnMut(Outcome)) {
        match halves {
            Halves::Client(client) => {
                self.halves -= 1;
                out(Outcome::Unpaired((*client).clone()));
                if self.has_virtual_nodes {
                    out(Outcome::Edge(Edge::unanswered(*client)));
                }
            }
            Halves::Servers(servers) => {
                self.halves -= servers.len();
                for server in servers {
                    if server.via != Via::ParentBesideLinks {
                        out(Outcome::Unpaired(server));
                    }
                }
            }
        }
    }

    /// Ends every wait without an edge: their other half may still come, after this process.
    pub fn abandon(&mut self, out: &mut impl FnMut(Outcome)) {
        while let Some((_, waiting)) = self.waiting.pop_front() {
            match waiting.halves {
                Halves::Client(client) => out(Outcome::Unpaired(*client)),
                Halves::Servers(servers) => servers
                    .into_iter()
                    .filter(|server| server.via != Via::ParentBesideLinks)
                    .for_each(|server| out(Outcome::Unpaired(server))),
            }
        }
        self.halves = 0;
        self.answered.clear();
    }

    /// Hands over everything that waits or is remembered, for the process that follows.
    pub fn hand_over(&mut self, now: u64) -> Remains {
        self.now = self.now.max(now);
        self.halves = 0;
        let mut waiting = Vec::new();
        for (_, Waiting { since, halves }) in self.waiting.drain() {
            let age = self.now - since;
            match halves {
                Halves::Client(client) => waiting.push((age, *client)),
                Halves::Servers(servers) => waiting.extend(servers.into_iter().map(|server| (age, server))),
            }
        }
        let answered = self.answered.drain().map(|(_, (since, client))| (self.now - since, client)).collect();
        Remains { waiting, answered, seen: self.seen.export(self.now) }
    }

    /// Takes over what another process handed over; what has no room is dropped. Call it before the first half, with
    /// a `now` above every age.
    pub fn take_over(&mut self, mut remains: Remains, now: u64, out: &mut impl FnMut(Outcome)) {
        remains.waiting.sort_by_key(|(age, _)| std::cmp::Reverse(*age));
        remains.answered.sort_by_key(|(age, _)| std::cmp::Reverse(*age));
        for (age, client) in remains.answered {
            self.now = now.saturating_sub(age);
            self.answer(client);
        }
        for (age, half) in remains.waiting {
            self.now = now.saturating_sub(age);
            if let Some(refused) = self.wait(half) {
                out(Outcome::Dropped(refused));
            }
        }
        self.now = now;
        self.seen.resume(remains.seen, now);
    }

    /// When the next wait ends.
    pub fn poll_timeout(&self) -> Option<u64> {
        let waiting = self.waiting.front().map(|(_, waiting)| waiting.since);
        let answered = self.answered.front().map(|(_, (since, _))| *since);
        waiting.into_iter().chain(answered).min().map(|since| since + self.ttl)
    }
}

#[cfg(test)]
mod tests;
