//! Writes the rules that hold into the programs' tables: what has changed since the last time and no more.
//!
//! A rule takes effect for connects that come after it; connections that exist stay where they are.

use std::collections::HashMap as Known;
use std::sync::Arc;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, MapData};
use mirador_ebpf_shared::{Address, Rule};

use super::caller::Directory;
use super::metrics::Meters;
use super::rules::Cidr;
use super::scope::Scope;

/// The tables of rules and what was written into them.
pub(super) struct Applied {
    scope: Arc<Scope>,
    pods: HashMap<MapData, u64, u32>,
    destinations: LpmTrie<MapData, Address, u32>,
    /// By the pod's cgroup.
    written_pods: Known<u64, u32>,
    written_destinations: Vec<(Cidr, Rule)>,
}

impl Applied {
    /// Rules of `scope` for these tables, into which what the configuration writes out was filled at load.
    pub(super) fn new(
        scope: Arc<Scope>,
        pods: HashMap<MapData, u64, u32>,
        destinations: LpmTrie<MapData, Address, u32>,
    ) -> Self {
        let written_destinations = scope.destinations();
        Self { scope, pods, destinations, written_pods: Known::new(), written_destinations }
    }

    /// Whether pods have to be looked for.
    pub(super) fn name_pods(&self) -> bool {
        let rules = &self.scope.config.pods;
        rules.has_names() || !rules.steer.is_empty() || !rules.leave.is_empty()
    }

    /// Writes what has changed.
    pub(super) fn apply(&mut self, directory: &Directory, meters: &Meters) {
        if self.name_pods() {
            self.apply_pods(directory);
        }
        self.apply_destinations();
        meters.rules(self.written_destinations.len(), self.written_pods.len());
    }

    fn apply_pods(&mut self, directory: &Directory) {
        let rules = self.scope.pods();
        let mut wanted = Known::new();
        directory.pods(|pods| {
            wanted.extend(rules.iter().filter_map(|(uid, rule)| Some((pods.cgroup_of(uid)?, *rule as u32))));
        });
        for gone in self.written_pods.keys().filter(|cgroup| !wanted.contains_key(cgroup)) {
            self.pods.remove(gone).ok();
        }
        for (cgroup, rule) in wanted.iter().filter(|(cgroup, rule)| self.written_pods.get(cgroup) != Some(rule)) {
            if let Err(error) = self.pods.insert(cgroup, rule, 0) {
                tracing::warn!(%error, "a rule on a pod cannot be written");
            }
        }
        self.written_pods = wanted;
    }

    fn apply_destinations(&mut self) {
        let wanted = self.scope.destinations();
        if wanted == self.written_destinations {
            return;
        }
        // What is new comes first: a network that only changes its rule is never without one.
        for (cidr, rule) in wanted.iter().filter(|rule| !self.written_destinations.contains(rule)) {
            let (length, address) = cidr.key();
            if let Err(error) = self.destinations.insert(&Key::new(length, address), *rule as u32, 0) {
                tracing::warn!(%error, %cidr, "a rule on a destination cannot be written");
            }
        }
        for (cidr, _) in &self.written_destinations {
            if !wanted.iter().any(|(kept, _)| kept == cidr) {
                let (length, address) = cidr.key();
                self.destinations.remove(&Key::new(length, address)).ok();
            }
        }
        self.written_destinations = wanted;
    }
}
