//! Callers that were waited for in vain, so that an address which is no pod's does not delay every
//! request from it.
//!
//! Invariant: bounded; when it is full, what is forgotten costs one more wait.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Caller;

/// For how long a caller is not waited for again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Callers that are remembered at most.
const MAX: usize = 1024;

type Key = (Option<Arc<str>>, IpAddr);

/// The callers, and since when.
#[derive(Debug, Default)]
pub(super) struct Unknown {
    since: Mutex<HashMap<Key, Instant>>,
}

impl Unknown {
    pub(super) fn may_wait(&self, caller: &Caller, now: Instant) -> bool {
        let since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.get(&key(caller)).is_none_or(|at| now >= *at + PATIENCE)
    }

    pub(super) fn remember(&self, caller: &Caller, now: Instant) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if since.len() >= MAX {
            since.retain(|_, at| now < *at + PATIENCE);
        }
        if since.len() >= MAX {
            since.clear();
        }
        since.insert(key(caller), now);
    }
}

fn key(caller: &Caller) -> Key {
    (caller.pod_uid.clone(), caller.ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(last: u8) -> Caller {
        Caller { pod_uid: None, ip: IpAddr::from([10, 0, 0, last]) }
    }

    #[test]
    fn a_caller_that_stayed_unknown_is_waited_for_again_after_a_minute() {
        let (unknown, start) = (Unknown::default(), Instant::now());
        assert!(unknown.may_wait(&caller(1), start));
        unknown.remember(&caller(1), start);
        assert!(!unknown.may_wait(&caller(1), start + PATIENCE / 2));
        assert!(unknown.may_wait(&caller(2), start), "it is another's business");
        assert!(unknown.may_wait(&caller(1), start + PATIENCE));
    }

    #[test]
    fn no_more_callers_are_remembered_than_the_bound() {
        let (unknown, start) = (Unknown::default(), Instant::now());
        for number in 0..10 * MAX as u32 {
            unknown.remember(&Caller { pod_uid: None, ip: IpAddr::from(number.to_be_bytes()) }, start);
        }
        assert!(unknown.since.lock().unwrap().len() <= MAX);
    }
}
