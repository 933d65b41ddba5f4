//! Defaults, key names and the refusal of what cannot work.

use super::*;

fn parse(json: &str) -> Result<Config, serde_json::Error> {
    serde_json::from_str(json)
}

fn keys(config: &Config) -> Vec<String> {
    config.problems().into_iter().map(|problem| problem.key).collect()
}

#[test]
fn the_default_is_usable_and_has_the_connectors_buckets() {
    let config = parse("{}").expect("empty is valid");
    assert_eq!(config, Config::default());
    assert_eq!(keys(&config), [""; 0]);
    let bounds = config.bounds_nanos();
    assert_eq!(bounds.len(), 16);
    assert_eq!((bounds[0], bounds[11], bounds[15]), (2_000_000, 1_400_000_000, 15_000_000_000));
}

#[test]
fn keys_are_those_of_the_span_metrics_connector() {
    let config = parse(
        r#"{"histogram": {"unit": "s", "explicit": {"buckets": ["100us", "1m30s"]}},
            "dimensions": [{"name": "http.method", "default": "GET"}, {"name": "region"}],
            "exclude_dimensions": ["status.code"], "aggregation_cardinality_limit": 5,
            "exemplars": {"enabled": false, "max_per_data_point": 2}, "metrics_flush_interval": "1s"}"#,
    )
    .expect("all keys are known");
    assert_eq!(config.bounds_nanos(), [100_000, 90_000_000_000]);
    assert_eq!(config.histogram.unit.nanos(), 1_000_000_000);
    assert_eq!(config.exclude_dimensions, [BuiltIn::StatusCode]);
    assert_eq!(config.dimensions[0].default.as_deref(), Some("GET"));
    let text = serde_json::to_string(&config).expect("serialises");
    assert_eq!(parse(&text).expect("parses back"), config);
}

#[test]
fn an_unknown_key_is_an_error() {
    assert!(parse(r#"{"dimension": []}"#).is_err());
    assert!(parse(r#"{"exemplars": {"max": 1}}"#).is_err());
    assert!(parse(r#"{"exclude_dimensions": ["http.method"]}"#).is_err());
}

#[test]
fn every_problem_names_its_key_value_and_what_would_be_right() {
    let config = parse(
        r#"{"histogram": {"explicit": {"buckets": ["2s", "1s"]}},
            "dimensions": [{"name": ""}, {"name": "a"}, {"name": "a"}, {"name": "span.kind"}],
            "aggregation_cardinality_limit": 0, "exemplars": {"max_per_data_point": 6},
            "metrics_flush_interval": "1ms", "label_value_length_limit": 3}"#,
    )
    .expect("it parses");
    let expected = [
        "aggregation_cardinality_limit",
        "exemplars.max_per_data_point",
        "metrics_flush_interval",
        "label_value_length_limit",
        "histogram.explicit.buckets",
        "dimensions[0].name",
        "dimensions[2].name",
        "dimensions[3].name",
    ];
    assert_eq!(keys(&config), expected);
    let text = config.problems()[4].to_string();
    assert_eq!(text, "histogram.explicit.buckets: 1s after 2s is not usable, expected strictly ascending bounds");
}

#[test]
fn the_tap_can_use_bounds_in_any_order() {
    let config = parse(r#"{"histogram": {"explicit": {"buckets": ["2s", "1s", "2s"]}}}"#).expect("it parses");
    assert_eq!(config.bounds_nanos(), [1_000_000_000, 2_000_000_000]);
}
