//! Bytes that nobody means well with.

use bytes::Bytes;
use mirador_otlp::{Limits, Request, Signal, WireError};
use prost::Message;

use crate::draw::Draw;
use crate::views::requests;
use crate::{generate, laws, mutate};

/// Bytes that draw requests with something in every field.
fn seed(start: u64) -> Vec<u8> {
    let mut state = start;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..3_000).map(next).collect()
}

fn parse(signal: Signal, body: impl Into<Bytes>) -> Result<Request, WireError> {
    Request::parse(signal, body.into(), &Limits::default())
}

/// A length-delimited field.
fn field(number: u64, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(number << 3 | 2, &mut out);
    prost::encoding::encode_varint(body.len() as u64, &mut out);
    out.extend_from_slice(body);
    out
}

/// `body` as the body of a span, log record or metric of a request.
fn in_item(body: &[u8]) -> Vec<u8> {
    field(1, &field(2, &field(2, body)))
}

#[test]
fn truncation_at_every_offset_is_handled_as_prost_handles_it() {
    for start in 0..4 {
        for (signal, body) in requests(&seed(start)) {
            let body =
                if start % 2 == 0 { body } else { mutate::request(signal, &body, &mut Draw::new(&seed(start + 9))) };
            for end in 0..body.len().min(3_000) {
                laws::parse(signal, &body[..end]);
            }
        }
    }
}

#[test]
fn flipped_bytes_are_handled_as_prost_handles_them() {
    for (signal, body) in requests(&seed(7)) {
        let body = &body[..body.len().min(2_500)];
        for (index, flip) in (0..body.len()).flat_map(|index| [0x01, 0x80, 0x07, 0xFF].map(|flip| (index, flip))) {
            let mut bent = body.to_vec();
            bent[index] ^= flip;
            laws::parse(signal, &bent);
        }
    }
}

#[test]
fn overlong_varints_are_refused_with_their_offset() {
    let body = [&[0x08][..], &[0xFF; 10], &[0x01]].concat();
    assert_eq!(parse(Signal::Traces, body).err(), Some(WireError::Varint { offset: 1 }));
    // Ten bytes of which the last exceeds 64 bits.
    let body = [&[0x50][..], &[0x80; 9], &[0x02]].concat();
    assert_eq!(parse(Signal::Traces, in_item(&body)).err(), Some(WireError::Varint { offset: 7 }));
    let body = [&[0x50][..], &[0x80; 9], &[0x01]].concat();
    assert!(parse(Signal::Traces, in_item(&body)).is_ok());
}

#[test]
fn keys_without_a_number_or_with_an_unknown_wire_type_are_refused() {
    for body in [&[0x00, 0x00][..], &[0x02, 0x00], &[0x0E, 0x00], &[0x0F], &[0xFD, 0xFF, 0xFF, 0xFF, 0xFF, 0x01]] {
        assert_eq!(parse(Signal::Logs, body.to_vec()).err(), Some(WireError::Tag { offset: 0 }), "{body:?}");
    }
}

#[test]
fn groups_are_refused_wherever_they_stand() {
    for group in [[0x0B, 0x0C], [0xF3, 0x0C], [0x0C, 0x00]] {
        assert_eq!(parse(Signal::Traces, group.to_vec()).err(), Some(WireError::Group { offset: 0 }));
        assert_eq!(parse(Signal::Traces, in_item(&group)).err(), Some(WireError::Group { offset: 6 }));
    }
}

type Wrap = fn(&[u8]) -> Vec<u8>;

