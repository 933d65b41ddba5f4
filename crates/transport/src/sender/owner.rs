//! One owner: whether it can take a part, and one attempt to give it one.
//!
//! Invariants: what is in flight is bounded in bytes and in requests and is given back when the slot is
//! dropped; an owner that has left takes nothing new and is never dialled again, what it holds may finish.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use h2::client::SendRequest;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE, USER_AGENT};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri, Version};
use mirador_otlp::Signal;
use tokio::sync::watch;
use tokio::time::Instant;

use super::answer::{self, Answer};
use super::config::{Config, QueueConfig};
use super::frame::{Data, Message};
use super::metrics::OwnerMetrics;
use super::status::Failure;
use crate::{AGENT_HEADER, Kind};

/// The longest time for which an owner's own hint keeps new requests away from it.
const MAX_PAUSE: Duration = Duration::from_secs(5);

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The connection to an owner.
#[derive(Debug, Clone)]
pub(super) enum Link {
    /// Being opened: requests wait for it.
    Connecting,
    /// Open.
    Up(SendRequest<Data>),
    /// Could not be opened; probed again at `until`.
    Down { until: Instant, why: Arc<str> },
    /// The owner is no member any more.
    Left,
}

/// Why an owner takes nothing just now.
#[derive(Debug, Clone)]
pub(super) enum Busy {
    Down { wait: Duration, why: Arc<str> },
    Paused { wait: Duration },
    Full,
    Left,
}

/// One member of the ring.
#[derive(Debug)]
pub(super) struct Owner {
    name: String,
    authority: Authority,
    uris: [Uri; 4],
    /// Of every request, with the time-out that nearly all have.
    headers: HeaderMap,
    timeout: Tenths,
    encoding: Option<&'static str>,
    queue: QueueConfig,
    link: watch::Sender<Link>,
    in_flight_bytes: AtomicU64,
    in_flight_requests: AtomicU64,
    origin: Instant,
    /// Milliseconds after `origin` until which the owner asked to be left alone; 0 is never.
    paused_until: AtomicU64,
    /// Milliseconds after `origin` at which the owner last answered anything.
    heard: AtomicU64,
    /// Whether the present connection has carried an answer; only then is its loss no failed connect.
    proven: AtomicBool,
    metrics: OwnerMetrics,
}

/// Room that is taken in an owner's bounded flight until it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    owner: Arc<Owner>,
    bytes: u64,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.owner.in_flight_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        self.owner.in_flight_requests.fetch_sub(1, Ordering::AcqRel);
        self.owner.metrics.queue_bytes.dec_by(self.bytes as i64);
        self.owner.metrics.queue_requests.dec();
    }
}

