//! Registration, exposition, description.

use prometheus_client::encoding::EncodeLabelSet;

use super::*;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Loss {
    signal: &'static str,
    reason: &'static str,
}

fn make_histogram() -> Histogram {
    Histogram::new([0.1, 1.0])
}

fn registry() -> Registry {
    let registry = Registry::new();
    registry.counter("mirador_b_requests", "Requests.").inc_by(3);
    registry.gauge("mirador_c_queue_bytes", "Bytes waiting").set(-7);
    let losses = registry.counter_family::<Loss>("mirador_a_dropped_items_total", "Items that were dropped.");
    losses.get_or_create_owned(&Loss { signal: "traces", reason: "full" }).inc();
    losses.get_or_create_owned(&Loss { signal: "traces", reason: "full" }).inc();
    let waits = registry.histogram_family::<Labels>("mirador_d_wait_seconds", "Waits.", make_histogram);
    waits.get_or_create_owned(&vec![("owner", "a\"},x=\"b\\".to_owned())]).observe(0.5);
    registry.counter_family::<Loss>("mirador_e_refused", "Refused.");
    registry
}

#[test]
fn the_page_is_open_metrics_text_sorted_by_name() {
    let expected = "\
# HELP mirador_a_dropped_items Items that were dropped.
# TYPE mirador_a_dropped_items counter
mirador_a_dropped_items_total{signal=\"traces\",reason=\"full\"} 2
# HELP mirador_b_requests Requests.
# TYPE mirador_b_requests counter
mirador_b_requests_total 3
# HELP mirador_c_queue_bytes Bytes waiting.
# TYPE mirador_c_queue_bytes gauge
mirador_c_queue_bytes -7
# HELP mirador_d_wait_seconds Waits.
# TYPE mirador_d_wait_seconds histogram
mirador_d_wait_seconds_sum{owner=\"a\\\"},x=\\\"b\\\\\"} 0.5
mirador_d_wait_seconds_count{owner=\"a\\\"},x=\\\"b\\\\\"} 1
mirador_d_wait_seconds_bucket{le=\"0.1\",owner=\"a\\\"},x=\\\"b\\\\\"} 0
mirador_d_wait_seconds_bucket{le=\"1.0\",owner=\"a\\\"},x=\\\"b\\\\\"} 1
mirador_d_wait_seconds_bucket{le=\"+Inf\",owner=\"a\\\"},x=\\\"b\\\\\"} 1
# EOF
";
    assert_eq!(registry().encode(), expected);
}

#[test]
fn every_registered_metric_is_described_as_it_is_exposed() {
    let registry = registry();
    registry.declare_labels("mirador_e_refused_total", &["reason", "signal"]);
    let described = registry.describe();
    let short: Vec<_> = described
        .iter()
        .map(|one| (one.name.as_str(), one.kind.as_str(), one.unit.as_str(), one.labels.join(",")))
        .collect();
    let row = |name, kind, unit, labels: &str| (name, kind, unit, labels.to_owned());
    assert_eq!(
        short,
        [
            row("mirador_a_dropped_items_total", "counter", "", "reason,signal"),
            row("mirador_b_requests_total", "counter", "", ""),
            row("mirador_c_queue_bytes", "gauge", "bytes", ""),
            row("mirador_d_wait_seconds", "histogram", "seconds", "owner"),
            row("mirador_e_refused_total", "counter", "", "reason,signal"),
        ]
    );
    assert_eq!(described[2].help, "Bytes waiting.");
}

#[test]
fn registering_again_gives_the_same_metric() {
    let registry = Registry::new();
    let one = registry.counter("mirador_x", "X.");
    let two = registry.clone().counter("mirador_x_total", "X.");
    one.inc();
    two.inc();
    assert_eq!((one.get(), registry.describe().len()), (2, 1));
    let family = registry.counter_family::<Labels>("mirador_y", "Y.");
    family.get_or_create_owned(&vec![]).inc();
    assert_eq!(registry.counter_family::<Labels>("mirador_y", "Y.").get_or_create_owned(&vec![]).get(), 1);
}

#[test]
#[should_panic(expected = "metric mirador_x is registered with another type")]
fn one_name_with_two_types_is_a_mistake() {
    let registry = Registry::new();
    registry.counter("mirador_x", "X.");
    registry.gauge("mirador_x", "X.");
}

#[test]
#[should_panic(expected = "metric name \"mirador.x\"")]
fn a_malformed_name_is_a_mistake() {
    Registry::new().counter("mirador.x", "X.");
}

#[test]
fn observed_values_are_read_at_every_scrape() {
    let registry = Registry::new();
    let reads = Counter::<u64>::default();
    let inside = reads.clone();
    registry.observe_gauge("mirador_fill_ratio", "Fill.", move || {
        inside.inc();
        inside.get() as f64 / 4.0
    });
    registry.observe_counter("mirador_cpu_seconds", "Time.", || 1.5);
    registry.observe_counter("mirador_cpu_seconds", "Time.", || 9.0);
    assert!(registry.encode().contains("mirador_fill_ratio 0.25\n"));
    assert!(registry.encode().contains("mirador_fill_ratio 0.5\n"));
    assert!(registry.encode().contains("mirador_cpu_seconds_total 1.5\n"));
    assert_eq!(reads.get(), 3);
}

#[test]
fn a_family_of_which_nobody_knows_the_labels_has_a_question_mark_for_them() {
    let registry = Registry::new();
    registry.counter("mirador_a_plain", "A.");
    registry.counter_family::<Labels>("mirador_b_declared", "B.");
    registry.declare_labels("mirador_b_declared", &["reason", "signal"]);
    registry.histogram_family::<Labels>("mirador_c_unknown_seconds", "C | c.", make_histogram);
    let seen = registry.gauge_family::<Labels>("mirador_d_seen", "D.");
    seen.get_or_create_owned(&vec![("owner", "x".to_owned())]).set(1);
    let rows = "\
| `mirador_a_plain_total` | counter |  | A. |
| `mirador_b_declared_total` | counter | `reason`, `signal` | B. |
| `mirador_c_unknown_seconds` | histogram | ? | C \\| c. |
| `mirador_d_seen` | gauge | `owner` | D. |
";
    assert_eq!(registry.document(), format!("| metric | kind | labels | meaning |\n|---|---|---|---|\n{rows}"));
}

#[test]
fn help_texts_stay_on_their_line() {
    let registry = Registry::new();
    registry.gauge("mirador_x", "One\n  two \"three\" \\ four.");
    assert!(registry.encode().starts_with("# HELP mirador_x One two \\\"three\\\" \\\\ four.\n# TYPE"));
    assert_eq!(registry.describe()[0].help, "One two \"three\" \\ four.");
}

#[test]
fn a_metric_that_a_page_does_not_have_is_named_whatever_its_labels() {
    let registry = Registry::new();
    registry.counter("mirador_a", "What a means.");
    registry.counter("mirador_b", "What b means.");
    let table = registry.document();
    assert_eq!(undocumented(&table, &table), None);
    assert_eq!(undocumented(&table.replace("|  |", "| `role` |"), &table), None);
    let row = table.lines().find(|row| row.contains("mirador_b")).unwrap();
    for page in [table.replace("What b means.", "What it meant."), table.replace("mirador_b", "mirador_c")] {
        assert_eq!(undocumented(&page, &table), Some(row));
    }
}
