//! How many threads a process works with.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Threads.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimeConfig {
    /// Worker threads. Default 0: one per core that the process may use.
    pub workers: usize,
}

impl RuntimeConfig {
    /// The number of threads that is in effect.
    pub fn effective_workers(&self) -> usize {
        if self.workers > 0 {
            return self.workers;
        }
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
    }
}
