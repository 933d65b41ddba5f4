//! What is said of an owner that is down: that it is, and that it is back, and not each attempt in between.
//!
//! Never: logs by itself, or knows the time.

use std::time::Duration;

use tokio::time::Instant;

/// An owner that comes and goes is told of once in this time.
const QUIET: Duration = Duration::from_mins(1);

/// The present outage of one owner, if there is one.
#[derive(Debug, Default)]
pub(super) struct Outage {
    since: Option<Instant>,
    told: Option<Instant>,
    is_told: bool,
}

impl Outage {
    /// The owner is down, or still is; whether that is to be told.
    pub(super) fn begins(&mut self, now: Instant) -> bool {
        if self.since.is_some() {
            return false;
        }
        self.since = Some(now);
        self.is_told = self.told.is_none_or(|told| now.saturating_duration_since(told) >= QUIET);
        if self.is_told {
            self.told = Some(now);
        }
        self.is_told
    }

    /// The owner is up; how long it was down, when that has been told.
    pub(super) fn ends(&mut self, now: Instant) -> Option<Duration> {
        let since = self.since.take()?;
        self.is_told.then(|| now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_once_and_its_end_with_its_length() {
        let (mut outage, start) = (Outage::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(outage.ends(at(0)), None, "it was never down");
        assert!(outage.begins(at(1)));
        assert!(!outage.begins(at(2)) && !outage.begins(at(200)), "it is still the same");
        assert_eq!(outage.ends(at(201)), Some(Duration::from_secs(200)));
        assert_eq!(outage.ends(at(202)), None);
        assert!(outage.begins(at(203)), "the last one was told long ago");
        assert_eq!(outage.ends(at(204)), Some(Duration::from_secs(1)));
    }

    #[test]
    fn an_owner_that_comes_and_goes_is_told_of_once_a_minute() {
        let (mut outage, start) = (Outage::default(), Instant::now());
        let told: Vec<u64> = (0..130)
            .filter(|second| {
                let now = start + Duration::from_secs(*second);
                let told = outage.begins(now);
                assert_eq!(outage.ends(now).is_some(), told, "its end is told when its beginning was");
                told
            })
            .collect();
        assert_eq!(told, [0, 60, 120]);
    }
}
