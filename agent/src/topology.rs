//! The one place that knows all stages of the agent: builds them, then starts them, then drains them.
//!
//! Invariants: nothing is bound before the configuration has been found sound; everything that can fail
//! has been built before the first request is taken; a drain goes with the data: receivers stop
//! taking, what is in flight is answered, the last RED window is sent, and then the process ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use mirador_otlp::Signal;
use mirador_service::admin::{self, Bound};
use mirador_service::drain::Drain;
use mirador_service::health::Health;
use mirador_service::memory::Budget;
use mirador_service::metrics::Registry;
use mirador_service::telemetry;
use mirador_transport::Kind;
use mirador_transport::receiver::Receiver;
use mirador_transport::sender::Destination;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config::Config;
use crate::pipeline::{Destinations, Inlet, Pipeline};
use crate::processors::Processors;
use crate::red::outbox::Lost;
use crate::red::{self, Settings, Windows};
use crate::steering::{Running, Steering};

/// How much of the grace period is kept for the last RED window when requests take all of it.
const RED_SHARE: u32 = 4;

/// How old the heartbeat of the window task may be.
const RED_MAX_AGE: Duration = Duration::from_secs(15);

/// A built agent: bound, connected, not serving yet.
pub struct Agent {
    receiver: Receiver,
    pipeline: Pipeline,
    windows: Option<Windows>,
    admin: Bound,
    registry: Registry,
    health: Health,
    drain: Drain,
    id: String,
    /// Connections are redirected as long as this is there.
    steering: Running,
}

/// What was still in flight when the grace period ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Requests that were cut off.
    pub requests: usize,
    /// RED deltas that central has not acknowledged.
    pub red: Lost,
}

impl Report {
    /// Whether the drain was complete.
    pub fn is_clean(self) -> bool {
        self.requests == 0 && self.red.is_nothing()
    }
}

impl Agent {
    /// Builds every stage and binds every port; must be called inside a tokio runtime.
    pub async fn build(config: Config, drain: Drain) -> anyhow::Result<Self> {
        Self::build_steered(config, Steering::off(), drain).await
    }