impl Owner {
    pub(super) fn new(
        name: String,
        authority: Authority,
        config: &Config,
        agent_id: Option<&str>,
        metrics: OwnerMetrics,
    ) -> Self {
        let uris = Kind::ALL.map(|kind| export_uri(&authority, kind, config.scheme()));
        let timeout = Tenths::of(config.timeout);
        let mut headers = headers(config, agent_id);
        headers.insert(GRPC_TIMEOUT, timeout.header());
        Self {
            name,
            authority,
            uris,
            headers,
            timeout,
            encoding: config.compression.encoding(),
            queue: config.sending_queue.clone(),
            link: watch::Sender::new(Link::Connecting),
            in_flight_bytes: AtomicU64::new(0),
            in_flight_requests: AtomicU64::new(0),
            origin: Instant::now(),
            paused_until: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            proven: AtomicBool::new(false),
            metrics,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Takes room for a part, or says why there is none. Nothing is sent.
    pub(super) fn admit(self: &Arc<Self>, bytes: usize) -> Result<Slot, Busy> {
        let now = Instant::now();
        match &*self.link.borrow() {
            Link::Left => return Err(Busy::Left),
            Link::Down { until, why } => {
                return Err(Busy::Down { wait: until.saturating_duration_since(now), why: Arc::clone(why) });
            }
            Link::Connecting | Link::Up(_) => {}
        }
        if let Some(wait) = self.pause_left(now) {
            return Err(Busy::Paused { wait });
        }
        self.take(bytes as u64).ok_or(Busy::Full)
    }

    fn take(self: &Arc<Self>, bytes: u64) -> Option<Slot> {
        let requests = self.in_flight_requests.fetch_add(1, Ordering::AcqRel);
        let before = self.in_flight_bytes.fetch_add(bytes, Ordering::AcqRel);
        self.metrics.queue_bytes.inc_by(bytes as i64);
        self.metrics.queue_requests.inc();
        let slot = Slot { owner: Arc::clone(self), bytes };
        let fits = requests < self.queue.queue_size_requests
            && (before == 0 || before.saturating_add(bytes) <= self.queue.queue_size_bytes);
        fits.then_some(slot)
    }

    fn pause_left(&self, now: Instant) -> Option<Duration> {
        let until = self.paused_until.load(Ordering::Acquire);
        if until == 0 {
            return None;
        }
        let left = (self.origin + Duration::from_millis(until)).saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Keeps new requests away for as long as the owner asked for (at most [`MAX_PAUSE`]).
    pub(super) fn pause(&self, wait: Duration) {
        let until = Instant::now() + wait.min(MAX_PAUSE);
        let millis = until.saturating_duration_since(self.origin).as_millis() as u64;
        self.paused_until.fetch_max(millis, Ordering::AcqRel);
    }

    /// One attempt, settled before `limit`.
    pub(super) async fn call(&self, kind: Kind, message: &Message, limit: Instant) -> Result<Answer, Failure> {
        let started = Instant::now();
        let outcome = match tokio::time::timeout_at(limit, self.exchange(kind, message, limit, started)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::transport(tonic::Code::DeadlineExceeded, "no answer in time")),
        };
        let ended = Instant::now();
        if outcome.as_ref().map_or_else(|failure| failure.answered, |_| true) {
            self.proven.store(true, Ordering::Release);
            self.heard.store(ended.saturating_duration_since(self.origin).as_millis() as u64, Ordering::Relaxed);
        }
        self.metrics.observe(ended.saturating_duration_since(started), outcome.is_ok());
        outcome
    }

    async fn exchange(
        &self,
        kind: Kind,
        message: &Message,
        limit: Instant,
        started: Instant,
    ) -> Result<Answer, Failure> {
        let open = settled(&self.link.borrow());
        let mut waited = open.is_none();
        let mut sender = match open {
            Some(open) => open?,
            None => self.connected().await?,
        };
        let ready = poll_fn(|cx| {
            let ready = sender.poll_ready(cx);
            waited |= ready.is_pending();
            ready
        });
        ready.await.map_err(|error| broken(&error))?;
        let now = if waited { Instant::now() } else { started };
        let request = self.request(kind, message, limit, now);
        let (response, mut body) = sender.send_request(request, false).map_err(|error| broken(&error))?;
        drop(sender);
        // Waits for no window: what is held back there is this very message, which is held here anyway.
        body.send_data(message.to_data(), true).map_err(|error| broken(&error))?;
        drop(body);
        // Dropped before it is ready, it resets the stream.
        let response = response.await.map_err(|error| broken(&error))?;
        answer::read(kind, response).await
    }

    /// The connection once it is open.
    async fn connected(&self) -> Result<SendRequest<Data>, Failure> {
        let mut watch = self.link.subscribe();
        match watch.wait_for(|link| settled(link).is_some()).await {
            Ok(link) => settled(&link).unwrap_or_else(|| Err(unavailable("the connection is being opened"))),
            Err(_) => Err(unavailable("the destination was shut down")),
        }
    }

    fn request(&self, kind: Kind, message: &Message, limit: Instant, now: Instant) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        request.uri_mut().clone_from(&self.uris[index(kind)]);
        let headers = request.headers_mut();
        headers.clone_from(&self.headers);
        if let (true, Some(encoding)) = (message.is_compressed(), self.encoding) {
            headers.insert("grpc-encoding", HeaderValue::from_static(encoding));
        }
        let timeout = Tenths::of(limit.saturating_duration_since(now));
        if timeout != self.timeout {
            headers.insert(GRPC_TIMEOUT, timeout.header());
        }
        request
    }

    /// Publishes a new state of the connection; an owner that has left stays so.
    pub(super) fn publish(&self, next: Link) {
        if matches!(next, Link::Up(_)) {
            self.proven.store(false, Ordering::Release);
        }
        self.link.send_modify(|link| {
            if !matches!(link, Link::Left) {
                self.metrics.up.set(i64::from(matches!(next, Link::Up(_))));
                *link = next;
            }
        });
    }

    /// When the owner last answered anything.
    pub(super) fn heard(&self) -> Instant {
        self.origin + Duration::from_millis(self.heard.load(Ordering::Relaxed))
    }

    /// Whether the present connection has ever carried an answer.
    pub(super) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Acquire)
    }

    /// Makes the owner leave: what waits for it is placed again.
    pub(super) fn leave(&self) {
        self.publish(Link::Left);
        self.metrics.forget();
    }

    /// As [`Owner::leave`] when the same member goes on at another address: its gauges are the successor's.
    pub(super) fn leave_to_successor(&self) {
        self.link.send_modify(|link| *link = Link::Left);
    }

    pub(super) fn has_left(&self) -> bool {
        matches!(*self.link.borrow(), Link::Left)
    }

    /// Whether the connection is open.
    pub(super) fn is_up(&self) -> bool {
        matches!(*self.link.borrow(), Link::Up(_))
    }

    /// Returns once the owner has left.
    pub(super) async fn left(&self) {
        let mut watch = self.link.subscribe();
        // An error means that the sender is gone, which `self` rules out.
        drop(watch.wait_for(|link| matches!(link, Link::Left)).await);
    }
}

