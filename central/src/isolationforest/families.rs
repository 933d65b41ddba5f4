//! Pooled history per metric: what a series without a history of its own is held against.
//!
//! Never: grows beyond its limit; metrics beyond it have no family.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::detector::{Prior, Settings};
use super::table::KeyHasher;
use super::watch::Virtual;

/// Virtual series of a family.
pub(super) const MEMBERS: usize = 7;

/// Families by the hash of metric name, unit and type.
#[derive(Debug, Default)]
pub(super) struct Families {
    pools: HashMap<u128, Box<[Prior; MEMBERS]>, BuildHasherDefault<KeyHasher>>,
    /// Series per family.
    members: HashMap<u128, usize, BuildHasherDefault<KeyHasher>>,
    limit: usize,
}

impl Families {
    /// Holds `limit` families at most.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    /// The priors of a family, made when it is new; empty when there is no room.
    pub(super) fn priors(&mut self, key: u128) -> &mut [Prior] {
        if !self.pools.contains_key(&key) {
            if self.pools.len() >= self.limit {
                return &mut [];
            }
            self.pools.insert(key, Box::default());
        }
        self.pools.get_mut(&key).map_or(&mut [], |family| family.as_mut_slice())
    }

    /// Scores what a virtual series of a series without state shows, and learns it.
    pub(super) fn plain(&mut self, key: u128, which: Virtual, settings: &Settings, value: f64) -> Option<f64> {
        let prior = self.priors(key).get_mut(which as usize)?;
        let score = prior.score_plain(settings, value);
        prior.learn(settings, value, None);
        score
    }

    /// Series of a family that have state.
    pub(super) fn count(&self, key: u128) -> usize {
        self.members.get(&key).copied().unwrap_or(0)
    }

    /// A series of the family got state.
    pub(super) fn join(&mut self, key: u128) {
        *self.members.entry(key).or_default() += 1;
    }

    /// A series of the family lost its state.
    pub(super) fn leave(&mut self, key: u128) {
        if let Some(count) = self.members.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.members.remove(&key);
            }
        }
    }

    /// Families and their priors, for the snapshot.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u128, &[Prior; MEMBERS])> {
        self.pools.iter().map(|(key, family)| (*key, family.as_ref()))
    }

    /// Puts a family back.
    pub(super) fn restore(&mut self, key: u128, priors: Box<[Prior; MEMBERS]>) {
        if self.pools.len() < self.limit {
            self.pools.insert(key, priors);
        }
    }

    /// Bytes of all pools.
    pub(super) fn bytes(&self) -> usize {
        let heap = |family: &[Prior; MEMBERS]| family.iter().map(Prior::heap_bytes).sum::<usize>();
        self.pools.values().map(|family| size_of::<[Prior; MEMBERS]>() + heap(family)).sum()
    }
}
