//! Accepts the connections of one port within the limits.
//!
//! Never: stops accepting because of one bad connection; accepts anything once the drain has begun.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use mirador_service::tls::Acceptor;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use xxhash_rust::xxh3::xxh3_64;

use super::activity::Lifetime;
use super::connection::{self, Client, Shared};
use super::windows::Windows;
use crate::{Consume, Gate};

/// A pause after a failure that is not of one connection (no file descriptors, no memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// One port.
#[derive(Debug)]
pub(super) struct Listener {
    /// `grpc` or `http`.
    pub(super) name: &'static str,
    pub(super) socket: TcpListener,
    pub(super) windows: Arc<Windows>,
    pub(super) max_connections: usize,
    pub(super) gate: Option<Arc<dyn Gate>>,
    pub(super) tls: Option<Arc<Acceptor>>,
    pub(super) lifetime: Lifetime,
}

impl Listener {
    /// Serves until the drain has begun and every connection has ended.
    pub(super) async fn run<C: Consume>(self, shared: Arc<Shared<C>>) {
        let Self { name, socket, windows, max_connections, gate, tls, lifetime } = self;
        let slots = Arc::new(Semaphore::new(max_connections));
        let drain = shared.drain.clone();
        let accepting = drain.guard();
        let meters = Arc::clone(&shared.meters);
        let mut draining = pin!(drain.started());
        let mut sequence = 0_u64;
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut draining => break,
                accepted = socket.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    meters.turned_away(name, "accept_error");
                    if !of_one_connection(&error) {
                        tracing::warn!(listener = name, %error, "cannot accept connections");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                    continue;
                }
            };
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                meters.turned_away(name, "max_connections");
                continue;
            };
            let Some(window) = windows.reserve(shared.grpc.http2.connection_window) else {
                meters.turned_away(name, "connection_memory");
                continue;
            };
            if stream.set_nodelay(true).is_err() {
                meters.turned_away(name, "accept_error");
                continue;
            }
            sequence += 1;
            let lifetime = Lifetime { age: jittered(lifetime.age, sequence), ..lifetime.clone() };
            let meter = meters.connection(name);
            let client = Client { stream, peer, gate: gate.clone(), tls: tls.clone() };
            let serving = connection::serve(Arc::clone(&shared), client, lifetime, window, meter);
            tokio::spawn(async move {
                serving.await;
                drop(slot);
            });
        }
        // The port is closed before the connections are waited for: new clients go elsewhere.
        drop(socket);
        drop(accepting);
        let all = u32::try_from(max_connections).unwrap_or(u32::MAX);
        // The semaphore is never closed; every slot is back once every connection has ended.
        drop(slots.acquire_many(all).await);
    }
}

/// `age` plus or minus a tenth, by the connection's number.
fn jittered(age: Duration, sequence: u64) -> Duration {
    let thousandths = xxh3_64(&sequence.to_le_bytes()) % 201;
    age * (900 + thousandths as u32) / 1000
}

/// Whether a failure to accept is over with the connection that caused it (accept(2)).
fn of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_spread_over_a_fifth_around_the_configured_one() {
        let age = Duration::from_secs(100);
        let ages: Vec<_> = (0..1000).map(|sequence| jittered(age, sequence)).collect();
        assert!(ages.iter().all(|age| (90..=110).contains(&age.as_secs())));
        assert!(ages.iter().any(|age| age.as_secs() < 92) && ages.iter().any(|age| age.as_secs() > 107));
        assert_eq!(jittered(Duration::ZERO, 7), Duration::ZERO);
    }
}
