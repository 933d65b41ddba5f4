//! Decompression: capped, paid for while output is produced, with contexts that are kept per thread.
//!
//! The output grows by doubling; each step is paid for before it is allocated and refused beyond the
//! limit, so a bomb costs what the limit costs and not what it claims. Work is done in slices of
//! [`SLICE`] input bytes with a yield in between: one large body does not stop the others.
//!
//! Never: trusts a length that a header claims for more than a first guess; keeps a context that grew.

mod inflate;
mod zstandard;

use std::io::Cursor;

use bytes::Bytes;
use mirador_service::memory::Permit;

use self::inflate::Inflater;
use self::zstandard::ZstdStream;
use super::body::{pay, room};
use super::buffer;
use super::fault::Fault;

/// Input that is decompressed before other tasks get their turn.
const SLICE: usize = 256 << 10;
/// The first guess for the output.
const MIN_OUTPUT: usize = 16 << 10;
/// A claimed length is believed up to this many times the compressed length.
const BELIEVED_RATIO: usize = 32;
/// Larger outputs are decompressed in slices.
const ONE_SHOT: usize = 4 << 20;
/// The stream identifier of framed snappy (snappy, "framing format description" §4.1).
const SNAPPY_FRAMED: &[u8] = b"\xff\x06\x00\x00sNaPpY";

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    Zlib,
    Zstd,
    Snappy,
    Lz4,
}

impl Encoding {
    /// The gRPC name of an encoding (`grpc-encoding`).
    pub(super) fn from_grpc(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"identity" | b"" => Self::Identity,
            b"gzip" => Self::Gzip,
            b"zstd" => Self::Zstd,
            b"snappy" => Self::Snappy,
            b"deflate" => Self::Zlib,
            _ => return None,
        })
    }

    /// The HTTP name of an encoding (`Content-Encoding`); the collector's list (otel-semantics §15.1).
    /// `deflate` is zlib, as RFC 9110 §8.4.1.2 says; snappy may be a block or framed.
    pub(super) fn from_http(name: &[u8]) -> Option<Self> {
        const NAMES: [(&str, Encoding); 8] = [
            ("gzip", Encoding::Gzip),
            ("zstd", Encoding::Zstd),
            ("identity", Encoding::Identity),
            ("deflate", Encoding::Zlib),
            ("zlib", Encoding::Zlib),
            ("snappy", Encoding::Snappy),
            ("x-snappy-framed", Encoding::Snappy),
            ("lz4", Encoding::Lz4),
        ];
        let name = name.trim_ascii();
        if name.is_empty() {
            return Some(Self::Identity);
        }
        NAMES.iter().find(|(known, _)| name.eq_ignore_ascii_case(known.as_bytes())).map(|(_, encoding)| *encoding)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Zlib => "zlib",
            Self::Zstd => "zstd",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
        }
    }
}

/// Where output goes: a buffer that never outgrows its permit or its limit.
struct Output<'a> {
    encoding: Encoding,
    buffer: Vec<u8>,
    limit: usize,
    /// Memory that the decoder itself needs at most, and how much of it is paid for: a window holds
    /// no more than what was written.
    window: usize,
    window_paid: usize,
    permit: &'a mut Permit,
}

impl<'a> Output<'a> {
    fn new(encoding: Encoding, guess: usize, limit: usize, permit: &'a mut Permit) -> Result<Self, Fault> {
        // One byte above the limit tells a body of just that size from one that is larger.
        let length = guess.clamp(MIN_OUTPUT, MIN_OUTPUT.max(limit)).min(limit + 1);
        pay(length, permit)?;
        let buffer = room(length, permit);
        Ok(Self { encoding, buffer, limit, window: 0, window_paid: 0, permit })
    }

