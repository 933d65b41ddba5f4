//! The numbers of the tap and of its windows.

use mirador_service::metrics::{Counter, Family, Gauge, Registry};
use mirador_sketch::Observed;
use prometheus_client::encoding::EncodeLabelSet;

use super::outbox::{Delta, Lost};

/// Why something was given up.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct ReasonLabels {
    reason: &'static str,
}

/// What the tap left out or changed, by reason.
#[derive(Debug)]
pub(super) struct Metrics {
    spans: Counter,
    duplicates: Counter,
    skipped: Counter,
    overflowed: Counter,
    truncated: Counter,
    coarsened: Counter,
    series: Gauge,
    closed_deltas: Counter,
    closed_series: Counter,
    acknowledged_deltas: Counter,
    acknowledged_series: Counter,
    pub(super) resent: Counter,
    pub(super) moved: Counter,
    lost_deltas: Family<ReasonLabels, Counter>,
    lost_series: Family<ReasonLabels, Counter>,
    waiting: Gauge,
    waiting_bytes: Gauge,
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Self {
        let metrics = Self {
            spans: registry.counter("mirador_agent_red_spans", "Spans counted into RED series."),
            duplicates: registry
                .counter("mirador_agent_red_duplicate_spans", "Spans of repeated requests, counted before."),
            skipped: registry.counter(
                "mirador_agent_red_spans_without_service",
                "Spans that were forwarded but not counted, because their resource has no service.name.",
            ),
            overflowed: registry.counter(
                "mirador_agent_red_overflowed_spans",
                "Spans counted into the overflow series because the limit of series was reached on this node.",
            ),
            truncated: registry.counter(
                "mirador_agent_red_truncated_spans",
                "Spans counted with a label value that was cut to the limit of length.",
            ),
            coarsened: registry.counter(
                "mirador_agent_red_coarsened_histograms",
                "Times that a fine distribution lost half of its resolution because of histogram.memory_limit_mib; counts, sums and buckets stay exact.",
            ),
            series: registry.gauge("mirador_agent_red_series", "Series in the open window."),
            closed_deltas: registry.counter("mirador_agent_red_deltas", "Deltas made of closed windows."),
            closed_series: registry
                .counter("mirador_agent_red_delta_series", "Series in deltas made of closed windows."),
            acknowledged_deltas: registry
                .counter("mirador_agent_red_acknowledged_deltas", "Deltas that central has taken."),
            acknowledged_series: registry
                .counter("mirador_agent_red_acknowledged_series", "Series in deltas that central has taken."),
            resent: registry
                .counter("mirador_agent_red_resent_deltas", "Failed attempts after which a delta is sent again."),
            moved: registry
                .counter("mirador_agent_red_moved_deltas", "Deltas that were placed again because their owner left."),
            lost_deltas: registry
                .counter_family("mirador_agent_red_lost_deltas", "Deltas that were given up, by reason."),
            lost_series: registry
                .counter_family("mirador_agent_red_lost_series", "Series in deltas that were given up."),
            waiting: registry.gauge("mirador_agent_red_waiting_deltas", "Deltas that wait for central."),
            waiting_bytes: registry.gauge("mirador_agent_red_waiting_bytes", "Bytes of deltas that wait for central."),
        };
        for name in ["mirador_agent_red_lost_deltas", "mirador_agent_red_lost_series"] {
            registry.declare_labels(name, &["reason"]);
        }
        metrics
    }

    pub(super) fn observed(&self, observed: &Observed) {
        self.spans.inc_by(observed.spans as u64);
        for (counter, count) in [
            (&self.duplicates, observed.duplicate_spans),
            (&self.skipped, observed.skipped_no_service),
            (&self.overflowed, observed.overflowed),
            (&self.truncated, observed.truncated),
        ] {
            if count > 0 {
                counter.inc_by(count as u64);
            }
        }
        if observed.coarsened > 0 {
            self.coarsened.inc_by(observed.coarsened);
        }
    }

    pub(super) fn closed(&self, series: usize) {
        self.closed_deltas.inc();
        self.closed_series.inc_by(series as u64);
    }

    pub(super) fn acknowledged(&self, delta: &Delta) {
        self.acknowledged_deltas.inc();
        self.acknowledged_series.inc_by(delta.series as u64);
    }

    pub(super) fn lost(&self, reason: &'static str, lost: Lost) {
        if !lost.is_nothing() {
            let labels = ReasonLabels { reason };
            self.lost_deltas.get_or_create_owned(&labels).inc_by(lost.deltas as u64);
            self.lost_series.get_or_create_owned(&labels).inc_by(lost.series as u64);
        }
    }

    pub(super) fn state(&self, series: usize, waiting: usize, bytes: usize) {
        self.series.set(series as i64);
        self.waiting.set(waiting as i64);
        self.waiting_bytes.set(bytes as i64);
    }
}
