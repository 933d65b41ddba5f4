//! A server that keeps VictoriaTraces' HTTP contract as strictly as the real one, keeps what the real one
//! would keep, and can be told to fail.
//!
//! Invariants: an insert is taken only at its exact path, with an exact content type and an encoding that
//! the real one knows; every request is recorded; stopping and restarting keeps port and data.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Method, StatusCode};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::super::jaeger::TraceQuery;
use super::super::ports;
use super::fault::{Fault, Plan};
use super::row::{self, Row};
use super::{body, connection};

/// What the store keeps and refuses; the defaults are the flags that the real one is started with here.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Spans that ended longer ago are dropped in silence.
    pub retention: Duration,
    /// Spans that end farther in the future are dropped in silence.
    pub future_retention: Duration,
    /// A larger body, before or after decompression, is answered 400.
    pub request_bytes: usize,
    /// A span with more fields is dropped in silence.
    pub fields: usize,
    /// A span with a longer field name is dropped in silence.
    pub field_name_bytes: usize,
    /// A larger span is dropped in silence.
    pub row_bytes: usize,
    /// Inserts are answered 429, as by a full disk.
    pub read_only: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            retention: Duration::from_hours(10 * 365 * 24),
            future_retention: Duration::from_hours(48),
            request_bytes: 64 * 1024 * 1024,
            fields: 1000,
            field_name_bytes: 128,
            row_bytes: 2 * 1024 * 1024,
            read_only: false,
        }
    }
}

/// An insert request that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its `Content-Type`.
    pub content_type: String,
    /// Its `Content-Encoding`, empty when there was none.
    pub encoding: String,
    /// Its headers `AccountID` and `ProjectID`, empty when there were none.
    pub tenant: (String, String),
    /// The length of its body as it came.
    pub bytes: usize,
    /// How many spans of it are kept.
    pub spans: usize,
    /// How it was answered; `None` when it was not.
    pub status: Option<u16>,
}

/// What the connections share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    limits: Limits,
    plan: Plan,
    rows: Vec<Row>,
    seen: Vec<Seen>,
    dropped: BTreeMap<&'static str, u64>,
}

/// The running stand-in.
#[derive(Debug)]
pub struct StandIn {
    address: SocketAddr,
    url: String,
    query: TraceQuery,
    shared: Arc<Shared>,
    server: Option<tokio::task::JoinHandle<()>>,
}

impl StandIn {
    /// Starts it on a free port.
    pub async fn start() -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()?));
        let url = format!("http://{address}");
        let query = TraceQuery::new(format!("{url}/select/jaeger/api"));
        let mut stand_in = Self { address, url, query, shared: Arc::default(), server: None };
        stand_in.restart().await?;
        Ok(stand_in)
    }

    /// Where it listens: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What it has stored.
    pub fn query(&self) -> &TraceQuery {
        &self.query
    }

    /// Closes the port and every connection; what is stored stays.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(server) = self.server.take() {
            server.abort();
            // The task is gone, and its connections with it, when this returns.
            server.await.ok();
        }
        Ok(())
    }

    /// Listens again on the same port.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        let listener = TcpListener::bind(self.address).await;
        let listener = listener.with_context(|| format!("cannot listen on {}", self.address))?;
        self.server = Some(tokio::spawn(accept(listener, Arc::clone(&self.shared))));
        Ok(())
    }

    /// Every insert meets `fault` until it is told otherwise; `None` ends all faults.
    pub fn fail(&self, fault: Option<Fault>) {
        self.shared.state().plan.always(fault);
    }

    /// The next `times` inserts meet `fault`, before what [`StandIn::fail`] says.
    pub fn fail_next(&self, times: usize, fault: &Fault) {
        self.shared.state().plan.next(times, fault);
    }

    /// Changes what is kept and refused from now on.
    pub fn set_limits(&self, change: impl FnOnce(&mut Limits)) {
        change(&mut self.shared.state().limits);
    }

    /// Every insert that was read, in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.state().seen.clone()
    }

    /// How many spans are kept, those among them that cannot be read back.
    pub fn kept(&self) -> usize {
        self.shared.state().rows.len()
    }

    /// Spans that were dropped behind a 200, by reason.
    pub fn dropped(&self) -> BTreeMap<&'static str, u64> {
        self.shared.state().dropped.clone()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropping the set ends every connection.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(connection::serve(stream, Arc::clone(&shared)));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn next_fault(&self) -> Option<Fault> {
        self.state().plan.take()
    }

    pub(super) fn saw(&self, seen: Seen) {
        self.state().seen.push(seen);
    }

    /// Keeps what the real one would keep of a request and says how many spans that is.
    pub(super) fn insert(
        &self,
        method: &Method,
        content_type: &str,
        encoding: &str,
        body: Bytes,
    ) -> Result<usize, (StatusCode, String)> {
        let bad = |text: String| (StatusCode::BAD_REQUEST, text);
        if method != Method::POST {
            return Err(bad(format!("{method} is not the method of an insert")));
        }
        let is_json = match content_type {
            "application/x-protobuf" => false,
            "application/json" => true,
            other => {
                return Err(bad(format!(
                    "Content-Type {other} isn't supported for opentelemetry format. Use protobuf or JSON encoding"
                )));
            }
        };
        let limits = self.state().limits.clone();
        if limits.read_only {
            return Err((StatusCode::TOO_MANY_REQUESTS, "cannot add rows into storage in read-only mode".into()));
        }
        let reading = |error: String| bad(format!("cannot read OpenTelemetry protocol data: {error}"));
        let body = body::decompress(body, encoding, limits.request_bytes).map_err(reading)?;
        let request = if is_json {
            serde_json::from_slice(&body).map_err(|error| reading(format!("cannot unmarshal json: {error}")))?
        } else {
            ExportTraceServiceRequest::decode(body).map_err(|error| reading(format!("cannot unmarshal: {error}")))?
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        let (kept, dropped) = row::rows(request, now, &limits);
        let count = kept.len();
        let mut state = self.state();
        state.rows.extend(kept);
        for reason in dropped {
            *state.dropped.entry(reason).or_default() += 1;
        }
        Ok(count)
    }

    pub(super) fn services(&self) -> BTreeSet<String> {
        self.state().rows.iter().filter_map(|row| row.service.clone()).collect()
    }

    pub(super) fn trace(&self, id: &str) -> Option<Value> {
        let state = self.state();
        let rows: Vec<_> = state.rows.iter().filter(|row| row.trace_id == id).collect();
        (!rows.is_empty()).then(|| trace(id, &rows))
    }

    pub(super) fn traces(&self, service: &str, limit: usize) -> Vec<Value> {
        let ids: BTreeSet<_> = {
            let state = self.state();
            let of = state.rows.iter().filter(|row| row.service.as_deref() == Some(service));
            of.map(|row| row.trace_id.clone()).collect()
        };
        ids.iter().take(limit).filter_map(|id| self.trace(id)).collect()
    }
}

fn trace(id: &str, rows: &[&Row]) -> Value {
    let mut processes: Vec<Value> = Vec::new();
    let mut spans = Vec::new();
    for row in rows {
        let process = row.process();
        let at = processes.iter().position(|known| *known == process).unwrap_or_else(|| {
            processes.push(process);
            processes.len() - 1
        });
        spans.extend(row.to_json(&format!("p{}", at + 1)));
    }
    let named = processes.into_iter().enumerate().map(|(at, process)| (format!("p{}", at + 1), process));
    json!({"traceID": id, "spans": spans, "processes": Value::Object(named.collect()), "warnings": null})
}
