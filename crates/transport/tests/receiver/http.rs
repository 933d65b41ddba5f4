//! OTLP/HTTP: every row of otel-semantics §15.2, both formats, every encoding, CORS.

use std::time::Duration;

use bytes::Bytes;
use mirador_otlp::Signal;
use mirador_transport::{Accepted, Kind};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use prost::Message as _;
use tokio::io::AsyncWriteExt as _;
use tonic::Code;

use crate::payload::{compress, empty_spans, request, traces};
use crate::rig::{Behaviour, H1, H2, Rig, config, head, refusal};

const ENCODINGS: [&str; 7] = ["gzip", "zstd", "zlib", "deflate", "snappy", "x-snappy-framed", "lz4"];
const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");
const JSON: (&str, &str) = ("content-type", "application/json");
const LIMIT: usize = 256 << 10;

/// A request that must fail.
struct Bad {
    name: &'static str,
    method: &'static str,
    path: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    body: Vec<u8>,
    status: u16,
    reason: &'static str,
    /// The connection serves the next request.
    keeps: bool,
}

fn bad(
    name: &'static str,
    headers: &[(&'static str, &'static str)],
    body: Vec<u8>,
    status: u16,
    reason: &'static str,
) -> Bad {
    Bad { name, method: "POST", path: "/v1/traces", headers: headers.to_vec(), body, status, reason, keeps: true }
}

