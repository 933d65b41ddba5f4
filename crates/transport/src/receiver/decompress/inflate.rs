//! gzip (RFC 1952, with several members) and zlib (RFC 1950) over one kept inflate state per thread.
//!
//! The gzip header and trailer are read here because a raw inflate state can be reset in place, a gzip
//! one is made anew for each body.

use std::cell::RefCell;

use bytes::{Buf as _, Bytes};
use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::{Output, SLICE};
use crate::receiver::fault::Fault;

/// Inflate states that a thread keeps, about 40 KiB each.
const KEPT: usize = 2;

thread_local! {
    static STATES: RefCell<Vec<Decompress>> = const { RefCell::new(Vec::new()) };
}

fn take(zlib: bool) -> Decompress {
    match STATES.with_borrow_mut(Vec::pop) {
        Some(mut state) => {
            state.reset(zlib);
            state
        }
        None => Decompress::new(zlib),
    }
}

/// gzip or zlib with what is left of its input.
pub(super) struct Inflater {
    input: Bytes,
    /// None only while it is dropped.
    state: Option<Decompress>,
    /// Some inside a gzip member.
    member: Option<Crc>,
    gzip: bool,
}

impl Drop for Inflater {
    fn drop(&mut self) {
        let Some(state) = self.state.take() else { return };
        // A thread that is ending keeps nothing.
        let _ended = STATES.try_with(|states| {
            let mut states = states.borrow_mut();
            if states.len() < KEPT {
                states.push(state);
            }
        });
    }
}

impl Inflater {
    pub(super) fn gzip(input: Bytes) -> Self {
        Self { input, state: Some(take(false)), member: None, gzip: true }
    }

    pub(super) fn zlib(input: Bytes) -> Self {
        Self { input, state: Some(take(true)), member: None, gzip: false }
    }

    /// See [`super::Decoder::step`].
    pub(super) fn step(&mut self, output: &mut Output<'_>) -> Result<bool, Fault> {
        let state = self.state.as_mut().expect("the state is taken only by drop");
        if self.gzip && self.member.is_none() {
            let header = gzip_header(&self.input).ok_or_else(|| output.corrupt("the header is damaged"))?;
            self.input.advance(header);
            self.member = Some(Crc::new());
        }
        let slice = &self.input[..self.input.len().min(SLICE)];
        let (start, consumed) = (output.buffer.len(), state.total_in());
        let status = state
            .decompress_vec(slice, &mut output.buffer, FlushDecompress::None)
            .map_err(|error| output.corrupt(error))?;
        let consumed = (state.total_in() - consumed) as usize;
        let written = &output.buffer[start..];
        if let Some(crc) = &mut self.member {
            crc.update(written);
        }
        let stuck = consumed == 0 && written.is_empty();
        self.input.advance(consumed);
        match status {
            Status::StreamEnd => self.end(output),
            Status::Ok | Status::BufError if stuck && output.buffer.len() < output.buffer.capacity() => {
                Err(output.corrupt("it ends early"))
            }
            Status::Ok | Status::BufError => Ok(false),
        }
    }

    /// The deflate stream has ended: checks the trailer, and whether another member follows.
    fn end(&mut self, output: &mut Output<'_>) -> Result<bool, Fault> {
        let Some(crc) = self.member.take() else {
            return if self.input.is_empty() { Ok(true) } else { Err(output.corrupt("something follows its end")) };
        };
        if self.input.len() < 8 {
            return Err(output.corrupt("it ends early"));
        }
        let (sum, length) = (self.input.get_u32_le(), self.input.get_u32_le());
        if sum != crc.sum() || length != crc.amount() {
            return Err(output.corrupt("its checksum or length does not match"));
        }
        if self.input.is_empty() {
            return Ok(true);
        }
        self.state.as_mut().expect("the state is taken only by drop").reset(false);
        Ok(false)
    }
}

/// The length of the gzip header at the start of `input` (RFC 1952 §2.3).
fn gzip_header(input: &[u8]) -> Option<usize> {
    const FHCRC: u8 = 2;
    const FEXTRA: u8 = 4;
    const FNAME: u8 = 8;
    const FCOMMENT: u8 = 16;
    let [0x1f, 0x8b, 8, flags, ..] = *input else { return None };
    let mut length = 10;
    if flags & FEXTRA != 0 {
        let extra = input.get(length..length + 2)?;
        length += 2 + usize::from(u16::from_le_bytes([extra[0], extra[1]]));
    }
    for text in [FNAME, FCOMMENT] {
        if flags & text != 0 {
            length += input.get(length..)?.iter().position(|byte| *byte == 0)? + 1;
        }
    }
    if flags & FHCRC != 0 {
        length += 2;
    }
    (flags & 0xe0 == 0 && length <= input.len()).then_some(length)
}

/// What the gzip trailer says about the length; right for one member below 4 GiB.
pub(super) fn gzip_length(input: &[u8]) -> usize {
    input.last_chunk().map_or(0, |length| u32::from_le_bytes(*length) as usize)
}
