//! A serde deserializer over the tree: types are asked for, positions are kept.
//!
//! A scalar that the environment was put into is what its text looks like only where anything is
//! accepted; a string takes the text as it is.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, Expected, MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::Segment;
use crate::config::check::nearest;
use crate::config::tree::{Entry, Kind, Node, Scalar, Value};

/// What went wrong, without the place.
#[derive(Debug)]
enum Cause {
    /// Another type or range; holds what was expected in serde's words.
    Expected(String),
    /// A key that must be there is not.
    Missing(&'static str),
    /// A key that slipped through the schema check (inside a flattened part).
    Unknown { key: String, known: &'static [&'static str] },
    /// A word that is none of the allowed ones.
    Variant { word: String, known: &'static [&'static str] },
    /// The type's own words.
    Own(String),
}

/// An error with its place; the place is filled in on the way out.
#[derive(Debug)]
pub(super) struct Failure {
    cause: Cause,
    line: Option<u64>,
    /// The value as written, for types and ranges.
    found: Option<String>,
    /// From the place up to the root.
    reversed: Vec<Segment>,
}

impl Failure {
    fn new(cause: Cause) -> Self {
        let reversed = match &cause {
            Cause::Missing(key) => vec![Segment::Key((*key).to_owned())],
            Cause::Unknown { key, .. } => vec![Segment::Key(key.clone())],
            _ => Vec::new(),
        };
        Self { cause, line: None, found: None, reversed }
    }

    /// Fills in the place, once: the innermost node knows best.
    fn at(mut self, node: &Node) -> Self {
        if self.line.is_none() {
            self.line = Some(node.line);
            self.found = Some(show(node));
        }
        self
    }

    fn below(mut self, segment: Segment) -> Self {
        self.reversed.push(segment);
        self
    }

    pub(super) fn path(&self) -> Vec<Segment> {
        self.reversed.iter().rev().cloned().collect()
    }

    pub(super) fn line(&self) -> Option<u64> {
        self.line
    }

    pub(super) fn is_missing(&self) -> bool {
        matches!(self.cause, Cause::Missing(_))
    }

    pub(super) fn message(&self) -> String {
        let found = self.found.as_deref().unwrap_or("this value");
        match &self.cause {
            Cause::Expected(expected) => format!("{found}: expected {}", plain_words(expected)),
            Cause::Missing(_) => "is required and not there".to_owned(),
            Cause::Unknown { key, known } => match nearest(key, known) {
                Some(near) => format!("unknown key; did you mean \"{near}\"?"),
                None => format!("unknown key; expected one of {}", known.join(", ")),
            },
            Cause::Variant { word, known } => match nearest(word, known) {
                Some(near) => format!("{found}: did you mean \"{near}\"? expected one of {}", known.join(", ")),
                None => format!("{found}: expected one of {}", known.join(", ")),
            },
            Cause::Own(message) => match self.found.as_deref() {
                // Most messages quote the value already.
                Some(found) if !found.starts_with("a ") && !message.contains(found.trim_matches('"')) => {
                    format!("{found}: {message}")
                }
                _ => message.clone(),
            },
        }
    }
}

/// serde's words for a type in words that a reader of YAML knows.
fn plain_words(expected: &str) -> String {
    let integer = |from: i128, to: u128| format!("a whole number from {from} to {to}");
    match expected {
        "u8" => integer(0, u8::MAX.into()),
        "u16" => integer(0, u16::MAX.into()),
        "u32" => integer(0, u32::MAX.into()),
        "u64" | "usize" => integer(0, u64::MAX.into()),
        "i8" => integer(i8::MIN.into(), i8::MAX as u128),
        "i16" => integer(i16::MIN.into(), i16::MAX as u128),
        "i32" => integer(i32::MIN.into(), i32::MAX as u128),
        "i64" | "isize" => integer(i64::MIN.into(), i64::MAX as u128),
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" => "a text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a section of keys and values".to_owned(),
        other if other.starts_with("struct ") || other.starts_with("internally tagged enum") => {
            "a section of keys and values".to_owned()
        }
        other if other.starts_with("enum ") => "one of its words".to_owned(),
        other => other.to_owned(),
    }
}

