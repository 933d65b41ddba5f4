//! One connection: HTTP/1.1 or HTTP/2 by its first bytes, every request routed to its protocol, watched
//! until it ends.
//!
//! Never: outlives its drain guard; ends without a reason that is counted.

use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use mirador_service::drain::Drain;
use mirador_service::memory::{Budget, Permit};
use mirador_service::tls::Acceptor;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::activity::{Activity, Due, Lifetime};
use super::body::BodyReader;
use super::config::{BodyConfig, GrpcConfig};
use super::cors::Cors;
use super::fault::Fault;
use super::metrics::{ConnectionMeter, Meters, Transport};
use super::reply::Reply;
use super::socket::{Socket, Stream};
use super::windows::Window;
use super::{grpc, http as otlp_http};
use crate::{AGENT_HEADER, Accepted, Caller, Consume, Gate, Incoming as Admitted, Kind};

/// The read buffer of an HTTP/1.1 connection at most; two of them come out of the connection's window.
const MAX_HTTP1_BUFFER: usize = 256 << 10;
/// The smallest limit that HTTP/2 knows for frames (RFC 9113 §6.5.2).
const MIN_FRAME: u32 = 16 << 10;
/// Answers that wait for a peer to read them, per stream.
const SEND_BUFFER: usize = 64 << 10;

/// What all connections share.
pub(super) struct Shared<C> {
    pub(super) consume: Arc<C>,
    pub(super) kinds: Vec<Kind>,
    pub(super) budget: Budget,
    pub(super) meters: Arc<Meters>,
    pub(super) grpc: GrpcConfig,
    pub(super) body: BodyConfig,
    pub(super) cors: Option<Cors>,
    pub(super) drain: Drain,
    /// Bytes of a gRPC message at most.
    pub(super) grpc_limit: usize,
    /// Bytes of an HTTP body at most.
    pub(super) http_limit: usize,
}

impl<C> Shared<C> {
    /// Whether this process takes such requests.
    pub(super) fn takes(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }
}

/// What the requests of one connection share.
pub(super) struct Connection<C> {
    pub(super) shared: Arc<Shared<C>>,
    peer: SocketAddr,
    caller: Option<Caller>,
    activity: Arc<Activity>,
}

impl<C: Consume> Connection<C> {
    async fn answer(&self, request: Request<Incoming>) -> Response<Reply> {
        if grpc::is_grpc(&request) {
            grpc::export(self, request).await
        } else {
            // Boxed, so that no call is moved about with room for what only plain HTTP needs.
            Box::pin(otlp_http::export(self, request)).await
        }
    }

    /// Gives an admitted request to the consumer and waits until it is settled.
    pub(super) async fn hand_over(
        &self,
        kind: Kind,
        body: Bytes,
        via_agent: Option<String>,
        transport: Transport,
        permit: Permit,
    ) -> Result<Accepted, Fault> {
        let transport = transport.as_str();
        let caller = self.caller.clone();
        let admitted = Admitted { kind, body, peer: self.peer, caller, via_agent, transport, permit };
        self.shared.consume.consume(admitted).await.map_err(Fault::from)
    }

    /// Answers although the body was not read: lets it run out when it is short, or gives it up.
    pub(super) async fn abandon(
        &self,
        reader: BodyReader<'_>,
        version: Version,
        response: Response<Reply>,
    ) -> Response<Reply> {
        // Boxed: a call that is taken has no use for the room.
        if Box::pin(reader.drain()).await { response } else { self.cut_off(version, response) }
    }

    /// Answers and ends the connection when the rest of the body would be taken for the next request.
    pub(super) fn cut_off(&self, version: Version, mut response: Response<Reply>) -> Response<Reply> {
        if version != Version::HTTP_2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            self.activity.set_linger();
        }
        response
    }
}

/// The agent that forwarded a request.
pub(super) fn via_agent(headers: &HeaderMap) -> Option<String> {
    headers.get(AGENT_HEADER).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// An accepted connection.
pub(super) struct Client {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) gate: Option<Arc<dyn Gate>>,
    pub(super) tls: Option<Arc<Acceptor>>,
}

impl Client {
    /// What the gate and the handshake leave to be served, or why nothing is left. Neither the gate nor a
    /// peer that is slow to shake hands holds a drain up.
    async fn admitted(self, drain: &Drain, patience: Duration) -> Result<(Stream, Option<Caller>), &'static str> {
        let Self { stream, peer, gate, tls } = self;
        let admitted = async {
            let (stream, caller) = match gate {
                Some(gate) => gate.admit(stream, peer).await.ok_or("gate")?,
                None => (stream, None),
            };
            let Some(tls) = tls else { return Ok((Stream::Plain(stream), caller)) };
            let handshake = TlsAcceptor::from(tls.config()).accept(stream);
            match tokio::time::timeout(patience, handshake).await {
                Ok(Ok(stream)) => Ok((Stream::Tls(Box::new(stream)), caller)),
                Ok(Err(error)) => {
                    tracing::debug!(%peer, %error, "no TLS handshake");
                    Err("tls_handshake")
                }
                Err(_) => Err("tls_handshake"),
            }
        };
        tokio::select! {
            biased;
            admitted = admitted => admitted,
            () = drain.started() => Err("drain"),
        }
    }
}

