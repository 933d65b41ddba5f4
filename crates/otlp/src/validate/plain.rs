//! Shortcuts for what nearly every request consists of: short ASCII strings, and attributes made of
//! one short key and one scalar value in the order in which encoders write them.
//!
//! A shortcut only ever says "this is valid"; everything else takes the general way, which also
//! knows the error.

/// Whether `bytes` are UTF-8.
#[inline]
pub(super) fn text(bytes: &[u8]) -> bool {
    bytes.is_ascii() || std::str::from_utf8(bytes).is_ok()
}

/// How many of the `length` bytes of a span are fields as encoders write them, in the order of their
/// numbers: ids, a short name, times, plain attributes, a status without message, flags. They are
/// valid; what follows has to be looked at. Straight code is far faster here than a loop over fields,
/// and nearly every span is such fields to its end.
#[inline]
pub(super) fn span(bytes: &[u8], length: usize) -> usize {
    let Some(all) = bytes.get(..length) else { return 0 };
    let mut at = 0;
    for head in [[0x0A, 16], [0x12, 8], [0x22, 8]] {
        if all[at..].starts_with(&head) && at + 2 + usize::from(head[1]) <= length {
            at += 2 + usize::from(head[1]);
        }
    }
    if let [0x2A, name @ 0..0x80, ..] = all[at..]
        && at + 2 + usize::from(name) <= length
        && ascii(&bytes[at + 2..], usize::from(name))
    {
        at += 2 + usize::from(name);
    }
    if let [0x30, 0..0x80, ..] = all[at..] {
        at += 2;
    }
    for key in [0x39, 0x41] {
        if all[at..].first() == Some(&key) && at + 9 <= length {
            at += 9;
        }
    }
    while let Some(field) = field(&bytes[at..], length - at, 0x4A) {
        at += field;
    }
    match all[at..] {
        [0x7A, 2, 0x18, 0..0x80, ..] => at += 4,
        [0x7A, 0, ..] => at += 2,
        _ => {}
    }
    if let [0x85, 0x01, _, _, _, _, ..] = all[at..] {
        at += 6;
    }
    at
}

/// The length of the field at the start of `bytes` if it is a plain attribute under this one-byte
/// key and ends within `limit`. What lies behind the field is loaded, and does not matter.
#[inline]
pub(super) fn field(bytes: &[u8], limit: usize, key: u8) -> Option<usize> {
    match bytes {
        [found, length @ 0..0x80, body @ ..] => {
            let length = usize::from(*length);
            (*found == key && length + 2 <= limit && attribute(body, length)).then_some(length + 2)
        }
        _ => None,
    }
}

/// Whether the `length` bytes at the start of `bytes` are the body of a `KeyValue` with a short key
/// followed by one scalar value, and valid.
#[inline]
pub(super) fn attribute(bytes: &[u8], length: usize) -> bool {
    // 0x0A: key, 0x12: value, both length-delimited and shorter than 128 bytes.
    let Some([0x0A, key_length @ 0..0x80, rest @ ..]) = bytes.get(..length) else { return false };
    let key_length = usize::from(*key_length);
    let Some([0x12, value_length @ 0..0x80, value @ ..]) = rest.get(key_length..) else { return false };
    if usize::from(*value_length) != value.len() {
        return false;
    }
    match value {
        // All lengths and keys here are ASCII too, so that one look at the whole body is enough.
        [0x0A, text_length @ 0..0x80, text @ ..] => usize::from(*text_length) == text.len() && ascii(bytes, length),
        [0x18, number @ ..] => varint(number) && ascii(bytes, key_length + 2),
        [0x10, 0 | 1] | [] => ascii(bytes, key_length + 2),
        [0x21, number @ ..] => number.len() == 8 && ascii(bytes, key_length + 2),
        _ => false,
    }
}

/// 64 bytes of high bits followed by as many zeros: from offset `64 - n` on a mask for `n` bytes.
static HIGH_BITS: [u8; 128] = {
    let mut bits = [0; 128];
    let mut index = 0;
    while index < 64 {
        bits[index] = 0x80;
        index += 1;
    }
    bits
};

/// Whether none of the first `length` bytes has its high bit set.
///
/// Looking at 64 bytes at once, those behind the end masked out, takes a few vector instructions and
/// no branch that depends on the length.
#[inline]
fn ascii(bytes: &[u8], length: usize) -> bool {
    match bytes.first_chunk::<64>() {
        Some(first) if length <= 64 => none_high(first, length),
        // The last 64 bytes overlap the first 64.
        Some(first) if length <= 128 => {
            let last = bytes.get(..length).and_then(<[u8]>::last_chunk::<64>);
            none_high(first, 64) && last.is_some_and(|last| none_high(last, 64))
        }
        _ => bytes.get(..length).is_some_and(<[u8]>::is_ascii),
    }
}

/// Whether none of the first `length` bytes, at most 64, has its high bit set.
#[inline]
fn none_high(bytes: &[u8; 64], length: usize) -> bool {
    let Some(mask) = HIGH_BITS[64 - length..].first_chunk::<64>() else { return false };
    let words = bytes.as_chunks::<8>().0.iter().zip(mask.as_chunks::<8>().0);
    words.fold(0, |bits, (word, mask)| bits | u64::from_le_bytes(*word) & u64::from_le_bytes(*mask)) == 0
}

/// Whether `bytes` are exactly one varint that needs no look at its tenth byte.
#[inline]
fn varint(bytes: &[u8]) -> bool {
    match bytes {
        [last] => *last < 0x80,
        [first, last] => *first >= 0x80 && *last < 0x80,
        [before @ .., last] => before.len() < 9 && *last < 0x80 && before.iter().all(|byte| *byte >= 0x80),
        [] => false,
    }
}
