//! The wall clock, read by the tasks around the engines and by nothing else.
//!
//! Never: used to measure a duration; that is what `Instant` is for.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, in nanoseconds since the Unix epoch.
pub fn unix_nano() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
