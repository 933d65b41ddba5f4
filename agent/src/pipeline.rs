//! One request's way through the agent: validate, enrich, place, send, count, acknowledge.
//!
//! Invariants: a request is acknowledged after every owner has taken its part; its spans are counted
//! into RED after that and only then; every item is in exactly one book of the [`Ledger`] at any time;
//! a request whose client goes away is carried on ([`crate::unheard`]).
//!
//! Never: allocates per span, answers success for something that was not delivered.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mirador_otlp::splice::Part;
use mirador_otlp::{Limits, Request, Signal, WireError};
use mirador_service::drain::Drain;
use mirador_service::memory::Permit;
use mirador_service::metrics::{Counter, Registry};
use mirador_transport::receiver::ReceiverMetrics;
use mirador_transport::sender::{Destination, Owners};
use mirador_transport::{Accepted, Consume, Incoming, Kind, Refusal};
use tonic::Code;

use crate::kubernetes::Caller;
use crate::ledger::{Entry, Ledger};
use crate::processors::Processors;
use crate::red::Red;
use crate::steering::Enricher;
use crate::unheard::Unheard;

/// The hint for a client whose request did not fit twice into the byte budget.
const MEMORY_HINT: Duration = Duration::from_secs(1);

/// Where each signal goes; `None` is refused as not configured.
#[derive(Debug, Clone, Default)]
pub struct Destinations {
    /// Spans.
    pub traces: Option<Destination>,
    /// Metrics.
    pub metrics: Option<Destination>,
    /// Log records.
    pub logs: Option<Destination>,
}

impl Destinations {
    fn of(&self, signal: Signal) -> Option<&Destination> {
        match signal {
            Signal::Traces => self.traces.as_ref(),
            Signal::Metrics => self.metrics.as_ref(),
            Signal::Logs => self.logs.as_ref(),
        }
    }
}

/// What happens to a request before it is placed.
#[derive(Debug)]
pub struct Inlet {
    /// This agent's id: what it has forwarded itself must not come back to it.
    pub own_id: String,
    /// Adds who is calling, when steering knows.
    pub enricher: Enricher,
    /// Adds what is known of pods and hosts.
    pub processors: Processors,
}

/// Takes what the receiver admitted.
#[derive(Debug, Clone)]
pub struct Pipeline {
    stages: Arc<Stages>,
    unheard: Unheard,
}

#[derive(Debug)]
struct Stages {
    destinations: Destinations,
    inlet: Inlet,
    red: Option<Red>,
    ledger: Ledger,
    /// The same items under the collector's names.
    received: ReceiverMetrics,
    limits: Limits,
    drain: Drain,
    without_trace_id: Counter,
}

impl Pipeline {
    /// Joins the stages; `red` is `None` when RED is turned off.
    pub fn new(
        destinations: Destinations,
        inlet: Inlet,
        red: Option<Red>,
        received: ReceiverMetrics,
        registry: &Registry,
        drain: Drain,
    ) -> Self {
        let unheard = Unheard::default();
        let remembered = unheard.clone();
        registry.observe_gauge(
            "mirador_agent_unheard_requests",
            "Requests that are carried on, or were delivered, after their client had gone.",
            move || remembered.len() as f64,
        );
        Self {
            stages: Arc::new(Stages {
                destinations,
                inlet,
                red,
                ledger: Ledger::register(registry),
                received,
                limits: Limits::default(),
                drain,
                without_trace_id: registry.counter(
                    "mirador_agent_spans_without_trace_id",
                    "Spans without a valid trace id, placed by the hash of their resource.",
                ),
            }),
            unheard,
        }
    }
}

impl Consume for Pipeline {
    async fn consume(&self, incoming: Incoming) -> Result<Accepted, Refusal> {
        let Kind::Otlp(signal) = incoming.kind else {
            return Err(Refusal {
                code: Code::Unimplemented,
                message: "an agent takes no RED deltas; send them to central".to_owned(),
                retry_after: None,
                reason: "not_configured",
            });
        };
        if incoming.via_agent.as_deref() == Some(&*self.stages.inlet.own_id) {
            return Err(looped());
        }
        let seed = signal as u64;
        if let Some(accepted) = self.unheard.join(seed, &incoming.body).await {
            self.stages.count_joined(signal, &incoming);
            return Ok(accepted);
        }
        let body = incoming.body.clone();
        let stages = Arc::clone(&self.stages);
        self.unheard.guard(seed, body, async move { stages.settle(signal, incoming).await }).await
    }
}

impl Stages {
    async fn settle(&self, signal: Signal, incoming: Incoming) -> Result<Accepted, Refusal> {
        let _in_flight = self.drain.guard();
        let Incoming { body, permit, transport, peer, caller, via_agent, .. } = incoming;
        let received_bytes = body.clone();
        let mut request = Request::parse(signal, body, &self.limits).map_err(|error| malformed(&error))?;
        // An agent on the way has added what its node knows; this one's machine is not the sender's.
        if via_agent.is_none() {
            // Two passes over the resources: which pod one belongs to follows from what steering adds to it.
            let (enriched, pod_uid) = self.inlet.enricher.enrich(request, caller.as_ref());
            let caller = Caller { pod_uid, ip: peer.ip() };
            request = self.inlet.processors.apply(enriched, &caller).await;
        }
        // Whoever has forwarded them has counted them as well.
        let red = self.red.as_ref().filter(|_| via_agent.is_none());
        let outcome = self.forward(&request, received_bytes, permit, red).await;
        let items = request.items() as u64;
        let refused = outcome.as_ref().map_or(items, |accepted| accepted.rejected_items.min(items));
        if refused > 0 {
            self.received.refused(signal, transport, refused);
        }
        self.received.accepted(signal, transport, items - refused);
        outcome
    }

