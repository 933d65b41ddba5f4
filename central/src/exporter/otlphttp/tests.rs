//! The OTLP/HTTP client against servers on loopback: good ones, refusing ones and broken ones.

use std::convert::Infallible;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mirador_otlp::{Limits, Signal};
use mirador_service::tls::{Acceptor, ServerTls};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceResponse};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Notify;

use super::*;
use crate::testing;

/// A request as it came.
#[derive(Debug, Clone)]
struct Seen {
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    under_way: AtomicUsize,
    most: AtomicUsize,
    /// When set, answers wait for it.
    gate: Option<Notify>,
}

struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Server {
    /// Answers every request alike.
    async fn start(status: u16, headers: &[(&'static str, String)], body: impl Into<Bytes>) -> Self {
        Self::gated(status, headers, body, None).await
    }

    async fn gated(
        status: u16,
        headers: &[(&'static str, String)],
        body: impl Into<Bytes>,
        gate: Option<Notify>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { gate, ..Shared::default() });
        let mut answer = Response::new(Full::new(body.into()));
        *answer.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in headers {
            answer.headers_mut().insert(*name, value.parse().unwrap());
        }
        let state = Arc::clone(&shared);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (state, answer) = (Arc::clone(&state), answer.clone());
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let (state, answer) = (Arc::clone(&state), answer.clone());
                    async move {
                        let (parts, body) = request.into_parts();
                        let body = body.collect().await.unwrap().to_bytes();
                        let now = state.under_way.fetch_add(1, Ordering::SeqCst) + 1;
                        state.most.fetch_max(now, Ordering::SeqCst);
                        let path = parts.uri.to_string();
                        state.seen.lock().unwrap().push(Seen { path, headers: parts.headers, body });
                        if let Some(gate) = &state.gate {
                            gate.notified().await;
                        }
                        state.under_way.fetch_sub(1, Ordering::SeqCst);
                        Ok::<_, Infallible>(answer)
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { address, shared }
    }

    fn config(&self) -> Config {
        config(self.address)
    }

    fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }
}

fn config(address: SocketAddr) -> Config {
    Config { endpoint: format!("http://{address}/v1/traces?token=hidden"), ..Config::default() }
}

fn open(config: &Config) -> OtlpHttp {
    OtlpHttp::new("otlphttp_traces", config, &Registry::new()).unwrap()
}

fn request() -> Request {
    testing::request(&[testing::span("cart", 2, 1, 1, 0), testing::span("cart", 2, 1, 2, 0)])
}

async fn answered(status: u16, headers: &[(&'static str, String)], body: impl Into<Bytes>) -> Result<(), ExportError> {
    let server = Server::start(status, headers, body).await;
    TraceStore::store(&open(&server.config()), &request()).await
}

/// Answers the first request of every connection with these bytes and then does what `end` says.
async fn raw(answer: &'static [u8], hangs: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 * 1024];
                // The tests' requests fit into one read or two; what follows is read until the client hangs up.
                assert!(stream.read(&mut buffer).await.unwrap() > 0);
                stream.write_all(answer).await.ok();
                if !hangs {
                    stream.shutdown().await.ok();
                }
                while stream.read(&mut buffer).await.is_ok_and(|bytes| bytes > 0) {}
            });
        }
    });
    address
}

fn kind(result: &Result<(), ExportError>) -> &'static str {
    match result {
        Ok(()) => "ok",
        Err(ExportError::Retry { .. }) => "retry",
        Err(ExportError::Drop { .. }) => "drop",
        Err(ExportError::Partial { .. }) => "partial",
        Err(ExportError::Fatal { .. }) => "fatal",
    }
}

#[tokio::test]
async fn every_status_is_sorted_by_who_must_act() {
    let table = [
        (200, "ok"),
        (202, "ok"),
        (204, "ok"),
        (301, "fatal"),
        (302, "fatal"),
        (307, "fatal"),
        (400, "drop"),
        (401, "fatal"),
        (403, "fatal"),
        (404, "fatal"),
        (405, "fatal"),
        (408, "retry"),
        (409, "drop"),
        (413, "drop"),
        (415, "fatal"),
        (422, "drop"),
        (429, "retry"),
        (500, "retry"),
        (502, "retry"),
        (503, "retry"),
        (504, "retry"),
    ];
    for (status, expected) in table {
        let result = answered(status, &[("location", "http://127.0.0.1:1/".to_owned())], Bytes::new()).await;
        assert_eq!(kind(&result), expected, "{status}: {result:?}");
        if let Err(error) = result {
            let text = error.to_string();
            assert!(text.contains(&status.to_string()) && text.contains("otlphttp_traces"), "{text}");
            assert!(!text.contains("hidden"), "a query may hold a token: {text}");
        }
    }
}

