//! Tables in Cassandra.
//!
//! Names carry a version: a change of shape is a new table, never an altered one.

use super::Config;

/// Columns that a table must have, by table.
pub(super) const COLUMNS: [(&str, &[&str]); 3] = [
    (
        "logs_v1",
        &[
            "tenant",
            "service",
            "bucket",
            "shard",
            "id",
            "time_nanos",
            "observed_nanos",
            "severity",
            "severity_text",
            "body",
            "body_type",
            "trace_id",
            "span_id",
            "flags",
            "event_name",
            "namespace",
            "pod",
            "node",
            "attributes",
            "resource",
            "scope",
        ],
    ),
    ("logs_by_trace_v1", &["tenant", "trace_id", "id", "service", "bucket", "shard", "span_id", "severity", "preview"]),
    ("log_streams_v1", &["tenant", "day", "service", "bucket", "shards"]),
];

/// The statements that make everything that is missing, in order.
pub(super) fn statements(config: &Config) -> Vec<String> {
    let keyspace = &config.keyspace;
    let replication = if config.datacenter.is_empty() {
        format!("{{'class': 'SimpleStrategy', 'replication_factor': {}}}", config.replication_factor)
    } else {
        format!("{{'class': 'NetworkTopologyStrategy', '{}': {}}}", config.datacenter, config.replication_factor)
    };
    let ttl = config.ttl.as_secs();
    // 20 to 30 windows over the life of a row let whole files expire (Cassandra documentation, TWCS).
    let window_minutes = (ttl / 60 / 28).max(1);
    let window = format!(
        "compaction = {{'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'MINUTES', \
         'compaction_window_size': '{window_minutes}'}} AND gc_grace_seconds = 10800"
    );
    let catalogue_ttl = ttl + 86_400;
    vec![
        format!("CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {replication} AND durable_writes = true"),
        format!(
            "CREATE TABLE IF NOT EXISTS {keyspace}.logs_v1 ( \
             tenant text, service text, bucket int, shard smallint, id timeuuid, \
             time_nanos bigint, observed_nanos bigint, severity tinyint, severity_text text, body text, \
             body_type tinyint, trace_id blob, span_id blob, flags int, event_name text, \
             namespace text, pod text, node text, \
             attributes frozen<map<text, text>>, resource frozen<map<text, text>>, scope text, \
             PRIMARY KEY ((tenant, service, bucket, shard), id)) \
             WITH CLUSTERING ORDER BY (id DESC) AND default_time_to_live = {ttl} AND {window}"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {keyspace}.logs_by_trace_v1 ( \
             tenant text, trace_id blob, id timeuuid, service text, bucket int, shard smallint, span_id blob, \
             severity tinyint, preview text, PRIMARY KEY ((tenant, trace_id), id)) \
             WITH CLUSTERING ORDER BY (id ASC) AND default_time_to_live = {ttl} AND {window}"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {keyspace}.log_streams_v1 ( \
             tenant text, day date, service text, bucket int, shards smallint, \
             PRIMARY KEY ((tenant, day), service, bucket, shards)) \
             WITH default_time_to_live = {catalogue_ttl} AND {window}"
        ),
    ]
}

#[cfg(test)]
mod tests;
