//! Connections that send one export after the other: HTTP/2 with gRPC, or HTTP/1.1.
//!
//! A generator must cost less than what it measures, so nothing is parsed here that the measurement does not
//! need. Whether a call succeeded is told by its answer's shape: a unary gRPC call carries a message when it
//! succeeded and only a status when it failed.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::generator::GRPC_PATH;
use super::wire::{self, Reader};

/// The longest head of an answer over HTTP/1.1.
const MAX_HEAD: usize = 16 << 10;

/// `:method: POST` and `:scheme: http` of the static table.
const POST_HTTP: [u8; 2] = [0x83, 0x86];
/// The same with the four fields of [`Grpc::open`] out of the dynamic table, the latest first.
const AGAIN: [u8; 6] = [0x83, 0x86, 0xc1, 0xc0, 0xbf, 0xbe];

/// A connection that speaks gRPC.
pub(super) struct Grpc {
    stream: TcpStream,
    reader: Reader,
    out: Vec<u8>,
    /// The header block of the first call, until it was sent.
    first: Option<Vec<u8>>,
    next_stream: u32,
    /// What may still be sent on the connection, and on a stream that begins.
    window: i64,
    stream_window: i64,
    max_frame: usize,
    /// The peer has asked to go elsewhere.
    ending: bool,
}

/// One call's state.
struct Call {
    stream: u32,
    /// What may still be sent on its stream.
    window: i64,
    sent: usize,
    answered: bool,
    ended: bool,
}

impl Grpc {
    /// Greets the peer.
    pub(super) async fn open(mut stream: TcpStream, target: SocketAddr) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let authority = target.to_string();
        let first = wire::block(
            &POST_HTTP,
            &[
                (4, ":path", GRPC_PATH),
                (1, ":authority", &authority),
                (31, "content-type", "application/grpc"),
                (0, "te", "trailers"),
            ],
        );
        let mut out = wire::PREFACE.to_vec();
        wire::put_settings(&mut out, &[]);
        // Answers are a few bytes each: no window will ever have to be opened further.
        wire::put_window(&mut out, wire::WIDEST - wire::FIRST_WINDOW);
        stream.write_all(&out).await?;
        out.clear();
        Ok(Self {
            stream,
            reader: Reader::new(),
            out,
            first: Some(first),
            next_stream: 1,
            window: wire::FIRST_WINDOW.into(),
            stream_window: wire::FIRST_WINDOW.into(),
            max_frame: wire::FIRST_FRAME as usize,
            ending: false,
        })
    }

    /// Whether the next call needs another connection.
    pub(super) fn is_ending(&self) -> bool {
        self.ending || self.next_stream > wire::WIDEST - 2
    }

    /// Sends one framed message and waits for the end of its answer: whether it was taken.
    ///
    /// # Errors
    /// When the connection has ended.
    pub(super) async fn call(&mut self, message: &[u8]) -> io::Result<bool> {
        let mut call =
            Call { stream: self.next_stream, window: self.stream_window, sent: 0, answered: false, ended: false };
        self.next_stream += 2;
        let block = self.first.take();
        let block = block.as_deref().unwrap_or(&AGAIN);
        wire::put_frame(&mut self.out, wire::HEADERS, wire::END_HEADERS, call.stream, block);
        loop {
            self.put_data(&mut call, message);
            if !self.out.is_empty() {
                self.stream.write_all(&self.out).await?;
                self.out.clear();
            }
            if call.ended {
                return Ok(call.answered);
            }
            self.reader.fill(&mut self.stream).await?;
            self.read_frames(&mut call);
        }
    }

    /// Appends as much of the message as the windows let out.
    fn put_data(&mut self, call: &mut Call, message: &[u8]) {
        while call.sent < message.len() && !call.ended {
            let room = self.window.min(call.window).max(0) as usize;
            let length = (message.len() - call.sent).min(self.max_frame).min(room);
            if length == 0 {
                return;
            }
            let piece = &message[call.sent..call.sent + length];
            call.sent += length;
            self.window -= length as i64;
            call.window -= length as i64;
            let flags = if call.sent == message.len() { wire::END_STREAM } else { 0 };
            wire::put_frame(&mut self.out, wire::DATA, flags, call.stream, piece);
        }
    }

    fn read_frames(&mut self, call: &mut Call) {
        while let Some((head, at)) = self.reader.next() {
            let own = head.stream == call.stream;
            let payload = self.reader.payload(at);
            match head.kind {
                wire::DATA | wire::HEADERS if own => {
                    call.answered |= head.kind == wire::DATA && head.length > 0;
                    call.ended |= head.has(wire::END_STREAM);
                }
                wire::RST_STREAM if own && !call.ended => (call.answered, call.ended) = (false, true),
                wire::WINDOW_UPDATE => {
                    let more = i64::from(wire::number(payload, 0).unwrap_or_default());
                    match head.stream {
                        0 => self.window += more,
                        _ if own => call.window += more,
                        _ => {}
                    }
                }
                wire::SETTINGS if !head.has(wire::ACK) => {
                    for setting in payload.chunks_exact(6) {
                        let value = wire::number(setting, 2).unwrap_or_default();
                        match u16::from_be_bytes([setting[0], setting[1]]) {
                            wire::SETTINGS_INITIAL_WINDOW_SIZE => {
                                call.window += i64::from(value) - self.stream_window;
                                self.stream_window = value.into();
                            }
                            wire::SETTINGS_MAX_FRAME_SIZE => self.max_frame = value as usize,
                            _ => {}
                        }
                    }
                    wire::put_frame(&mut self.out, wire::SETTINGS, wire::ACK, 0, &[]);
                }
                wire::PING if !head.has(wire::ACK) => {
                    wire::put_frame(&mut self.out, wire::PING, wire::ACK, 0, payload);
                }
                wire::GOAWAY => self.ending = true,
                _ => {}
            }
        }
    }
}

