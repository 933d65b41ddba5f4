//! Keys that are ignored although they were most likely meant: names as the .proto files have them.
//!
//! proto3's JSON mapping takes `trace_id` for `traceId`; OTLP's does not ("Original field names are not valid to
//! use as keys of JSON objects", OTLP specification, "JSON Protobuf Encoding") and asks receivers to ignore what
//! they do not know. So a client that writes such names is answered 200 and stores nothing; the answer tells it.
//!
//! Never: refuses anything, reads a value.

use std::fmt;

use super::schema::{Field, Message};

/// A key in snake case whose lower camel case is known.
#[derive(Clone, Copy)]
pub(in crate::receiver) struct Ignored {
    /// What was most likely meant.
    pub(super) field: &'static Field,
    /// The message in which it stood.
    pub(super) of: &'static Message,
}

impl fmt::Display for Ignored {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (camel, of) = (self.field.key, self.of.name);
        formatter.write_str("the key \"")?;
        for letter in camel.chars() {
            if letter.is_ascii_uppercase() {
                formatter.write_str("_")?;
            }
            write!(formatter, "{}", letter.to_ascii_lowercase())?;
        }
        write!(
            formatter,
            "\" ({of}) was ignored with what it holds: keys of OTLP/JSON are in lower camel case, \"{camel}\""
        )
    }
}

impl fmt::Debug for Ignored {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Whether `key` is the name in a .proto file of the field that JSON calls `camel`.
pub(super) fn is_proto_name(key: &str, camel: &str) -> bool {
    let mut key = key.bytes();
    camel.bytes().all(|letter| {
        (!letter.is_ascii_uppercase() || key.next() == Some(b'_')) && key.next() == Some(letter.to_ascii_lowercase())
    }) && key.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_of_the_proto_file_is_one() {
        for (key, camel) in [("trace_id", "traceId"), ("start_time_unix_nano", "startTimeUnixNano")] {
            assert!(is_proto_name(key, camel));
        }
        for (key, camel) in [
            ("trace_id", "traceIds"),
            ("trace_ids", "traceId"),
            ("trace__id", "traceId"),
            ("traceid", "traceId"),
            ("Trace_Id", "traceId"),
            ("_trace_id", "traceId"),
            ("trace_", "traceId"),
            ("", "traceId"),
        ] {
            assert!(!is_proto_name(key, camel), "{key}");
        }
    }
}