#[tokio::test]
async fn the_wait_that_a_backend_asks_for_is_read_as_seconds_and_as_a_date() {
    let wait = async |value: String| match answered(429, &[("retry-after", value)], "slow down").await {
        Err(ExportError::Retry { after, .. }) => after,
        other => panic!("{other:?}"),
    };
    assert_eq!(wait("7".to_owned()).await, Some(Duration::from_secs(7)));
    assert_eq!(wait("99999999".to_owned()).await, Some(Duration::from_secs(300)), "not believed");
    assert_eq!(wait("soon".to_owned()).await, None);
    let far = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3600));
    assert_eq!(wait(far).await, Some(Duration::from_secs(300)));
    assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT".to_owned()).await, Some(Duration::ZERO));
}

#[test]
fn a_date_is_a_wait_from_now() {
    let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("retry-after", "Sun, 06 Nov 1994 08:50:07 GMT".parse().unwrap());
    assert_eq!(retry_after(&headers, now), Some(Duration::from_secs(30)));
}

#[tokio::test]
async fn partial_success_is_told_and_never_more_than_was_sent() {
    let of = |rejected_spans, message: &str| {
        let partial_success = Some(ExportTracePartialSuccess { rejected_spans, error_message: message.to_owned() });
        ExportTraceServiceResponse { partial_success }.encode_to_vec()
    };
    let proto = [("content-type", "application/x-protobuf".to_owned())];
    let json = [("content-type", "application/json; charset=utf-8".to_owned())];
    let rejected = |result| match result {
        Err(ExportError::Partial { rejected, reason }) => (rejected, reason),
        other => panic!("{other:?}"),
    };
    let (count, reason) = rejected(answered(200, &proto, of(1, "too old\n")).await);
    assert_eq!((count, reason.ends_with("too old")), (1, true), "{reason}");
    assert_eq!(rejected(answered(200, &proto, of(50, "")).await).0, 2);
    let text = r#"{"partialSuccess":{"rejectedSpans":"1","errorMessage":"no"}}"#;
    assert_eq!(rejected(answered(200, &json, text).await).0, 1);
    assert_eq!(rejected(answered(200, &json, text.replace("\"1\"", "2")).await).0, 2);
    for (headers, body) in
        [(&proto, of(0, "a warning")), (&proto, of(-1, "")), (&json, b"{}".to_vec()), (&proto, Vec::new())]
    {
        answered(200, headers, body).await.unwrap();
    }
    let long = rejected(answered(200, &proto, of(1, &"x".repeat(50_000))).await).1;
    assert!(long.len() < 400, "{}", long.len());
}

#[tokio::test]
async fn log_records_have_a_partial_success_of_their_own() {
    let partial_success = Some(ExportLogsPartialSuccess { rejected_log_records: 1, error_message: "old".to_owned() });
    let server = Server::start(200, &[], ExportLogsServiceResponse { partial_success }.encode_to_vec()).await;
    let body = {
        use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
        use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
        let scope_logs = vec![ScopeLogs { log_records: vec![LogRecord::default()], ..ScopeLogs::default() }];
        ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }] }
    };
    let request = Request::parse(Signal::Logs, body.encode_to_vec().into(), &Limits::default()).unwrap();
    let result = LogStore::store(&open(&server.config()), &request).await;
    assert!(matches!(result, Err(ExportError::Partial { rejected: 1, .. })), "{result:?}");
}

#[tokio::test]
async fn a_good_status_with_an_unreadable_answer_means_taken_but_a_web_page_is_the_wrong_address() {
    answered(200, &[], &b"\xff\xff\xff garbage"[..]).await.unwrap();
    answered(200, &[("content-type", "application/json".to_owned())], "[not json").await.unwrap();
    answered(200, &[], vec![0x0a; 10 << 20]).await.unwrap();
    let page = answered(200, &[("content-type", "text/html".to_owned())], "<html>sign in</html>").await;
    assert_eq!(kind(&page), "fatal", "{page:?}");
}

