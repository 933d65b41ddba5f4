//! What a 2xx answer says beyond its status: partial success, in protobuf or in JSON.

use mirador_otlp::Signal;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use serde_json::Value as Json;

use super::post::{Answer, printable};

/// What was not taken; nothing by default.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Partial {
    pub(super) rejected: u64,
    pub(super) message: String,
}

/// Reads an answer to a request of `signal`; `None` when it is not OTLP. An empty one means that all was taken.
pub(super) fn partial(signal: Signal, answer: &Answer) -> Option<Partial> {
    if answer.body.is_empty() {
        return Some(Partial::default());
    }
    let (rejected, message) =
        if answer.is_json { json(signal, &answer.body)? } else { protobuf(signal, &answer.body)? };
    Some(Partial { rejected: u64::try_from(rejected).unwrap_or(0), message: printable(message.as_bytes()) })
}

fn protobuf(signal: Signal, body: &[u8]) -> Option<(i64, String)> {
    match signal {
        Signal::Traces => {
            let partial = ExportTraceServiceResponse::decode(body).ok()?.partial_success;
            Some(partial.map(|partial| (partial.rejected_spans, partial.error_message)).unwrap_or_default())
        }
        Signal::Logs => {
            let partial = ExportLogsServiceResponse::decode(body).ok()?.partial_success;
            Some(partial.map(|partial| (partial.rejected_log_records, partial.error_message)).unwrap_or_default())
        }
        Signal::Metrics => None,
    }
}

/// 64 bit integers are strings in protobuf's JSON, and numbers in the JSON of many servers.
fn json(signal: Signal, body: &[u8]) -> Option<(i64, String)> {
    let answer: Json = serde_json::from_slice(body).ok()?;
    let partial = answer.as_object()?.get("partialSuccess").unwrap_or(&Json::Null);
    let key = match signal {
        Signal::Traces => "rejectedSpans",
        Signal::Logs => "rejectedLogRecords",
        Signal::Metrics => "rejectedDataPoints",
    };
    let rejected = match &partial[key] {
        Json::String(text) => text.parse().ok()?,
        number => number.as_i64().unwrap_or(0),
    };
    Some((rejected, partial["errorMessage"].as_str().unwrap_or_default().to_owned()))
}
