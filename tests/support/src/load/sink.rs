//! Answers every OTLP/gRPC call with success and counts what arrived.
//!
//! It must cost less than what it measures: a call is answered by the end of its stream, whatever it says.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::wire::{self, Reader};

/// Bytes that a peer may send ahead, and the longest frame. Streams have no bound of their own.
const WINDOW: u32 = 24 << 20;
const FRAME: u32 = 1 << 20;

/// `:status: 200` of the static table.
const OK: u8 = 0x88;
/// `content-type` and `grpc-status` of the first answer, out of the dynamic table.
const CONTENT_TYPE: u8 = 0xbf;
const GRPC_STATUS: u8 = 0xbe;
/// An uncompressed message without fields.
const EMPTY: &[u8] = &[0; 5];

/// What arrived.
#[derive(Debug, Default)]
pub struct Arrived {
    requests: AtomicU64,
    bytes: AtomicU64,
}

impl Arrived {
    /// Requests that were answered.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Bytes of their bodies, framing included.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Serves gRPC on `address` until the future is dropped; every answer waits for `delay` first.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(address: SocketAddr, arrived: Arc<Arrived>, delay: Duration) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let connection = Connection {
            stream,
            reader: Reader::new(),
            out: Vec::new(),
            unread: 0,
            known: false,
            due: VecDeque::new(),
            arrived: Arc::clone(&arrived),
            delay,
        };
        // A peer that goes away is the end of its connection and no more.
        tokio::spawn(async move { connection.serve().await.ok() });
    }
}

struct Connection {
    stream: TcpStream,
    reader: Reader,
    out: Vec<u8>,
    /// Bytes of DATA that the peer's window has not been given back.
    unread: u32,
    /// The peer's dynamic table has what an answer says.
    known: bool,
    /// Calls that wait for their answer, in order.
    due: VecDeque<(Instant, u32)>,
    arrived: Arc<Arrived>,
    delay: Duration,
}

impl Connection {
    async fn serve(mut self) -> io::Result<()> {
        let windows = [(wire::SETTINGS_INITIAL_WINDOW_SIZE, wire::WIDEST), (wire::SETTINGS_MAX_FRAME_SIZE, FRAME)];
        wire::put_settings(&mut self.out, &windows);
        wire::put_window(&mut self.out, WINDOW - wire::FIRST_WINDOW);
        self.greeted().await?;
        loop {
            self.read_frames();
            self.answer_due();
            if !self.out.is_empty() {
                self.stream.write_all(&self.out).await?;
                self.out.clear();
            }
            match self.due.front() {
                None => self.reader.fill(&mut self.stream).await?,
                Some((at, _)) => tokio::select! {
                    () = tokio::time::sleep_until(*at) => {}
                    read = self.reader.fill(&mut self.stream) => read?,
                },
            }
        }
    }

    /// Reads what a client says first.
    async fn greeted(&mut self) -> io::Result<()> {
        let mut preface = [0; wire::PREFACE.len()];
        tokio::io::AsyncReadExt::read_exact(&mut self.stream, &mut preface).await?;
        if preface == wire::PREFACE { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    fn read_frames(&mut self) {
        while let Some((head, at)) = self.reader.next() {
            match head.kind {
                wire::DATA => {
                    self.unread += head.length as u32;
                    self.arrived.bytes.fetch_add(head.length as u64, Ordering::Relaxed);
                    self.ended(head.has(wire::END_STREAM), head.stream);
                }
                wire::HEADERS => self.ended(head.has(wire::END_STREAM), head.stream),
                wire::SETTINGS if !head.has(wire::ACK) => {
                    wire::put_frame(&mut self.out, wire::SETTINGS, wire::ACK, 0, &[]);
                }
                wire::PING if !head.has(wire::ACK) => {
                    wire::put_frame(&mut self.out, wire::PING, wire::ACK, 0, self.reader.payload(at));
                }
                _ => {}
            }
        }
        if self.unread > WINDOW / 2 {
            wire::put_window(&mut self.out, std::mem::take(&mut self.unread));
        }
    }

    fn ended(&mut self, ended: bool, stream: u32) {
        if ended && self.delay.is_zero() {
            self.answer(stream);
        } else if ended {
            self.due.push_back((Instant::now() + self.delay, stream));
        }
    }

    fn answer_due(&mut self) {
        while self.due.front().is_some_and(|(at, _)| *at <= Instant::now()) {
            if let Some((_, stream)) = self.due.pop_front() {
                self.answer(stream);
            }
        }
    }

    fn answer(&mut self, stream: u32) {
        self.arrived.requests.fetch_add(1, Ordering::Relaxed);
        let (mut head, mut trailers) = (Cow::Borrowed(&[OK, CONTENT_TYPE][..]), Cow::Borrowed(&[GRPC_STATUS][..]));
        if !std::mem::replace(&mut self.known, true) {
            head = wire::block(&[OK], &[(31, "content-type", "application/grpc")]).into();
            trailers = wire::block(&[], &[(0, "grpc-status", "0")]).into();
        }
        wire::put_frame(&mut self.out, wire::HEADERS, wire::END_HEADERS, stream, &head);
        wire::put_frame(&mut self.out, wire::DATA, 0, stream, EMPTY);
        wire::put_frame(&mut self.out, wire::HEADERS, wire::END_HEADERS | wire::END_STREAM, stream, &trailers);
    }
}
