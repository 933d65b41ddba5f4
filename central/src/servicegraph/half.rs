//! One side of an edge: what the service graph keeps of a client or server span.
//!
//! Never: keeps a borrow of the request. Invariants: a span yields at most one half per key; the key of a half is
//! the (trace id, span id) of the client span that it belongs to, whichever side it is.

use std::collections::HashSet;
use std::sync::Arc;

use mirador_otlp::Request;
use mirador_otlp::resource::Resource;
use mirador_otlp::traces::Span;
use xxhash_rust::xxh3::xxh3_64;

use super::config::Config;
use super::interest::{Found, Interest};

/// Values of the configured dimensions, in their order; `None` when there is none.
pub type Dimensions = Option<Arc<[Option<Box<str>>]>>;

/// Links of one span that are followed; the SDKs' own limit on links of a span.
const MAX_LINKS: usize = 128;

const KIND_SERVER: i32 = 2;
const KIND_CLIENT: i32 = 3;
const KIND_PRODUCER: i32 = 4;
const KIND_CONSUMER: i32 = 5;
const STATUS_ERROR: i32 = 2;

/// The client span of an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Never zero.
    pub trace_id: [u8; 16],
    /// Zero for a root: nobody called.
    pub span_id: [u8; 8],
}

/// Which end of an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// CLIENT and PRODUCER spans.
    Client,
    /// SERVER and CONSUMER spans.
    Server,
}

/// How a half found its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Via {
    /// By its own or its parent's span id.
    Parent,
    /// By its parent's span id, and it has links as well: the parent need not be a producer.
    ParentBesideLinks,
    /// By a link to a producer.
    Link,
}

/// What is measured of one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Measure {
    /// End minus start; zero when the span ends before it starts.
    pub nanos: u64,
    /// When the span ended.
    pub end_unix_nano: u64,
    /// The span's own trace.
    pub trace_id: [u8; 16],
    /// The span's own id.
    pub span_id: [u8; 8],
}

/// One side of an edge.
#[derive(Debug, Clone)]
pub struct Half {
    /// The client span of the edge.
    pub key: Key,
    /// Which end this is.
    pub side: Side,
    /// How the key was found.
    pub via: Via,
    /// PRODUCER or CONSUMER.
    pub is_messaging: bool,
    /// The span's status is ERROR.
    pub is_failed: bool,
    /// `service.name`.
    pub service: Arc<str>,
    /// Latency and identity.
    pub measure: Measure,
    /// Values of the configured dimensions.
    pub dimensions: Dimensions,
    /// Client: what the callee is called by a peer attribute.
    pub peer: Option<Arc<str>>,
    /// Client: the database that was called.
    pub database: Option<Arc<str>>,
}

impl Half {
    /// The same for the same half of the same span, sent again.
    pub fn fingerprint(&self) -> u64 {
        let mut bytes = [0_u8; 49];
        bytes[..16].copy_from_slice(&self.key.trace_id);
        bytes[16..24].copy_from_slice(&self.key.span_id);
        bytes[24..40].copy_from_slice(&self.measure.trace_id);
        bytes[40..48].copy_from_slice(&self.measure.span_id);
        bytes[48] = u8::from(self.side == Side::Client) << 1 | u8::from(self.is_messaging);
        xxh3_64(&bytes)
    }

    /// The shard that owns the key, so that both sides of an edge meet whatever traces they are in.
    pub fn shard(&self, shards: usize) -> usize {
        (xxh3_64(&self.key.trace_id) % shards.max(1) as u64) as usize
    }
}

/// What was left out of the graph while reading a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Client and server spans of resources without a service name.
    pub no_service: u64,
    /// Client and server spans with a trace, span or parent id of a wrong length, or all zero.
    pub invalid_id: u64,
    /// Links beyond those that are followed, or with invalid ids.
    pub links: u64,
}

/// Reads halves out of requests.
#[derive(Debug)]
pub struct Extract {
    interest: Interest,
}

impl Extract {
    /// Reads what the configuration asks for.
    pub fn new(config: &Config) -> Self {
        Self { interest: Interest::new(config) }
    }

