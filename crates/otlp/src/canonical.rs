//! Rewrites a request whose singular messages come in pieces so that each stands in one place.
//!
//! Protobuf defines a singular message that occurs several times as the merge of its occurrences,
//! and the value of a oneof as its last member (occurrences of the same message member in a row
//! merge). Merging messages is joining their bytes, so this needs no decoding: the pieces of a
//! message are walked together, and what a oneof overrides is left out. Unknown fields stay.
//!
//! Invariants: the input has been validated; the output is never longer than the input, means the
//! same to a protobuf decoder, and has no pieces; the work is linear in the input.

use crate::schema::{KEY_VALUE, Kind, Schema};
use crate::wire::{Fields, LEN, Wire, put_varint, varint_len};

/// Rewrites a whole request.
pub(crate) fn rewrite(schema: &'static Schema, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len());
    message(schema, &[body], &mut out);
    out
}

/// The pieces of one singular message or oneof, in wire order.
struct Gathered<'a> {
    /// The number of the field, for a oneof that of the member that counts so far.
    number: u32,
    /// The fields that share this place, as bits.
    members: u32,
    /// For a message its bodies, for a scalar member one whole field.
    pieces: Vec<&'a [u8]>,
    child: Option<&'static Schema>,
}

/// Writes the merge of `pieces`, which are bodies of one message.
fn message(schema: &'static Schema, pieces: &[&[u8]], out: &mut Vec<u8>) {
    let mut gathered: Vec<Gathered<'_>> = Vec::new();
    for piece in pieces {
        let mut fields = Fields::new(piece);
        loop {
            let before = fields.rest();
            let Some((number, wire)) = fields.next() else { break };
            let whole = &before[..before.len() - fields.rest().len()];
            let field = schema.field(number);
            let child = match field.kind {
                Kind::Message(child) | Kind::Entry(child) | Kind::Item(child) => Some(child),
                Kind::Attribute => Some(&KEY_VALUE),
                _ => None,
            };
            if field.conflicts != 0 {
                let body = if child.is_some() { wire.bytes() } else { whole };
                gather(&mut gathered, number, field.conflicts, body, child);
                continue;
            }
            match (child, wire) {
                (Some(child), Wire::Len(body)) => nested(number, child, &[body], out),
                _ => out.extend_from_slice(whole),
            }
        }
    }
    for one in gathered {
        match one.child {
            Some(child) => nested(one.number, child, &one.pieces, out),
            None => one.pieces.iter().for_each(|whole| out.extend_from_slice(whole)),
        }
    }
}

/// Notes one occurrence. At most a handful of places exist in a message, so the search is short.
fn gather<'a>(
    gathered: &mut Vec<Gathered<'a>>,
    number: u32,
    members: u32,
    body: &'a [u8],
    child: Option<&'static Schema>,
) {
    match gathered.iter_mut().find(|one| one.members == members) {
        None => gathered.push(Gathered { number, members, pieces: vec![body], child }),
        Some(one) => {
            if one.number != number || child.is_none() {
                one.pieces.clear();
            }
            one.number = number;
            one.child = child;
            one.pieces.push(body);
        }
    }
}

/// Writes a message field. The length's width is that of an upper bound, which the pieces' own
/// headers made room for; a shorter length is padded, which every decoder reads alike.
fn nested(number: u32, child: &'static Schema, pieces: &[&[u8]], out: &mut Vec<u8>) {
    put_varint(out, (number << 3 | LEN) as usize);
    let width = varint_len(pieces.iter().map(|piece| piece.len()).sum());
    let at = out.len();
    out.resize(at + width, 0);
    message(child, pieces, out);
    let mut length = out.len() - at - width;
    for index in 0..width {
        let more = if index + 1 < width { 0x80 } else { 0 };
        out[at + index] = length as u8 & 0x7F | more;
        length >>= 7;
    }
}
