//! An end of OTLP: answers every export with success and keeps it, so that a test can read what was sent.
//!
//! Takes gRPC and HTTP with protobuf bodies, as they are or compressed with gzip or zstd. Never: refuses, forgets.

use std::convert::Infallible;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A running end; it stops listening when it is dropped.
#[derive(Debug)]
pub struct Capture {
    /// Where it listens, for both protocols.
    pub address: SocketAddr,
    kept: Arc<Mutex<Vec<Kept>>>,
    serving: JoinHandle<()>,
}

#[derive(Debug)]
struct Kept {
    path: String,
    encoding: Option<String>,
    is_grpc: bool,
    body: Vec<u8>,
}

impl Capture {
    /// Listens on a port of its own.
    ///
    /// # Errors
    /// When loopback cannot be bound.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let kept = Arc::new(Mutex::new(Vec::new()));
        let serving = tokio::spawn(serve(listener, Arc::clone(&kept)));
        Ok(Self { address, kept, serving })
    }

    /// Every metrics export in the order of arrival.
    ///
    /// # Errors
    /// When a body is not what it says it is.
    pub fn metrics(&self) -> Result<Vec<ExportMetricsServiceRequest>> {
        self.decoded("metrics")
    }

    /// Every trace export in the order of arrival.
    ///
    /// # Errors
    /// When a body is not what it says it is.
    pub fn traces(&self) -> Result<Vec<ExportTraceServiceRequest>> {
        self.decoded("trace")
    }

    fn decoded<M: Message + Default>(&self, what: &str) -> Result<Vec<M>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = kept.iter().filter(|kept| kept.path.contains(what));
        wanted.map(|kept| Ok(M::decode(kept.message()?.as_slice())?)).collect()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Kept {
    fn message(&self) -> Result<Vec<u8>> {
        let (is_compressed, body) = if self.is_grpc {
            let (head, body) = self.body.split_at_checked(5).context("a gRPC body without a frame")?;
            (head[0] == 1, body)
        } else {
            (true, self.body.as_slice())
        };
        let mut plain = Vec::new();
        match self.encoding.as_deref().filter(|_| is_compressed) {
            None | Some("identity") => plain.extend_from_slice(body),
            Some("gzip") => {
                flate2::read::GzDecoder::new(body).read_to_end(&mut plain)?;
            }
            Some("zstd") => {
                zstd::Decoder::new(body)?.read_to_end(&mut plain)?;
            }
            Some(other) => bail!("nobody was asked to compress with {other}"),
        }
        Ok(plain)
    }
}

async fn serve(listener: TcpListener, kept: Arc<Mutex<Vec<Kept>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let kept = Arc::clone(&kept);
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| answer(request, Arc::clone(&kept)));
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            // A peer that goes away is the end of its connection and no more.
            let _ended = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

type Frames = futures_util::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>;

async fn answer(
    request: Request<Incoming>,
    kept: Arc<Mutex<Vec<Kept>>>,
) -> Result<Response<StreamBody<Frames>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let is_grpc = text("content-type").is_some_and(|value| value.starts_with("application/grpc"));
    let encoding = text(if is_grpc { "grpc-encoding" } else { "content-encoding" });
    let body = body.collect().await?.to_bytes().to_vec();
    let one = Kept { path: head.uri.path().to_owned(), encoding, is_grpc, body };
    kept.lock().unwrap_or_else(PoisonError::into_inner).push(one);
    let mut frames = Vec::new();
    if is_grpc {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        frames.push(Ok(Frame::data(Bytes::from_static(&[0; 5]))));
        frames.push(Ok(Frame::trailers(trailers)));
    }
    let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)));
    let content_type = if is_grpc { "application/grpc" } else { "application/x-protobuf" };
    response.headers_mut().insert("content-type", HeaderValue::from_static(content_type));
    Ok(response)
}
