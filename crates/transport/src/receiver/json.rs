//! OTLP/JSON to OTLP protobuf in one pass, without building the messages in memory.
//!
//! Follows the OTLP specification's JSON mapping ("JSON Protobuf Encoding") on top of proto3's: lower
//! camel case keys, trace and span ids as hex, 64-bit integers as strings or numbers, enums as integers
//! (their names are taken too), doubles also as `"NaN"` and `"Infinity"`, unknown keys ignored, `null`
//! is absence. The field tables are in [`schema`]; they are held against `opentelemetry-proto`.
//!
//! Why not that crate's own decoder: it multiplies memory (three bytes of `{},` become a span of some
//! 400), refuses what the mapping allows, and its result would have to be encoded again.
//!
//! A client that writes the names of the .proto files (`trace_id`) sends nothing that can be read, and by the
//! mapping that is no error: it is told so in a warning ([`ignored`]).
//!
//! Never: uses more memory than input, output and one scratch string; output is paid for as it grows.

mod ignored;
mod scalar;
mod schema;

use std::fmt;

use bytes::Bytes;
use mirador_otlp::Signal;
use mirador_service::memory::Permit;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use tonic::Code;

pub(super) use self::ignored::Ignored;
use self::scalar::Scalar;
use self::schema::{Field, Message, Type};
use super::body::{pay, room};
use super::buffer;
use super::fault::Fault;

/// Wire type of length-delimited fields.
const LEN: u32 = 2;

/// What JSON has become.
#[derive(Debug)]
pub(super) struct Transcoded {
    /// Protobuf.
    pub(super) body: Bytes,
    /// The first key that was ignored although it was most likely meant.
    pub(super) ignored: Option<Ignored>,
}

/// Re-encodes an export request of one signal; the output is at most `limit` bytes.
pub(super) fn to_protobuf(signal: Signal, json: &[u8], limit: usize, permit: &mut Permit) -> Result<Transcoded, Fault> {
    if json.iter().all(u8::is_ascii_whitespace) {
        return Ok(Transcoded { body: Bytes::new(), ignored: None });
    }
    // Protobuf is about a third to two thirds of the JSON.
    let guess = (json.len() / 2).max(4 << 10);
    pay(guess, permit)?;
    let mut writer = Writer { buffer: room(guess, permit), limit, permit, fault: None, ignored: None };
    let mut reader = serde_json::Deserializer::from_slice(json);
    let message = schema::request(signal);
    let read = MessageSeed { message, writer: &mut writer }.deserialize(&mut reader).and_then(|()| reader.end());
    let Writer { buffer, fault, ignored, .. } = writer;
    match (read, fault) {
        (Ok(()), _) => Ok(Transcoded { body: buffer::freeze(buffer), ignored }),
        (Err(_), Some(fault)) => Err(fault),
        (Err(error), None) => {
            Err(Fault::bad("json", Code::InvalidArgument, format!("the body is not OTLP/JSON: {error}")))
        }
    }
}

/// Protobuf that is paid for as it grows.
struct Writer<'a> {
    buffer: Vec<u8>,
    limit: usize,
    permit: &'a mut Permit,
    /// Why writing stopped, when the input is not to blame.
    fault: Option<Fault>,
    /// As in [`Transcoded`].
    ignored: Option<Ignored>,
}