#[tokio::test]
async fn what_a_refusal_says_is_shortened_and_printable() {
    let error = answered(503, &[], "x\u{1b}[31m\r\n".repeat(1 << 20)).await.unwrap_err().to_string();
    assert!(error.len() < 500 && !error.contains('\u{1b}') && !error.contains('\n'), "{error}");
}

#[tokio::test]
async fn every_compression_carries_the_same_bytes_under_the_exact_content_type() {
    let request = request();
    for (compression, encoding) in
        [(Compression::None, None), (Compression::Gzip, Some("gzip")), (Compression::Zstd, Some("zstd"))]
    {
        let server = Server::start(200, &[], Bytes::new()).await;
        let mut config = Config { compression, ..server.config() };
        config.headers.insert("AccountID".to_owned(), Secret::new("7"));
        TraceStore::store(&open(&config), &request).await.unwrap();
        let [seen] = server.seen().try_into().unwrap();
        assert_eq!(seen.path, "/v1/traces?token=hidden");
        assert_eq!(seen.headers["content-type"], "application/x-protobuf");
        assert_eq!(seen.headers.get("content-encoding").map(|value| value.to_str().unwrap()), encoding);
        assert_eq!(seen.headers["accountid"], "7");
        assert_eq!(plain(&seen.body, compression), request.bytes().to_vec());
    }
}

fn plain(body: &Bytes, compression: Compression) -> Vec<u8> {
    match compression {
        Compression::None => body.to_vec(),
        Compression::Gzip => {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut plain).unwrap();
            plain
        }
        Compression::Zstd => zstd::bulk::decompress(body, 64 << 20).unwrap(),
    }
}

#[tokio::test]
async fn a_large_body_is_compressed_alike() {
    let server = Server::start(200, &[], Bytes::new()).await;
    let body = Bytes::from((0..2_000_000_u32).flat_map(u32::to_le_bytes).take(3 << 20).collect::<Vec<_>>());
    for compression in [Compression::Gzip, Compression::Zstd] {
        let config = Config { compression, ..server.config() };
        Poster::new("otlphttp_traces", &config, &Registry::new()).unwrap().post(body.clone()).await.unwrap();
        assert!(plain(&server.seen().last().unwrap().body, compression) == body, "{compression:?}");
    }
}

#[tokio::test]
async fn a_server_that_never_answers_is_left_after_the_timeout() {
    let config = Config { timeout: Duration::from_millis(200), ..config(raw(b"", true).await) };
    let registry = Registry::new();
    let store = OtlpHttp::new("otlphttp_traces", &config, &registry).unwrap();
    let result = TraceStore::store(&store, &request()).await;
    assert_eq!(kind(&result), "retry", "{result:?}");
    assert!(registry.encode().contains(r#"status="timeout"} 1"#), "{}", registry.encode());
}

#[tokio::test]
async fn a_connection_that_breaks_without_an_answer_is_tried_again() {
    for answer in [&b""[..], b"HTTP/1.1 200", b"\x00\x01garbage\r\n\r\n"] {
        let result = TraceStore::store(&open(&config(raw(answer, false).await)), &request()).await;
        assert_eq!(kind(&result), "retry", "{result:?}");
    }
    // Bound and not listening: whoever connects is refused, and nobody else gets the port meanwhile.
    let closed = TcpSocket::new_v4().unwrap();
    closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let result = TraceStore::store(&open(&config(closed.local_addr().unwrap())), &request()).await;
    assert!(kind(&result) == "retry" && !result.unwrap_err().to_string().contains("hidden"));
}

#[tokio::test]
async fn a_good_status_counts_although_its_body_breaks_off() {
    let broken = raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nab", false).await;
    TraceStore::store(&open(&config(broken)), &request()).await.unwrap();
}

#[tokio::test]
async fn no_more_requests_are_under_way_than_allowed() {
    let server = Server::gated(200, &[], Bytes::new(), Some(Notify::new())).await;
    let store = Arc::new(open(&Config { max_in_flight: 2, ..server.config() }));
    let sent: Vec<_> = (0..6)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { TraceStore::store(&*store, &request()).await })
        })
        .collect();
    while server.seen().len() < 6 {
        server.shared.gate.as_ref().unwrap().notify_one();
        tokio::task::yield_now().await;
    }
    for one in sent {
        while !one.is_finished() {
            server.shared.gate.as_ref().unwrap().notify_waiters();
            server.shared.gate.as_ref().unwrap().notify_one();
            tokio::task::yield_now().await;
        }
        one.await.unwrap().unwrap();
    }
    assert!(server.shared.most.load(Ordering::SeqCst) <= 2);
}

