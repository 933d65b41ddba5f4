//! Levels, formats and process metrics.

use std::time::Instant;

use super::*;
use crate::metrics::Registry;

fn check(level: &str) -> Result<(), String> {
    LogConfig { level: level.to_owned(), ..LogConfig::default() }.validate().map_err(|error| error.to_string())
}

#[test]
fn levels_and_levels_by_module_are_accepted() {
    for level in
        ["info", "OFF", "warn,mirador_transport=debug", "error, tokio=warn", "mirador_service[span]=trace,info"]
    {
        assert_eq!(check(level), Ok(()), "{level}");
    }
}

#[test]
fn a_word_that_is_no_level_is_refused_with_what_would_be_right() {
    for level in ["", "verbose", "infos,tokio=warn", "mirador=loud"] {
        let error = check(level).unwrap_err();
        assert!(error.starts_with(&format!("log.level: {level:?}: ")), "{error}");
        assert!(error.contains("expected error, warn, info, debug, trace, off"), "{error}");
    }
}

#[test]
fn process_metrics_are_exposed_under_our_names_and_the_collectors() {
    let registry = Registry::new();
    register_process_metrics(&registry, Instant::now());
    let page = registry.encode();
    for name in [
        "mirador_process_uptime_seconds",
        "mirador_process_cpu_seconds_total",
        "mirador_process_resident_memory_bytes",
        "mirador_process_open_descriptors",
        "mirador_process_threads",
        "otelcol_process_uptime_total",
        "otelcol_process_cpu_seconds_total",
        "otelcol_process_memory_rss",
    ] {
        let value = page.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        assert!(value.is_some_and(|value| value.parse::<f64>().is_ok_and(f64::is_finite)), "{name} in {page}");
    }
}
