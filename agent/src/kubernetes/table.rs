//! The pods of the node, by UID and by address.
//!
//! Never: does IO, reads a clock. Invariants: at most `limit` pods that take at most `max_bytes`, deleted
//! ones make room first, and a pod that does not fit is not known at all; a list replaces everything when it is complete; an address is held by the youngest pod that claims it,
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
    max_bytes: usize,
    /// Bytes of all pods.
    bytes: usize,
    grace: Duration,
    known: HashMap<Arc<str>, Known>,
    list: u64,
    changes: Changes,
}

impl Pods {
    pub(super) fn new(limit: usize, max_bytes: usize, grace: Duration) -> Self {
        Self { limit, max_bytes, bytes: 0, grace, known: HashMap::new(), list: 0, changes: Changes::default() }
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
        let bytes = &mut self.bytes;
        self.known.retain(|_, known| {
            let stays = known.deleted.is_none_or(|at| now < at + grace);
            *bytes -= if stays { 0 } else { known.pod.bytes() };
            stays
        });
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
        let known = self.known.get_mut(&pod.uid);
        let is_new = known.is_none();
        if let Some(known) = known {
            if *known.pod == pod {
                known.list = self.list;
                known.deleted = None;
                known.has_address = true;
                return;
            }
            self.forget(&pod.uid);
        }
        let bytes = pod.bytes();
        if !self.make_room(bytes, now) {
            self.changes.over_limit += 1;
            return;
        }
        *(if is_new { &mut self.changes.added } else { &mut self.changes.updated }) += 1;
        self.bytes += bytes;
        let pod = Arc::new(pod);
        self.known.insert(Arc::clone(&pod.uid), Known { pod, deleted: None, has_address: true, list: self.list });
    }

    fn forget(&mut self, uid: &str) {
        if let Some(known) = self.known.remove(uid) {
            self.bytes -= known.pod.bytes();
        }
    }

    fn fits(&self, bytes: usize) -> bool {
        self.known.len() < self.limit && self.bytes + bytes <= self.max_bytes
    }

    /// Forgets the pods that were deleted longest ago until there is room for one more.
    fn make_room(&mut self, bytes: usize, now: Instant) -> bool {
        if !self.fits(bytes) {
            self.expire(now);
        }
        while !self.fits(bytes) {
            let deleted = self.known.values().filter_map(|known| Some((known.deleted?, Arc::clone(&known.pod.uid))));
            let Some((_, uid)) = deleted.min() else { return false };
            self.forget(&uid);
        }
        true
    }

    /// The snapshot for requests.
    pub(super) fn table(&self) -> Table {
        let mut table = Table { pods: self.known.len(), bytes: self.bytes, ..Table::default() };
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
