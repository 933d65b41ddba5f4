//! The pods of the node, by UID and by address.
//!
//! Never: does IO, reads a clock. Invariants: at most `limit` pods, deleted ones make room first; a
//! list replaces everything when it is complete; an address is held by the youngest pod that claims it,
//! and by a living one rather than a deleted one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::pod::Pod;

/// How long the address of a deleted pod still leads to it: for what was on its way when the pod went,
/// and no longer, because the next pod may have it.
const ADDRESS_GRACE: Duration = Duration::from_secs(5);

/// What requests read: a snapshot.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) by_uid: HashMap<Arc<str>, Arc<Pod>>,
    pub(super) by_ip: HashMap<IpAddr, Arc<Pod>>,
    /// Bytes of all pods and of the two maps, estimated.
    pub(super) bytes: usize,
    /// Pods, deleted ones included.
    pub(super) pods: usize,
}

/// What happened since it was last asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) added: u64,
    pub(super) updated: u64,
    pub(super) deleted: u64,
    pub(super) over_limit: u64,
}

#[derive(Debug)]
struct Known {
    pod: Arc<Pod>,
    deleted: Option<Instant>,
    /// Whether its address leads to it.
    has_address: bool,
    /// In which list it stood last.
    list: u64,
}

/// The pods as the watch tells them.
#[derive(Debug)]
pub(super) struct Pods {
    limit: usize,
    grace: Duration,
    known: HashMap<Arc<str>, Known>,
    list: u64,
    changes: Changes,
}

impl Pods {
    pub(super) fn new(limit: usize, grace: Duration) -> Self {
        Self { limit, grace, known: HashMap::new(), list: 0, changes: Changes::default() }
    }

    /// A list begins. What it does not name is deleted when it is complete.
    pub(super) fn begin(&mut self) {
        self.list += 1;
    }

    pub(super) fn listed(&mut self, pod: Pod, now: Instant) {
        self.put(pod, now);
    }

    pub(super) fn complete(&mut self, now: Instant) {
        let list = self.list;
        for known in self.known.values_mut().filter(|known| known.list != list && known.deleted.is_none()) {
            known.deleted = Some(now);
            self.changes.deleted += 1;
        }
        self.expire(now);
    }

    pub(super) fn applied(&mut self, pod: Pod, now: Instant) {
        self.put(pod, now);
    }

    pub(super) fn deleted(&mut self, uid: &str, now: Instant) {
        if let Some(known) = self.known.get_mut(uid).filter(|known| known.deleted.is_none()) {
            known.deleted = Some(now);
            self.changes.deleted += 1;
        }
        self.expire(now);
    }

    /// Forgets pods that were deleted long enough ago.
    pub(super) fn expire(&mut self, now: Instant) {
        let grace = self.grace;
        for known in self.known.values_mut() {
            known.has_address = known.deleted.is_none_or(|at| now < at + ADDRESS_GRACE);
        }
        self.known.retain(|_, known| known.deleted.is_none_or(|at| now < at + grace));
    }

    /// When there is something to forget.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let next = |known: &Known| {
            let wait = if known.has_address { ADDRESS_GRACE.min(self.grace) } else { self.grace };
            Some(known.deleted? + wait)
        };
        self.known.values().filter_map(next).min()
    }

    pub(super) fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    fn put(&mut self, pod: Pod, now: Instant) {
        if pod.uid.is_empty() {
            return;
        }
        if let Some(known) = self.known.get_mut(&pod.uid) {
            known.list = self.list;
            known.deleted = None;
            known.has_address = true;
            if *known.pod != pod {
                known.pod = Arc::new(pod);
                self.changes.updated += 1;
            }
            return;
        }
        if self.known.len() >= self.limit && !self.make_room(now) {
            self.changes.over_limit += 1;
            return;
        }
        let pod = Arc::new(pod);
        self.known.insert(Arc::clone(&pod.uid), Known { pod, deleted: None, has_address: true, list: self.list });
        self.changes.added += 1;
    }

    /// Forgets the pod that was deleted longest ago.
    fn make_room(&mut self, now: Instant) -> bool {
        self.expire(now);
        if self.known.len() < self.limit {
            return true;
        }
        let deleted = self.known.values().filter_map(|known| Some((known.deleted?, Arc::clone(&known.pod.uid))));
        match deleted.min() {
            Some((_, uid)) => self.known.remove(&uid).is_some(),
            None => false,
        }
    }

    /// The snapshot for requests.
    pub(super) fn table(&self) -> Table {
        let mut table = Table { pods: self.known.len(), ..Table::default() };
        // The better claim on an address comes last: living before deleted, younger before older.
        let mut claims: Vec<&Known> = self.known.values().collect();
        claims.sort_unstable_by(|a, b| {
            let rank = |of: &Known| (of.deleted.is_none(), of.deleted);
            (rank(a), &a.pod.started, &a.pod.uid).cmp(&(rank(b), &b.pod.started, &b.pod.uid))
        });
        table.by_uid.reserve(claims.len());
        table.by_ip.reserve(claims.len());
        for known in claims {
            let pod = &known.pod;
            table.bytes += pod.bytes();
            if let Some(uid) = &pod.static_uid {
                table.by_uid.insert(Arc::clone(uid), Arc::clone(pod));
            }
            table.by_uid.insert(Arc::clone(&pod.uid), Arc::clone(pod));
            for ip in pod.ips.iter().filter(|_| known.has_address) {
                table.by_ip.insert(*ip, Arc::clone(pod));
            }
        }
        let uids = table.by_uid.capacity() * size_of::<(Arc<str>, Arc<Pod>)>();
        let ips = table.by_ip.capacity() * size_of::<(IpAddr, Arc<Pod>)>();
        table.bytes += uids + ips + self.known.capacity() * size_of::<(Arc<str>, Known)>();
        table
    }
}

#[cfg(test)]
mod tests;