    /// Sends a request to its owners; `red` counts its spans when they have been taken.
    async fn forward(
        &self,
        request: &Request,
        received: Bytes,
        mut permit: Permit,
        red: Option<&Red>,
    ) -> Result<Accepted, Refusal> {
        let signal = request.signal();
        let entry = self.ledger.enter(signal, request.items());
        let Some(destination) = self.destinations.of(signal) else {
            return refuse(entry, not_configured(signal));
        };
        if request.items() == 0 {
            entry.sent(0);
            return Ok(Accepted::default());
        }
        let owners = destination.owners();
        // What is no slice of the received body is another copy of it, which the budget must know. An enriched
        // copy is there already and costs about as much as was paid; the parts are paid for before they are
        // made, because the headers of a request are in every one.
        let mut copied = if same(request.bytes(), &received) { 0 } else { request.bytes().len() };
        let mut is_granted = copied == 0;
        let placed = owners.place_within(request, |parts| {
            copied += parts;
            is_granted = permit.grow(copied);
            is_granted
        });
        let placed = match placed {
            Ok(Some(placed)) if is_granted || permit.grow(copied) => placed,
            Ok(_) => return refuse(entry, no_memory(&permit, copied)),
            Err(no_owner) => return refuse(entry, no_owner.into()),
        };
        if placed.without_trace_id > 0 {
            self.without_trace_id.inc_by(placed.without_trace_id as u64);
        }
        let permit = Mutex::new(permit);
        let replace = |part: &Bytes, owners: &Owners| place_again(request, part, owners, &permit);
        let kind = Kind::Otlp(signal);
        let sending = destination.send_placed(kind, &owners, placed.parts, destination.deadline(), replace);
        match sending.await {
            Ok(accepted) => {
                if let (Signal::Traces, Some(red)) = (signal, red) {
                    red.observe(request);
                }
                entry.sent(accepted.rejected_items);
                Ok(accepted)
            }
            Err(refusal) => refuse(entry, refusal),
        }
    }

    /// Books a repetition whose first sending was delivered unheard. It was valid then, so it parses.
    fn count_joined(&self, signal: Signal, incoming: &Incoming) {
        if let Ok(request) = Request::parse(signal, incoming.body.clone(), &self.limits) {
            self.ledger.enter(signal, request.items()).dropped("delivered_before");
        }
    }
}

/// Places a part of `request` whose owner has left. The permit grows by what it is cut into before that is
/// copied, and gives back what the part itself held; a part that is the request's own bytes held nothing.
fn place_again(request: &Request, part: &Bytes, owners: &Owners, permit: &Mutex<Permit>) -> Result<Vec<Part>, Refusal> {
    let mut permit = permit.lock().unwrap_or_else(PoisonError::into_inner);
    let mut is_copied = false;
    let placed = owners.place_part(request.signal(), part, |bytes| {
        is_copied = true;
        permit.grow(bytes)
    })?;
    if is_copied && placed.is_some() && !same(part, request.bytes()) {
        let left = permit.bytes().saturating_sub(part.len());
        permit.shrink_to(left);
    }
    // The old part is there beside the new ones for a moment: a repetition, placed anew, needs less.
    placed.ok_or_else(memory_in_use)
}

fn refuse(entry: Entry, refusal: Refusal) -> Result<Accepted, Refusal> {
    entry.refused(refusal.reason);
    Err(refusal)
}

/// Whether both are the same memory.
fn same(a: &Bytes, b: &Bytes) -> bool {
    a.as_ptr() == b.as_ptr() && a.len() == b.len()
}

fn malformed(error: &WireError) -> Refusal {
    Refusal {
        code: Code::InvalidArgument,
        message: format!("the body is not a valid OTLP request: {error}"),
        retry_after: None,
        reason: "malformed",
    }
}

fn not_configured(signal: Signal) -> Refusal {
    Refusal {
        code: Code::Unimplemented,
        message: format!("this agent forwards no {}: set exporters.{0}", signal.as_str()),
        retry_after: None,
        reason: "not_configured",
    }
}

/// The last guard against an agent that is its own destination, whatever has led there.
fn looped() -> Refusal {
    Refusal {
        code: Code::FailedPrecondition,
        message: "this agent has forwarded the request to itself: its exporters must not lead back to it".to_owned(),
        retry_after: None,
        reason: "loop",
    }
}

fn memory_in_use() -> Refusal {
    Refusal {
        code: Code::ResourceExhausted,
        message: "the byte budget has no room for the parts of this request".to_owned(),
        retry_after: Some(MEMORY_HINT),
        reason: "memory",
    }
}

/// What the copies of a request would take beside it is not free, or is not there at all: then the request is
/// refused for good, with a code that lets no client of either protocol try again.
fn no_memory(permit: &Permit, copied: usize) -> Refusal {
    if permit.could_grow(copied) {
        return memory_in_use();
    }
    Refusal {
        code: Code::InvalidArgument,
        message: format!(
            "the request and its parts need more than the {} bytes that all requests together may hold here; \
             send smaller batches",
            permit.limit()
        ),
        retry_after: None,
        reason: "too_large_for_memory",
    }
}

#[cfg(test)]
mod tests;
