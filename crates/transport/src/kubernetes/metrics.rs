//! The numbers of the watches, one label set per watch.

use mirador_service::metrics::{Counter, Family, FloatGauge, Registry};
use prometheus_client::encoding::EncodeLabelSet;

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WatchLabels {
    watch: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EventLabels {
    watch: String,
    kind: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ErrorLabels {
    watch: String,
    reason: &'static str,
}

/// The handles of one watch.
#[derive(Debug)]
pub(super) struct Metrics {
    watch: String,
    errors: Family<ErrorLabels, Counter>,
    pub(super) listed: Counter,
    pub(super) applied: Counter,
    pub(super) deleted: Counter,
    pub(super) lists: Counter,
    pub(super) stale_seconds: FloatGauge,
}

impl Metrics {
    pub(super) fn register(registry: &Registry, watch: &str) -> Self {
        let events = registry.counter_family::<EventLabels>(
            "mirador_kubernetes_watch_events",
            "Objects that a watch handed out, by kind (listed, applied, deleted).",
        );
        let errors = registry.counter_family::<ErrorLabels>(
            "mirador_kubernetes_watch_errors",
            "Failures of a watch by reason; what was known before is kept meanwhile.",
        );
        registry.declare_labels("mirador_kubernetes_watch_errors", &["watch", "reason"]);
        let lists = registry.counter_family::<WatchLabels>(
            "mirador_kubernetes_watch_lists",
            "Complete lists that a watch has read: one at the start, one after each loss of its place.",
        );
        let stale = registry.float_gauge_family::<WatchLabels>(
            "mirador_kubernetes_watch_stale_seconds",
            "For how long a watch has been failing, as of its last attempt; 0 while it works.",
        );
        let event = |kind| events.get_or_create_owned(&EventLabels { watch: watch.to_owned(), kind });
        let labels = WatchLabels { watch: watch.to_owned() };
        Self {
            listed: event("listed"),
            applied: event("applied"),
            deleted: event("deleted"),
            lists: lists.get_or_create_owned(&labels),
            stale_seconds: stale.get_or_create_owned(&labels),
            errors,
            watch: watch.to_owned(),
        }
    }

    pub(super) fn error(&self, reason: &'static str) {
        self.errors.get_or_create_owned(&ErrorLabels { watch: self.watch.clone(), reason }).inc();
    }
}