fn bad_requests() -> Vec<Bad> {
    let sound = traces(2);
    let encoded = |name| [PROTOBUF, ("content-encoding", name)];
    let mut cases = vec![
        Bad { method: "GET", ..bad("GET", &[], vec![], 405, "method") },
        Bad { method: "PUT", ..bad("PUT", &[PROTOBUF], sound.clone(), 405, "method") },
        Bad {
            method: "OPTIONS",
            ..bad(
                "OPTIONS without CORS",
                &[("access-control-request-method", "POST"), ("origin", "http://a")],
                vec![],
                405,
                "method",
            )
        },
        Bad { path: "/v1/profiles", ..bad("unknown path", &[PROTOBUF], sound.clone(), 404, "path") },
        Bad { path: "/v1/traces/", ..bad("a slash too many", &[PROTOBUF], sound.clone(), 404, "path") },
        Bad { path: "/", method: "GET", ..bad("the root", &[], vec![], 404, "path") },
        bad("no content type", &[], sound.clone(), 415, "content_type"),
        bad("text", &[("content-type", "text/plain")], sound.clone(), 415, "content_type"),
        bad(
            "protobuf by another name",
            &[("content-type", "application/protobuf")],
            sound.clone(),
            415,
            "content_type",
        ),
        bad("unknown encoding", &encoded("br"), sound.clone(), 400, "encoding_unknown"),
        bad("two encodings", &encoded("gzip, gzip"), sound.clone(), 400, "encoding_unknown"),
        bad("bad protobuf", &[PROTOBUF], b"\xff\xff\xff\xff\xff\xff".to_vec(), 400, "malformed"),
        bad("bad JSON", &[JSON], b"{\"resourceSpans\":[".to_vec(), 400, "json"),
        bad("not OTLP", &[JSON], b"[1,2]".to_vec(), 400, "json"),
        bad("protobuf as JSON", &[JSON], sound.clone(), 400, "json"),
        bad("a little too large", &[PROTOBUF], vec![0; LIMIT + 1], 400, "too_large"),
    ];
    cases.last_mut().expect("not empty").keeps = false;
    for encoding in ENCODINGS {
        cases.push(bad(
            "bomb",
            &encoded(encoding),
            compress(encoding, &vec![0; 2 << 20]),
            400,
            "too_large_decompressed",
        ));
        cases.push(bad(
            "one byte too large",
            &encoded(encoding),
            compress(encoding, &vec![0; LIMIT + 1]),
            400,
            "too_large_decompressed",
        ));
        cases.push(bad(
            "not compressed",
            &encoded(encoding),
            b"this is no compressed data".to_vec(),
            400,
            "encoding_corrupt",
        ));
    }
    let bomb = format!("{{\"x\":\"{}\"}}", " ".repeat(2 << 20));
    cases.push(bad(
        "a JSON bomb",
        &[JSON, ("content-encoding", "gzip")],
        compress("gzip", bomb.as_bytes()),
        400,
        "too_large_decompressed",
    ));
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bad_request_has_its_status_and_one_reason_and_the_connection_stays_usable() {
    let rig = Rig::start().await;
    let mut client = H1::connect(rig.http).await;
    for (done, case) in bad_requests().into_iter().enumerate() {
        let before = rig.refused(case.reason);
        let answer = client.send(case.method, case.path, &case.headers, &case.body).await;
        let context = format!("{} {:?}: {answer:?}", case.name, case.headers);
        assert_eq!(answer.status, case.status, "{context}");
        assert_eq!(answer.header("retry-after"), None, "a repetition cannot help: {context}");
        assert_eq!(answer.header("allow"), (case.status == 405).then_some("POST"), "{context}");
        match answer.header("content-type").expect("every error has a body") {
            "application/x-protobuf" => {
                let status = answer.rpc_status();
                assert_eq!((status.code, status.details.len()), (Code::InvalidArgument as i32, 0), "{context}");
                assert!(!status.message.is_empty(), "{context}");
            }
            "application/json" => {
                assert!(case.headers.contains(&JSON), "{context}");
                let status: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
                assert_eq!(status["code"], 3, "{context}");
                assert!(status["message"].is_string(), "{context}");
            }
            "text/plain; charset=utf-8" => assert!(matches!(case.status, 404 | 405 | 415), "{context}"),
            _ => panic!("{context}"),
        }
        assert_eq!(rig.refused(case.reason), before + 1, "{context}");
        assert_eq!(rig.refused_in_all(), done as u64 + 1, "only one reason: {context}");
        assert_eq!(answer.header("connection"), (!case.keeps).then_some("close"), "{context}");
        if !case.keeps {
            client.closed().await;
            client = H1::connect(rig.http).await;
        }
        assert_eq!(client.post("/v1/traces", &[], &traces(3)).await.status, 200, "after {context}");
        rig.settled().await;
    }
    assert_eq!(rig.count("mirador_receiver_connections_opened_total", &[]), 2, "only one case costs a connection");
}

#[tokio::test]
async fn every_signal_format_and_encoding_is_handed_over_as_protobuf() {
    let rig = Rig::start().await;
    let mut client = H1::connect(rig.http).await;
    for (path, signal) in
        [("/v1/traces", Signal::Traces), ("/v1/metrics?x=y", Signal::Metrics), ("/v1/logs", Signal::Logs)]
    {
        for content_type in [
            "application/x-protobuf",
            "application/json",
            "application/json; charset=utf-8",
            "Application/X-Protobuf;v=1",
        ] {
            let answer = client.send("POST", path, &[("content-type", content_type)], b"").await;
            let is_json = content_type.starts_with("application/json");
            assert_eq!(
                (answer.status, &answer.body[..]),
                (200, if is_json { &b"{}"[..] } else { b"" }),
                "an empty body is an empty request"
            );
            assert_eq!(
                answer.header("content-type"),
                Some(if is_json { "application/json" } else { "application/x-protobuf" })
            );
            let given = rig.given();
            assert_eq!((given.len(), given[0].kind, given[0].transport), (1, Kind::Otlp(signal), "http"));
            assert!(given[0].body.is_empty());
        }
    }
    let body = traces(300);
    for encoding in ENCODINGS.iter().chain(&["identity", "GZip", ""]) {
        let name = encoding.to_ascii_lowercase();
        let sent = if matches!(&name[..], "identity" | "") { body.clone() } else { compress(&name, &body) };
        let answer =
            client.post("/v1/traces", &[("content-encoding", encoding), ("x-mirador-agent", "node-2")], &sent).await;
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{encoding}");
        let given = rig.given().remove(0);
        assert_eq!(given.body, body, "{encoding}");
        assert_eq!(given.via_agent.as_deref(), Some("node-2"));
        assert!(given.paid >= body.len());
    }
    for encoding in ENCODINGS {
        let answer = client.post("/v1/traces", &[("content-encoding", encoding)], b"").await;
        assert_eq!(answer.status, 200, "nothing, said to be {encoding}, is an empty request");
    }
    assert_eq!(rig.refused_in_all(), 0);
    assert_eq!(rig.count("otelcol_receiver_accepted_spans_total", &["transport=\"http\""]), 3000);
    rig.settled().await;
}

#[tokio::test]
async fn json_becomes_the_protobuf_it_stands_for_whatever_its_size() {
    let mut config = config();
    config.protocols.http.max_request_body_size = 16 << 20;
    let rig = Rig::with(config, 64 << 20).await;
    let mut client = H1::connect(rig.http).await;
    for spans in [0, 1, 100, 5000] {
        let json = serde_json::to_vec(&request(spans)).expect("it is written");
        for encoding in [None, Some("gzip"), Some("zstd")] {
            let (headers, sent) = match encoding {
                None => (vec![JSON], json.clone()),
                Some(name) => (vec![JSON, ("content-encoding", name)], compress(name, &json)),
            };
            let answer = client.send("POST", "/v1/traces", &headers, &sent).await;
            assert_eq!((answer.status, &answer.body[..]), (200, &b"{}"[..]));
            let given = rig.given().remove(0);
            assert_eq!(ExportTraceServiceRequest::decode(given.body.clone()).expect("protobuf"), request(spans));
            assert!(given.paid >= given.body.len());
            assert!(
                given.paid <= given.body.len() * 2 + json.len() + (64 << 10),
                "{} for {}",
                given.paid,
                given.body.len()
            );
        }
    }
    rig.settled().await;
}

#[tokio::test]
async fn four_megabytes_of_empty_spans_in_either_format_multiply_nothing() {
    let mut config = config();
    config.protocols.http.max_request_body_size = 8 << 20;
    let rig = Rig::with(config, 32 << 20).await;
    let mut client = H1::connect(rig.http).await;
    assert_eq!(client.post("/v1/traces", &[], &empty_spans()).await.status, 400);
    assert_eq!(rig.refused("malformed"), 1);
    let json = format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{}}{}]}}]}}]}}"#, ",{}".repeat(4_000_000 / 3));
    assert_eq!(client.send("POST", "/v1/traces", &[JSON], json.as_bytes()).await.status, 400);
    assert_eq!(rig.refused("malformed"), 2);
    let given = rig.given().remove(1);
    assert!(given.body.len() < json.len() && given.paid < json.len() * 2, "{} paid", given.paid);
    assert_eq!(client.post("/v1/traces", &[], &traces(1)).await.status, 200);
    rig.settled().await;
}

