//! The payload: spans of about 470 bytes with 8 to 10 attributes under 10 resources.

use bytes::{BufMut, BytesMut};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;

use crate::shop::Random;

/// Spans that share a trace id.
const SPANS_PER_TRACE: usize = 5;
/// Resources in a large request; a small one has fewer.
const RESOURCES: usize = 10;
const ROUTES: [&str; 8] =
    ["/products", "/cart", "/checkout", "/orders/{id}", "/users/{id}", "/search", "/login", "/static/{file}"];

/// An encoded request whose ids can be written anew.
#[derive(Debug, Clone)]
pub struct Payload {
    frame: BytesMut,
    body_at: usize,
    spans: usize,
    /// Offsets of the 16 bytes of a trace id, with the trace's number inside the request.
    trace_ids: Vec<(usize, usize)>,
    /// Offsets of the 8 bytes of a span id.
    span_ids: Vec<usize>,
    random: Random,
}

impl Payload {
    /// A request of `spans` spans; everything follows from `seed`. `now` is written as the spans' time.
    pub fn new(spans: usize, seed: u64, now_unix_nano: u64) -> Self {
        let mut random = Random::new(seed);
        let request = request(spans, &mut random, now_unix_nano);
        let body = request.encode_to_vec();
        let mut frame = BytesMut::with_capacity(body.len() + 5);
        frame.put_u8(0);
        frame.put_u32(body.len() as u32);
        frame.extend_from_slice(&body);
        let (mut trace_ids, mut span_ids) = (Vec::new(), Vec::new());
        let mut at = 0;
        let all =
            request.resource_spans.iter().flat_map(|resource| &resource.scope_spans).flat_map(|scope| &scope.spans);
        let mut order: Vec<&[u8]> = Vec::new();
        for span in all {
            // Fields of a span are encoded in the order of their numbers: trace id first, then span id.
            let found = frame[at..].windows(16).position(|window| window == span.trace_id).unwrap_or_default() + at;
            let trace = order.iter().position(|known| *known == span.trace_id).unwrap_or_else(|| {
                order.push(&span.trace_id);
                order.len() - 1
            });
            trace_ids.push((found, trace));
            span_ids.push(found + 18);
            at = found + 18;
        }
        Self { frame, body_at: 5, spans, trace_ids, span_ids, random }
    }

    /// Spans in a request.
    pub fn spans(&self) -> usize {
        self.spans
    }

    /// Bytes of the request without framing.
    pub fn body_bytes(&self) -> usize {
        self.frame.len() - self.body_at
    }

    /// The next request with ids that no other request carries, framed for gRPC or bare.
    pub fn next(&mut self, framed: bool) -> &[u8] {
        let base = self.random.bits();
        let rest = self.random.bits();
        for &(at, trace) in &self.trace_ids {
            let id = base.wrapping_add((trace as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            self.frame[at..at + 8].copy_from_slice(&id.to_le_bytes());
            self.frame[at + 8..at + 16].copy_from_slice(&(rest ^ id.rotate_left(32)).to_le_bytes());
        }
        for (index, &at) in self.span_ids.iter().enumerate() {
            let id = (base ^ rest).wrapping_add(index as u64 + 1);
            self.frame[at..at + 8].copy_from_slice(&id.to_le_bytes());
        }
        if framed { &self.frame } else { &self.frame[self.body_at..] }
    }
}

fn request(spans: usize, random: &mut Random, now: u64) -> ExportTraceServiceRequest {
    let resources = RESOURCES.min(spans.div_ceil(5)).max(1);
    let traces: Vec<Vec<u8>> = (0..spans.div_ceil(SPANS_PER_TRACE)).map(|_| random.id::<16>()).collect();
    let mut resource_spans: Vec<ResourceSpans> = (0..resources).map(resource).collect();
    for index in 0..spans {
        // Traces are interleaved: neighbours in a request belong to different traces.
        let trace = &traces[index % traces.len()];
        let built = span(index, trace, random, now);
        resource_spans[index * resources / spans].scope_spans[0].spans.push(built);
    }
    ExportTraceServiceRequest { resource_spans }
}

fn resource(index: usize) -> ResourceSpans {
    let attributes = vec![
        text("service.name", &format!("service-{index}")),
        text("service.namespace", "bench"),
        text("service.instance.id", &format!("service-{index}-7d9c5b6f4-x2x{index}")),
        text("service.version", "2.14.0"),
        text("telemetry.sdk.language", "go"),
        text("telemetry.sdk.name", "opentelemetry"),
        text("k8s.pod.name", &format!("service-{index}-7d9c5b6f4-x2x{index}")),
        text("k8s.namespace.name", "bench"),
    ];
    ResourceSpans {
        resource: Some(Resource { attributes, ..Resource::default() }),
        scope_spans: vec![ScopeSpans {
            scope: Some(InstrumentationScope {
                name: "go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp".to_owned(),
                version: "0.61.0".to_owned(),
                ..InstrumentationScope::default()
            }),
            ..ScopeSpans::default()
        }],
        ..ResourceSpans::default()
    }
}

fn span(index: usize, trace: &[u8], random: &mut Random, now: u64) -> Span {
    let route = ROUTES[index % ROUTES.len()];
    let method = if index.is_multiple_of(3) { "POST" } else { "GET" };
    let failed = random.bits().is_multiple_of(20);
    let mut attributes = vec![
        text("http.request.method", method),
        text("http.route", route),
        text("url.scheme", "https"),
        text("url.path", &format!("{route}?page={}&sort=price", index % 97)),
        text("server.address", "shop.bench.svc.cluster.local"),
        int("server.port", 8080),
        int("http.response.status_code", if failed { 500 } else { 200 }),
        text(
            "user_agent.original",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
        ),
    ];
    if index.is_multiple_of(2) {
        attributes.push(text("client.address", "10.42.17.203"));
    }
    if index.is_multiple_of(4) {
        attributes.push(text("enduser.id", &format!("user-{:06}", random.bits() % 1_000_000)));
    }
    Span {
        trace_id: trace.to_vec(),
        span_id: random.id::<8>(),
        parent_span_id: random.id::<8>(),
        name: format!("{method} {route}"),
        kind: 1 + (index % 3) as i32,
        start_time_unix_nano: now,
        end_time_unix_nano: now + random.duration_nanos(4000.0),
        attributes,
        status: failed.then(|| Status { code: 2, message: String::new() }),
        ..Span::default()
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, any_value::Value::StringValue(value.to_owned()))
}

fn int(key: &str, value: i64) -> KeyValue {
    attribute(key, any_value::Value::IntValue(value))
}

fn attribute(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_request_decodes_and_carries_ids_of_its_own() {
        let mut payload = Payload::new(1000, 7, 1_700_000_000_000_000_000);
        let mut seen = HashSet::new();
        for _ in 0..3 {
            let request = ExportTraceServiceRequest::decode(payload.next(false)).unwrap();
            let spans: Vec<&Span> = request
                .resource_spans
                .iter()
                .flat_map(|resource| &resource.scope_spans)
                .flat_map(|scope| &scope.spans)
                .collect();
            assert_eq!(spans.len(), 1000);
            let traces: HashSet<&Vec<u8>> = spans.iter().map(|span| &span.trace_id).collect();
            assert_eq!(traces.len(), 200);
            for span in &spans {
                assert!(seen.insert((span.trace_id.clone(), span.span_id.clone())));
                assert!(span.name.contains('/'));
            }
        }
        let bytes = payload.body_bytes() / payload.spans();
        assert!((400..540).contains(&bytes), "{bytes} bytes a span");
    }
}
