//! The resource of a group of items, and its identity for placement.

use xxhash_rust::xxh3::xxh3_64;

use crate::value::Attributes;
use crate::wire::Fields;

mod identity;

/// A resource; all fields are empty when the request has none.
#[derive(Debug, Clone, Copy)]
pub struct Resource<'a> {
    bytes: &'a [u8],
}

impl<'a> Resource<'a> {
    /// The resource of a `Resource*` entry, where it is field 1.
    #[inline]
    pub(crate) fn in_entry(entry: &'a [u8]) -> Self {
        Self { bytes: Fields::new(entry).find(1).map_or(&[], |wire| wire.bytes()) }
    }

    /// The resource's attributes.
    #[inline]
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes::new(self.bytes, 1)
    }

    /// How many attributes the sender left out.
    pub fn dropped_attributes_count(&self) -> u32 {
        Fields::new(self.bytes).last(2).map_or(0, |wire| wire.number() as u32)
    }

    /// The non-empty string attribute `service.name`.
    pub fn service_name(&self) -> Option<&'a str> {
        self.attributes().get("service.name")?.as_str().filter(|name| !name.is_empty())
    }

    /// The message's bytes.
    pub fn raw(&self) -> &'a [u8] {
        self.bytes
    }

    /// xxh3 of the message's bytes: a key for caches. Equal resources may differ in it (other order
    /// of attributes), different ones do not but by a hash collision.
    #[inline]
    pub fn raw_hash(&self) -> u64 {
        xxh3_64(self.bytes)
    }

    /// The collector's map hash of the attributes, which does not depend on their order. The first
    /// byte of the collector's 16 is the lowest of the number.
    ///
    /// Of duplicated names each is taken with its own value, in wire order.
    pub fn identity(&self) -> u128 {
        identity::map_hash(self.attributes())
    }

    /// The key under which the collector's load-balancing exporter places this resource
    /// (`routing_key: resource`): `resource/` and the FNV-1a hash of the map hash in hex.
    pub fn otel_routing_key(&self) -> String {
        identity::routing_key(self.identity())
    }
}