    /// Makes room when there is none.
    fn grow(&mut self) -> Result<(), Fault> {
        self.check()?;
        let old = self.buffer.capacity();
        if self.buffer.len() == old {
            let new = old.saturating_mul(2).min(self.limit + 1);
            // Both buffers exist while one is copied into the other.
            pay(new, self.permit)?;
            let mut wider = room(new, self.permit);
            wider.extend_from_slice(&self.buffer);
            buffer::give(std::mem::replace(&mut self.buffer, wider));
            self.permit.shrink_to(self.permit.bytes() - old);
        }
        let needed = self.window.min(self.buffer.capacity());
        if needed > self.window_paid {
            pay(needed - self.window_paid, self.permit)?;
            self.window_paid = needed;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Fault> {
        if self.buffer.len() > self.limit { Err(Fault::too_large_decompressed(self.limit)) } else { Ok(()) }
    }

    fn corrupt(&self, error: impl std::fmt::Display) -> Fault {
        Fault::corrupt(self.encoding.as_str(), error)
    }

    fn finish(self) -> Result<Bytes, Fault> {
        self.check()?;
        self.permit.shrink_to(self.permit.bytes() - self.window_paid);
        Ok(buffer::freeze(self.buffer))
    }
}

/// A decoder with its input.
enum Decoder {
    Inflate(Inflater),
    Zstd(ZstdStream),
    Snappy(Box<snap::read::FrameDecoder<Cursor<Bytes>>>),
    Lz4(Box<lz4_flex::frame::FrameDecoder<Cursor<Bytes>>>),
}

impl Decoder {
    /// Writes into the spare room of `output`; true at the end. At least one of the two moves.
    fn step(&mut self, output: &mut Output<'_>) -> Result<bool, Fault> {
        match self {
            Self::Inflate(inflater) => inflater.step(output),
            Self::Zstd(stream) => stream.step(output),
            Self::Snappy(reader) => read_step(reader, output),
            Self::Lz4(reader) => read_step(reader, output),
        }
    }
}

/// A step of a decoder that is a reader.
fn read_step(reader: &mut impl std::io::Read, output: &mut Output<'_>) -> Result<bool, Fault> {
    let start = output.buffer.len();
    let end = output.buffer.capacity().min(start + SLICE);
    output.buffer.resize(end, 0);
    let read = reader.read(&mut output.buffer[start..]);
    output.buffer.truncate(start + *read.as_ref().unwrap_or(&0));
    match read {
        Ok(n) => Ok(n == 0),
        Err(error) => Err(output.corrupt(error)),
    }
}

/// Decompresses `input` to at most `limit` bytes. The permit grows by what the output occupies.
pub(super) async fn decompress(
    encoding: Encoding,
    input: Bytes,
    limit: usize,
    permit: &mut Permit,
) -> Result<Bytes, Fault> {
    let believed = input.len().saturating_mul(BELIEVED_RATIO);
    let (mut decoder, guess) = match encoding {
        Encoding::Identity => return Ok(input),
        Encoding::Gzip => {
            let guess = inflate::gzip_length(&input);
            (Decoder::Inflate(Inflater::gzip(input)), guess)
        }
        Encoding::Zlib => {
            let guess = input.len().saturating_mul(6);
            (Decoder::Inflate(Inflater::zlib(input)), guess)
        }
        Encoding::Zstd => match zstandard::frame(&input) {
            Some(frame)
                if frame.content.is_some_and(|content| content <= ONE_SHOT.min(limit) && content <= believed) =>
            {
                let content = frame.content.unwrap_or_default();
                return zstandard::one_shot(&input, Output::new(encoding, content, limit, permit)?);
            }
            frame => {
                let guess = frame.and_then(|frame| frame.content).unwrap_or(input.len().saturating_mul(6));
                (Decoder::Zstd(ZstdStream::new(input)), guess)
            }
        },
        Encoding::Snappy if !input.starts_with(SNAPPY_FRAMED) => return snappy_block(&input, limit, permit),
        Encoding::Snappy => {
            let guess = input.len().saturating_mul(4);
            (Decoder::Snappy(Box::new(snap::read::FrameDecoder::new(Cursor::new(input)))), guess)
        }
        Encoding::Lz4 => {
            let guess = input.len().saturating_mul(4);
            (Decoder::Lz4(Box::new(lz4_flex::frame::FrameDecoder::new(Cursor::new(input)))), guess)
        }
    };
    let mut output = Output::new(encoding, guess.min(believed), limit, permit)?;
    let mut since_yield = 0;
    loop {
        output.grow()?;
        let before = output.buffer.len();
        if decoder.step(&mut output)? {
            return output.finish();
        }
        since_yield += output.buffer.len() - before;
        if since_yield > ONE_SHOT / 4 {
            since_yield = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// A snappy block says how long it becomes, and the decoder holds it to that.
fn snappy_block(input: &[u8], limit: usize, permit: &mut Permit) -> Result<Bytes, Fault> {
    if input.is_empty() {
        return Ok(Bytes::new());
    }
    let length = snap::raw::decompress_len(input).map_err(|error| Fault::corrupt("snappy", error))?;
    if length > limit {
        return Err(Fault::too_large_decompressed(limit));
    }
    // The densest snappy element makes 64 bytes of 3 ("format description" §2.2).
    if length / 64 > input.len() {
        return Err(Fault::corrupt("snappy", "it claims to be longer than its bytes can make it"));
    }
    pay(length, permit)?;
    let mut buffer = room(length, permit);
    buffer.resize(length, 0);
    snap::raw::Decoder::new().decompress(input, &mut buffer).map_err(|error| Fault::corrupt("snappy", error))?;
    Ok(buffer::freeze(buffer))
}

#[cfg(test)]
mod tests;
