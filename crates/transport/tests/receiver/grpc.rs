//! OTLP/gRPC and RED: statuses, framing, encodings (otel-semantics §15.2, gRPC over HTTP/2).

use std::time::Duration;

use bytes::Bytes;
use mirador_otlp::Signal;
use mirador_transport::{Accepted, Kind};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use prost::Message as _;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::payload::{compress, empty_spans, frame, request, traces};
use crate::rig::{Behaviour, H2, LOGS, METRICS, OTLP_TRACES, Rig, TRACES, config, refusal};

const ENCODINGS: [&str; 4] = ["gzip", "zstd", "snappy", "deflate"];

/// A call that must fail: what is sent, and what it must be.
struct Bad {
    name: &'static str,
    method: &'static str,
    path: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    body: Bytes,
    http: u16,
    code: Option<Code>,
    reason: &'static str,
}

fn bad(
    name: &'static str,
    headers: &[(&'static str, &'static str)],
    body: Bytes,
    code: Code,
    reason: &'static str,
) -> Bad {
    let mut all = vec![("content-type", "application/grpc")];
    all.extend_from_slice(headers);
    Bad { name, method: "POST", path: TRACES, headers: all, body, http: 200, code: Some(code), reason }
}

fn bad_calls() -> Vec<Bad> {
    let sound = frame(0, &traces(2));
    let limit = 1 << 20;
    let mut too_long = vec![0];
    too_long.extend((limit as u32 + 1).to_be_bytes());
    let mut cases = vec![
        Bad {
            http: 415,
            code: None,
            headers: vec![("content-type", "application/json")],
            ..bad("json", &[], sound.clone(), Code::Ok, "content_type")
        },
        Bad {
            http: 415,
            code: None,
            headers: vec![("content-type", "application/grpc+json")],
            ..bad("grpc+json", &[], sound.clone(), Code::Ok, "content_type")
        },
        Bad {
            http: 415,
            code: None,
            headers: vec![],
            ..bad("no content type", &[], sound.clone(), Code::Ok, "content_type")
        },
        Bad { http: 405, code: None, method: "PUT", ..bad("PUT", &[], sound.clone(), Code::Ok, "method") },
        Bad {
            path: "/opentelemetry.proto.collector.trace.v1.TraceService/Import",
            ..bad("unknown method", &[], sound.clone(), Code::Unimplemented, "path")
        },
        Bad { path: "/", ..bad("no method", &[], sound.clone(), Code::Unimplemented, "path") },
        bad("unknown encoding", &[("grpc-encoding", "br")], sound.clone(), Code::Unimplemented, "encoding_unknown"),
        bad("compressed without encoding", &[], frame(1, &traces(1)), Code::Internal, "framing"),
        bad(
            "compressed with identity",
            &[("grpc-encoding", "identity")],
            frame(1, &traces(1)),
            Code::Internal,
            "framing",
        ),
        bad("unknown flag", &[], frame(7, &traces(1)), Code::Internal, "framing"),
        bad("no message", &[], Bytes::new(), Code::Internal, "no_message"),
        bad("half a prefix", &[], sound.slice(..3), Code::Internal, "truncated"),
        bad("half a message", &[], sound.slice(..sound.len() - 1), Code::Internal, "truncated"),
        bad("two messages", &[], [&sound[..], &sound[..]].concat().into(), Code::Internal, "many_messages"),
        bad("a byte too many", &[], [&sound[..], &[0]].concat().into(), Code::Internal, "many_messages"),
        bad("too large", &[], frame(0, &vec![0; limit + 1]), Code::ResourceExhausted, "too_large"),
        bad("too large by its prefix", &[], too_long.into(), Code::ResourceExhausted, "too_large"),
        bad("bad protobuf", &[], frame(0, b"\xff\xff\xff\xff\xff\xff"), Code::InvalidArgument, "malformed"),
        bad("a group", &[], frame(0, &[0x0b, 0x0c]), Code::InvalidArgument, "malformed"),
    ];
    for encoding in ENCODINGS {
        let headers = [("grpc-encoding", encoding)];
        let bomb = frame(1, &compress(encoding, &vec![0; 2 << 20]));
        let mut damaged = compress(encoding, &traces(100));
        let middle = damaged.len() / 2;
        damaged.truncate(middle);
        cases.push(bad("bomb", &headers, bomb, Code::ResourceExhausted, "too_large_decompressed"));
        cases.push(bad(
            "one byte too large",
            &headers,
            frame(1, &compress(encoding, &vec![0; limit + 1])),
            Code::ResourceExhausted,
            "too_large_decompressed",
        ));
        cases.push(bad(
            "not compressed",
            &headers,
            frame(1, b"this is no compressed data"),
            Code::Internal,
            "encoding_corrupt",
        ));
        cases.push(bad("cut short", &headers, frame(1, &damaged), Code::Internal, "encoding_corrupt"));
    }
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bad_call_has_its_status_one_reason_and_leaves_the_connection_usable() {
    let rig = Rig::start().await;
    let mut client = H2::connect(rig.grpc).await;
    for (done, case) in bad_calls().into_iter().enumerate() {
        let before = rig.refused(case.reason);
        let answer = client.send(case.method, case.path, &case.headers, case.body).await;
        let context = format!("{} {:?}: {answer:?}", case.name, case.headers);
        assert_eq!(answer.status, case.http, "{context}");
        assert_eq!(answer.grpc_status().map(Code::from), case.code, "{context}");
        if let Some(code) = case.code {
            let status = answer.tonic();
            assert!(!status.message().is_empty(), "{context}");
            assert!(status.get_details_retry_info().is_none(), "a repetition cannot help: {context}");
            assert_eq!(answer.header("content-type"), Some("application/grpc"), "{context}");
            let asks = code == Code::Unimplemented && case.reason == "encoding_unknown";
            let expected = asks.then_some("identity,gzip,zstd,snappy,deflate");
            assert_eq!(answer.header("grpc-accept-encoding"), expected, "{context}");
        } else {
            assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")), "{context}");
            assert_eq!(answer.header("allow"), (case.http == 405).then_some("POST"), "{context}");
        }
        assert_eq!(rig.refused(case.reason), before + 1, "{context}");
        assert_eq!(rig.refused_in_all(), done as u64 + 1, "only one reason: {context}");
        let good = client.export(TRACES, &traces(3)).await;
        assert_eq!(good.grpc_status(), Some(0), "after {context}");
        rig.settled().await;
    }
    assert_eq!(rig.count("mirador_receiver_connections_opened_total", &[]), 1, "it was one connection throughout");
}

#[tokio::test]
async fn a_red_delta_that_had_been_merged_before_is_answered_as_a_duplicate() {
    let rig = Rig::start().await;
    let mut client = H2::connect(rig.grpc).await;
    rig.behave(Behaviour::Accept(Accepted::duplicate()));
    let answer = client.export(mirador_proto::PATH_RED, b"").await;
    assert_eq!((answer.grpc_status(), answer.message()), (Some(0), &[8_u8, 1][..]), "duplicate = 1 is true");
    let answer = client.export(TRACES, &traces(1)).await;
    assert_eq!(answer.grpc_status(), Some(0), "for spans it is a warning like any other");
}

#[tokio::test]
async fn every_kind_and_encoding_is_handed_over_decompressed_and_answered_empty() {
    let rig = Rig::start().await;
    let mut client = H2::connect(rig.grpc).await;
    let kinds = [
        (TRACES, OTLP_TRACES),
        (METRICS, Kind::Otlp(Signal::Metrics)),
        (LOGS, Kind::Otlp(Signal::Logs)),
        (mirador_proto::PATH_RED, Kind::Red),
    ];
    for (path, kind) in kinds {
        for content_type in ["application/grpc", "application/grpc+proto", "application/grpc;x=y"] {
            let answer = client.send("POST", path, &[("content-type", content_type)], frame(0, b"")).await;
            assert!(answer.message().is_empty());
            let given = rig.given();
            assert_eq!((given.len(), given[0].kind, given[0].transport), (1, kind, "grpc"));
            assert!(given[0].body.is_empty());
        }
    }
    let body = traces(200);
    for encoding in ENCODINGS.iter().chain(&["identity"]) {
        let message = if *encoding == "identity" { frame(0, &body) } else { frame(1, &compress(encoding, &body)) };
        let headers = [("grpc-encoding", *encoding), ("x-mirador-agent", "node-1")];
        let answer = client.raw(TRACES, &headers, message).await;
        assert!(answer.message().is_empty());
        let given = rig.given().remove(0);
        assert_eq!(given.body, body, "{encoding}");
        assert_eq!(given.via_agent.as_deref(), Some("node-1"));
        assert!(given.paid >= body.len(), "{} bytes are paid for with {}", body.len(), given.paid);
    }
    // An encoding may be announced and not used, and an empty message may be compressed.
    assert!(client.raw(TRACES, &[("grpc-encoding", "gzip")], frame(0, &body)).await.message().is_empty());
    assert!(
        client.raw(TRACES, &[("grpc-encoding", "gzip")], frame(1, &compress("gzip", b""))).await.message().is_empty()
    );
    assert_eq!(rig.count("otelcol_receiver_accepted_spans_total", &["receiver=\"otlp\"", "transport=\"grpc\""]), 1200);
    assert_eq!(rig.count("mirador_receiver_requests_total", &["outcome=\"ok\""]), 12 + 7);
    assert_eq!(rig.refused_in_all(), 0);
    rig.settled().await;
}

#[tokio::test]
async fn four_megabytes_of_empty_spans_are_refused_by_who_parses_and_nothing_is_kept() {
    let mut config = config();
    config.protocols.grpc.max_recv_msg_size_mib = 8;
    let rig = Rig::with(config, 16 << 20).await;
    let mut client = H2::connect(rig.grpc).await;
    let answer = client.export(TRACES, &empty_spans()).await;
    assert_eq!(answer.tonic().code(), Code::InvalidArgument);
    let given = rig.given().remove(0);
    assert_eq!(given.body, empty_spans());
    assert!(given.paid <= given.body.len() + (64 << 10), "nothing is multiplied: {}", given.paid);
    assert_eq!(rig.refused("malformed"), 1);
    assert!(client.export(TRACES, &traces(1)).await.message().is_empty());
    rig.settled().await;
}

#[tokio::test]
async fn a_partial_success_and_a_warning_reach_the_client() {
    let rig = Rig::start().await;
    let mut client = H2::connect(rig.grpc).await;
    rig.behave(Behaviour::Accept(Accepted { rejected_items: 7, message: "seven were too old".to_owned() }));
    let answer = client.export(TRACES, &traces(9)).await;
    let response = ExportTraceServiceResponse::decode(answer.message()).expect("a response");
    let partial = response.partial_success.expect("a partial success");
    assert_eq!((partial.rejected_spans, partial.error_message.as_str()), (7, "seven were too old"));
    rig.behave(Behaviour::Accept(Accepted { rejected_items: 0, message: "mind the clock".to_owned() }));
    let answer = client.export(METRICS, b"").await;
    let response = ExportTraceServiceResponse::decode(answer.message()).expect("the three share the fields");
    assert_eq!(response.partial_success.expect("a warning").error_message, "mind the clock");
    assert_eq!(rig.count("mirador_receiver_requests_total", &["outcome=\"partial\""]), 1);
    assert_eq!(rig.count("mirador_receiver_requests_total", &["outcome=\"ok\""]), 1);
}

#[tokio::test]
async fn a_refusal_of_the_consumer_passes_through_with_its_hint() {
    let rig = Rig::start().await;
    let mut client = H2::connect(rig.grpc).await;
    for code in (1..=16).map(Code::from) {
        for hint in [None, Some(Duration::from_millis(2500))] {
            let mut no = refusal(code, hint);
            no.message = "50% füll\nof \"it\"".to_owned();
            rig.behave(Behaviour::Refuse(no));
            let status = client.export(TRACES, &traces(1)).await.tonic();
            assert_eq!((status.code(), status.message()), (code, "50% füll\nof \"it\""));
            assert_eq!(status.get_details_retry_info().and_then(|info| info.retry_delay), hint);
        }
    }
    assert_eq!(rig.refused("test"), 32);
    rig.settled().await;
}

#[tokio::test]
async fn a_kind_that_is_not_configured_is_unimplemented() {
    let rig = Rig::taking(config(), 1 << 20, &[OTLP_TRACES]).await;
    let mut client = H2::connect(rig.grpc).await;
    for path in [METRICS, LOGS, mirador_proto::PATH_RED] {
        assert_eq!(client.export(path, b"").await.tonic().code(), Code::Unimplemented);
    }
    assert_eq!(rig.refused("not_configured"), 3);
    assert!(client.export(TRACES, &traces(1)).await.message().is_empty());
}

#[tokio::test]
async fn grpc_needs_http2() {
    let rig = Rig::start().await;
    let mut client = crate::rig::H1::connect(rig.grpc).await;
    let answer = client.send("POST", TRACES, &[("content-type", "application/grpc")], &frame(0, b"")).await;
    assert_eq!(answer.status, 505);
    assert_eq!(rig.refused("http_version"), 1);
}

#[tokio::test]
async fn a_stock_client_is_served_and_told_when_to_come_back() {
    let rig = Rig::start().await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", rig.grpc))
        .expect("an address")
        .connect()
        .await
        .expect("it listens");
    let mut client = tonic::client::Grpc::new(channel);
    let mut call = async |spans: usize| {
        client.ready().await.expect("it is connected");
        let codec = tonic_prost::ProstCodec::<ExportTraceServiceRequest, ExportTraceServiceResponse>::default();
        client.unary(tonic::Request::new(request(spans)), TRACES.parse().expect("a path"), codec).await
    };
    for spans in [0, 1, 1000, 10_000] {
        let response = call(spans).await.expect("it is taken").into_inner();
        assert_eq!(response, ExportTraceServiceResponse::default());
        assert_eq!(rig.given().remove(0).body, traces(spans));
    }
    let status = call(100_000).await.expect_err("it is too large");
    assert_eq!((status.code(), status.get_details_retry_info().is_none()), (Code::ResourceExhausted, true));
    rig.behave(Behaviour::Refuse(refusal(Code::Unavailable, Some(Duration::from_secs(3)))));
    let status = call(1).await.expect_err("it is refused");
    let hint = status.get_details_retry_info().and_then(|info| info.retry_delay);
    assert_eq!((status.code(), hint), (Code::Unavailable, Some(Duration::from_secs(3))));
    rig.behave(Behaviour::Parse);
    call(5).await.expect("the connection is still good");
    rig.settled().await;
}