    /// As [`Self::build`], with what [`crate::steering::load`] could load before the process had threads.
    pub async fn build_steered(config: Config, steering: Steering, drain: Drain) -> anyhow::Result<Self> {
        let problems = config.problems();
        if !problems.is_empty() {
            bail!("the configuration cannot work:\n  {}", problems.join("\n  "));
        }
        let registry = Registry::new();
        let health = Health::new();
        telemetry::register_process_metrics(&registry, std::time::Instant::now());
        let budget = Budget::from_config(&config.memory)?;
        budget.register_metrics(&registry);
        drain.register_metrics(&registry);
        let id = config.agent_id.clone().unwrap_or_else(default_id);
        let exporters = &config.exporters;
        let destination = |name: &'static str, section: &Option<mirador_transport::sender::Config>| {
            let start = |section: &mirador_transport::sender::Config| {
                Destination::start(name, section.clone(), &registry, &health, Some(id.clone()))
            };
            section.as_ref().map(start).transpose()
        };
        let destinations = Destinations {
            traces: destination("traces", &exporters.traces)?,
            metrics: destination("metrics", &exporters.metrics)?,
            logs: destination("logs", &exporters.logs)?,
        };
        let red = exporters.red.clone().map(|section| patient(section, config.windows.acknowledge_timeout));
        let (red, windows) = match destination("red", &red)? {
            Some(destination) => {
                let component = health.worker("red", RED_MAX_AGE);
                let (red, windows) = red::build(&settings(&config, &id), destination, &registry, component);
                (Some(red), Some(windows))
            }
            None => (None, None),
        };
        let mut receiver = Receiver::bind(config.receiver.clone(), budget, &registry, drain.clone())
            .await
            .context("the receiver cannot listen")?;
        let processors = Processors::start(&config.processors, &registry, &health);
        let steering = steering.start(&config.steering, &mut receiver, &registry, &drain);
        let inlet = Inlet { own_id: id.clone(), enricher: steering.enricher(), processors };
        let pipeline = Pipeline::new(destinations, inlet, red, receiver.items(), &registry, drain.clone());
        let admin = admin::serve(&config.admin(), registry.clone(), health.clone(), drain.clone()).await?;
        Ok(Self { receiver, pipeline, windows, admin, registry, health, drain, id, steering })
    }

    /// Serves until the drain is over; says what was lost.
    pub async fn run(self) -> anyhow::Result<Report> {
        let (finish, finish_by) = watch::channel(None);
        let mut windows: Option<JoinHandle<Lost>> = self.windows.map(|windows| tokio::spawn(windows.run(finish_by)));
        let kinds = Signal::ALL.map(Kind::Otlp);
        tracing::info!(agent_id = self.id, grpc = %self.receiver.grpc_addr(), http = %self.receiver.http_addr(),
            metrics = %self.admin.metrics, health = %self.admin.health, "ready for OTLP");
        let _steering = self.steering;
        let serving = self.health.component("receiver");
        serving.ready(true, "");
        let mut receiver = self.receiver.serve(Arc::new(self.pipeline), &kinds);
        // A process with a dead stage does half its job; it drains and fails instead.
        let died = tokio::select! {
            biased;
            () = self.drain.started() => None,
            ended = &mut receiver => Some(("receiver", format!("{ended:?}"))),
            ended = ended(windows.as_mut()) => {
                windows = None;
                Some(("RED windows", ended))
            }
        };
        // A receiver that ends because the drain has just begun has done its job.
        let died = died.filter(|_| !self.drain.is_draining());
        if let Some((task, how)) = &died {
            tracing::error!(task, how, "a task ended while the process was serving, draining");
            self.drain.start();
        }
        serving.ready(false, "draining");
        let deadline = self.drain.deadline().unwrap_or_else(Instant::now);
        let requests = self.drain.answered(RED_SHARE).await;
        finish.send_replace(Some(deadline));
        receiver.abort();
        let red = match windows {
            Some(task) => task.await.context("the task of the RED windows failed")?,
            None => Lost::default(),
        };
        if let Some((task, how)) = died {
            bail!("the task {task} ended while the process was serving: {how}");
        }
        let report = Report { requests, red };
        if report.is_clean() {
            tracing::info!("drained, nothing was lost");
        } else {
            tracing::error!(
                requests = report.requests,
                red_deltas = report.red.deltas,
                red_series = report.red.series,
                "the grace period ended with work in flight: unanswered requests stay with their clients, RED deltas are lost"
            );
        }
        Ok(report)
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

    /// The process's metrics.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}

/// How the task ended; never returns when there is none.
async fn ended(task: Option<&mut JoinHandle<Lost>>) -> String {
    match task {
        Some(task) => format!("{:?}", task.await),
        None => std::future::pending().await,
    }
}

/// Central answers a RED window when its own flush is stored, which is longer than any other request takes.
fn patient(mut section: mirador_transport::sender::Config, wait: Duration) -> mirador_transport::sender::Config {
    section.timeout = wait;
    section.retry_on_failure.max_elapsed_time = wait;
    section
}

fn settings(config: &Config, id: &str) -> Settings {
    let epoch = red::unix_nano();
    Settings {
        tap: config.red.clone(),
        flush_interval: config.red.metrics_flush_interval.into(),
        queue_size_bytes: config.windows.queue_size_bytes,
        agent_id: id.to_owned(),
        epoch,
        seed: epoch ^ u64::from(std::process::id()),
    }
}

/// `hostname-` and six random digits: unique also where several agents share a host name.
fn default_id() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().filter(char::is_ascii_graphic).take(64).collect();
    let random = uuid::Uuid::new_v4().simple().to_string();
    let host = if host.is_empty() { "agent" } else { &host };
    format!("{host}-{}", &random[..6])
}
