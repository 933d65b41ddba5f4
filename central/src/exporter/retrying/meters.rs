//! What retrying stores count, by exporter.

use mirador_service::metrics::{Counter, Family, Registry};

type Labelled = Family<Vec<(&'static str, &'static str)>, Counter>;

/// Counters of every retrying store, by exporter.
#[derive(Clone)]
pub struct Meters {
    exporter: &'static str,
    retries: Labelled,
    dropped: Labelled,
    exhausted: Labelled,
}

/// Registers the counters once; [`Registered::of`] makes the handle of one exporter.
pub struct Registered(Meters);

impl Registered {
    /// Registers the counters.
    pub fn new(registry: &Registry) -> Self {
        let meters = Self(Meters {
            exporter: "",
            retries: registry.counter_family(
                "mirador_exporter_retries",
                "Writes that were tried again after a transient failure, by exporter.",
            ),
            dropped: registry.counter_family(
                "mirador_exporter_dropped_items",
                "Items that a backend refused for good, by exporter and reason.",
            ),
            exhausted: registry.counter_family(
                "mirador_exporter_gave_up",
                "Writes that were handed back to the client after max_elapsed_time, by exporter.",
            ),
        });
        registry.declare_labels("mirador_exporter_retries", &["exporter"]);
        registry.declare_labels("mirador_exporter_dropped_items", &["exporter", "reason"]);
        registry.declare_labels("mirador_exporter_gave_up", &["exporter"]);
        meters
    }

    /// The counters of `exporter`.
    pub fn of(&self, exporter: &'static str) -> Meters {
        Meters { exporter, ..self.0.clone() }
    }
}

impl Meters {
    pub(super) fn exporter(&self) -> &'static str {
        self.exporter
    }

    pub(super) fn retried(&self) {
        self.retries.get_or_create(&vec![("exporter", self.exporter)]).inc();
    }

    pub(super) fn dropped(&self, items: u64) {
        let labels = vec![("exporter", self.exporter), ("reason", "refused_by_backend")];
        self.dropped.get_or_create(&labels).inc_by(items);
    }

    pub(super) fn gave_up(&self) {
        self.exhausted.get_or_create(&vec![("exporter", self.exporter)]).inc();
    }
}
