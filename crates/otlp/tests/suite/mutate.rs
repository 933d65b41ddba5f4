//! Bends an encoded request in every way that leaves it valid protobuf: shuffled fields, repeated
//! scalars, singular messages in pieces, members of oneofs in a row, unknown fields, unpacked and
//! split packed numbers, padded varints.
//!
//! The table of messages here is written anew from the OTLP definitions, not taken from the crate.

use mirador_otlp::Signal;

use crate::draw::Draw;

#[derive(Clone, Copy, PartialEq)]
enum Type {
    Request,
    Entry(Signal),
    Scoped(Signal),
    Span,
    Metric,
    Record,
    Resource,
    Scope,
    EntityRef,
    KeyValue,
    AnyValue,
    Array,
    KvList,
    Event,
    Link,
    Status,
    Points(u32),
    NumberPoint,
    HistogramPoint,
    ExpPoint,
    SummaryPoint,
    Buckets,
    Quantile,
    Exemplar,
}

enum Field {
    /// A message, and whether it is singular.
    Message(Type, bool),
    /// A packed repeated number: of 8 bytes each, or varints.
    Packed(bool),
    Scalar,
}

#[expect(clippy::match_same_arms, clippy::unnested_or_patterns, reason = "one line per message reads as a table")]
fn field(parent: Type, number: u32, signal: Signal) -> Field {
    use Field::{Message, Packed, Scalar};
    match (parent, number) {
        (Type::Request, 1) => Message(Type::Entry(signal), false),
        (Type::Entry(_), 1) => Message(Type::Resource, true),
        (Type::Entry(signal), 2) => Message(Type::Scoped(signal), false),
        (Type::Scoped(_), 1) => Message(Type::Scope, true),
        (Type::Scoped(Signal::Traces), 2) => Message(Type::Span, false),
        (Type::Scoped(Signal::Metrics), 2) => Message(Type::Metric, false),
        (Type::Scoped(Signal::Logs), 2) => Message(Type::Record, false),
        (Type::Span, 9) => Message(Type::KeyValue, false),
        (Type::Span, 11) => Message(Type::Event, false),
        (Type::Span, 13) => Message(Type::Link, false),
        (Type::Span, 15) => Message(Type::Status, true),
        (Type::Event, 3) | (Type::Link, 4) | (Type::Scope, 3) | (Type::Resource, 1) | (Type::Record, 6) => {
            Message(Type::KeyValue, false)
        }
        (Type::Resource, 3) => Message(Type::EntityRef, false),
        (Type::Record, 5) => Message(Type::AnyValue, true),
        (Type::KeyValue, 2) => Message(Type::AnyValue, true),
        (Type::AnyValue, 5) => Message(Type::Array, true),
        (Type::AnyValue, 6) => Message(Type::KvList, true),
        (Type::Array, 1) => Message(Type::AnyValue, false),
        (Type::KvList, 1) => Message(Type::KeyValue, false),
        (Type::Metric, 5 | 7 | 9 | 10 | 11) => Message(Type::Points(number), true),
        (Type::Metric, 12) => Message(Type::KeyValue, false),
        (Type::Points(5 | 7), 1) => Message(Type::NumberPoint, false),
        (Type::Points(9), 1) => Message(Type::HistogramPoint, false),
        (Type::Points(10), 1) => Message(Type::ExpPoint, false),
        (Type::Points(11), 1) => Message(Type::SummaryPoint, false),
        (Type::NumberPoint, 7) | (Type::HistogramPoint, 9) | (Type::ExpPoint, 1) | (Type::SummaryPoint, 7) => {
            Message(Type::KeyValue, false)
        }
        (Type::NumberPoint, 5) | (Type::HistogramPoint, 8) | (Type::ExpPoint, 11) => Message(Type::Exemplar, false),
        (Type::Exemplar, 7) => Message(Type::KeyValue, false),
        (Type::HistogramPoint, 6 | 7) => Packed(true),
        (Type::ExpPoint, 8 | 9) => Message(Type::Buckets, true),
        (Type::Buckets, 2) => Packed(false),
        (Type::SummaryPoint, 6) => Message(Type::Quantile, false),
        _ => Scalar,
    }
}

/// Scalar members of oneofs, to be put beside each other.
fn other_member(parent: Type, draw: &mut Draw<'_>) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match parent {
        Type::AnyValue => match draw.below(5) {
            0 => put_bytes(&mut out, 1, b"another", draw),
            1 => put_number(&mut out, 2, 1, draw),
            2 => put_number(&mut out, 3, u64::MAX, draw),
            3 => put_bytes(&mut out, 6, &[], draw),
            _ => put_bytes(&mut out, 5, &[], draw),
        },
        Type::NumberPoint => put_fixed64(&mut out, [4, 6][draw.below(2)], 77, draw),
        Type::Exemplar => put_fixed64(&mut out, [3, 6][draw.below(2)], 78, draw),
        Type::Metric => put_bytes(&mut out, [5, 7, 9, 10, 11][draw.below(5)], &[], draw),
        _ => return None,
    }
    Some(out)
}

/// Bends `body`, an `Export*ServiceRequest` that `prost` wrote.
pub(crate) fn request(signal: Signal, body: &[u8], draw: &mut Draw<'_>) -> Vec<u8> {
    message(Type::Request, signal, body, draw)
}

