//! The split of traces by span.

use std::ops::Range;

use bytes::Bytes;

use super::cut::{Cut, Span32, copy, push_range, total};
use super::{Part, whole};
use crate::repeated::Message;
use crate::request::Request;
use crate::signal::Signal;
use crate::traces::Span;
use crate::wire::{put_header, varint_len};

/// A span's place in the request and where it goes.
struct Placed {
    at: Span32,
    owner: u32,
}

/// The length of an entry in an owner's part.
#[derive(Clone, Copy)]
struct Share {
    owner: u32,
    length: u32,
}

/// A resource or scope entry that has spans. Ranges are of the plan's lists.
struct Entry {
    headers: Range<u32>,
    shares: Range<u32>,
    /// Scope entries of a resource, spans of a scope.
    children: Range<u32>,
}

/// What the first walk finds out.
#[derive(Default)]
struct Plan {
    spans: Vec<Placed>,
    scopes: Vec<Entry>,
    resources: Vec<Entry>,
    headers: Vec<Span32>,
    scope_shares: Vec<Share>,
    resource_shares: Vec<Share>,
}

const NONE: u32 = u32::MAX;

/// Where the shares of the open entry stand, by owner; all [`NONE`] between entries.
struct Slots(Vec<u32>);

impl Slots {
    fn new(owners: usize) -> Self {
        Self(vec![NONE; owners])
    }

    #[inline]
    fn add(&mut self, shares: &mut Vec<Share>, owner: u32, length: usize) {
        let slot = &mut self.0[owner as usize];
        if *slot == NONE {
            *slot = shares.len() as u32;
            shares.push(Share { owner, length: 0 });
        }
        shares[*slot as usize].length += length as u32;
    }

    /// Ends the entry whose shares begin at `from`: each also holds the header.
    fn close(&mut self, shares: &mut [Share], from: usize, header: usize) {
        for share in &mut shares[from..] {
            share.length += header as u32;
            self.0[share.owner as usize] = NONE;
        }
    }
}

/// The length of a field with a one-byte key.
fn field_len(body: u32) -> usize {
    1 + varint_len(body as usize) + body as usize
}

