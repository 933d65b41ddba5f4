//! One request's way to its owners: admission of all parts, delivery side by side, one answer.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant as StdInstant};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use mirador_otlp::splice::Part;
use mirador_otlp::{Limits, Request, Signal};
use mirador_service::backoff::Backoff;
use tokio::time::Instant;
use tonic::Code;

use super::frame::Message;
use super::owner::{Busy, Owner, Slot};
use super::status::{Failure, code_name};
use super::{Destination, Inner, NoOwner, Owners};
use crate::{Accepted, Kind, Refusal};

/// The hint for a client whose part met a full owner.
const FULL_HINT: Duration = Duration::from_secs(1);

/// How often the parts of one request are placed again because owners leave before anything was sent.
const PLACEMENTS: usize = 4;

/// One part on its way.
struct Leg {
    owner: Arc<Owner>,
    bytes: Bytes,
    items: usize,
    /// `None` for a part that was placed again: it waits for room instead of being refused.
    slot: Option<Slot>,
}

/// A part that needs an owner, or is on its way to one.
enum Work {
    Leg(Leg),
    /// Placed again once the ring has members.
    Homeless {
        bytes: Bytes,
        items: usize,
    },
}

/// How a part ended.
enum Settled {
    Delivered {
        bytes: Bytes,
        accepted: Accepted,
    },
    Failed(Refusal),
    /// Its owner left (or there was none): it is to be placed on the ring as it is now.
    Place {
        bytes: Bytes,
        items: usize,
    },
}

impl Destination {
    /// Sends all parts side by side and answers when every part is settled.
    ///
    /// `owners` is the snapshot on which the parts were placed. OTLP parts whose owner leaves are placed
    /// again by [`Owners::place_part`]; a RED part whose owner leaves comes back as a refusal with the reason
    /// `owner_left`, because its sequence number belongs to that owner's stream.
    pub async fn send(
        &self,
        kind: Kind,
        owners: &Owners,
        parts: Vec<Part>,
        deadline: impl Into<Instant>,
    ) -> Result<Accepted, Refusal> {
        self.send_placed(kind, owners, parts, deadline, |bytes, owners| place_again(kind, bytes, owners)).await
    }

    /// As [`Destination::send`], with a rule of the caller's own for placing a part again. The part that `replace`
    /// gets is dropped when none of those that it returns has its bytes.
    pub async fn send_placed(
        &self,
        kind: Kind,
        owners: &Owners,
        parts: Vec<Part>,
        deadline: impl Into<Instant>,
        replace: impl Fn(&Bytes, &Owners) -> Result<Vec<Part>, Refusal>,
    ) -> Result<Accepted, Refusal> {
        let deadline = deadline.into();
        let inner = &*self.inner;
        let mut progress = Progress::new(inner, kind);
        let parts = progress.without_delivered(parts);
        let legs = match self.admit_all(owners, parts, &replace) {
            Ok(legs) => legs,
            Err((items, refusal)) => {
                inner.metrics.refused(items, refusal.reason);
                return Err(refusal);
            }
        };
        // Made when it is needed: the common case by far is one part.
        let mut pending = None;
        let mut settled = None;
        if let [_] = legs.as_slice() {
            for leg in legs {
                settled = Some(self.settle(kind, Work::Leg(leg), deadline).await);
            }
        } else {
            let set = pending.insert(FuturesUnordered::new());
            set.extend(legs.into_iter().map(|leg| self.settle(kind, Work::Leg(leg), deadline)));
        }
        loop {
            let next = match (settled.take(), &mut pending) {
                (Some(settled), _) => Some(settled),
                (None, Some(pending)) => pending.next().await,
                (None, None) => None,
            };
            let Some(next) = next else { return progress.finish() };
            match next {
                Settled::Delivered { bytes, accepted } => progress.delivered(bytes, &accepted),
                Settled::Failed(refusal) => progress.failed(refusal),
                Settled::Place { bytes, items } => match self.place_leg(&bytes, items, &replace) {
                    Ok(works) => {
                        let set = pending.get_or_insert_with(FuturesUnordered::new);
                        set.extend(works.into_iter().map(|work| self.settle(kind, work, deadline)));
                    }
                    Err(refusal) => {
                        inner.metrics.failed(kind, items, code_name(refusal.code));
                        progress.failed(refusal);
                    }
                },
            }
        }
    }

