//! Gathers what HTTP/2 writes in one turn, so that it goes to the socket in one call.
//!
//! h2 writes each DATA frame by itself. When several requests wait for one owner, each would cost a system
//! call of its own; here they are copied together, which costs less than the call. What is too large to be
//! copied goes through as it is, behind what was gathered.
//!
//! Invariants: bytes leave in the order in which they came; whoever polls the connection calls
//! [`Gathered::poll_send`] afterwards, or what was gathered stays.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are gathered at most.
const ROOM: usize = 32 << 10;

/// A stream whose writes wait for [`Gathered::poll_send`].
#[derive(Debug)]
pub(super) struct Gathered<S> {
    inner: Arc<Mutex<Inner<S>>>,
}

#[derive(Debug)]
struct Inner<S> {
    stream: S,
    waiting: BytesMut,
}

impl<S> Clone for Gathered<S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gathered<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { inner: Arc::new(Mutex::new(Inner { stream, waiting: BytesMut::new() })) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<S>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what was gathered.
    pub(super) fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().poll_send(cx)
    }
}

impl<S: AsyncWrite + Unpin> Inner<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.waiting))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.waiting.advance(sent),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn gather(&mut self, parts: &[io::IoSlice<'_>]) -> Option<usize> {
        let bytes = parts.iter().map(|part| part.len()).sum::<usize>();
        if self.waiting.len() + bytes > ROOM {
            return None;
        }
        // Empty, it starts at the front of its memory again.
        self.waiting.reserve(bytes);
        for part in parts {
            self.waiting.extend_from_slice(part);
        }
        Some(bytes)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.lock().stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.lock();
        if let Some(bytes) = inner.gather(bufs) {
            return Poll::Ready(Ok(bytes));
        }
        ready!(inner.poll_send(cx))?;
        Pin::new(&mut inner.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What was gathered counts as flushed: it is sent at the end of the turn.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        if inner.waiting.is_empty() { Pin::new(&mut inner.stream).poll_flush(cx) } else { Poll::Ready(Ok(())) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        ready!(inner.poll_send(cx))?;
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn send(gathered: &Gathered<tokio::io::DuplexStream>) {
        std::future::poll_fn(|cx| gathered.poll_send(cx)).await.unwrap();
    }

    #[tokio::test]
    async fn small_writes_leave_together_and_a_large_one_behind_them() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut gathered = Gathered::new(near);
        gathered.write_all(b"one").await.unwrap();
        gathered.flush().await.unwrap();
        gathered.write_all(b"two").await.unwrap();
        let mut got = [0; 64];
        assert!(far.read(&mut got).now_or_never().is_none(), "nothing is sent before the turn ends");
        send(&gathered).await;
        assert_eq!(far.read(&mut got).await.unwrap(), 6);
        assert_eq!(&got[..6], b"onetwo");
        let large = vec![7; ROOM + 1];
        gathered.write_all(b"before").await.unwrap();
        gathered.write_all(&large).await.unwrap();
        send(&gathered).await;
        let mut all = vec![0; 6 + large.len()];
        far.read_exact(&mut all).await.unwrap();
        assert_eq!(&all[..6], b"before");
        assert_eq!(all[6..], large[..]);
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_holds_back_what_comes_and_nothing_is_lost() {
        let (near, mut far) = tokio::io::duplex(1000);
        let mut gathered = Gathered::new(near);
        let sent: Vec<u8> = (0..100_000_u32).map(|at| at as u8).collect();
        let writing = async {
            for piece in sent.chunks(700) {
                gathered.write_all(piece).await.unwrap();
            }
            gathered.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let ((), read) = tokio::join!(writing, far.read_to_end(&mut got));
        assert_eq!(read.unwrap(), sent.len());
        assert_eq!(got, sent);
    }
}
