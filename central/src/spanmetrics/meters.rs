//! What the spanmetrics role says about itself.
//!
//! Never: labels anything by what a client sends.

use mirador_service::metrics::Registry;
use mirador_sketch::Observed;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::engine::Merged;
use crate::complaint::Complaint;

/// Counters of the role.
#[derive(Debug, Clone)]
pub(super) struct Meters {
    deltas: Counter,
    duplicates: Counter,
    pub(super) invalid: Counter,
    lost: Counter,
    missing: Gauge,
    streams: Gauge,
    pub(super) series: Gauge,
    overflowed: Counter,
    rebucketed: Counter,
    coarsened: Counter,
    spans: Counter,
    duplicate_spans: Counter,
    skipped_spans: Counter,
    pub(super) unconfirmed: Counter,
    pub(super) unkept: Counter,
    /// Says that the state cannot be written.
    pub(super) unwritable: Complaint,
}

impl Meters {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            deltas: registry.counter("mirador_spanmetrics_deltas", "RED deltas that were merged."),
            duplicates: registry.counter(
                "mirador_spanmetrics_duplicate_deltas",
                "RED deltas that had been merged before and changed nothing.",
            ),
            invalid: registry.counter(
                "mirador_spanmetrics_invalid_deltas",
                "RED deltas that contradict themselves and were refused.",
            ),
            lost: registry.counter(
                "mirador_spanmetrics_lost_windows",
                "Windows of agents that never came: their calls are missing from the totals.",
            ),
            missing: registry.gauge(
                "mirador_spanmetrics_missing_windows",
                "Windows of agents that were overtaken by later ones and may still come.",
            ),
            streams: registry
                .gauge("mirador_spanmetrics_streams", "Streams of deltas (agent, epoch, owner) that are known."),
            series: registry.gauge("mirador_spanmetrics_series", "RED series."),
            overflowed: registry.counter(
                "mirador_spanmetrics_overflowed_calls",
                "Calls counted without their labels because of this process' aggregation_cardinality_limit.",
            ),
            rebucketed: registry.counter(
                "mirador_spanmetrics_rebucketed_series",
                "Series of deltas with other bucket bounds than configured here, counted by their distribution.",
            ),
            coarsened: registry.counter(
                "mirador_spanmetrics_coarsened_histograms",
                "Times that a fine distribution lost half of its resolution because of histogram.memory_limit_mib; counts, sums and buckets stay exact.",
            ),
            spans: registry
                .counter("mirador_spanmetrics_spans", "Spans that were counted here, from senders that are no agents."),
            duplicate_spans: registry.counter(
                "mirador_spanmetrics_duplicate_spans",
                "Spans that had been counted here before and changed nothing.",
            ),
            skipped_spans: registry.counter(
                "mirador_spanmetrics_skipped_spans",
                "Spans that were not counted here because their resource has no service.name.",
            ),
            unconfirmed: registry.counter(
                "mirador_spanmetrics_unconfirmed_requests",
                "Requests of senders that are no agents whose counts the store of the metrics did not take within 8s. \
                 They are counted and leave with a later flush, unless the process is killed before.",
            ),
            unkept: registry.counter(
                "mirador_spanmetrics_unkept_snapshots",
                "Flushes before which the state could not be written to state.directory.",
            ),
            unwritable: Complaint::default(),
        }
    }

    pub(super) fn merged(&self, merged: Merged) {
        if merged.is_duplicate {
            self.duplicates.inc();
            return;
        }
        self.deltas.inc();
        self.overflowed.inc_by(merged.overflowed_calls);
        self.rebucketed.inc_by(merged.rebucketed);
        self.coarsened.inc_by(merged.coarsened);
    }

    pub(super) fn observed(&self, observed: Observed) {
        self.spans.inc_by(observed.spans as u64);
        self.duplicate_spans.inc_by(observed.duplicate_spans as u64);
        self.skipped_spans.inc_by(observed.skipped_no_service as u64);
        self.coarsened.inc_by(observed.coarsened);
    }

    /// Known streams, windows that may still come, windows that were given up.
    pub(super) fn streams(&self, (known, missing, lost): (usize, u64, u64)) {
        self.streams.set(known as i64);
        self.missing.set(missing as i64);
        self.lost.inc_by(lost);
    }
}
