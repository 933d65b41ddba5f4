//! The tables as they stand on a server.

use std::time::Duration;

use super::*;

#[test]
fn the_tables_are_these() {
    let config = Config { replication_factor: 1, ttl: Duration::from_secs(7 * 24 * 3600), ..Config::default() };
    let window = "compaction = {'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'MINUTES', 'compaction_window_size': '360'} AND gc_grace_seconds = 10800";
    let expected = [
        "CREATE KEYSPACE IF NOT EXISTS otel WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1} AND durable_writes = true".to_owned(),
        format!(
            "CREATE TABLE IF NOT EXISTS otel.logs_v1 ( tenant text, service text, bucket int, shard smallint, id timeuuid, \
             time_nanos bigint, observed_nanos bigint, severity tinyint, severity_text text, body text, body_type tinyint, \
             trace_id blob, span_id blob, flags int, event_name text, namespace text, pod text, node text, \
             attributes frozen<map<text, text>>, resource frozen<map<text, text>>, scope text, \
             PRIMARY KEY ((tenant, service, bucket, shard), id)) \
             WITH CLUSTERING ORDER BY (id DESC) AND default_time_to_live = 604800 AND {window}"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS otel.logs_by_trace_v1 ( tenant text, trace_id blob, id timeuuid, service text, \
             bucket int, shard smallint, span_id blob, severity tinyint, preview text, \
             PRIMARY KEY ((tenant, trace_id), id)) \
             WITH CLUSTERING ORDER BY (id ASC) AND default_time_to_live = 604800 AND {window}"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS otel.log_streams_v1 ( tenant text, day date, service text, bucket int, \
             shards smallint, PRIMARY KEY ((tenant, day), service, bucket, shards)) \
             WITH default_time_to_live = 691200 AND {window}"
        ),
    ];
    assert_eq!(statements(&config), expected);
}

#[test]
fn with_a_datacenter_the_keyspace_is_replicated_in_it() {
    let config = Config { datacenter: "dc-1".to_owned(), ..Config::default() };
    assert!(statements(&config)[0].contains("{'class': 'NetworkTopologyStrategy', 'dc-1': 3}"));
}

#[test]
fn every_column_that_is_written_is_a_column_of_its_table() {
    for (statement, (table, columns)) in statements(&Config::default())[1..].iter().zip(COLUMNS) {
        assert!(statement.contains(&format!(".{table} (")), "{statement}");
        for column in columns {
            assert!(statement.contains(&format!(" {column} ")), "{table} has no {column}");
        }
    }
}

#[test]
fn a_short_life_still_has_a_window_of_a_minute() {
    let config = Config { ttl: Duration::from_secs(60), ..Config::default() };
    assert!(statements(&config)[1].contains("'compaction_window_size': '1'"));
}