#[test]
fn what_cannot_work_is_refused_by_its_key() {
    let good = || Config { endpoint: "http://127.0.0.1:4318/v1/traces".to_owned(), ..Config::default() };
    open(&good());
    let header = |name: &str, value: &str| {
        let mut config = good();
        config.headers.insert(name.to_owned(), Secret::new(value));
        config
    };
    let at = |endpoint: &str| Config { endpoint: endpoint.to_owned(), ..good() };
    let encrypted = |tls| Config { tls: Some(tls), ..at("https://host/v1/traces") };
    let wrong = [
        ("endpoint", "not a URL", at("")),
        ("endpoint", "scheme", at("victorialogs:9428")),
        ("endpoint", "scheme", at("ftp://host/")),
        ("tls", "not encrypted", Config { tls: Some(ClientTls::default()), ..good() }),
        ("tls.ca_file", "cannot read", encrypted(ClientTls { ca_file: "/absent".to_owned(), ..ClientTls::default() })),
        (
            "tls.server_name_override",
            "put the name there",
            encrypted(ClientTls { server_name_override: "other".to_owned(), ..ClientTls::default() }),
        ),
        ("endpoint", "credentials", at("http://user:hunter2@host/v1/traces")),
        ("headers", "not the name", header("a b", "x")),
        ("headers.X-Key", "cannot carry", header("X-Key", "hunter2\n")),
        ("headers.Content-Type", "leave it out", header("Content-Type", "text/plain")),
        ("max_in_flight", "1 or more", Config { max_in_flight: 0, ..good() }),
        ("timeout", "5s", Config { timeout: Duration::ZERO, ..good() }),
    ];
    for (key, what, config) in wrong {
        let error = OtlpHttp::new("otlphttp_traces", &config, &Registry::new()).err().map(|error| format!("{error:#}"));
        let error = error.unwrap_or_else(|| panic!("{key}: {what} is accepted"));
        assert_eq!(format!("{:#}", config.check("otlphttp_traces").unwrap_err()), error);
        assert!(error.contains(&format!("exporters.otlphttp_traces.{key}")) && error.contains(what), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

/// A port that speaks TLS with a certificate of its own and passes everything on to `behind`.
async fn encrypting(folder: &std::path::Path, behind: SocketAddr) -> (u16, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned()];
    let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    std::fs::write(path("own.crt"), certificate.pem()).unwrap();
    std::fs::write(path("own.key"), key.serialize_pem()).unwrap();
    let tls = ServerTls { cert_file: path("own.crt"), key_file: path("own.key"), ..ServerTls::default() };
    let acceptor = tokio_rustls::TlsAcceptor::from(Acceptor::new(tls).unwrap().config());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that does not trust us ends the handshake; the next one may.
            let Ok(mut outside) = acceptor.accept(stream).await else { continue };
            tokio::spawn(async move {
                let mut inside = tokio::net::TcpStream::connect(behind).await.unwrap();
                tokio::io::copy_bidirectional(&mut outside, &mut inside).await.ok();
            });
        }
    });
    (port, path("own.crt"))
}

#[tokio::test]
async fn an_https_backend_is_trusted_by_its_authority_and_otherwise_retried() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(200, &[], "").await;
    let (port, ca_file) = encrypting(folder.path(), server.address).await;
    let config = |tls| Config { endpoint: format!("https://localhost:{port}/v1/traces"), tls, ..Config::default() };
    let trusting = config(Some(ClientTls { ca_file, ..ClientTls::default() }));
    TraceStore::store(&open(&trusting), &request()).await.unwrap();
    assert_eq!(server.seen().len(), 1);
    let distrusting = TraceStore::store(&open(&config(None)), &request()).await;
    assert_eq!(kind(&distrusting), "retry", "{distrusting:?}");
    assert_eq!(server.seen().len(), 1);
}
