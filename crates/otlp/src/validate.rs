//! The one pass over a request that makes every later read infallible.
//!
//! Checks framing, field keys, the wire types of known fields, UTF-8 of strings, nesting and the
//! number of items, and notices singular messages in pieces. It allocates nothing, visits every
//! field once, and recurses only into known messages and no deeper than [`PROST_DEPTH`].

mod plain;

use crate::Limits;
use crate::error::WireError;
use crate::schema::{KEY_VALUE, Kind, SPAN, Schema};
use crate::signal::Signal;
use crate::wire::{FIXED32, FIXED64, LEN, VARINT, varint};

/// The nesting at which `prost` stops; a larger configured depth is cut to it, which also bounds the
/// stack that validation and views use.
pub(crate) const PROST_DEPTH: usize = 100;

/// Pieces of singular messages that one request may hold: far beyond what any encoder writes, and a
/// bound for the memory that putting them together takes.
const MAX_PIECES: usize = 10_000;

/// Resource and scope entries that one request may hold: a bound for what readers keep per entry,
/// where an entry may be as short as two bytes.
const MAX_ENTRIES: usize = 100_000;

/// What a valid request holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checked {
    /// Spans, data points or log records.
    pub(crate) items: usize,
    /// How often a singular message or a oneof occurs again in its parent.
    pub(crate) pieces: usize,
    /// Fields visited: the measure of work.
    #[cfg(test)]
    pub(crate) steps: usize,
}

/// Checks a whole request body.
pub(crate) fn check(signal: Signal, body: &[u8], limits: &Limits) -> Result<Checked, WireError> {
    // Offsets below 2^31 keep every sum of lengths far from overflow.
    if body.len() > i32::MAX as usize {
        return Err(WireError::TooLarge { length: body.len() });
    }
    let mut check = Check {
        body,
        max_depth: limits.max_depth.min(PROST_DEPTH),
        max_items: limits.max_items,
        entries: 0,
        done: Checked {
            items: 0,
            pieces: 0,
            #[cfg(test)]
            steps: 0,
        },
    };
    check.message(Schema::request(signal), 0, body.len(), 0)?;
    Ok(check.done)
}

struct Check<'a> {
    body: &'a [u8],
    max_depth: usize,
    max_items: usize,
    entries: usize,
    done: Checked,
}

