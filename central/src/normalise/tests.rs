//! The defaults and their form; the golden tables are with the pass that uses them.

use super::*;

#[test]
fn defaults_stay_below_what_victoriametrics_drops() {
    let config = Config::default();
    // -maxLabelsPerTimeseries 40, -maxLabelNameLen 256, -maxLabelValueLen 4096; a score adds one label.
    assert!(config.limits.max_labels < 40);
    assert!(config.limits.max_name_bytes <= 256 && config.limits.max_value_bytes <= 4096);
    assert!(config.max_future <= Duration::from_hours(48));
}

#[test]
fn labels_that_collide_with_their_own_step_back() {
    let limits = LabelLimits::default();
    let mut builder = labels::Builder::new(Naming::Prometheus, &limits, &[]);
    for (key, value) in [("le", "mine"), ("b.c", "2"), ("b_c", "1"), ("b-c", "3"), ("__name__", "evil"), ("e", "")] {
        builder.pair(key, value);
    }
    let base = builder.finish(&mut tally::Tally::default()).unwrap();
    let labels = base.series("h_bucket", Some(("le", "5")));
    let texts: Vec<_> = labels.texts().collect();
    assert_eq!(
        texts,
        [("__name__", "h_bucket"), ("b_c", "3;2;1"), ("exported_le", "mine"), ("key__name__", "evil"), ("le", "5")]
    );
}

#[test]
fn a_value_over_the_limit_drops_the_series_when_told_so() {
    let limits = LabelLimits { on_limit: labels::OnLimit::Drop, max_value_bytes: 40, ..LabelLimits::default() };
    let mut builder = labels::Builder::new(Naming::Prometheus, &limits, &[]);
    builder.pair("a", &"x".repeat(41));
    assert_eq!(builder.finish(&mut tally::Tally::default()), Err(tally::Loss::LabelValue));
    let cut = labels::shortened(&"é".repeat(100), 41);
    assert!(cut.len() <= 41 && cut.starts_with('é'), "{cut}");
}
