//! Keeps the connection to one owner: opens it, moves its frames, pings an owner that is silent, notices its
//! end, probes an owner that is down.
//!
//! Invariants: at most one connection attempt at a time per owner; the wait between probes grows to
//! `connection.max_probe_interval`; a young connection that ends before it carried an answer counts as a
//! failed connect, so a peer that accepts and hangs up is not dialled in a hot loop.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::client::{Builder, Connection, SendRequest};
use h2::{Ping, PingPong};
use mirador_service::backoff::{Backoff, RetryConfig};
use mirador_service::tls::Connector;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::config::ConnectionConfig;
use super::frame::Data;
use super::gather::Gathered;
use super::outage::Outage;
use super::owner::{Link, Owner};
use crate::outgoing;

/// Windows for answers, which are small; what we send is bounded by the owner's windows.
const ANSWER_WINDOW: u32 = 256 << 10;

/// The first wait after a failed connect.
const FIRST_PROBE: Duration = Duration::from_millis(200);

/// Headers of an answer at most.
const ANSWER_HEADERS: u32 = 16 << 10;

/// A connection that lived this long was no failed connect, even if nothing was sent on it.
const SETTLED: Duration = Duration::from_secs(5);

type Io = Gathered<Pin<Box<dyn Stream>>>;

/// The bytes of a connection, encrypted or not.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

/// How an owner is dialled.
#[derive(Debug, Clone)]
pub(super) struct Dial {
    /// The destination that it is an owner of.
    pub(super) destination: &'static str,
    pub(super) connection: ConnectionConfig,
    pub(super) tls: Option<Arc<Connector>>,
}

/// Runs until the owner leaves (or the task is aborted with its destination).
pub(super) async fn keep(owner: Arc<Owner>, dial: Dial, seed: u64) {
    let config = &dial.connection;
    let probes = RetryConfig {
        initial_interval: FIRST_PROBE.min(config.max_probe_interval),
        max_interval: config.max_probe_interval,
        ..RetryConfig::default()
    };
    let mut backoff = Backoff::new(&probes, seed);
    let mut outage = Outage::default();
    while !owner.has_left() {
        let why = match open(&owner, &dial).await {
            Ok((sender, connection, socket)) => {
                tracing::debug!(owner = owner.name(), "connected");
                if let Some(outage) = outage.ends(Instant::now()) {
                    tracing::info!(destination = dial.destination, owner = owner.name(), ?outage, "owner is back");
                }
                owner.publish(Link::Up(sender));
                // Ends when the peer closes, when a ping is not answered, or when the last sender is dropped.
                let since = Instant::now();
                let end = drive(connection, &socket, &owner, config).await;
                if owner.is_proven() || since.elapsed() >= SETTLED {
                    backoff.reset();
                    owner.publish(Link::Connecting);
                    continue;
                }
                end.map_or_else(|why| why, |()| "closed without an answer".to_owned())
            }
            Err(why) => why,
        };
        if owner.has_left() {
            break;
        }
        let wait = backoff.next_wait();
        if outage.begins(Instant::now()) {
            tracing::warn!(
                destination = dial.destination,
                owner = owner.name(),
                why,
                "owner is down, what is for it is refused with a retry hint until it is back"
            );
        } else {
            tracing::debug!(owner = owner.name(), why, ?wait, "owner is down");
        }
        owner.publish(Link::Down { until: Instant::now() + wait, why: why.into() });
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = owner.left() => {}
        }
    }
}

type Opened = (SendRequest<Data>, Connection<Io, Data>, Io);

async fn open(owner: &Owner, dial: &Dial) -> Result<Opened, String> {
    let config = &dial.connection;
    let connect = async {
        let stream =
            outgoing::connect(owner.authority().as_str()).await.map_err(|error| format!("connect: {error}"))?;
        stream.set_nodelay(true).map_err(|error| format!("TCP_NODELAY: {error}"))?;
        let stream: Pin<Box<dyn Stream>> = match &dial.tls {
            None => Box::pin(stream),
            Some(tls) => Box::pin(encrypted(owner, tls, stream).await?),
        };
        let socket = Gathered::new(stream);
        let (sender, connection) = Builder::new()
            .enable_push(false)
            .initial_window_size(ANSWER_WINDOW)
            .initial_connection_window_size(ANSWER_WINDOW)
            .max_header_list_size(ANSWER_HEADERS)
            .handshake(socket.clone())
            .await
            .map_err(|error| format!("HTTP/2 handshake: {error}"))?;
        Ok((sender, connection, socket))
    };
    match tokio::time::timeout(config.connect_timeout, connect).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("connect: no answer within {:?}", config.connect_timeout)),
    }
}

/// Moves the frames of a connection until it ends.
async fn drive(
    mut connection: Connection<Io, Data>,
    socket: &Io,
    owner: &Owner,
    config: &ConnectionConfig,
) -> Result<(), String> {
    let mut keepalive = connection.ping_pong().map(|pings| Keepalive::new(pings, config));
    poll_fn(|cx| {
        if keepalive.as_mut().is_some_and(|keepalive| keepalive.poll_silent(cx, owner).is_ready()) {
            return Poll::Ready(Err(format!("no answer to a ping within {:?}", config.keepalive_timeout)));
        }
        let ended = Pin::new(&mut connection).poll(cx).map_err(|error| error.to_string());
        // All frames of this turn leave in one call; while the peer does not read, they wait.
        match socket.poll_send(cx) {
            Poll::Ready(Err(error)) if ended.is_pending() => Poll::Ready(Err(error.to_string())),
            _ => ended,
        }
    })
    .await
}

/// Pings an owner that has been silent. Answers count as life, so a busy connection carries no pings.
struct Keepalive {
    pings: PingPong,
    timer: Pin<Box<Sleep>>,
    every: Duration,
    patience: Duration,
    /// A ping is on its way; the timer runs until it must be answered.
    pinged: bool,
}

impl Keepalive {
    fn new(pings: PingPong, config: &ConnectionConfig) -> Self {
        let timer = Box::pin(tokio::time::sleep(config.keepalive_time));
        Self { pings, timer, every: config.keepalive_time, patience: config.keepalive_timeout, pinged: false }
    }

    /// Ready once a ping was not answered in time.
    fn poll_silent(&mut self, cx: &mut Context<'_>, owner: &Owner) -> Poll<()> {
        loop {
            if self.pinged && self.pings.poll_pong(cx).is_ready() {
                self.pinged = false;
                self.timer.as_mut().reset(Instant::now() + self.every);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.pinged {
                return Poll::Ready(());
            }
            let now = Instant::now();
            let due = owner.heard() + self.every;
            // A ping that cannot be sent means that the connection is ending, which says why by itself.
            self.pinged = due <= now && self.pings.send_ping(Ping::opaque()).is_ok();
            let next = if self.pinged { now + self.patience } else { due };
            self.timer.as_mut().reset(if next > now { next } else { now + self.every });
        }
    }
}

async fn encrypted(owner: &Owner, tls: &Connector, stream: TcpStream) -> Result<TlsStream<TcpStream>, String> {
    let name = tls.server_name(owner.authority().host()).map_err(|error| format!("tls.{error}"))?;
    let connector = TlsConnector::from(tls.config());
    connector.connect(name, stream).await.map_err(|error| format!("TLS handshake: {error}"))
}
