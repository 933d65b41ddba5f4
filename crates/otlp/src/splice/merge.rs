//! The merge of requests of one signal.

use std::ops::Range;

use bytes::Bytes;

use super::cut::{Cut, Span32, copy, push_range, total};
use crate::wire::{put_header, varint_len};

/// A resource or scope entry of the result.
struct Entry {
    /// Which request its header comes from.
    source: usize,
    headers: Vec<Span32>,
    /// Length of the result's body, header included.
    length: usize,
}

/// A scope entry and its items, which may come from several requests.
struct Scope {
    entry: Entry,
    items: Vec<(usize, Span32)>,
}

struct Resource {
    entry: Entry,
    scopes: Vec<Scope>,
}

pub(super) fn merge(requests: &[Bytes]) -> Bytes {
    match requests {
        [] => Bytes::new(),
        [only] => only.clone(),
        _ => regroup(requests).map_or_else(|| Bytes::from(requests.concat()), Bytes::from),
    }
}

/// Joins entries and writes them; `None` when a request is malformed.
fn regroup(requests: &[Bytes]) -> Option<Vec<u8>> {
    let mut top = Vec::new();
    let mut resources: Vec<Resource> = Vec::new();
    for (source, request) in requests.iter().enumerate() {
        let mut cut = Cut::new(request, 0..request.len(), 1);
        let mut top_of = Vec::new();
        for piece in &mut cut {
            match piece.child {
                Some(entry) => resource(requests, source, entry, &mut resources)?,
                None => push_range(&mut top_of, 0, &piece.whole),
            }
        }
        top.extend(top_of.into_iter().map(|range| (source, range)));
        if !cut.is_done() {
            return None;
        }
    }
    // From here on lengths are known from the inside out.
    for resource in &mut resources {
        let scopes = resource.scopes.iter().map(|scope| field_len(scope.entry.length));
        resource.entry.length += scopes.sum::<usize>();
    }
    Some(write(requests, &top, &resources))
}

fn field_len(body: usize) -> usize {
    1 + varint_len(body) + body
}

/// Adds one resource entry.
fn resource(requests: &[Bytes], source: usize, range: Range<usize>, resources: &mut Vec<Resource>) -> Option<()> {
    let headers = headers(&requests[source], range.clone())?;
    let into = match resources.last_mut() {
        Some(last) if equal(requests, &last.entry, source, &headers) => last,
        _ => {
            let entry = Entry { source, length: total(&headers), headers };
            resources.push(Resource { entry, scopes: Vec::new() });
            resources.last_mut()?
        }
    };
    for piece in Cut::new(&requests[source], range, 2) {
        if let Some(scope) = piece.child {
            add_scope(requests, source, scope, &mut into.scopes)?;
        }
    }
    Some(())
}

/// Adds one scope entry with its items.
fn add_scope(requests: &[Bytes], source: usize, range: Range<usize>, scopes: &mut Vec<Scope>) -> Option<()> {
    let headers = headers(&requests[source], range.clone())?;
    let into = match scopes.last_mut() {
        Some(last) if equal(requests, &last.entry, source, &headers) => last,
        _ => {
            let entry = Entry { source, length: total(&headers), headers };
            scopes.push(Scope { entry, items: Vec::new() });
            scopes.last_mut()?
        }
    };
    let mut items = Vec::new();
    for piece in Cut::new(&requests[source], range, 2) {
        if piece.child.is_some() {
            push_range(&mut items, 0, &piece.whole);
        }
    }
    into.entry.length += total(&items);
    into.items.extend(items.into_iter().map(|item| (source, item)));
    Some(())
}

/// The header ranges of an entry; `None` when it is malformed.
fn headers(request: &[u8], range: Range<usize>) -> Option<Vec<Span32>> {
    let mut headers = Vec::new();
    let mut cut = Cut::new(request, range, 2);
    for piece in &mut cut {
        if piece.child.is_none() {
            push_range(&mut headers, 0, &piece.whole);
        }
    }
    cut.is_done().then_some(headers)
}

/// Whether an entry's header has the same bytes as the one given.
fn equal(requests: &[Bytes], entry: &Entry, source: usize, headers: &[Span32]) -> bool {
    let (left, right) = (&requests[entry.source], &requests[source]);
    if let ([one], [other]) = (&entry.headers[..], headers) {
        return one.of(left) == other.of(right);
    }
    let left = entry.headers.iter().flat_map(|range| range.of(left));
    left.eq(headers.iter().flat_map(|range| range.of(right)))
}

fn write(requests: &[Bytes], top: &[(usize, Span32)], resources: &[Resource]) -> Vec<u8> {
    let tops: usize = top.iter().map(|(_, range)| range.len()).sum();
    let bodies: usize = resources.iter().map(|resource| field_len(resource.entry.length)).sum();
    let mut out = Vec::with_capacity(tops + bodies);
    let open = |out: &mut Vec<u8>, number: u32, entry: &Entry| {
        put_header(out, number, entry.length);
        copy(out, &requests[entry.source], &entry.headers);
    };
    for (source, range) in top {
        out.extend_from_slice(range.of(&requests[*source]));
    }
    for resource in resources {
        open(&mut out, 1, &resource.entry);
        for scope in &resource.scopes {
            open(&mut out, 2, &scope.entry);
            for (source, range) in &scope.items {
                out.extend_from_slice(range.of(&requests[*source]));
            }
        }
    }
    out
}
