//! The one place that knows all parts of a central process: builds them, starts them, drains them.
//!
//! Invariants: nothing is bound before the configuration has been found sound; everything that can fail has been
//! built before the first request is taken; a drain goes with the data: the receiver stops taking, what is in flight
//! is answered, the last metrics are flushed into isolationforest, isolationforest writes what it holds, and then the
//! process ends.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use mirador_otlp::Request;
use mirador_service::admin::{self, Bound};
use mirador_service::drain::Drain;
use mirador_service::health::Health;
use mirador_service::memory::Budget;
use mirador_service::metrics::Registry;
use mirador_service::supervise::Supervisor;
use mirador_service::telemetry;
use mirador_transport::receiver::{Receiver, ReceiverMetrics};
use mirador_transport::sender::Destination;
use tokio::time::Instant;

use crate::config::Config;
use crate::console::Console;
use crate::consume::{Consumer, Roles};
use crate::exporter::embedded::Embedded;
use crate::isolationforest;
use crate::logs::Logs;
use crate::metrics_out::{FlushMeters, Flusher, MetricsOut, Sent, ToOwners};
use crate::role::Role;
use crate::servicegraph::{self, ServiceGraph};
use crate::spanmetrics::{self, SpanMetrics};
use crate::stores::{Stores, Surroundings};

/// The share of the grace period that is kept for the last flush when requests take all of it.
const FLUSH_SHARE: u32 = 4;

/// A built process: bound, connected, not serving yet.
pub struct Central {
    role: Role,
    receiver: Receiver,
    roles: Roles,
    supervisor: Supervisor,
    admin: Bound,
    console: Option<SocketAddr>,
    registry: Registry,
    health: Health,
    drain: Drain,
}

/// The isolationforest role of this very process.
struct InProcess(isolationforest::Role);

impl MetricsOut for InProcess {
    fn send(&self, request: Request) -> Sent<'_> {
        Box::pin(self.0.take(request))
    }
}

impl Central {
    /// Builds every part of the role and binds every port; must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the configuration cannot work (before anything is bound) or a port is taken.
    pub async fn build(config: Config, role: Role, drain: Drain) -> anyhow::Result<Self> {
        let problems = config.problems(role);
        if !problems.is_empty() {
            bail!("the configuration cannot work:\n  {}", problems.join("\n  "));
        }
        let registry = Registry::new();
        let health = Health::new();
        telemetry::register_process_metrics(&registry, std::time::Instant::now());
        let budget = Budget::from_config(&config.memory)?;
        budget.register_metrics(&registry);
        drain.register_metrics(&registry);
        let mut supervisor = Supervisor::new(drain.clone(), health.clone());
        let around = Surroundings { registry: &registry, health: &health, drain: &drain };
        let stores = Stores::build(&config.exporters, role, around)?;
        let embedded = stores.embedded.clone();
        let roles = Self::roles(&config, role, stores, around, &mut supervisor)?;
        let receiver = Receiver::bind(config.receiver.clone(), budget, &registry, drain.clone())
            .await
            .context("the receiver cannot listen")?;
        let admin = admin::serve(&config.admin(), registry.clone(), health.clone(), drain.clone()).await?;
        let console = Self::console(&config, embedded, &drain, &mut supervisor).await?;
        Ok(Self { role, receiver, roles, supervisor, admin, console, registry, health, drain })
    }

