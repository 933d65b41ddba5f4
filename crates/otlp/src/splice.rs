//! Splits and merges requests by copying byte ranges; nothing is decoded or encoded but lengths.
//!
//! The three export requests have one shape: field 1 of the request are resource entries, field 2 of
//! a resource entry are scope entries, field 2 of a scope entry are spans, metrics or log records.
//! Everything else in an entry (the resource or scope itself, its schema URL, unknown fields) is its
//! header and is copied once per part, in front of the entry's items.
//!
//! A split walks the request twice: first to decide owners and add up lengths, then to write every
//! part into a buffer of exactly its size. Both walks are linear in the request and in what is
//! written, whatever the number of owners. Entries without items are left out of the parts.

mod cut;
mod merge;
mod resources;
mod spans;

use bytes::Bytes;

use crate::request::Request;
use crate::resource::Resource;
use crate::traces::Span;

/// What one owner gets of a request: a request of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The owner, below the number of owners given.
    pub owner: usize,
    /// An export request of the same signal.
    pub bytes: Bytes,
    /// Spans, data points or log records in it.
    pub items: usize,
}

/// Splits traces by span. One [`Part`] per owner that gets something, by ascending owner; order
/// inside a scope is kept. When every span goes to one owner the original bytes are returned without
/// a copy. Empty for requests without spans, for other signals, and without owners.
///
/// `owner_of` is called once per span, in order. An index beyond `owners` counts as the last owner.
pub fn split_spans(request: &Request, owners: usize, owner_of: impl FnMut(&Span<'_>) -> usize) -> Vec<Part> {
    split_spans_within(request, owners, owner_of, |_| true).unwrap_or_default()
}

/// As [`split_spans`], and asks before anything is copied: `admit` gets the bytes that the parts will take,
/// which is at most the request's own times the owners that get something, because every part has the
/// headers of its entries. `None` when it says no. It is not asked when nothing has to be copied.
pub fn split_spans_within(
    request: &Request,
    owners: usize,
    owner_of: impl FnMut(&Span<'_>) -> usize,
    admit: impl FnOnce(usize) -> bool,
) -> Option<Vec<Part>> {
    spans::split(request, owners, owner_of, admit)
}

/// Splits any signal by resource entry; otherwise as [`split_spans`]. Entries keep their bytes, those
/// without items included.
///
/// `owner_of` is called once per entry, in order.
pub fn split_resources(request: &Request, owners: usize, owner_of: impl FnMut(&Resource<'_>) -> usize) -> Vec<Part> {
    split_resources_within(request, owners, owner_of, |_| true).unwrap_or_default()
}

/// As [`split_resources`], and asks before anything is copied, as [`split_spans_within`].
pub fn split_resources_within(
    request: &Request,
    owners: usize,
    owner_of: impl FnMut(&Resource<'_>) -> usize,
    admit: impl FnOnce(usize) -> bool,
) -> Option<Vec<Part>> {
    resources::split(request, owners, owner_of, admit)
}

/// Merges requests of one signal into one, in order. Adjacent entries with equal headers become one,
/// resources and, inside them, scopes. A single request is returned without a copy.
///
/// Bytes that are no valid request are joined as they are, which is what protobuf calls a merge.
pub fn merge(requests: &[Bytes]) -> Bytes {
    merge::merge(requests)
}

/// The part of an owner that gets everything.
fn whole(request: &Request, owner: usize) -> Vec<Part> {
    vec![Part { owner, bytes: request.bytes().clone(), items: request.items() }]
}