#[tokio::test]
async fn a_refusal_of_the_consumer_maps_to_its_http_status() {
    use Code::{
        Aborted, AlreadyExists, Cancelled, DataLoss, DeadlineExceeded, FailedPrecondition, Internal, InvalidArgument,
        NotFound, OutOfRange, PermissionDenied, ResourceExhausted, Unauthenticated, Unavailable, Unimplemented,
        Unknown,
    };
    let rig = Rig::start().await;
    let mut client = H1::connect(rig.http).await;
    let table = [
        (503, vec![Cancelled, DeadlineExceeded, Aborted, OutOfRange, Unavailable, DataLoss]),
        (429, vec![ResourceExhausted]),
        (400, vec![InvalidArgument]),
        (401, vec![Unauthenticated]),
        (403, vec![PermissionDenied]),
        (404, vec![Unimplemented]),
        (500, vec![Unknown, NotFound, AlreadyExists, FailedPrecondition, Internal]),
    ];
    for (http, code) in table.into_iter().flat_map(|(http, codes)| codes.into_iter().map(move |code| (http, code))) {
        for (hint, seconds) in
            [(None, None), (Some(Duration::from_millis(1)), Some("1")), (Some(Duration::from_millis(2500)), Some("3"))]
        {
            rig.behave(Behaviour::Refuse(refusal(code, hint)));
            let answer = client.post("/v1/metrics", &[], b"").await;
            assert_eq!(answer.status, http, "{code:?}");
            let retryable = matches!(http, 429 | 503);
            assert_eq!(answer.header("retry-after"), seconds.filter(|_| retryable), "{code:?} {hint:?}");
            let status = answer.rpc_status();
            assert_eq!((status.code, status.message.as_str()), (code as i32, "the test says no"));
            assert_eq!(status.details.len(), usize::from(hint.is_some()));
            let answer = client.send("POST", "/v1/metrics", &[JSON], b"").await;
            let status: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
            assert_eq!((answer.status, status["code"].as_i64()), (http, Some(code as i64)));
            if hint == Some(Duration::from_millis(2500)) {
                let info =
                    serde_json::json!([{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "2.500s"}]);
                assert_eq!(status["details"], info);
            }
        }
    }
    rig.settled().await;
}

