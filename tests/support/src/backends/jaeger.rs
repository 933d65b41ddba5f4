//! Jaeger all-in-one on loopback: a trace store that takes OTLP over gRPC and HTTP and can be queried.
//!
//! In memory it keeps a span that is sent twice twice, which is what a test of "exactly once" needs; on
//! disk (badger) it survives a restart, and a span sent twice overwrites itself. It acknowledges before it
//! writes: before it is stopped, what it was sent has to be found in it.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Context as _, Result};
use reqwest::Client;
use serde_json::Value;
use tempfile::TempDir;

use super::server::{Ready, Server, Spec};
use super::{client, ports};

/// A running Jaeger; stop, kill and restart are [`Server`]'s.
#[derive(Debug)]
pub struct Jaeger {
    server: Server,
    grpc: u16,
    http: u16,
    query: TraceQuery,
    data: Option<TempDir>,
}

/// The ports that somebody talks to.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// OTLP/gRPC.
    pub grpc: u16,
    /// OTLP/HTTP.
    pub http: u16,
    /// The query API and the page.
    pub query: u16,
}

impl Ports {
    /// Three that are free.
    pub fn free() -> Result<Self> {
        Ok(Self { grpc: ports::free()?, http: ports::free()?, query: ports::free()? })
    }
}

const MEMORY: &[(&str, &str)] = &[("SPAN_STORAGE_TYPE", "memory")];
const DISK: &[(&str, &str)] = &[
    ("SPAN_STORAGE_TYPE", "badger"),
    ("BADGER_EPHEMERAL", "false"),
    ("BADGER_CONSISTENCY", "true"),
    ("BADGER_SPAN_STORE_TTL", "720h"),
];

/// What it listens on besides has no use here, but must neither clash nor leave loopback.
const UNUSED: [&str; 7] = [
    "collector.grpc-server.host-port",
    "collector.http-server.host-port",
    "query.grpc-server.host-port",
    "http-server.host-port",
    "processor.jaeger-binary.server-host-port",
    "processor.jaeger-compact.server-host-port",
    "processor.zipkin-compact.server-host-port",
];

impl Jaeger {
    /// Installs it when needed and starts it with its traces in memory.
    pub async fn start() -> Result<Self> {
        Self::temporary(MEMORY).await
    }

    /// Like [`Jaeger::start`] with its traces on disk.
    pub async fn start_on_disk() -> Result<Self> {
        Self::temporary(DISK).await
    }

    /// Starts it on these ports with its traces in `folder`, which stays.
    pub async fn open(folder: &Path, ports: Ports) -> Result<Self> {
        Self::with(ports, DISK, folder).await
    }

    async fn temporary(storage: &[(&str, &str)]) -> Result<Self> {
        let data = tempfile::Builder::new().prefix("mirador-jaeger-").tempdir()?;
        let mut started = Self::with(Ports::free()?, storage, data.path()).await?;
        started.data = Some(data);
        Ok(started)
    }

    async fn with(Ports { grpc, http, query }: Ports, storage: &[(&str, &str)], folder: &Path) -> Result<Self> {
        let program = super::install_blocking("jaeger").await?;
        let admin = ports::free()?;
        let mut env: Vec<(String, String)> = storage.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        env.extend([
            ("COLLECTOR_OTLP_ENABLED".into(), "true".into()),
            ("BADGER_DIRECTORY_KEY".into(), folder.join("key").display().to_string()),
            ("BADGER_DIRECTORY_VALUE".into(), folder.join("value").display().to_string()),
        ]);
        let mut args = vec![
            format!("--collector.otlp.grpc.host-port=127.0.0.1:{grpc}"),
            format!("--collector.otlp.http.host-port=127.0.0.1:{http}"),
            format!("--query.http-server.host-port=127.0.0.1:{query}"),
            format!("--admin.http.host-port=127.0.0.1:{admin}"),
            // It acknowledges a span that waits to be written, and drops one that finds no room to wait.
            "--collector.queue-size=100000".to_owned(),
        ];
        for unused in UNUSED {
            args.push(format!("--{unused}=127.0.0.1:{}", ports::free()?));
        }
        let server = Server::start(Spec {
            name: "jaeger".into(),
            program,
            args,
            env,
            folder: folder.into(),
            ready: Ready::Http(format!("http://127.0.0.1:{admin}/")),
        })
        .await?;
        let query = TraceQuery::new(format!("http://127.0.0.1:{query}/api"));
        Ok(Self { server, grpc, http, query, data: None })
    }

    /// Where OTLP/gRPC goes.
    pub fn grpc_addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.grpc))
    }

    /// Where OTLP/HTTP goes: `http://127.0.0.1:PORT` (the path is `/v1/traces`).
    pub fn otlp_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }

    /// What it has stored.
    pub fn query(&self) -> &TraceQuery {
        &self.query
    }
}

