//! The console: a JSON API over the embedded store and one live page that is built on it.
//!
//! Everything it serves is inside the binary: the page loads nothing from anywhere else. It has no password, so it
//! answers only to its own names: a page from elsewhere whose name is made to point here is refused.
//!
//! Never: writes to the store; answers more rows than a limit; works on a question for longer than a limit.

mod api;
mod host;
mod parameters;
mod query;

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::get;
use mirador_service::drain::Drain;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::exporter::embedded::Embedded;

const PAGE: &str = include_str!("console/page.html");
const SCRIPT: &str = include_str!("console/page.js");
const STYLE: &str = include_str!("console/page.css");

/// Section `console`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Serve the page and its API. Needs `exporters.embedded`. Default `true`.
    pub enabled: bool,
    /// Where to listen. It answers without a password: keep it on loopback or behind something that asks for one.
    /// Default `127.0.0.1:14380`.
    pub endpoint: SocketAddr,
    /// Host names or addresses, without a port, under which browsers reach it besides localhost, loopback addresses
    /// and the endpoint's own. Requests for any other are refused, so that no page from elsewhere can read the store
    /// by a name that is made to point here. Default: none.
    pub hosts: Vec<String>,
    /// How long one question may take, its wait for earlier ones included. Default 10s.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "String")]
    pub query_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            endpoint: SocketAddr::from(([127, 0, 0, 1], 14380)),
            hosts: Vec::new(),
            query_timeout: Duration::from_secs(10),
        }
    }
}

impl Config {
    /// What cannot work; each line names the key, the value and what would be right.
    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<_> = self
            .hosts
            .iter()
            .filter(|host| !host::is_name(host))
            .map(|host| {
                format!(
                    "console.hosts: {host:?} is not a host name or an address without a port, as in mirador.example"
                )
            })
            .collect();
        if self.query_timeout.is_zero() {
            problems.push("console.query_timeout: 0s leaves no time for an answer; 10s is the default".to_owned());
        }
        problems
    }
}

/// A bound console that serves until the process drains.
pub struct Console {
    listener: TcpListener,
    router: Router,
}

impl Console {
    /// Binds the endpoint.
    ///
    /// # Errors
    /// When the address is taken or the store's file cannot be read.
    pub async fn bind(config: &Config, store: &Embedded) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(config.endpoint).await.with_context(|| {
            format!("console.endpoint: cannot listen on {}; is another process using the port?", config.endpoint)
        })?;
        let hosts = Arc::new(host::Hosts::new(config));
        let router = api::router(query::Store::new(store, config.query_timeout)?)
            .route("/", get(async || asset("text/html; charset=utf-8", PAGE)))
            .route("/page.js", get(async || asset("text/javascript; charset=utf-8", SCRIPT)))
            .route("/page.css", get(async || asset("text/css; charset=utf-8", STYLE)))
            .layer(from_fn_with_state(hosts, host::check));
        Ok(Self { listener, router })
    }

    /// The address that was bound.
    ///
    /// # Errors
    /// When the operating system does not tell.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `drain` starts; answers under way get two seconds.
    ///
    /// # Errors
    /// When the listener breaks.
    pub async fn serve(self, drain: Drain) -> anyhow::Result<()> {
        let stop = drain.clone();
        let serving =
            axum::serve(self.listener, self.router).with_graceful_shutdown(async move { stop.started().await });
        tokio::select! {
            served = serving.into_future() => served.context("console"),
            () = async { drain.started().await; tokio::time::sleep(Duration::from_secs(2)).await } => Ok(()),
        }
    }
}

fn asset(content_type: &'static str, body: &'static str) -> impl IntoResponse {
    (
        [
            (CONTENT_TYPE, content_type),
            (CACHE_CONTROL, "no-cache"),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (
                CONTENT_SECURITY_POLICY,
                "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            ),
        ],
        body,
    )
}
