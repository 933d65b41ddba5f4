//! What OTLP 1.x defines, as far as validation has to know: the kind of every field of every message
//! of the three export requests.
//!
//! Source: opentelemetry-proto `common`, `resource`, `trace`, `metrics`, `logs`. A field that is not
//! in a table is unknown: it is framed, kept and never looked into.

use crate::signal::Signal;

/// How a field's value is checked.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Unknown,
    Varint,
    Fixed32,
    Fixed64,
    Bytes,
    Text,
    /// Repeated, packed or not.
    Varints,
    /// Repeated, packed or not.
    Fixed64s,
    /// A message, repeated or with only scalars that the views merge themselves.
    Message(&'static Schema),
    /// The entry of a resource or a scope; their number is bounded.
    Entry(&'static Schema),
    /// A message that counts as one of the request's items.
    Item(&'static Schema),
    /// `KeyValue`: by far the most frequent message, with a fast path of its own.
    Attribute,
}

/// One field of a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    pub(crate) kind: Kind,
    /// Fields (as bits) whose earlier occurrence makes this one the continuation or the replacement
    /// of another: itself for singular messages and an attribute's key (so that views may stop at the
    /// first), every member for a oneof with messages in it.
    pub(crate) conflicts: u32,
}

/// Fields of a message, by number.
#[derive(Debug)]
pub(crate) struct Schema {
    pub(crate) fields: &'static [Field],
}

const UNKNOWN: Field = Field { kind: Kind::Unknown, conflicts: 0 };

impl Schema {
    #[inline]
    pub(crate) fn field(&self, number: u32) -> Field {
        self.fields.get(number as usize).copied().unwrap_or(UNKNOWN)
    }

    /// The schema of a signal's export request.
    pub(crate) fn request(signal: Signal) -> &'static Self {
        match signal {
            Signal::Traces => &TRACES,
            Signal::Metrics => &METRICS,
            Signal::Logs => &LOGS,
        }
    }
}

const fn plain(kind: Kind) -> Field {
    Field { kind, conflicts: 0 }
}

/// A singular message.
const fn one(number: u32, schema: &'static Schema) -> Field {
    Field { kind: Message(schema), conflicts: 1 << number }
}

/// A member of a oneof, whose members are given as bits.
const fn member(kind: Kind, members: u32) -> Field {
    Field { kind, conflicts: members }
}

/// Places fields by number; every number not named is unknown.
const fn table<const N: usize, const M: usize>(named: [(usize, Field); M]) -> [Field; N] {
    let mut fields = [UNKNOWN; N];
    let mut index = 0;
    while index < M {
        fields[named[index].0] = named[index].1;
        index += 1;
    }
    fields
}

macro_rules! schema {
    ($name:ident, $size:literal, [$($number:literal => $field:expr),+ $(,)?]) => {
        pub(crate) static $name: Schema = {
            static FIELDS: [Field; $size] = table([$(($number, $field)),+]);
            Schema { fields: &FIELDS }
        };
    };
}

use Kind::{Attribute, Bytes, Entry, Fixed32, Fixed64, Fixed64s, Item, Message, Text, Varint, Varints};

const VALUE_MEMBERS: u32 = 0b1_1111_1110;
const DATA_MEMBERS: u32 = 1 << 5 | 1 << 7 | 1 << 9 | 1 << 10 | 1 << 11;

schema!(ANY_VALUE, 9, [
    1 => member(Text, VALUE_MEMBERS), 2 => member(Varint, VALUE_MEMBERS), 3 => member(Varint, VALUE_MEMBERS),
    4 => member(Fixed64, VALUE_MEMBERS), 5 => member(Message(&ARRAY_VALUE), VALUE_MEMBERS),
    6 => member(Message(&KEY_VALUE_LIST), VALUE_MEMBERS), 7 => member(Bytes, VALUE_MEMBERS),
    8 => member(Varint, VALUE_MEMBERS),
]);
schema!(ARRAY_VALUE, 2, [1 => plain(Message(&ANY_VALUE))]);
schema!(KEY_VALUE_LIST, 2, [1 => plain(Attribute)]);
schema!(KEY_VALUE, 4, [1 => member(Text, 1 << 1), 2 => one(2, &ANY_VALUE), 3 => plain(Varint)]);
schema!(SCOPE, 5, [1 => plain(Text), 2 => plain(Text), 3 => plain(Attribute), 4 => plain(Varint)]);
schema!(ENTITY_REF, 5, [1 => plain(Text), 2 => plain(Text), 3 => plain(Text), 4 => plain(Text)]);
schema!(RESOURCE, 4, [1 => plain(Attribute), 2 => plain(Varint), 3 => plain(Message(&ENTITY_REF))]);

