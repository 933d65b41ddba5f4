//! The accepted socket: tells [`Activity`] what is read, and closes so that a refused peer can read why.
//!
//! Closing a socket that still receives makes the kernel send RST, which may overtake the answer. When
//! an answer went out before the body had come, the close waits for the peer, briefly and reading into
//! nothing (as nginx's `lingering_close`): for as long as something comes, within limits.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;

use super::activity::Activity;

/// Reads into less room than this take with them what else has come: HTTP/2 reads into what is left of its
/// buffer, and a request that does not fit there would cost a second call.
const NARROW: usize = 8 << 10;
/// What such a read takes at most.
const AHEAD: usize = 16 << 10;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; AHEAD].into());
}

/// How long a close waits for a peer that sends nothing more.
const LINGER_SILENT: Duration = Duration::from_secs(2);
/// How long it waits for one that goes on sending.
const LINGER: Duration = Duration::from_secs(10);
/// What is read into nothing meanwhile.
const LINGER_BYTES: usize = 64 << 20;

/// The bytes of a connection.
pub(super) enum Stream {
    /// As they are on the wire.
    Plain(TcpStream),
    /// Decrypted.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Calls a method of whichever stream it is.
macro_rules! either {
    ($stream:expr, $method:ident $(, $argument:expr)*) => {
        match $stream {
            Stream::Plain(stream) => Pin::new(stream).$method($($argument),*),
            Stream::Tls(stream) => Pin::new(&mut **stream).$method($($argument),*),
        }
    };
}

/// An accepted connection.
pub(super) struct Socket {
    stream: Stream,
    activity: Arc<Activity>,
    /// What was read and did not fit where it was asked for; at most [`AHEAD`] bytes.
    ahead: Bytes,
    closing: Option<Closing>,
}

struct Closing {
    timer: Pin<Box<Sleep>>,
    patience: Patience,
}

/// What a close still waits for.
#[derive(Debug)]
struct Patience {
    /// The end, whatever comes.
    until: Instant,
    left: usize,
}

impl Patience {
    fn new(now: Instant) -> Self {
        Self { until: now + LINGER, left: LINGER_BYTES }
    }

    /// When the peer has to have sent more; none when it is not waited for any longer.
    fn next(&mut self, now: Instant, read: usize) -> Option<Instant> {
        self.left = self.left.checked_sub(read)?;
        (now < self.until).then(|| self.until.min(now + LINGER_SILENT))
    }
}

impl Socket {
    pub(super) fn new(stream: Stream, activity: Arc<Activity>) -> Self {
        Self { stream, activity, ahead: Bytes::new(), closing: None }
    }
}

/// Fills `buf` and returns what came behind it.
fn read_ahead(stream: &mut TcpStream, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<Bytes>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut wide = ReadBuf::new(scratch);
        ready!(Pin::new(stream).poll_read(cx, &mut wide))?;
        let (fits, behind) = wide.filled().split_at(wide.filled().len().min(buf.remaining()));
        buf.put_slice(fits);
        Poll::Ready(Ok(Bytes::copy_from_slice(behind)))
    })
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let this = &mut *self;
        if this.ahead.is_empty() {
            match &mut this.stream {
                Stream::Plain(stream) if buf.remaining() < NARROW => this.ahead = ready!(read_ahead(stream, cx, buf))?,
                stream => ready!(either!(stream, poll_read, cx, buf))?,
            }
        } else {
            let fits = this.ahead.len().min(buf.remaining());
            buf.put_slice(&this.ahead.split_to(fits));
        }
        this.activity.read(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(&mut self.stream, poll_write, cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(&mut self.stream, poll_write_vectored, cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut self.stream, poll_flush, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.closing.is_none() {
            ready!(either!(&mut this.stream, poll_shutdown, cx))?;
            if !this.activity.lingers() {
                return Poll::Ready(Ok(()));
            }
        }
        let closing = this.closing.get_or_insert_with(|| Closing {
            timer: Box::pin(tokio::time::sleep(LINGER_SILENT)),
            patience: Patience::new(Instant::now()),
        });
        let mut scratch = [0_u8; 16 << 10];
        while closing.timer.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::new(&mut scratch);
            ready!(either!(&mut this.stream, poll_read, cx, &mut buf))?;
            let read = buf.filled().len();
            match closing.patience.next(Instant::now(), read).filter(|_| read > 0) {
                Some(until) => closing.timer.as_mut().reset(until),
                None => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_waits_for_a_peer_that_goes_on_and_not_without_end() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut patience = Patience::new(start);
        assert_eq!(patience.next(at(1), 10), Some(at(3)));
        assert_eq!(patience.next(at(9), 10), Some(at(10)), "no longer than in all");
        assert_eq!(patience.next(at(10), 10), None);
        let mut patience = Patience::new(start);
        assert_eq!(patience.next(at(0), LINGER_BYTES), Some(at(2)));
        assert_eq!(patience.next(at(0), 1), None, "not more than is read into nothing");
    }
}
