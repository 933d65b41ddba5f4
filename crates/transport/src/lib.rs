//! OTLP in and out: what both processes do the same way at their edges.
//!
//! [`receiver`] takes OTLP/gRPC, OTLP/HTTP and our RED deltas, admits them against the byte budget
//! and hands decompressed protobuf to a [`Consume`]. [`sender`] places parts on the owners of a ring
//! and sends them side by side. [`kubernetes`] watches what both need to know of a cluster.
//!
//! Never: decodes a span, keeps a request after it was answered, buffers without a limit.

#![forbid(unsafe_code)]

pub mod gate;
pub mod kubernetes;
pub mod outgoing;
pub mod receiver;
pub mod sender;

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
pub use gate::{Caller, Gate};
use mirador_otlp::Signal;
use mirador_service::memory::Permit;

/// The header with which an agent marks what it forwards, its value is the agent's id.
///
/// Spans that carry it are already counted in that agent's RED deltas.
pub const AGENT_HEADER: &str = "x-mirador-agent";

/// What a request carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An OTLP export request of one signal.
    Otlp(Signal),
    /// A RED delta (`mirador.red.v1.ExportRedRequest`).
    Red,
}

impl Kind {
    /// Every kind, in the order of the metric tables.
    pub const ALL: [Self; 4] =
        [Self::Otlp(Signal::Traces), Self::Otlp(Signal::Metrics), Self::Otlp(Signal::Logs), Self::Red];

    /// The name used in labels and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Otlp(signal) => signal.as_str(),
            Self::Red => "red",
        }
    }
}

/// The message of a RED delta that had been merged before.
const DUPLICATE: &str = "duplicate";

/// One admitted request: decompressed protobuf with the permit that pays for it.
#[derive(Debug)]
pub struct Incoming {
    /// What the body is.
    pub kind: Kind,
    /// Protobuf, decompressed; OTLP/JSON is re-encoded before it gets here.
    pub body: Bytes,
    /// Who sent it.
    pub peer: SocketAddr,
    /// What the process's [`Gate`] has found out about the connection.
    pub caller: Option<Caller>,
    /// The value of [`AGENT_HEADER`], when one of our agents forwarded it.
    pub via_agent: Option<String>,
    /// `grpc` or `http`.
    pub transport: &'static str,
    /// Bytes of the budget that are held until the request is answered.
    pub permit: Permit,
}

/// A request that was taken, wholly or with some items left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Items that were left out for good; the client must not send them again (OTLP partial success).
    pub rejected_items: u64,
    /// Why, or a warning when nothing was left out. Empty: full success.
    pub message: String,
}

impl Accepted {
    /// A RED delta that had been merged before and changed nothing.
    pub fn duplicate() -> Self {
        Self { rejected_items: 0, message: DUPLICATE.to_owned() }
    }

    /// Adds something that the client has to know about what was taken, or several things (`a; b`); what it was
    /// told before is not repeated.
    pub fn warn(&mut self, message: &str) {
        for news in message.split("; ") {
            if news.is_empty() || self.message.split("; ").any(|told| told == news) {
                continue;
            }
            if !self.message.is_empty() {
                self.message.push_str("; ");
            }
            self.message.push_str(news);
        }
    }

    /// Whether this is [`Self::duplicate`].
    pub fn is_duplicate(&self) -> bool {
        self.rejected_items == 0 && self.message == DUPLICATE
    }
}

/// A request that was not taken.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The gRPC status; HTTP statuses follow from it (OTLP specification, "Failures").
    pub code: tonic::Code,
    /// What went wrong and what would be right.
    pub message: String,
    /// When the client may try again; set for every refusal under pressure.
    pub retry_after: Option<Duration>,
    /// The label under which the loss is counted.
    pub reason: &'static str,
}

/// Takes admitted requests; returns only when the request is settled, so that the answer is true.
pub trait Consume: Send + Sync + 'static {
    /// Settles one request. Dropping the future means that the client has gone.
    fn consume(&self, incoming: Incoming) -> impl Future<Output = Result<Accepted, Refusal>> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_each_thing_once_also_when_several_come_together() {
        let mut accepted = Accepted::default();
        for message in ["", "a; b", "b", "b; c; a", "a; b", "c"] {
            accepted.warn(message);
        }
        assert_eq!(accepted.message, "a; b; c");
    }
}