    /// Calls `each` with every half of the request.
    pub fn halves(&self, request: &Request, mut each: impl FnMut(Half)) -> Skipped {
        let mut skipped = Skipped::default();
        for resource_spans in request.resource_spans() {
            let resource = OfResource::new(&resource_spans.resource(), &self.interest);
            for scope_spans in resource_spans.scopes() {
                for span in scope_spans.spans() {
                    self.span(&resource, &span, &mut skipped, &mut each);
                }
            }
        }
        skipped
    }

    fn span(&self, resource: &OfResource, span: &Span<'_>, skipped: &mut Skipped, each: &mut impl FnMut(Half)) {
        let kind = span.kind();
        let side = match kind {
            KIND_CLIENT | KIND_PRODUCER => Side::Client,
            KIND_SERVER | KIND_CONSUMER => Side::Server,
            _ => return,
        };
        let Some(service) = &resource.service else {
            skipped.no_service += 1;
            return;
        };
        let (Some(trace_id), Some(span_id), Some(parent)) =
            (span.trace_id_array(), own_id(span.span_id()), parent_id(span.parent_span_id()))
        else {
            skipped.invalid_id += 1;
            return;
        };
        let found = if self.interest.wants(side) { self.interest.read(span.attributes()) } else { Found::default() };
        let is_client = side == Side::Client;
        let half = Half {
            key: Key { trace_id, span_id: if is_client { span_id } else { parent } },
            side,
            via: Via::Parent,
            is_messaging: matches!(kind, KIND_PRODUCER | KIND_CONSUMER),
            is_failed: span.status_code() == STATUS_ERROR,
            service: Arc::clone(service),
            measure: Measure {
                nanos: span.end_time_unix_nano().saturating_sub(span.start_time_unix_nano()),
                end_unix_nano: span.end_time_unix_nano(),
                trace_id,
                span_id,
            },
            dimensions: self.interest.dimensions(&resource.found, &found),
            peer: if is_client { self.interest.peer(&found) } else { None },
            database: if is_client { self.interest.database(&resource.found, &found) } else { None },
        };
        if kind == KIND_CONSUMER {
            consumer(half, span, skipped, each);
        } else {
            each(half);
        }
    }
}

/// A consumer belongs to its parent and to every producer that it links to, once each.
fn consumer(half: Half, span: &Span<'_>, skipped: &mut Skipped, each: &mut impl FnMut(Half)) {
    let mut keys = HashSet::new();
    for link in span.links() {
        let (Some(trace_id), Some(span_id)) = (own_trace_id(link.trace_id()), own_id(link.span_id())) else {
            skipped.links += 1;
            continue;
        };
        let key = Key { trace_id, span_id };
        if keys.len() < MAX_LINKS {
            keys.insert(key);
        } else if !keys.contains(&key) {
            skipped.links += 1;
        }
    }
    if keys.is_empty() {
        each(half);
        return;
    }
    if half.key.span_id != [0; 8] && !keys.contains(&half.key) {
        each(Half { via: Via::ParentBesideLinks, ..half.clone() });
    }
    for key in keys {
        each(Half { key, via: Via::Link, ..half.clone() });
    }
}

/// What all spans of a resource share.
struct OfResource {
    service: Option<Arc<str>>,
    found: Found,
}

impl OfResource {
    fn new(resource: &Resource<'_>, interest: &Interest) -> Self {
        Self { service: resource.service_name().map(Arc::from), found: interest.read(resource.attributes()) }
    }
}

fn own_trace_id(bytes: &[u8]) -> Option<[u8; 16]> {
    bytes.try_into().ok().filter(|id| *id != [0; 16])
}

fn own_id(bytes: &[u8]) -> Option<[u8; 8]> {
    bytes.try_into().ok().filter(|id| *id != [0; 8])
}

/// A parent's id: absent and all zero both mean a root.
fn parent_id(bytes: &[u8]) -> Option<[u8; 8]> {
    if bytes.is_empty() { Some([0; 8]) } else { bytes.try_into().ok() }
}

#[cfg(test)]
mod tests;
