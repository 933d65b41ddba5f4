//! One byte budget for everything a process holds on behalf of others.
//!
//! A permit is taken before the bytes are read, grows with what really comes, and gives everything
//! back when it is dropped. The sum of all permits never exceeds the limit; nobody is killed for
//! having answered too late. It accounts declared bytes: it does not measure the allocator.

mod limit;

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, TryAcquireError};

use crate::metrics::Registry;

pub use limit::{Detected, Source, detect};

const MIB: u64 = 1 << 20;

/// How much memory the process may use, and how much of it requests may hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryConfig {
    /// The process's memory limit in MiB. Unset: `limit_percentage` of what the system grants.
    pub limit_mib: Option<u64>,
    /// Share of the cgroup's limit (or of the machine's memory where there is none) that the
    /// process may use, 1 to 100. Ignored when `limit_mib` is set.
    pub limit_percentage: u8,
    /// Share of the process's limit that request bytes may hold at one time, 1 to 100. The rest
    /// is for state, the program itself, and the copies and buffers of those requests: up to one and a half
    /// times their bytes while a backend hangs.
    pub request_share_percentage: u8,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { limit_mib: None, limit_percentage: 80, request_share_percentage: 40 }
    }
}

/// A memory configuration that cannot be met.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// A percentage outside 1 to 100.
    #[error("memory.{key}: {value}: expected 1 to 100")]
    Percentage {
        /// The key under `memory`.
        key: &'static str,
        /// Its value.
        value: u8,
    },
    /// A limit of zero, or one whose bytes do not fit in 64 bits.
    #[error("memory.limit_mib: {0}: expected at least 1 and at most 17592186044415")]
    LimitMib(u64),
    /// More than the system grants: the kernel would end the process first.
    #[error("memory.limit_mib: {limit_mib}: expected at most {granted_mib}, which {origin} grants")]
    AboveGrant {
        /// The configured limit.
        limit_mib: u64,
        /// What the system grants, in MiB.
        granted_mib: u64,
        /// Where that figure stands.
        origin: Source,
    },
    /// Neither a cgroup nor /proc/meminfo told a limit.
    #[error("memory.limit_mib: unset, and the system's limit is unknown; set it")]
    Unknown,
}

impl MemoryConfig {
    /// The process's limit in bytes, from this configuration and what the system grants.
    pub fn resolve(&self, granted: Option<&Detected>) -> Result<u64, MemoryError> {
        percentage("limit_percentage", self.limit_percentage)?;
        percentage("request_share_percentage", self.request_share_percentage)?;
        if let Some(limit_mib) = self.limit_mib {
            let limit =
                limit_mib.checked_mul(MIB).filter(|limit| *limit > 0).ok_or(MemoryError::LimitMib(limit_mib))?;
            return match granted {
                Some(granted) if limit > granted.bytes => {
                    Err(MemoryError::AboveGrant { limit_mib, granted_mib: granted.bytes / MIB, origin: granted.source })
                }
                _ => Ok(limit),
            };
        }
        let granted = granted.ok_or(MemoryError::Unknown)?;
        Ok(share(granted.bytes, self.limit_percentage))
    }
}

fn percentage(key: &'static str, value: u8) -> Result<(), MemoryError> {
    if (1..=100).contains(&value) { Ok(()) } else { Err(MemoryError::Percentage { key, value }) }
}

fn share(bytes: u64, percentage: u8) -> u64 {
    (u128::from(bytes) * u128::from(percentage) / 100) as u64
}

/// Why bytes were not granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AcquireError {
    /// More than the whole budget (or than 4 GiB - 1 in one permit): waiting would not help.
    #[error("{asked} bytes are more than the whole memory budget of {limit} bytes")]
    TooLarge {
        /// The bytes asked for.
        asked: usize,
        /// The budget's limit.
        limit: usize,
    },
    /// The bytes did not become free in time.
    #[error("{asked} bytes did not become free within {waited:?}")]
    Deadline {
        /// The bytes asked for.
        asked: usize,
        /// The time that was waited.
        waited: Duration,
    },
}

impl AcquireError {
    /// The value of the `reason` label for the refusal counter.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "larger_than_budget",
            Self::Deadline { .. } => "memory_full",
        }
    }
}

/// A byte budget; clones share it.
#[derive(Debug, Clone)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limit: usize,
    free: Semaphore,
}

impl Budget {
    /// A budget of `limit_bytes`.
    pub fn new(limit_bytes: usize) -> Self {
        let limit = limit_bytes.min(Semaphore::MAX_PERMITS);
        Self { shared: Arc::new(Shared { limit, free: Semaphore::new(limit) }) }
    }

