//! Reads request bodies: permits first, then bytes, never more than was paid for, never slower than is
//! tolerated.
//!
//! A body that arrives in one piece is handed on without a copy; a longer one is copied once into a
//! buffer of its exact size. No timer exists while bytes are ready.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http_body::Body as _;
use hyper::body::Incoming;
use mirador_service::memory::Permit;
use tokio::time::{Instant, Sleep};
use tonic::Code;

use super::buffer;
use super::config::BodyConfig;
use super::fault::Fault;

/// Smaller pieces are copied: a view would keep the connection's whole read buffer alive.
const COPY_BELOW: usize = 1024;

/// Charged for a request besides its bytes: its task, its headers, its place in tables.
pub(super) const REQUEST_OVERHEAD: usize = 4 << 10;

/// What a refused body may still have to come for it to be waited for, and how long. HTTP/1.1 keeps the
/// connection that way; on HTTP/2 the peer's frames meet an open stream instead of counting as errors.
const DRAIN_AT_MOST: u64 = 64 << 10;
const DRAIN_WAIT: Duration = Duration::from_millis(200);

/// A kept buffer's surplus is at most this share of the budget.
const SURPLUS_SHARE: usize = 64;

/// A body that is being read against the clock.
pub(super) struct BodyReader<'a> {
    body: Incoming,
    pace: &'a BodyConfig,
    clock: Option<Clock>,
    /// Bytes that have arrived, and bytes that will have when all is well.
    received: u64,
    expected: Option<u64>,
}

/// Runs only while the reader has to wait.
struct Clock {
    timer: Pin<Box<Sleep>>,
    deadline: Instant,
    /// What had arrived when the present span of progress began.
    mark: u64,
}

/// One gRPC message.
#[derive(Debug)]
pub(super) struct Message {
    /// The frame says that it is compressed.
    pub(super) compressed: bool,
    /// Its bytes.
    pub(super) data: Bytes,
}

impl<'a> BodyReader<'a> {
    /// Reads `body` at the pace that `pace` asks for.
    pub(super) fn new(body: Incoming, pace: &'a BodyConfig) -> Self {
        let expected = body.size_hint().exact();
        Self { body, pace, clock: None, received: 0, expected }
    }

