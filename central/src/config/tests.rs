//! What a file may say, for which role.

use mirador_service::config::{parse, render};

use super::*;

fn read(text: &str) -> Config {
    parse(text, &|_| None).unwrap()
}

#[test]
fn the_laptop_needs_no_file_and_stays_on_loopback() {
    let config = Config::laptop();
    assert_eq!(config.problems(Role::All), Vec::<String>::new());
    let endpoints = [
        &config.receiver.protocols.grpc.endpoint,
        &config.receiver.protocols.http.endpoint,
        &config.telemetry.metrics.endpoint,
        &config.health.endpoint,
        &config.console.endpoint.to_string(),
    ];
    assert!(endpoints.iter().all(|endpoint| endpoint.starts_with("127.0.0.1:")), "{endpoints:?}");
}

#[test]
fn an_address_that_is_listened_on_twice_is_refused_with_both_keys() {
    for (text, keys) in [
        (
            "receiver: {protocols: {grpc: {endpoint: '127.0.0.1:1'}, http: {endpoint: '0.0.0.0:1'}}}",
            ["receiver.protocols.grpc.endpoint", "receiver.protocols.http.endpoint"],
        ),
        ("{exporters: {embedded: {}}, health: {endpoint: '127.0.0.1:14380'}}", ["health.endpoint", "console.endpoint"]),
    ] {
        let found = read(text).problems(Role::All);
        assert!(found.iter().any(|problem| keys.iter().all(|key| problem.contains(key))), "{text}: {found:?}");
    }
    let unused = read("health: {endpoint: '127.0.0.1:14380'}").problems(Role::All);
    assert!(
        unused.iter().all(|problem| !problem.contains("console.endpoint")),
        "without a store there is no page: {unused:?}"
    );
}

#[test]
fn the_effective_configuration_reads_back_as_itself() {
    for config in [Config::laptop(), Config::default()] {
        let again: Config = parse(&render(&config), &|_| None).unwrap();
        assert_eq!(again, config);
    }
}

#[test]
fn a_role_says_which_store_it_misses() {
    for (role, missing) in [(Role::ServiceGraph, "traces"), (Role::IsolationForest, "metrics"), (Role::Logs, "logs")] {
        let problems = Config::default().problems(role);
        assert!(problems.iter().any(|problem| problem.contains(missing)), "{role:?}: {problems:?}");
        assert!(
            Config { exporters: ExportersConfig::laptop(), ..Config::default() }
                .problems(role)
                .iter()
                .all(|problem| !problem.contains("nowhere"))
        );
    }
    assert!(Config::default().problems(Role::SpanMetrics).iter().all(|problem| !problem.contains("nowhere")));
}

#[test]
fn roles_that_make_metrics_need_the_owners_of_isolationforest() {
    for role in [Role::ServiceGraph, Role::SpanMetrics] {
        let config = Config { exporters: ExportersConfig::laptop(), ..Config::default() };
        let problems = config.problems(role);
        assert!(problems.iter().any(|problem| problem.starts_with("exporters.metrics")), "{problems:?}");
        let config = read(
            "exporters:\n  embedded: {}\n  metrics:\n    resolver:\n      static:\n        hostnames: [forest-0:4317]\n",
        );
        assert_eq!(config.problems(role), Vec::<String>::new());
    }
}

#[test]
fn two_stores_for_one_signal_are_refused() {
    let config = read(
        "exporters:\n  victoriatraces: {endpoint: 'http://a/'}\n  otlphttp_traces: {endpoint: 'http://b/'}\n  embedded: {}\n",
    );
    let problems = config.problems(Role::All);
    assert!(problems.iter().any(|problem| problem.contains("twice")), "{problems:?}");
}

#[test]
fn numbers_that_cannot_work_are_all_named_at_once() {
    let config = read(
        "servicegraph:\n  store: {ttl: 0s, max_items: 0}\n  metrics_flush_interval: 1ms\n  latency_histogram_buckets: [2s, 1s]\n\
         spanmetrics:\n  metrics_flush_interval: 10ms\n  quantiles: {values: [1.5], windows: 0}\n  namespace: ''\n\
         shutdown_grace: 0s\ntelemetry: {metrics: {endpoint: nowhere}}\n",
    );
    let problems = config.problems(Role::All).join("\n");
    for key in [
        "servicegraph.store.ttl",
        "servicegraph.store: max_items",
        "servicegraph.metrics_flush_interval",
        "servicegraph.latency_histogram_buckets",
        "spanmetrics.metrics_flush_interval",
        "spanmetrics.quantiles.values",
        "spanmetrics.quantiles.windows",
        "spanmetrics.namespace",
        "shutdown_grace",
        "telemetry.metrics",
    ] {
        assert!(problems.contains(key), "{key} is not in\n{problems}");
    }
}

#[test]
fn an_unknown_key_is_an_error() {
    assert!(parse::<Config>("servicegraf: {}\n", &|_| None).is_err());
    assert!(parse::<Config>("servicegraph: {store: {tll: 1s}}\n", &|_| None).is_err());
}

#[test]
fn what_a_backend_finds_wrong_with_its_section_is_said_by_validate() {
    let config = read(
        "exporters:\n  otlphttp_traces: {endpoint: 'ftp://traces.example/v1/traces'}\n  cassandra: {hosts: [], keyspace: 'a-b'}\n  \
         embedded: {path: ''}\n",
    );
    let problems = config.problems(Role::All).join("\n");
    for key in ["exporters.otlphttp_traces.endpoint", "exporters.cassandra.hosts", "exporters.embedded.path"] {
        assert!(problems.contains(key), "{key} is not in\n{problems}");
    }
}