#[tokio::test]
async fn a_partial_success_is_told_in_the_format_of_the_request() {
    let rig = Rig::start().await;
    let mut client = H1::connect(rig.http).await;
    rig.behave(Behaviour::Accept(Accepted { rejected_items: 4, message: "four \"old\" ones".to_owned() }));
    let answer = client.post("/v1/traces", &[], b"").await;
    let partial =
        ExportTraceServiceResponse::decode(answer.body).expect("a response").partial_success.expect("partial");
    assert_eq!((answer.status, partial.rejected_spans, partial.error_message.as_str()), (200, 4, "four \"old\" ones"));
    for (path, field) in
        [("/v1/traces", "rejectedSpans"), ("/v1/metrics", "rejectedDataPoints"), ("/v1/logs", "rejectedLogRecords")]
    {
        let answer = client.send("POST", path, &[JSON], b"{}").await;
        let response: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(response, serde_json::json!({"partialSuccess": {field: "4", "errorMessage": "four \"old\" ones"}}));
    }
    assert_eq!(rig.count("mirador_receiver_requests_total", &["outcome=\"partial\""]), 4);
}

#[tokio::test]
async fn a_key_in_snake_case_is_ignored_and_the_client_is_told() {
    let rig = Rig::start().await;
    let mut client = H1::connect(rig.http).await;
    let partial = |answer: &crate::rig::Answer| -> serde_json::Value {
        assert_eq!(answer.status, 200);
        serde_json::from_slice(&answer.body).expect("JSON")
    };
    for (path, field, key, known) in [
        ("/v1/traces", "rejectedSpans", "resource_spans", "resourceSpans"),
        ("/v1/metrics", "rejectedDataPoints", "resource_metrics", "resourceMetrics"),
        ("/v1/logs", "rejectedLogRecords", "resource_logs", "resourceLogs"),
    ] {
        let body = format!(r#"{{"{key}":[{{}}]}}"#);
        let response = partial(&client.send("POST", path, &[JSON], body.as_bytes()).await);
        assert_eq!(response["partialSuccess"][field], "0", "{response}");
        let message = response["partialSuccess"]["errorMessage"].as_str().expect("a text");
        assert!(message.contains(key) && message.contains(known), "{message}");
        assert!(rig.given().remove(0).body.is_empty(), "what is unknown is not handed on");
    }
    // Behind what the consumer itself has to say.
    rig.behave(Behaviour::Accept(Accepted { rejected_items: 4, message: "four are too old".to_owned() }));
    let span = format!(r#"{{"name":"{}","trace_id":"00"}}"#, "x".repeat(100));
    let body = format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{span}]}}]}}]}}"#);
    let response = partial(&client.send("POST", "/v1/traces", &[JSON], body.as_bytes()).await);
    let partial_success = &response["partialSuccess"];
    let message = partial_success["errorMessage"].as_str().expect("a text");
    assert_eq!(partial_success["rejectedSpans"], "4");
    assert!(message.starts_with("four are too old; ") && message.contains("traceId"), "{message}");
    // A key that is unknown in any spelling is ignored without a word, and a refusal has its own words.
    rig.behave(Behaviour::Parse);
    let answer = client.send("POST", "/v1/traces", &[JSON], br#"{"resourceSpans":[],"future_key":1}"#).await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"{}"[..]));
    rig.behave(Behaviour::Refuse(refusal(Code::Unavailable, None)));
    assert_eq!(client.send("POST", "/v1/traces", &[JSON], br#"{"resource_spans":[]}"#).await.status, 503);
    let warned = |kind: &str| rig.count("mirador_receiver_warnings_total", &[kind, "reason=\"json_snake_case\""]);
    assert_eq!([warned("traces"), warned("metrics"), warned("logs")], [2, 1, 1]);
    assert_eq!((rig.refused("test"), rig.refused_in_all()), (1, 1));
    rig.settled().await;
}

#[tokio::test]
async fn a_signal_that_is_not_configured_is_not_found() {
    let rig = Rig::taking(config(), 1 << 20, &[Kind::Otlp(Signal::Traces)]).await;
    let mut client = H1::connect(rig.http).await;
    let answer = client.post("/v1/logs", &[], b"").await;
    assert_eq!((answer.status, answer.rpc_status().code), (404, Code::Unimplemented as i32));
    assert_eq!(rig.refused("not_configured"), 1);
    assert_eq!(client.post("/v1/traces", &[], b"").await.status, 200);
}

#[tokio::test]
async fn a_body_of_unknown_length_is_read_up_to_the_limit() {
    let rig = Rig::start().await;
    let mut client = H1::connect(rig.http).await;
    let chunked = head("POST", "/v1/traces", &[PROTOBUF, ("transfer-encoding", "chunked")]) + "\r\n";
    let body = traces(500);
    client.write(chunked.as_bytes()).await;
    for chunk in body.chunks(700) {
        client.write(format!("{:x}\r\n", chunk.len()).as_bytes()).await;
        client.write(chunk).await;
        client.write(b"\r\n").await;
    }
    client.write(b"0\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    let given = rig.given().remove(0);
    assert_eq!(given.body, body);
    assert!(given.paid >= body.len());
    client.write(chunked.as_bytes()).await;
    let (mut reader, mut writer) = client.stream.into_split();
    let flood = tokio::spawn(async move {
        let chunk = [b"4000\r\n".to_vec(), vec![0; 0x4000], b"\r\n".to_vec()].concat();
        let mut sent = 0;
        // The receiver answers and closes in the middle of this.
        while sent < 64 << 20 && writer.write_all(&chunk).await.is_ok() {
            sent += chunk.len();
        }
        sent
    });
    let mut answer = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut answer);
    drop(crate::rig::soon("an answer and the end", read).await);
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&answer));
    drop(flood.await);
    assert_eq!(rig.refused("too_large"), 1);
    rig.settled().await;
}

