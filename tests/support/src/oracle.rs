//! What the numbers have to be: RED and edges recomputed from the spans that were sent, in the plainest way.
//!
//! Written from the connectors' documentation and from none of our own code, so that a mistake there cannot
//! hide here.

use std::collections::{BTreeMap, HashMap};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;

/// A span with the service that reports it.
type Owned<'a> = (&'a str, &'a Span);
/// A trace id and a span id.
type Ids<'a> = (&'a [u8], &'a [u8]);

/// Upper bounds in milliseconds of the span metrics connector's default buckets, le-inclusive.
pub const BOUNDS_MS: [f64; 16] =
    [2.0, 4.0, 6.0, 8.0, 10.0, 50.0, 100.0, 200.0, 400.0, 800.0, 1000.0, 1400.0, 2000.0, 5000.0, 10000.0, 15000.0];

/// Labels of a RED series: service, span name, kind, status code.
pub type RedKey = (String, String, String, String);

/// RED of one series.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Red {
    /// Spans.
    pub calls: u64,
    /// Sum of durations in nanoseconds.
    pub sum_nanos: u128,
    /// Spans per bucket, the last one above every bound; not cumulative.
    pub buckets: [u64; BOUNDS_MS.len() + 1],
}

/// Labels of an edge: client, server, connection type.
pub type EdgeKey = (String, String, String);

/// What an edge has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Edge {
    /// Paired calls.
    pub calls: u64,
    /// Calls that failed on either side.
    pub failed: u64,
    /// What the callers measured; nothing where the caller is `user`.
    pub client: Durations,
    /// What the callees measured; of a database what its caller measured, nothing of what reports no spans.
    pub server: Durations,
}

/// Durations of the calls of an edge, as one side measured them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Durations {
    /// Calls that were measured.
    pub count: u64,
    /// Their sum in nanoseconds.
    pub sum_nanos: u128,
    /// Calls per bucket of [`BOUNDS_MS`], the last one above every bound; not cumulative.
    pub buckets: [u64; BOUNDS_MS.len() + 1],
}

impl Durations {
    fn add(&mut self, span: &Span) {
        let nanos = nanos(span);
        self.count += 1;
        self.sum_nanos += u128::from(nanos);
        self.buckets[bucket(nanos)] += 1;
    }
}

/// RED of every series in the requests; spans of a resource without `service.name` are skipped.
pub fn red<'a>(requests: impl IntoIterator<Item = &'a ExportTraceServiceRequest>) -> BTreeMap<RedKey, Red> {
    let mut found: BTreeMap<RedKey, Red> = BTreeMap::new();
    for (service, span) in spans(requests) {
        let key = (service.to_owned(), span.name.clone(), kind(span.kind).to_owned(), status(span).to_owned());
        let red = found.entry(key).or_default();
        let (nanos, weight) = (nanos(span), weight(span));
        red.calls += weight;
        red.sum_nanos += u128::from(nanos) * u128::from(weight);
        red.buckets[bucket(nanos)] += weight;
    }
    found
}

