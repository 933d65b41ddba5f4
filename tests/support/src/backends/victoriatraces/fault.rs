//! How the stand-in can be told to fail.

use std::collections::VecDeque;
use std::time::Duration;

/// What an insert request meets instead of a good answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// This status, with `Retry-After` in seconds when given; nothing is stored.
    Status {
        /// The HTTP status.
        code: u16,
        /// The header's value.
        retry_after: Option<u64>,
    },
    /// A good answer after this pause; the spans are stored at once.
    Slow(Duration),
    /// No answer, ever. With `stored`, the spans are kept all the same: the client cannot know.
    Hang {
        /// Whether the spans are kept.
        stored: bool,
    },
    /// The request is read, then the server closes its sending side without an answer and goes on
    /// reading. With `stored`, the spans are kept all the same.
    HalfClose {
        /// Whether the spans are kept.
        stored: bool,
    },
    /// The connection is closed before the body is read.
    Reset,
}

/// Which fault the next request meets.
#[derive(Debug, Default)]
pub(super) struct Plan {
    next: VecDeque<Fault>,
    always: Option<Fault>,
}

impl Plan {
    pub(super) fn always(&mut self, fault: Option<Fault>) {
        self.next.clear();
        self.always = fault;
    }

    pub(super) fn next(&mut self, times: usize, fault: &Fault) {
        self.next.extend(std::iter::repeat_n(fault.clone(), times));
    }

    pub(super) fn take(&mut self) -> Option<Fault> {
        self.next.pop_front().or_else(|| self.always.clone())
    }
}
