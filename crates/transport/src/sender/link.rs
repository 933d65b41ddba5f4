//! Keeps the connection to one owner: opens it, notices its end, probes an owner that is down.
//!
//! Invariants: at most one connection attempt at a time per owner; the wait between probes grows to
//! `connection.max_probe_interval`; a young connection that ends before it carried an answer counts as a
//! failed connect, so a peer that accepts and hangs up is not dialled in a hot loop.

use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http2::{self, Connection, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mirador_service::backoff::{Backoff, RetryConfig};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::config::ConnectionConfig;
use super::frame::MessageBody;
use super::owner::{Link, Owner};

/// Windows for answers, which are small; what we send is bounded by the owner's windows.
const ANSWER_WINDOW: u32 = 256 << 10;

/// The first wait after a failed connect.
const FIRST_PROBE: Duration = Duration::from_millis(200);

/// A connection that lived this long was no failed connect, even if nothing was sent on it.
const SETTLED: Duration = Duration::from_secs(5);

type Io = TokioIo<TcpStream>;

/// Runs until the owner leaves (or the task is aborted with its destination).
pub(super) async fn keep(owner: Arc<Owner>, config: ConnectionConfig, seed: u64) {
    let probes = RetryConfig {
        initial_interval: FIRST_PROBE.min(config.max_probe_interval),
        max_interval: config.max_probe_interval,
        ..RetryConfig::default()
    };
    let mut backoff = Backoff::new(&probes, seed);
    while !owner.has_left() {
        let why = match open(&owner, &config).await {
            Ok((sender, connection)) => {
                tracing::debug!(owner = owner.name(), "connected");
                owner.publish(Link::Up(sender));
                // Ends when the peer closes, when a ping is not answered, or when the last sender is dropped.
                let since = Instant::now();
                let end = connection.await;
                if owner.is_proven() || since.elapsed() >= SETTLED {
                    backoff.reset();
                    owner.publish(Link::Connecting);
                    continue;
                }
                end.map_or_else(|error| error.to_string(), |()| "closed without an answer".to_owned())
            }
            Err(why) => why,
        };
        if owner.has_left() {
            break;
        }
        let wait = backoff.next_wait();
        tracing::debug!(owner = owner.name(), why, ?wait, "owner is down");
        owner.publish(Link::Down { until: Instant::now() + wait, why: why.into() });
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = owner.left() => {}
        }
    }
}

type Opened = (SendRequest<MessageBody>, Connection<Io, MessageBody, TokioExecutor>);

async fn open(owner: &Owner, config: &ConnectionConfig) -> Result<Opened, String> {
    let connect = async {
        let stream =
            TcpStream::connect(owner.authority().as_str()).await.map_err(|error| format!("connect: {error}"))?;
        stream.set_nodelay(true).map_err(|error| format!("TCP_NODELAY: {error}"))?;
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(ANSWER_WINDOW)
            .initial_connection_window_size(ANSWER_WINDOW)
            .keep_alive_interval(config.keepalive_time)
            .keep_alive_timeout(config.keepalive_timeout)
            .keep_alive_while_idle(true)
            .max_send_buf_size(config.max_send_buffer_bytes as usize)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| format!("HTTP/2 handshake: {error}"))
    };
    match tokio::time::timeout(config.connect_timeout, connect).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("connect: no answer within {:?}", config.connect_timeout)),
    }
}
