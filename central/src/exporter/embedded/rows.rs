//! From views to rows: the only place where the embedded store reads OTLP.
//!
//! Invariant: what stands in every row of a resource or a scope is bounded and in memory once. Never: touches the
//! database.

use std::collections::BTreeMap;
use std::sync::Arc;

use mirador_otlp::Request;
use mirador_otlp::resource::Resource;
use mirador_otlp::value::{Attributes, Value};
use serde_json::{Map, Value as Json, json};

use crate::exporter::{is_id, shorten};
use crate::logs::identity;

/// One span as it is stored; texts are JSON where the column is structured.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SpanRow {
    pub(super) trace_id: Vec<u8>,
    pub(super) span_id: Vec<u8>,
    pub(super) parent_span_id: Vec<u8>,
    pub(super) service: Arc<str>,
    pub(super) name: String,
    pub(super) kind: i32,
    pub(super) status: i32,
    pub(super) start_nanos: i64,
    pub(super) duration_nanos: i64,
    pub(super) status_message: String,
    pub(super) attributes: String,
    pub(super) resource: Arc<str>,
    pub(super) events: String,
    pub(super) links: String,
    pub(super) scope: Arc<str>,
}

/// One log record as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LogRow {
    pub(super) id: [u8; 16],
    pub(super) time_nanos: i64,
    pub(super) service: Arc<str>,
    pub(super) severity: i32,
    pub(super) severity_text: String,
    pub(super) body: String,
    pub(super) trace_id: Vec<u8>,
    pub(super) span_id: Vec<u8>,
    pub(super) event_name: String,
    pub(super) attributes: String,
    pub(super) resource: Arc<str>,
    pub(super) scope: Arc<str>,
}

/// The rows of a request.
#[derive(Debug)]
pub(super) struct Read<T> {
    pub(super) rows: Vec<T>,
    /// Spans without valid ids, which rows are named by.
    pub(super) rejected: u64,
    /// Rows whose resource is too large to stand in each of them.
    pub(super) cut: u64,
}

impl<T> Read<T> {
    fn of(request: &Request) -> Self {
        Self { rows: Vec::with_capacity(request.items()), rejected: 0, cut: 0 }
    }
}

/// What the rows of one resource share.
struct Shared {
    service: Arc<str>,
    resource: Arc<str>,
    is_cut: bool,
}

impl Shared {
    fn of(resource: &Resource<'_>) -> Self {
        let mut text = object(&resource.attributes()).to_string();
        let is_cut = text.len() > shorten::RESOURCE;
        if is_cut {
            let entries = resource.attributes();
            let mut map: BTreeMap<String, String> =
                entries.iter().map(|entry| (entry.key.to_owned(), entry.value.to_text().into_owned())).collect();
            // Escapes make the text longer than what stands in the map.
            let mut most = shorten::RESOURCE;
            while text.len() > shorten::RESOURCE {
                shorten::map(&mut map, most);
                text = json!(map).to_string();
                most /= 2;
            }
        }
        let service = resource.service_name().unwrap_or_default();
        let is_cut = is_cut || service.len() > shorten::NAME;
        Self { service: shorten::name(service).into(), resource: text.into(), is_cut }
    }
}