/// Edges of requests whose spans are all there: client to server, producer to consumer by link, databases,
/// callers that nobody saw (`user`) and callees that report nothing (their peer, or `unknown`).
pub fn edges<'a>(requests: impl IntoIterator<Item = &'a ExportTraceServiceRequest>) -> BTreeMap<EdgeKey, Edge> {
    let all: Vec<(&str, &Span)> = spans(requests).collect();
    let servers: HashMap<Ids<'_>, Owned<'_>> = all
        .iter()
        .filter(|(_, span)| span.kind == 2)
        .map(|(service, span)| ((&span.trace_id[..], &span.parent_span_id[..]), (*service, *span)))
        .collect();
    let mut found: BTreeMap<EdgeKey, Edge> = BTreeMap::new();
    let mut count = |client: &str, server: &str, kind: &str, [caller, callee]: [Option<&Span>; 2]| {
        let edge = found.entry((client.to_owned(), server.to_owned(), kind.to_owned())).or_default();
        edge.calls += 1;
        edge.failed += u64::from(caller.is_some_and(failed) || callee.is_some_and(failed));
        if let Some(span) = caller {
            edge.client.add(span);
        }
        if let Some(span) = callee {
            edge.server.add(span);
        }
    };
    let producers: HashMap<Ids<'_>, Owned<'_>> = all
        .iter()
        .filter(|(_, span)| span.kind == 4)
        .map(|(service, span)| ((&span.trace_id[..], &span.span_id[..]), (*service, *span)))
        .collect();
    for (service, span) in &all {
        match span.kind {
            2 if span.parent_span_id.is_empty() => count("user", service, "virtual_node", [None, Some(span)]),
            3 => {
                if let Some(database) =
                    text(&span.attributes, "db.namespace").or_else(|| text(&span.attributes, "db.name"))
                {
                    count(service, database, "database", [Some(span), Some(span)]);
                } else if let Some((server, other)) = servers.get(&(&span.trace_id[..], &span.span_id[..])) {
                    count(service, server, "", [Some(span), Some(other)]);
                } else {
                    let peer = text(&span.attributes, "peer.service").unwrap_or("unknown");
                    count(service, peer, "virtual_node", [Some(span), None]);
                }
            }
            5 => {
                for link in &span.links {
                    if let Some((producer, other)) = producers.get(&(&link.trace_id[..], &link.span_id[..])) {
                        count(producer, service, "messaging_system", [Some(other), Some(span)]);
                    }
                }
            }
            _ => {}
        }
    }
    found
}

/// Every span with its service.
fn spans<'a>(
    requests: impl IntoIterator<Item = &'a ExportTraceServiceRequest>,
) -> impl Iterator<Item = (&'a str, &'a Span)> {
    requests.into_iter().flat_map(|request| &request.resource_spans).flat_map(|resource| {
        let service = resource
            .resource
            .as_ref()
            .and_then(|resource| text(&resource.attributes, "service.name"))
            .filter(|name| !name.is_empty());
        resource.scope_spans.iter().flat_map(|scope| &scope.spans).filter_map(move |span| Some((service?, span)))
    })
}

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    let value = attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()?;
    match value {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

/// How long a span took; one that ends before it starts took no time.
fn nanos(span: &Span) -> u64 {
    span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano)
}

fn bucket(nanos: u64) -> usize {
    BOUNDS_MS.iter().position(|bound| u128::from(nanos) <= (*bound * 1e6) as u128).unwrap_or(BOUNDS_MS.len())
}

/// How many spans a sampled one stands for: one over the share that its threshold keeps (OpenTelemetry, `TraceState`
/// probability sampling). Only thresholds that give a whole number may be asked for: others are rounded at random.
fn weight(span: &Span) -> u64 {
    let ours = span.trace_state.split(',').find_map(|member| member.strip_prefix("ot="));
    let digits = ours.and_then(|ours| ours.split(';').find_map(|field| field.strip_prefix("th:"))).unwrap_or_default();
    let threshold = u64::from_str_radix(digits, 16).unwrap_or_default() << (56 - 4 * digits.len().min(14));
    (1 << 56) / ((1 << 56) - threshold)
}

fn failed(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code == 2)
}

fn kind(kind: i32) -> &'static str {
    match kind {
        1 => "SPAN_KIND_INTERNAL",
        2 => "SPAN_KIND_SERVER",
        3 => "SPAN_KIND_CLIENT",
        4 => "SPAN_KIND_PRODUCER",
        5 => "SPAN_KIND_CONSUMER",
        _ => "SPAN_KIND_UNSPECIFIED",
    }
}

fn status(span: &Span) -> &'static str {
    match span.status.as_ref().map_or(0, |status| status.code) {
        1 => "STATUS_CODE_OK",
        2 => "STATUS_CODE_ERROR",
        _ => "STATUS_CODE_UNSET",
    }
}
