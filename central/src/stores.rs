//! Section `exporters`: which backend keeps which signal.
//!
//! A signal has one store: each span, each sample and each record is kept once. A backend that is named for a signal
//! wins over the embedded store; two named backends for one signal are a mistake.
//!
//! Never: binds a port. Stores connect in the background and refuse, retryably, until they are connected.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mirador_service::backoff::RetryConfig;
use mirador_service::drain::Drain;
use mirador_service::health::Health;
use mirador_service::metrics::Registry;
use mirador_transport::sender;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::exporter::embedded::Embedded;
use crate::exporter::otlphttp::OtlpHttp;
use crate::exporter::retrying::{Registered, Retrying};
use crate::exporter::victoriametrics::RemoteWrite;
use crate::exporter::victoriatraces::VictoriaTraces;
use crate::exporter::{
    LogStore, MetricStore, TraceStore, cassandra, embedded, otlphttp, victoriametrics, victoriatraces,
};
use crate::role::Role;

/// Where data goes. A key that is absent is a backend that is not used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExportersConfig {
    /// One SQLite file for every signal that has no other store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedded: Option<embedded::Config>,
    /// Traces to VictoriaTraces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub victoriatraces: Option<victoriatraces::Config>,
    /// Traces to any store that takes OTLP/HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlphttp_traces: Option<otlphttp::Config>,
    /// Metrics to VictoriaMetrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub victoriametrics: Option<victoriametrics::Config>,
    /// Metrics to any store that takes Prometheus remote write; set its `protocol` to `prometheus`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prometheusremotewrite: Option<victoriametrics::Config>,
    /// Logs to Cassandra.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cassandra: Option<cassandra::Config>,
    /// Logs to any store that takes OTLP/HTTP. Role isolationforest sends its episodes there, too: name the role
    /// `logs` or the store itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlphttp_logs: Option<otlphttp::Config>,
    /// Roles servicegraph and spanmetrics: the owners of isolationforest, which get the metrics of edges and RED, by
    /// resource. Not used in role `all`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<sender::Config>,
    /// What is tried again while the sender waits; it gives up after 10s by default, so stay below.
    pub retry_on_failure: RetryConfig,
}

impl Default for ExportersConfig {
    fn default() -> Self {
        Self {
            embedded: None,
            victoriatraces: None,
            otlphttp_traces: None,
            victoriametrics: None,
            prometheusremotewrite: None,
            cassandra: None,
            otlphttp_logs: None,
            metrics: None,
            retry_on_failure: RetryConfig {
                initial_interval: Duration::from_millis(100),
                max_interval: Duration::from_secs(1),
                max_elapsed_time: Duration::from_secs(4),
                ..RetryConfig::default()
            },
        }
    }
}

impl ExportersConfig {
    /// Everything in the embedded store.
    pub fn laptop() -> Self {
        Self { embedded: Some(embedded::Config::default()), ..Self::default() }
    }

    /// What cannot work in this role.
    pub fn problems(&self, role: Role) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |needed: bool, signal: &str, named: &[(&str, bool)]| {
            let chosen: Vec<_> = named.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| *name).collect();
            let names: Vec<_> = named.iter().map(|(name, _)| *name).collect();
            if needed && chosen.is_empty() && self.embedded.is_none() {
                problems.push(format!(
                    "exporters: role {} has nowhere to keep {signal}, set one of {} or embedded",
                    role.as_str(),
                    names.join(", ")
                ));
            }
            if needed && chosen.len() > 1 {
                problems
                    .push(format!("exporters: {} would keep {signal} twice, set one of them", chosen.join(" and ")));
            }
        };
        check(
            role.does(Role::ServiceGraph),
            "traces",
            &[("victoriatraces", self.victoriatraces.is_some()), ("otlphttp_traces", self.otlphttp_traces.is_some())],
        );
        check(
            role.does(Role::IsolationForest),
            "metrics",
            &[
                ("victoriametrics", self.victoriametrics.is_some()),
                ("prometheusremotewrite", self.prometheusremotewrite.is_some()),
            ],
        );
        check(
            role.does(Role::Logs),
            "logs",
            &[("cassandra", self.cassandra.is_some()), ("otlphttp_logs", self.otlphttp_logs.is_some())],
        );
        match &self.metrics {
            Some(metrics) if role.sends_metrics() => {
                let found = metrics.problems();
                problems.extend(found.into_iter().map(|problem| format!("exporters.metrics.{problem}")));
            }
            None if role.sends_metrics() => problems.push(format!(
                "exporters.metrics: role {} needs the owners of isolationforest for the metrics that it makes",
                role.as_str()
            )),
            _ => {}
        }
        problems.extend(self.section_problems());
        if let Err(problem) = self.retry_on_failure.validate() {
            problems.push(format!("exporters.retry_on_failure.{problem}"));
        }
        problems
    }

    /// Whether a store of logs is named, other than the embedded one.
    fn names_log_store(&self) -> bool {
        self.cassandra.is_some() || self.otlphttp_logs.is_some()
    }

    /// What the named backends themselves find wrong with their sections.
    fn section_problems(&self) -> Vec<String> {
        let otlp = [("otlphttp_traces", &self.otlphttp_traces), ("otlphttp_logs", &self.otlphttp_logs)];
        let mut checked: Vec<anyhow::Result<()>> =
            otlp.into_iter().filter_map(|(name, section)| Some(section.as_ref()?.check(name))).collect();
        checked.extend(self.victoriatraces.as_ref().map(|section| section.check("victoriatraces")));
        checked.extend(self.cassandra.as_ref().map(cassandra::Config::check));
        checked.extend(self.embedded.as_ref().map(embedded::Config::check));
        checked.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect()
    }
}

