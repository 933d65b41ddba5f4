//! The command line as people type it.

use clap::CommandFactory as _;

use super::*;

fn task(line: &str) -> Result<Task, Failed> {
    Cli::try_parse_from(line.split(' ')).map_err(|error| Failed::usage(error.to_string()))?.task()
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_role_is_a_subcommand_of_its_name() {
    let config = file(
        "exporters:\n  embedded: {}\n  metrics:\n    resolver:\n      static:\n        hostnames: [forest-0:4317]\n",
    );
    for role in [Role::ServiceGraph, Role::SpanMetrics, Role::IsolationForest, Role::Logs, Role::All] {
        let line = format!("mirador-central {} --config {}", role.as_str(), config.path().display());
        match task(&line) {
            Ok(Task::Run(parsed, _)) => assert_eq!(parsed, role),
            other => panic!("{line}: {other:?}"),
        }
    }
}

#[test]
fn only_all_runs_without_a_file() {
    assert!(matches!(task("mirador-central all"), Ok(Task::Run(Role::All, _))));
    for role in ["servicegraph", "spanmetrics", "isolationforest", "logs"] {
        assert!(task(&format!("mirador-central {role}")).is_err());
    }
}

#[test]
fn validate_prints_what_is_effective_and_refuses_what_cannot_work() {
    let good = file("exporters: {embedded: {}}\nservicegraph: {store: {ttl: 3s}}\n");
    match task(&format!("mirador-central validate --config {}", good.path().display())) {
        Ok(Task::Print(text)) => assert!(text.contains("ttl: 3s") && text.contains("max_items: 100000"), "{text}"),
        other => panic!("{other:?}"),
    }
    let bad = file("servicegraph: {store: {ttl: 0s}}\n");
    let failed = task(&format!("mirador-central validate servicegraph --config {}", bad.path().display())).unwrap_err();
    assert_eq!(failed.code(), 64);
    assert!(failed.message().contains("servicegraph.store.ttl") && failed.message().contains("nowhere to keep traces"));
}

#[test]
fn the_schema_is_printed_without_a_file_and_needs_a_cluster_otherwise() {
    match task("mirador-central schema print") {
        Ok(Task::Print(text)) => assert!(text.contains("CREATE TABLE IF NOT EXISTS otel.logs_v1"), "{text}"),
        other => panic!("{other:?}"),
    }
    let named = file("exporters: {cassandra: {keyspace: audit, hosts: [cassandra-0:9042]}}\n");
    match task(&format!("mirador-central schema print --config {}", named.path().display())) {
        Ok(Task::Print(text)) => assert!(text.contains("CREATE KEYSPACE IF NOT EXISTS audit"), "{text}"),
        other => panic!("{other:?}"),
    }
    for verb in ["apply --timeout 1m30s", "check"] {
        let line = format!("mirador-central schema {verb} --config {}", named.path().display());
        assert!(matches!(task(&line), Ok(Task::Schema(_))), "{line}");
        assert!(task(&format!("mirador-central schema {verb}")).is_err(), "{verb} needs a file");
    }
    let elsewhere = file("exporters: {embedded: {}}\n");
    let wrong = file("exporters: {cassandra: {keyspace: 'a-b'}}\n");
    for (config, said) in [(elsewhere, "exporters.cassandra is not set"), (wrong, "exporters.cassandra.keyspace")] {
        let failed = task(&format!("mirador-central schema apply --config {}", config.path().display())).unwrap_err();
        assert!(failed.code() == 64 && failed.message().contains(said), "{}", failed.message());
    }
}
