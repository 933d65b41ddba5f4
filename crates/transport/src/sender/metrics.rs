//! The numbers of the sender, resolved to handles once per destination and owner.
//!
//! Never: looks a label set up on the path of a request, except where something failed.

use std::time::Duration;

use mirador_otlp::Signal;
use mirador_service::metrics::{Counter, Family, Gauge, Histogram, HistogramFamily, Registry};
use prometheus_client::encoding::EncodeLabelSet;

use crate::Kind;

/// The collector's bounds for the latency of one backend, in milliseconds.
const LATENCY_BOUNDS: [f64; 11] = [0.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0];

/// The destination alone.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct DestinationLabels {
    destination: &'static str,
}

/// The destination and why.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct ReasonLabels {
    destination: &'static str,
    reason: &'static str,
}

/// The destination and a gRPC code.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct CodeLabels {
    destination: &'static str,
    code: &'static str,
}

/// One owner of a destination.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct OwnerLabels {
    destination: &'static str,
    owner: String,
}

/// The collector's label of an exporter.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct ExporterLabels {
    exporter: String,
}

/// The collector's labels of a sending queue.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct QueueLabels {
    exporter: String,
    data_type: &'static str,
}

/// The collector's labels of a resolution.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct ResolutionLabels {
    resolver: String,
    success: &'static str,
}

/// The collector's label of a resolver.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct ResolverLabels {
    resolver: String,
}

/// The collector's label of a load-balanced backend.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct BackendLabels {
    endpoint: String,
}

/// The collector's labels of a backend's outcomes.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct OutcomeLabels {
    endpoint: String,
    success: &'static str,
}

type Counts<L> = Family<L, Counter>;
type Gauges<L> = Family<L, Gauge>;
type Latencies = HistogramFamily<BackendLabels>;

/// Every family of the sender; shared by all destinations of a registry.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    sent_items: Counts<DestinationLabels>,
    sent_parts: Counts<DestinationLabels>,
    rejected_items: Counts<DestinationLabels>,
    skipped_items: Counts<DestinationLabels>,
    replaced_items: Counts<DestinationLabels>,
    failed_items: Counts<CodeLabels>,
    failed_parts: Counts<CodeLabels>,
    refused_items: Counts<ReasonLabels>,
    refused_requests: Counts<ReasonLabels>,
    retries: Counts<CodeLabels>,
    owner_up: Gauges<OwnerLabels>,
    owner_bytes: Gauges<OwnerLabels>,
    exporter_sent: [Counts<ExporterLabels>; 3],
    exporter_failed: [Counts<ExporterLabels>; 3],
    queue_size: Gauges<QueueLabels>,
    queue_capacity: Gauges<QueueLabels>,
    resolutions: Counts<ResolutionLabels>,
    backends: Gauges<ResolverLabels>,
    backend_updates: Counts<ResolverLabels>,
    backend_latency: Latencies,
    backend_outcome: Counts<OutcomeLabels>,
}

