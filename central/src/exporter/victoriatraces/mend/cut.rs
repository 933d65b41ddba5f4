//! Brings a span, and what it has in common with others, under the limits of a row.
//!
//! What goes first is what says least: the ends of texts, then the last links, events and attributes. Ids, times,
//! kind, status code and parent are never touched, a name only at its end.
//!
//! Invariants: the result fits ([`Row::fits`]); what is left out is counted in the span's own dropped counts; the
//! same span is always cut the same way.

use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use xxhash_rust::xxh3::xxh3_64;

use super::super::row::{self, MAX_BYTES, MAX_FIELDS, MAX_NAME, Row};
use super::Fault;

/// A resource that makes a row too large keeps this many fields.
pub(super) const RESOURCE_FIELDS: usize = 500;
/// And a scope this many.
pub(super) const SCOPE_FIELDS: usize = 100;
/// Bytes that a resource, or a scope, may take of a row that is too large.
const COMMON_BYTES: usize = MAX_BYTES / 4;
/// Texts are cut to the first of these lengths with which the row fits. 1,000 fields of the last one fit fourfold.
const TEXTS: [usize; 6] = [256 << 10, 64 << 10, 16 << 10, 4 << 10, 1 << 10, 256];

/// What the attribute that tells of a cut needs.
pub(super) const MARK: Row = Row { fields: 1, longest_name: 0, bytes: 256 };

/// Shortens the attributes of a resource or a scope and says why.
pub(super) fn common(attributes: &mut Vec<KeyValue>, dropped: &mut u32, prefix: &str, most: usize) -> Vec<Fault> {
    let mut faults = Vec::new();
    if cut_names(attributes, prefix.len()) {
        faults.push(Fault::NameTooLong);
    }
    let measure = |attributes: &[KeyValue]| {
        let mut row = Row::default();
        row.decoded(attributes, prefix.len());
        row
    };
    if measure(attributes).fields > most {
        // The service's name is what the row is filed under.
        attributes.sort_by_key(|attribute| attribute.key != "service.name");
        let mut left = measure(attributes).fields;
        while left > most
            && let Some(last) = attributes.pop()
        {
            left -= measured(std::slice::from_ref(&last));
            *dropped = dropped.saturating_add(1);
        }
        faults.push(Fault::TooManyFields);
    }
    let mut caps = TEXTS.iter();
    while measure(attributes).bytes > COMMON_BYTES
        && let Some(&cap) = caps.next()
    {
        cut_values(attributes, dropped, cap);
        if !faults.contains(&Fault::RowTooBig) {
            faults.push(Fault::RowTooBig);
        }
    }
    faults
}

/// Shortens a resource and says why.
pub(super) fn resource(resource: &mut Resource) -> Vec<Fault> {
    common(&mut resource.attributes, &mut resource.dropped_attributes_count, row::RESOURCE, RESOURCE_FIELDS)
}

/// Shortens a span until it fits beside what it has in common with others, and says why.
pub(super) fn span(span: &mut Span, common: Row) -> Vec<Fault> {
    let mut faults = Vec::new();
    if common.and(Row::of_decoded(span)).fits() {
        return faults;
    }
    let common = common.and(MARK);
    if common.and(Row::of_decoded(span)).longest_name > MAX_NAME {
        let mut any = cut_names(&mut span.attributes, row::SPAN.len());
        for (at, event) in span.events.iter_mut().enumerate() {
            any |= cut_names(&mut event.attributes, row::EVENT.len() + row::suffix(at));
        }
        for (at, link) in span.links.iter_mut().enumerate() {
            any |= cut_names(&mut link.attributes, row::LINK.len() + row::suffix(at));
        }
        faults.extend(any.then_some(Fault::NameTooLong));
    }
    if common.and(Row::of_decoded(span)).fields > MAX_FIELDS {
        drop_fields(span, common);
        faults.push(Fault::TooManyFields);
    }
    let mut caps = TEXTS.iter();
    while common.and(Row::of_decoded(span)).bytes > MAX_BYTES
        && let Some(&cap) = caps.next()
    {
        cut_texts(span, cap);
        if !faults.contains(&Fault::RowTooBig) {
            faults.push(Fault::RowTooBig);
        }
    }
    faults
}

