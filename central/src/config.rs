//! The configuration of a central process: one section per component, each defined beside that component.
//!
//! One file serves every role; a role reads the sections it needs. Without a file, `all` runs on a laptop: it
//! listens on loopback and keeps everything in one SQLite file ([`Config::laptop`]).
//!
//! Never: binds or opens anything. [`Config::problems`] lists everything that cannot work, not only the first.

use std::net::SocketAddr;
use std::time::Duration;

use mirador_service::admin::{AdminConfig, HealthEndpoint, MetricsEndpoint};
use mirador_service::endpoint;
use mirador_service::memory::MemoryConfig;
use mirador_service::runtime::RuntimeConfig;
use mirador_service::telemetry::LogConfig;
use mirador_transport::receiver;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::role::Role;
use crate::snapshot::StateConfig;
use crate::stores::ExportersConfig;
use crate::{console, isolationforest, servicegraph, spanmetrics};

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// OTLP and RED deltas in.
    pub receiver: receiver::Config,
    /// How much memory requests may take.
    pub memory: MemoryConfig,
    /// Role servicegraph: edges from spans.
    pub servicegraph: servicegraph::Config,
    /// Role spanmetrics: RED series from deltas.
    pub spanmetrics: spanmetrics::Config,
    /// Role isolationforest: a score for every metric.
    pub isolationforest: isolationforest::Config,
    /// What outlives the process.
    pub state: StateConfig,
    /// Where data goes.
    pub exporters: ExportersConfig,
    /// The live page over the embedded store.
    pub console: console::Config,
    /// Logs and metrics of the process itself.
    pub telemetry: TelemetryConfig,
    /// The health endpoint.
    pub health: HealthEndpoint,
    /// Threads.
    pub runtime: RuntimeConfig,
    /// How long a shutdown may take before what is left is given up. Default 25s, under the 30s that Kubernetes
    /// waits.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "String")]
    pub shutdown_grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            receiver: receiver::Config::default(),
            memory: MemoryConfig::default(),
            servicegraph: servicegraph::Config::default(),
            spanmetrics: spanmetrics::Config::default(),
            isolationforest: isolationforest::Config::default(),
            state: StateConfig::default(),
            exporters: ExportersConfig::default(),
            console: console::Config::default(),
            telemetry: TelemetryConfig::default(),
            health: HealthEndpoint::default(),
            runtime: RuntimeConfig::default(),
            shutdown_grace: Duration::from_secs(25),
        }
    }
}

/// Logs and metrics of the process itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// The process' own log.
    pub logs: LogConfig,
    /// The Prometheus endpoint (`/metrics`).
    pub metrics: MetricsEndpoint,
}

impl Config {
    /// Everything in one process on loopback, kept in one SQLite file; the agent's defaults send here.
    pub fn laptop() -> Self {
        let state = StateConfig { directory: Some("mirador-data".into()) };
        let mut config = Self { exporters: ExportersConfig::laptop(), state, ..Self::default() };
        "127.0.0.1:14317".clone_into(&mut config.receiver.protocols.grpc.endpoint);
        "127.0.0.1:14318".clone_into(&mut config.receiver.protocols.http.endpoint);
        "127.0.0.1:18888".clone_into(&mut config.telemetry.metrics.endpoint);
        "127.0.0.1:23133".clone_into(&mut config.health.endpoint);
        config
    }

    /// The part that the admin endpoints read.
    pub fn admin(&self) -> AdminConfig {
        AdminConfig { metrics: self.telemetry.metrics.clone(), health: self.health.clone() }
    }

    /// Everything that cannot work in this role; each line names the key, the value and what would be right.
    pub fn problems(&self, role: Role) -> Vec<String> {
        let mut problems = self.receiver.problems("receiver");
        if role.does(Role::ServiceGraph) {
            problems.extend(self.servicegraph.problems());
        }
        if role.does(Role::SpanMetrics) {
            problems.extend(self.spanmetrics.problems());
        }
        if role.does(Role::IsolationForest) {
            let found = self.isolationforest.problems();
            problems.extend(found.into_iter().map(|problem| format!("isolationforest.{problem}")));
        }
        problems.extend(self.state.problems());
        problems.extend(self.exporters.problems(role));
        problems.extend(self.console.problems());
        for (key, endpoint) in
            [("telemetry.metrics", &self.telemetry.metrics.endpoint), ("health", &self.health.endpoint)]
        {
            if endpoint.parse::<SocketAddr>().is_err() {
                problems.push(format!("{key}.endpoint: `{endpoint}` is not address:port, as in 0.0.0.0:8888"));
            }
        }
        problems.extend(self.clashes());
        if let Err(error) = self.telemetry.logs.validate() {
            problems.push(format!("telemetry.logs: {error}"));
        }
        if self.shutdown_grace.is_zero() {
            problems.push("shutdown_grace is 0s: it must be longer, or nothing in flight can finish".to_owned());
        }
        problems
    }

    /// Addresses that are listened on twice.
    fn clashes(&self) -> Vec<String> {
        let protocols = &self.receiver.protocols;
        let console = self.console.endpoint.to_string();
        let mut endpoints = vec![
            ("receiver.protocols.grpc.endpoint", &*protocols.grpc.endpoint),
            ("receiver.protocols.http.endpoint", &*protocols.http.endpoint),
            ("telemetry.metrics.endpoint", &*self.telemetry.metrics.endpoint),
            ("health.endpoint", &*self.health.endpoint),
        ];
        if self.console.enabled && self.exporters.embedded.is_some() {
            endpoints.push(("console.endpoint", &*console));
        }
        endpoint::conflicts(&endpoints)
    }
}

#[cfg(test)]
mod tests;