fn message(parent: Type, signal: Signal, body: &[u8], draw: &mut Draw<'_>) -> Vec<u8> {
    let mut fields: Vec<Vec<u8>> = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let key = take_varint(&mut rest);
        let number = (key >> 3) as u32;
        let mut out = Vec::new();
        match key & 7 {
            0 => {
                let value = take_varint(&mut rest);
                if draw.one_in(6) {
                    // The first of two loses; a varint of 64 bits for any of the integer types.
                    put_number(&mut out, number, draw.u64(), draw);
                }
                put_number(&mut out, number, value, draw);
            }
            1 => {
                put_fixed64(
                    &mut out,
                    number,
                    u64::from_le_bytes(take(&mut rest, 8).try_into().expect("8 bytes")),
                    draw,
                );
            }
            5 => {
                put_key(&mut out, number, 5, draw);
                out.extend_from_slice(take(&mut rest, 4));
            }
            _ => {
                let length = take_varint(&mut rest) as usize;
                let bytes = take(&mut rest, length);
                match field(parent, number, signal) {
                    Field::Message(child, singular) => {
                        let child = message(child, signal, bytes, draw);
                        put_message(&mut out, number, &child, singular, draw);
                    }
                    Field::Packed(fixed) => put_packed(&mut out, number, bytes, fixed, draw),
                    Field::Scalar => {
                        if draw.one_in(6) && parent != Type::EntityRef {
                            put_bytes(&mut out, number, b"the last one counts", draw);
                        }
                        put_bytes(&mut out, number, bytes, draw);
                    }
                }
            }
        }
        fields.push(out);
    }
    if draw.one_in(5) {
        fields.extend(other_member(parent, draw));
    }
    if draw.one_in(3) {
        fields.push(unknown(draw));
    }
    if draw.one_in(3) {
        for index in (1..fields.len()).rev() {
            fields.swap(index, draw.below((index + 1).min(256)));
        }
    }
    fields.concat()
}

/// A field that OTLP does not have.
fn unknown(draw: &mut Draw<'_>) -> Vec<u8> {
    let number = [31, 32, 100, 5_000, (1 << 29) - 1][draw.below(5)];
    let mut out = Vec::new();
    match draw.below(4) {
        0 => put_number(&mut out, number, u64::from(draw.byte()), draw),
        1 => put_fixed64(&mut out, number, 1, draw),
        2 => {
            put_key(&mut out, number, 5, draw);
            out.extend_from_slice(&[1, 2, 3, 4]);
        }
        _ => put_bytes(&mut out, number, &[0xFF, 0xFE, 0x0B, 0x00], draw),
    }
    out
}

/// A message field; a singular one perhaps in two pieces, cut between two of its fields.
fn put_message(out: &mut Vec<u8>, number: u32, body: &[u8], singular: bool, draw: &mut Draw<'_>) {
    if !singular || !draw.one_in(4) {
        return put_bytes(out, number, body, draw);
    }
    let mut cuts = vec![0];
    let mut rest = body;
    while !rest.is_empty() {
        skip(&mut rest);
        cuts.push(body.len() - rest.len());
    }
    let cut = cuts[draw.below(cuts.len().min(256))];
    put_bytes(out, number, &body[..cut], draw);
    put_bytes(out, number, &body[cut..], draw);
}

fn put_packed(out: &mut Vec<u8>, number: u32, bytes: &[u8], fixed: bool, draw: &mut Draw<'_>) {
    let mut rest = bytes;
    let mut packed = Vec::new();
    while !rest.is_empty() {
        let mut one = Vec::new();
        let (key, value) =
            if fixed { (1, take(&mut rest, 8).to_vec()) } else { (0, varint(take_varint(&mut rest), draw)) };
        match draw.below(4) {
            0 => {
                put_key(&mut one, number, key, draw);
                one.extend(value);
            }
            1 => put_bytes(&mut one, number, &value, draw),
            _ => {
                packed.extend(value);
                continue;
            }
        }
        if !packed.is_empty() {
            put_bytes(out, number, &packed, draw);
            packed.clear();
        }
        out.extend(one);
    }
    if !packed.is_empty() || draw.one_in(3) {
        put_bytes(out, number, &packed, draw);
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (taken, after) = rest.split_at(length);
    *rest = after;
    taken
}

fn take_varint(rest: &mut &[u8]) -> u64 {
    prost::encoding::decode_varint(rest).expect("a varint that was written here")
}

fn skip(rest: &mut &[u8]) {
    match take_varint(rest) & 7 {
        0 => {
            take_varint(rest);
        }
        1 => {
            take(rest, 8);
        }
        5 => {
            take(rest, 4);
        }
        _ => {
            let length = take_varint(rest) as usize;
            take(rest, length);
        }
    }
}

/// A varint, now and then with superfluous bytes.
fn varint(value: u64, draw: &mut Draw<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(value, &mut out);
    if out.len() < 10 && draw.one_in(16) {
        *out.last_mut().expect("a varint has a byte") |= 0x80;
        out.extend(std::iter::repeat_n(0x80, draw.below(10 - out.len())));
        out.push(0);
    }
    out
}

fn put_key(out: &mut Vec<u8>, number: u32, wire_type: u32, draw: &mut Draw<'_>) {
    out.extend(varint(u64::from(number << 3 | wire_type), draw));
}

fn put_number(out: &mut Vec<u8>, number: u32, value: u64, draw: &mut Draw<'_>) {
    put_key(out, number, 0, draw);
    out.extend(varint(value, draw));
}

fn put_fixed64(out: &mut Vec<u8>, number: u32, value: u64, draw: &mut Draw<'_>) {
    put_key(out, number, 1, draw);
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8], draw: &mut Draw<'_>) {
    put_key(out, number, 2, draw);
    out.extend(varint(bytes.len() as u64, draw));
    out.extend_from_slice(bytes);
}
