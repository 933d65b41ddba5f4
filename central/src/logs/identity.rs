//! The identity of a log record: what makes a repeated export land on the row that it wrote before.
//!
//! A record is named by its content. Two records with the same resource, scope, time, severity, body,
//! attributes, trace, span, flags and event name are one record (when it was observed and how many attributes
//! were dropped before it was sent are not part of it), unless they stand in the same request: an application that
//! writes the very same line twice in one tick means two lines, so the n-th copy inside a request carries
//! the ordinal n.
//!
//! Invariant: the order of attributes means nothing. Never: reads a clock, or changes from one version to the
//! next (golden values hold it).

use std::collections::HashMap;

use mirador_otlp::logs::LogRecord;
use mirador_otlp::resource::Resource;
use mirador_otlp::scope::Scope;
use mirador_otlp::value::{Attributes, Value};
use xxhash_rust::xxh3::Xxh3;

/// Names a record inside its resource and scope; equal records get equal identities.
///
/// `context` is the hash of resource and scope, `time_unix_nano` the effective time.
fn identity(context: u128, record: &LogRecord<'_>, time_unix_nano: u64) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(&context.to_le_bytes());
    hash.update(&time_unix_nano.to_le_bytes());
    hash.update(&record.severity_number().to_le_bytes());
    text(&mut hash, record.severity_text().as_bytes());
    value(&mut hash, &record.body());
    hash.update(&attributes(&record.attributes()).to_le_bytes());
    text(&mut hash, record.trace_id());
    text(&mut hash, record.span_id());
    text(&mut hash, record.event_name().as_bytes());
    hash.update(&record.flags().to_le_bytes());
    hash.digest128()
}

/// The part of the identity that all records under one resource and scope share.
pub fn context(resource: &Resource<'_>, scope: &Scope<'_>) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(&resource.identity().to_le_bytes());
    text(&mut hash, scope.name().as_bytes());
    text(&mut hash, scope.version().as_bytes());
    hash.update(&attributes(&scope.attributes()).to_le_bytes());
    hash.digest128()
}

/// Names the records of one request, each copy with its ordinal.
#[derive(Debug, Default)]
pub struct Names(HashMap<u128, u32>);

impl Names {
    /// The name of the next record, and the time that it carries: its own, else when it was observed, else none.
    pub fn next(&mut self, context: u128, record: &LogRecord<'_>) -> (u128, Option<u64>) {
        let times = [record.time_unix_nano(), record.observed_time_unix_nano()];
        let stamped = times.into_iter().find(|&time| time != 0);
        // A record without any time is named by its content alone: the arrival time would give a repeated
        // export another name.
        let own = identity(context, record, stamped.unwrap_or_default());
        let ordinal = self.0.entry(own).or_insert(0);
        let name = with_ordinal(own, *ordinal);
        *ordinal += 1;
        (name, stamped)
    }
}

/// The identity of the n-th equal record of one request; the first keeps its own.
fn with_ordinal(identity: u128, ordinal: u32) -> u128 {
    if ordinal == 0 {
        return identity;
    }
    let mut hash = Xxh3::new();
    hash.update(&identity.to_le_bytes());
    hash.update(&ordinal.to_le_bytes());
    hash.digest128()
}

/// Lengths stand before bytes, so that no two sequences of fields share an encoding.
fn text(hash: &mut Xxh3, bytes: &[u8]) {
    hash.update(&(bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

/// A map's hash does not depend on the order of its keys: the hashes of its entries are added up.
fn attributes(attributes: &Attributes<'_>) -> u128 {
    attributes.iter().fold(0u128, |sum, entry| {
        let mut hash = Xxh3::new();
        text(&mut hash, entry.key.as_bytes());
        value(&mut hash, &entry.value);
        sum.wrapping_add(hash.digest128())
    })
}

fn value(hash: &mut Xxh3, value_: &Value<'_>) {
    match value_ {
        Value::Empty => hash.update(&[0]),
        Value::Str(string) => {
            hash.update(&[1]);
            text(hash, string.as_bytes());
        }
        Value::Bool(bool) => hash.update(&[2, u8::from(*bool)]),
        Value::Int(int) => {
            hash.update(&[3]);
            hash.update(&int.to_le_bytes());
        }
        Value::Double(double) => {
            hash.update(&[4]);
            hash.update(&double.to_bits().to_le_bytes());
        }
        Value::Bytes(bytes) => {
            hash.update(&[5]);
            text(hash, bytes);
        }
        Value::Array(array) => {
            hash.update(&[6]);
            for item in array {
                value(hash, &item);
            }
            hash.update(&[7]);
        }
        Value::Map(map) => {
            hash.update(&[8]);
            hash.update(&attributes(map).to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
