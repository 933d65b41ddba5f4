//! A receiver on ports of its own with a consumer that can be told what to do, and clients for it.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mirador_otlp::{Limits, Signal};
use mirador_service::drain::Drain;
use mirador_service::memory::Budget;
use mirador_service::metrics::Registry;
use mirador_transport::receiver::{Config, Receiver, ReceiverMetrics};
use mirador_transport::{Accepted, Consume, Incoming, Kind, Refusal};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tonic::Code;

pub(crate) const TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
pub(crate) const METRICS: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
pub(crate) const LOGS: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_mins(1);

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "it did not come true: {what}");
}

/// Waits for `future`, but not for ever.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let Ok(value) = tokio::time::timeout(PATIENCE, future).await else { panic!("it did not happen: {what}") };
    value
}

/// What the consumer does.
#[derive(Clone)]
pub(crate) enum Behaviour {
    /// Checks the wire form, as the real ones do.
    Parse,
    Accept(Accepted),
    Refuse(Refusal),
    /// Waits for a permit of the rig's gate.
    Hold,
}

/// What the consumer was given.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub(crate) kind: Kind,
    pub(crate) body: Bytes,
    pub(crate) via_agent: Option<String>,
    pub(crate) transport: &'static str,
    pub(crate) paid: usize,
}

pub(crate) struct Consumer {
    behaviour: Mutex<Behaviour>,
    given: Mutex<Vec<Given>>,
    items: Mutex<Option<ReceiverMetrics>>,
    pub(crate) gate: Semaphore,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Consume for Consumer {
    async fn consume(&self, incoming: Incoming) -> Result<Accepted, Refusal> {
        let Incoming { kind, body, via_agent, transport, permit, .. } = incoming;
        let given = Given { kind, body: body.clone(), via_agent, transport, paid: permit.bytes() };
        lock(&self.given).push(given);
        let behaviour = lock(&self.behaviour).clone();
        match behaviour {
            Behaviour::Accept(accepted) => Ok(accepted),
            Behaviour::Refuse(refusal) => Err(refusal),
            Behaviour::Hold => {
                self.gate.acquire().await.expect("the gate stays open").forget();
                Ok(Accepted::default())
            }
            Behaviour::Parse => {
                let Kind::Otlp(signal) = kind else { return Ok(Accepted::default()) };
                let parsed = mirador_otlp::Request::parse(signal, body, &Limits::default());
                let request = parsed.map_err(|error| Refusal {
                    code: Code::InvalidArgument,
                    message: error.to_string(),
                    retry_after: None,
                    reason: "malformed",
                })?;
                if let Some(items) = &*lock(&self.items) {
                    items.accepted(signal, transport, request.items() as u64);
                }
                Ok(Accepted::default())
            }
        }
    }
}

pub(crate) struct Rig {
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) budget: Budget,
    pub(crate) registry: Registry,
    pub(crate) drain: Drain,
    pub(crate) consumer: Arc<Consumer>,
    pub(crate) task: JoinHandle<()>,
}

/// A configuration on free ports with small sizes: 1 MiB messages, 256 KiB bodies.
pub(crate) fn config() -> Config {
    let mut config = Config::default();
    "127.0.0.1:0".clone_into(&mut config.protocols.grpc.endpoint);
    "127.0.0.1:0".clone_into(&mut config.protocols.http.endpoint);
    config.protocols.grpc.max_recv_msg_size_mib = 1;
    config.protocols.http.max_request_body_size = 256 << 10;
    // Enough for every connection, whatever the budget of the test.
    config.connections.connection_memory_mib = Some(64);
    config
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::with(config(), 64 << 20).await
    }

    pub(crate) async fn with(config: Config, budget: usize) -> Self {
        Self::taking(config, budget, &Kind::ALL).await
    }

    pub(crate) async fn taking(config: Config, budget: usize, kinds: &[Kind]) -> Self {
        let (budget, registry) = (Budget::new(budget), Registry::new());
        let drain = Drain::new(Duration::from_secs(30));
        let receiver = Receiver::bind(config, budget.clone(), &registry, drain.clone()).await.expect("ports are free");
        let consumer = Arc::new(Consumer {
            behaviour: Mutex::new(Behaviour::Parse),
            given: Mutex::default(),
            items: Mutex::new(Some(receiver.items())),
            gate: Semaphore::new(0),
        });
        let (grpc, http) = (receiver.grpc_addr(), receiver.http_addr());
        let task = receiver.serve(Arc::clone(&consumer), kinds);
        Self { grpc, http, budget, registry, drain, consumer, task }
    }

    pub(crate) fn behave(&self, behaviour: Behaviour) {
        *lock(&self.consumer.behaviour) = behaviour;
    }

    /// Everything that was handed over since the last call.
    pub(crate) fn given(&self) -> Vec<Given> {
        std::mem::take(&mut *lock(&self.consumer.given))
    }

    pub(crate) fn given_count(&self) -> usize {
        lock(&self.consumer.given).len()
    }

    /// The sum of the series whose name begins with `prefix` and whose labels hold all of `labels`.
    pub(crate) fn count(&self, prefix: &str, labels: &[&str]) -> u64 {
        let page = self.registry.encode();
        let lines =
            page.lines().filter(|line| line.starts_with(prefix) && labels.iter().all(|label| line.contains(label)));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    }

    pub(crate) fn refused(&self, reason: &str) -> u64 {
        self.count("mirador_receiver_refused_total", &[&format!("reason=\"{reason}\"")])
    }

    pub(crate) fn refused_in_all(&self) -> u64 {
        self.count("mirador_receiver_refused_total", &[])
    }

    pub(crate) fn closed(&self, reason: &str) -> u64 {
        self.count("mirador_receiver_connections_closed_total", &[&format!("reason=\"{reason}\"")])
    }

    /// Waits until nothing is held any more.
    pub(crate) async fn settled(&self) {
        until("the budget is free again", || self.budget.used() == 0).await;
        until("nothing is in flight", || self.count("mirador_receiver_in_flight", &[]) == 0).await;
    }
}