    fn roles(
        config: &Config,
        role: Role,
        stores: Stores,
        around: Surroundings<'_>,
        supervisor: &mut Supervisor,
    ) -> anyhow::Result<Roles> {
        let Surroundings { registry, health, drain } = around;
        let file = |kind| config.state.file(kind).context("state.directory cannot be made");
        let mut roles = Roles::default();
        if let Some(store) = stores.metrics {
            let (logs, state) = (stores.logs.clone(), file(isolationforest::state::KIND)?);
            let parts = isolationforest::Parts { store, logs, state, registry, health };
            let (forest, tasks) = isolationforest::Role::start(config.isolationforest.clone(), parts);
            supervisor.spawn("isolationforest", tasks.ended());
            roles.isolationforest = Some(forest);
        }
        let meters = FlushMeters::new(registry);
        let out: Option<Arc<dyn MetricsOut>> = match (&roles.isolationforest, &config.exporters.metrics) {
            (Some(forest), _) => Some(Arc::new(InProcess(forest.clone()))),
            (None, Some(section)) if role.sends_metrics() => {
                let destination = Destination::start("metrics", section.clone(), registry, health, None)?;
                Some(Arc::new(ToOwners(destination)))
            }
            _ => None,
        };
        let flusher = |from: &'static str| {
            let out = out.clone().with_context(|| format!("exporters.metrics: {from} has nowhere to send to"))?;
            anyhow::Ok(Flusher::new(from, out, meters.clone()))
        };
        if let Some(store) = stores.traces {
            let (flusher, state) = (flusher("servicegraph")?, file(servicegraph::persist::KIND)?);
            let parts = servicegraph::Parts { store, flusher, registry, health, supervisor, state };
            roles.servicegraph = Some(Arc::new(ServiceGraph::start(&config.servicegraph, parts)));
        }
        if role.does(Role::SpanMetrics) {
            let (flusher, state) = (flusher("spanmetrics")?, file(spanmetrics::persist::KIND)?);
            let parts = spanmetrics::Parts { flusher, registry, health, drain, supervisor, state };
            roles.spanmetrics = Some(Arc::new(SpanMetrics::start(&config.spanmetrics, parts)));
        }
        roles.logs = stores.logs.filter(|_| role.does(Role::Logs)).map(|store| Arc::new(Logs::new(store, registry)));
        Ok(roles)
    }

    async fn console(
        config: &Config,
        embedded: Option<Embedded>,
        drain: &Drain,
        supervisor: &mut Supervisor,
    ) -> anyhow::Result<Option<SocketAddr>> {
        let Some(embedded) = embedded.filter(|_| config.console.enabled) else { return Ok(None) };
        let console = Console::bind(&config.console, &embedded).await?;
        let address = console.address()?;
        supervisor.spawn("console", console.serve(drain.clone()));
        Ok(Some(address))
    }

    /// Serves until the drain is over.
    ///
    /// # Errors
    /// When a part ended early, or work was still in flight when the grace period ended.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self { role, receiver, roles, supervisor, admin, console, registry, health, drain } = self;
        tracing::info!(role = role.as_str(), grpc = %receiver.grpc_addr(), http = %receiver.http_addr(),
            metrics = %admin.metrics, health = %admin.health, console = ?console, "ready for OTLP");
        let serving = health.component("receiver");
        serving.ready(true, "");
        let supervised = tokio::spawn(supervisor.run());
        let consumer = Arc::new(Consumer::new(roles.clone(), receiver.items(), &registry, drain.clone()));
        let receiver = receiver.serve(consumer, &role.kinds());
        drain.started().await;
        serving.ready(false, "draining");
        let deadline = drain.deadline().unwrap_or_else(Instant::now);
        let in_flight = drain.answered(FLUSH_SHARE).await;
        receiver.abort();
        // The receiver's task holds the roles; it has ended, one way or the other, when this returns.
        drop(receiver.await);
        let flushed = tokio::time::timeout_at(deadline, finish(roles)).await.is_ok();
        supervised.await.context("the supervisor failed")??;
        if in_flight > 0 || !flushed {
            bail!("the grace period ended with {in_flight} requests in flight, last metrics flushed: {flushed}");
        }
        tracing::info!("drained, nothing was lost");
        Ok(())
    }

    /// Where OTLP/gRPC is served.
    pub fn grpc_addr(&self) -> SocketAddr {
        self.receiver.grpc_addr()
    }

    /// Where OTLP/HTTP is served.
    pub fn http_addr(&self) -> SocketAddr {
        self.receiver.http_addr()
    }

    /// Where `/metrics` is served.
    pub fn metrics_addr(&self) -> SocketAddr {
        self.admin.metrics
    }

    /// Where `/readyz` is served.
    pub fn health_addr(&self) -> SocketAddr {
        self.admin.health
    }

    /// Where the console is served, if it is.
    pub fn console_addr(&self) -> Option<SocketAddr> {
        self.console
    }

    /// What the receiver counts on behalf of its consumer.
    pub fn receiver_items(&self) -> ReceiverMetrics {
        self.receiver.items()
    }

    /// The process' own metrics.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}

/// Flushes what the roles hold; isolationforest ends when its last user has gone.
async fn finish(roles: Roles) {
    if let Some(servicegraph) = &roles.servicegraph {
        servicegraph.finish().await;
    }
    if let Some(spanmetrics) = &roles.spanmetrics {
        spanmetrics.finish().await;
    }
}

#[cfg(test)]
mod tests;
