//! Exports that are repeated until they are answered with success, as an SDK does.
//!
//! Every export is one span of its own, which its name tells, so that who takes them can say which have come
//! and how often. Connections are opened anew from time to time, as those of applications are.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// Exports over one connection.
const PER_CONNECTION: u32 = 50;
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(20);
/// How long one export may take with all its attempts.
const PATIENCE: Duration = Duration::from_mins(2);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// How a request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// OTLP/gRPC.
    Grpc,
    /// OTLP/HTTP over HTTP/1.1 connections that are kept.
    Http1,
    /// OTLP/HTTP over HTTP/2 without asking for it first.
    Http2,
}

impl std::str::FromStr for Way {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "grpc" => Ok(Self::Grpc),
            "http1" => Ok(Self::Http1),
            "http2" => Ok(Self::Http2),
            other => bail!("{other:?} is no way to export; grpc, http1 and http2 are"),
        }
    }
}

/// Sends the exports `0..count` to `target` over so many connections at one time; returns how many attempts
/// it took.
///
/// # Errors
/// When an export is not answered with success in two minutes.
pub async fn export(target: SocketAddr, way: Way, count: u32, connections: u32) -> Result<u64> {
    let mut workers = JoinSet::new();
    for first in 0..connections {
        workers.spawn(work(target, way, first..count, connections));
    }
    let mut attempts = 0;
    while let Some(done) = workers.join_next().await {
        attempts += done??;
    }
    Ok(attempts)
}

async fn work(target: SocketAddr, way: Way, numbers: std::ops::Range<u32>, step: u32) -> Result<u64> {
    let mut attempts = 0;
    let mut open: Option<(Connection, u32)> = None;
    for number in numbers.step_by(step as usize) {
        let body = request(number).encode_to_vec();
        let begin = Instant::now();
        loop {
            attempts += 1;
            let once = timeout(ATTEMPT, once(target, way, &body, &mut open)).await;
            match once.map_err(anyhow::Error::from).and_then(|once| once) {
                Ok(()) => break,
                Err(error) => {
                    open = None;
                    ensure!(begin.elapsed() < PATIENCE, "export {number} is not taken: {error:#}");
                    sleep(PAUSE).await;
                }
            }
        }
    }
    Ok(attempts)
}

async fn once(target: SocketAddr, way: Way, body: &[u8], open: &mut Option<(Connection, u32)>) -> Result<()> {
    let (connection, used) = match open.take().filter(|(_, used)| *used < PER_CONNECTION) {
        Some(open) => open,
        None => (Connection::open(target, way).await?, 0),
    };
    let (connection, _) = open.insert((connection, used + 1));
    connection.send(target, way, body).await
}

enum Connection {
    H1(http1::SendRequest<Full<Bytes>>),
    H2(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    async fn open(target: SocketAddr, way: Way) -> Result<Self> {
        let stream = TcpStream::connect(target).await?;
        stream.set_nodelay(true)?;
        // How a connection ends is seen by the request that needs it.
        if way == Way::Http1 {
            let (send, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            Ok(Self::H1(send))
        } else {
            let (send, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            Ok(Self::H2(send))
        }
    }

    async fn send(&mut self, target: SocketAddr, way: Way, body: &[u8]) -> Result<()> {
        let (path, kind, body) = match way {
            Way::Grpc => {
                let mut framed = BytesMut::with_capacity(body.len() + 5);
                framed.put_u8(0);
                framed.put_u32(u32::try_from(body.len())?);
                framed.put_slice(body);
                (super::generator::GRPC_PATH, "application/grpc", framed.freeze())
            }
            Way::Http1 | Way::Http2 => ("/v1/traces", "application/x-protobuf", Bytes::copy_from_slice(body)),
        };
        let uri = if way == Way::Http1 { path.to_owned() } else { format!("http://{target}{path}") };
        let mut request = Request::builder().method(Method::POST).uri(uri).header("content-type", kind);
        request = if way == Way::Grpc { request.header("te", "trailers") } else { request };
        request = if way == Way::Http1 { request.header("host", target.to_string()) } else { request };
        let request = request.body(Full::new(body))?;
        let response = match self {
            Self::H1(send) => {
                send.ready().await?;
                send.send_request(request).await?
            }
            Self::H2(send) => {
                send.ready().await?;
                send.send_request(request).await?
            }
        };
        is_taken(way, response).await
    }
}

async fn is_taken(way: Way, response: Response<Incoming>) -> Result<()> {
    let (parts, body) = response.into_parts();
    ensure!(parts.status.is_success(), "status {}", parts.status);
    let body = body.collect().await?;
    if way == Way::Grpc {
        let trailers = body.trailers().unwrap_or(&parts.headers);
        let status = trailers.get("grpc-status").or_else(|| parts.headers.get("grpc-status"));
        let status = status.context("no grpc-status")?;
        ensure!(status == "0", "grpc-status {status:?}");
    }
    Ok(())
}

/// The export of this number: one span, whose content follows from the number.
pub fn request(number: u32) -> ExportTraceServiceRequest {
    let text = |text: String| Some(AnyValue { value: Some(any_value::Value::StringValue(text)) });
    let attribute =
        |key: &str, value: String| KeyValue { key: key.to_owned(), value: text(value), ..KeyValue::default() };
    let mut trace_id = vec![7; 16];
    trace_id[..4].copy_from_slice(&number.to_be_bytes());
    let span = Span {
        trace_id,
        span_id: u64::from(number + 1).to_be_bytes().to_vec(),
        name: format!("export {number}"),
        start_time_unix_nano: 1_700_000_000_000_000_000 + u64::from(number),
        end_time_unix_nano: 1_700_000_000_000_500_000 + u64::from(number),
        attributes: vec![attribute("http.route", format!("/orders/{}", number % 7))],
        ..Span::default()
    };
    let resource =
        Resource { attributes: vec![attribute("service.name", format!("shop-{}", number % 5))], ..Resource::default() };
    let scope = ScopeSpans { spans: vec![span], ..ScopeSpans::default() };
    let entry = ResourceSpans { resource: Some(resource), scope_spans: vec![scope], ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![entry] }
}
