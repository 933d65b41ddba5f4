//! The OTLP receiver of both processes: OTLP/gRPC, OTLP/HTTP and RED deltas in, admitted protobuf out.
//!
//! Two ports, one server: each connection is HTTP/1.1 or HTTP/2 by its first bytes, and both protocols
//! are answered on both ports. A request takes a permit from the byte budget before its body is read;
//! when the budget is exhausted it is refused at once with a retry hint. What is read is decompressed
//! within the limits and handed to a [`Consume`]; the answer is sent when that has settled it.
//!
//! Invariants:
//! - what a request holds is paid for ([`mirador_service::memory`]); what a peer can send ahead of a
//!   permit comes out of one fixed amount (`connections.connection_memory_mib`);
//! - every request ends in one outcome, every refusal and loss has one reason;
//! - a request is handed over at most once, whole, and never after its connection broke;
//! - draining stops accepting first, tells HTTP/2 peers to go, and finishes what is in flight.
//!
//! Never: parses telemetry, retries, queues.
//!
//! What a full process does: a connection above `max_connections` is accepted and closed at once and
//! counted, so that its client sees an error now and can go elsewhere.

mod activity;
mod body;
mod buffer;
pub mod config;
mod connection;
mod cors;
mod decompress;
mod fault;
mod grpc;
mod http;
mod json;
mod listener;
mod metrics;
mod reply;
mod socket;
mod spread;
mod threads;
mod windows;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use mirador_service::drain::Drain;
use mirador_service::memory::Budget;
use mirador_service::metrics::Registry;
use mirador_service::tls::{Acceptor, ServerTls, TlsError};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

pub use self::config::Config;
use self::connection::Shared;
use self::cors::Cors;
use self::listener::Listener;
use self::metrics::Meters;
pub use self::metrics::ReceiverMetrics;
use self::spread::Balance;
use self::threads::Lane;
pub use self::threads::Pulse;
use self::windows::Windows;
use crate::{Consume, Gate, Kind};

/// A receiver that could not be started.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The configuration cannot work; one sentence per problem.
    #[error("{}", .0.join("\n"))]
    Config(Vec<String>),
    /// The TLS files could be read a moment ago and now they cannot.
    #[error("protocols.{protocol}.tls.{source}")]
    Tls {
        /// `grpc` or `http`.
        protocol: &'static str,
        /// Which key, and what is wrong with it.
        source: TlsError,
    },
    /// The address cannot be listened on.
    #[error("protocols.{protocol}.endpoint: {endpoint}: cannot listen, free the port or choose another")]
    Listen {
        /// `grpc` or `http`.
        protocol: &'static str,
        /// As configured.
        endpoint: String,
        /// What the system says.
        source: io::Error,
    },
}

/// A receiver whose ports are open and whose requests wait for [`Receiver::serve`].
#[derive(Debug)]
pub struct Receiver {
    config: Config,
    budget: Budget,
    drain: Drain,
    meters: Arc<Meters>,
    items: ReceiverMetrics,
    grpc: (Vec<TcpListener>, SocketAddr),
    http: (Vec<TcpListener>, SocketAddr),
    pulse: Pulse,
    gate: Option<Arc<dyn Gate>>,
    /// TLS of gRPC and of HTTP.
    tls: [Option<Arc<Acceptor>>; 2],
}

impl Receiver {
    /// Opens both ports. Connections are accepted by the kernel from now on and served by
    /// [`Self::serve`].
    pub async fn bind(config: Config, budget: Budget, registry: &Registry, drain: Drain) -> Result<Self, BindError> {
        let problems = config.problems("receiver");
        if !problems.is_empty() {
            return Err(BindError::Config(problems));
        }
        let tls = [("grpc", &config.protocols.grpc.tls), ("http", &config.protocols.http.tls)];
        let [grpc_tls, http_tls] = tls.map(|(protocol, tls)| acceptor(protocol, tls.as_ref()));
        let tls = [grpc_tls?, http_tls?];
        let threads = config.spread.threads;
        let grpc = listen("grpc", &config.protocols.grpc.endpoint, threads).await?;
        let http = listen("http", &config.protocols.http.endpoint, threads).await?;
        let (meters, items) = Meters::register(registry);
        let pulse = Pulse::new(threads);
        Ok(Self { config, budget, drain, meters, items, grpc, http, pulse, gate: None, tls })
    }

