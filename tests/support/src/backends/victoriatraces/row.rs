//! A span as VictoriaTraces stores it and gives it back: one row of text fields.
//!
//! What the real one drops with a 200 is dropped here too, under a reason: a span without a trace id or
//! span id, one that starts or ends outside retention (zero is 1970), too many fields, a field name over
//! 128 bytes, a row over 2 MiB. A span that ends before it starts is stored, and never read back: its
//! duration does not fit the reader's integer.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::{Value, json};

use super::stand_in::Limits;

/// One stored span.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) trace_id: String,
    pub(super) service: Option<String>,
    resource: Vec<(String, String)>,
    scope: Vec<(String, String)>,
    attributes: Vec<(String, String)>,
    events: Vec<(u64, Vec<(String, String)>)>,
    span: Span,
}

/// The rows that a request becomes, and a reason for each span that is not kept.
pub(super) fn rows(request: ExportTraceServiceRequest, now: u64, limits: &Limits) -> (Vec<Row>, Vec<&'static str>) {
    let (mut kept, mut dropped) = (Vec::new(), Vec::new());
    for spans in request.resource_spans {
        let mut resource = flat(&spans.resource.unwrap_or_default().attributes);
        let named = resource.iter().position(|(key, _)| key == "service.name");
        let service = named.map(|at| resource.remove(at).1);
        for scope_spans in spans.scope_spans {
            let of = scope_spans.scope.unwrap_or_default();
            let mut scope = vec![("otel.scope.name".into(), of.name), ("otel.scope.version".into(), of.version)];
            scope.retain(|(_, value): &(String, String)| !value.is_empty());
            scope.extend(flat(&of.attributes).into_iter().map(|(key, value)| (format!("scope_attr:{key}"), value)));
            for span in scope_spans.spans {
                let row = Row::new(service.as_ref(), &resource, &scope, span);
                match row.refused(now, limits) {
                    Some(reason) => dropped.push(reason),
                    None => kept.push(row),
                }
            }
        }
    }
    (kept, dropped)
}

impl Row {
    fn new(service: Option<&String>, resource: &[(String, String)], scope: &[(String, String)], span: Span) -> Self {
        let event = |event: &opentelemetry_proto::tonic::trace::v1::span::Event| {
            let mut fields = vec![("event".to_owned(), event.name.clone())];
            fields.extend(flat(&event.attributes));
            (event.time_unix_nano, fields)
        };
        Self {
            trace_id: hex(&span.trace_id),
            service: service.cloned(),
            resource: resource.into(),
            scope: scope.into(),
            attributes: flat(&span.attributes),
            events: span.events.iter().map(event).collect(),
            span,
        }
    }

