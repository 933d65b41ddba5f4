//! The numbers of `k8sattributes`, ours and those of the collector's processor.

use mirador_service::metrics::{Counter, Family, Gauge, Registry};
use prometheus_client::encoding::EncodeLabelSet;

use super::associate::Outcome;
use super::places::Snapshot;
use super::table::{Changes, Table};

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Debug)]
pub(super) struct Metrics {
    resources: [Counter; 6],
    found: Counter,
    timed_out: Counter,
    skipped: Family<ReasonLabels, Counter>,
    pods: Gauge,
    bytes: Gauge,
    table_size: Gauge,
    labelled: Family<KindLabels, Gauge>,
    labelled_bytes: Family<KindLabels, Gauge>,
    added: Counter,
    updated: Counter,
    deleted: Counter,
    misses: Counter,
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Self {
        let resources = registry.counter_family::<OutcomeLabels>(
            "mirador_k8sattributes_resources",
            "Resources by what led to their pod (steering, connection, resource), or why there is none (foreign, ignored, unknown).",
        );
        let waits = registry.counter_family::<OutcomeLabels>(
            "mirador_k8sattributes_waits",
            "Requests that waited for a pod which was not known yet, by outcome (found, timeout).",
        );
        let skipped = registry.counter_family::<ReasonLabels>(
            "mirador_k8sattributes_skipped",
            "Pods, namespaces and nodes (over_limit) and values of labels and annotations (too_long, too_many) that were left out.",
        );
        registry.declare_labels("mirador_k8sattributes_skipped", &["reason"]);
        let labelled = registry.gauge_family(
            "mirador_k8sattributes_labelled_objects",
            "Namespaces and nodes whose labels or annotations add something, by kind.",
        );
        let labelled_bytes =
            registry.gauge_family("mirador_k8sattributes_labelled_bytes", "Bytes that these take, estimated, by kind.");
        registry.declare_labels("mirador_k8sattributes_labelled_objects", &["kind"]);
        registry.declare_labels("mirador_k8sattributes_labelled_bytes", &["kind"]);
        let resource = |(_, outcome)| resources.get_or_create_owned(&OutcomeLabels { outcome });
        let wait = |outcome| waits.get_or_create_owned(&OutcomeLabels { outcome });
        Self {
            resources: Outcome::ALL.map(resource),
            found: wait("found"),
            timed_out: wait("timeout"),
            skipped,
            pods: registry.gauge("mirador_k8sattributes_pods", "Pods that are known, deleted ones included."),
            bytes: registry.gauge("mirador_k8sattributes_table_bytes", "Bytes that the known pods take, estimated."),
            table_size: registry.gauge("otelcol_otelsvc_k8s_pod_table_size", "Pods that are known."),
            labelled,
            labelled_bytes,
            added: registry.counter("otelcol_otelsvc_k8s_pod_added", "Pods that were added."),
            updated: registry.counter("otelcol_otelsvc_k8s_pod_updated", "Pods that were updated."),
            deleted: registry.counter("otelcol_otelsvc_k8s_pod_deleted", "Pods that were deleted."),
            misses: registry.counter("otelcol_otelsvc_k8s_ip_lookup_miss", "Resources whose pod was not found."),
        }
    }

    pub(super) fn resource(&self, outcome: Outcome) {
        self.resources[outcome as usize].inc();
        if matches!(outcome, Outcome::Unknown | Outcome::Foreign) {
            self.misses.inc();
        }
    }

    pub(super) fn waited(&self, found: bool) {
        if found { &self.found } else { &self.timed_out }.inc();
    }

    pub(super) fn skipped(&self, reason: &'static str) {
        self.skipped.get_or_create_owned(&ReasonLabels { reason }).inc();
    }

    pub(super) fn changes(&self, changes: Changes) {
        self.added.inc_by(changes.added);
        self.updated.inc_by(changes.updated);
        self.deleted.inc_by(changes.deleted);
        self.over_limit(changes.over_limit);
    }

    pub(super) fn labelled(&self, kind: &'static str, snapshot: &Snapshot) {
        let labels = KindLabels { kind };
        self.labelled.get_or_create_owned(&labels).set(snapshot.len() as i64);
        self.labelled_bytes.get_or_create_owned(&labels).set(snapshot.bytes as i64);
    }

    pub(super) fn over_limit(&self, objects: u64) {
        if objects > 0 {
            self.skipped.get_or_create_owned(&ReasonLabels { reason: "over_limit" }).inc_by(objects);
        }
    }

    pub(super) fn table(&self, table: &Table) {
        self.pods.set(table.pods as i64);
        self.table_size.set(table.pods as i64);
        self.bytes.set(table.bytes as i64);
    }
}
