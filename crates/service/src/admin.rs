//! Two small HTTP servers for machines: `/metrics` on 8888, health on 13133.
//!
//! `/` and `/healthz` show everything as JSON; `/livez` is 503 when a worker is dead or stuck;
//! `/readyz` is 503 until every component is ready and while draining. They serve until the
//! [`Bound`] is dropped, so that a draining process still answers.
//! Read-only: GET and HEAD, no body is ever read. Connections are bounded in number and in age.

mod connection;
mod pages;

use std::borrow::Borrow;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::drain::Drain;
use crate::health::Health;
use crate::metrics::Registry;

/// Where the process answers about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// The process's own metrics.
    pub metrics: MetricsEndpoint,
    /// Health.
    pub health: HealthEndpoint,
}

/// The metrics server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsEndpoint {
    /// Address and port of `/metrics`; port 0 takes a free one.
    pub endpoint: String,
}

impl Default for MetricsEndpoint {
    fn default() -> Self {
        Self { endpoint: "0.0.0.0:8888".to_owned() }
    }
}

/// The health server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HealthEndpoint {
    /// Address and port of `/`, `/livez`, `/readyz` and `/healthz`; port 0 takes a free one.
    pub endpoint: String,
}

impl Default for HealthEndpoint {
    fn default() -> Self {
        Self { endpoint: "0.0.0.0:13133".to_owned() }
    }
}

/// The running servers; dropping it stops them.
#[derive(Debug)]
pub struct Bound {
    /// Address of `/metrics`.
    pub metrics: SocketAddr,
    /// Address of the health pages.
    pub health: SocketAddr,
    _servers: JoinSet<()>,
}

/// What the pages are made of.
#[derive(Debug)]
struct Subject {
    registry: Registry,
    health: Health,
    drain: Drain,
}

/// Binds both listeners and starts to serve. An address in use or malformed is an error that names
/// the key.
pub async fn serve(
    config: impl Borrow<AdminConfig>,
    registry: Registry,
    health: Health,
    drain: Drain,
) -> anyhow::Result<Bound> {
    let config = config.borrow().clone();
    let pages = Arc::new(Subject { registry, health, drain });
    let metrics = bind("metrics.endpoint", &config.metrics.endpoint).await?;
    let health = bind("health.endpoint", &config.health.endpoint).await?;
    let (metrics_addr, health_addr) = (metrics.local_addr()?, health.local_addr()?);
    let mut servers = JoinSet::new();
    servers.spawn(connection::accept(metrics, Arc::clone(&pages), pages::metrics));
    servers.spawn(connection::accept(health, pages, pages::health));
    tracing::info!(metrics = %metrics_addr, health = %health_addr, "admin endpoints are up");
    Ok(Bound { metrics: metrics_addr, health: health_addr, _servers: servers })
}

async fn bind(key: &str, endpoint: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(endpoint).await.with_context(|| {
        format!("{key}: {endpoint:?}: cannot listen there; expected a free address like \"0.0.0.0:8888\"")
    })
}

#[cfg(test)]
mod tests;
