//! Settings of the service graph, named as the Collector's `service_graph` connector names them.
//!
//! Never: binds or opens anything.

use std::time::Duration;

use mirador_service::duration::GoDuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How spans are paired into edges and how edges become metrics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Upper bounds of the latency histograms, inclusive, ascending.
    pub latency_histogram_buckets: Vec<GoDuration>,
    /// Attributes that become labels `client_<name>` and `server_<name>`, looked up in the resource, then in the span.
    /// Every value of every attribute is a series: keep the list short.
    pub dimensions: Vec<String>,
    /// Where spans wait for their other half.
    pub store: StoreConfig,
    /// Attributes that name the callee of a client span that nobody answered; the first that is set wins, `unknown`
    /// otherwise. An empty list turns virtual nodes off.
    pub virtual_node_peer_attributes: Vec<String>,
    /// Adds a label `virtual_node`: `client`, `server` or empty.
    pub virtual_node_extra_label: bool,
    /// Attributes that mark a client span as a database call and name the database; resource first, then span.
    /// `db.system.name` and `db.system` mark a call as well and the peer attributes then name it. An empty list
    /// turns database edges off.
    pub database_name_attributes: Vec<String>,
    /// How often metrics leave, at least 100ms.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "String")]
    pub metrics_flush_interval: Duration,
    /// A series that saw no edge for this long ends with a stale marker. `0s`: never.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "String")]
    pub metrics_expiration: Duration,
    /// Most series of edges; what does not fit is counted in one series `otel.metric.overflow=true`.
    pub aggregation_cardinality_limit: usize,
    /// Exemplars of the latency histograms.
    pub exemplars: ExemplarsConfig,
}

/// The pairing store, over all shards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// How long a span waits for its other half, from its arrival. Raise it when senders batch for longer.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "String")]
    pub ttl: Duration,
    /// Most spans that wait; a span more is dropped and counted. About 250 bytes each.
    pub max_items: usize,
    /// How long a span is remembered at least, so that it is not counted again when it is sent again. Longer than
    /// senders retry.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "String")]
    pub remember: Duration,
    /// Most spans that are remembered at a time, twice 20 bytes each; beyond it they are forgotten sooner.
    pub max_remembered: usize,
}

/// Exemplars of histograms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExemplarsConfig {
    /// Whether histograms carry exemplars.
    pub enabled: bool,
    /// Most exemplars of a histogram in one flush.
    pub max_per_data_point: usize,
}

/// The connector's default bounds, in milliseconds.
pub(crate) const BUCKETS_MS: [u64; 16] =
    [2, 4, 6, 8, 10, 50, 100, 200, 400, 800, 1000, 1400, 2000, 5000, 10_000, 15_000];

impl Default for Config {
    fn default() -> Self {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Self {
            latency_histogram_buckets: BUCKETS_MS.iter().map(|ms| GoDuration(Duration::from_millis(*ms))).collect(),
            dimensions: Vec::new(),
            store: StoreConfig::default(),
            virtual_node_peer_attributes: owned(&[
                "service.peer.name",
                "peer.service",
                "db.namespace",
                "db.name",
                "db.system.name",
                "db.system",
            ]),
            virtual_node_extra_label: false,
            database_name_attributes: owned(&["db.namespace", "db.name"]),
            metrics_flush_interval: Duration::from_secs(15),
            metrics_expiration: Duration::from_mins(15),
            aggregation_cardinality_limit: 10_000,
            exemplars: ExemplarsConfig::default(),
        }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(10),
            max_items: 100_000,
            remember: Duration::from_mins(10),
            max_remembered: 1_000_000,
        }
    }
}

impl Default for ExemplarsConfig {
    fn default() -> Self {
        Self { enabled: true, max_per_data_point: 5 }
    }
}

impl Config {
    /// What a deserializer cannot see; each problem names the key, the value and what would be right.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let bounds = &self.latency_histogram_buckets;
        if bounds.is_empty() || bounds.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            problems.push("servicegraph.latency_histogram_buckets: must be a non-empty ascending list".to_owned());
        }
        if self.store.ttl.is_zero() {
            problems.push("servicegraph.store.ttl: 0s pairs nothing, use a duration like 10s".to_owned());
        }
        if self.store.max_items == 0 || self.store.max_remembered == 0 {
            problems.push("servicegraph.store: max_items and max_remembered must be at least 1".to_owned());
        }
        if self.metrics_flush_interval < Duration::from_millis(100) {
            problems.push(format!(
                "servicegraph.metrics_flush_interval: {:?} is too short, use at least 100ms",
                self.metrics_flush_interval
            ));
        }
        if self.aggregation_cardinality_limit == 0 {
            problems.push("servicegraph.aggregation_cardinality_limit: must be at least 1".to_owned());
        }
        problems
    }

    /// Whether an unanswered client span becomes an edge to a virtual node.
    pub(crate) fn has_virtual_nodes(&self) -> bool {
        !self.virtual_node_peer_attributes.is_empty()
    }

    pub(crate) fn bounds_nanos(&self) -> Vec<u64> {
        self.latency_histogram_buckets.iter().map(|bound| bound.0.as_nanos() as u64).collect()
    }
}
