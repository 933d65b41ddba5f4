//! The map hash of the collector (`pdatautil.MapHash`) and the routing key made from it.
//!
//! The attributes, sorted by the bytes of their names, are written as tagged bytes; the hash is
//! xxh64 of that text followed by xxh64 of that text with one more byte. No attributes hash to zero.

use xxhash_rust::xxh64::Xxh64;

use crate::value::{Attributes, Value};

const EXTRA: u8 = 0xF3;
const KEY: u8 = 0xF4;
const EMPTY: u8 = 0xF5;
const BYTES: u8 = 0xF6;
const STRING: u8 = 0xF7;
const TRUE: u8 = 0xF8;
const FALSE: u8 = 0xF9;
const INT: u8 = 0xFA;
const DOUBLE: u8 = 0xFB;
const MAP: u8 = 0xFC;
const MAP_END: u8 = 0xFD;
const ARRAY: u8 = 0xFE;
const ARRAY_END: u8 = 0xFF;

/// The order-independent hash of a list of attributes.
pub(super) fn map_hash(attributes: Attributes<'_>) -> u128 {
    if attributes.is_empty() {
        return 0;
    }
    let mut hash = Xxh64::new(0);
    write_map(attributes, &mut hash);
    let low = hash.digest();
    hash.update(&[EXTRA]);
    u128::from(low) | u128::from(hash.digest()) << 64
}

/// `resource/` and the hash of the identity, in hex without leading zeros.
pub(super) fn routing_key(identity: u128) -> String {
    format!("resource/{:x}", fnv1a(&identity.to_le_bytes()))
}

fn write_map(attributes: Attributes<'_>, hash: &mut Xxh64) {
    let mut entries: Vec<_> = attributes.entries().collect();
    // Stable, so that equal names keep their order.
    entries.sort_by_key(|entry| entry.key);
    for entry in entries {
        hash.update(&[KEY]);
        hash.update(entry.key);
        write_value(&entry.value(), hash);
    }
}

fn write_value(value: &Value<'_>, hash: &mut Xxh64) {
    match value {
        Value::Empty => hash.update(&[EMPTY]),
        Value::Str(string) => {
            hash.update(&[STRING]);
            hash.update(string.as_bytes());
        }
        Value::Bool(true) => hash.update(&[TRUE]),
        Value::Bool(false) => hash.update(&[FALSE]),
        Value::Int(number) => {
            hash.update(&[INT]);
            hash.update(&number.to_le_bytes());
        }
        Value::Double(number) => {
            hash.update(&[DOUBLE]);
            hash.update(&number.to_bits().to_le_bytes());
        }
        Value::Bytes(bytes) => {
            hash.update(&[BYTES]);
            hash.update(bytes);
        }
        Value::Array(array) => {
            hash.update(&[ARRAY]);
            array.iter().for_each(|item| write_value(&item, hash));
            hash.update(&[ARRAY_END]);
        }
        Value::Map(map) => {
            hash.update(&[MAP]);
            write_map(*map, hash);
            hash.update(&[MAP_END]);
        }
    }
}

/// FNV-1a, 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3))
}
