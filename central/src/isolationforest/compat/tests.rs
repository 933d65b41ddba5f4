//! A configuration and an output of the Collector's processor, taken over.

use std::sync::Arc;

use super::super::config::Config;
use super::super::pass::tests::{attributes, gauge, metric, number, request};
use super::super::pass::{Outcome, Shard};
use super::*;

const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 1_700_000_000 * SECOND;

/// Every key of the processor's code with its default, as its configuration struct has them.
const DEFAULTS: &str = r#"{
    "forest_size": 100, "subsample_size": 256, "contamination_rate": 0.1, "mode": "enrich", "threshold": 0.7,
    "training_window": "24h", "update_frequency": "1h", "min_samples": 1000, "min_node_samples": 10,
    "score_attribute": "anomaly.isolation_score", "classification_attribute": "anomaly.is_anomaly",
    "features": {"traces": ["duration", "error", "http.status_code"], "metrics": ["value", "rate_of_change"],
                 "logs": ["severity_number", "timestamp_gap"]},
    "models": [{"name": "web", "selector": {"service.name": "web"}, "features": ["value"], "threshold": 0.8,
                "forest_size": 50, "subsample_size": 128, "contamination_rate": 0.05}],
    "performance": {"max_memory_mb": 512, "batch_size": 1000, "parallel_workers": 4},
    "adaptive_window": {"enabled": false, "min_window_size": 1000, "max_window_size": 100000, "memory_limit_mb": 256,
                        "adaptation_rate": 0.1, "velocity_threshold": 50, "stability_check_interval": "5m"}
}"#;

fn with(collector: &str) -> Config {
    Config { collector: serde_json::from_str(collector).unwrap(), ..Config::default() }
}

#[test]
fn every_key_of_a_pasted_section_has_an_effect_or_a_line() {
    let config = with(DEFAULTS);
    assert_eq!(config.problems(), Vec::<String>::new());
    let engine = config.scoring();
    assert_eq!((engine.contamination, engine.threshold, engine.warmup_points), (0.1, Some(0.7), 1000));
    let forest = config.resource_forests();
    assert_eq!((forest.trees, forest.sample_size, forest.horizon), (100, 256, Duration::from_hours(24)));
    let used = ["contamination_rate", "threshold", "min_samples", "forest_size", "subsample_size", "training_window"];
    let notes = config.collector.notes(OutputMode::Series);
    let keys: serde_json::Map<String, Value> = serde_json::from_str(DEFAULTS).unwrap();
    for key in keys.keys() {
        let lines = notes.iter().filter(|note| note.starts_with(&format!("{key} has no effect: "))).count();
        assert_eq!(lines, usize::from(!used.contains(&key.as_str())), "{key}: {notes:?}");
    }
    assert_eq!(notes.len() + used.len(), keys.len());
    let lines = config.collector.notes(OutputMode::Attributes);
    assert!(lines.iter().all(|line| !line.contains("_attribute")), "names are used then: {lines:?}");
    assert!(Collector::default().notes(OutputMode::Series).is_empty());
}

#[test]
fn a_value_that_the_collector_takes_and_this_engine_does_not_is_used_as_near_as_can_be_and_named() {
    let text = r#"{"contamination_rate": 0, "threshold": 0.2, "min_samples": 1, "forest_size": 1000,
                   "subsample_size": 8, "training_window": "1s"}"#;
    let config = with(text);
    assert_eq!(config.problems(), Vec::<String>::new());
    let (engine, forest) = (config.scoring(), config.resource_forests());
    assert_eq!((engine.contamination, engine.threshold, engine.warmup_points), (1e-6, Some(0.5), 16));
    assert_eq!((forest.trees, forest.sample_size, forest.horizon), (1000, 16, LEAST_WINDOW));
    assert_eq!(
        config.collector.notes(OutputMode::Series),
        [
            "contamination_rate is 0; 0.000001 is used",
            "threshold is 0.2; 0.5 is used",
            "min_samples is 1; 16 is used",
            "subsample_size is 8; 16 is used",
            "training_window is 1s; 10s is used",
        ]
    );
    let large = with(r#"{"subsample_size": 100000}"#);
    assert_eq!((large.problems(), large.resource_forests().sample_size), (Vec::new(), 4096));
}