/// Reads every span of the request. `now_unix_nano` stands in where a span carries no time.
pub(super) fn spans(request: &Request, now_unix_nano: u64) -> Read<SpanRow> {
    let mut read = Read::of(request);
    for resource_spans in request.resource_spans() {
        let shared = Shared::of(&resource_spans.resource());
        for scope_spans in resource_spans.scopes() {
            let scope = scope_spans.scope();
            let is_cut = shared.is_cut || scope.name().len() > shorten::NAME;
            let scope: Arc<str> = shorten::name(scope.name()).into();
            for span in scope_spans.spans() {
                if !is_id(span.trace_id(), 16) || !is_id(span.span_id(), 8) {
                    read.rejected += 1;
                    continue;
                }
                let times = [span.start_time_unix_nano(), span.end_time_unix_nano()];
                let start = times.into_iter().find(|&time| time != 0).unwrap_or(now_unix_nano);
                let events: Vec<Json> = span
                    .events()
                    .map(|event| {
                        json!({"time_unix_nano": event.time_unix_nano().to_string(), "name": event.name(),
                               "attributes": object(&event.attributes())})
                    })
                    .collect();
                let links: Vec<Json> = span
                    .links()
                    .map(|link| {
                        json!({"trace_id": hex(link.trace_id()), "span_id": hex(link.span_id()),
                               "attributes": object(&link.attributes())})
                    })
                    .collect();
                read.cut += u64::from(is_cut);
                read.rows.push(SpanRow {
                    trace_id: span.trace_id().to_vec(),
                    span_id: span.span_id().to_vec(),
                    parent_span_id: span.parent_span_id().to_vec(),
                    service: Arc::clone(&shared.service),
                    name: span.name().to_owned(),
                    kind: span.kind(),
                    status: span.status_code(),
                    start_nanos: clamp(start),
                    duration_nanos: clamp(span.end_time_unix_nano().saturating_sub(start)),
                    status_message: span.status_message().to_owned(),
                    attributes: object(&span.attributes()).to_string(),
                    resource: Arc::clone(&shared.resource),
                    events: Json::Array(events).to_string(),
                    links: Json::Array(links).to_string(),
                    scope: Arc::clone(&scope),
                });
            }
        }
    }
    read
}

/// Reads every log record of the request; `now_unix_nano` stands in where a record carries no time.
pub(super) fn logs(request: &Request, now_unix_nano: u64) -> Read<LogRow> {
    let mut read = Read::of(request);
    let mut names = identity::Names::default();
    for resource_logs in request.resource_logs() {
        let resource = resource_logs.resource();
        let shared = Shared::of(&resource);
        for scope_logs in resource_logs.scopes() {
            let scope = scope_logs.scope();
            let is_cut = shared.is_cut || scope.name().len() > shorten::NAME;
            let scope_name: Arc<str> = shorten::name(scope.name()).into();
            let context = identity::context(&resource, &scope);
            for record in scope_logs.log_records() {
                let (id, stamped) = names.next(context, &record);
                let time = stamped.unwrap_or(now_unix_nano);
                read.cut += u64::from(is_cut);
                read.rows.push(LogRow {
                    id: id.to_be_bytes(),
                    time_nanos: clamp(time),
                    service: Arc::clone(&shared.service),
                    severity: record.severity_number(),
                    severity_text: record.severity_text().to_owned(),
                    body: record.body().to_text().into_owned(),
                    trace_id: record.trace_id().to_vec(),
                    span_id: record.span_id().to_vec(),
                    event_name: record.event_name().to_owned(),
                    attributes: object(&record.attributes()).to_string(),
                    resource: Arc::clone(&shared.resource),
                    scope: Arc::clone(&scope_name),
                });
            }
        }
    }
    read
}

/// Attributes as a JSON object; integers above 2^53 stay exact because they are written as numbers.
pub(super) fn object(attributes: &Attributes<'_>) -> Json {
    let mut map = Map::new();
    for entry in attributes {
        map.insert(entry.key.to_owned(), json_of(&entry.value));
    }
    Json::Object(map)
}

fn json_of(value: &Value<'_>) -> Json {
    match value {
        Value::Empty => Json::Null,
        Value::Str(text) => Json::from(*text),
        Value::Bool(bool) => Json::from(*bool),
        Value::Int(int) => Json::from(*int),
        // JSON has no word for NaN and the infinities: their text is kept.
        Value::Double(double) => {
            serde_json::Number::from_f64(*double).map_or_else(|| Json::from(double.to_string()), Json::Number)
        }
        Value::Bytes(_) => Json::from(value.to_text().into_owned()),
        Value::Array(array) => Json::Array(array.iter().map(|item| json_of(&item)).collect()),
        Value::Map(map) => object(map),
    }
}

/// Lower-case hex, as ids are written in OTLP/JSON.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// SQLite's integers are signed; times beyond the year 2262 are kept at the end of the range.
fn clamp(nanos: u64) -> i64 {
    i64::try_from(nanos).unwrap_or(i64::MAX)
}