    /// Bytes that have arrived.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// The next piece; none at the end. Trailers are ignored.
    async fn chunk(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            if self.body.is_end_stream() {
                return Ok(None);
            }
            match poll_fn(|cx| self.poll_frame(cx)).await? {
                None => return Ok(None),
                Some(data) if data.is_empty() => {}
                Some(data) => {
                    self.received += data.len() as u64;
                    return Ok(Some(data));
                }
            }
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(None) => return Poll::Ready(Ok(None)),
            Poll::Ready(Some(Ok(frame))) => {
                return Poll::Ready(Ok(Some(frame.into_data().unwrap_or_default())));
            }
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(Fault::unreadable(&error))),
            Poll::Pending => {}
        }
        let received = self.received;
        let pace = self.pace;
        let clock = self.clock.get_or_insert_with(|| {
            let now = Instant::now();
            let deadline = now + pace.read_timeout;
            let first = deadline.min(now + pace.progress_interval);
            Clock { timer: Box::pin(tokio::time::sleep_until(first)), deadline, mark: received }
        });
        while clock.timer.as_mut().poll(cx).is_ready() {
            let fired = clock.timer.deadline();
            if fired >= clock.deadline {
                let message = format!("the body did not arrive within {:?}", pace.read_timeout);
                return Poll::Ready(Err(Fault::slow("body_timeout", message)));
            }
            if received - clock.mark < pace.min_progress_bytes {
                let (least, span) = (pace.min_progress_bytes, pace.progress_interval);
                let message = format!("the body arrives too slowly: less than {least} bytes in {span:?}");
                return Poll::Ready(Err(Fault::slow("body_stalled", message)));
            }
            clock.mark = received;
            clock.timer.as_mut().reset(clock.deadline.min(fired + pace.progress_interval));
        }
        Poll::Pending
    }

    /// Reads the one message of a unary call; `permit` grows by its length before it is read.
    pub(super) async fn message(&mut self, limit: usize, permit: &mut Permit) -> Result<Message, Fault> {
        let mut head = [0_u8; 5];
        let mut filled = 0;
        let mut piece = Bytes::new();
        while filled < head.len() {
            piece = match self.chunk().await? {
                Some(piece) => piece,
                None if filled == 0 => {
                    return Err(Fault::bad(
                        "no_message",
                        Code::Internal,
                        "the call carries no message; it takes exactly one",
                    ));
                }
                None => return Err(truncated(head.len(), filled)),
            };
            let n = piece.len().min(head.len() - filled);
            head[filled..filled + n].copy_from_slice(&piece[..n]);
            piece.advance(n);
            filled += n;
        }
        let compressed = match head[0] {
            0 => false,
            1 => true,
            flag => {
                let message = format!("the message's compression flag is {flag}; it must be 0 or 1");
                return Err(Fault::bad("framing", Code::Internal, message));
            }
        };
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        self.expected = Some(head.len() as u64 + length as u64);
        if length > limit {
            return Err(Fault::too_large(length as u64, limit));
        }
        pay(length, permit)?;
        let (data, rest) = self.exactly(length, piece, permit).await?;
        if data.len() < length {
            return Err(truncated(length, data.len()));
        }
        if !rest.is_empty() || self.chunk().await?.is_some() {
            return Err(Fault::bad(
                "many_messages",
                Code::Internal,
                "the call carries more than one message; it takes exactly one",
            ));
        }
        Ok(Message { compressed, data })
    }

    /// `length` bytes that are paid for, and what came behind them. Fewer at the end of the body.
    async fn exactly(&mut self, length: usize, mut piece: Bytes, permit: &mut Permit) -> Result<(Bytes, Bytes), Fault> {
        if length <= piece.len() && !(1..COPY_BELOW).contains(&length) {
            let data = piece.split_to(length);
            return Ok((data, piece));
        }
        let mut filled = room(length, permit);
        loop {
            let n = piece.len().min(length - filled.len());
            filled.extend_from_slice(&piece[..n]);
            piece.advance(n);
            if filled.len() == length {
                return Ok((buffer::freeze(filled), piece));
            }
            match self.chunk().await? {
                Some(next) => piece = next,
                None => return Ok((buffer::freeze(filled), Bytes::new())),
            }
        }
    }

    /// Reads a body over HTTP; `permit` grows before each byte is kept.
    pub(super) async fn whole(&mut self, limit: usize, permit: &mut Permit) -> Result<Bytes, Fault> {
        if let Some(declared) = self.expected {
            if declared > limit as u64 {
                return Err(Fault::too_large(declared, limit));
            }
            pay(declared as usize, permit)?;
            let first = self.chunk().await?.unwrap_or_default();
            let (data, _) = self.exactly(declared as usize, first, permit).await?;
            return Ok(data);
        }
        let mut collected = Vec::new();
        while let Some(piece) = self.chunk().await? {
            let needed = collected.len() + piece.len();
            if needed > limit {
                return Err(Fault::too_large_stream(limit));
            }
            if needed > collected.capacity() {
                let length = needed.next_power_of_two().max(8 << 10).min(limit);
                pay(length, permit)?;
                let mut wider = room(length, permit);
                wider.extend_from_slice(&collected);
                let narrow = collected.capacity();
                buffer::give(std::mem::replace(&mut collected, wider));
                permit.shrink_to(permit.bytes() - narrow);
            }
            collected.extend_from_slice(&piece);
        }
        Ok(buffer::freeze(collected))
    }

    /// Lets a refused body run out when little of it is left. True when it ended; what comes is dropped
    /// at once and needs no permit.
    pub(super) async fn drain(mut self) -> bool {
        let most = self.received + DRAIN_AT_MOST;
        if self.expected.is_some_and(|expected| expected > most) {
            return false;
        }
        let ended = async {
            while self.received <= most {
                match self.chunk().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return true,
                    Err(_) => return false,
                }
            }
            false
        };
        tokio::time::timeout(DRAIN_WAIT, ended).await.unwrap_or(false)
    }
}

/// Grows the permit, or tells that memory is in use, or that there is not as much at all.
pub(super) fn pay(bytes: usize, permit: &mut Permit) -> Result<(), Fault> {
    if permit.grow(bytes) {
        Ok(())
    } else if permit.could_grow(bytes) {
        Err(Fault::memory())
    } else {
        Err(Fault::too_large_for_memory(permit.limit()))
    }
}

/// An empty buffer for `length` bytes that are paid for. A kept buffer may be wider: what it has more is paid
/// for too, or it is not used. It is little beside the budget, because a request that would fit without it
/// must not be told that it is too large.
pub(super) fn room(length: usize, permit: &mut Permit) -> Vec<u8> {
    let taken = buffer::take(length);
    let extra = taken.capacity() - length;
    if extra == 0 || (extra <= permit.limit() / SURPLUS_SHARE && permit.grow(extra)) {
        return taken;
    }
    buffer::give(taken);
    Vec::with_capacity(length)
}

fn truncated(expected: usize, got: usize) -> Fault {
    let message = format!("the message ends early: {got} of {expected} bytes");
    Fault::bad("truncated", Code::Internal, message)
}

#[cfg(test)]
mod tests {
    use mirador_service::memory::Budget;

    use super::*;

    #[test]
    fn a_kept_buffer_is_not_used_when_its_surplus_would_make_the_request_too_large() {
        for (limit, used) in [(20 << 10, false), (64 * (8 << 10), true)] {
            buffer::give(Vec::with_capacity(16 << 10));
            let mut permit = Budget::new(limit).try_acquire(8 << 10).expect("it is free");
            let taken = room(8 << 10, &mut permit);
            assert_eq!((taken.capacity() == 16 << 10, permit.bytes()), (used, taken.capacity()), "{limit}");
            assert!(permit.could_grow(12 << 10), "the decompressed body fits beside it: {limit}");
        }
    }
}