/// A connection that speaks HTTP/1.1.
pub(super) struct Http {
    stream: TcpStream,
    host: SocketAddr,
    out: Vec<u8>,
    answer: Vec<u8>,
    /// The peer closes behind its last answer.
    ending: bool,
}

/// What the head of an answer over HTTP/1.1 says.
struct Head {
    taken: bool,
    length: usize,
    closes: bool,
}

impl Http {
    pub(super) fn open(stream: TcpStream, target: SocketAddr) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, host: target, out: Vec::new(), answer: Vec::new(), ending: false })
    }

    /// Whether the next post needs another connection.
    pub(super) fn is_ending(&self) -> bool {
        self.ending
    }

    /// Posts one body and waits for the whole answer: whether it was taken.
    ///
    /// # Errors
    /// When the connection has ended, or the answer has no length.
    pub(super) async fn post(&mut self, body: &[u8]) -> io::Result<bool> {
        let (host, length) = (self.host, body.len());
        self.out.clear();
        self.out.extend_from_slice(
            format!(
                "POST /v1/traces HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/x-protobuf\r\n\
                 content-length: {length}\r\n\r\n"
            )
            .as_bytes(),
        );
        self.out.extend_from_slice(body);
        // A peer that refuses may stop reading before the end; then its answer says more than the error.
        let written = self.stream.write_all(&self.out).await;
        self.answer.clear();
        loop {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                return written.and(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            let end = self.answer.windows(4).position(|window| window == b"\r\n\r\n");
            match end {
                Some(end) => {
                    let head = Head::parse(&self.answer[..end])?;
                    if self.answer.len() >= end + 4 + head.length {
                        self.ending = head.closes || written.is_err();
                        return Ok(head.taken);
                    }
                }
                None if self.answer.len() > MAX_HEAD => return Err(io::ErrorKind::InvalidData.into()),
                None => {}
            }
        }
    }
}

impl Head {
    fn parse(bytes: &[u8]) -> io::Result<Self> {
        let text = str::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData)?;
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let taken = status.is_some_and(|status| status.starts_with('2'));
        let fields: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
        let field = |wanted: &str| {
            let found = fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
            found.map(|(_, value)| value.trim())
        };
        let length = field("content-length").and_then(|value| value.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        let closes = field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        Ok(Self { taken, length, closes })
    }
}

#[cfg(test)]
mod tests;
