//! Cuts a message into its header fields and its child entries, as ranges of the request's bytes.

use std::ops::Range;

use crate::wire::{Fields, Wire};

/// One field of a message.
pub(super) struct Piece {
    /// The whole field, key and length included.
    pub(super) whole: Range<usize>,
    /// The body, for the child entries asked for; `None` makes the field a header field.
    pub(super) child: Option<Range<usize>>,
}

/// The fields of the message at `range` of a request.
pub(super) struct Cut<'a> {
    fields: Fields<'a>,
    number: u32,
    end: usize,
}

impl<'a> Cut<'a> {
    /// Children are the length-delimited fields with this number.
    #[inline]
    pub(super) fn new(request: &'a [u8], range: Range<usize>, number: u32) -> Self {
        let end = range.end;
        Self { fields: Fields::new(request.get(range).unwrap_or_default()), number, end }
    }

    /// Whether everything has been read; after the last piece only malformed bytes are left.
    pub(super) fn is_done(&self) -> bool {
        self.fields.rest().is_empty()
    }
}

impl Iterator for Cut<'_> {
    type Item = Piece;

    #[inline]
    fn next(&mut self) -> Option<Piece> {
        let start = self.end - self.fields.rest().len();
        let (number, wire) = self.fields.next()?;
        let end = self.end - self.fields.rest().len();
        let child = match wire {
            Wire::Len(body) if number == self.number => Some(end - body.len()..end),
            _ => None,
        };
        Some(Piece { whole: start..end, child })
    }
}

/// A range of bytes in 8 bytes: requests are shorter than 2^31.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span32 {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Span32 {
    #[inline]
    pub(super) fn new(range: &Range<usize>) -> Self {
        Self { start: range.start as u32, end: range.end as u32 }
    }

    #[inline]
    pub(super) fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    #[inline]
    pub(super) fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

/// Adds a range, joining it to the last one of this list (from index `from`) when they touch.
#[inline]
pub(super) fn push_range(ranges: &mut Vec<Span32>, from: usize, range: &Range<usize>) {
    let range = Span32::new(range);
    match ranges[from..].last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

/// Appends the bytes of all ranges.
#[inline]
pub(super) fn copy(out: &mut Vec<u8>, bytes: &[u8], ranges: &[Span32]) {
    for range in ranges {
        out.extend_from_slice(range.of(bytes));
    }
}

/// The number of bytes in all ranges.
pub(super) fn total(ranges: &[Span32]) -> usize {
    ranges.iter().map(|range| range.len()).sum()
}
