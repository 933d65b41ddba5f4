//! What one connection is doing, shared by its socket, its requests and its watch, and the rules by
//! which it ends: idle, a header that does not finish, age.
//!
//! The clock is read once per request and once per header, not per read. Invariant: `in_flight` counts
//! the calls that the service has begun and not answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// What an HTTP/2 client says first (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `preface` once the first bytes were not HTTP/2's.
const HTTP1: u8 = u8::MAX;

/// One connection's state.
#[derive(Debug)]
pub(super) struct Activity {
    opened: Instant,
    in_flight: AtomicU32,
    /// Milliseconds after `opened`: the last call ended.
    last_ms: AtomicU64,
    /// Milliseconds after `opened`, plus one: a header has begun; 0 when none has.
    header_ms: AtomicU64,
    /// Bytes of the preface that have come, or [`HTTP1`].
    preface: AtomicU8,
    /// The peer is still sending a body that nobody reads.
    linger: AtomicBool,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            opened: Instant::now(),
            in_flight: AtomicU32::new(0),
            last_ms: AtomicU64::new(0),
            header_ms: AtomicU64::new(0),
            preface: AtomicU8::new(0),
            linger: AtomicBool::new(false),
        })
    }

    fn now_ms(&self) -> u64 {
        self.opened.elapsed().as_millis() as u64
    }

    fn at(&self, ms: u64) -> Instant {
        self.opened + Duration::from_millis(ms)
    }

    /// Bytes have come. On HTTP/2 frames come at any time, a header is only timed before it is known. What comes
    /// while a close waits for the peer is a body that nobody reads, and no header.
    pub(super) fn read(&self, bytes: &[u8]) {
        let matched = self.preface.load(Ordering::Relaxed);
        if usize::from(matched) == PREFACE.len() || bytes.is_empty() || self.lingers() {
            return;
        }
        if matched != HTTP1 {
            let rest = &PREFACE[usize::from(matched)..];
            let n = rest.len().min(bytes.len());
            let now = if rest[..n] == bytes[..n] { matched + n as u8 } else { HTTP1 };
            self.preface.store(now, Ordering::Relaxed);
            if usize::from(now) == PREFACE.len() {
                self.header_ms.store(0, Ordering::Relaxed);
                return;
            }
        }
        if self.in_flight.load(Ordering::Relaxed) == 0 && self.header_ms.load(Ordering::Relaxed) == 0 {
            self.header_ms.store(self.now_ms() + 1, Ordering::Relaxed);
        }
    }

    /// A call begins; it ends with the guard.
    pub(super) fn request(self: &Arc<Self>) -> ActiveRequest {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.header_ms.store(0, Ordering::Relaxed);
        ActiveRequest(Arc::clone(self))
    }

    /// The next close has to wait for the peer to see the answer.
    pub(super) fn set_linger(&self) {
        self.linger.store(true, Ordering::Relaxed);
    }

    /// Whether [`Self::set_linger`] was called.
    pub(super) fn lingers(&self) -> bool {
        self.linger.load(Ordering::Relaxed)
    }

    /// Until when a drain waits for the connection; none for as long as its calls take.
    pub(super) fn drains_until(&self, now: Instant) -> Option<Instant> {
        self.lingers().then(|| now + DRAIN_LINGER)
    }
}

/// A call in flight.
#[derive(Debug)]
pub(super) struct ActiveRequest(Arc<Activity>);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.last_ms.store(self.0.now_ms(), Ordering::Relaxed);
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long a connection may live; zero durations are off.
#[derive(Debug, Clone)]
pub(super) struct Lifetime {
    pub(super) idle: Duration,
    pub(super) header: Duration,
    /// Already jittered.
    pub(super) age: Duration,
    pub(super) age_grace: Duration,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Ask the peer to go; drop the connection after so long.
    Shutdown(&'static str, Duration),
    /// Drop the connection.
    Close(&'static str),
}

/// A peer that was asked to go and has nothing in flight.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// What a drain leaves a peer that was answered and still sends, to read the answer.
const DRAIN_LINGER: Duration = Duration::from_secs(2);

impl Lifetime {
    /// What is due next, and when.
    pub(super) fn due(&self, activity: &Activity) -> Option<(Instant, Due)> {
        let mut next: Option<(Instant, Due)> = None;
        let mut offer = |at: Instant, due: Due| {
            if next.is_none_or(|(first, _)| at < first) {
                next = Some((at, due));
            }
        };
        let header = activity.header_ms.load(Ordering::Relaxed);
        if header != 0 {
            offer(activity.at(header - 1) + self.header, Due::Close("header_timeout"));
        }
        if !self.idle.is_zero() && activity.in_flight.load(Ordering::Relaxed) == 0 {
            let last = activity.last_ms.load(Ordering::Relaxed);
            offer(activity.at(last) + self.idle, Due::Shutdown("idle", SHUTDOWN_GRACE));
        }
        if !self.age.is_zero() {
            offer(activity.opened + self.age, Due::Shutdown("age", self.age_grace));
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Lifetime = Lifetime {
        idle: Duration::from_secs(300),
        header: Duration::from_secs(10),
        age: Duration::ZERO,
        age_grace: Duration::from_secs(1),
    };

    fn due(activity: &Activity) -> Option<Due> {
        LIFETIME.due(activity).map(|(_, due)| due)
    }

    #[test]
    fn a_header_is_timed_from_its_first_byte_until_its_call_begins() {
        let activity = Activity::new();
        assert!(matches!(due(&activity), Some(Due::Shutdown("idle", _))));
        activity.read(b"POST /v1");
        assert_eq!(due(&activity), Some(Due::Close("header_timeout")));
        let call = activity.request();
        assert_eq!(due(&activity), None, "a call in flight is neither idle nor a header");
        activity.read(b"body");
        assert_eq!(due(&activity), None);
        drop(call);
        assert!(matches!(due(&activity), Some(Due::Shutdown("idle", _))));
        activity.read(b"P");
        assert_eq!(due(&activity), Some(Due::Close("header_timeout")));
    }

    #[test]
    fn the_rest_of_a_refused_body_is_no_header_and_holds_a_drain_up_briefly() {
        let activity = Activity::new();
        let now = Instant::now();
        activity.read(b"POST /v1");
        let call = activity.request();
        assert_eq!(activity.drains_until(now), None, "a call takes as long as it takes");
        activity.set_linger();
        drop(call);
        activity.read(b"the rest of the body");
        assert!(matches!(due(&activity), Some(Due::Shutdown("idle", _))), "{:?}", due(&activity));
        assert_eq!(activity.drains_until(now), Some(now + DRAIN_LINGER));
    }

    #[test]
    fn an_http2_preface_is_timed_and_the_frames_after_it_are_not() {
        let activity = Activity::new();
        for byte in &PREFACE[..23] {
            activity.read(&[*byte]);
            assert_eq!(due(&activity), Some(Due::Close("header_timeout")));
        }
        activity.read(&PREFACE[23..]);
        assert!(matches!(due(&activity), Some(Due::Shutdown("idle", _))));
        activity.read(b"frames");
        assert!(matches!(due(&activity), Some(Due::Shutdown("idle", _))));
    }
}
