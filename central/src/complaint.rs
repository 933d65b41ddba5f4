//! A complaint about what goes on failing: the first one is said at once, then one a minute with how many there were.
//!
//! A store that is full or down fails at every flush, and the log of a process must not become what fills the disk.
//! Clones are one complaint. Never: writes the log itself, keeps what is not said (a counter of the caller does).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The least time between two that are said.
const PAUSE: Duration = Duration::from_mins(1);

/// Says when to say it.
#[derive(Debug, Clone, Default)]
pub struct Complaint(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    said: Option<Instant>,
    /// Failures since it was said last.
    unsaid: u64,
    /// It was said since things last went well.
    is_open: bool,
}

impl Complaint {
    /// It has failed again: how often since it was said last, this time among them, when it is to be said now.
    pub fn due(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.unsaid += 1;
        if state.said.is_some_and(|said| now.saturating_duration_since(said) < PAUSE) {
            return None;
        }
        (state.said, state.is_open) = (Some(now), true);
        Some(std::mem::take(&mut state.unsaid))
    }

    /// It went well: true when a complaint was said before and is over.
    pub fn is_over(&self) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut state.is_open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_said_at_once_and_then_one_a_minute_with_their_number() {
        let (complaint, start) = (Complaint::default(), Instant::now());
        let at = |seconds| complaint.clone().due(start + Duration::from_secs(seconds));
        assert_eq!(at(0), Some(1));
        assert_eq!((at(1), at(30), at(59)), (None, None, None));
        assert_eq!(at(60), Some(4));
        assert_eq!(at(61), None);
        assert_eq!(at(3600), Some(2));
    }

    #[test]
    fn its_end_is_told_once_and_going_on_and_off_is_no_way_around_the_minute() {
        let (complaint, start) = (Complaint::default(), Instant::now());
        assert!(!complaint.is_over(), "nothing was said");
        assert_eq!(complaint.due(start), Some(1));
        assert!(complaint.is_over() && !complaint.is_over());
        assert_eq!(complaint.due(start + Duration::from_secs(1)), None);
        assert!(!complaint.is_over(), "what was not said need not be taken back");
        assert_eq!(complaint.due(start + PAUSE), Some(2));
        assert!(complaint.is_over());
    }
}