#[test]
fn what_the_collector_refuses_is_refused_by_its_own_name() {
    for (text, named) in [
        (r#"{"contamination_rate": 1.5}"#, "collector.contamination_rate is 1.5"),
        (r#"{"threshold": -1}"#, "collector.threshold is -1"),
        (r#"{"training_window": "soon"}"#, "collector.training_window is \"soon\""),
        (r#"{"score_attribute": "a", "classification_attribute": "a"}"#, "collector.score_attribute"),
    ] {
        let problems = with(text).problems().join("\n");
        assert!(problems.contains(named), "{text}: {problems}");
    }
    // Its README has names that its code does not know.
    let unknown = serde_json::from_str::<Collector>(r#"{"window_size": 1000}"#).unwrap_err().to_string();
    assert!(unknown.contains("window_size"), "{unknown}");
}

/// The names and labels of what is written of the gauge `g`, ordinary at first and odd in the end.
fn written(output: OutputMode, collector: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut shard = Shard::new(Arc::new(Config { output, ..with(collector) }), 1);
    let mut last = Outcome::default();
    for step in 0..301_u64 {
        let value = if step == 300 { 900.0 } else { 100.0 + (step % 7) as f64 };
        let point = number(NOW + step * SECOND, value, &[("pod", "a")]);
        let load = request(vec![(attributes(&[("service.name", "cart")]), vec![metric("g", "", gauge(vec![point]))])]);
        last = shard.pass(&load, None, NOW + step * SECOND);
    }
    let labels = |series: &crate::series::Series| -> Vec<(String, String)> {
        series.labels.texts().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let mut rows: Vec<_> = last
        .out
        .series
        .iter()
        .map(|series| (series.labels.value("__name__").unwrap().to_owned(), labels(series)))
        .filter(|(name, _)| name != "target_info")
        .collect();
    rows.sort();
    rows
}

fn value<'a>(labels: &'a [(String, String)], name: &str) -> Option<&'a str> {
    labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
}

#[test]
fn series_leave_the_metric_as_it_is() {
    let rows = written(OutputMode::Series, "{}");
    let names: Vec<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["anomaly_score", "g", "is_anomaly"]);
    assert_eq!(rows[1].1.len(), 3, "name, job and pod: {:?}", rows[1].1);
}

#[test]
fn labels_put_score_and_flag_on_the_sample_of_the_metric() {
    let rows = written(OutputMode::Labels, "{}");
    let (_, sample) = rows.iter().find(|(name, _)| name == "g").unwrap();
    let score: f64 = value(sample, "anomaly_score").unwrap().parse().unwrap();
    assert!(score > 0.8, "{sample:?}");
    assert_eq!(
        (value(sample, "is_anomaly"), value(sample, "pod"), value(sample, "job")),
        (Some("true"), Some("a"), Some("cart"))
    );
}

#[test]
fn attributes_put_them_under_the_names_of_the_collector_or_those_that_are_set() {
    let rows = written(OutputMode::Attributes, "{}");
    let (_, sample) = rows.iter().find(|(name, _)| name == "g").unwrap();
    assert!(value(sample, "anomaly_isolation_score").is_some(), "{sample:?}");
    assert_eq!(value(sample, "anomaly_is_anomaly"), Some("true"));
    let rows = written(OutputMode::Attributes, r#"{"score_attribute": "my.score", "classification_attribute": "odd"}"#);
    let (_, sample) = rows.iter().find(|(name, _)| name == "g").unwrap();
    assert!(value(sample, "my_score").is_some() && value(sample, "anomaly_isolation_score").is_none(), "{sample:?}");
    assert_eq!(value(sample, "odd"), Some("true"));
}
