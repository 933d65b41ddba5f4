//! OTLP/HTTP: `POST /v1/{traces,metrics,logs}` with protobuf or JSON (OTLP specification "OTLP/HTTP",
//! statuses of otel-semantics §15.2).
//!
//! A refused request leaves the connection usable when its body is short or over; otherwise the answer
//! says `Connection: close` (HTTP/1.1) or the stream is reset (HTTP/2).

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use mirador_otlp::Signal;
use mirador_service::memory::Permit;
use tonic::Code;

use super::body::{BodyReader, REQUEST_OVERHEAD};
use super::connection::{Connection, via_agent};
use super::decompress::{Encoding, decompress};
use super::fault::Fault;
use super::json::{self, Transcoded};
use super::metrics::{RequestMeter, Transport};
use super::reply::{self, Format, Reply};
use crate::{Accepted, Consume, Kind};

/// Larger JSON bodies are re-encoded on a thread of their own: a few milliseconds of work that cannot
/// be interrupted.
const BLOCKING_JSON: usize = 1 << 20;

/// What the header of a request says.
struct Call {
    signal: Signal,
    format: Format,
    encoding: Result<Encoding, Fault>,
    via_agent: Option<String>,
}

/// A request that is answered in text because its format is not known.
struct NotOtlp(StatusCode, &'static str, &'static str);

/// Answers one request.
pub(super) async fn export<C: Consume>(connection: &Connection<C>, request: Request<Incoming>) -> Response<Reply> {
    let Some(cors) = &connection.shared.cors else {
        return answer(connection, request).await;
    };
    if let Some(preflight) = cors.preflight(request.method(), request.headers()) {
        return preflight;
    }
    let origin = cors.allowed_origin(request.headers()).cloned();
    let mut response = answer(connection, request).await;
    cors.decorate(origin, &mut response);
    response
}

async fn answer<C: Consume>(connection: &Connection<C>, request: Request<Incoming>) -> Response<Reply> {
    let mut meter = connection.shared.meters.request(Transport::Http);
    let signal = signal_of(request.uri().path());
    meter.kind = signal.map(Kind::Otlp);
    let version = request.version();
    let call = call(connection, signal, &request);
    // The request's headers are freed here, before its body is waited for.
    let mut reader = BodyReader::new(request.into_body(), &connection.shared.body);
    let call = match call {
        Ok(call) => call,
        Err(NotOtlp(status, reason, message)) => {
            meter.refused(reason);
            return connection.abandon(reader, version, reply::text(status, message)).await;
        }
    };
    let (kind, format) = (Kind::Otlp(call.signal), call.format);
    let settled = settle(connection, &mut reader, call, &meter).await;
    meter.wire(reader.received());
    match settled {
        Ok(accepted) => {
            meter.accepted(accepted.rejected_items > 0);
            reply::http_accepted(kind, format, &accepted)
        }
        Err(fault) => {
            meter.refused(fault.reason);
            let response = reply::http_refused(format, &fault);
            if fault.ends_body() {
                connection.cut_off(version, response)
            } else {
                connection.abandon(reader, version, response).await
            }
        }
    }
}

/// The signal of an OTLP/HTTP path.
fn signal_of(path: &str) -> Option<Signal> {
    Some(match path {
        "/v1/traces" => Signal::Traces,
        "/v1/metrics" => Signal::Metrics,
        "/v1/logs" => Signal::Logs,
        _ => return None,
    })
}

