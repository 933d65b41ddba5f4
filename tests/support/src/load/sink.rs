//! Answers every OTLP request with success and counts what arrived.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

/// What arrived.
#[derive(Debug, Default)]
pub struct Arrived {
    requests: AtomicU64,
    bytes: AtomicU64,
}

impl Arrived {
    /// Requests that were answered.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Bytes of their bodies, framing included.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Serves gRPC and HTTP on `address` until the future is dropped; every answer waits for `delay` first.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(address: SocketAddr, arrived: Arc<Arrived>, delay: Duration) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let arrived = Arc::clone(&arrived);
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| answer(request, Arc::clone(&arrived), delay));
            let mut server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            server
                .http2()
                .initial_stream_window_size(8 << 20)
                .initial_connection_window_size(24 << 20)
                .max_frame_size(1 << 20);
            // A peer that goes away is the end of its connection and no more.
            let _ended = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

type Answer = Response<StreamBody<futures_util::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>>;

async fn answer(request: Request<Incoming>, arrived: Arc<Arrived>, delay: Duration) -> Result<Answer, hyper::Error> {
    let grpc =
        request.headers().get("content-type").is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    let mut body = request.into_body();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame?.data_ref().map_or(0, Bytes::len);
    }
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    arrived.requests.fetch_add(1, Ordering::Relaxed);
    arrived.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    let mut frames = Vec::new();
    if grpc {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        frames.push(Ok(Frame::data(Bytes::from_static(&[0; 5]))));
        frames.push(Ok(Frame::trailers(trailers)));
    }
    let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)));
    let content_type = if grpc { "application/grpc" } else { "application/x-protobuf" };
    response.headers_mut().insert("content-type", HeaderValue::from_static(content_type));
    Ok(response)
}