impl Deref for Jaeger {
    type Target = Server;
    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Jaeger {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

/// The JSON query API that Jaeger, VictoriaTraces and its stand-in have in common.
#[derive(Debug, Clone)]
pub struct TraceQuery {
    base: String,
    /// Made once: a test asks for thousands of traces.
    client: OnceLock<Client>,
}

impl TraceQuery {
    /// The API below `base`, without a slash at its end.
    pub fn new(base: String) -> Self {
        Self { base, client: OnceLock::new() }
    }

    fn client(&self) -> Result<&Client> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = client::client()?;
        Ok(self.client.get_or_init(|| client))
    }

    /// The API's address.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The names of the services that have sent spans, sorted.
    pub async fn services(&self) -> Result<Vec<String>> {
        let answer = client::json(self.client()?.get(format!("{}/services", self.base))).await?;
        let names = answer["data"].as_array().cloned().unwrap_or_default();
        let mut names: Vec<_> = names.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    /// The spans of the trace with this hexadecimal id as stored (no clock skew is corrected, nothing
    /// made unique), each with its `process` beside it; empty when there is no such trace.
    pub async fn trace(&self, trace_id: &str) -> Result<Vec<Value>> {
        let request = self.client()?.get(format!("{}/traces/{trace_id}?raw=true", self.base));
        let answer = request.send().await?;
        if answer.status() == reqwest::StatusCode::NOT_FOUND {
            return Ok(Vec::new());
        }
        let status = answer.status();
        let text = answer.text().await?;
        anyhow::ensure!(status.is_success(), "{}/traces/{trace_id} answered {status}: {text}", self.base);
        let answer: Value = serde_json::from_str(&text).context("the trace is not JSON")?;
        Ok(answer["data"].as_array().into_iter().flatten().flat_map(spans).collect())
    }

    /// The spans of at most `limit` traces that touch `service`.
    pub async fn traces(&self, service: &str, limit: usize) -> Result<Vec<Vec<Value>>> {
        let limit = limit.to_string();
        let parameters = [("service", service), ("limit", &limit), ("raw", "true")];
        let request = self.client()?.get(format!("{}/traces", self.base)).query(&parameters);
        let answer = client::json(request).await?;
        Ok(answer["data"].as_array().into_iter().flatten().map(spans).collect())
    }
}

fn spans(trace: &Value) -> Vec<Value> {
    let mut spans = trace["spans"].as_array().cloned().unwrap_or_default();
    for span in &mut spans {
        let process = span["processID"].as_str().map(|id| trace["processes"][id].clone());
        span["process"] = process.unwrap_or_default();
    }
    spans
}

/// The text of the tag `key` of a span or process that [`TraceQuery`] gave.
pub fn tag(of: &Value, key: &str) -> Option<String> {
    let tag = of["tags"].as_array()?.iter().find(|tag| tag["key"] == key)?;
    Some(tag["value"].as_str().map_or_else(|| tag["value"].to_string(), str::to_owned))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backends::victoriatraces::tests::{request, span};

    async fn export(jaeger: &Jaeger, body: Vec<u8>) {
        let post = client::client().unwrap().post(format!("{}/v1/traces", jaeger.otlp_url()));
        client::text(post.header("content-type", "application/x-protobuf").body(body)).await.unwrap();
    }

    async fn stored(jaeger: &Jaeger, expected: usize) -> Vec<Value> {
        let id = "0102030405060708090a0b0c0d0e0f10";
        let read = async || {
            let spans = jaeger.query().trace(id).await?;
            Ok((spans.len() == expected).then_some(spans))
        };
        client::until("the spans", Duration::from_secs(30), read).await.unwrap()
    }

    #[tokio::test]
    async fn a_span_sent_twice_is_seen_twice_in_memory() {
        let jaeger = Jaeger::start().await.unwrap();
        assert!(jaeger.query().trace("0102030405060708090a0b0c0d0e0f10").await.unwrap().is_empty());
        let body = request("cart", vec![span(1, "pay")]);
        export(&jaeger, body.clone()).await;
        export(&jaeger, body).await;
        let spans = stored(&jaeger, 2).await;
        assert_eq!(spans[0]["operationName"], "pay");
        assert_eq!(spans[0]["process"]["serviceName"], "cart");
        assert_eq!(tag(&spans[0], "span.kind").as_deref(), Some("server"));
        assert!(jaeger.query().services().await.unwrap().contains(&"cart".to_owned()));
        assert_eq!(jaeger.query().traces("cart", 10).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn what_is_on_disk_survives_a_restart() {
        let mut jaeger = Jaeger::start_on_disk().await.unwrap();
        export(&jaeger, request("cart", vec![span(1, "pay"), span(2, "ship")])).await;
        stored(&jaeger, 2).await;
        jaeger.stop().await.unwrap();
        jaeger.restart().await.unwrap();
        stored(&jaeger, 2).await;
    }
}