/// The value as written, short.
fn show(node: &Node) -> String {
    match &node.value {
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a section".to_owned(),
        Value::Scalar(Scalar { kind: Kind::Null, written: None, .. }) => "nothing".to_owned(),
        Value::Scalar(scalar) => {
            let shown: String = scalar.text.chars().take(80).collect();
            let dots = if shown.len() < scalar.text.len() { "…" } else { "" };
            let quoted = match (scalar.kind, &scalar.written) {
                (Kind::Str, _) | (_, Some(_)) => format!("\"{shown}{dots}\""),
                _ => shown,
            };
            match &scalar.written {
                Some(written) => format!("{quoted} (from {written})"),
                None => quoted,
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for Failure {}

impl de::Error for Failure {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(Cause::Own(message.to_string()))
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(Cause::Expected(expected.to_string()))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(Cause::Expected(expected.to_string()))
    }

    fn invalid_length(_: usize, expected: &dyn Expected) -> Self {
        Self::new(Cause::Expected(expected.to_string()))
    }

    fn unknown_variant(word: &str, known: &'static [&'static str]) -> Self {
        Self::new(Cause::Variant { word: word.to_owned(), known })
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        Self::new(Cause::Unknown { key: key.to_owned(), known })
    }

    fn missing_field(key: &'static str) -> Self {
        Self::new(Cause::Missing(key))
    }
}

/// Reads one node.
#[derive(Clone, Copy)]
pub(super) struct Reader<'n> {
    node: &'n Node,
}

impl<'n> Reader<'n> {
    pub(super) fn new(node: &'n Node) -> Self {
        Self { node }
    }

    /// By what the value looks like.
    fn any<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::List(items) => visitor.visit_seq(Items { items, next: 0 }),
            Value::Map(entries) => visitor.visit_map(Entries { entries, next: 0 }),
            Value::Scalar(scalar) => match scalar.kind {
                Kind::Null => visitor.visit_unit(),
                Kind::Bool(value) => visitor.visit_bool(value),
                Kind::Float(value) => visitor.visit_f64(value),
                Kind::Str => visitor.visit_str(&scalar.text),
                Kind::Int(value) => match (u64::try_from(value), i64::try_from(value)) {
                    (Ok(value), _) => visitor.visit_u64(value),
                    (_, Ok(value)) => visitor.visit_i64(value),
                    _ => visitor.visit_i128(value),
                },
            },
        }
    }

    /// By what the target wants: any scalar but null is a text.
    fn text<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Scalar(scalar) if scalar.kind != Kind::Null || scalar.written.is_some() => {
                visitor.visit_str(&scalar.text)
            }
            _ => self.any(visitor),
        }
    }
}

macro_rules! located {
    ($($method:ident => $how:ident,)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
            self.$how(visitor).map_err(|failure| failure.at(self.node))
        })*
    };
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Failure;

    located! {
        deserialize_any => any,
        deserialize_str => text,
        deserialize_string => text,
        deserialize_char => text,
        deserialize_identifier => text,
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Scalar(scalar) if scalar.kind == Kind::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
        .map_err(|failure: Failure| failure.at(self.node))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_newtype_struct(self).map_err(|failure: Failure| failure.at(self.node))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Scalar(scalar) if scalar.kind != Kind::Null => {
                visitor.visit_enum(StrDeserializer::<Failure>::new(&scalar.text))
            }
            Value::Map(entries) if entries.len() == 1 => visitor.visit_enum(Variant { entry: &entries[0] }),
            _ => Err(Failure::new(Cause::Expected(format!("one of {}", known.join(", "))))),
        }
        .map_err(|failure| failure.at(self.node))
    }

    /// serde would read a list as a struct's fields in their order; here a section has keys.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Map(_) => self.deserialize_any(visitor),
            _ => Err(Failure::new(Cause::Expected("a map".to_owned())).at(self.node)),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 bytes byte_buf
        unit unit_struct seq tuple tuple_struct map
    }
}

struct Items<'n> {
    items: &'n [Node],
    next: usize,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Failure;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Failure> {
        let Some(item) = self.items.get(self.next) else { return Ok(None) };
        let index = self.next;
        self.next += 1;
        seed.deserialize(Reader::new(item)).map(Some).map_err(|failure| failure.below(Segment::Index(index)))
    }
}

struct Entries<'n> {
    entries: &'n [Entry],
    next: usize,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Failure;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Failure> {
        let Some(entry) = self.entries.get(self.next) else { return Ok(None) };
        let key = StrDeserializer::<Failure>::new(&entry.key);
        seed.deserialize(key).map(Some).map_err(|mut failure| {
            failure.line = Some(entry.line);
            failure.found = Some(format!("key \"{}\"", entry.key));
            failure
        })
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Failure> {
        let entry = &self.entries[self.next];
        self.next += 1;
        seed.deserialize(Reader::new(&entry.node)).map_err(|failure| failure.below(Segment::Key(entry.key.clone())))
    }
}

/// `name: content`, an externally tagged variant.
struct Variant<'n> {
    entry: &'n Entry,
}

impl<'de, 'n> EnumAccess<'de> for Variant<'n> {
    type Error = Failure;
    type Variant = Content<'n>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Content<'n>), Failure> {
        let name = seed.deserialize(StrDeserializer::<Failure>::new(&self.entry.key))?;
        Ok((name, Content { entry: self.entry }))
    }
}

struct Content<'n> {
    entry: &'n Entry,
}

impl Content<'_> {
    fn inside<T>(&self, result: Result<T, Failure>) -> Result<T, Failure> {
        result.map_err(|failure| failure.at(&self.entry.node).below(Segment::Key(self.entry.key.clone())))
    }
}

impl<'de> VariantAccess<'de> for Content<'_> {
    type Error = Failure;

    fn unit_variant(self) -> Result<(), Failure> {
        let reader = Reader::new(&self.entry.node);
        self.inside(reader.deserialize_ignored_any(de::IgnoredAny).map(drop))
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Failure> {
        self.inside(seed.deserialize(Reader::new(&self.entry.node)))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Failure> {
        self.inside(Reader::new(&self.entry.node).deserialize_any(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Failure> {
        self.inside(Reader::new(&self.entry.node).deserialize_any(visitor))
    }
}
