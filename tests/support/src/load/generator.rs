//! Closed-loop connections that send a payload as fast as it is answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::Protocol;
use super::payload::Payload;

const GRPC_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// What was sent and how it was answered.
#[derive(Debug, Default)]
pub struct Progress {
    accepted: AtomicU64,
    refused: AtomicU64,
    stop: AtomicBool,
}

impl Progress {
    /// Requests that were answered with success.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Requests that were answered with anything else.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Lets every connection end after the request that it is sending.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Sends over one connection until it is told to stop.
///
/// # Errors
/// When the connection cannot be made or breaks.
pub async fn drive(
    target: SocketAddr,
    protocol: Protocol,
    mut payload: Payload,
    progress: Arc<Progress>,
) -> anyhow::Result<()> {
    let stream = TcpStream::connect(target).await.with_context(|| format!("cannot connect to {target}"))?;
    stream.set_nodelay(true)?;
    match protocol {
        Protocol::Grpc => {
            let (mut send, connection) = http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(1 << 20)
                .max_frame_size(64 << 10)
                .max_send_buf_size(4 << 20)
                .handshake(TokioIo::new(stream))
                .await?;
            tokio::spawn(connection);
            while !progress.stop.load(Ordering::Relaxed) {
                let body = Full::new(payload.next(true));
                let request = Request::builder()
                    .method(Method::POST)
                    .uri(format!("http://{target}{GRPC_PATH}"))
                    .header("content-type", "application/grpc")
                    .header("te", "trailers")
                    .body(body)?;
                send.ready().await?;
                let response = send.send_request(request).await?;
                let in_headers = response.headers().get("grpc-status").cloned();
                let collected = response.into_body().collect().await?;
                let status = in_headers
                    .or_else(|| collected.trailers().and_then(|trailers| trailers.get("grpc-status").cloned()));
                count(&progress, status.is_some_and(|status| status == "0"));
            }
        }
        Protocol::Http => {
            let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            while !progress.stop.load(Ordering::Relaxed) {
                let request: Request<Full<Bytes>> = Request::builder()
                    .method(Method::POST)
                    .uri("/v1/traces")
                    .header("host", target.to_string())
                    .header("content-type", "application/x-protobuf")
                    .body(Full::new(payload.next(false)))?;
                send.ready().await?;
                let response = send.send_request(request).await?;
                let accepted = response.status().is_success();
                response.into_body().collect().await?;
                count(&progress, accepted);
            }
        }
    }
    ensure!(progress.accepted() > 0, "nothing was accepted by {target}");
    Ok(())
}

fn count(progress: &Progress, accepted: bool) {
    let counter = if accepted { &progress.accepted } else { &progress.refused };
    counter.fetch_add(1, Ordering::Relaxed);
}