/// Known fields of the first levels of each signal, and of a span, record and metric.
#[test]
fn every_known_field_is_refused_in_a_wrong_wire_type() {
    let values: [(u64, Vec<u8>); 4] = [(0, vec![0]), (1, vec![0; 8]), (2, vec![0]), (5, vec![0; 4])];
    let wrap: [Wrap; 4] = [<[u8]>::to_vec, |body| field(1, body), |body| field(1, &field(2, body)), in_item];
    let mut refused = 0;
    for signal in Signal::ALL {
        for (depth, wrap) in wrap.iter().enumerate() {
            for number in 1..=17u64 {
                for (wire_type, value) in &values {
                    let mut body = Vec::new();
                    prost::encoding::encode_varint(number << 3 | wire_type, &mut body);
                    let offset = depth * 2;
                    body.extend(value);
                    let body = wrap(&body);
                    let parsed = parse(signal, body.clone());
                    laws::parse(signal, &body);
                    if let Err(error) = parsed {
                        assert_eq!(error, WireError::WireType { offset, field: number as u32 });
                        refused += 1;
                    }
                }
            }
        }
    }
    // Fields of a span, a log record and a metric, and for each signal those of its scope entry, its
    // resource entry and its request: each is refused in exactly three of the four wire types.
    assert_eq!(refused, 3 * (16 + 11 + 9 + 3 * 3 + 3 * 3 + 3));
}

fn nested_values(levels: usize, map: bool) -> Vec<u8> {
    let mut value = field(1, b"innermost");
    for _ in 0..levels {
        value = if map { field(6, &field(1, &field(2, &value))) } else { field(5, &field(1, &value)) };
    }
    in_item(&field(9, &[field(1, b"key"), field(2, &value)].concat()))
}

#[test]
fn values_nest_as_deep_as_the_limit_and_no_deeper() {
    // The value of a span's attribute is at level 5; an array adds 2 levels, a map 3.
    assert!(parse(Signal::Traces, nested_values(29, false)).is_ok());
    assert!(parse(Signal::Traces, nested_values(19, true)).is_ok());
    for (levels, map) in [(30, false), (20, true), (64, false), (64, true), (200, false), (200, true), (2_000, false)] {
        let body = nested_values(levels, map);
        assert!(matches!(parse(Signal::Traces, body.clone()), Err(WireError::Depth { limit: 64, .. })), "{levels}");
    }
    laws::parse(Signal::Traces, &nested_values(29, false));
    laws::parse(Signal::Traces, &nested_values(19, true));
    let deepest = Limits { max_depth: usize::MAX, ..Limits::default() };
    let body = nested_values(47, false);
    let request = Request::parse(Signal::Traces, body.clone().into(), &deepest).expect("prost reads it, and so do we");
    assert!(crate::compare::Decoded::of(Signal::Traces, request.bytes()).is_ok());
    let text = request.resource_spans().flat_map(|entry| entry.scopes()).flat_map(|scope| scope.spans());
    let text: Vec<String> = text.flat_map(|span| span.attributes()).map(|one| one.value.to_string()).collect();
    assert_eq!(text, [format!("{}\"innermost\"{}", "[".repeat(47), "]".repeat(47))]);
    assert!(Request::parse(Signal::Traces, nested_values(48, false).into(), &deepest).is_err());
    assert!(crate::compare::Decoded::of(Signal::Traces, &nested_values(48, false)).is_err(), "where prost stops");
}

#[test]
fn a_depth_limit_below_a_span_refuses_what_the_fast_way_would_accept() {
    let body = in_item(&field(9, &[field(1, b"key"), field(2, &field(1, b"value"))].concat()));
    for (max_depth, fits) in [(2, false), (3, false), (4, false), (5, true)] {
        let limits = Limits { max_depth, ..Limits::default() };
        assert_eq!(Request::parse(Signal::Traces, body.clone().into(), &limits).is_ok(), fits, "{max_depth}");
    }
}

#[test]
fn four_megabytes_of_empty_spans_are_too_many_items() {
    let body = field(1, &field(2, &[0x12, 0x00].repeat(2 << 20)));
    assert_eq!(parse(Signal::Traces, body.clone()).err(), Some(WireError::TooManyItems { limit: 1_000_000 }));
    let limits = Limits { max_items: 2 << 20, ..Limits::default() };
    let request = Request::parse(Signal::Traces, body.into(), &limits).expect("as many as the limit");
    assert_eq!(request.items(), 2 << 20);
}

