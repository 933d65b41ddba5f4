//! The contract, asked of the stand-in, and of the real one where there is one.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message as _;

use super::*;
use crate::backends::{client, jaeger};

const TRACE: [u8; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
const TRACE_HEX: &str = "0102030405060708090a0b0c0d0e0f10";

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(Any::StringValue(value.into())) };
    KeyValue { key: key.into(), value: Some(value), ..KeyValue::default() }
}

/// A server span of a millisecond, a minute ago, in the one trace of these tests.
pub(crate) fn span(id: u8, name: &str) -> Span {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let start = now - 60_000_000_000;
    Span {
        trace_id: TRACE.into(),
        span_id: vec![id; 8],
        name: name.into(),
        kind: 2,
        start_time_unix_nano: start,
        end_time_unix_nano: start + 1_000_000,
        attributes: vec![attribute("http.route", "/pay")],
        ..Span::default()
    }
}

/// One service's spans as a protobuf request.
pub(crate) fn request(service: &str, spans: Vec<Span>) -> Vec<u8> {
    let resource = Resource { attributes: vec![attribute("service.name", service)], ..Resource::default() };
    let scope = InstrumentationScope { name: "lib".into(), ..InstrumentationScope::default() };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { resource: Some(resource), scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

async fn post(url: &str, content_type: &str, encoding: &str, body: Vec<u8>) -> reqwest::Result<(u16, Option<String>)> {
    let mut request = client::client().unwrap().post(url).body(body);
    request = request.header("content-type", content_type);
    if !encoding.is_empty() {
        request = request.header("content-encoding", encoding);
    }
    let answer = request.send().await?;
    let retry_after = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
    Ok((answer.status().as_u16(), retry_after))
}

const PROTOBUF: &str = "application/x-protobuf";

#[tokio::test]
async fn the_contract_holds_for_the_store_that_this_machine_has() {
    let mut store = TraceStore::start().await.unwrap();
    let url = store.insert_url();
    let body = request("cart", vec![span(1, "pay")]);
    for wrong in ["application/x-protobuf; charset=utf-8", "application/protobuf", "text/plain", ""] {
        assert_eq!(post(&url, wrong, "", body.clone()).await.unwrap().0, 400, "{wrong:?}");
    }
    assert_eq!(post(&url, PROTOBUF, "br", body.clone()).await.unwrap().0, 400);
    assert_eq!(post(&url, PROTOBUF, "gzip", body.clone()).await.unwrap().0, 400, "not gzip at all");
    assert_eq!(post(&url, PROTOBUF, "", vec![0xff; 40]).await.unwrap().0, 400);

    let all = [("", body.clone()), ("gzip", gzip(&body)), ("deflate", deflate(&body)), ("zstd", zstd_of(&body))];
    for (encoding, body) in all {
        assert_eq!(post(&url, PROTOBUF, encoding, body).await.unwrap().0, 200, "{encoding:?}");
    }
    let snappy = snap::raw::Encoder::new().compress_vec(&body).unwrap();
    assert_eq!(post(&url, PROTOBUF, "snappy", snappy).await.unwrap().0, 200);

    let read = async |expected: usize| {
        let read = async || Ok(Some(store.query().trace(TRACE_HEX).await?).filter(|spans| spans.len() == expected));
        client::until("the spans", Duration::from_mins(1), read).await.unwrap()
    };
    let spans = read(5).await;
    assert_eq!(spans[0]["operationName"], "pay");
    assert_eq!(spans[0]["duration"], 1000);
    assert_eq!(spans[0]["process"]["serviceName"], "cart");
    assert_eq!(jaeger::tag(&spans[0], "span.kind").as_deref(), Some("server"));
    assert_eq!(jaeger::tag(&spans[0], "http.route").as_deref(), Some("/pay"));
    assert_eq!(store.query().services().await.unwrap(), ["cart"]);

    store.stop().await.unwrap();
    assert!(post(&url, PROTOBUF, "", body.clone()).await.is_err());
    store.restart().await.unwrap();
    assert_eq!(post(&url, PROTOBUF, "", body).await.unwrap().0, 200);
}

#[tokio::test]
async fn what_the_real_one_swallows_is_swallowed_behind_a_200() {
    let store = StandIn::start().await.unwrap();
    let url = format!("{}{INSERT_PATH}", store.url());
    let many = (0..1000).map(|n| attribute(&format!("k{n}"), "v")).collect();
    let spans = vec![
        span(1, "kept"),
        Span { trace_id: Vec::new(), ..span(2, "no trace id") },
        Span { end_time_unix_nano: 0, ..span(3, "never ended") },
        Span { attributes: vec![attribute(&"k".repeat(200), "v")], ..span(4, "long name") },
        Span { attributes: many, ..span(5, "many fields") },
        Span { attributes: vec![attribute("k", &"v".repeat(3 << 20))], ..span(6, "big") },
        Span { end_time_unix_nano: span(7, "").start_time_unix_nano - 1, ..span(7, "ends before it starts") },
        Span { start_time_unix_nano: 0, ..span(8, "never began") },
        Span { end_time_unix_nano: u64::MAX / 4, ..span(9, "ends in another century") },
    ];
    assert_eq!(post(&url, PROTOBUF, "", request("cart", spans)).await.unwrap().0, 200);
    let reasons: Vec<_> = store.dropped().into_iter().collect();
    let swallowed = [
        ("field_name_too_long", 1),
        ("no_trace_id", 1),
        ("row_too_big", 1),
        ("too_far_in_future", 1),
        ("too_many_fields", 1),
        ("too_old", 2),
    ];
    assert_eq!(reasons, swallowed);
    assert_eq!(store.kept(), 2, "the span that ends before it starts is stored");
    let read = store.query().trace(TRACE_HEX).await.unwrap();
    assert_eq!(read.len(), 1, "and never read back: {read:?}");
    assert_eq!(store.query().traces("cart", 10).await.unwrap().len(), 1);
    assert_eq!(store.seen()[0].spans, 2);
}

#[tokio::test]
async fn it_fails_in_the_ways_it_is_told() {
    let store = StandIn::start().await.unwrap();
    let url = format!("{}{INSERT_PATH}", store.url());
    let body = request("cart", vec![span(1, "pay")]);
    let send_within = async |limit: Duration| {
        let send = client::client().unwrap().post(&url).header("content-type", PROTOBUF).body(body.clone());
        let answer = send.timeout(limit).send().await?;
        Ok::<_, reqwest::Error>((answer.status().as_u16(), answer.headers().get("retry-after").cloned()))
    };
    let send = async || send_within(Duration::from_mins(1)).await;
    store.fail_next(1, &Fault::Status { code: 429, retry_after: Some(7) });
    let (status, after) = send().await.unwrap();
    assert_eq!((status, after.unwrap().to_str().unwrap()), (429, "7"));
    store.fail(Some(Fault::Status { code: 503, retry_after: None }));
    assert_eq!(send().await.unwrap(), (503, None));
    assert_eq!(send().await.unwrap(), (503, None));
    assert_eq!(store.kept(), 0);

    store.fail(Some(Fault::Hang { stored: false }));
    assert!(send_within(Duration::from_secs(2)).await.unwrap_err().is_timeout());
    assert_eq!(store.kept(), 0);
    store.fail(Some(Fault::HalfClose { stored: true }));
    let error = send().await.unwrap_err();
    assert!(!error.is_timeout(), "the answer's end is seen at once: {error:?}");
    assert_eq!(store.kept(), 1);
    store.fail(Some(Fault::Reset));
    assert!(send().await.is_err());
    store.fail(Some(Fault::Slow(Duration::from_millis(1))));
    assert_eq!(send().await.unwrap(), (200, None));
    store.fail(None);
    store.set_limits(|limits| limits.read_only = true);
    assert_eq!(send().await.unwrap().0, 429);
    let statuses: Vec<_> = store.seen().iter().map(|seen| seen.status).collect();
    assert_eq!(statuses, [Some(429), Some(503), Some(503), None, None, Some(200), Some(429)]);
}

#[tokio::test]
async fn json_is_taken_and_other_paths_are_refused() {
    let store = StandIn::start().await.unwrap();
    let body = br#"{"resourceSpans":[]}"#.to_vec();
    let url = format!("{}{INSERT_PATH}", store.url());
    assert_eq!(post(&url, "application/json", "", body.clone()).await.unwrap().0, 200);
    assert_eq!(post(&url, "application/json", "", b"{".to_vec()).await.unwrap().0, 400);
    for path in ["/v1/traces", "/insert/opentelemetry/api/v1/traces", "/"] {
        assert_eq!(post(&format!("{}{path}", store.url()), PROTOBUF, "", Vec::new()).await.unwrap().0, 400, "{path}");
    }
    let ready = client::client().unwrap().get(format!("{}/insert/ready", store.url()));
    assert_eq!(client::json(ready).await.unwrap()["status"], "ok");
    store.set_limits(|limits| limits.request_bytes = 10);
    assert_eq!(post(&url, PROTOBUF, "zstd", zstd_of(&vec![0; 1000])).await.unwrap().0, 400);
}

fn gzip(body: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn deflate(body: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn zstd_of(body: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(body, 1).unwrap()
}
