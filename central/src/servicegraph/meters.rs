//! What the service graph says about itself.
//!
//! Never: labels anything by what a client sends; those numbers leave as metrics of the graph.

use mirador_service::metrics::Registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::half::{Half, Side, Skipped, Via};

type Labels = Vec<(&'static str, String)>;

/// Counters of the role, shared by its shards.
#[derive(Debug, Clone)]
pub(super) struct Meters {
    pub(super) edges: Counter,
    expired: Counter,
    pub(super) dropped: Counter,
    unpaired: Family<Labels, Counter>,
    skipped: Family<Labels, Counter>,
    pub(super) duplicates: Counter,
    pub(super) forgotten: Counter,
    waiting: Family<Labels, Gauge>,
    pub(super) series: Gauge,
    pub(super) overflowed: Counter,
    pub(super) unkept: Counter,
}

impl Meters {
    pub(super) fn new(registry: &Registry) -> Self {
        let meters = Self {
            edges: registry.counter("otelcol_connector_servicegraph_total_edges", "Edges, virtual ones included."),
            expired: registry.counter(
                "otelcol_connector_servicegraph_expired_edges",
                "Spans whose other side did not come in time.",
            ),
            dropped: registry.counter(
                "otelcol_connector_servicegraph_dropped_spans",
                "Spans left out of the graph because store.max_items spans were waiting. They are stored.",
            ),
            unpaired: registry.counter_family(
                "mirador_servicegraph_unpaired_spans",
                "Spans whose other side did not come within store.ttl, by side: client, server, or link (a consumer's \
                 link to a producer that was not seen).",
            ),
            skipped: registry.counter_family(
                "mirador_servicegraph_skipped_spans",
                "Client and server spans left out of the graph, by reason: no_service_name, invalid_id, and links (of \
                 a consumer, beyond 128 or with invalid ids). They are stored.",
            ),
            duplicates: registry.counter(
                "mirador_servicegraph_duplicate_spans",
                "Sides of edges that had been counted before and changed nothing: spans that were sent again.",
            ),
            forgotten: registry.counter(
                "mirador_servicegraph_forgotten_spans",
                "Spans that were remembered for less than store.remember because of store.max_remembered: sent again \
                 after that, they would be counted again.",
            ),
            waiting: registry
                .gauge_family("mirador_servicegraph_waiting_spans", "Spans that wait for their other side, by shard."),
            series: registry.gauge("mirador_servicegraph_series", "Series of the service graph."),
            overflowed: registry.counter(
                "mirador_servicegraph_overflowed_edges",
                "Edges counted without their labels because of aggregation_cardinality_limit.",
            ),
            unkept: registry.counter(
                "mirador_servicegraph_unkept_spans",
                "Spans that waited for their other side at the end of a drain and could not be written to \
                 state.directory.",
            ),
        };
        registry.declare_labels("mirador_servicegraph_unpaired_spans", &["side"]);
        registry.declare_labels("mirador_servicegraph_skipped_spans", &["reason"]);
        registry.declare_labels("mirador_servicegraph_waiting_spans", &["shard"]);
        meters
    }

    pub(super) fn unpaired(&self, half: &Half) {
        let side = match (half.side, half.via) {
            (Side::Client, _) => "client",
            (Side::Server, Via::Link) => "link",
            (Side::Server, _) => "server",
        };
        self.expired.inc();
        self.unpaired.get_or_create(&vec![("side", side.to_owned())]).inc();
    }

    pub(super) fn skipped(&self, skipped: Skipped) {
        let Skipped { no_service, invalid_id, links } = skipped;
        for (reason, count) in [("no_service_name", no_service), ("invalid_id", invalid_id), ("links", links)] {
            if count > 0 {
                self.skipped.get_or_create(&vec![("reason", reason.to_owned())]).inc_by(count);
            }
        }
    }

    pub(super) fn waiting(&self, shard: usize) -> Gauge {
        self.waiting.get_or_create_owned(&vec![("shard", shard.to_string())])
    }
}
