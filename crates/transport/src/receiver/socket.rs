//! The accepted socket: tells [`Activity`] what is read, and closes so that a refused peer can read why.
//!
//! Closing a socket that still receives makes the kernel send RST, which may overtake the answer. When
//! an answer went out before the body had come, the close waits for the peer, briefly and reading into
//! nothing (as nginx's `lingering_close`).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::activity::Activity;

/// How long a close waits for the peer.
const LINGER: Duration = Duration::from_secs(2);
/// What is read into nothing meanwhile.
const LINGER_BYTES: usize = 64 << 20;

/// An accepted connection.
pub(super) struct Socket {
    stream: TcpStream,
    activity: Arc<Activity>,
    closing: Option<Closing>,
}

struct Closing {
    timer: Pin<Box<Sleep>>,
    left: usize,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, activity: Arc<Activity>) -> Self {
        Self { stream, activity, closing: None }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.activity.read(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.closing.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            if !this.activity.lingers() {
                return Poll::Ready(Ok(()));
            }
        }
        let closing = this
            .closing
            .get_or_insert_with(|| Closing { timer: Box::pin(tokio::time::sleep(LINGER)), left: LINGER_BYTES });
        let mut scratch = [0_u8; 16 << 10];
        while closing.left > 0 && closing.timer.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buf))?;
            match buf.filled().len() {
                0 => break,
                n => closing.left = closing.left.saturating_sub(n),
            }
        }
        Poll::Ready(Ok(()))
    }
}
