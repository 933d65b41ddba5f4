//! Opens the connections that this process makes to its owners.
//!
//! A process that steers connections marks its own before they connect, so that it never steers itself.
//! The mark is set once for the process, because a socket that is forgotten is one too many.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::OnceLock;

use tokio::net::{TcpSocket, TcpStream, lookup_host};

type Mark = Box<dyn Fn(BorrowedFd<'_>) + Send + Sync>;

static MARK: OnceLock<Mark> = OnceLock::new();

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
    for address in lookup_host(authority).await? {
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
}
