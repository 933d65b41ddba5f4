//! The agent's configuration: one section per component, each defined beside that component.
//!
//! Without a file the agent works on a laptop: it listens on the OTLP ports and sends everything to a
//! central process on 127.0.0.1:14317. [`Config::problems`] lists everything that cannot work.

use std::time::Duration;

use mirador_service::admin::{AdminConfig, HealthEndpoint, MetricsEndpoint};
use mirador_service::endpoint;
use mirador_service::memory::{Budget, MemoryConfig};
use mirador_service::runtime::RuntimeConfig;
use mirador_service::telemetry::LogConfig;
use mirador_transport::{receiver, sender};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::processors::ProcessorsConfig;
use crate::steering::SteeringConfig;

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Who this agent is towards central. Default: `hostname-` and six random hexadecimal digits.
    /// On Kubernetes set it to `${env:K8S_NODE_NAME}`. Must not be shared by two running agents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// OTLP in.
    pub receiver: receiver::Config,
    /// How much memory requests may take.
    pub memory: MemoryConfig,
    /// What is added to resources before RED counts them and before they are placed.
    pub processors: ProcessorsConfig,
    /// Which RED series are made of spans.
    pub red: mirador_sketch::Config,
    /// RED windows on their way to central.
    pub windows: WindowsConfig,
    /// Where each kind of data goes.
    pub exporters: ExportersConfig,
    /// Logs and metrics of the agent itself.
    pub telemetry: TelemetryConfig,
    /// The health endpoint.
    pub health: HealthEndpoint,
    /// Redirection of the pods' OTLP connections to this agent.
    pub steering: SteeringConfig,
    /// Threads.
    pub runtime: RuntimeConfig,
    /// How long a shutdown may take before what is left is given up. Default 25s, under the 30s that
    /// Kubernetes waits.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "mirador_service::duration::GoDuration")]
    pub shutdown_grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            agent_id: None,
            receiver: receiver::Config::default(),
            memory: MemoryConfig::default(),
            processors: ProcessorsConfig::default(),
            red: mirador_sketch::Config::default(),
            windows: WindowsConfig::default(),
            exporters: ExportersConfig::default(),
            telemetry: TelemetryConfig::default(),
            health: HealthEndpoint::default(),
            steering: SteeringConfig::default(),
            runtime: RuntimeConfig::default(),
            shutdown_grace: Duration::from_secs(25),
        }
    }
}

/// RED windows that central has not acknowledged yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WindowsConfig {
    /// Bytes of windows that wait for central at most; beyond it the oldest is dropped and counted.
    /// Default 16777216 (16 MiB).
    pub queue_size_bytes: usize,
    /// How long a window waits for central's answer before it is sent again. Central answers when its own flush is
    /// stored, so this is well above its `spanmetrics.metrics_flush_interval`; it stands for `timeout` and
    /// `retry_on_failure.max_elapsed_time` of `exporters.red`. At least 1s. Default 1m.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "mirador_service::duration::GoDuration")]
    pub acknowledge_timeout: Duration,
}

impl Default for WindowsConfig {
    fn default() -> Self {
        Self { queue_size_bytes: 16 << 20, acknowledge_timeout: Duration::from_mins(1) }
    }
}

/// One destination per kind of data. A kind that is set to `null` is refused as not configured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExportersConfig {
    /// Spans, by trace id.
    pub traces: Option<sender::Config>,
    /// Metrics, by resource.
    pub metrics: Option<sender::Config>,
    /// Logs, by resource.
    pub logs: Option<sender::Config>,
    /// RED deltas, by service. `null` turns RED off: spans that come this way are counted nowhere, because those
    /// behind take what an agent has forwarded as counted.
    pub red: Option<sender::Config>,
}

impl Default for ExportersConfig {
    fn default() -> Self {
        Self {
            traces: Some(sender::Config::default()),
            metrics: Some(sender::Config::default()),
            logs: Some(sender::Config::default()),
            red: Some(sender::Config::default()),
        }
    }
}

