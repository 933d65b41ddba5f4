//! The resource part of a series key, resolved once per distinct resource.
//!
//! The cache is asked by the hash of the resource's raw bytes and confirms a hit by comparing those
//! bytes, so a chosen collision cannot give one service's spans to another.
//!
//! Invariants: at most `MAX_ENTRIES` resources and about `MAX_BYTES` of raw bytes and label texts;
//! when either is reached the cache starts again. Never: puts a text into the window's arena; that
//! happens when a series is made of it.

use hashbrown::HashTable;
use mirador_otlp::resource::Resource;

use crate::config::BuiltIn;
use crate::dimensions::{Dimensions, write_cut};
use crate::text::{Text, Texts, cut};

/// Resources that are remembered.
const MAX_ENTRIES: usize = 1024;
/// Bytes of resources and their label texts that are remembered.
const MAX_BYTES: usize = 1 << 20;

/// A label text with its hash and, once a series uses it, its place in the arena.
#[derive(Debug)]
pub(crate) struct Label {
    pub(crate) text: Box<str>,
    pub(crate) hash: u64,
    /// The place and the arena's generation it is valid in.
    id: Option<(u32, Text)>,
}

/// What the spans of one resource have in common.
#[derive(Debug)]
pub(crate) struct Part {
    /// `service.name`; empty when excluded.
    pub(crate) service: Label,
    /// Per configured dimension: the resource's attribute or the default.
    pub(crate) dimensions: Box<[Option<Label>]>,
    /// True when one of these texts was cut.
    pub(crate) cut: bool,
}

impl Part {
    /// The service's place in the arena, if any series uses it.
    #[inline]
    pub(crate) fn service_id(&mut self, texts: &Texts) -> Option<Text> {
        match self.service.id {
            Some((generation, id)) if generation == texts.generation() => Some(id),
            _ => {
                let id = texts.find(self.service.hash, &self.service.text)?;
                self.service.id = Some((texts.generation(), id));
                Some(id)
            }
        }
    }
}

/// Remembered resources.
#[derive(Debug, Default)]
pub(crate) struct Resources {
    entries: Vec<Entry>,
    index: HashTable<u32>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    hash: u64,
    raw: Box<[u8]>,
    /// `None` without a service name: such spans are skipped.
    part: Option<Part>,
}

impl Resources {
    /// The part of `resource`; `None` when it has no service name.
    pub(crate) fn resolve(&mut self, resource: &Resource<'_>, dimensions: &Dimensions) -> Option<&mut Part> {
        let (hash, raw) = (resource.raw_hash(), resource.raw());
        let known = self.index.find(hash, |at| {
            let entry = &self.entries[*at as usize];
            entry.hash == hash && *entry.raw == *raw
        });
        let at = match known {
            Some(at) => *at,
            None => self.insert(hash, raw, read(resource, dimensions)),
        };
        self.entries[at as usize].part.as_mut()
    }

    fn insert(&mut self, hash: u64, raw: &[u8], part: Option<Part>) -> u32 {
        let texts = part.as_ref().map_or(0, |part| {
            let dimensions = part.dimensions.iter().flatten();
            part.service.text.len() + dimensions.map(|one| one.text.len()).sum::<usize>()
        });
        let bytes = raw.len() + texts;
        if self.entries.len() >= MAX_ENTRIES || self.bytes + bytes > MAX_BYTES {
            *self = Self::default();
        }
        self.bytes += bytes;
        let at = self.entries.len() as u32;
        self.entries.push(Entry { hash, raw: raw.into(), part });
        let entries = &self.entries;
        self.index.insert_unique(hash, at, |at| entries[*at as usize].hash);
        at
    }
}

fn read(resource: &Resource<'_>, dimensions: &Dimensions) -> Option<Part> {
    let name = resource.service_name()?;
    let (service, mut was_cut) = cut(name, dimensions.limit);
    let service = if dimensions.excludes(BuiltIn::ServiceName) { "" } else { service };
    let label = |text: &str| Label { hash: Texts::hash(dimensions.seed, text), text: text.into(), id: None };
    let service = label(service);
    let values = dimensions.names.iter().zip(&dimensions.defaults);
    let values = values
        .map(|(name, default)| {
            let mut text = String::new();
            match resource.attributes().get(name) {
                Some(value) => was_cut |= write_cut(&mut text, &value, dimensions.limit),
                None => text.push_str(default.as_deref()?),
            }
            (!text.is_empty()).then(|| label(&text))
        })
        .collect();
    Some(Part { service, dimensions: values, cut: was_cut })
}