/// Serves `client` until it ends; `meter` counts why.
pub(super) async fn serve<C: Consume>(
    shared: Arc<Shared<C>>,
    client: Client,
    lifetime: Lifetime,
    window: Window,
    mut meter: ConnectionMeter,
) {
    let _in_flight = shared.drain.guard();
    let drain = shared.drain.clone();
    let peer = client.peer;
    let (stream, caller) = match client.admitted(&drain, lifetime.header).await {
        Ok(admitted) => admitted,
        Err(reason) => {
            meter.reason = reason;
            return;
        }
    };
    let activity = Activity::new();
    let builder = builder(&shared.grpc, window.bytes());
    let connection = Arc::new(Connection { shared, peer, caller, activity: Arc::clone(&activity) });
    let service = service_fn(move |request: Request<Incoming>| {
        let active = connection.activity.request();
        let connection = Arc::clone(&connection);
        async move {
            let response = connection.answer(request).await;
            drop(active);
            Ok::<_, Infallible>(response)
        }
    });
    let socket = TokioIo::new(Socket::new(stream, Arc::clone(&activity)));
    let mut serving = pin!(builder.serve_connection(socket, service));
    let mut draining = pin!(drain.started());
    let mut timer = pin!(tokio::time::sleep_until(Instant::now() + lifetime.header));
    // Once it was asked to go: why, and when it is dropped.
    let mut ending: Option<(&'static str, Option<Instant>)> = None;
    let ended = poll_fn(|cx| {
        if ending.is_none() && draining.as_mut().poll(cx).is_ready() {
            ending = Some(("drain", None));
            serving.as_mut().graceful_shutdown();
        }
        loop {
            if let Poll::Ready(result) = serving.as_mut().poll(cx) {
                return Poll::Ready(ending.map_or_else(|| why(&result), |(reason, _)| reason));
            }
            if let Some(("drain", limit @ None)) = &mut ending {
                *limit = activity.drains_until(Instant::now());
            }
            let due = match ending {
                Some((reason, at)) => at.map(|at| (at, Due::Close(reason))),
                None => lifetime.due(&activity),
            };
            let Some((at, due)) = due else { return Poll::Pending };
            // The timer may fire too early, never too late: it is not moved for every request.
            if timer.deadline() > at {
                timer.as_mut().reset(at);
            }
            while timer.as_mut().poll(cx).is_ready() && timer.deadline() < at {
                timer.as_mut().reset(at);
            }
            if !timer.is_elapsed() {
                return Poll::Pending;
            }
            match due {
                Due::Close(reason) => return Poll::Ready(reason),
                Due::Shutdown(reason, grace) => {
                    ending = Some((reason, Some(Instant::now() + grace)));
                    serving.as_mut().graceful_shutdown();
                }
            }
        }
    });
    meter.reason = ended.await;
}

/// The settings of one connection; `window` is what its peer may send ahead.
fn builder(config: &GrpcConfig, window: u32) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    // One is read into while a piece of the one before is on its way to the request.
    let http1_buffer = (window as usize / 2).min(MAX_HTTP1_BUFFER);
    // Headers and idle connections are timed by `Lifetime`, which can tell the two apart.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(http1_buffer);
    let parameters = &config.keepalive.server_parameters;
    let http2 = &config.http2;
    let interval = (!parameters.time.is_zero()).then_some(parameters.time);
    builder
        .http2()
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .initial_connection_window_size(window)
        .initial_stream_window_size(window.min(http2.stream_window))
        .max_frame_size(http2.max_frame_size.min((window / 4).max(MIN_FRAME)))
        .max_concurrent_streams(config.max_concurrent_streams)
        .max_header_list_size(http2.max_header_list_size)
        .max_pending_accept_reset_streams(http2.max_pending_reset_streams)
        .max_local_error_reset_streams(http2.max_local_error_resets)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(interval)
        .keep_alive_timeout(parameters.timeout);
    builder
}

/// Why a connection ended that was not asked to.
fn why(result: &Result<(), Box<dyn Error + Send + Sync>>) -> &'static str {
    let Err(error) = result else { return "client" };
    let mut cause: Option<&(dyn Error + 'static)> = Some(&**error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return match error.reason() {
                Some(h2::Reason::ENHANCE_YOUR_CALM) => "stream_churn",
                Some(h2::Reason::NO_ERROR | h2::Reason::CANCEL) | None => "client",
                Some(_) => "protocol",
            };
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            if error.is_parse() {
                return "protocol";
            }
            if error.is_timeout() {
                return "keepalive_timeout";
            }
        }
        cause = error.source();
    }
    "client"
}
