//! A queue bounded by items and by bytes, in arrival order, with many senders and one receiver.
//!
//! Never drops an item silently: a refused item comes back to the caller, a closed queue still
//! hands out what it holds, and the bytes of an item count until it is received.
//! Fair: waiting senders are served in the order in which they came; [`Sender::try_send`] does not
//! pass them, because the capacity that a waiter has been promised is already taken.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore};

/// Why an item was not taken; the item comes back.
#[derive(PartialEq, Eq)]
pub enum TrySendError<T> {
    /// No room for one more item or for its bytes.
    Full(T),
    /// The queue takes nothing any more.
    Closed(T),
    /// The item alone is larger than the whole queue, so waiting would not help.
    TooLarge(T),
}

impl<T> TrySendError<T> {
    /// The item that was refused.
    pub fn into_inner(self) -> T {
        match self {
            Self::Full(item) | Self::Closed(item) | Self::TooLarge(item) => item,
        }
    }

    /// The value of the `reason` label for the loss or refusal counter.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Full(_) => "queue_full",
            Self::Closed(_) => "queue_closed",
            Self::TooLarge(_) => "item_too_large",
        }
    }
}

impl<T> fmt::Debug for TrySendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl<T> fmt::Display for TrySendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "the queue is full",
            Self::Closed(_) => "the queue is closed",
            Self::TooLarge(_) => "the item is larger than the whole queue",
        })
    }
}

impl<T> std::error::Error for TrySendError<T> {}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// Free places, and free bytes; a queued item holds one of the first and its size of the second.
    places: Semaphore,
    room: Semaphore,
    capacity_items: usize,
    capacity_bytes: usize,
    senders: AtomicUsize,
    arrived: Notify,
}

struct State<T> {
    items: VecDeque<(T, usize)>,
    closed: bool,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing inside the lock can panic half-way, so a poisoned lock still holds a whole state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().closed = true;
        self.places.close();
        self.room.close();
        self.arrived.notify_one();
    }

    /// Puts `item` in; its place and bytes must have been taken from the semaphores.
    fn push(&self, item: T, bytes: usize) -> Result<(), T> {
        let mut state = self.lock();
        if state.closed {
            return Err(item);
        }
        state.items.push_back((item, bytes));
        drop(state);
        self.arrived.notify_one();
        Ok(())
    }

    fn pop(&self) -> Option<T> {
        let (item, bytes) = self.lock().items.pop_front()?;
        self.places.add_permits(1);
        self.room.add_permits(bytes);
        Some(item)
    }
}

/// Makes a queue of at most `capacity_items` items and `capacity_bytes` bytes (each at least 1).
/// Bytes are counted up to 4 GiB - 1 per queue and item.
pub fn bounded<T>(capacity_items: usize, capacity_bytes: usize) -> (Sender<T>, Receiver<T>) {
    let capacity_items = capacity_items.clamp(1, u32::MAX as usize);
    let capacity_bytes = capacity_bytes.clamp(1, u32::MAX as usize);
    let shared = Arc::new(Shared {
        state: Mutex::new(State { items: VecDeque::new(), closed: false }),
        places: Semaphore::new(capacity_items),
        room: Semaphore::new(capacity_bytes),
        capacity_items,
        capacity_bytes,
        senders: AtomicUsize::new(1),
        arrived: Notify::new(),
    });
    (Sender { shared: Arc::clone(&shared) }, Receiver { shared })
}

/// The end that puts items in; the queue closes when the last clone is dropped.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Sender<T> {
    /// Puts `item` in if there is room for it and its `bytes` now.
    pub fn try_send(&self, item: T, bytes: usize) -> Result<(), TrySendError<T>> {
        let shared = &*self.shared;
        if bytes > shared.capacity_bytes {
            return Err(TrySendError::TooLarge(item));
        }
        let refused = |item| if self.is_closed() { TrySendError::Closed(item) } else { TrySendError::Full(item) };
        let Ok(place) = shared.places.try_acquire() else { return Err(refused(item)) };
        let Ok(room) = shared.room.try_acquire_many(bytes as u32) else { return Err(refused(item)) };
        shared.push(item, bytes).map_err(TrySendError::Closed)?;
        place.forget();
        room.forget();
        Ok(())
    }

    /// Waits for room; senders are served in order. Fails only with `Closed` or `TooLarge`.
    /// Dropping the future puts nothing in.
    pub async fn send(&self, item: T, bytes: usize) -> Result<(), TrySendError<T>> {
        let shared = &*self.shared;
        if bytes > shared.capacity_bytes {
            return Err(TrySendError::TooLarge(item));
        }
        let Ok(place) = shared.places.acquire().await else { return Err(TrySendError::Closed(item)) };
        let Ok(room) = shared.room.acquire_many(bytes as u32).await else { return Err(TrySendError::Closed(item)) };
        shared.push(item, bytes).map_err(TrySendError::Closed)?;
        place.forget();
        room.forget();
        Ok(())
    }

    /// Items waiting.
    pub fn len(&self) -> usize {
        self.shared.lock().items.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes waiting, with those that a sender has just reserved.
    pub fn bytes(&self) -> usize {
        self.shared.capacity_bytes - self.shared.room.available_permits()
    }

    /// The largest number of items.
    pub fn capacity_items(&self) -> usize {
        self.shared.capacity_items
    }

    /// The largest number of bytes.
    pub fn capacity_bytes(&self) -> usize {
        self.shared.capacity_bytes
    }

    /// Takes nothing more; the receiver still gets what is inside.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Whether the queue takes nothing more.
    pub fn is_closed(&self) -> bool {
        self.shared.lock().closed
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.senders.fetch_add(1, Ordering::AcqRel);
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.shared.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.close();
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("len", &self.len()).field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

/// The end that takes items out. Dropping it closes the queue and drops what is inside; the owner
/// counts that loss with [`Receiver::len`] first.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Receiver<T> {
    /// The next item; None when the queue is closed and empty. Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Option<T> {
        loop {
            if let Some(item) = self.shared.pop() {
                return Some(item);
            }
            if self.is_ended() {
                return None;
            }
            self.shared.arrived.notified().await;
        }
    }

    /// The next item if one waits.
    pub fn try_recv(&mut self) -> Option<T> {
        self.shared.pop()
    }

    /// Whether the queue is closed and empty.
    pub fn is_ended(&self) -> bool {
        let state = self.shared.lock();
        state.closed && state.items.is_empty()
    }

    /// Items waiting.
    pub fn len(&self) -> usize {
        self.shared.lock().items.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes waiting, with those that a sender has just reserved.
    pub fn bytes(&self) -> usize {
        self.shared.capacity_bytes - self.shared.room.available_permits()
    }

    /// Takes nothing more; what is inside can still be received.
    pub fn close(&mut self) {
        self.shared.close();
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.close();
        let left = std::mem::take(&mut self.shared.lock().items);
        drop(left);
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("len", &self.len()).field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
