//! One JSON scalar as one protobuf field (proto3 JSON mapping, with OTLP's hex ids).

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de;

use super::Writer;
use super::schema::{Field, Type};

/// A scalar as JSON writes it.
pub(super) enum Scalar<'a> {
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(&'a str),
}

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const FIXED32: u32 = 5;

/// Writes `value` as `field`, or tells what the field takes.
pub(super) fn write<E: de::Error>(field: &Field, value: &Scalar<'_>, writer: &mut Writer<'_>) -> Result<(), E> {
    let wrong = || {
        let text = match value {
            Scalar::Bool(value) => value.to_string(),
            Scalar::Integer(value) => value.to_string(),
            Scalar::Float(value) => value.to_string(),
            Scalar::Text(text) => format!("{:?}", &text[..text.floor_char_boundary(64)]),
        };
        E::custom(format_args!("{}: {text} is not possible; expected {}", field.key, field.kind.expected()))
    };
    match (&field.kind, value) {
        (Type::String, Scalar::Text(text)) => writer.bytes(field.number, text.as_bytes()),
        (Type::Hex, Scalar::Text(text)) => hex(field, text, writer, wrong),
        (Type::Base64, Scalar::Text(text)) => {
            // The decoded bytes are a copy of their own; they are smaller than the room they pay for.
            writer.reserve(text.len() + 12)?;
            let decoded = STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).map_err(|_| wrong())?;
            writer.bytes(field.number, &decoded)
        }
        (Type::Bool, Scalar::Bool(value)) => {
            writer.reserve(6)?;
            writer.tag(field.number, VARINT);
            writer.buffer.push(u8::from(*value));
            Ok(())
        }
        (Type::Double, value) => {
            let number = double(value).ok_or_else(wrong)?;
            writer.reserve(13)?;
            writer.tag(field.number, FIXED64);
            writer.buffer.extend_from_slice(&number.to_le_bytes());
            Ok(())
        }
        (Type::Enum(prefix, names), Scalar::Text(name)) => {
            let rest = name.strip_prefix(*prefix).ok_or_else(wrong)?;
            let number = names.iter().position(|known| *known == rest).ok_or_else(wrong)?;
            integer(field, number as i128, writer).ok_or_else(wrong)?
        }
        (Type::Message(_) | Type::String | Type::Hex | Type::Base64 | Type::Bool, _) => Err(wrong()),
        (_, value) => {
            let number = whole(value).ok_or_else(wrong)?;
            integer(field, number, writer).ok_or_else(wrong)?
        }
    }
}

/// Writes an integer of the field's type; none when it is out of the type's range.
fn integer<E: de::Error>(field: &Field, value: i128, writer: &mut Writer<'_>) -> Option<Result<(), E>> {
    let varint = match field.kind {
        Type::Fixed32 => {
            let value = u32::try_from(value).ok()?;
            return Some(writer.reserve(9).map(|()| {
                writer.tag(field.number, FIXED32);
                writer.buffer.extend_from_slice(&value.to_le_bytes());
            }));
        }
        Type::Fixed64 | Type::Sfixed64 => {
            let value = match field.kind {
                Type::Fixed64 => u64::try_from(value).ok()?,
                _ => i64::try_from(value).ok()? as u64,
            };
            return Some(writer.reserve(13).map(|()| {
                writer.tag(field.number, FIXED64);
                writer.buffer.extend_from_slice(&value.to_le_bytes());
            }));
        }
        Type::Uint32 => u64::from(u32::try_from(value).ok()?),
        Type::Uint64 => u64::try_from(value).ok()?,
        Type::Int64 => i64::try_from(value).ok()? as u64,
        // Negative enums and int32 are sign-extended to ten bytes.
        Type::Int32 | Type::Enum(..) => i64::from(i32::try_from(value).ok()?) as u64,
        Type::Sint32 => {
            let value = i32::try_from(value).ok()?;
            u64::from(((value << 1) ^ (value >> 31)) as u32)
        }
        _ => return None,
    };
    Some(writer.reserve(15).map(|()| {
        writer.tag(field.number, VARINT);
        writer.varint(varint);
    }))
}

/// An integer from a number, a number without a fraction, or a string of either.
fn whole(value: &Scalar<'_>) -> Option<i128> {
    let from_float = |value: f64| (value.fract() == 0.0 && value.abs() < 1.8e19).then_some(value as i128);
    match value {
        Scalar::Integer(value) => Some(*value),
        Scalar::Float(value) => from_float(*value),
        Scalar::Text(text) => text.parse().ok().or_else(|| from_float(text.parse().ok()?)),
        Scalar::Bool(_) => None,
    }
}

fn double(value: &Scalar<'_>) -> Option<f64> {
    match value {
        Scalar::Integer(value) => Some(*value as f64),
        Scalar::Float(value) => Some(*value),
        // Also "NaN", "Infinity" and "-Infinity".
        Scalar::Text(text) => text.parse().ok(),
        Scalar::Bool(_) => None,
    }
}

fn hex<E: de::Error>(field: &Field, text: &str, writer: &mut Writer<'_>, wrong: impl Fn() -> E) -> Result<(), E> {
    if !text.len().is_multiple_of(2) {
        return Err(wrong());
    }
    writer.reserve(text.len() / 2 + 12)?;
    writer.tag(field.number, super::LEN);
    writer.varint(text.len() as u64 / 2);
    for pair in text.as_bytes().chunks_exact(2) {
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or_else(&wrong);
        writer.buffer.push((digit(pair[0])? << 4 | digit(pair[1])?) as u8);
    }
    Ok(())
}