fn settled(link: &Link) -> Option<Result<SendRequest<Data>, Failure>> {
    match link {
        Link::Connecting => None,
        Link::Up(sender) => Some(Ok(sender.clone())),
        Link::Down { why, .. } => Some(Err(unavailable(why))),
        Link::Left => Some(Err(unavailable("the owner has left the ring"))),
    }
}

fn unavailable(why: &str) -> Failure {
    Failure::transport(tonic::Code::Unavailable, why)
}

fn broken(error: &h2::Error) -> Failure {
    Failure::transport(tonic::Code::Unavailable, format!("connection: {error}"))
}

/// The time that is left for an answer, rounded up to tenths of seconds: nearly every request has the same
/// one, which then costs HPACK a byte. An owner that goes on for a tenth too long is cut off by the reset of
/// its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tenths(u128);

impl Tenths {
    fn of(left: Duration) -> Self {
        Self(left.as_millis().div_ceil(100).max(1))
    }

    fn header(self) -> HeaderValue {
        HeaderValue::try_from(format!("{}m", self.0 * 100)).expect("digits and a letter are a header's value")
    }
}

/// The position of a kind in [`Kind::ALL`].
fn index(kind: Kind) -> usize {
    match kind {
        Kind::Otlp(Signal::Traces) => 0,
        Kind::Otlp(Signal::Metrics) => 1,
        Kind::Otlp(Signal::Logs) => 2,
        Kind::Red => 3,
    }
}

fn export_uri(authority: &Authority, kind: Kind, scheme: Scheme) -> Uri {
    let path = PathAndQuery::from_static(match kind {
        Kind::Otlp(Signal::Traces) => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        Kind::Otlp(Signal::Metrics) => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        Kind::Otlp(Signal::Logs) => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        Kind::Red => mirador_proto::PATH_RED,
    });
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(scheme);
    parts.authority = Some(authority.clone());
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).expect("scheme, authority and path are all set")
}

fn headers(config: &Config, agent_id: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("mirador/", env!("CARGO_PKG_VERSION"))));
    if let Some(Ok(id)) = agent_id.map(HeaderValue::try_from) {
        headers.insert(AGENT_HEADER, id);
    }
    for (name, value) in &config.headers {
        if let (Ok(name), Ok(mut value)) = (HeaderName::try_from(name), HeaderValue::try_from(value.reveal())) {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mirador_service::metrics::Registry;

    use super::super::config::Compression;
    use super::super::metrics::Metrics;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_owner_is_told_the_time_that_is_left_when_the_connection_is_there() {
        let metrics = Metrics::register(&Registry::new()).destination("traces", "static");
        let authority = Authority::from_static("central:4317");
        let owner = Owner::new("central".to_owned(), authority, &Config::default(), None, metrics.owner("central"));
        let limit = Instant::now() + Duration::from_secs(5);
        let message = Message::new(Bytes::from_static(b"x"), Compression::None);
        let kind = Kind::Otlp(Signal::Traces);
        let told = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let (near, far) = tokio::io::duplex(64 << 10);
            let client = h2::client::Builder::new().handshake::<_, Data>(near);
            let (sender, connection) = client.await.expect("a connection");
            tokio::spawn(connection);
            owner.publish(Link::Up(sender));
            let mut server = h2::server::handshake(far).await.expect("a connection");
            let (request, _respond) = server.accept().await.expect("a call").expect("a call");
            request.headers()[GRPC_TIMEOUT].clone()
        };
        let told = tokio::select! {
            answered = owner.call(kind, &message, limit) => panic!("nobody answers: {answered:?}"),
            told = told => told,
        };
        assert_eq!(told, "3000m");
    }
}