    fn refused(&self, now: u64, limits: &Limits) -> Option<&'static str> {
        // The row's time is the end in some versions and the start in others; the strictest of them is kept here.
        let (start, end) = (self.span.start_time_unix_nano, self.span.end_time_unix_nano);
        let earliest = now.saturating_sub(limits.retention.as_nanos() as u64);
        let latest = now.saturating_add(limits.future_retention.as_nanos() as u64);
        let fields = self.fields();
        let bytes: usize = fields.iter().map(|(name, value)| name.len() + value + 6).sum();
        if self.trace_id.is_empty() {
            Some("no_trace_id")
        } else if self.span.span_id.is_empty() {
            Some("no_span_id")
        } else if start.min(end) < earliest {
            Some("too_old")
        } else if start.max(end) > latest {
            Some("too_far_in_future")
        } else if fields.len() > limits.fields {
            Some("too_many_fields")
        } else if fields.iter().any(|(name, _)| name.len() > limits.field_name_bytes) {
            Some("field_name_too_long")
        } else if bytes > limits.row_bytes {
            Some("row_too_big")
        } else {
            None
        }
    }

    /// The names of the row's fields with the length of their values.
    fn fields(&self) -> Vec<(String, usize)> {
        let mut fields: Vec<(String, usize)> = Vec::new();
        let mut add = |name: String, value: usize| fields.push((name, value));
        for name in ["trace_id", "span_id", "parent_span_id", "flags", "kind", "duration", "status_code", "_msg"] {
            add(name.into(), 32);
        }
        for name in ["start_time_unix_nano", "end_time_unix_nano"] {
            add(name.into(), 20);
        }
        for name in ["dropped_attributes_count", "dropped_events_count", "dropped_links_count"] {
            add(name.into(), 10);
        }
        let status = self.span.status.as_ref().map_or("", |status| &status.message);
        for (name, text) in
            [("name", &*self.span.name), ("trace_state", &*self.span.trace_state), ("status_message", status)]
        {
            add(name.into(), text.len());
        }
        if let Some(service) = &self.service {
            add("resource_attr:service.name".into(), service.len());
        }
        for (name, value) in &self.resource {
            add(format!("resource_attr:{name}"), value.len());
        }
        for (name, value) in &self.scope {
            add(name.clone(), value.len());
        }
        for (name, value) in &self.attributes {
            add(format!("span_attr:{name}"), value.len());
        }
        for (at, (_, of)) in self.events.iter().enumerate() {
            for name in ["event_time_unix_nano", "event_dropped_attributes_count"] {
                add(format!("event:{name}:{at}"), 20);
            }
            for (nth, (name, value)) in of.iter().enumerate() {
                // The first one is the event's name.
                let name = if nth == 0 { "event_name".into() } else { format!("event_attr:{name}") };
                add(format!("event:{name}:{at}"), value.len());
            }
        }
        for (at, link) in self.span.links.iter().enumerate() {
            for name in ["link_trace_id", "link_span_id", "link_dropped_attributes_count", "link_flags"] {
                add(format!("link:{name}:{at}"), 32);
            }
            add(format!("link:link_trace_state:{at}"), link.trace_state.len());
            for (name, value) in flat(&link.attributes) {
                add(format!("link:link_attr:{name}:{at}"), value.len());
            }
        }
        fields
    }

    /// The span in Jaeger's JSON, without its process; `None` when the real one cannot read it back.
    pub(super) fn to_json(&self, process: &str) -> Option<Value> {
        let duration = self.span.end_time_unix_nano.wrapping_sub(self.span.start_time_unix_nano);
        let duration = i64::try_from(duration).ok()?;
        let start = i64::try_from(self.span.start_time_unix_nano).ok()?;
        let logs = self.events.iter().map(|(at, fields)| json!({"timestamp": at / 1000, "fields": tags(fields)}));
        Some(json!({
            "traceID": self.trace_id,
            "spanID": hex(&self.span.span_id),
            "operationName": self.span.name,
            "references": self.references(),
            "startTime": start / 1000,
            "duration": duration / 1000,
            "tags": tags(&self.tags()),
            "logs": logs.collect::<Vec<_>>(),
            "processID": process,
            "warnings": null,
        }))
    }

    /// The process in Jaeger's JSON.
    pub(super) fn process(&self) -> Value {
        json!({"serviceName": self.service.clone().unwrap_or_default(), "tags": tags(&self.resource)})
    }

    fn tags(&self) -> Vec<(String, String)> {
        let kind = match self.span.kind {
            1 => "internal",
            2 => "server",
            3 => "client",
            4 => "producer",
            5 => "consumer",
            _ => "",
        };
        let status = self.span.status.clone().unwrap_or_default();
        let error = match status.code {
            1 => "false",
            2 => "true",
            _ => "unset",
        };
        let mut tags = self.scope.clone();
        tags.push(("span.kind".into(), kind.into()));
        tags.push(("error".into(), error.into()));
        for (key, value) in
            [("otel.status_description", status.message), ("w3c.tracestate", self.span.trace_state.clone())]
        {
            if !value.is_empty() {
                tags.push((key.into(), value));
            }
        }
        tags.extend(self.attributes.iter().cloned());
        tags
    }

    fn references(&self) -> Vec<Value> {
        let mut all = Vec::new();
        if !self.span.parent_span_id.is_empty() {
            let parent = hex(&self.span.parent_span_id);
            all.push(json!({"refType": "CHILD_OF", "traceID": self.trace_id, "spanID": parent}));
        }
        for link in &self.span.links {
            let (trace, span) = (hex(&link.trace_id), hex(&link.span_id));
            all.push(json!({"refType": "FOLLOWS_FROM", "traceID": trace, "spanID": span}));
        }
        all
    }
}

fn tags(fields: &[(String, String)]) -> Vec<Value> {
    fields.iter().map(|(key, value)| json!({"key": key, "type": "string", "value": value})).collect()
}

/// Attributes as text: nested maps become dotted keys, an empty value becomes `-`.
fn flat(attributes: &[KeyValue]) -> Vec<(String, String)> {
    let mut out = Vec::new();
    flatten("", attributes, &mut out);
    out
}

fn flatten(parent: &str, attributes: &[KeyValue], out: &mut Vec<(String, String)>) {
    for attribute in attributes {
        let key = if parent.is_empty() { attribute.key.clone() } else { format!("{parent}.{}", attribute.key) };
        let value = attribute.value.as_ref().and_then(|value| value.value.as_ref());
        if let Some(Any::KvlistValue(list)) = value {
            flatten(&key, &list.values, out);
            continue;
        }
        let text = value.map(text).unwrap_or_default();
        out.push((key, if text.is_empty() { "-".into() } else { text }));
    }
}

fn text(value: &Any) -> String {
    match value {
        Any::StringValue(text) => text.clone(),
        other => match json(other) {
            Value::String(text) => text,
            value => value.to_string(),
        },
    }
}

fn json(value: &Any) -> Value {
    let inner = |value: &AnyValue| value.value.as_ref().map_or(Value::Null, json);
    match value {
        Any::StringValue(text) => json!(text),
        Any::BoolValue(value) => json!(value),
        Any::IntValue(value) => json!(value),
        Any::DoubleValue(value) => json!(value),
        Any::BytesValue(bytes) => json!(hex(bytes)),
        Any::ArrayValue(array) => array.values.iter().map(inner).collect(),
        Any::KvlistValue(list) => {
            let pair = |pair: &KeyValue| (pair.key.clone(), pair.value.as_ref().map_or(Value::Null, inner));
            Value::Object(list.values.iter().map(pair).collect())
        }
        // A reference into a string table has no meaning outside profiles.
        Any::StringValueStrindex(_) => Value::Null,
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}
