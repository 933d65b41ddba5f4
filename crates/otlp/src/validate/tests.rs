//! The work of validation, counted in fields visited, and what is refused without any.

use bytes::Bytes;

use super::check;
use crate::{Limits, Request, Signal, WireError};

fn field(number: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    crate::wire::put_varint(&mut out, body.len());
    out.extend_from_slice(body);
    out
}

fn in_item(body: &[u8]) -> Vec<u8> {
    field(1, &field(2, &field(2, body)))
}

#[test]
fn every_byte_is_looked_at_a_bounded_number_of_times_whatever_the_shape() {
    let limits = Limits { max_items: usize::MAX, ..Limits::default() };
    let attribute = field(9, &[field(1, b"key"), field(2, &field(1, b"value"))].concat());
    let odd_attribute = field(9, &[field(2, &field(1, "wert ß".as_bytes())), field(1, b"key")].concat());
    let mut deep = field(1, b"innermost");
    for _ in 0..25 {
        deep = field(5, &[field(1, &deep), field(1, &[])].concat());
    }
    let deep = field(9, &field(2, &deep));
    let mut deepest = field(1, b"innermost");
    for _ in 0..29 {
        deepest = field(5, &field(1, &deepest));
    }
    let shapes: [(&str, Vec<u8>); 10] = [
        ("values as deep as they may be", in_item(&field(9, &field(2, &deepest)).repeat(2_000))),
        ("names in many pieces", in_item(&field(5, b"name").repeat(20_000))),
        ("overlong lengths", in_item(&[0x2A, 0x80, 0x80, 0x80, 0x80, 0x00].repeat(20_000))),
        ("empty spans", field(1, &field(2, &[0x12, 0x00].repeat(100_000)))),
        ("attributes", in_item(&attribute.repeat(10_000))),
        ("attributes in another order", in_item(&odd_attribute.repeat(10_000))),
        ("deep values", in_item(&deep.repeat(1_000))),
        ("unknown fields", in_item(&[0xF8, 0x01, 0x00].repeat(100_000))),
        ("repeated scalars", in_item(&[0x30, 0x01].repeat(100_000))),
        ("empty names", in_item(&[0x2A, 0x00].repeat(100_000))),
    ];
    for (shape, body) in shapes {
        let checked = check(Signal::Traces, &body, &limits).expect("the shape is valid");
        assert!(checked.steps <= body.len(), "{shape}: {} steps for {} bytes", checked.steps, body.len());
        assert!(checked.steps > body.len() / 100, "{shape}: {} steps are counted", checked.steps);
    }
}

/// Its pages are never touched with the system's allocator, so it takes address space and no memory. Not in the
/// suite, whose allocator counts and writes the zeros itself.
#[test]
fn a_body_of_two_gibibytes_is_refused_by_its_length_alone() {
    let body = Bytes::from(vec![0; 1 << 31]);
    let refused = Request::parse(Signal::Logs, body, &Limits::default());
    assert_eq!(refused.err(), Some(WireError::TooLarge { length: 1 << 31 }));
}
