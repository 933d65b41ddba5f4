//! OTLP/gRPC and our RED service: unary calls, framed here and not by tonic's codec, because the permit
//! has to be taken between the length prefix and the message.
//!
//! Statuses follow the gRPC HTTP/2 protocol and otel-semantics §15.2. A refused call leaves the
//! connection usable.

use http::header::CONTENT_TYPE;
use http::{HeaderName, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use mirador_otlp::Signal;
use tonic::Code;

use super::body::{BodyReader, REQUEST_OVERHEAD};
use super::connection::{Connection, via_agent};
use super::decompress::{Encoding, decompress};
use super::fault::Fault;
use super::metrics::{RequestMeter, Transport};
use super::reply::{self, GRPC_ENCODINGS, Reply};
use crate::{Accepted, Consume, Kind};

const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// What the header of a call says.
struct Call {
    kind: Kind,
    encoding: Encoding,
    via_agent: Option<String>,
}

/// A call whose header is not gRPC: answered in plain HTTP.
struct NotGrpc(StatusCode, &'static str, &'static str);

/// The kind that a gRPC path carries.
fn kind_of(path: &str) -> Option<Kind> {
    Some(match path {
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => Kind::Otlp(Signal::Traces),
        "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export" => Kind::Otlp(Signal::Metrics),
        "/opentelemetry.proto.collector.logs.v1.LogsService/Export" => Kind::Otlp(Signal::Logs),
        mirador_proto::PATH_RED => Kind::Red,
        _ => return None,
    })
}

/// Whether a request is meant as gRPC, well-formed or not.
pub(super) fn is_grpc<B>(request: &Request<B>) -> bool {
    let content_type = request.headers().get(CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
        || kind_of(request.uri().path()).is_some()
}

/// Answers one call.
pub(super) async fn export<C: Consume>(connection: &Connection<C>, request: Request<Incoming>) -> Response<Reply> {
    let mut meter = connection.shared.meters.request(Transport::Grpc);
    meter.kind = kind_of(request.uri().path());
    let call = match not_grpc(&request) {
        Some(NotGrpc(status, reason, message)) => {
            meter.refused(reason);
            let version = request.version();
            let reader = BodyReader::new(request.into_body(), &connection.shared.body);
            return connection.abandon(reader, version, reply::text(status, message)).await;
        }
        None => call(connection, &request),
    };
    // The request's headers are freed here, before its body is waited for.
    let mut reader = BodyReader::new(request.into_body(), &connection.shared.body);
    let settled = match call {
        Ok(call) => settle(connection, &mut reader, call, &meter).await,
        Err(fault) => Err(fault),
    };
    meter.wire(reader.received());
    match settled {
        Ok((kind, accepted)) => {
            meter.accepted(accepted.rejected_items > 0);
            reply::grpc_accepted(kind, &accepted)
        }
        Err(fault) => {
            meter.refused(fault.reason);
            let response = reply::grpc_refused(&fault);
            if fault.ends_body() { response } else { connection.abandon(reader, Version::HTTP_2, response).await }
        }
    }
}

fn not_grpc<B>(request: &Request<B>) -> Option<NotGrpc> {
    let content_type = request.headers().get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let suffix = content_type.strip_prefix(b"application/grpc");
    if !suffix.is_some_and(|suffix| {
        matches!(suffix, b"" | b"+proto") || suffix.starts_with(b";") || suffix.starts_with(b"+proto;")
    }) {
        let message = "415 unsupported media type, supported: [application/grpc, application/grpc+proto]\n";
        return Some(NotGrpc(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type", message));
    }
    if request.method() != Method::POST {
        return Some(NotGrpc(StatusCode::METHOD_NOT_ALLOWED, "method", "405 method not allowed, supported: [POST]\n"));
    }
    if request.version() != Version::HTTP_2 {
        return Some(NotGrpc(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "http_version", "505 gRPC requires HTTP/2\n"));
    }
    None
}

fn call<B, C: Consume>(connection: &Connection<C>, request: &Request<B>) -> Result<Call, Fault> {
    let path = request.uri().path();
    let Some(kind) = kind_of(path) else {
        return Err(Fault::bad("path", Code::Unimplemented, format!("unknown method {path}")));
    };
    if !connection.shared.takes(kind) {
        return Err(Fault::not_configured(kind));
    }
    let encoding = request.headers().get(GRPC_ENCODING).map_or(&b""[..], |value| value.as_bytes());
    let Some(encoding) = Encoding::from_grpc(encoding) else {
        let name = String::from_utf8_lossy(encoding);
        let message = format!("grpc-encoding {name:?} is not supported; supported: {GRPC_ENCODINGS}");
        return Err(Fault::bad("encoding_unknown", Code::Unimplemented, message));
    };
    Ok(Call { kind, encoding, via_agent: via_agent(request.headers()) })
}

async fn settle<C: Consume>(
    connection: &Connection<C>,
    reader: &mut BodyReader<'_>,
    call: Call,
    meter: &RequestMeter,
) -> Result<(Kind, Accepted), Fault> {
    let shared = &connection.shared;
    let mut permit = shared.budget.try_acquire(REQUEST_OVERHEAD).ok_or_else(Fault::memory)?;
    let message = reader.message(shared.grpc_limit, &mut permit).await?;
    let wire = message.data.len();
    let body = if message.compressed {
        if call.encoding == Encoding::Identity {
            let text = "the message is marked as compressed, but grpc-encoding names no encoding";
            return Err(Fault::bad("framing", Code::Internal, text));
        }
        // Boxed: most calls come as they are, and every call is moved with the room for all that it may do.
        let body = Box::pin(decompress(call.encoding, message.data, shared.grpc_limit, &mut permit)).await?;
        permit.shrink_to(permit.bytes() - wire);
        body
    } else {
        message.data
    };
    meter.body(body.len());
    let accepted = connection.hand_over(call.kind, body, call.via_agent, meter.transport(), permit).await?;
    Ok((call.kind, accepted))
}