impl Check<'_> {
    /// Checks the message at `start..end`; `depth` is the number of messages around it.
    fn message(&mut self, schema: &'static Schema, start: usize, end: usize, depth: usize) -> Result<(), WireError> {
        let mut pos = start;
        let mut seen = 0u32;
        while pos < end {
            #[cfg(test)]
            {
                self.done.steps += 1;
            }
            let offset = pos;
            let key = self.varint(&mut pos, end)?;
            let number = u32::try_from(key >> 3).unwrap_or(0);
            if number == 0 || key > u64::from(u32::MAX) {
                return Err(WireError::Tag { offset });
            }
            let field = schema.field(number);
            if seen & field.conflicts != 0 {
                self.done.pieces += 1;
                if self.done.pieces > MAX_PIECES {
                    return Err(WireError::Pieces { offset, limit: MAX_PIECES });
                }
            }
            seen |= 1u32.checked_shl(number).unwrap_or(0);
            let wire_type = key as u32 & 7;
            if wire_type != LEN {
                self.scalar(field.kind, wire_type, number, offset, &mut pos, end)?;
                continue;
            }
            let length = self.varint(&mut pos, end)?;
            if length > (end - pos) as u64 {
                return Err(WireError::Truncated { offset });
            }
            let from = pos;
            pos += length as usize;
            match field.kind {
                Kind::Attribute => {
                    self.attribute(from, pos, depth)?;
                    // Attributes come in a row.
                    while depth + 2 <= self.max_depth
                        && let Some(length) = plain::field(&self.body[pos..], end - pos, key as u8)
                        && key < 0x80
                    {
                        pos += length;
                        #[cfg(test)]
                        {
                            self.done.steps += 1;
                        }
                    }
                }
                Kind::Text => {
                    if !plain::text(&self.body[from..pos]) {
                        return Err(WireError::Utf8 { offset: from });
                    }
                }
                Kind::Bytes | Kind::Unknown => {}
                Kind::Message(child) => self.nested(child, from, pos, depth)?,
                Kind::Entry(child) => {
                    self.entries += 1;
                    if self.entries > MAX_ENTRIES {
                        return Err(WireError::TooManyEntries { limit: MAX_ENTRIES });
                    }
                    self.nested(child, from, pos, depth)?;
                }
                Kind::Item(child) => {
                    self.done.items += 1;
                    if self.done.items > self.max_items {
                        return Err(WireError::TooManyItems { limit: self.max_items });
                    }
                    self.item(child, from, pos, depth)?;
                }
                Kind::Varints => self.packed_varints(from, pos)?,
                Kind::Fixed64s if length % 8 == 0 => {}
                Kind::Fixed64s => return Err(WireError::Truncated { offset }),
                Kind::Varint | Kind::Fixed32 | Kind::Fixed64 => {
                    return Err(WireError::WireType { offset, field: number });
                }
            }
        }
        Ok(())
    }

    #[inline]
    fn item(&mut self, schema: &'static Schema, start: usize, end: usize, depth: usize) -> Result<(), WireError> {
        let mut from = start;
        if std::ptr::eq(schema, &raw const SPAN) && depth + 3 <= self.max_depth {
            from += plain::span(&self.body[start..], end - start);
            #[cfg(test)]
            {
                self.done.steps += from - start;
            }
            if from == end {
                return Ok(());
            }
        }
        self.nested(schema, from, end, depth)
    }

    #[inline]
    fn attribute(&mut self, start: usize, end: usize, depth: usize) -> Result<(), WireError> {
        if depth + 2 <= self.max_depth && plain::attribute(&self.body[start..], end - start) {
            return Ok(());
        }
        self.nested(&KEY_VALUE, start, end, depth)
    }

    #[inline]
    fn nested(&mut self, schema: &'static Schema, start: usize, end: usize, depth: usize) -> Result<(), WireError> {
        if depth >= self.max_depth {
            return Err(WireError::Depth { offset: start, limit: self.max_depth });
        }
        self.message(schema, start, end, depth + 1)
    }

    /// Checks a field that is not length-delimited.
    #[inline]
    fn scalar(
        &self,
        kind: Kind,
        wire_type: u32,
        number: u32,
        offset: usize,
        pos: &mut usize,
        end: usize,
    ) -> Result<(), WireError> {
        let fits = match wire_type {
            VARINT => {
                self.varint(pos, end)?;
                matches!(kind, Kind::Varint | Kind::Varints | Kind::Unknown)
            }
            FIXED64 => {
                *pos += 8;
                matches!(kind, Kind::Fixed64 | Kind::Fixed64s | Kind::Unknown)
            }
            FIXED32 => {
                *pos += 4;
                matches!(kind, Kind::Fixed32 | Kind::Unknown)
            }
            3 | 4 => return Err(WireError::Group { offset }),
            _ => return Err(WireError::Tag { offset }),
        };
        if !fits {
            return Err(WireError::WireType { offset, field: number });
        }
        if *pos > end {
            return Err(WireError::Truncated { offset });
        }
        Ok(())
    }

    fn packed_varints(&self, start: usize, end: usize) -> Result<(), WireError> {
        let mut pos = start;
        while pos < end {
            self.varint(&mut pos, end)?;
        }
        Ok(())
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "every field begins with one; a call costs as much as a field")]
    fn varint(&self, pos: &mut usize, end: usize) -> Result<u64, WireError> {
        let bytes = &self.body[*pos..end];
        let mut rest = bytes;
        match varint(&mut rest) {
            Some(value) => {
                *pos = end - rest.len();
                Ok(value)
            }
            None if bytes.len() >= 10 => Err(WireError::Varint { offset: *pos }),
            None => Err(WireError::Truncated { offset: *pos }),
        }
    }
}

#[cfg(test)]
mod tests;