fn call<C: Consume>(
    connection: &Connection<C>,
    signal: Option<Signal>,
    request: &Request<Incoming>,
) -> Result<Call, NotOtlp> {
    let Some(signal) = signal else {
        let message = "404 page not found; OTLP/HTTP is at /v1/traces, /v1/metrics and /v1/logs\n";
        return Err(NotOtlp(StatusCode::NOT_FOUND, "path", message));
    };
    if request.method() != Method::POST {
        let message = "405 method not allowed, supported: [POST]\n";
        return Err(NotOtlp(StatusCode::METHOD_NOT_ALLOWED, "method", message));
    }
    let Some(format) = format_of(request.headers()) else {
        let message = "415 unsupported media type, supported: [application/json, application/x-protobuf]\n";
        return Err(NotOtlp(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type", message));
    };
    let encoding = if connection.shared.takes(Kind::Otlp(signal)) {
        encoding_of(request.headers())
    } else {
        Err(Fault::not_configured(Kind::Otlp(signal)))
    };
    Ok(Call { signal, format, encoding, via_agent: via_agent(request.headers()) })
}

/// The format that the content type names; parameters are ignored.
fn format_of(headers: &HeaderMap) -> Option<Format> {
    let value = headers.get(CONTENT_TYPE)?.as_bytes();
    if value == b"application/x-protobuf" {
        return Some(Format::Protobuf);
    }
    let essence = value.split(|byte| *byte == b';').next()?.trim_ascii();
    if essence.eq_ignore_ascii_case(b"application/x-protobuf") {
        Some(Format::Protobuf)
    } else if essence.eq_ignore_ascii_case(b"application/json") {
        Some(Format::Json)
    } else {
        None
    }
}

/// The one encoding of the body; a list of several is as unknown as a name that nobody knows.
fn encoding_of(headers: &HeaderMap) -> Result<Encoding, Fault> {
    let mut values = headers.get_all(CONTENT_ENCODING).iter();
    let Some(value) = values.next() else { return Ok(Encoding::Identity) };
    match Encoding::from_http(value.as_bytes()) {
        Some(encoding) if values.next().is_none() => Ok(encoding),
        _ => {
            let name = String::from_utf8_lossy(value.as_bytes());
            let message = format!(
                "Content-Encoding {name:?} is not supported; supported: gzip, zstd, zlib, deflate, snappy, x-snappy-framed, lz4"
            );
            Err(Fault::bad("encoding_unknown", Code::InvalidArgument, message))
        }
    }
}

async fn settle<C: Consume>(
    connection: &Connection<C>,
    reader: &mut BodyReader<'_>,
    call: Call,
    meter: &RequestMeter,
) -> Result<Accepted, Fault> {
    let shared = &connection.shared;
    let encoding = call.encoding?;
    let mut permit = shared.budget.try_acquire(REQUEST_OVERHEAD).ok_or_else(Fault::memory)?;
    let limit = shared.http_limit;
    let received = reader.whole(limit, &mut permit).await?;
    let wire = received.len();
    let mut body = received;
    if encoding != Encoding::Identity && wire > 0 {
        body = decompress(encoding, body, limit, &mut permit).await?;
        permit.shrink_to(permit.bytes() - wire);
    }
    let mut ignored = None;
    if call.format == Format::Json {
        (Transcoded { body, ignored }, permit) = from_json(call.signal, body, limit, permit).await?;
    }
    meter.body(body.len());
    let kind = Kind::Otlp(call.signal);
    let mut accepted = connection.hand_over(kind, body, call.via_agent, meter.transport(), permit).await?;
    if let Some(ignored) = ignored {
        meter.warned("json_snake_case");
        accepted.warn(&ignored.to_string());
    }
    Ok(accepted)
}

/// Re-encodes JSON; both bodies are paid for until the first one is freed.
async fn from_json(
    signal: Signal,
    json: Bytes,
    limit: usize,
    mut permit: Permit,
) -> Result<(Transcoded, Permit), Fault> {
    let paid = permit.bytes();
    let convert = move || {
        let transcoded = json::to_protobuf(signal, &json, limit, &mut permit)?;
        drop(json);
        permit.shrink_to(permit.bytes() - (paid - REQUEST_OVERHEAD));
        Ok((transcoded, permit))
    };
    if paid < BLOCKING_JSON {
        return convert();
    }
    match tokio::task::spawn_blocking(convert).await {
        Ok(converted) => converted,
        Err(error) => Err(Fault::bad("json", Code::Internal, format!("the body could not be read: {error}"))),
    }
}
