//! Connections that send a payload as fast as it is answered, or at a rate.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Protocol;
use super::client::{Grpc, Http};
use super::payload::Payload;

pub(super) const GRPC_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// What was sent and how it was answered.
#[derive(Debug, Default)]
pub struct Progress {
    accepted: AtomicU64,
    refused: AtomicU64,
    stop: AtomicBool,
    /// How long each request took to be answered, in nanoseconds, since it was last asked.
    took: Mutex<Vec<u64>>,
}

impl Progress {
    /// Requests that were answered with success.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Requests that were answered with anything else.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// How long the requests since the last call took to be answered, in nanoseconds.
    pub fn take_times(&self) -> Vec<u64> {
        std::mem::take(&mut *self.took.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets every connection end after the request that it is sending.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// When requests are due: as soon as the last one was answered, or at a rate that all connections share.
#[derive(Debug)]
pub struct Pace {
    begin: Instant,
    /// Nanoseconds between two requests; 0 is a closed loop.
    interval: u64,
    next: AtomicU64,
}

impl Pace {
    /// `requests_per_second` over all connections; 0 sends as fast as answers come.
    pub fn new(requests_per_second: f64) -> Self {
        let interval = if requests_per_second > 0.0 { (1e9 / requests_per_second) as u64 } else { 0 };
        Self { begin: Instant::now(), interval, next: AtomicU64::new(0) }
    }

    /// Waits for the time of the next request. A request that is late goes out at once: what was not offered
    /// in its time is offered later, never left out.
    async fn due(&self) {
        if self.interval > 0 {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep_until(self.begin + Duration::from_nanos(number * self.interval)).await;
        }
    }
}

/// Sends over one connection at a time until it is told to stop. A connection that breaks is a refused request
/// and a new connection.
///
/// # Errors
/// When a connection cannot be made.
pub async fn drive(
    target: SocketAddr,
    protocol: Protocol,
    mut payload: Payload,
    progress: Arc<Progress>,
    pace: Arc<Pace>,
) -> anyhow::Result<()> {
    while !progress.stop.load(Ordering::Relaxed) {
        let stream = TcpStream::connect(target).await.with_context(|| format!("cannot connect to {target}"))?;
        if over(stream, target, protocol, &mut payload, &progress, &pace).await.is_err() {
            progress.refused.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Speaks HTTP/2 over `stream`, with windows and frames that do not slow large requests down.
pub async fn grpc(stream: TcpStream) -> anyhow::Result<http2::SendRequest<Full<Bytes>>> {
    stream.set_nodelay(true)?;
    let (send, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1 << 20)
        .max_frame_size(64 << 10)
        .max_send_buf_size(4 << 20)
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(connection);
    Ok(send)
}

/// Sends over one connection until it ends or until it is told to stop.
async fn over(
    stream: TcpStream,
    target: SocketAddr,
    protocol: Protocol,
    payload: &mut Payload,
    progress: &Progress,
    pace: &Pace,
) -> anyhow::Result<()> {
    let mut connection = match protocol {
        Protocol::Grpc => Connection::Grpc(Grpc::open(stream, target).await?),
        Protocol::Http => Connection::Http(Http::open(stream, target)?),
    };
    while !progress.stop.load(Ordering::Relaxed) && !connection.is_ending() {
        pace.due().await;
        let begin = Instant::now();
        let taken = match &mut connection {
            Connection::Grpc(connection) => connection.call(payload.next(true)).await?,
            Connection::Http(connection) => connection.post(payload.next(false)).await?,
        };
        count(progress, taken, begin);
    }
    Ok(())
}

enum Connection {
    Grpc(Grpc),
    Http(Http),
}

impl Connection {
    fn is_ending(&self) -> bool {
        match self {
            Self::Grpc(connection) => connection.is_ending(),
            Self::Http(connection) => connection.is_ending(),
        }
    }
}

fn count(progress: &Progress, accepted: bool, begin: Instant) {
    let counter = if accepted { &progress.accepted } else { &progress.refused };
    counter.fetch_add(1, Ordering::Relaxed);
    let took = begin.elapsed().as_nanos() as u64;
    progress.took.lock().unwrap_or_else(PoisonError::into_inner).push(took);
}
