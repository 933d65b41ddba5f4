//! Views of logs: resource, scope, record.

use crate::entry::entries;
use crate::repeated::Message;
use crate::value::{Attributes, Value};
use crate::wire::{Fields, text};

entries!(ResourceLogs, ScopeLogs: log_records of LogRecord, "log records");

/// One log record; its top-level fields are read in one pass when the view is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogRecord<'a> {
    raw: &'a [u8],
    severity_text: &'a [u8],
    body: &'a [u8],
    trace_id: &'a [u8],
    span_id: &'a [u8],
    event_name: &'a [u8],
    time_unix_nano: u64,
    observed_time_unix_nano: u64,
    severity_number: i32,
    dropped_attributes_count: u32,
    flags: u32,
}

impl<'a> Message<'a> for LogRecord<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        let mut record = Self { raw: bytes, ..Self::default() };
        for (number, wire) in Fields::new(bytes) {
            match number {
                1 => record.time_unix_nano = wire.number(),
                2 => record.severity_number = wire.number() as i32,
                3 => record.severity_text = wire.bytes(),
                5 => record.body = wire.bytes(),
                7 => record.dropped_attributes_count = wire.number() as u32,
                8 => record.flags = wire.number() as u32,
                9 => record.trace_id = wire.bytes(),
                10 => record.span_id = wire.bytes(),
                11 => record.observed_time_unix_nano = wire.number(),
                12 => record.event_name = wire.bytes(),
                _ => {}
            }
        }
        record
    }
}

impl<'a> LogRecord<'a> {
    /// When it happened, in nanoseconds since the Unix epoch; 0 when unknown.
    pub fn time_unix_nano(&self) -> u64 {
        self.time_unix_nano
    }

    /// When it was observed, in nanoseconds since the Unix epoch.
    pub fn observed_time_unix_nano(&self) -> u64 {
        self.observed_time_unix_nano
    }

    /// The severity's number, 1 (trace) to 24 (fatal 4); 0 unspecified.
    pub fn severity_number(&self) -> i32 {
        self.severity_number
    }

    /// The severity as its source calls it.
    pub fn severity_text(&self) -> &'a str {
        text(self.severity_text)
    }

    /// The record's body.
    pub fn body(&self) -> Value<'a> {
        Value::of(self.body)
    }

    /// The record's attributes.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes::new(self.raw, 6)
    }

    /// How many attributes the sender left out.
    pub fn dropped_attributes_count(&self) -> u32 {
        self.dropped_attributes_count
    }

    /// W3C trace flags in the lowest 8 bits.
    pub fn flags(&self) -> u32 {
        self.flags
    }

    /// The trace id as it came; empty when there is none.
    pub fn trace_id(&self) -> &'a [u8] {
        self.trace_id
    }

    /// The span id as it came; empty when there is none.
    pub fn span_id(&self) -> &'a [u8] {
        self.span_id
    }

    /// The event's name if the record is an event.
    pub fn event_name(&self) -> &'a str {
        text(self.event_name)
    }

    /// The message's bytes.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }
}
