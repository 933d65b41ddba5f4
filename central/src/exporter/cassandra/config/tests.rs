//! What cannot work is refused with its key.

use super::*;

type Change = fn(&mut Config);

#[test]
fn the_defaults_and_a_full_section_are_right() {
    Config::default().check().unwrap();
    let config: Config = mirador_service::config::parse(
        "hosts: [cassandra-0:9042, cassandra-1]\nusername: logs\npassword: secret\ndatacenter: dc1\nconsistency: local_one\nttl: 24h\nbucket_width: 5m\nshards: 64\nshards_by_service: {cart: 1}\n",
        &|_| None,
    )
    .unwrap();
    config.check().unwrap();
}

#[test]
fn everything_that_cannot_work_is_refused_by_its_key() {
    let wrong: [(&str, Change); 22] = [
        ("hosts", |config| config.hosts.clear()),
        ("hosts", |config| config.hosts.push(String::new())),
        ("username", |config| config.username = "only".to_owned()),
        ("username", |config| config.password = Secret::new("only")),
        ("keyspace", |config| config.keyspace = "logs; DROP KEYSPACE otel".to_owned()),
        ("keyspace", |config| config.keyspace = "1st".to_owned()),
        ("keyspace", |config| config.keyspace = "k".repeat(49)),
        ("keyspace", |config| config.keyspace.clear()),
        ("datacenter", |config| config.datacenter = "dc1'".to_owned()),
        ("tenant", |config| config.tenant.clear()),
        ("replication_factor", |config| config.replication_factor = 0),
        ("ttl", |config| config.ttl = Duration::from_secs(59)),
        ("ttl", |config| config.ttl = Duration::from_secs(21 * 365 * 24 * 3600)),
        ("bucket_width", |config| config.bucket_width = Duration::from_secs(1)),
        ("bucket_width", |config| config.bucket_width = Duration::from_millis(90_500)),
        ("bucket_width", |config| config.bucket_width = config.ttl * 2),
        ("timeout", |config| config.timeout = Duration::ZERO),
        ("shards", |config| config.shards = 0),
        ("shards", |config| config.shards = 65),
        ("shards_by_service.cart", |config| config.shards_by_service = [("cart".to_owned(), 0)].into()),
        ("max_in_flight_bytes", |config| config.max_in_flight_bytes = 1),
        ("max_body_bytes", |config| config.max_body_bytes = 0),
    ];
    for (key, change) in wrong {
        let mut config = Config::default();
        change(&mut config);
        let error = config.check().unwrap_err().to_string();
        assert!(error.starts_with("exporters.cassandra") && error.contains(key), "{key}: {error}");
        assert!(!error.contains("only"), "a password is shown: {error}");
    }
}
