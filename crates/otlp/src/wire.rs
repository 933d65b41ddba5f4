//! The protobuf wire format: varints and fields, read from and written to plain bytes.
//!
//! <https://protobuf.dev/programming-guides/encoding/>. Reading never panics; on malformed bytes an
//! iterator ends early. The views only see bytes that `validate` has accepted, so for them it never
//! does.

/// Wire type of a field, the low three bits of its key.
pub(crate) const VARINT: u32 = 0;
/// See [`VARINT`].
pub(crate) const FIXED64: u32 = 1;
/// See [`VARINT`].
pub(crate) const LEN: u32 = 2;
/// See [`VARINT`].
pub(crate) const FIXED32: u32 = 5;

/// A field's value as it stands on the wire.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Len(&'a [u8]),
    Fixed32(u32),
}

impl<'a> Wire<'a> {
    /// The bytes of a length-delimited field; empty for another wire type.
    #[inline]
    pub(crate) fn bytes(self) -> &'a [u8] {
        match self {
            Wire::Len(bytes) => bytes,
            _ => &[],
        }
    }

    /// The number as protobuf reads it from varint and fixed-width fields; 0 for bytes.
    #[inline]
    pub(crate) fn number(self) -> u64 {
        match self {
            Wire::Varint(number) | Wire::Fixed64(number) => number,
            Wire::Fixed32(number) => u64::from(number),
            Wire::Len(_) => 0,
        }
    }

    /// The number of a `double` field.
    #[inline]
    pub(crate) fn double(self) -> f64 {
        f64::from_bits(self.number())
    }

    /// The number of a `sint32` field.
    #[inline]
    pub(crate) fn zigzag32(self) -> i32 {
        let number = self.number() as u32;
        ((number >> 1) as i32) ^ -((number & 1) as i32)
    }
}

/// Fields of one message in wire order.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    #[inline]
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read yet.
    #[inline]
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Skips the fields that follow with this one-byte key of a length-delimited field and fewer
    /// than 128 bytes.
    #[inline]
    pub(crate) fn skip_short(&mut self, key: u8) {
        while let [found, length @ 0..0x80, after @ ..] = self.rest
            && *found == key
            && let Some(after) = after.get(usize::from(*length)..)
        {
            self.rest = after;
        }
    }

    /// The first field with this number, if any.
    #[inline]
    pub(crate) fn find(mut self, number: u32) -> Option<Wire<'a>> {
        self.find_map(|(found, wire)| (found == number).then_some(wire))
    }

    /// The last field with this number, if any: what counts for scalars.
    #[inline]
    pub(crate) fn last(self, number: u32) -> Option<Wire<'a>> {
        self.filter(|(found, _)| *found == number).map(|(_, wire)| wire).last()
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u32, Wire<'a>);

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "every reader is a loop over this; a call costs as much as a field")]
    fn next(&mut self) -> Option<Self::Item> {
        let mut rest = self.rest;
        let key = varint(&mut rest)?;
        let wire = match key as u32 & 7 {
            VARINT => Wire::Varint(varint(&mut rest)?),
            LEN => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                let (bytes, after) = rest.split_at_checked(length)?;
                rest = after;
                Wire::Len(bytes)
            }
            FIXED64 => {
                let (bytes, after) = rest.split_first_chunk()?;
                rest = after;
                Wire::Fixed64(u64::from_le_bytes(*bytes))
            }
            FIXED32 => {
                let (bytes, after) = rest.split_first_chunk()?;
                rest = after;
                Wire::Fixed32(u32::from_le_bytes(*bytes))
            }
            _ => return None,
        };
        self.rest = rest;
        Some(((key >> 3) as u32, wire))
    }
}

/// Reads a varint and moves `bytes` behind it; `None` when it is cut off or overlong.
#[inline(always)]
#[expect(clippy::inline_always, reason = "every reader is a loop over this; a call costs as much as a field")]
pub(crate) fn varint(bytes: &mut &[u8]) -> Option<u64> {
    match **bytes {
        [first, ref rest @ ..] if first < 0x80 => {
            *bytes = rest;
            Some(u64::from(first))
        }
        [first, second, ref rest @ ..] if second < 0x80 => {
            *bytes = rest;
            Some(u64::from(first & 0x7F) | u64::from(second) << 7)
        }
        _ => long_varint(bytes),
    }
}

#[inline(never)]
fn long_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (index, &byte) in bytes.iter().enumerate().take(10) {
        // The tenth byte carries bit 63 only.
        if index == 9 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7F) << (7 * index);
        if byte < 0x80 {
            *bytes = bytes.get(index + 1..)?;
            return Some(value);
        }
    }
    None
}

/// Bytes that `value` takes as a varint.
#[inline]
pub(crate) const fn varint_len(value: usize) -> usize {
    let bits = usize::BITS - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// Appends `value` as a varint.
#[inline]
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends the key and the length of a length-delimited field.
#[inline]
pub(crate) fn put_header(out: &mut Vec<u8>, number: u32, length: usize) {
    put_varint(out, (number << 3 | LEN) as usize);
    put_varint(out, length);
}

/// The text of a string field. The bytes have been checked to be UTF-8.
#[inline]
pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}