pub(super) fn split(
    request: &Request,
    owners: usize,
    mut owner_of: impl FnMut(&Span<'_>) -> usize,
    admit: impl FnOnce(usize) -> bool,
) -> Option<Vec<Part>> {
    if request.signal() != Signal::Traces || request.items() == 0 || owners == 0 {
        return Some(Vec::new());
    }
    let body = &request.bytes()[..];
    let mut top = Vec::new();
    let mut plan = Plan { spans: Vec::with_capacity(request.items()), ..Plan::default() };
    let mut walk = Walk {
        body,
        plan: &mut plan,
        scope_slots: Slots::new(owners),
        resource_slots: Slots::new(owners),
        totals: vec![Total::default(); owners],
    };
    for piece in Cut::new(body, 0..body.len(), 1) {
        match piece.child {
            Some(entry) => walk.resource(&entry, &mut owner_of),
            None => push_range(&mut top, 0, &piece.whole),
        }
    }
    let totals = walk.totals;
    let mut owning = (0..owners).filter(|owner| totals[*owner].spans > 0);
    if let (Some(only), None) = (owning.next(), owning.next()) {
        return Some(whole(request, only));
    }
    let top_length = total(&top);
    let written = totals.iter().filter(|total_of| total_of.spans > 0).map(|total_of| top_length + total_of.length);
    admit(written.sum()).then(|| write(body, &plan, &top, &totals))
}

/// What an owner gets in all.
#[derive(Clone, Copy, Default)]
struct Total {
    spans: usize,
    length: usize,
}

struct Walk<'a, 'p> {
    body: &'a [u8],
    plan: &'p mut Plan,
    scope_slots: Slots,
    resource_slots: Slots,
    totals: Vec<Total>,
}

impl Walk<'_, '_> {
    fn resource(&mut self, entry: &Range<usize>, owner_of: &mut impl FnMut(&Span<'_>) -> usize) {
        let headers = self.plan.headers.len();
        // Headers come first in a part and may come last in the entry, so they have a walk of their own.
        for piece in Cut::new(self.body, entry.clone(), 2) {
            if piece.child.is_none() {
                push_range(&mut self.plan.headers, headers, &piece.whole);
            }
        }
        let headers_end = self.plan.headers.len();
        let scopes = self.plan.scopes.len();
        let shares = self.plan.resource_shares.len();
        for piece in Cut::new(self.body, entry.clone(), 2) {
            if let Some(scope) = piece.child {
                self.scope(&scope, owner_of);
            }
        }
        if self.plan.scopes.len() == scopes {
            self.plan.headers.truncate(headers);
            return;
        }
        let header = total(&self.plan.headers[headers..headers_end]);
        self.resource_slots.close(&mut self.plan.resource_shares, shares, header);
        for share in &self.plan.resource_shares[shares..] {
            self.totals[share.owner as usize].length += field_len(share.length);
        }
        self.plan.resources.push(Entry {
            headers: headers as u32..headers_end as u32,
            shares: shares as u32..self.plan.resource_shares.len() as u32,
            children: scopes as u32..self.plan.scopes.len() as u32,
        });
    }

    fn scope(&mut self, entry: &Range<usize>, owner_of: &mut impl FnMut(&Span<'_>) -> usize) {
        let Plan { spans, headers, scope_shares, .. } = self.plan;
        let (first_span, first_header, first_share) = (spans.len(), headers.len(), scope_shares.len());
        for piece in Cut::new(self.body, entry.clone(), 2) {
            let Some(child) = piece.child else {
                push_range(headers, first_header, &piece.whole);
                continue;
            };
            let span = Span::of(self.body.get(child).unwrap_or_default());
            let owner = owner_of(&span).min(self.totals.len() - 1);
            let at = Span32::new(&piece.whole);
            self.scope_slots.add(scope_shares, owner as u32, at.len());
            self.totals[owner].spans += 1;
            spans.push(Placed { at, owner: owner as u32 });
        }
        if spans.len() == first_span {
            headers.truncate(first_header);
            return;
        }
        self.scope_slots.close(scope_shares, first_share, total(&headers[first_header..]));
        for share in &scope_shares[first_share..] {
            self.resource_slots.add(&mut self.plan.resource_shares, share.owner, field_len(share.length));
        }
        self.plan.scopes.push(Entry {
            headers: first_header as u32..headers.len() as u32,
            shares: first_share as u32..scope_shares.len() as u32,
            children: first_span as u32..spans.len() as u32,
        });
    }
}

fn slice<'a, T>(list: &'a [T], range: &Range<u32>) -> &'a [T] {
    &list[range.start as usize..range.end as usize]
}

/// The second walk: over the plan, copying.
fn write(body: &[u8], plan: &Plan, top: &[Span32], totals: &[Total]) -> Vec<Part> {
    let mut buffers: Vec<Vec<u8>> = totals
        .iter()
        .map(|total_of| {
            if total_of.spans == 0 {
                return Vec::new();
            }
            let mut buffer = Vec::with_capacity(total(top) + total_of.length);
            copy(&mut buffer, body, top);
            buffer
        })
        .collect();
    let open = |buffers: &mut [Vec<u8>], number: u32, entry: &Entry, shares: &[Share]| {
        for share in slice(shares, &entry.shares) {
            let buffer = &mut buffers[share.owner as usize];
            put_header(buffer, number, share.length as usize);
            copy(buffer, body, slice(&plan.headers, &entry.headers));
        }
    };
    for resource in &plan.resources {
        open(&mut buffers, 1, resource, &plan.resource_shares);
        for scope in slice(&plan.scopes, &resource.children) {
            open(&mut buffers, 2, scope, &plan.scope_shares);
            // Neighbours that go to the same owner are copied in one go.
            for run in slice(&plan.spans, &scope.children)
                .chunk_by(|left, right| left.owner == right.owner && left.at.end == right.at.start)
            {
                if let (Some(first), Some(last)) = (run.first(), run.last()) {
                    let range = Span32 { start: first.at.start, end: last.at.end };
                    buffers[first.owner as usize].extend_from_slice(range.of(body));
                }
            }
        }
    }
    let parts = buffers.into_iter().zip(totals).enumerate();
    parts
        .filter(|(_, (_, total_of))| total_of.spans > 0)
        .map(|(owner, (buffer, total_of))| Part { owner, bytes: Bytes::from(buffer), items: total_of.spans })
        .collect()
}
