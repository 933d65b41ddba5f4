//! YAML as a tree that knows where everything stands.
//!
//! Scalars keep their text beside their type, so that `version: 1.10` is still `1.10` where a
//! string is expected. The YAML library enforces the limits; nothing here recurses deeper than
//! they allow.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Spanned, budget, options};

use super::Problem;

/// Nesting that no configuration needs.
const MAX_DEPTH: usize = 24;

/// One value with the line on which it is used.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) line: u64,
    pub(super) value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: u64,
    pub(super) node: Node,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scalar {
    /// As written, or with the environment put in.
    pub(super) text: String,
    pub(super) kind: Kind,
    /// What was written, when the environment was put in; the type is then what the text looks
    /// like, and a string target takes the text as it is.
    pub(super) written: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str,
}

impl Node {
    /// An empty section at `line`.
    pub(super) fn section(line: u64) -> Self {
        Self { line, value: Value::Map(Vec::new()) }
    }
}

/// Reads one document; an empty one is an empty section.
pub(super) fn read(text: &str) -> Result<Node, Problem> {
    let limits = options! {
        with_snippet: false,
        strict_booleans: true,
        budget: budget! { max_depth: MAX_DEPTH },
    };
    let raw: Result<Spanned<Raw>, _> = serde_saphyr::from_str_with_options(text, limits);
    match raw {
        Ok(raw) => {
            let mut root = raw.value.place(text, raw.referenced, raw.defined);
            if matches!(&root.value, Value::Scalar(scalar) if scalar.kind == Kind::Null) {
                root = Node::section(1);
            }
            Ok(root)
        }
        Err(error) => {
            let line = error.location().map(|location| location.line()).filter(|line| *line > 0);
            Err(Problem { line, key: String::new(), message: describe(&error) })
        }
    }
}

/// The library's message without the place, which is told by the problem's line.
fn describe(error: &serde_saphyr::Error) -> String {
    let message = error.without_snippet().to_string();
    let message = message.split(" at line ").next().unwrap_or(&message).replace('\n', " ");
    format!("is not valid YAML: {message}")
}

/// What the library hands over, before places are filled in.
enum Raw {
    Typed(Kind),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl Raw {
    fn place(self, source: &str, used: serde_saphyr::Location, defined: serde_saphyr::Location) -> Node {
        let value = match self {
            Self::Typed(kind) => {
                Value::Scalar(Scalar { text: written(source, defined).to_owned(), kind, written: None })
            }
            Self::Text(text) => Value::Scalar(Scalar { text, kind: Kind::Str, written: None }),
            Self::List(items) => {
                let placed = items.into_iter().map(|item| item.value.place(source, item.referenced, item.defined));
                Value::List(placed.collect())
            }
            Self::Map(entries) => {
                let placed = entries.into_iter().map(|(key, item)| Entry {
                    line: key.referenced.line(),
                    key: key.value,
                    node: item.value.place(source, item.referenced, item.defined),
                });
                Value::Map(placed.collect())
            }
        };
        Node { line: used.line(), value }
    }
}

/// The scalar's text in the source.
fn written(source: &str, location: serde_saphyr::Location) -> &str {
    let span = location.span();
    let range = span.byte_offset().zip(span.byte_len());
    let text = range.and_then(|(start, len)| source.get(start as usize..(start + len) as usize)).unwrap_or("");
    text.trim()
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Typed(Kind::Null))
    }

    fn visit_none<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Typed(Kind::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Typed(Kind::Bool(value)))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Typed(Kind::Int(value.into())))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Typed(Kind::Int(value.into())))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Typed(Kind::Int(value)))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Typed(Kind::Float(value)))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}
