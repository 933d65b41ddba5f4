//! What a shard remembers across a restart: the scoring state of its series, and the families.
//!
//! A file belongs to one shard of so many. With another number of shards series live elsewhere: then every shard reads
//! every file and uses the states of the series that come to it. A series whose state was not there, or that moved
//! here from another replica, starts from its family.
//!
//! Never: reads a clock. Invariant: what `decode` gives back scores on as if nothing had happened.

use std::path::{Path, PathBuf};

use super::detector::Prior;
use super::detector::codec::{Decoder, Encoder};
use super::families::MEMBERS;
use super::overflow::Beyond;
use super::ratios::Ratios;
use super::resources::{Resources, Waiting};
use super::table::Table;
use super::watch::{Before, Watch};
use crate::snapshot::{MAX_PAYLOAD, Snapshot};

/// What the files are of.
pub const KIND: &str = "isolationforest";
/// Version of the payload; another one is refused, and the role starts cold.
pub const VERSION: u16 = 2;

/// What a shard's file is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) table: &'a Table,
    pub(super) ratios: &'a Ratios,
    pub(super) beyond: &'a Beyond,
    pub(super) resources: &'a Resources,
}

/// States by series, priors by family.
#[derive(Debug, Default)]
pub(super) struct Restored {
    /// Shards that there were.
    pub(super) shards: usize,
    pub(super) ratios: Ratios,
    pub(super) beyond: Vec<(u128, Before)>,
    pub(super) resources: Waiting,
    pub(super) watches: Vec<(u128, Watch)>,
    pub(super) families: Vec<(u128, Box<[Prior; MEMBERS]>)>,
}

/// The file of one shard, beside the file that is named for the role.
pub(super) fn path(file: &Path, shard: usize) -> PathBuf {
    file.with_file_name(format!("{KIND}-{shard}.state"))
}

/// The payload of one of so many shards, and how many series did not fit into it. Series not seen since `since` are left out.
pub(super) fn encode(parts: &Parts<'_>, shards: usize, since_unix_nano: u64) -> (Vec<u8>, u64) {
    let Parts { table, ratios, beyond, resources } = *parts;
    let (mut to, mut left_out) = (Encoder::default(), 0);
    to.u32(shards as u32);
    ratios.encode(&mut to);
    beyond.encode(&mut to);
    resources.encode(&mut to);
    to.u32(table.families.iter().count() as u32);
    for (key, priors) in table.families.iter() {
        to.u128(key);
        for prior in priors {
            prior.encode(&mut to);
        }
    }
    for (key, watch) in table.watches().chain(table.restored.iter().map(|(key, watch)| (*key, watch))) {
        if watch.last_time < since_unix_nano {
            continue;
        }
        let before = to.0.len();
        to.u128(key);
        let at = to.0.len();
        to.u32(0);
        watch.encode(&mut to);
        let length = (to.0.len() - at - 4) as u32;
        to.0[at..at + 4].copy_from_slice(&length.to_le_bytes());
        if to.0.len() as u64 > MAX_PAYLOAD {
            to.0.truncate(before);
            left_out += 1;
        }
    }
    (to.0, left_out)
}

/// Reads a payload; nothing when it is not one.
pub(super) fn decode(payload: &[u8]) -> Option<Restored> {
    let (mut from, mut restored) = (Decoder(payload), Restored::default());
    restored.shards = usize::try_from(from.u32()?).ok()?;
    restored.ratios = Ratios::decode(&mut from)?;
    restored.beyond = Beyond::decode(&mut from)?;
    restored.resources = Resources::decode(&mut from)?;
    for _ in 0..from.u32()? {
        let key = from.u128()?;
        let mut priors: Box<[Prior; MEMBERS]> = Box::default();
        for prior in priors.iter_mut() {
            *prior = Prior::decode(&mut from)?;
        }
        restored.families.push((key, priors));
    }
    while !from.0.is_empty() {
        let key = from.u128()?;
        let length = usize::try_from(from.u32()?).ok()?;
        let mut one = Decoder(from.bytes(length)?);
        let watch = Watch::decode(&mut one).filter(|_| one.0.is_empty())?;
        restored.watches.push((key, watch));
    }
    Some(restored)
}

/// What the snapshot before held for one shard of so many.
///
/// A file that cannot be used is refused with a warning that says why, and what it held is learned again.
pub(super) fn read(file: &Path, shard: usize, shards: usize) -> Restored {
    let own = read_one(&path(file, shard));
    match own {
        Some(restored) if restored.shards == shards => restored,
        own => {
            let mut all = own.unwrap_or_default();
            // Whose series come here is not known, and what was gathered of a resource must be scored once: here nobody's.
            all.resources = Waiting::default();
            let count = all.shards.max(read_one(&path(file, 0)).map_or(0, |first| first.shards));
            for other in (0..count).filter(|other| *other != shard) {
                if let Some(restored) = read_one(&path(file, other)) {
                    all.ratios.extend(restored.ratios);
                    all.beyond.extend(restored.beyond);
                    all.watches.extend(restored.watches);
                    all.families.extend(restored.families);
                }
            }
            all
        }
    }
}

fn read_one(path: &Path) -> Option<Restored> {
    let payload = match Snapshot::read(path, KIND, VERSION) {
        Ok(payload) => payload?,
        Err(error) => {
            tracing::warn!(%error, "scores start cold: the series of this file learn again");
            return None;
        }
    };
    let restored = decode(&payload);
    if restored.is_none() {
        tracing::warn!(path = %path.display(), "scores start cold: the file does not hold what its version says");
    }
    restored
}

impl Table {
    /// Takes families and states, which wait for their series; the rest is returned.
    pub(super) fn restore(&mut self, mut restored: Restored) -> Restored {
        for (key, priors) in std::mem::take(&mut restored.families) {
            self.families.restore(key, priors);
        }
        self.restored.extend(std::mem::take(&mut restored.watches));
        restored
    }
}