    /// The budget for request bytes: `request_share_percentage` of the process's limit, which is
    /// `limit_mib` or `limit_percentage` of what the system grants.
    pub fn from_config(config: &MemoryConfig) -> Result<Self, MemoryError> {
        let granted = detect();
        let limit = config.resolve(granted.as_ref())?;
        Ok(Self::new(usize::try_from(share(limit, config.request_share_percentage)).unwrap_or(usize::MAX)))
    }

    /// Takes `bytes` if they are free now. Never waits and never passes a waiter that has been
    /// promised the bytes.
    pub fn try_acquire(&self, bytes: usize) -> Option<Permit> {
        self.shared.take(bytes).then(|| Permit { shared: Arc::clone(&self.shared), bytes })
    }

    /// Takes `bytes`, waiting for at most `patience`; waiters are served in order.
    ///
    /// # Panics
    /// Never: the semaphore inside is not closed.
    pub async fn acquire(&self, bytes: usize, patience: Duration) -> Result<Permit, AcquireError> {
        let limit = self.shared.limit;
        let count = u32::try_from(bytes).ok().filter(|_| bytes <= limit);
        let count = count.ok_or(AcquireError::TooLarge { asked: bytes, limit })?;
        match tokio::time::timeout(patience, self.shared.free.acquire_many(count)).await {
            Ok(taken) => {
                // The semaphore is never closed.
                taken.expect("the budget's semaphore stays open").forget();
                Ok(Permit { shared: Arc::clone(&self.shared), bytes })
            }
            Err(_) => Err(AcquireError::Deadline { asked: bytes, waited: patience }),
        }
    }

    /// Bytes that permits hold now (with those promised to waiters).
    pub fn used(&self) -> usize {
        self.shared.limit - self.shared.free.available_permits()
    }

    /// Shows the budget and its use as metrics.
    pub fn register_metrics(&self, registry: &Registry) {
        let (used, limit) = (self.clone(), self.limit());
        let help = "Bytes that requests hold of the memory budget.";
        registry.observe_gauge("mirador_memory_request_bytes", help, move || used.used() as f64);
        let help = "Bytes that requests may hold at one time.";
        registry.observe_gauge("mirador_memory_request_limit_bytes", help, move || limit as f64);
    }

    /// The limit in bytes.
    pub fn limit(&self) -> usize {
        self.shared.limit
    }
}

impl Shared {
    fn take(&self, bytes: usize) -> bool {
        let Ok(count) = u32::try_from(bytes) else { return false };
        match self.free.try_acquire_many(count) {
            Ok(taken) => {
                taken.forget();
                true
            }
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => false,
        }
    }
}

/// Bytes held against the budget until dropped.
#[derive(Debug)]
#[must_use = "dropping the permit gives its bytes back"]
pub struct Permit {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Permit {
    /// The bytes this permit holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes `more` bytes; false, with nothing changed, when they are not free now.
    #[must_use = "false means that the bytes were not granted"]
    pub fn grow(&mut self, more: usize) -> bool {
        let granted = self.shared.take(more);
        if granted {
            self.bytes += more;
        }
        granted
    }

    /// Whether [`Self::grow`] could take `more` bytes if nobody else held any: when not, a repetition cannot help.
    pub fn could_grow(&self, more: usize) -> bool {
        u32::try_from(more).is_ok() && self.bytes.checked_add(more).is_some_and(|needed| needed <= self.shared.limit)
    }

    /// The limit of the budget that it belongs to, in bytes.
    pub fn limit(&self) -> usize {
        self.shared.limit
    }

    /// Gives back all but `bytes`; does nothing when it holds no more than that.
    pub fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.bytes -= surplus;
        self.shared.free.add_permits(surplus);
    }

    /// Takes over what `other` holds; both must be of one budget.
    ///
    /// # Panics
    /// When the permits are of different budgets: the sum would be wrong in both.
    pub fn merge(&mut self, mut other: Self) {
        assert!(Arc::ptr_eq(&self.shared, &other.shared), "both permits must be of one budget");
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Splits `bytes` off into a permit of their own; None when it holds less.
    pub fn split(&mut self, bytes: usize) -> Option<Self> {
        self.bytes = self.bytes.checked_sub(bytes)?;
        Some(Self { shared: Arc::clone(&self.shared), bytes })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.free.add_permits(self.bytes);
    }
}

#[cfg(test)]
mod tests;
