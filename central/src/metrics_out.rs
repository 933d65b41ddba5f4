//! Where the metrics that central makes go: to the owners of isolationforest, or to the one in this process.
//!
//! Never: keeps what could not be sent. The metrics are cumulative, so the next flush says the same and more.

pub mod points;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mirador_otlp::{Limits, Request, Signal};
use mirador_service::metrics::Registry;
use mirador_transport::sender::Destination;
use mirador_transport::{Accepted, Kind, Refusal};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tonic::Code;

use crate::complaint::Complaint;

/// How long one request of a flush may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(20);
/// How often the last flush of a process is tried.
pub const LAST_ATTEMPTS: u32 = 5;
/// How long it waits in between.
pub const LAST_PAUSE: Duration = Duration::from_millis(500);

/// A boxed future, because the way out is chosen by configuration.
pub type Sent<'a> = Pin<Box<dyn Future<Output = Result<Accepted, Refusal>> + Send + 'a>>;

/// Takes metrics that central made.
pub trait MetricsOut: Send + Sync {
    /// Sends one OTLP metrics request; `Ok` when it has been stored.
    fn send(&self, request: Request) -> Sent<'_>;
}

/// Sends metrics to the owners of their resources.
pub struct ToOwners(pub Destination);

impl MetricsOut for ToOwners {
    fn send(&self, request: Request) -> Sent<'_> {
        Box::pin(async move {
            let owners = self.0.owners();
            let placed = owners.place(&request)?;
            self.0.send(Kind::Otlp(Signal::Metrics), &owners, placed.parts, self.0.deadline()).await
        })
    }
}

/// What became of flushes, in the process' own metrics.
#[derive(Clone)]
pub struct FlushMeters {
    flushes: Family<Vec<(&'static str, &'static str)>, Counter>,
    rejected: Family<Vec<(&'static str, &'static str)>, Counter>,
}

impl FlushMeters {
    /// Registers the metrics; once per process.
    pub fn new(registry: &Registry) -> Self {
        let meters = Self {
            flushes: registry.counter_family(
                "mirador_metrics_flushes",
                "Flushes of the metrics that this process makes, by the role that made them (from) and outcome. A \
                 failed flush loses nothing: the next one carries the same series.",
            ),
            rejected: registry.counter_family(
                "mirador_metrics_flush_rejected_points",
                "Data points of flushes that isolationforest refused for good, by the role that made them (from).",
            ),
        };
        registry.declare_labels("mirador_metrics_flushes", &["from", "outcome"]);
        registry.declare_labels("mirador_metrics_flush_rejected_points", &["from"]);
        meters
    }
}

/// The way out of one role.
#[derive(Clone)]
pub struct Flusher {
    from: &'static str,
    out: Arc<dyn MetricsOut>,
    meters: FlushMeters,
    refused: Complaint,
    rejected: Complaint,
}

impl Flusher {
    /// The way out of the role `from`.
    pub fn new(from: &'static str, out: Arc<dyn MetricsOut>, meters: FlushMeters) -> Self {
        Self { from, out, meters, refused: Complaint::default(), rejected: Complaint::default() }
    }

    /// Sends the requests of one flush, one after the other and each made when the one before was taken. True when all
    /// were: then confirm the flush.
    pub async fn send_all(&self, mut next: impl FnMut() -> Option<Bytes>) -> bool {
        while let Some(request) = next() {
            if !self.send(request).await {
                self.settled(false);
                return false;
            }
        }
        self.settled(true);
        true
    }

    /// Sends one request of a flush; say with [`Self::settled`] what became of the whole.
    pub async fn send(&self, request: Bytes) -> bool {
        let sent = self.send_checked(request).await;
        let from = self.from;
        match &sent {
            Ok(()) if self.refused.is_over() => tracing::info!(from, "metrics are taken again"),
            Ok(()) => {}
            Err(error) => {
                if let Some(times) = self.refused.due(Instant::now()) {
                    tracing::warn!(from, %error, times, "metrics were not taken, the next flush carries them");
                } else {
                    tracing::debug!(from, %error, "metrics were not taken again");
                }
            }
        }
        sent.is_ok()
    }

    /// Counts a flush.
    pub fn settled(&self, is_taken: bool) {
        let outcome = if is_taken { "success" } else { "failure" };
        self.meters.flushes.get_or_create(&vec![("from", self.from), ("outcome", outcome)]).inc();
    }

    /// Says that no further flush makes up for the ones that failed.
    pub fn lost(&self) {
        tracing::error!(from = self.from, "the last flush was not taken: the increase since the flush before is lost");
    }

    async fn send_checked(&self, bytes: Bytes) -> Result<(), Refusal> {
        let limits = Limits { max_items: usize::MAX, ..Limits::default() };
        let request = Request::parse(Signal::Metrics, bytes, &limits)
            .map_err(|error| refusal(Code::Internal, format!("own metrics: {error}"), "internal"))?;
        let accepted = tokio::time::timeout(SEND_TIMEOUT, self.out.send(request)).await.unwrap_or_else(|_| {
            let message = format!("no answer within {}s", SEND_TIMEOUT.as_secs());
            Err(refusal(Code::DeadlineExceeded, message, "timeout"))
        })?;
        if accepted.rejected_items > 0 {
            self.meters.rejected.get_or_create(&vec![("from", self.from)]).inc_by(accepted.rejected_items);
            if let Some(times) = self.rejected.due(Instant::now()) {
                let points = accepted.rejected_items;
                tracing::warn!(from = self.from, points, why = %accepted.message, times, "points of metrics were refused for good");
            }
        }
        Ok(())
    }
}

fn refusal(code: Code, message: String, reason: &'static str) -> Refusal {
    Refusal { code, message, retry_after: Some(Duration::from_secs(1)), reason }
}
