//! Answers: bodies and headers that are made once, and errors as the OTLP specification wants them.
//!
//! Never: formats anything for a request that was taken whole.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use mirador_otlp::Signal;
use mirador_proto::red::ExportRedResponse;
use prost::Message as _;
use tonic_types::{ErrorDetails, StatusExt as _};

use super::fault::Fault;
use crate::{Accepted, Kind};

/// Text in errors is cut here: it travels in a header on gRPC.
const MAX_MESSAGE: usize = 2048;

/// `grpc-status`.
pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// A gRPC frame with an empty message: every full success.
const EMPTY_FRAME: &[u8] = &[0; 5];

/// The encodings that gRPC requests may have.
pub(super) const GRPC_ENCODINGS: &str = "identity,gzip,zstd,snappy,deflate";

/// How a body over HTTP is written, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Protobuf,
    Json,
}

/// The body of an answer: at most one chunk, then trailers on gRPC.
#[derive(Debug, Default)]
pub(super) struct Reply {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl From<Bytes> for Reply {
    fn from(data: Bytes) -> Self {
        Self { data: (!data.is_empty()).then_some(data), trailers: None }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(data) = self.data.take() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.trailers.is_some() {
            // gRPC frames its own length; a content length would only be one more header.
            return SizeHint::default();
        }
        SizeHint::with_exact(self.data.as_ref().map_or(0, |data| data.len() as u64))
    }
}

/// A gRPC call that was taken.
pub(super) fn grpc_accepted(kind: Kind, accepted: &Accepted) -> Response<Reply> {
    let message = partial_success(kind, accepted);
    let data = if message.is_empty() {
        Bytes::from_static(EMPTY_FRAME)
    } else {
        let mut frame = Vec::with_capacity(5 + message.len());
        frame.push(0);
        frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
        frame.extend_from_slice(&message);
        frame.into()
    };
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
    let mut response = Response::new(Reply { data: Some(data), trailers: Some(trailers) });
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// A gRPC call that was not taken: a trailers-only answer.
pub(super) fn grpc_refused(fault: &Fault) -> Response<Reply> {
    let message = clipped(&fault.message);
    let status = match fault.retry_after {
        Some(after) => {
            tonic::Status::with_error_details(fault.code, message, ErrorDetails::with_retry_info(Some(after)))
        }
        None => tonic::Status::new(fault.code, message),
    };
    let mut response = Response::new(Reply::default());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, GRPC);
    if status.add_header(headers).is_err() {
        headers.insert(GRPC_STATUS, HeaderValue::from(fault.code as i32));
    }
    if fault.reason == "encoding_unknown" {
        headers.insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static(GRPC_ENCODINGS));
    }
    response
}

/// An HTTP request that was taken, answered in its own format.
pub(super) fn http_accepted(kind: Kind, format: Format, accepted: &Accepted) -> Response<Reply> {
    let (content_type, body) = match format {
        Format::Protobuf => (PROTOBUF, Bytes::from(partial_success(kind, accepted))),
        Format::Json => (JSON, partial_success_json(kind, accepted)),
    };
    let mut response = Response::new(Reply::from(body));
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// An HTTP request that was not taken: a `google.rpc.Status` in the request's format.
pub(super) fn http_refused(format: Format, fault: &Fault) -> Response<Reply> {
    let (content_type, body) = match format {
        Format::Protobuf => (PROTOBUF, status_protobuf(fault)),
        Format::Json => (JSON, status_json(fault)),
    };
    let mut response = Response::new(Reply::from(Bytes::from(body)));
    *response.status_mut() = fault.http;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    let may_retry = matches!(fault.http, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    if let Some(after) = fault.retry_after.filter(|_| may_retry) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(whole_seconds(after)));
    }
    response
}

/// An HTTP request that was turned down before its format was known.
pub(super) fn text(status: StatusCode, message: &'static str) -> Response<Reply> {
    let mut response = Response::new(Reply::from(Bytes::from_static(message.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    }
    response
}

/// `Retry-After` knows whole seconds only; rounded up so that nobody comes back too early.
fn whole_seconds(after: Duration) -> u64 {
    (after.as_secs() + u64::from(after.subsec_nanos() > 0)).max(1)
}

fn clipped(message: &str) -> &str {
    &message[..message.floor_char_boundary(MAX_MESSAGE)]
}

/// An `Export*ServiceResponse`; empty for a full success. The three signals share the field numbers,
/// a RED response has no partial success but says whether the delta had been merged before.
fn partial_success(kind: Kind, accepted: &Accepted) -> Vec<u8> {
    if kind == Kind::Red {
        return ExportRedResponse { duplicate: accepted.is_duplicate() }.encode_to_vec();
    }
    if *accepted == Accepted::default() {
        return Vec::new();
    }
    opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse {
        partial_success: Some(opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess {
            rejected_spans: i64::try_from(accepted.rejected_items).unwrap_or(i64::MAX),
            error_message: clipped(&accepted.message).to_owned(),
        }),
    }
    .encode_to_vec()
}

fn partial_success_json(kind: Kind, accepted: &Accepted) -> Bytes {
    let Kind::Otlp(signal) = kind else { return Bytes::from_static(b"{}") };
    if *accepted == Accepted::default() {
        return Bytes::from_static(b"{}");
    }
    let field = match signal {
        Signal::Traces => "rejectedSpans",
        Signal::Metrics => "rejectedDataPoints",
        Signal::Logs => "rejectedLogRecords",
    };
    let message = serde_json::Value::from(clipped(&accepted.message));
    let rejected = accepted.rejected_items;
    format!(r#"{{"partialSuccess":{{"{field}":"{rejected}","errorMessage":{message}}}}}"#).into()
}

fn status_protobuf(fault: &Fault) -> Vec<u8> {
    let message = clipped(&fault.message);
    let details = fault.retry_after.map(|after| ErrorDetails::with_retry_info(Some(after)));
    if let Some(details) = details {
        // The details of a tonic status are this very message, encoded.
        return tonic::Status::with_error_details(fault.http_code(), message, details).details().to_vec();
    }
    tonic_types::pb::Status { code: fault.http_code() as i32, message: message.to_owned(), details: Vec::new() }
        .encode_to_vec()
}

fn status_json(fault: &Fault) -> Vec<u8> {
    let message = serde_json::Value::from(clipped(&fault.message));
    let mut text = format!(r#"{{"code":{},"message":{message}"#, fault.http_code() as i32);
    if let Some(after) = fault.retry_after {
        let (seconds, millis) = (after.as_secs(), after.subsec_millis());
        let delay = if millis == 0 { format!("{seconds}s") } else { format!("{seconds}.{millis:03}s") };
        write!(text, r#","details":[{{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"{delay}"}}]"#)
            .expect("writing to a string cannot fail");
    }
    text.push('}');
    text.into_bytes()
}
