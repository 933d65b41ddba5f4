//! The forests of the kinds of resources: rows come from all shards, scores go to all shards, trees grow elsewhere.
//!
//! A [`Nursery`] owns what forests grow from; nobody shares it. What has grown stands in [`Forests`], one atomic
//! pointer per kind: a shard takes the pointer once per tick and keeps what it took while a newer forest takes the
//! place. A rebuild is a value that runs on any thread; neither shards nor readers wait for it.
//!
//! Invariants: rows are learned in an order that does not depend on who sent them first; a nursery that was written and
//! read back grows the same trees. Never: reads a clock, does IO, locks.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::kind::{KINDS, Kind};
use crate::isolationforest::detector::codec::{Decoder, Encoder};
use crate::isolationforest::trees::family::resource::SIGNALS;
use crate::isolationforest::trees::family::{FamilyForest, FamilySettings, Grown, Rebuild, Rebuilt};

/// What one resource was like between two ticks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::isolationforest) struct Row {
    /// Hash of the labels of the resource.
    pub(in crate::isolationforest) owner: u128,
    pub(in crate::isolationforest) kind: Kind,
    /// Surprises by signal.
    pub(in crate::isolationforest) signals: [f32; SIGNALS],
    pub(in crate::isolationforest) is_anomalous: bool,
}

/// What has grown, by kind.
#[derive(Debug)]
pub(in crate::isolationforest) struct Forests([ArcSwap<Grown>; KINDS]);

impl Forests {
    /// The forests as they are now.
    pub(in crate::isolationforest) fn load(&self) -> [Arc<Grown>; KINDS] {
        std::array::from_fn(|kind| self.0[kind].load_full())
    }
}

/// Trees of some kinds that are to be grown.
#[derive(Debug)]
pub(in crate::isolationforest) struct Rebuilds(Vec<(Kind, Rebuild)>);

impl Rebuilds {
    /// Grows them: about 50 µs a tree of 256 rows.
    pub(in crate::isolationforest) fn run(self) -> Vec<(Kind, Rebuilt)> {
        self.0.into_iter().map(|(kind, rebuild)| (kind, rebuild.run())).collect()
    }

    /// How many trees.
    pub(in crate::isolationforest) fn trees(&self) -> usize {
        self.0.iter().map(|(_, rebuild)| rebuild.trees()).sum()
    }
}

/// What the forests grow from.
#[derive(Debug)]
pub(in crate::isolationforest) struct Nursery {
    settings: FamilySettings,
    families: [FamilyForest; KINDS],
    /// Rows since the latest epoch.
    pending: Vec<Row>,
    grown: Arc<Forests>,
}

impl Nursery {
    /// Knows nothing.
    ///
    /// # Errors
    /// Says which setting is out of its range.
    pub(in crate::isolationforest) fn new(settings: FamilySettings, seed: u64) -> Result<Self, &'static str> {
        let mut families = Vec::with_capacity(KINDS);
        for kind in Kind::ALL {
            families.push(FamilyForest::new(settings.clone(), seed ^ (kind as u64) << 56)?);
        }
        let families: [FamilyForest; KINDS] = families.try_into().expect("there is one for every kind");
        let grown = std::array::from_fn(|kind| ArcSwap::new(families[kind].grown()));
        Ok(Self { settings, families, pending: Vec::new(), grown: Arc::new(Forests(grown)) })
    }

    /// Where readers find what has grown.
    pub(in crate::isolationforest) fn forests(&self) -> Arc<Forests> {
        Arc::clone(&self.grown)
    }

    /// Takes the rows of a tick; more than `most` between two epochs are left out, and their number is returned.
    pub(in crate::isolationforest) fn gather(&mut self, mut rows: Vec<Row>, most: usize) -> usize {
        let lost = (self.pending.len() + rows.len()).saturating_sub(most);
        rows.truncate(most.saturating_sub(self.pending.len()));
        self.pending.append(&mut rows);
        lost
    }

    /// Learns what was gathered and says which trees are to be grown; the result goes to [`Self::accept`] before the
    /// next call.
    pub(in crate::isolationforest) fn plan(&mut self) -> Rebuilds {
        // Shards come in any order; what is learned must not depend on it.
        self.pending.sort_unstable_by_key(|row| (row.kind, row.owner, row.signals.map(f32::to_bits)));
        for row in self.pending.drain(..) {
            self.families[row.kind as usize].update(&row.signals, row.is_anomalous);
        }
        let plans = Kind::ALL.into_iter().filter_map(|kind| Some((kind, self.families[kind as usize].plan()?)));
        Rebuilds(plans.collect())
    }

    /// Puts grown trees in their places and shows them to readers.
    pub(in crate::isolationforest) fn accept(&mut self, rebuilt: Vec<(Kind, Rebuilt)>) {
        for (kind, rebuilt) in rebuilt {
            let family = &mut self.families[kind as usize];
            family.accept(rebuilt);
            self.grown.0[kind as usize].store(family.grown());
        }
    }

    /// Rows that the forest of a kind grows from.
    pub(in crate::isolationforest) fn rows(&self, kind: Kind) -> usize {
        self.families[kind as usize].rows()
    }

    /// Bytes on the heap.
    pub(in crate::isolationforest) fn bytes(&self) -> usize {
        let families: usize = self.families.iter().map(FamilyForest::heap_bytes).sum();
        families + self.pending.capacity() * size_of::<Row>()
    }

    /// Appends the state; kinds without a row are left out.
    pub(in crate::isolationforest) fn encode(&self, to: &mut Encoder) {
        to.u32(self.pending.len() as u32);
        for row in &self.pending {
            to.u128(row.owner);
            to.u8(row.kind as u8);
            to.u8(u8::from(row.is_anomalous));
            to.f32s(&row.signals);
        }
        let known = || self.families.iter().enumerate().filter(|(_, family)| family.seen() > 0);
        to.u8(known().count() as u8);
        for (kind, family) in known() {
            to.u8(kind as u8);
            let mut bytes = Vec::new();
            family.save(&mut bytes);
            to.u32(bytes.len() as u32);
            to.0.extend_from_slice(&bytes);
        }
    }

    /// Takes a state. `None` when the bytes are none; a kind whose forest was made with other settings is named in the
    /// list and starts cold.
    pub(in crate::isolationforest) fn decode(&mut self, from: &mut Decoder<'_>) -> Option<Vec<String>> {
        let mut pending = Vec::new();
        for _ in 0..from.u32()? {
            let (owner, kind) = (from.u128()?, Kind::ALL.get(usize::from(from.u8()?)).copied()?);
            let (is_anomalous, signals) = (from.u8()? != 0, from.f32s()?);
            pending.push(Row { owner, kind, signals, is_anomalous });
        }
        let mut refused = Vec::new();
        let mut read = Vec::new();
        for _ in 0..from.u8()? {
            let kind = Kind::ALL.get(usize::from(from.u8()?)).copied()?;
            let length = usize::try_from(from.u32()?).ok()?;
            match FamilyForest::restore(self.settings.clone(), from.bytes(length)?) {
                Ok(family) => read.push((kind, family)),
                Err(error) => refused.push(format!("the forest of kind {}: {error}", kind.as_str())),
            }
        }
        for (kind, family) in read {
            self.grown.0[kind as usize].store(family.grown());
            self.families[kind as usize] = family;
        }
        self.pending = pending;
        Some(refused)
    }
}
