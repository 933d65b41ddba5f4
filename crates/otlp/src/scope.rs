//! The instrumentation scope (`InstrumentationScope`).

use crate::value::Attributes;
use crate::wire::{Fields, text};

/// The scope of a group of items; all fields are empty when the request has none.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    bytes: &'a [u8],
}

impl<'a> Scope<'a> {
    /// The scope of a `Scope*` entry, where it is field 1.
    #[inline]
    pub(crate) fn in_entry(entry: &'a [u8]) -> Self {
        Self { bytes: Fields::new(entry).find(1).map_or(&[], |wire| wire.bytes()) }
    }

    /// The scope's name.
    pub fn name(&self) -> &'a str {
        string(self.bytes, 1)
    }

    /// The scope's version.
    pub fn version(&self) -> &'a str {
        string(self.bytes, 2)
    }

    /// The scope's attributes.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes::new(self.bytes, 3)
    }

    /// How many attributes the sender left out.
    pub fn dropped_attributes_count(&self) -> u32 {
        Fields::new(self.bytes).last(4).map_or(0, |wire| wire.number() as u32)
    }

    /// The message's bytes.
    pub fn raw(&self) -> &'a [u8] {
        self.bytes
    }
}

/// The string field with this number: the last one counts.
pub(crate) fn string(bytes: &[u8], number: u32) -> &str {
    Fields::new(bytes).last(number).map_or("", |wire| text(wire.bytes()))
}
