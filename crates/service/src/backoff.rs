//! Retry intervals: exponential with jitter, as the collector's `retry_on_failure`.
//!
//! Reads no clock and sleeps nowhere: it only says how long to wait. The same seed gives the same
//! waits.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When and how long to retry; keys and defaults of the collector's `retry_on_failure`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetryConfig {
    /// Whether a transient failure is tried again at all.
    pub enabled: bool,
    /// Wait before the first retry.
    #[serde(with = "crate::duration")]
    #[schemars(with = "crate::duration::GoDuration")]
    pub initial_interval: Duration,
    /// Jitter: each wait is drawn from interval × [1 - factor, 1 + factor]; 0 to 1.
    pub randomization_factor: f64,
    /// Growth of the interval from one retry to the next; at least 1.
    pub multiplier: f64,
    /// The interval never grows beyond this.
    #[serde(with = "crate::duration")]
    #[schemars(with = "crate::duration::GoDuration")]
    pub max_interval: Duration,
    /// Give up when the waits add up to more than this; 0 means never.
    #[serde(with = "crate::duration")]
    #[schemars(with = "crate::duration::GoDuration")]
    pub max_elapsed_time: Duration,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            initial_interval: Duration::from_secs(5),
            randomization_factor: 0.5,
            multiplier: 1.5,
            max_interval: Duration::from_secs(30),
            max_elapsed_time: Duration::from_mins(5),
        }
    }
}

impl RetryConfig {
    /// Checks the ranges; the message names the key, the value and the range.
    pub fn validate(&self) -> Result<(), String> {
        if !(0.0..=1.0).contains(&self.randomization_factor) {
            return Err(format!("randomization_factor: {}: expected 0 to 1", self.randomization_factor));
        }
        if !(self.multiplier >= 1.0 && self.multiplier.is_finite()) {
            return Err(format!("multiplier: {}: expected 1 or more", self.multiplier));
        }
        if self.enabled && self.initial_interval.is_zero() {
            return Err("initial_interval: 0s: expected more than zero".to_owned());
        }
        Ok(())
    }
}

/// The waits of one thing that is tried again and again.
#[derive(Debug, Clone)]
pub struct Backoff {
    config: RetryConfig,
    interval: Duration,
    waited: Duration,
    state: u64,
}

impl Backoff {
    /// Starts at `initial_interval`; `seed` decides the jitter.
    pub fn new(config: &RetryConfig, seed: u64) -> Self {
        let interval = config.initial_interval.min(config.max_interval);
        Self { config: config.clone(), interval, waited: Duration::ZERO, state: seed }
    }

    /// The next wait, or None when retries are off or `max_elapsed_time` would be exceeded by the
    /// waits alone. Time spent in the attempts themselves is the caller's to bound.
    pub fn next_delay(&mut self) -> Option<Duration> {
        self.next_delay_after(None)
    }

    /// As [`Backoff::next_delay`], never shorter than what the other side asked for (Retry-After).
    pub fn next_delay_after(&mut self, asked: Option<Duration>) -> Option<Duration> {
        if !self.config.enabled {
            return None;
        }
        let before = self.clone();
        let wait = self.next_wait().max(asked.unwrap_or_default());
        let waited = before.waited.saturating_add(wait);
        if !self.config.max_elapsed_time.is_zero() && waited > self.config.max_elapsed_time {
            *self = before;
            return None;
        }
        self.waited = waited;
        Some(wait)
    }

    /// The next wait without a limit on their sum: for connections, which are never given up.
    pub fn next_wait(&mut self) -> Duration {
        let factor = self.config.randomization_factor.clamp(0.0, 1.0);
        let wait = self.interval.mul_f64(1.0 - factor + 2.0 * factor * self.unit());
        let grown = self.interval.as_secs_f64() * self.config.multiplier.max(1.0);
        self.interval = Duration::try_from_secs_f64(grown)
            .map_or(self.config.max_interval, |next| next.min(self.config.max_interval));
        self.waited = self.waited.saturating_add(wait);
        wait
    }

    /// Back to the start after a success. The jitter goes on, so that two resets differ.
    pub fn reset(&mut self) {
        self.interval = self.config.initial_interval.min(self.config.max_interval);
        self.waited = Duration::ZERO;
    }

    /// Uniform in [0, 1): splitmix64 (Steele, Lea, Flood, OOPSLA 2014), enough for jitter.
    fn unit(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests;