    /// Where gRPC is.
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc.1
    }

    /// Where HTTP is.
    pub fn http_addr(&self) -> SocketAddr {
        self.http.1
    }

    /// The listening sockets, gRPC first; of those that share a port the first one, which closes when the
    /// others do.
    pub fn listeners(&self) -> [&TcpListener; 2] {
        [&self.grpc.0[0], &self.http.0[0]]
    }

    /// Whether what accepts connections still turns.
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Lets `gate` see every connection before its first byte is read.
    pub fn set_gate(&mut self, gate: Arc<dyn Gate>) {
        self.gate = Some(gate);
    }

    /// The `otelcol_receiver_*` item counters, for the consumer to report to: it knows the items.
    pub fn items(&self) -> ReceiverMetrics {
        self.items.clone()
    }

    /// Serves requests of `kinds` until the drain has begun and the last connection is closed; other
    /// kinds are answered `UNIMPLEMENTED` and 404.
    pub fn serve<C: Consume>(self, consume: Arc<C>, kinds: &[Kind]) -> JoinHandle<()> {
        let Self { config, budget, drain, meters, grpc, http, pulse, gate, tls, .. } = self;
        let limit = budget.limit();
        let memory = match config.connections.connection_memory_mib {
            Some(mib) => mib.saturating_mul(1 << 20),
            None => limit as u64 / 4,
        };
        let windows = Windows::new(memory, 2 * config.connections.max_connections as u64);
        tracing::info!(
            grpc = %grpc.1,
            http = %http.1,
            connections = windows.slots(),
            connection_memory = memory,
            threads = config.spread.threads,
            "receiver is listening"
        );
        let protocols = &config.protocols;
        let parameters = &protocols.grpc.keepalive.server_parameters;
        let max_connections = config.connections.max_connections;
        let [grpc_tls, http_tls] = tls;
        let count = grpc.0.len();
        let balance = Balance::new((0..config.spread.threads).map(|index| meters.held(index)).collect());
        let port = |name, sockets: Vec<TcpListener>, idle, tls: Option<Arc<Acceptor>>| {
            let slots = Arc::new(Semaphore::new(max_connections));
            let lanes: Vec<Option<Lane>> = match count {
                1 => vec![None],
                _ => Lane::all(&balance, count).into_iter().map(Some).collect(),
            };
            let lifetime = activity::Lifetime {
                idle,
                header: protocols.http.read_header_timeout,
                age: parameters.max_connection_age,
                age_grace: parameters.max_connection_age_grace,
            };
            let listener = |(socket, lane)| Listener {
                tls: tls.clone(),
                name,
                socket,
                windows: Arc::clone(&windows),
                max_connections,
                gate: gate.clone(),
                lifetime: lifetime.clone(),
                slots: Arc::clone(&slots),
                lane,
            };
            sockets.into_iter().zip(lanes).map(listener).collect::<Vec<_>>()
        };
        let grpc = port("grpc", grpc.0, parameters.max_connection_idle, grpc_tls);
        let http = port("http", http.0, protocols.http.idle_timeout, http_tls);
        let pairs: Vec<[Listener; 2]> = grpc.into_iter().zip(http).map(|(grpc, http)| [grpc, http]).collect();
        let bytes = |configured: u64| usize::try_from(configured).unwrap_or(usize::MAX).min(limit);
        let shared = Arc::new(Shared {
            consume,
            kinds: kinds.to_vec(),
            budget,
            meters,
            grpc_limit: bytes(protocols.grpc.max_recv_msg_size_mib.saturating_mul(1 << 20)),
            http_limit: bytes(protocols.http.max_request_body_size),
            cors: Cors::new(&protocols.http.cors),
            grpc: config.protocols.grpc,
            body: config.body,
            drain,
        });
        if count > 1 {
            return tokio::spawn(threads::serve(pairs, shared, pulse));
        }
        tokio::spawn(async move {
            for [grpc, http] in pairs {
                tokio::join!(grpc.run(Arc::clone(&shared)), http.run(Arc::clone(&shared)));
            }
        })
    }
}

fn acceptor(protocol: &'static str, tls: Option<&ServerTls>) -> Result<Option<Arc<Acceptor>>, BindError> {
    let made = tls.map(|tls| Acceptor::new(tls.clone()).map(Arc::new)).transpose();
    made.map_err(|source| BindError::Tls { protocol, source })
}

async fn listen(
    protocol: &'static str,
    endpoint: &str,
    threads: usize,
) -> Result<(Vec<TcpListener>, SocketAddr), BindError> {
    let failed = |source| BindError::Listen { protocol, endpoint: endpoint.to_owned(), source };
    let sockets = spread::listen(endpoint, threads.max(1)).await.map_err(failed)?;
    let address = sockets[0].local_addr().map_err(failed)?;
    Ok((sockets, address))
}
