//! As much of HTTP/2 as a load generator and a sink need: frames are read by their headers alone, and header
//! blocks are written once.
//!
//! Answers and requests of a bench are always the same, so their header blocks are constants: the first of a
//! connection puts its fields into HPACK's dynamic table, the others name them by a byte each, as every real
//! peer's encoder does. What a peer's header blocks say is never read. Never: keeps the payload of DATA.

use std::io;
use std::ops::Range;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What an HTTP/2 client says first (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// Frame types and flags (RFC 9113 §6).
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const SETTINGS_INITIAL_WINDOW_SIZE: u16 = 4;
pub(super) const SETTINGS_MAX_FRAME_SIZE: u16 = 5;

/// The window that a connection and a stream begin with, and the longest frame, unless settings say otherwise.
pub(super) const FIRST_WINDOW: u32 = 65_535;
pub(super) const FIRST_FRAME: u32 = 16_384;
/// The widest window that there is (RFC 9113 §6.9.1).
pub(super) const WIDEST: u32 = i32::MAX as u32;

/// Bytes of a frame's header.
const HEAD: usize = 9;
/// What is read in one call at most; frames other than DATA have to fit.
const ROOM: usize = 256 << 10;

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) length: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Head {
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn parse(bytes: &[u8; HEAD]) -> Self {
        Self {
            length: u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize,
            kind: bytes[3],
            flags: bytes[4],
            stream: u32::from_be_bytes([bytes[5] & 0x7f, bytes[6], bytes[7], bytes[8]]),
        }
    }
}

/// Appends a frame's header, for `length` bytes that follow.
pub(super) fn put_head(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    out.extend_from_slice(&(length as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
}

/// Appends a frame.
pub(super) fn put_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    put_head(out, payload.len(), kind, flags, stream);
    out.extend_from_slice(payload);
}

/// Appends settings.
pub(super) fn put_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    put_head(out, settings.len() * 6, SETTINGS, 0, 0);
    for (key, value) in settings {
        out.extend_from_slice(&key.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// Opens the connection's window further.
pub(super) fn put_window(out: &mut Vec<u8>, more: u32) {
    put_frame(out, WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
}

/// The four bytes at `at` of a payload, without the reserved bit.
pub(super) fn number(payload: &[u8], at: usize) -> Option<u32> {
    let bytes = payload.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*bytes) & WIDEST)
}

/// A header block, with indexing (RFC 7541 §6.2.1): `fields` are (index of a static name or 0, name, value).
/// None may be longer than 126 bytes.
pub(super) fn block(indexed: &[u8], fields: &[(u8, &str, &str)]) -> Vec<u8> {
    let mut block = indexed.to_vec();
    for (index, name, value) in fields {
        block.push(0x40 | index);
        if *index == 0 {
            block.push(name.len() as u8);
            block.extend_from_slice(name.as_bytes());
        }
        block.push(value.len() as u8);
        block.extend_from_slice(value.as_bytes());
    }
    block
}

/// Reads frames.
pub(super) struct Reader {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    /// The DATA frame whose payload is running by, and what of it is to come.
    running: Option<(Head, usize)>,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; ROOM].into(), start: 0, end: 0, running: None }
    }

    /// The next frame that has come whole, and where its payload stands; none of DATA.
    pub(super) fn next(&mut self) -> Option<(Head, Range<usize>)> {
        if self.running.is_none() {
            let head = Head::parse(self.bytes[self.start..self.end].first_chunk()?);
            let payload = self.start + HEAD..self.start + HEAD + head.length;
            if head.kind != DATA {
                if payload.end > self.end {
                    return None;
                }
                self.start = payload.end;
                return Some((head, payload));
            }
            self.start = payload.start;
            self.running = Some((head, head.length));
        }
        let (head, left) = self.running.as_mut()?;
        let by = (*left).min(self.end - self.start);
        self.start += by;
        *left -= by;
        if *left > 0 {
            return None;
        }
        let head = *head;
        self.running = None;
        Some((head, 0..0))
    }

    /// A payload that [`Self::next`] has found, until more is read.
    pub(super) fn payload(&self, at: Range<usize>) -> &[u8] {
        &self.bytes[at]
    }

    /// Reads what has come.
    ///
    /// # Errors
    /// `UnexpectedEof` when the peer has closed, or sends a frame that is longer than it may be.
    pub(super) async fn fill(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        match stream.read(&mut self.bytes[self.end..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.end += read;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_are_found_however_they_are_cut() {
        let mut sent = Vec::new();
        put_settings(&mut sent, &[(SETTINGS_MAX_FRAME_SIZE, 1 << 20)]);
        put_frame(&mut sent, DATA, 0, 1, &[7; 1000]);
        put_frame(&mut sent, DATA, END_STREAM, 1, &[]);
        put_window(&mut sent, 12_345);
        for step in [1, 2, 9, 13, 700, sent.len()] {
            let mut reader = Reader::new();
            let mut found = Vec::new();
            for mut piece in sent.chunks(step) {
                reader.fill(&mut piece).await.unwrap();
                while let Some((head, at)) = reader.next() {
                    found.push((head.kind, head.flags, head.stream, head.length, reader.payload(at).to_vec()));
                }
            }
            let kinds: Vec<_> =
                found.iter().map(|(kind, flags, stream, length, _)| (*kind, *flags, *stream, *length)).collect();
            assert_eq!(
                kinds,
                [(SETTINGS, 0, 0, 6), (DATA, 0, 1, 1000), (DATA, END_STREAM, 1, 0), (WINDOW_UPDATE, 0, 0, 4)]
            );
            assert_eq!(number(&found[0].4, 2), Some(1 << 20));
            assert_eq!(number(&found[3].4, 0), Some(12_345));
            let closed = reader.fill(&mut &b""[..]).await.unwrap_err();
            assert_eq!(closed.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