impl Metrics {
    /// The families; registered by whoever asks first.
    pub(super) fn register(registry: &Registry) -> Self {
        let metrics = Self {
            sent_items: registry.counter_family("mirador_sender_sent_items", "Items that an owner has taken."),
            sent_parts: registry.counter_family("mirador_sender_sent_parts", "Parts that an owner has taken."),
            rejected_items: registry.counter_family(
                "mirador_sender_rejected_items",
                "Items that owners left out for good (OTLP partial success).",
            ),
            skipped_items: registry.counter_family(
                "mirador_sender_skipped_items",
                "Items of a repeated request that had been delivered before and were not sent again.",
            ),
            replaced_items: registry.counter_family(
                "mirador_sender_replaced_items",
                "Items that were placed again because their owner left.",
            ),
            failed_items: registry.counter_family(
                "mirador_sender_failed_items",
                "Items of parts that could not be delivered within the request's deadline, by last gRPC code.",
            ),
            failed_parts: registry.counter_family(
                "mirador_sender_failed_parts",
                "Parts that could not be delivered within the request's deadline, by last gRPC code.",
            ),
            refused_items: registry.counter_family(
                "mirador_sender_refused_items",
                "Items of requests that were refused before any part was sent, by reason.",
            ),
            refused_requests: registry.counter_family(
                "mirador_sender_refused_requests",
                "Requests that were refused before any part was sent, by reason.",
            ),
            retries: registry
                .counter_family("mirador_sender_retries", "Attempts after the first, by gRPC code of the last."),
            owner_up: registry.gauge_family("mirador_sender_owner_up", "1 while the connection to the owner is open."),
            owner_bytes: registry
                .gauge_family("mirador_sender_owner_in_flight_bytes", "Bytes on their way to the owner."),
            exporter_sent: Signal::ALL.map(|signal| {
                registry.counter_family(&exporter_name("sent", signal), "Items that were sent (the collector's name).")
            }),
            exporter_failed: Signal::ALL.map(|signal| {
                registry.counter_family(
                    &exporter_name("send_failed", signal),
                    "Items that could not be sent after retries (the collector's name).",
                )
            }),
            queue_size: registry.gauge_family("otelcol_exporter_queue_size", "Requests on their way, all owners."),
            queue_capacity: registry
                .gauge_family("otelcol_exporter_queue_capacity", "Requests that may be on their way, all owners."),
            resolutions: registry.counter_family("otelcol_loadbalancer_num_resolutions", "Look-ups of the owners."),
            backends: registry.gauge_family("otelcol_loadbalancer_num_backends", "Owners in the ring."),
            backend_updates: registry
                .counter_family("otelcol_loadbalancer_num_backend_updates", "Changes of the ring."),
            backend_latency: registry.histogram_family(
                "otelcol_loadbalancer_backend_latency",
                "Milliseconds of one attempt, by owner.",
                latency_histogram,
            ),
            backend_outcome: registry.counter_family("otelcol_loadbalancer_backend_outcome", "Attempts, by owner."),
        };
        // What has no series before something goes wrong.
        for name in ["mirador_sender_failed_items", "mirador_sender_failed_parts", "mirador_sender_retries"] {
            registry.declare_labels(name, &["destination", "code"]);
        }
        for name in ["mirador_sender_refused_items", "mirador_sender_refused_requests"] {
            registry.declare_labels(name, &["destination", "reason"]);
        }
        metrics
    }

    pub(super) fn destination(&self, name: &'static str, resolver: &'static str) -> DestinationMetrics {
        let labels = DestinationLabels { destination: name };
        let exporter = ExporterLabels { exporter: format!("otlp/{name}") };
        let resolver_label = format!("{resolver}/{name}");
        let by_resolver = ResolverLabels { resolver: resolver_label.clone() };
        let resolution = |success| ResolutionLabels { resolver: resolver_label.clone(), success };
        DestinationMetrics {
            name,
            sent_items: self.sent_items.get_or_create_owned(&labels),
            sent_parts: self.sent_parts.get_or_create_owned(&labels),
            rejected_items: self.rejected_items.get_or_create_owned(&labels),
            skipped_items: self.skipped_items.get_or_create_owned(&labels),
            replaced_items: self.replaced_items.get_or_create_owned(&labels),
            exporter_sent: [0, 1, 2].map(|at: usize| self.exporter_sent[at].get_or_create_owned(&exporter)),
            exporter_failed: [0, 1, 2].map(|at: usize| self.exporter_failed[at].get_or_create_owned(&exporter)),
            queue_size: self.queue_size.get_or_create_owned(&queue_labels(name)),
            queue_capacity: self.queue_capacity.get_or_create_owned(&queue_labels(name)),
            resolved: self.resolutions.get_or_create_owned(&resolution("true")),
            unresolved: self.resolutions.get_or_create_owned(&resolution("false")),
            backends: self.backends.get_or_create_owned(&by_resolver),
            backend_updates: self.backend_updates.get_or_create_owned(&by_resolver),
            families: self.clone(),
        }
    }
}

