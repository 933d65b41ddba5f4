//! One connection of the stand-in: HTTP/1.1 read by hyper, and ended as a [`Fault`] says.

use std::convert::Infallible;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::INSERT_PATH;
use super::fault::Fault;
use super::stand_in::{Seen, Shared};

/// Ends the connection without an answer.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection is cut on purpose")
    }
}

impl std::error::Error for Cut {}

/// Serves one connection until the client or a fault ends it.
pub(super) async fn serve(stream: TcpStream, shared: Arc<Shared>) -> Result<()> {
    // A second handle of the same socket: hyper owns the first, and a half-close must not ask it.
    let stream = stream.into_std()?;
    let socket = Arc::new(stream.try_clone()?);
    let stream = TcpStream::from_std(stream)?;
    let service = service_fn(move |request| {
        let (shared, socket) = (Arc::clone(&shared), Arc::clone(&socket));
        async move { answer(request, &shared, &socket).await }
    });
    // A client that goes away, and a cut, are no failures of the stand-in.
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
    Ok(())
}

type Answer = Response<Full<Bytes>>;

async fn answer(request: Request<Incoming>, shared: &Shared, socket: &std::net::TcpStream) -> Result<Answer, Cut> {
    let path = request.uri().path().replace("//", "/");
    match path.as_str() {
        INSERT_PATH => insert(request, shared, socket).await,
        "/health" => Ok(plain(StatusCode::OK, "OK")),
        "/insert/ready" => Ok(json_answer(StatusCode::OK, &json!({"status": "ok"}))),
        _ => Ok(match path.strip_prefix("/select/jaeger/api/") {
            Some(question) => query(question, request.uri().query().unwrap_or_default(), shared),
            None => plain(StatusCode::BAD_REQUEST, &format!("unsupported path requested: {path}")),
        }),
    }
}

async fn insert(request: Request<Incoming>, shared: &Shared, socket: &std::net::TcpStream) -> Result<Answer, Cut> {
    let header = |name| {
        let value = request.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let (content_type, encoding) = (header(header::CONTENT_TYPE), header(header::CONTENT_ENCODING));
    let tenant =
        (header(header::HeaderName::from_static("accountid")), header(header::HeaderName::from_static("projectid")));
    let method = request.method().clone();
    let fault = shared.next_fault();
    if fault == Some(Fault::Reset) {
        return Err(Cut);
    }
    let body = request.into_body().collect().await.map_err(|_| Cut)?.to_bytes();
    let mut seen = Seen { content_type, encoding, tenant, bytes: body.len(), spans: 0, status: None };
    let store = |seen: &mut Seen| match shared.insert(&method, &seen.content_type, &seen.encoding, body.clone()) {
        Ok(spans) => {
            seen.spans = spans;
            plain(StatusCode::OK, "")
        }
        Err((status, text)) => plain(status, &text),
    };
    let end = match fault {
        None | Some(Fault::Reset) => End::Answer(store(&mut seen)),
        Some(Fault::Slow(pause)) => End::Later(store(&mut seen), pause),
        Some(Fault::Status { code, retry_after }) => End::Answer(refusal(code, retry_after)),
        Some(Fault::Hang { stored }) => {
            stored.then(|| store(&mut seen));
            End::Never
        }
        Some(Fault::HalfClose { stored }) => {
            stored.then(|| store(&mut seen));
            End::HalfClose
        }
    };
    if let End::Answer(answer) | End::Later(answer, _) = &end {
        seen.status = Some(answer.status().as_u16());
    }
    shared.saw(seen);
    match end {
        End::Answer(answer) => return Ok(answer),
        End::Later(answer, pause) => {
            tokio::time::sleep(pause).await;
            return Ok(answer);
        }
        End::Never => {}
        End::HalfClose => {
            socket.shutdown(Shutdown::Write).ok();
        }
    }
    Ok(std::future::pending::<Result<Answer, Infallible>>().await.unwrap_or_default())
}

enum End {
    Answer(Answer),
    Later(Answer, Duration),
    Never,
    HalfClose,
}

fn query(question: &str, parameters: &str, shared: &Shared) -> Answer {
    if question == "services" {
        let names = shared.services();
        return json_answer(
            StatusCode::OK,
            &json!({"data": names, "errors": null, "limit": 0, "offset": 0, "total": names.len()}),
        );
    }
    if let Some(id) = question.strip_prefix("traces/").filter(|id| !id.is_empty()) {
        let trace = shared.trace(id);
        let status = if trace.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
        return json_answer(status, &traces(trace.as_slice()));
    }
    let parameter = |name: &str| {
        let pairs = parameters.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).map(|(_, value)| unescape(value)).next()
    };
    match (question, parameter("service")) {
        ("traces", Some(service)) => {
            let limit = parameter("limit").and_then(|limit| limit.parse().ok()).unwrap_or(20);
            json_answer(StatusCode::OK, &traces(&shared.traces(&service, limit)))
        }
        ("traces", None) => plain(StatusCode::BAD_REQUEST, "incorrect trace query params: service name is required"),
        _ => plain(StatusCode::BAD_REQUEST, &format!("unsupported path requested: /select/jaeger/api/{question}")),
    }
}

fn traces(data: &[Value]) -> Value {
    json!({"total": data.len(), "data": data, "errors": null, "limit": 0, "offset": 0})
}

fn refusal(code: u16, retry_after: Option<u64>) -> Answer {
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = plain(status, "told to refuse");
    if let Some(seconds) = retry_after {
        answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    answer
}

fn plain(status: StatusCode, text: &str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *answer.status_mut() = status;
    answer
}

fn json_answer(status: StatusCode, value: &Value) -> Answer {
    let mut answer = plain(status, &value.to_string());
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    answer
}

/// A query parameter's text; what is no escape stays as it is.
fn unescape(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let escape = || u8::from_str_radix(std::str::from_utf8(tail.get(..2)?).ok()?, 16).ok();
        match (byte, escape()) {
            (b'%', Some(escaped)) => {
                bytes.push(escaped);
                rest = &tail[2..];
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
