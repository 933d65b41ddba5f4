//! The attributes that the service graph reads, found in one pass over a span's or a resource's attributes.
//!
//! Never: reads an attribute's value that nobody asked for. Invariant: of two attributes with one key the first counts.

use std::sync::Arc;

use mirador_otlp::value::{Attributes, Value};

use super::config::Config;
use super::half::{Dimensions, Side};

/// Attributes that mark a database call but hardly name the database (semantic conventions, new and old).
const DATABASE_MARKS: [&str; 2] = ["db.system.name", "db.system"];

/// Which keys are read and what each is for.
#[derive(Debug)]
pub(super) struct Interest {
    keys: Vec<String>,
    /// Bit n: a key of n bytes exists (63: of 63 or more). Most attributes are passed over by it.
    lengths: u64,
    dimensions: Vec<usize>,
    peers: Vec<usize>,
    databases: Vec<usize>,
    marks: Vec<usize>,
}

/// Values of the wanted keys, by their index.
#[derive(Debug, Default)]
pub(super) struct Found(Vec<Option<Box<str>>>);

impl Found {
    fn get(&self, index: usize) -> Option<&str> {
        self.0.get(index)?.as_deref()
    }
}

impl Interest {
    pub(super) fn new(config: &Config) -> Self {
        let mut keys: Vec<String> = Vec::new();
        let mut index_all = |names: &mut dyn Iterator<Item = &str>| -> Vec<usize> {
            let mut indexes = Vec::new();
            for name in names {
                let known = keys.iter().position(|key| key == name);
                indexes.push(known.unwrap_or(keys.len()));
                if known.is_none() {
                    keys.push(name.to_owned());
                }
            }
            indexes
        };
        let dimensions = index_all(&mut config.dimensions.iter().map(String::as_str));
        let peers = index_all(&mut config.virtual_node_peer_attributes.iter().map(String::as_str));
        let databases = index_all(&mut config.database_name_attributes.iter().map(String::as_str));
        let has_databases = !databases.is_empty();
        let marks = index_all(&mut DATABASE_MARKS.into_iter().filter(|_| has_databases));
        let lengths = keys.iter().fold(0, |bits, key| bits | length_bit(key));
        Self { keys, lengths, dimensions, peers, databases, marks }
    }

    /// Whether a span of this side can hold anything wanted.
    pub(super) fn wants(&self, side: Side) -> bool {
        !self.dimensions.is_empty() || side == Side::Client
    }

    /// The values of the wanted keys.
    pub(super) fn read(&self, attributes: Attributes<'_>) -> Found {
        let mut found: Vec<Option<Box<str>>> = Vec::new();
        for attribute in attributes {
            if self.lengths & length_bit(attribute.key) == 0 {
                continue;
            }
            let Some(index) = self.keys.iter().position(|key| key == attribute.key) else { continue };
            if found.is_empty() {
                found.resize(self.keys.len(), None);
            }
            if found[index].is_none() {
                found[index] = text(attribute.value);
            }
        }
        Found(found)
    }

    /// Resource first, then span, as the connector looks them up.
    pub(super) fn dimensions(&self, resource: &Found, span: &Found) -> Dimensions {
        let value = |index: &usize| resource.get(*index).or_else(|| span.get(*index)).map(Box::from);
        let values: Arc<[Option<Box<str>>]> = self.dimensions.iter().map(value).collect();
        values.iter().any(Option::is_some).then_some(values)
    }

    /// What the span calls its peer.
    pub(super) fn peer(&self, span: &Found) -> Option<Arc<str>> {
        first(&self.peers, span).map(Arc::from)
    }

    /// The database that a client span calls: its name, else the peer, else its system.
    pub(super) fn database(&self, resource: &Found, span: &Found) -> Option<Arc<str>> {
        let name = first(&self.databases, resource).or_else(|| first(&self.databases, span));
        let marked = || first(&self.marks, span).map(|system| first(&self.peers, span).unwrap_or(system));
        name.or_else(marked).map(Arc::from)
    }
}

fn first<'a>(indexes: &[usize], found: &'a Found) -> Option<&'a str> {
    indexes.iter().find_map(|index| found.get(*index))
}

fn text(value: Value<'_>) -> Option<Box<str>> {
    let text = value.to_text();
    (!text.is_empty()).then(|| Box::from(text.as_ref()))
}

fn length_bit(key: &str) -> u64 {
    1 << key.len().min(63)
}
