//! The keyspace and the tables of log records: what they are, as CQL, and how what stands in a cluster differs.
//!
//! Names carry a version: a change of shape is a new table, never an altered one. So an older program works beside
//! the tables of a newer one, and a newer program only adds.
//!
//! Never: changes or drops what is there; asks for a right that it does not need, because what exists is not made
//! again.

mod admin;
mod compare;

pub use admin::{Applied, SchemaError, apply, check};
pub(super) use admin::{create, validate};

use super::Config;

/// A table's columns with their types, in the order in which rows are written.
type Columns = &'static [(&'static str, &'static str)];

/// The shape of a table.
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) columns: Columns,
    pub(super) partition: &'static [&'static str],
    /// Clustering columns and their order, `asc` or `desc`.
    pub(super) clustering: &'static [(&'static str, &'static str)],
    /// Seconds by which a row outlives `ttl`.
    outlives: u64,
}

pub(super) const LOGS: &str = "logs_v1";
pub(super) const BY_TRACE: &str = "logs_by_trace_v1";
pub(super) const STREAMS: &str = "log_streams_v1";

pub(super) const TABLES: [Table; 3] = [
    Table {
        name: LOGS,
        columns: &[
            ("tenant", "text"),
            ("service", "text"),
            ("bucket", "int"),
            ("shard", "smallint"),
            ("id", "timeuuid"),
            ("time_nanos", "bigint"),
            ("observed_nanos", "bigint"),
            ("severity", "tinyint"),
            ("severity_text", "text"),
            ("body", "text"),
            ("body_type", "tinyint"),
            ("trace_id", "blob"),
            ("span_id", "blob"),
            ("flags", "int"),
            ("event_name", "text"),
            ("namespace", "text"),
            ("pod", "text"),
            ("node", "text"),
            ("attributes", "frozen<map<text, text>>"),
            ("resource", "frozen<map<text, text>>"),
            ("scope", "text"),
        ],
        partition: &["tenant", "service", "bucket", "shard"],
        clustering: &[("id", "desc")],
        outlives: 0,
    },
    Table {
        name: BY_TRACE,
        columns: &[
            ("tenant", "text"),
            ("trace_id", "blob"),
            ("id", "timeuuid"),
            ("service", "text"),
            ("bucket", "int"),
            ("shard", "smallint"),
            ("span_id", "blob"),
            ("severity", "tinyint"),
            ("preview", "text"),
        ],
        partition: &["tenant", "trace_id"],
        clustering: &[("id", "asc")],
        outlives: 0,
    },
    Table {
        name: STREAMS,
        columns: &[("tenant", "text"), ("day", "date"), ("service", "text"), ("bucket", "int"), ("shards", "smallint")],
        partition: &["tenant", "day"],
        clustering: &[("service", "asc"), ("bucket", "asc"), ("shards", "asc")],
        // The catalogue of a day is read until the last row of that day is gone.
        outlives: 86_400,
    },
];

/// What the keyspace's replication has to be when it is made.
fn replication(config: &Config) -> [(String, String); 2] {
    let class = |name: &str| ("class".to_owned(), name.to_owned());
    let factor = config.replication_factor.to_string();
    if config.datacenter.is_empty() {
        [class("SimpleStrategy"), ("replication_factor".to_owned(), factor)]
    } else {
        [class("NetworkTopologyStrategy"), (config.datacenter.clone(), factor)]
    }
}

/// Seconds after which a table's rows expire.
fn life(config: &Config, table: &Table) -> u64 {
    config.ttl.as_secs() + table.outlives
}

/// Minutes of a compaction window: 20 to 30 windows over the life of a row let whole files expire (Cassandra
/// documentation, TWCS).
fn window_minutes(config: &Config) -> u64 {
    (config.ttl.as_secs() / 60 / 28).max(1)
}

fn keyspace_statement(config: &Config) -> String {
    let options = replication(config).map(|(key, value)| match value.parse::<u32>() {
        Ok(number) => format!("'{key}': {number}"),
        Err(_) => format!("'{key}': '{value}'"),
    });
    format!(
        "CREATE KEYSPACE IF NOT EXISTS {}\n  WITH replication = {{{}}}\n  AND durable_writes = true",
        config.keyspace,
        options.join(", ")
    )
}

fn table_statement(config: &Config, table: &Table) -> String {
    let columns: Vec<String> = table.columns.iter().map(|(name, cql)| format!("  {name} {cql},")).collect();
    let columns = columns.join("\n");
    let names: Vec<&str> = table.clustering.iter().map(|(name, _)| *name).collect();
    let order: Vec<String> =
        table.clustering.iter().map(|(name, order)| format!("{name} {}", order.to_uppercase())).collect();
    let (partition, clustering) = (table.partition.join(", "), names.join(", "));
    let (order, life, window) = (order.join(", "), life(config, table), window_minutes(config));
    format!(
        "CREATE TABLE IF NOT EXISTS {}.{} (\n{columns}\n  PRIMARY KEY (({partition}), {clustering})\n) \
         WITH CLUSTERING ORDER BY ({order})\n  AND default_time_to_live = {life}\n  AND gc_grace_seconds = 10800\n  \
         AND compaction = {{'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'MINUTES', \
         'compaction_window_size': '{window}'}}",
        config.keyspace, table.name
    )
}

/// The insert of a whole row.
pub(super) fn insert(config: &Config, table: &Table) -> String {
    let names: Vec<&str> = table.columns.iter().map(|(name, _)| *name).collect();
    let marks = vec!["?"; names.len()].join(", ");
    format!("INSERT INTO {}.{} ({}) VALUES ({marks})", config.keyspace, table.name, names.join(", "))
}

/// The statements that make keyspace and tables, for `cqlsh -f`, with what an administrator has to know.
pub fn text(config: &Config) -> String {
    let keyspace = &config.keyspace;
    let head = format!(
        "-- Keyspace and tables of the role logs of mirador-central, for keyspace {keyspace}.\n\
         -- Nothing that exists is changed, so this may run again. Run it once at a time, never on two nodes at once.\n\
         -- The role's account then needs no more than: GRANT MODIFY ON KEYSPACE {keyspace} TO role;\n\
         -- and manage_schema: validate in its configuration.\n"
    );
    let statements = TABLES.iter().map(|table| table_statement(config, table));
    let statements = std::iter::once(keyspace_statement(config)).chain(statements);
    statements.fold(head, |text, statement| text + "\n" + &statement + ";\n")
}

#[cfg(test)]
mod tests;