/// The handles of one destination.
#[derive(Debug)]
pub(super) struct DestinationMetrics {
    name: &'static str,
    pub(super) sent_items: Counter,
    pub(super) sent_parts: Counter,
    pub(super) rejected_items: Counter,
    pub(super) skipped_items: Counter,
    pub(super) replaced_items: Counter,
    exporter_sent: [Counter; 3],
    exporter_failed: [Counter; 3],
    queue_size: Gauge,
    pub(super) queue_capacity: Gauge,
    pub(super) resolved: Counter,
    pub(super) unresolved: Counter,
    pub(super) backends: Gauge,
    pub(super) backend_updates: Counter,
    families: Metrics,
}

impl DestinationMetrics {
    pub(super) fn owner(&self, owner: &str) -> OwnerMetrics {
        let labels = OwnerLabels { destination: self.name, owner: owner.to_owned() };
        let endpoint = BackendLabels { endpoint: owner.to_owned() };
        let outcome = |success| OutcomeLabels { endpoint: owner.to_owned(), success };
        OwnerMetrics {
            up: self.families.owner_up.get_or_create_owned(&labels),
            queue_bytes: self.families.owner_bytes.get_or_create_owned(&labels),
            queue_requests: self.queue_size.clone(),
            latency: self.families.backend_latency.get_or_create_owned(&endpoint),
            succeeded: self.families.backend_outcome.get_or_create_owned(&outcome("true")),
            failed: self.families.backend_outcome.get_or_create_owned(&outcome("false")),
            labels,
            families: self.families.clone(),
        }
    }

    /// One part was taken.
    pub(super) fn sent(&self, kind: Kind, items: usize) {
        self.sent_items.inc_by(items as u64);
        self.sent_parts.inc();
        if let Kind::Otlp(signal) = kind {
            self.exporter_sent[signal as usize].inc_by(items as u64);
        }
    }

    /// One part could not be delivered.
    pub(super) fn failed(&self, kind: Kind, items: usize, code: &'static str) {
        let labels = CodeLabels { destination: self.name, code };
        self.families.failed_items.get_or_create_owned(&labels).inc_by(items as u64);
        self.families.failed_parts.get_or_create_owned(&labels).inc();
        if let Kind::Otlp(signal) = kind {
            self.exporter_failed[signal as usize].inc_by(items as u64);
        }
    }

    /// A request was refused before anything was sent.
    pub(super) fn refused(&self, items: usize, reason: &'static str) {
        let labels = ReasonLabels { destination: self.name, reason };
        self.families.refused_items.get_or_create_owned(&labels).inc_by(items as u64);
        self.families.refused_requests.get_or_create_owned(&labels).inc();
    }

    /// One more attempt is made.
    pub(super) fn retried(&self, code: &'static str) {
        let labels = CodeLabels { destination: self.name, code };
        self.families.retries.get_or_create_owned(&labels).inc();
    }
}

/// The handles of one owner.
#[derive(Debug)]
pub(super) struct OwnerMetrics {
    labels: OwnerLabels,
    families: Metrics,
    pub(super) up: Gauge,
    pub(super) queue_bytes: Gauge,
    pub(super) queue_requests: Gauge,
    latency: Histogram,
    succeeded: Counter,
    failed: Counter,
}

impl OwnerMetrics {
    pub(super) fn observe(&self, elapsed: Duration, success: bool) {
        self.latency.observe(elapsed.as_secs_f64() * 1000.0);
        if success { &self.succeeded } else { &self.failed }.inc();
    }

    /// Drops the gauges of an owner that has left, so that they do not stay at their last value.
    pub(super) fn forget(&self) {
        self.families.owner_up.remove(&self.labels);
        self.families.owner_bytes.remove(&self.labels);
    }
}

fn latency_histogram() -> Histogram {
    Histogram::new(LATENCY_BOUNDS)
}

fn queue_labels(name: &'static str) -> QueueLabels {
    QueueLabels { exporter: format!("otlp/{name}"), data_type: name }
}

fn exporter_name(outcome: &str, signal: Signal) -> String {
    format!("otelcol_exporter_{outcome}_{}", signal.item_name())
}
