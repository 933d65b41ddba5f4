//! The statements as an administrator reads them.

use std::time::Duration;

use super::*;

#[test]
fn the_statements_are_these() {
    let config = Config { replication_factor: 1, ttl: Duration::from_secs(7 * 24 * 3600), ..Config::default() };
    assert_eq!(text(&config), include_str!("schema.cql"));
}

#[test]
fn with_a_datacenter_the_keyspace_is_replicated_in_it() {
    let config = Config { datacenter: "dc-1".to_owned(), ..Config::default() };
    assert!(keyspace_statement(&config).contains("{'class': 'NetworkTopologyStrategy', 'dc-1': 3}"));
}

#[test]
fn every_column_of_a_key_is_a_column_and_no_column_is_named_twice() {
    for table in &TABLES {
        let names: Vec<&str> = table.columns.iter().map(|(name, _)| *name).collect();
        let clustering = table.clustering.iter().map(|(name, _)| name);
        assert!(table.partition.iter().chain(clustering).all(|key| names.contains(key)), "{}", table.name);
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), names.len(), "{}", table.name);
    }
}

#[test]
fn an_insert_binds_every_column_of_its_table() {
    let streams = TABLES.iter().find(|table| table.name == STREAMS).unwrap();
    assert_eq!(
        insert(&Config::default(), streams),
        "INSERT INTO otel.log_streams_v1 (tenant, day, service, bucket, shards) VALUES (?, ?, ?, ?, ?)"
    );
}

#[test]
fn a_short_life_still_has_a_window_of_a_minute() {
    let config = Config { ttl: Duration::from_secs(60), ..Config::default() };
    assert!(text(&config).contains("'compaction_window_size': '1'"));
}
