//! Cuts flow-control windows from one fixed amount of memory, so that what peers may send before a
//! permit is asked for is bounded however many they are.
//!
//! The arithmetic, for an amount `M` and the smallest window `m` = 64 KiB (HTTP/2 cannot grant less):
//! at most `M / 2m` connections are let in, half of `M` is kept so that each of them gets `m`, and each
//! new connection may take an eighth of what is left of the other half on top. So the windows never add
//! up to more than `M`, the first connections get wide windows, and many connections still fit. With a
//! budget of 512 MiB, `M` is 128 MiB: 1,024 connections, and 8 MiB for the first one.
//!
//! Besides its window a connection may hold one frame that is not complete, a quarter of the window at
//! most, and on HTTP/1.1 two read buffers instead of both.
//!
//! A window is the worst case and not the usual one: a body is read as soon as its permit is granted
//! and dropped as soon as it is refused, so windows only fill while the process has no CPU to poll.

use std::sync::{Arc, Mutex, PoisonError};

/// The smallest window of a connection; the initial one of HTTP/2 (RFC 9113 §6.9.2) rounded up.
pub(super) const MIN_WINDOW: u64 = 64 << 10;

/// The memory from which windows are cut.
#[derive(Debug)]
pub(super) struct Windows {
    free: Mutex<Free>,
    slots: u64,
}

#[derive(Debug)]
struct Free {
    slots: u64,
    spare: u64,
}

impl Windows {
    /// Windows out of `memory` bytes for at most `wanted` connections.
    pub(super) fn new(memory: u64, wanted: u64) -> Arc<Self> {
        let slots = wanted.min((memory / (2 * MIN_WINDOW)).max(1));
        let spare = memory.saturating_sub(slots * MIN_WINDOW);
        Arc::new(Self { free: Mutex::new(Free { slots, spare }), slots })
    }

    /// Connections that can be open at a time.
    pub(super) fn slots(&self) -> u64 {
        self.slots
    }

    /// A window of at most `most` bytes, or none when every slot is taken.
    pub(super) fn reserve(self: &Arc<Self>, most: u32) -> Option<Window> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.slots = free.slots.checked_sub(1)?;
        let extra = (free.spare / 8).min(u64::from(most).saturating_sub(MIN_WINDOW));
        free.spare -= extra;
        Some(Window { extra, windows: Arc::clone(self) })
    }
}

/// One connection's share; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Window {
    extra: u64,
    windows: Arc<Windows>,
}

impl Window {
    /// The bytes that the peer may send ahead.
    pub(super) fn bytes(&self) -> u32 {
        u32::try_from(MIN_WINDOW + self.extra).unwrap_or(u32::MAX >> 1)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let mut free = self.windows.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.slots += 1;
        free.spare += self.extra;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_never_add_up_to_more_than_the_memory_and_all_of_it_comes_back() {
        let memory = 128 << 20;
        let windows = Windows::new(memory, 4096);
        assert_eq!(windows.slots(), 1024);
        let mut held = Vec::new();
        while let Some(window) = windows.reserve(24 << 20) {
            held.push(window);
        }
        assert_eq!(held.len(), 1024);
        assert_eq!(held[0].bytes(), (8 << 20) + MIN_WINDOW as u32);
        assert!(held.iter().all(|window| u64::from(window.bytes()) >= MIN_WINDOW));
        assert!(held.iter().map(|window| u64::from(window.bytes())).sum::<u64>() <= memory);
        drop(held);
        assert_eq!(windows.reserve(u32::MAX >> 1).expect("all are free").bytes(), (8 << 20) + MIN_WINDOW as u32);
    }

    #[test]
    fn a_tiny_memory_still_lets_one_connection_in() {
        let windows = Windows::new(1, 10);
        assert_eq!(windows.slots(), 1);
        let only = windows.reserve(1 << 20).expect("one slot");
        assert_eq!(u64::from(only.bytes()), MIN_WINDOW);
        assert!(windows.reserve(1 << 20).is_none());
    }
}
