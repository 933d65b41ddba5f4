//! Buffers for bodies, kept per thread so that the hot path writes into warm pages.
//!
//! A body leaves as [`Bytes`]; its buffer comes back to the thread that drops the last view of it.
//! Bounded: at most [`KEPT`] buffers a thread, none larger than [`MAX_KEPT`], so a burst of large bodies
//! leaves nothing behind. Invariant: whoever holds a body holds a permit for its capacity.

use std::cell::RefCell;

use bytes::Bytes;

/// Buffers that a thread keeps.
const KEPT: usize = 4;
/// The largest buffer that is kept.
const MAX_KEPT: usize = 1 << 20;
/// Smaller bodies are not worth the round trip.
const MIN_KEPT: usize = 4 << 10;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room for `capacity` bytes, at most four times as much.
pub(super) fn take(capacity: usize) -> Vec<u8> {
    if (MIN_KEPT..=MAX_KEPT).contains(&capacity) {
        let kept = POOL.with_borrow_mut(|pool| {
            let fits = |kept: &Vec<u8>| (capacity..=capacity * 4).contains(&kept.capacity());
            let index = pool.iter().rposition(fits)?;
            Some(pool.swap_remove(index))
        });
        if let Some(kept) = kept {
            return kept;
        }
    }
    Vec::with_capacity(capacity)
}

/// Gives a buffer back that did not become a body.
pub(super) fn give(mut buffer: Vec<u8>) {
    if !(MIN_KEPT..=MAX_KEPT).contains(&buffer.capacity()) {
        return;
    }
    buffer.clear();
    // A thread that is ending has no pool any more; the buffer is freed then.
    let _ended = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() == KEPT {
            pool.remove(0);
        }
        pool.push(buffer);
    });
}

/// Turns a filled buffer into a body.
pub(super) fn freeze(buffer: Vec<u8>) -> Bytes {
    if (MIN_KEPT..=MAX_KEPT).contains(&buffer.capacity()) {
        Bytes::from_owner(Kept(buffer))
    } else {
        Bytes::from(buffer)
    }
}

/// Owns a body's buffer until its last view is dropped.
struct Kept(Vec<u8>);

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        give(std::mem::take(&mut self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_once_its_last_view_is_gone_and_large_ones_do_not() {
        POOL.with_borrow_mut(Vec::clear);
        let mut buffer = take(8 << 10);
        buffer.extend_from_slice(b"body");
        let place = buffer.as_ptr();
        let body = freeze(buffer);
        let view = body.slice(1..3);
        drop(body);
        assert_eq!(&view[..], b"od");
        assert_eq!(POOL.with_borrow(Vec::len), 0, "a view still needs it");
        drop(view);
        let again = take(6 << 10);
        assert!(again.is_empty());
        assert_eq!(again.as_ptr(), place);
        drop(freeze(Vec::with_capacity(MAX_KEPT + 1)));
        assert_eq!(POOL.with_borrow(Vec::len), 0);
        for _ in 0..10 {
            give(Vec::with_capacity(MIN_KEPT));
        }
        assert_eq!(POOL.with_borrow(Vec::len), KEPT);
        drop(take(MAX_KEPT));
        assert_eq!(POOL.with_borrow(Vec::len), KEPT, "a small buffer does not serve a large body");
    }
}
