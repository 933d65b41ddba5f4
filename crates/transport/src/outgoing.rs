//! Opens the connections that this process makes to its owners, and looks their names up.
//!
//! A look-up blocks a thread of the runtime for as long as the name servers are silent, whatever patience its
//! caller has. Few go on at a time, so that a dead name server never takes all of these threads (large
//! OTLP/JSON bodies need them as well) and what waits for one is bounded by who asks.
//!
//! A process that steers connections marks its own before they connect, so that it never steers itself.
//! The mark is set once for the process, because a socket that is forgotten is one too many.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::OnceLock;

use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;

type Mark = Box<dyn Fn(BorrowedFd<'_>) + Send + Sync>;

static MARK: OnceLock<Mark> = OnceLock::new();

/// Look-ups at a time: half of the threads for work that blocks which an agent has.
static LOOK_UPS: Semaphore = Semaphore::const_new(2);

/// The addresses of `authority` (`host:port`). What is an address already is not looked up.
///
/// # Errors
/// What the system's resolver says.
pub async fn look_up(authority: String) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = authority.parse() {
        return Ok(vec![address]);
    }
    let permit = LOOK_UPS.acquire().await.map_err(io::Error::other)?;
    let looked_up = tokio::task::spawn_blocking(move || {
        // Held until the resolver has answered, also when nobody waits for it any more.
        let _permit = permit;
        authority.to_socket_addrs().map(Iterator::collect)
    });
    looked_up.await.map_err(io::Error::other)?
}

/// Calls `mark` with every socket before it connects, from now on. The first mark stays.
pub fn mark_with(mark: impl Fn(BorrowedFd<'_>) + Send + Sync + 'static) {
    MARK.set(Box::new(mark)).ok();
}

/// Connects to `authority` (`host:port`): to the first of its addresses that answers.
///
/// # Errors
/// When the name has no address, or none of them answers; the error is the last address's.
pub async fn connect(authority: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in look_up(authority.to_owned()).await? {
        match connect_to(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Connects to `address`.
///
/// # Errors
/// When it does not answer.
pub async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(mark) = MARK.get() {
        mark(socket.as_fd());
    }
    socket.connect(address).await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures_util::FutureExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn every_socket_is_marked_before_it_connects_and_a_name_leads_to_the_address_that_answers() {
        let marked = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&marked);
        mark_with(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stream = connect(&format!("localhost:{port}")).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap().port(), port);
        assert!(marked.load(Ordering::SeqCst) >= 1);
        drop(listener);
        assert_eq!(connect(&format!("127.0.0.1:{port}")).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_name_waits_while_other_look_ups_hang_and_an_address_does_not() {
        let hanging = LOOK_UPS.acquire_many(2).await.unwrap();
        let mut name = Box::pin(look_up("localhost:9".to_owned()));
        assert!((&mut name).now_or_never().is_none());
        for address in ["127.0.0.1:9", "[::1]:9"] {
            assert_eq!(look_up(address.to_owned()).await.unwrap(), [address.parse().unwrap()]);
        }
        assert!((&mut name).now_or_never().is_none());
        drop(hanging);
        assert!(name.await.unwrap().iter().all(|found| found.ip().is_loopback() && found.port() == 9));
    }
}
