//! Highest random weight ("rendezvous") hashing with xxh3.
//!
//! The weight of a member for a key is `xxh3_64(key, seed = xxh3_64(member))`; the highest weight
//! owns the key, the first member in byte order of those with equal weights. Thaler and
//! Ravishankar, "Using Name-Based Mappings to Increase Hit Rates" (1998).

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

#[derive(Debug, Clone)]
pub(crate) struct Rendezvous {
    seeds: Vec<u64>,
}

impl Rendezvous {
    /// Members are sorted and distinct.
    pub(crate) fn new(members: &[String]) -> Self {
        Self { seeds: members.iter().map(|member| xxh3_64(member.as_bytes())).collect() }
    }

    pub(crate) fn owner(&self, key: &[u8]) -> Option<usize> {
        let weights = self.seeds.iter().map(|seed| xxh3_64_with_seed(key, *seed));
        // Of equal weights `max_by_key` keeps the last, so the order is turned around.
        weights.enumerate().rev().max_by_key(|(_, weight)| *weight).map(|(index, _)| index)
    }
}