schema!(TRACES, 2, [1 => plain(Entry(&RESOURCE_SPANS))]);
schema!(RESOURCE_SPANS, 4, [1 => one(1, &RESOURCE), 2 => plain(Entry(&SCOPE_SPANS)), 3 => plain(Text)]);
schema!(SCOPE_SPANS, 4, [1 => one(1, &SCOPE), 2 => plain(Item(&SPAN)), 3 => plain(Text)]);
schema!(SPAN, 17, [
    1 => plain(Bytes), 2 => plain(Bytes), 3 => plain(Text), 4 => plain(Bytes), 5 => plain(Text), 6 => plain(Varint),
    7 => plain(Fixed64), 8 => plain(Fixed64), 9 => plain(Attribute), 10 => plain(Varint),
    11 => plain(Message(&EVENT)), 12 => plain(Varint), 13 => plain(Message(&LINK)), 14 => plain(Varint),
    15 => plain(Message(&STATUS)), 16 => plain(Fixed32),
]);
schema!(EVENT, 5, [1 => plain(Fixed64), 2 => plain(Text), 3 => plain(Attribute), 4 => plain(Varint)]);
schema!(LINK, 7, [
    1 => plain(Bytes), 2 => plain(Bytes), 3 => plain(Text), 4 => plain(Attribute), 5 => plain(Varint), 6 => plain(Fixed32),
]);
schema!(STATUS, 4, [2 => plain(Text), 3 => plain(Varint)]);

schema!(METRICS, 2, [1 => plain(Entry(&RESOURCE_METRICS))]);
schema!(RESOURCE_METRICS, 4, [1 => one(1, &RESOURCE), 2 => plain(Entry(&SCOPE_METRICS)), 3 => plain(Text)]);
schema!(SCOPE_METRICS, 4, [1 => one(1, &SCOPE), 2 => plain(Message(&METRIC)), 3 => plain(Text)]);
schema!(METRIC, 13, [
    1 => plain(Text), 2 => plain(Text), 3 => plain(Text),
    5 => member(Message(&GAUGE), DATA_MEMBERS), 7 => member(Message(&SUM), DATA_MEMBERS),
    9 => member(Message(&HISTOGRAM), DATA_MEMBERS), 10 => member(Message(&EXP_HISTOGRAM), DATA_MEMBERS),
    11 => member(Message(&SUMMARY), DATA_MEMBERS), 12 => plain(Attribute),
]);
schema!(GAUGE, 2, [1 => plain(Item(&NUMBER_POINT))]);
schema!(SUM, 4, [1 => plain(Item(&NUMBER_POINT)), 2 => plain(Varint), 3 => plain(Varint)]);
schema!(HISTOGRAM, 3, [1 => plain(Item(&HISTOGRAM_POINT)), 2 => plain(Varint)]);
schema!(EXP_HISTOGRAM, 3, [1 => plain(Item(&EXP_HISTOGRAM_POINT)), 2 => plain(Varint)]);
schema!(SUMMARY, 2, [1 => plain(Item(&SUMMARY_POINT))]);
schema!(NUMBER_POINT, 9, [
    2 => plain(Fixed64), 3 => plain(Fixed64), 4 => plain(Fixed64), 5 => plain(Message(&EXEMPLAR)), 6 => plain(Fixed64),
    7 => plain(Attribute), 8 => plain(Varint),
]);
schema!(HISTOGRAM_POINT, 13, [
    2 => plain(Fixed64), 3 => plain(Fixed64), 4 => plain(Fixed64), 5 => plain(Fixed64), 6 => plain(Fixed64s),
    7 => plain(Fixed64s), 8 => plain(Message(&EXEMPLAR)), 9 => plain(Attribute), 10 => plain(Varint),
    11 => plain(Fixed64), 12 => plain(Fixed64),
]);
schema!(EXP_HISTOGRAM_POINT, 15, [
    1 => plain(Attribute), 2 => plain(Fixed64), 3 => plain(Fixed64), 4 => plain(Fixed64), 5 => plain(Fixed64),
    6 => plain(Varint), 7 => plain(Fixed64), 8 => one(8, &BUCKETS), 9 => one(9, &BUCKETS), 10 => plain(Varint),
    11 => plain(Message(&EXEMPLAR)), 12 => plain(Fixed64), 13 => plain(Fixed64), 14 => plain(Fixed64),
]);
schema!(BUCKETS, 3, [1 => plain(Varint), 2 => plain(Varints)]);
schema!(SUMMARY_POINT, 9, [
    2 => plain(Fixed64), 3 => plain(Fixed64), 4 => plain(Fixed64), 5 => plain(Fixed64),
    6 => plain(Message(&QUANTILE)), 7 => plain(Attribute), 8 => plain(Varint),
]);
schema!(QUANTILE, 3, [1 => plain(Fixed64), 2 => plain(Fixed64)]);
schema!(EXEMPLAR, 8, [
    2 => plain(Fixed64), 3 => plain(Fixed64), 4 => plain(Bytes), 5 => plain(Bytes), 6 => plain(Fixed64), 7 => plain(Attribute),
]);

schema!(LOGS, 2, [1 => plain(Entry(&RESOURCE_LOGS))]);
schema!(RESOURCE_LOGS, 4, [1 => one(1, &RESOURCE), 2 => plain(Entry(&SCOPE_LOGS)), 3 => plain(Text)]);
schema!(SCOPE_LOGS, 4, [1 => one(1, &SCOPE), 2 => plain(Item(&LOG_RECORD)), 3 => plain(Text)]);
schema!(LOG_RECORD, 13, [
    1 => plain(Fixed64), 2 => plain(Varint), 3 => plain(Text), 5 => one(5, &ANY_VALUE), 6 => plain(Attribute),
    7 => plain(Varint), 8 => plain(Fixed32), 9 => plain(Bytes), 10 => plain(Bytes), 11 => plain(Fixed64), 12 => plain(Text),
]);