    /// Takes room at every owner that the request needs, or none at all.
    fn admit_all(
        &self,
        owners: &Owners,
        parts: Vec<Part>,
        replace: &impl Fn(&Bytes, &Owners) -> Result<Vec<Part>, Refusal>,
    ) -> Result<Vec<Leg>, (usize, Refusal)> {
        let total = parts.iter().map(|part| part.items).sum();
        let refuse = |refusal| (total, refusal);
        let mut legs = Vec::with_capacity(parts.len());
        let mut round = (owners.clone(), parts);
        for _ in 0..PLACEMENTS {
            let (owners, parts) = round;
            let mut homeless = Vec::new();
            for part in parts {
                let Some(owner) = owners.set.members.get(part.owner) else {
                    return Err(refuse(NoOwner.into()));
                };
                match owner.admit(part.bytes.len()) {
                    Ok(slot) => legs.push(Leg {
                        owner: Arc::clone(owner),
                        bytes: part.bytes,
                        items: part.items,
                        slot: Some(slot),
                    }),
                    Err(Busy::Left) => homeless.push(part),
                    Err(busy) => return Err(refuse(busy.into_refusal(owner.name()))),
                }
            }
            if homeless.is_empty() {
                return Ok(legs);
            }
            let current = self.owners();
            let mut placed = Vec::new();
            for part in homeless {
                self.inner.metrics.replaced_items.inc_by(part.items as u64);
                placed.extend(replace(&part.bytes, &current).map_err(refuse)?);
            }
            round = (current, placed);
        }
        Err(refuse(NoOwner.into()))
    }

    /// Places a part that lost its owner; it waits when the ring is empty.
    fn place_leg(
        &self,
        bytes: &Bytes,
        items: usize,
        replace: &impl Fn(&Bytes, &Owners) -> Result<Vec<Part>, Refusal>,
    ) -> Result<Vec<Work>, Refusal> {
        let owners = self.owners();
        if owners.is_empty() {
            return Ok(vec![Work::Homeless { bytes: bytes.clone(), items }]);
        }
        self.inner.metrics.replaced_items.inc_by(items as u64);
        let parts = replace(bytes, &owners)?;
        Ok(parts
            .into_iter()
            .filter_map(|part| {
                let owner = Arc::clone(owners.set.members.get(part.owner)?);
                Some(Work::Leg(Leg { owner, bytes: part.bytes, items: part.items, slot: None }))
            })
            .collect())
    }

    fn settle(&self, kind: Kind, work: Work, deadline: Instant) -> impl Future<Output = Settled> + Send {
        let inner = Arc::clone(&self.inner);
        async move {
            match work {
                Work::Leg(leg) => inner.deliver(kind, leg, deadline).await,
                Work::Homeless { bytes, items } => inner.wait_for_owner(kind, bytes, items, deadline).await,
            }
        }
    }
}

impl Inner {
    async fn deliver(&self, kind: Kind, mut leg: Leg, deadline: Instant) -> Settled {
        let mut unsettled = Unsettled { inner: self, kind, items: leg.items, armed: true };
        let message = Message::new(leg.bytes.clone(), self.config.compression);
        let mut backoff = Backoff::new(&self.waits, self.next_seed());
        loop {
            let failure = match self.attempt(kind, &mut leg, &message, deadline).await {
                Ok(accepted) => {
                    unsettled.armed = false;
                    self.metrics.sent(kind, leg.items);
                    self.metrics.rejected_items.inc_by(accepted.rejected_items);
                    return Settled::Delivered { bytes: leg.bytes, accepted };
                }
                Err(failure) => failure,
            };
            if leg.owner.has_left() && failure.is_retryable() {
                unsettled.armed = false;
                return Settled::Place { bytes: leg.bytes, items: leg.items };
            }
            if let (true, Some(wait)) = (failure.answered, failure.retry_after) {
                leg.owner.pause(wait);
            }
            let wait = backoff.next_wait().max(failure.retry_after.unwrap_or_default());
            let last = !self.config.retry_on_failure.enabled || Instant::now() + wait >= deadline;
            if last || !failure.is_retryable() {
                unsettled.armed = false;
                self.metrics.failed(kind, leg.items, code_name(failure.code));
                return Settled::Failed(failure.into_refusal(leg.owner.name(), wait));
            }
            tracing::debug!(destination = self.name, owner = leg.owner.name(), code = ?failure.code,
                message = %failure.message, ?wait, "part is sent again");
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = leg.owner.left() => {}
            }
            self.metrics.retried(code_name(failure.code));
        }
    }

    async fn attempt(
        &self,
        kind: Kind,
        leg: &mut Leg,
        message: &Message,
        deadline: Instant,
    ) -> Result<Accepted, Failure> {
        if leg.slot.is_none() {
            let slot = leg.owner.admit(leg.bytes.len()).map_err(|busy| {
                let refusal = busy.into_refusal(leg.owner.name());
                Failure { retry_after: refusal.retry_after, ..Failure::transport(refusal.code, refusal.message) }
            })?;
            leg.slot = Some(slot);
        }
        let limit = deadline.min(Instant::now() + self.config.timeout);
        leg.owner.call(kind, message, limit).await
    }

    async fn wait_for_owner(&self, kind: Kind, bytes: Bytes, items: usize, deadline: Instant) -> Settled {
        let mut unsettled = Unsettled { inner: self, kind, items, armed: true };
        let mut watch = self.generation.subscribe();
        let some_owner = watch.wait_for(|_| !self.set.load().members.is_empty());
        let found = tokio::time::timeout_at(deadline, some_owner).await;
        unsettled.armed = false;
        if let Ok(Ok(_)) = found {
            return Settled::Place { bytes, items };
        }
        self.metrics.failed(kind, items, code_name(Code::Unavailable));
        Settled::Failed(NoOwner.into())
    }
}