/// The stores of one process, each with retries; absent where the role keeps nothing.
#[derive(Default)]
pub struct Stores {
    /// Keeps spans.
    pub traces: Option<Arc<dyn TraceStore>>,
    /// Keeps samples.
    pub metrics: Option<Arc<dyn MetricStore>>,
    /// Keeps log records.
    pub logs: Option<Arc<dyn LogStore>>,
    /// The file that the console reads.
    pub embedded: Option<Embedded>,
}

/// What stores report to.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// The process' own metrics.
    pub registry: &'a Registry,
    /// Components and workers.
    pub health: &'a Health,
    /// Ends background work.
    pub drain: &'a Drain,
}

impl Stores {
    /// Builds what the role needs.
    ///
    /// # Errors
    /// When a section cannot work; the text names the key.
    pub fn build(config: &ExportersConfig, role: Role, surroundings: Surroundings<'_>) -> anyhow::Result<Self> {
        let embedded = match &config.embedded {
            Some(embedded) if needs_embedded(config, role) => Some(open(embedded, surroundings)?),
            _ => None,
        };
        let mut stores = Self { embedded, ..Self::default() };
        let meters = Registered::new(surroundings.registry);
        let retry = || config.retry_on_failure.clone();
        if role.does(Role::ServiceGraph) {
            let (name, store) = stores.trace_store(config, surroundings)?;
            stores.traces = Some(Arc::new(Retrying::<dyn TraceStore>::new(store, retry(), meters.of(name))));
        }
        if role.does(Role::IsolationForest) {
            let (name, store) = stores.metric_store(config, surroundings)?;
            stores.metrics = Some(Arc::new(Retrying::<dyn MetricStore>::new(store, retry(), meters.of(name))));
        }
        // Role isolationforest writes its episodes there.
        if role.does(Role::Logs) || role == Role::IsolationForest && config.names_log_store() {
            let (name, store) = stores.log_store(config, surroundings)?;
            stores.logs = Some(Arc::new(Retrying::<dyn LogStore>::new(store, retry(), meters.of(name))));
        }
        Ok(stores)
    }

    fn trace_store(
        &self,
        config: &ExportersConfig,
        around: Surroundings<'_>,
    ) -> anyhow::Result<(&'static str, Arc<dyn TraceStore>)> {
        if let Some(section) = &config.victoriatraces {
            return Ok(("victoriatraces", Arc::new(VictoriaTraces::new(section, around.registry)?)));
        }
        if let Some(section) = &config.otlphttp_traces {
            return Ok(("otlphttp_traces", Arc::new(OtlpHttp::new("otlphttp_traces", section, around.registry)?)));
        }
        Ok(("embedded", Arc::new(self.embedded("traces")?)))
    }

    fn metric_store(
        &self,
        config: &ExportersConfig,
        around: Surroundings<'_>,
    ) -> anyhow::Result<(&'static str, Arc<dyn MetricStore>)> {
        if let Some(section) = &config.victoriametrics {
            return Ok(("victoriametrics", Arc::new(RemoteWrite::new("victoriametrics", section, around.registry)?)));
        }
        if let Some(section) = &config.prometheusremotewrite {
            let store = RemoteWrite::new("prometheusremotewrite", section, around.registry)?;
            return Ok(("prometheusremotewrite", Arc::new(store)));
        }
        Ok(("embedded", Arc::new(self.embedded("metrics")?)))
    }

    fn log_store(
        &self,
        config: &ExportersConfig,
        around: Surroundings<'_>,
    ) -> anyhow::Result<(&'static str, Arc<dyn LogStore>)> {
        if let Some(section) = &config.cassandra {
            let component = around.health.component("exporter/cassandra");
            let store = cassandra::Cassandra::start(section.clone(), around.registry, component, around.drain)?;
            return Ok(("cassandra", store));
        }
        if let Some(section) = &config.otlphttp_logs {
            return Ok(("otlphttp_logs", Arc::new(OtlpHttp::new("otlphttp_logs", section, around.registry)?)));
        }
        Ok(("embedded", Arc::new(self.embedded("logs")?)))
    }

    fn embedded(&self, signal: &str) -> anyhow::Result<Embedded> {
        self.embedded.clone().with_context(|| format!("exporters: no store for {signal}"))
    }
}

/// Whether any signal of the role has no store of its own.
fn needs_embedded(config: &ExportersConfig, role: Role) -> bool {
    (role.does(Role::ServiceGraph) && config.victoriatraces.is_none() && config.otlphttp_traces.is_none())
        || (role.does(Role::IsolationForest)
            && config.victoriametrics.is_none()
            && config.prometheusremotewrite.is_none())
        || (role.does(Role::Logs) && config.cassandra.is_none() && config.otlphttp_logs.is_none())
}

fn open(config: &embedded::Config, around: Surroundings<'_>) -> anyhow::Result<Embedded> {
    let component = around.health.worker("exporter/embedded", Duration::from_secs(30));
    component.ready(true, "");
    Embedded::open(config, around.registry, move || component.beat())
}