impl ExportersConfig {
    /// The configured destinations with their keys.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, &sender::Config)> {
        [("traces", &self.traces), ("metrics", &self.metrics), ("logs", &self.logs), ("red", &self.red)]
            .into_iter()
            .filter_map(|(name, config)| Some((name, config.as_ref()?)))
    }
}

/// Logs and metrics of the agent itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// The agent's own log.
    pub logs: LogConfig,
    /// The Prometheus endpoint (`/metrics`).
    pub metrics: MetricsEndpoint,
}

impl Config {
    /// Where the process answers about itself.
    pub fn admin(&self) -> AdminConfig {
        AdminConfig { metrics: self.telemetry.metrics.clone(), health: self.health.clone() }
    }

    /// Everything that cannot work; each line names the key, the value and what would be right.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.agent_id.as_deref().is_some_and(|id| id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_graphic())) {
            found.push("agent_id must be printable ASCII without spaces, because it is sent as a header".to_owned());
        }
        for (name, exporter) in self.exporters.each() {
            found.extend(exporter.problems().into_iter().map(|line| format!("exporters.{name}.{line}")));
        }
        found.extend(self.receiver.problems("receiver"));
        found.extend(self.clashes());
        if let Err(error) = Budget::from_config(&self.memory) {
            found.push(error.to_string());
        }
        found.extend(self.processors.problems().into_iter().map(|line| format!("processors.{line}")));
        found.extend(self.red.problems().into_iter().map(|error| format!("red.{error}")));
        if let Err(error) = self.telemetry.logs.validate() {
            found.push(format!("telemetry.{error}"));
        }
        for (key, endpoint) in
            [("telemetry.metrics", &self.telemetry.metrics.endpoint), ("health", &self.health.endpoint)]
        {
            if endpoint.parse::<std::net::SocketAddr>().is_err() {
                found.push(format!("{key}.endpoint: `{endpoint}` is not address:port, as in 0.0.0.0:8888"));
            }
        }
        found.extend(self.steering.problems());
        if self.windows.queue_size_bytes == 0 {
            found.push("windows.queue_size_bytes is 0: it must be at least 1".to_owned());
        }
        if self.windows.acknowledge_timeout < Duration::from_secs(1) {
            found.push(format!(
                "windows.acknowledge_timeout is {:?}: it must be at least 1s, and longer than central's \
                 spanmetrics.metrics_flush_interval",
                self.windows.acknowledge_timeout
            ));
        }
        if self.shutdown_grace.is_zero() {
            found.push("shutdown_grace is 0s: it must be longer, or nothing in flight can finish".to_owned());
        }
        found
    }

    /// Addresses that are listened on twice, and owners that are this very agent.
    fn clashes(&self) -> Vec<String> {
        let protocols = &self.receiver.protocols;
        let receivers = [
            ("receiver.protocols.grpc.endpoint", &*protocols.grpc.endpoint),
            ("receiver.protocols.http.endpoint", &*protocols.http.endpoint),
        ];
        let pages = [
            ("telemetry.metrics.endpoint", &*self.telemetry.metrics.endpoint),
            ("health.endpoint", &*self.health.endpoint),
        ];
        let mut found = endpoint::conflicts(&[receivers, pages].concat());
        for (name, exporter) in self.exporters.each() {
            for hostname in exporter.resolver.fixed.iter().flat_map(|fixed| &fixed.hostnames) {
                let dialled = sender::config::dialled(hostname);
                let own = receivers.iter().find(|(_, endpoint)| endpoint::leads_to(&dialled, endpoint));
                if let Some((key, endpoint)) = own {
                    found.push(format!(
                        "exporters.{name}.resolver.static.hostnames: `{hostname}` is this agent itself ({key} is \
                         `{endpoint}`): name the address of central"
                    ));
                }
            }
        }
        found
    }
}
