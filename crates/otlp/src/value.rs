//! Attributes and values (`KeyValue`, `AnyValue`).
//!
//! Invariant: the bytes are validated and nothing comes in pieces, so the first member of a value's
//! oneof and the first key of an attribute are the ones that count.

mod text;

use crate::repeated::{Message, Repeated};
use crate::wire::{Fields, Wire, text};

/// One attribute.
#[derive(Debug, Clone, Copy)]
pub struct KeyValue<'a> {
    /// The attribute's name.
    pub key: &'a str,
    /// Its value; [`Value::Empty`] when it has none.
    pub value: Value<'a>,
}

/// A list of attributes where it stands in its message.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    bytes: &'a [u8],
    number: u32,
}

impl<'a> Attributes<'a> {
    /// The attributes among the fields in `bytes` that have this number.
    #[inline]
    pub(crate) fn new(bytes: &'a [u8], number: u32) -> Self {
        Self { bytes, number }
    }

    /// No attributes.
    pub const fn empty() -> Self {
        Self { bytes: &[], number: 1 }
    }

    /// The attributes in wire order, duplicates included.
    #[inline]
    pub fn iter(&self) -> Repeated<'a, KeyValue<'a>> {
        Repeated::new(self.bytes, self.number)
    }

    /// The attributes in wire order as undecoded entries, for readers that look at few of them.
    #[inline]
    pub fn entries(&self) -> Repeated<'a, Entry<'a>> {
        Repeated::new(self.bytes, self.number)
    }

    /// The value of the first attribute with this name, as in the collector.
    #[inline]
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        let key = key.as_bytes();
        for (number, wire) in Fields::new(self.bytes) {
            let body = wire.bytes();
            let differs = number != self.number
                || match body {
                    // Nearly always: the key comes first and is short. It occurs once.
                    [0x0A, length @ 0..0x80, rest @ ..] => usize::from(*length) != key.len() || !rest.starts_with(key),
                    _ => Entry::of(body).key != key,
                };
            if !differs {
                return Some(Entry::of(body).value());
            }
        }
        None
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.iter().is_empty()
    }

    /// How many there are, duplicates included. Walks them.
    pub fn len(&self) -> usize {
        self.entries().count()
    }
}

impl<'a> IntoIterator for Attributes<'a> {
    type Item = KeyValue<'a>;
    type IntoIter = Repeated<'a, KeyValue<'a>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a> IntoIterator for &Attributes<'a> {
    type Item = KeyValue<'a>;
    type IntoIter = Repeated<'a, KeyValue<'a>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// One attribute whose value has not been looked at.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The attribute's name, UTF-8.
    pub key: &'a [u8],
    value: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Reads the value.
    #[inline]
    pub fn value(&self) -> Value<'a> {
        Value::of(self.value)
    }
}

impl<'a> Message<'a> for Entry<'a> {
    #[inline]
    fn of(bytes: &'a [u8]) -> Self {
        // The order and the one-byte lengths that nearly every attribute has.
        if let [0x0A, key_length @ 0..0x80, rest @ ..] = bytes
            && let Some((key, [0x12, length @ 0..0x80, value @ ..])) = rest.split_at_checked(usize::from(*key_length))
            && usize::from(*length) == value.len()
        {
            return Self { key, value };
        }
        let mut entry = Self { key: &[], value: &[] };
        for (number, wire) in Fields::new(bytes) {
            match number {
                1 => entry.key = wire.bytes(),
                2 => entry.value = wire.bytes(),
                _ => {}
            }
        }
        entry
    }
}

impl<'a> Message<'a> for KeyValue<'a> {
    #[inline]
    fn of(bytes: &'a [u8]) -> Self {
        let entry = Entry::of(bytes);
        Self { key: text(entry.key), value: entry.value() }
    }
}

/// The value of an attribute or the body of a log record.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    /// No value, or one that refers to a string table (which only profiles have).
    Empty,
    /// A string.
    Str(&'a str),
    /// A boolean.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// A floating-point number.
    Double(f64),
    /// Bytes.
    Bytes(&'a [u8]),
    /// A list of values.
    Array(ArrayView<'a>),
    /// A list of named values.
    Map(Attributes<'a>),
}

impl<'a> Message<'a> for Value<'a> {
    #[inline]
    fn of(bytes: &'a [u8]) -> Self {
        for (number, wire) in Fields::new(bytes) {
            return match (number, wire) {
                (1, Wire::Len(string)) => Self::Str(text(string)),
                (2, wire) => Self::Bool(wire.number() != 0),
                (3, wire) => Self::Int(wire.number() as i64),
                (4, wire) => Self::Double(wire.double()),
                (5, Wire::Len(array)) => Self::Array(ArrayView { bytes: array }),
                (6, Wire::Len(map)) => Self::Map(Attributes::new(map, 1)),
                (7, Wire::Len(bytes)) => Self::Bytes(bytes),
                _ => continue,
            };
        }
        Self::Empty
    }
}

impl<'a> Value<'a> {
    /// The string, if this is one.
    pub fn as_str(&self) -> Option<&'a str> {
        match self {
            Self::Str(string) => Some(string),
            _ => None,
        }
    }
}

/// A list of values.
#[derive(Debug, Clone, Copy)]
pub struct ArrayView<'a> {
    bytes: &'a [u8],
}

impl<'a> ArrayView<'a> {
    /// The values in order.
    #[inline]
    pub fn iter(&self) -> Repeated<'a, Value<'a>> {
        Repeated::new(self.bytes, 1)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.iter().is_empty()
    }

    /// How many there are. Walks them.
    pub fn len(&self) -> usize {
        self.iter().count()
    }
}

impl<'a> IntoIterator for ArrayView<'a> {
    type Item = Value<'a>;
    type IntoIter = Repeated<'a, Value<'a>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a> IntoIterator for &ArrayView<'a> {
    type Item = Value<'a>;
    type IntoIter = Repeated<'a, Value<'a>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