/// Takes the last element of the largest group until the rest fits.
fn drop_fields(span: &mut Span, common: Row) {
    let attribute = |attribute: &KeyValue| measured(std::slice::from_ref(attribute));
    let mut attributes: Vec<_> = span.attributes.iter().map(attribute).collect();
    let mut events: Vec<_> = span.events.iter().map(|event| 3 + measured(&event.attributes)).collect();
    let mut links: Vec<_> = span.links.iter().map(|link| 5 + measured(&link.attributes)).collect();
    let mut sums = [&attributes, &events, &links].map(|group| group.iter().sum::<usize>());
    let own = Row::of_decoded(&Span::default()).fields;
    while common.fields + own + sums.iter().sum::<usize>() > MAX_FIELDS {
        let largest = (0..3).max_by_key(|at| sums[*at]).unwrap_or_default();
        let group = [&mut attributes, &mut events, &mut links][largest].pop();
        let Some(fields) = group else { break };
        sums[largest] -= fields;
    }
    let dropped = |before: usize, after: usize| (before - after) as u32;
    let more = dropped(span.attributes.len(), attributes.len());
    span.dropped_attributes_count = span.dropped_attributes_count.saturating_add(more);
    let more = dropped(span.events.len(), events.len());
    span.dropped_events_count = span.dropped_events_count.saturating_add(more);
    let more = dropped(span.links.len(), links.len());
    span.dropped_links_count = span.dropped_links_count.saturating_add(more);
    span.attributes.truncate(attributes.len());
    span.events.truncate(events.len());
    span.links.truncate(links.len());
}

fn measured(attributes: &[KeyValue]) -> usize {
    let mut row = Row::default();
    row.decoded(attributes, 0);
    row.fields
}

/// Cuts the names that are too long with `around` bytes beside them; true when there was one. Such attributes are
/// laid flat, as they are stored.
fn cut_names(attributes: &mut Vec<KeyValue>, around: usize) -> bool {
    let mut row = Row::default();
    row.decoded(attributes, around);
    if row.longest_name <= MAX_NAME {
        return false;
    }
    let mut flat = Vec::with_capacity(attributes.len());
    for attribute in attributes.drain(..) {
        flatten(attribute, &mut flat);
    }
    for attribute in &mut flat {
        if around + attribute.key.len() > MAX_NAME {
            // The hash keeps names apart that differ behind the cut.
            let hash = format!("~{:08x}", xxh3_64(attribute.key.as_bytes()) as u32);
            cut_text(&mut attribute.key, MAX_NAME.saturating_sub(around + hash.len()));
            attribute.key.push_str(&hash);
        }
    }
    *attributes = flat;
    true
}

fn flatten(attribute: KeyValue, out: &mut Vec<KeyValue>) {
    if let Some(AnyValue { value: Some(Any::KvlistValue(map)) }) = attribute.value {
        for inner in map.values {
            let key = format!("{}.{}", attribute.key, inner.key);
            flatten(KeyValue { key, ..inner }, out);
        }
    } else {
        out.push(attribute);
    }
}

/// Cuts every text of the span to `cap` bytes.
fn cut_texts(span: &mut Span, cap: usize) {
    cut_text(&mut span.name, cap);
    // A trace state is a list whose members do not survive a cut.
    if span.trace_state.len() > cap {
        span.trace_state.clear();
    }
    if let Some(status) = &mut span.status {
        cut_text(&mut status.message, cap);
    }
    cut_values(&mut span.attributes, &mut span.dropped_attributes_count, cap);
    for event in &mut span.events {
        cut_text(&mut event.name, cap);
        cut_values(&mut event.attributes, &mut event.dropped_attributes_count, cap);
    }
    for link in &mut span.links {
        if link.trace_state.len() > cap {
            link.trace_state.clear();
        }
        cut_values(&mut link.attributes, &mut link.dropped_attributes_count, cap);
    }
}

/// Cuts texts to `cap` bytes and leaves out lists and bytes that are longer.
fn cut_values(attributes: &mut Vec<KeyValue>, dropped: &mut u32, cap: usize) {
    attributes.retain_mut(|attribute| {
        match attribute.value.as_mut().and_then(|value| value.value.as_mut()) {
            Some(Any::StringValue(text)) => cut_text(text, cap),
            Some(Any::KvlistValue(map)) => cut_values(&mut map.values, dropped, cap),
            Some(other) if row::decoded_len(Some(other)) > cap => {
                *dropped = dropped.saturating_add(1);
                return false;
            }
            _ => {}
        }
        true
    });
}

fn cut_text(text: &mut String, most: usize) {
    text.truncate(text.floor_char_boundary(most));
}
