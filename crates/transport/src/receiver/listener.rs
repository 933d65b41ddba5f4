//! Accepts the connections of one port within the limits, alone or as one of several threads.
//!
//! Never: stops accepting because of one bad connection; accepts anything once the drain has begun.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use mirador_service::tls::Acceptor;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use xxhash_rust::xxh3::xxh3_64;

use super::activity::Lifetime;
use super::connection::{self, Client, Shared};
use super::spread::Seat;
use super::threads::{Handed, Lane};
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
    /// A place for each connection that the port may have.
    pub(super) slots: Arc<Semaphore>,
    /// Where connections are spread over threads.
    pub(super) lane: Option<Lane>,
}

impl Listener {
    /// Serves until the drain has begun and every connection has ended.
    pub(super) async fn run<C: Consume>(mut self, shared: Arc<Shared<C>>) {
        let socket = match self.socket.try_clone().and_then(tokio::net::TcpListener::from_std) {
            Ok(socket) => socket,
            Err(error) => return tracing::error!(listener = self.name, %error, "a listener cannot be waited for"),
        };
        let drain = shared.drain.clone();
        let accepting = drain.guard();
        let mut draining = pin!(drain.started());
        let mut sequence = 0_u64;
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut draining => break,
                Some(handed) = handed(&mut self.lane) => {
                    let Handed { stream, peer, seat } = handed;
                    TcpStream::from_std(stream).map(|stream| (stream, peer, Some(seat)))
                }
                accepted = socket.accept() => accepted.map(|(stream, peer)| (stream, peer, None)),
            };
            let (stream, peer, seat) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    shared.meters.turned_away(self.name, "accept_error");
                    if !of_one_connection(&error) {
                        tracing::warn!(listener = self.name, %error, "cannot accept connections");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                    continue;
                }
            };
            if let Some((stream, seat)) = self.keep(stream, peer, seat, &shared) {
                sequence += 1;
                self.begin(stream, peer, seat, &shared, sequence);
            }
        }
        // The port is closed before the connections are waited for: new clients go elsewhere.
        drop((socket, self.socket));
        drop(accepting);
        let all = u32::try_from(self.max_connections).unwrap_or(u32::MAX);
        // The semaphore is never closed; every slot is back once every connection has ended.
        drop(self.slots.acquire_many(all).await);
    }

    /// The connection and its place, unless another thread has taken it over.
    fn keep<C>(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        seat: Option<Seat>,
        shared: &Shared<C>,
    ) -> Option<(TcpStream, Option<Seat>)> {
        let Some(lane) = self.lane.as_ref().filter(|_| seat.is_none()) else { return Some((stream, seat)) };
        let seat = lane.balance.place(lane.index);
        if seat.thread == lane.index {
            return Some((stream, Some(seat)));
        }
        let Ok(stream) = stream.into_std() else {
            shared.meters.turned_away(self.name, "accept_error");
            return None;
        };
        match lane.others[seat.thread].try_send(Handed { stream, peer, seat }) {
            Ok(()) => {
                shared.meters.moved();
                None
            }
            // That thread is behind or gone.
            Err(refused) => {
                let Handed { stream, seat, .. } = refused.into_inner();
                drop(seat);
                let stream = TcpStream::from_std(stream).ok()?;
                Some((stream, Some(lane.balance.stay(lane.index))))
            }
        }
    }

    fn begin<C: Consume>(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        seat: Option<Seat>,
        shared: &Arc<Shared<C>>,
        sequence: u64,
    ) {
        let meters = &shared.meters;
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            return meters.turned_away(self.name, "max_connections");
        };
        let Some(window) = self.windows.reserve(shared.grpc.http2.connection_window) else {
            return meters.turned_away(self.name, "connection_memory");
        };
        if stream.set_nodelay(true).is_err() {
            return meters.turned_away(self.name, "accept_error");
        }
        let lifetime = Lifetime { age: jittered(self.lifetime.age, sequence), ..self.lifetime.clone() };
        let meter = meters.connection(self.name);
        let client = Client { stream, peer, gate: self.gate.clone(), tls: self.tls.clone() };
        let serving = connection::serve(Arc::clone(shared), client, lifetime, window, meter);
        tokio::spawn(async move {
            serving.await;
            drop((slot, seat));
        });
    }
}

/// The next connection that another thread hands over; none without threads.
async fn handed(lane: &mut Option<Lane>) -> Option<Handed> {
    match lane {
        Some(lane) => lane.handed.recv().await,
        None => std::future::pending().await,
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