impl Writer<'_> {
    /// Makes room for `more` bytes; an error is only a signal, the cause is in `fault`.
    fn reserve<E: de::Error>(&mut self, more: usize) -> Result<(), E> {
        let needed = self.buffer.len() + more;
        if needed > self.limit {
            self.fault = Some(Fault::too_large_decompressed(self.limit));
            return Err(E::custom("too large"));
        }
        let old = self.buffer.capacity();
        if needed > old {
            let new = needed.max(old.saturating_mul(2)).min(self.limit.max(needed));
            if let Err(fault) = pay(new, self.permit) {
                self.fault = Some(fault);
                return Err(E::custom("no memory"));
            }
            let mut wider = room(new, self.permit);
            wider.extend_from_slice(&self.buffer);
            buffer::give(std::mem::replace(&mut self.buffer, wider));
            self.permit.shrink_to(self.permit.bytes() - old);
        }
        Ok(())
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.buffer.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.buffer.push(value as u8);
    }

    fn tag(&mut self, field: u32, wire: u32) {
        self.varint(u64::from(field << 3 | wire));
    }

    /// Begins a length-delimited field; the length is set by [`Self::close`].
    fn open<E: de::Error>(&mut self, field: u32) -> Result<usize, E> {
        self.reserve(6)?;
        self.tag(field, LEN);
        self.buffer.push(0);
        Ok(self.buffer.len())
    }

    /// Ends what [`Self::open`] began at `start`; what was written moves when its length needs more
    /// than the one byte that was left for it.
    fn close<E: de::Error>(&mut self, start: usize) -> Result<(), E> {
        let length = self.buffer.len() - start;
        let width = varint_width(length as u64);
        if width > 1 {
            self.reserve(width - 1)?;
            self.buffer.resize(self.buffer.len() + width - 1, 0);
            self.buffer.copy_within(start..start + length, start + width - 1);
        }
        let mut rest = length;
        for (i, byte) in self.buffer[start - 1..start - 1 + width].iter_mut().enumerate() {
            *byte = (rest & 0x7f) as u8 | if i + 1 < width { 0x80 } else { 0 };
            rest >>= 7;
        }
        Ok(())
    }

    fn bytes<E: de::Error>(&mut self, field: u32, bytes: &[u8]) -> Result<(), E> {
        self.reserve(bytes.len() + 12)?;
        self.tag(field, LEN);
        self.varint(bytes.len() as u64);
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }
}

fn varint_width(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// One JSON object, written as the fields of `message`.
struct MessageSeed<'a, 'w> {
    message: &'static Message,
    writer: &'a mut Writer<'w>,
}

impl<'de> DeserializeSeed<'de> for MessageSeed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MessageSeed<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "an object ({})", self.message.name)
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(KeySeed(self.message))? {
            match key {
                Key::Known(field) => map.next_value_seed(FieldSeed { field, writer: self.writer, element: false })?,
                Key::Unknown(meant) => {
                    let of = self.message;
                    self.writer.ignored = self.writer.ignored.or(meant.map(|field| Ignored { field, of }));
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// A key, looked up in a message.
enum Key {
    Known(&'static Field),
    /// No field of the message, with the one whose name in the .proto file it is.
    Unknown(Option<&'static Field>),
}

struct KeySeed(&'static Message);

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = Key;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a key of {}", self.0.name)
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<Self::Value, E> {
        let fields = self.0.fields;
        Ok(match fields.iter().find(|field| field.key == key) {
            Some(field) => Key::Known(field),
            None => Key::Unknown(fields.iter().find(|field| ignored::is_proto_name(key, field.key))),
        })
    }
}

/// The value of one field, or one element of a repeated one.
struct FieldSeed<'a, 'w> {
    field: &'static Field,
    writer: &'a mut Writer<'w>,
    element: bool,
}

impl<'de> DeserializeSeed<'de> for FieldSeed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl FieldSeed<'_, '_> {
    fn scalar<E: de::Error>(self, value: &Scalar<'_>) -> Result<(), E> {
        if self.field.repeated && !self.element {
            return Err(E::custom(format_args!("{}: expected an array", self.field.key)));
        }
        scalar::write(self.field, value, self.writer)
    }
}

impl<'de> Visitor<'de> for FieldSeed<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = if self.field.repeated && !self.element { "an array of " } else { "" };
        write!(formatter, "{list}{} for {:?}", self.field.kind.expected(), self.field.key)
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        // Absent; but in a list of messages an element stands for an empty one (an empty AnyValue).
        if self.element && matches!(self.field.kind, Type::Message(_)) {
            self.writer.bytes(self.field.number, &[])?;
        }
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.scalar(&Scalar::Bool(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.scalar(&Scalar::Integer(i128::from(value)))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.scalar(&Scalar::Integer(i128::from(value)))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.scalar(&Scalar::Float(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<(), E> {
        self.scalar(&Scalar::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if !self.field.repeated || self.element {
            return Err(de::Error::invalid_type(de::Unexpected::Seq, &self));
        }
        while list.next_element_seed(FieldSeed { field: self.field, writer: self.writer, element: true })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let Type::Message(message) = self.field.kind else {
            return Err(de::Error::invalid_type(de::Unexpected::Map, &self));
        };
        if self.field.repeated && !self.element {
            return Err(de::Error::invalid_type(de::Unexpected::Map, &self));
        }
        let start = self.writer.open(self.field.number)?;
        MessageSeed { message: message(), writer: self.writer }.visit_map(map)?;
        self.writer.close(start)
    }
}

#[cfg(test)]
mod tests;
