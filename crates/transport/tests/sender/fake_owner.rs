//! An owner whose every answer is scripted, on a plain hyper HTTP/2 server.
//!
//! Independent of our receiver, so that the sender's wire form is checked against the library and not
//! against our own reading of the protocol.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// One call as it came over the wire.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    /// The message without its frame, decompressed.
    pub(crate) message: Bytes,
    /// Whether the call was answered OK.
    pub(crate) accepted: bool,
}

/// What the owner does with a call.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// OK with this message.
    Ok(Vec<u8>),
    /// A status, with `RetryInfo` when a delay is given.
    Status(Code, Option<Duration>),
    /// OK, but not before [`FakeOwner::release`].
    Stall,
    /// A bare HTTP status.
    Http(u16),
    /// Closes the connection without an answer.
    HangUp,
}

type Script = Box<dyn FnMut(&Received) -> Reply + Send>;

struct State {
    received: Mutex<Vec<Received>>,
    script: Mutex<Script>,
    released: watch::Sender<bool>,
    connections: watch::Sender<u64>,
}

/// A running owner; dropping it closes its port and its connections.
pub(crate) struct FakeOwner {
    addr: SocketAddr,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for FakeOwner {
    fn drop(&mut self) {
        self.task.abort();
        self.state.connections.send_modify(|kills| *kills += 1);
    }
}

impl FakeOwner {
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    pub(crate) async fn start_at(addr: SocketAddr) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let state = Arc::new(State {
            received: Mutex::new(Vec::new()),
            script: Mutex::new(Box::new(|_| Reply::Ok(Vec::new()))),
            released: watch::Sender::new(false),
            connections: watch::Sender::new(0),
        });
        let addr = listener.local_addr().unwrap();
        let task = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { addr, state, task }
    }

    pub(crate) fn name(&self) -> String {
        self.addr.to_string()
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Answers every further call by `script`.
    pub(crate) fn script(&self, script: impl FnMut(&Received) -> Reply + Send + 'static) {
        *self.state.script.lock().unwrap() = Box::new(script);
    }

    pub(crate) fn always(&self, reply: Reply) {
        self.script(move |_| reply.clone());
    }

    /// Lets every stalled call go.
    pub(crate) fn release(&self) {
        self.state.released.send_replace(true);
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.state.received.lock().unwrap().clone()
    }

    pub(crate) fn accepted(&self) -> Vec<Bytes> {
        self.received().into_iter().filter(|call| call.accepted).map(|call| call.message).collect()
    }

    pub(crate) fn calls(&self) -> usize {
        self.state.received.lock().unwrap().len()
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let mut kill = state.connections.subscribe();
            let service = service_fn(|request| answer(Arc::clone(&state), request));
            let connection = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                _ = connection => {}
                _ = kill.changed() => {}
            }
        });
    }
}

type Body = http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>;

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let (head, body) = request.into_parts();
    let mut frame = body.collect().await?.to_bytes();
    let compressed = frame.get_u8() == 1;
    assert_eq!(frame.get_u32() as usize, frame.len(), "the length prefix is that of the message");
    let message = match head.headers.get("grpc-encoding").map(HeaderValue::as_bytes) {
        Some(encoding) if compressed => decompress(encoding, &frame),
        _ => {
            assert!(!compressed);
            frame
        }
    };
    let mut call = Received { path: head.uri.path().to_owned(), headers: head.headers, message, accepted: false };
    let reply = (state.script.lock().unwrap())(&call);
    call.accepted = matches!(reply, Reply::Ok(_));
    let at = {
        let mut received = state.received.lock().unwrap();
        received.push(call);
        received.len() - 1
    };
    match reply {
        Reply::Ok(message) => Ok(with_status(&message, None)),
        Reply::Stall => {
            // An error means that the owner is gone, and with it the connection.
            if state.released.subscribe().wait_for(|released| *released).await.is_ok() {
                state.received.lock().unwrap()[at].accepted = true;
            }
            Ok(with_status(&[], None))
        }
        Reply::Status(code, retry) => {
            let mut details = ErrorDetails::new();
            if retry.is_some() {
                details.set_retry_info(retry);
            }
            Ok(with_status(&[], Some(Status::with_error_details(code, "scripted", details))))
        }
        Reply::Http(status) => Ok(Response::builder().status(status).body(Full::default().boxed()).unwrap()),
        Reply::HangUp => {
            state.connections.send_modify(|kills| *kills += 1);
            std::future::pending().await
        }
    }
}

fn with_status(message: &[u8], status: Option<Status>) -> Response<Body> {
    let builder = Response::builder().header("content-type", "application/grpc");
    let mut trailers = HeaderMap::new();
    if let Some(status) = status {
        status.add_header(&mut trailers).unwrap();
        let mut response = builder.body(Full::default().boxed()).unwrap();
        response.headers_mut().extend(trailers);
        return response;
    }
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let mut frame = vec![0];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(message);
    let body = Full::from(frame).with_trailers(async move { Some(Ok(trailers)) });
    builder.body(body.boxed()).unwrap()
}

fn decompress(encoding: &[u8], frame: &[u8]) -> Bytes {
    match encoding {
        b"gzip" => {
            let mut plain = Vec::new();
            std::io::copy(&mut flate2::read::GzDecoder::new(frame), &mut plain).unwrap();
            plain.into()
        }
        b"zstd" => zstd::bulk::decompress(frame, 1 << 24).unwrap().into(),
        other => panic!("unknown encoding {other:?}"),
    }
}

/// Waits for a condition by polling, for at most a minute.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = tokio::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_mins(1), "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
