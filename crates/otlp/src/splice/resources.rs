//! The split of any signal by resource entry: entries are copied whole.

use std::ops::Range;

use bytes::Bytes;

use super::cut::{Cut, Span32, copy, push_range, total};
use super::{Part, whole};
use crate::logs::ResourceLogs;
use crate::metrics::{Data, ResourceMetrics};
use crate::repeated::Message;
use crate::request::Request;
use crate::resource::Resource;
use crate::signal::Signal;
use crate::traces::ResourceSpans;

#[derive(Clone, Copy, Default)]
struct Total {
    items: usize,
    length: usize,
}

pub(super) fn split(
    request: &Request,
    owners: usize,
    mut owner_of: impl FnMut(&Resource<'_>) -> usize,
    admit: impl FnOnce(usize) -> bool,
) -> Option<Vec<Part>> {
    if owners == 0 {
        return Some(Vec::new());
    }
    let body = &request.bytes()[..];
    let mut top = Vec::new();
    let mut entries: Vec<(Span32, Range<usize>, usize)> = Vec::new();
    for piece in Cut::new(body, 0..body.len(), 1) {
        let Some(child) = piece.child else {
            push_range(&mut top, 0, &piece.whole);
            continue;
        };
        let resource = Resource::in_entry(body.get(child.clone()).unwrap_or_default());
        let owner = owner_of(&resource).min(owners - 1);
        entries.push((Span32::new(&piece.whole), child, owner));
    }
    if request.items() == 0 {
        return Some(Vec::new());
    }
    if let Some((_, _, first)) = entries.first()
        && entries.iter().all(|(_, _, owner)| owner == first)
    {
        return Some(whole(request, *first));
    }
    let mut totals = vec![Total::default(); owners];
    for (at, child, owner) in &entries {
        let entry = body.get(child.clone()).unwrap_or_default();
        totals[*owner].items += items(request.signal(), entry);
        totals[*owner].length += at.len();
    }
    let top_length = total(&top);
    let written = totals.iter().filter(|total_of| total_of.items > 0).map(|total_of| top_length + total_of.length);
    if !admit(written.sum()) {
        return None;
    }
    let mut buffers: Vec<Vec<u8>> = totals
        .iter()
        .map(|total_of| {
            if total_of.items == 0 {
                return Vec::new();
            }
            let mut buffer = Vec::with_capacity(top_length + total_of.length);
            copy(&mut buffer, body, &top);
            buffer
        })
        .collect();
    for (at, _, owner) in &entries {
        if totals[*owner].items > 0 {
            buffers[*owner].extend_from_slice(at.of(body));
        }
    }
    let parts = buffers.into_iter().zip(totals).enumerate();
    let parts = parts.filter(|(_, (_, total_of))| total_of.items > 0).map(|(owner, (buffer, total_of))| Part {
        owner,
        bytes: Bytes::from(buffer),
        items: total_of.items,
    });
    Some(parts.collect())
}

/// Spans, data points or log records in a resource entry.
fn items(signal: Signal, entry: &[u8]) -> usize {
    match signal {
        Signal::Traces => ResourceSpans::of(entry).scopes().map(|scope| scope.spans().count()).sum(),
        Signal::Logs => ResourceLogs::of(entry).scopes().map(|scope| scope.log_records().count()).sum(),
        Signal::Metrics => {
            let metrics = ResourceMetrics::of(entry).scopes().flat_map(|scope| scope.metrics());
            metrics
                .map(|metric| match metric.data() {
                    Data::Empty => 0,
                    Data::Gauge(points) | Data::Sum { points, .. } => points.count(),
                    Data::Histogram { points, .. } => points.count(),
                    Data::ExponentialHistogram { points, .. } => points.count(),
                    Data::Summary { points } => points.count(),
                })
                .sum()
        }
    }
}
