//! What is missing, what is in the way, and what is only worth a word.

use super::*;

/// A cluster that has exactly what the configuration asks for.
fn made(config: &Config) -> Found {
    let tables = TABLES.iter().map(|table| {
        let columns = table.columns.iter().map(|(name, cql)| {
            let partition = table.partition.iter().position(|key| key == name);
            let clustering = table.clustering.iter().position(|(key, _)| key == name);
            let (kind, position, order) = match (partition, clustering) {
                (Some(at), _) => ("partition_key", at as i32, "none"),
                (_, Some(at)) => ("clustering", at as i32, table.clustering[at].1),
                _ => ("regular", -1, "none"),
            };
            let column =
                FoundColumn { cql: (*cql).to_owned(), kind: kind.to_owned(), position, order: order.to_owned() };
            ((*name).to_owned(), column)
        });
        let compaction = [
            ("class", "org.apache.cassandra.db.compaction.TimeWindowCompactionStrategy".to_owned()),
            ("compaction_window_size", window_minutes(config).to_string()),
        ];
        let compaction = compaction.map(|(key, value)| (key.to_owned(), value)).into();
        let ttl = life(config, table) as i32;
        (table.name.to_owned(), FoundTable { columns: columns.collect(), ttl, compaction })
    });
    let replication = replication(config).map(|(key, value)| match key.as_str() {
        "class" => (key, format!("org.apache.cassandra.locator.{value}")),
        _ => (key, value),
    });
    Found { replication: Some(replication.into()), tables: tables.collect() }
}

type Change = fn(&mut Found);

fn logs(found: &mut Found) -> &mut FoundTable {
    found.tables.get_mut("logs_v1").unwrap()
}

#[test]
fn what_was_made_by_the_statements_differs_in_nothing() {
    for datacenter in ["", "dc1"] {
        let config = Config { datacenter: datacenter.to_owned(), ..Config::default() };
        assert_eq!(compare(&config, &made(&config)), Difference::default());
    }
}

#[test]
fn an_empty_cluster_lacks_the_keyspace_and_every_table() {
    let difference = compare(&Config::default(), &Found::default());
    let all = ["keyspace otel", "table otel.logs_v1", "table otel.logs_by_trace_v1", "table otel.log_streams_v1"];
    assert_eq!(difference.missing, all);
    assert!(difference.wrong.is_empty() && difference.notes.is_empty(), "{difference:?}");
}

#[test]
fn a_table_of_another_shape_is_in_the_way_and_is_told_with_what_is_right() {
    let cases: [(Change, &str); 5] = [
        (|found| drop(logs(found).columns.remove("scope")), "otel.logs_v1 has no column scope text"),
        (
            |found| logs(found).columns.get_mut("body").unwrap().cql = "blob".to_owned(),
            "otel.logs_v1.body is of type blob, text is right",
        ),
        (
            |found| logs(found).columns.get_mut("id").unwrap().order = "asc".to_owned(),
            "the clustering of otel.logs_v1 is (id asc), (id desc) is right",
        ),
        (
            |found| logs(found).columns.get_mut("shard").unwrap().kind = "regular".to_owned(),
            "the partition key of otel.logs_v1 is (tenant, service, bucket), (tenant, service, bucket, shard) is right",
        ),
        (
            |found| {
                let more = FoundColumn { position: 1, ..logs(found).columns["id"].clone() };
                logs(found).columns.insert("region".to_owned(), more);
            },
            "the clustering of otel.logs_v1 is (id desc, region desc), (id desc) is right",
        ),
    ];
    for (change, said) in cases {
        let mut found = made(&Config::default());
        change(&mut found);
        let difference = compare(&Config::default(), &found);
        assert_eq!(difference.wrong, [said]);
        assert!(difference.missing.is_empty(), "{difference:?}");
    }
}

#[test]
fn what_a_newer_program_or_an_administrator_has_added_is_nobodys_harm() {
    let mut found = made(&Config::default());
    let more =
        FoundColumn { position: -1, kind: "regular".to_owned(), cql: "text".to_owned(), order: "none".to_owned() };
    logs(&mut found).columns.insert("region".to_owned(), more);
    found.tables.insert("logs_v2".to_owned(), FoundTable::default());
    assert_eq!(compare(&Config::default(), &found), Difference::default());
}

#[test]
fn other_options_work_and_are_told() {
    let cases: [(Change, &str); 3] = [
        (|found| logs(found).ttl = 60, "rows of otel.logs_v1 expire after 60 s, the configuration says 604800 s"),
        (|found| logs(found).compaction.clear(), "otel.logs_v1 is compacted by"),
        (
            |found| drop(found.replication.as_mut().unwrap().insert("replication_factor".to_owned(), "1".to_owned())),
            "replication_factor 1, the configuration says class SimpleStrategy, replication_factor 3",
        ),
    ];
    for (change, said) in cases {
        let mut found = made(&Config::default());
        change(&mut found);
        let difference = compare(&Config::default(), &found);
        assert!(difference.notes.len() == 1 && difference.notes[0].contains(said), "{said}: {difference:?}");
        assert!(difference.missing.is_empty() && difference.wrong.is_empty(), "{difference:?}");
    }
}