/// Counts a part whose future is dropped before it is settled.
struct Unsettled<'a> {
    inner: &'a Inner,
    kind: Kind,
    items: usize,
    armed: bool,
}

impl Drop for Unsettled<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.inner.metrics.failed(self.kind, self.items, code_name(Code::Cancelled));
        }
    }
}

/// What has become of a request so far; remembers what was delivered unless the whole request was.
struct Progress<'a> {
    inner: &'a Inner,
    kind: Kind,
    accepted: Accepted,
    refusal: Option<Refusal>,
    delivered: Vec<Bytes>,
    /// Parts that an earlier request of the same client had delivered.
    known: Vec<Bytes>,
    complete: bool,
}

impl<'a> Progress<'a> {
    fn new(inner: &'a Inner, kind: Kind) -> Self {
        Self {
            inner,
            kind,
            accepted: Accepted::default(),
            refusal: None,
            delivered: Vec::new(),
            known: Vec::new(),
            complete: false,
        }
    }

    /// Leaves out what was delivered when the client sent the same request before.
    fn without_delivered(&mut self, mut parts: Vec<Part>) -> Vec<Part> {
        if !self.inner.delivered.is_empty() {
            let now = StdInstant::now();
            parts.retain(|part| {
                let known = self.inner.delivered.contains(self.kind, &part.bytes, now);
                if known {
                    self.inner.metrics.skipped_items.inc_by(part.items as u64);
                    self.known.push(part.bytes.clone());
                }
                !known
            });
        }
        parts
    }

    fn delivered(&mut self, bytes: Bytes, accepted: &Accepted) {
        self.delivered.push(bytes);
        self.accepted.rejected_items += accepted.rejected_items;
        if !accepted.message.is_empty() {
            self.accepted.warn(&accepted.message);
        }
    }

    /// Keeps the refusal that makes the client come back over one that makes it give up: what can still
    /// be delivered is delivered by the repetition, which then meets the permanent answer alone.
    fn failed(&mut self, refusal: Refusal) {
        let keep = match &self.refusal {
            None => true,
            Some(kept) => match (kept.retry_after, refusal.retry_after) {
                (None, Some(_)) => true,
                (Some(kept), Some(new)) => new > kept,
                _ => false,
            },
        };
        if keep {
            self.refusal = Some(refusal);
        }
    }

    fn finish(mut self) -> Result<Accepted, Refusal> {
        if let Some(refusal) = self.refusal.take() {
            return Err(refusal);
        }
        self.complete = true;
        for bytes in &self.known {
            self.inner.delivered.forget(self.kind, bytes);
        }
        Ok(std::mem::take(&mut self.accepted))
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if !self.complete {
            let now = StdInstant::now();
            for bytes in self.delivered.iter().chain(&self.known) {
                self.inner.delivered.remember(self.kind, bytes, now);
            }
        }
    }
}

impl Busy {
    fn into_refusal(self, owner: &str) -> Refusal {
        let (what, retry_after, reason) = match self {
            Self::Down { wait, why } => (format!("is down: {why}"), wait, "owner_down"),
            Self::Paused { wait } => ("asked to be left alone".to_owned(), wait, "owner_paused"),
            Self::Full => ("has its sending queue full".to_owned(), FULL_HINT, "owner_full"),
            Self::Left => ("has left the ring".to_owned(), FULL_HINT, "owner_left"),
        };
        Refusal {
            code: Code::Unavailable,
            message: format!("owner {owner} {what}"),
            retry_after: Some(retry_after.max(Duration::from_millis(100))),
            reason,
        }
    }
}

fn place_again(kind: Kind, bytes: &Bytes, owners: &Owners) -> Result<Vec<Part>, Refusal> {
    let Kind::Otlp(signal) = kind else {
        return Err(Busy::Left.into_refusal("of this stream"));
    };
    Ok(owners.place_part(signal, bytes, |_| true)?.unwrap_or_default())
}

impl Owners {
    /// Places a part that was made for other owners, and asks `admit` for the bytes of what it is cut into before
    /// they are copied, as [`Owners::place_within`]; `None` when it says no.
    ///
    /// # Errors
    /// When nobody is an owner, or `part` is none of a request of `signal`.
    pub fn place_part(
        &self,
        signal: Signal,
        part: &Bytes,
        admit: impl FnOnce(usize) -> bool,
    ) -> Result<Option<Vec<Part>>, Refusal> {
        let request = Request::parse(signal, part.clone(), &Limits::default()).map_err(|error| Refusal {
            code: Code::Internal,
            message: format!("a part of our own making does not parse: {error}"),
            retry_after: None,
            reason: "part_malformed",
        })?;
        Ok(self.place_within(&request, admit)?.map(|placed| placed.parts))
    }
}