#[test]
fn megabytes_of_empty_entries_are_too_many_entries() {
    for body in [[0x0A, 0x00].repeat(1 << 20), field(1, &[0x12, 0x00].repeat(1 << 20))] {
        assert_eq!(parse(Signal::Metrics, body).err(), Some(WireError::TooManyEntries { limit: 100_000 }));
    }
}

#[test]
fn a_resource_in_a_million_pieces_is_refused() {
    let body = field(1, &[0x0A, 0x00].repeat(1 << 20));
    assert!(matches!(parse(Signal::Traces, body), Err(WireError::Pieces { limit: 10_000, .. })));
}

#[test]
fn strings_that_are_not_utf_8_are_refused_with_their_offset() {
    assert_eq!(parse(Signal::Traces, in_item(&field(5, b"ab\xFF"))).err(), Some(WireError::Utf8 { offset: 8 }));
    let bad_key = field(9, &[field(1, b"\xC3"), field(2, &field(1, b"value"))].concat());
    assert_eq!(parse(Signal::Traces, in_item(&bad_key)).err(), Some(WireError::Utf8 { offset: 10 }));
    let bad_value = field(9, &[field(1, b"k"), field(2, &field(1, b"\xED\xA0\x80"))].concat());
    assert_eq!(parse(Signal::Traces, in_item(&bad_value)).err(), Some(WireError::Utf8 { offset: 15 }));
    assert!(parse(Signal::Traces, in_item(&field(5, "größer".as_bytes()))).is_ok());
}

#[test]
fn an_empty_body_is_an_empty_request() {
    for signal in Signal::ALL {
        let request = parse(signal, Bytes::new()).expect("no fields are a valid message");
        assert_eq!(request.items(), 0);
        assert_eq!(request.resource_spans().count() + request.resource_logs().count(), 0);
    }
}

#[test]
fn views_of_another_signal_are_empty() {
    let body = generate::logs(&mut Draw::new(&seed(3))).encode_to_vec();
    let request = parse(Signal::Logs, body).expect("prost wrote it");
    assert!(request.resource_logs().count() > 0);
    assert_eq!(request.resource_spans().count() + request.resource_metrics().count(), 0);
}

type Shape = dyn Fn(&[u8]) -> Vec<u8>;

/// The fast ways look at 64 bytes at once, so every length, every place of a bad byte and every
/// byte behind the end is tried.
#[test]
fn a_bad_byte_is_found_wherever_it_stands_and_only_inside_its_string() {
    let attribute = |key: &[u8], value: &[u8]| field(9, &[field(1, key), field(2, value)].concat());
    // What follows the string is full of high bits.
    let behind = field(2, &[0xFF; 200]);
    let shapes: [Box<Shape>; 4] = [
        Box::new(|text| field(5, text)),
        Box::new(move |text| attribute(b"key", &field(1, text))),
        Box::new(move |text| attribute(text, &[0x18, 0xC8, 0x01])),
        Box::new(move |text| attribute(text, &[])),
    ];
    for (shape, followed) in shapes.iter().flat_map(|shape| [true, false].map(|followed| (shape, followed))) {
        let item = |text: &[u8]| {
            let behind = if followed { &behind[..] } else { &[] };
            in_item(&[&shape(text)[..], behind].concat())
        };
        for length in (0..70).chain([100, 120, 127, 128, 129, 200]) {
            let text = vec![b'a'; length];
            assert!(parse(Signal::Traces, item(&text)).is_ok(), "{length}");
            for place in 0..length {
                let mut bad = text.clone();
                bad[place] = 0x80;
                let parsed = parse(Signal::Traces, item(&bad));
                assert!(matches!(parsed, Err(WireError::Utf8 { .. })), "{length} {place} {parsed:?}");
            }
        }
    }
}