/// An HTTP/2 connection.
#[derive(Clone)]
pub(crate) struct H2 {
    sender: SendRequest<Full<Bytes>>,
    address: SocketAddr,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// gRPC: trailers, or the headers of a trailers-only answer.
    pub(crate) trailers: HeaderMap,
}

impl Answer {
    async fn read(response: Response<hyper::body::Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("the answer is whole");
        let trailers = body.trailers().cloned().unwrap_or_else(|| parts.headers.clone());
        Self { status: parts.status.as_u16(), headers: parts.headers, body: body.to_bytes(), trailers }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    pub(crate) fn grpc_status(&self) -> Option<i32> {
        Some(self.trailers.get("grpc-status")?.to_str().ok()?.parse().expect("a number"))
    }

    /// The status that a gRPC client makes of it.
    pub(crate) fn tonic(&self) -> tonic::Status {
        tonic::Status::from_header_map(&self.trailers).expect("it carries a status")
    }

    /// The message of a successful call.
    pub(crate) fn message(&self) -> &[u8] {
        assert_eq!(self.grpc_status(), Some(0), "{self:?}");
        assert_eq!(self.body[0], 0, "answers are not compressed");
        let length = u32::from_be_bytes(self.body[1..5].try_into().expect("a prefix")) as usize;
        assert_eq!(self.body.len(), 5 + length);
        &self.body[5..]
    }

    /// The `google.rpc.Status` of an HTTP error in protobuf.
    pub(crate) fn rpc_status(&self) -> tonic_types::pb::Status {
        assert_eq!(self.header("content-type"), Some("application/x-protobuf"), "{self:?}");
        tonic_types::pb::Status::decode(self.body.clone()).expect("a status")
    }
}

impl H2 {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("it listens");
        stream.set_nodelay(true).expect("a socket option");
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .handshake(TokioIo::new(stream))
            .await
            .expect("it speaks HTTP/2");
        tokio::spawn(async move { drop(connection.await) });
        Self { sender, address }
    }

    pub(crate) async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: Bytes) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).expect("a sound request");
        let response = soon("an answer", self.sender.send_request(request)).await.expect("the connection lives");
        soon("the answer's end", Answer::read(response)).await
    }

    /// A gRPC call with a body that is framed already.
    pub(crate) async fn raw(&mut self, path: &str, headers: &[(&str, &str)], body: Bytes) -> Answer {
        let mut all = vec![("content-type", "application/grpc"), ("te", "trailers")];
        all.extend_from_slice(headers);
        self.send("POST", path, &all, body).await
    }

    /// A sound call.
    pub(crate) async fn export(&mut self, path: &str, message: &[u8]) -> Answer {
        self.raw(path, &[], crate::payload::frame(0, message)).await
    }

    /// Whether the client would send the next call elsewhere.
    pub(crate) async fn sender_is_gone(&mut self) -> bool {
        self.sender.ready().await.is_err()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// An HTTP/1.1 connection, written by hand.
pub(crate) struct H1 {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
}

impl H1 {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("it listens");
        stream.set_nodelay(true).expect("a socket option");
        Self { stream, read: Vec::new() }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the connection lives");
    }

    /// Sends a request with a length, and reads the answer.
    pub(crate) async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let request = head(method, path, headers);
        let mut bytes = format!("{request}content-length: {}\r\n\r\n", body.len()).into_bytes();
        bytes.extend_from_slice(body);
        self.write(&bytes).await;
        self.answer().await
    }

    pub(crate) async fn post(&mut self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut all = vec![("content-type", "application/x-protobuf")];
        all.extend_from_slice(headers);
        self.send("POST", path, &all, body).await
    }

    /// The next answer.
    pub(crate) async fn answer(&mut self) -> Answer {
        soon("an answer", async {
            loop {
                let mut headers = [httparse::EMPTY_HEADER; 32];
                let mut response = httparse::Response::new(&mut headers);
                if let httparse::Status::Complete(start) = response.parse(&self.read).expect("HTTP/1.1") {
                    let status = response.code.expect("a status");
                    let fields: HashMap<_, _> = response
                        .headers
                        .iter()
                        .map(|header| {
                            (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned())
                        })
                        .collect();
                    let length = fields.get("content-length").map_or(0, |length| length.parse().expect("a number"));
                    if self.read.len() >= start + length {
                        let body = Bytes::copy_from_slice(&self.read[start..start + length]);
                        self.read.drain(..start + length);
                        let headers = HeaderMap::try_from(&fields).expect("sound headers");
                        return Answer { status, trailers: headers.clone(), headers, body };
                    }
                }
                assert_ne!(self.stream.read_buf(&mut self.read).await.expect("it lives"), 0, "closed: {:?}", self.read);
            }
        })
        .await
    }

    /// Waits for the peer to close.
    pub(crate) async fn closed(&mut self) {
        let read = soon("the peer closes", async {
            let mut scratch = [0; 1024];
            loop {
                match self.stream.read(&mut scratch).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
            }
        });
        read.await;
    }
}

/// A request line and headers without the empty line.
pub(crate) fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\n");
    for (name, value) in headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    head
}

/// A refusal as consumers make it.
pub(crate) fn refusal(code: Code, retry_after: Option<Duration>) -> Refusal {
    Refusal { code, message: "the test says no".to_owned(), retry_after, reason: "test" }
}

pub(crate) const OTLP_TRACES: Kind = Kind::Otlp(Signal::Traces);