#[tokio::test]
async fn chunks_that_are_none_are_refused_and_end_the_connection() {
    let rig = Rig::start().await;
    let chunked = head("POST", "/v1/traces", &[PROTOBUF, ("transfer-encoding", "chunked")]) + "\r\n";
    for (count, chunks) in ["zz\r\n", "fffffffffffffffff\r\n", "3\r\nabcd\r\n"].iter().enumerate() {
        let mut client = H1::connect(rig.http).await;
        client.write((chunked.clone() + chunks).as_bytes()).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (400, Some("close")), "{chunks:?}: {answer:?}");
        assert!(answer.rpc_status().message.contains("chunked"), "{answer:?}");
        assert_eq!((rig.refused("transfer_encoding"), rig.refused_in_all()), (count as u64 + 1, count as u64 + 1));
        client.closed().await;
    }
    rig.settled().await;
}

#[tokio::test]
async fn both_ports_answer_both_protocols() {
    let rig = Rig::start().await;
    for address in [rig.grpc, rig.http] {
        assert_eq!(H1::connect(address).await.post("/v1/traces", &[], &traces(1)).await.status, 200);
        let mut client = H2::connect(address).await;
        let answer = client.send("POST", "/v1/traces", &[PROTOBUF], Bytes::from(traces(1))).await;
        assert_eq!((answer.status, answer.body.len()), (200, 0));
        assert!(client.export(crate::rig::TRACES, &traces(1)).await.message().is_empty());
        let answer = client.send("POST", "/v1/traces", &[PROTOBUF], Bytes::from(vec![0; LIMIT + 1])).await;
        assert_eq!(answer.status, 400);
        assert_eq!(client.send("POST", "/v1/traces", &[PROTOBUF], Bytes::from(traces(1))).await.status, 200);
    }
    rig.settled().await;
}

#[tokio::test]
async fn a_browser_is_answered_when_its_origin_is_allowed() {
    let mut config = config();
    config.protocols.http.cors.allowed_origins = vec!["https://*.shop.example".to_owned()];
    config.protocols.http.cors.allowed_headers = vec!["X-Tenant".to_owned()];
    config.protocols.http.cors.exposed_headers = vec!["Retry-After".to_owned()];
    config.protocols.http.cors.max_age = 7200;
    let rig = Rig::with(config, 1 << 20).await;
    let mut client = H1::connect(rig.http).await;
    let origin = ("origin", "https://www.shop.example");
    let asks =
        |headers| [origin, ("access-control-request-method", "POST"), ("access-control-request-headers", headers)];
    let preflight = client.send("OPTIONS", "/v1/traces", &asks("content-type, x-tenant"), b"").await;
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.header("access-control-allow-origin"), Some(origin.1));
    assert_eq!(preflight.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(preflight.header("access-control-allow-headers"), Some("content-type, x-tenant"));
    assert_eq!(preflight.header("access-control-max-age"), Some("7200"));
    let preflight = client.send("OPTIONS", "/v1/traces", &asks("x-other"), b"").await;
    assert_eq!(preflight.header("access-control-allow-origin"), None);
    let answer = client.post("/v1/traces", &[origin], &traces(1)).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some(origin.1)));
    assert_eq!(answer.header("access-control-expose-headers"), Some("Retry-After"));
    let answer = client.post("/v1/traces", &[("origin", "https://shop.example.evil")], &traces(1)).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, None), "the browser withholds it");
    assert_eq!(rig.refused_in_all(), 0);
}
