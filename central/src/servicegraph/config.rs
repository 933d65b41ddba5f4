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
    /// Most spans that are remembered at a time, twice 20 bytes each; beyond it they are forgotten sooner, and counted.
    /// The default reaches 100s back at 10,000 client and server spans a second.
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

/// Most bounds of a histogram, as for span metrics.
const MAX_BOUNDS: usize = 256;
/// Most dimensions: each is up to two labels of every series.
const MAX_DIMENSIONS: usize = 32;
/// Most exemplars of a histogram in one flush.
const MAX_EXEMPLARS: usize = 100;

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
        if bounds.len() > MAX_BOUNDS {
            problems.push(format!(
                "servicegraph.latency_histogram_buckets: has {} bounds, use at most {MAX_BOUNDS}",
                bounds.len()
            ));
        }
        problems.extend(self.dimension_problem());
        let exemplars = &self.exemplars;
        if exemplars.enabled && !(1..=MAX_EXEMPLARS).contains(&exemplars.max_per_data_point) {
            problems.push(format!(
                "servicegraph.exemplars.max_per_data_point: {} is not in 1..{MAX_EXEMPLARS} (exemplars.enabled: false \
                 switches them off)",
                exemplars.max_per_data_point
            ));
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

    /// A label that would be there twice is no label.
    fn dimension_problem(&self) -> Option<String> {
        let names = &self.dimensions;
        if names.len() > MAX_DIMENSIONS {
            return Some(format!("servicegraph.dimensions: has {} names, use at most {MAX_DIMENSIONS}", names.len()));
        }
        let (at, name) = names.iter().enumerate().find(|(at, name)| name.is_empty() || names[..*at].contains(name))?;
        Some(format!(
            "servicegraph.dimensions[{at}]: {name:?} is empty or there before, use each attribute's name once"
        ))
    }

    /// Whether an unanswered client span becomes an edge to a virtual node.
    pub(crate) fn has_virtual_nodes(&self) -> bool {
        !self.virtual_node_peer_attributes.is_empty()
    }

    pub(crate) fn bounds_nanos(&self) -> Vec<u64> {
        self.latency_histogram_buckets.iter().map(|bound| bound.0.as_nanos() as u64).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_series_could_be_made_of_is_named_with_its_key_and_value() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let default = Config::default;
        assert_eq!(default().problems(), Vec::<String>::new());
        let bounds = |bounds: std::ops::Range<u64>| bounds.map(|ms| GoDuration(Duration::from_millis(ms))).collect();
        let none = ExemplarsConfig { enabled: true, max_per_data_point: 0 };
        for (config, expected) in [
            (Config { dimensions: names(&["zone", "tier", "zone"]), ..default() }, "dimensions[2]: \"zone\""),
            (Config { dimensions: names(&[""]), ..default() }, "dimensions[0]: \"\""),
            (Config { dimensions: vec!["x".to_owned(); 33], ..default() }, "33 names, use at most 32"),
            (Config { latency_histogram_buckets: bounds(1..258), ..default() }, "257 bounds, use at most 256"),
            (Config { latency_histogram_buckets: bounds(1..1), ..default() }, "non-empty"),
            (Config { exemplars: none, ..default() }, "max_per_data_point: 0"),
        ] {
            let problems = config.problems();
            assert!(problems.len() == 1 && problems[0].contains(expected), "{expected}: {problems:?}");
        }
        let off = ExemplarsConfig { enabled: false, max_per_data_point: 0 };
        assert_eq!(Config { exemplars: off, ..default() }.problems(), Vec::<String>::new());
    }
}
