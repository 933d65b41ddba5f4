//! Quantile gauges: over which windows and agents, and how they end.

use super::super::super::config::QuantilesConfig;
use super::*;

#[test]
fn quantiles_cover_the_last_windows_of_all_agents_and_end_with_a_stale_marker() {
    let quantiles = QuantilesConfig { values: vec![0.5, 0.999], windows: 2 };
    let config = Config { quantiles, ..Config::default() };
    let mut engine = Engine::new(&config, STARTED);
    let mut agents = [Agent::new("a", STARTED + 1, &config.tap()), Agent::new("b", STARTED + 1, &config.tap())];
    let mut ids = 1..;
    for agent in &mut agents {
        let calls: Vec<_> = (1..=500).map(|ms| call(1, 1, ms * MS, ids.next().unwrap())).collect();
        engine.merge(&agent.window(&calls), STARTED + SECOND).unwrap();
    }
    let gauges = |engine: &mut Engine, at: u64| {
        let (flush, requests) = engine.flush(STARTED + at * SECOND);
        engine.confirm(flush);
        let value = |point: &NumberDataPoint| match point.value {
            Some(number_data_point::Value::AsDouble(value)) => Some(value),
            _ => None,
        };
        let gauges = read(&requests).gauges;
        gauges.into_iter().map(|(name, points)| (name, value(&points[0].1))).collect::<BTreeMap<_, _>>()
    };
    let (median, tail) = ("traces.span.metrics.duration.p50", "traces.span.metrics.duration.p99.9");
    for at in [2, 3] {
        let shown = gauges(&mut engine, at);
        assert!((shown[median].unwrap() - 250.0).abs() < 2.5, "{shown:?}");
        assert!((shown[tail].unwrap() - 500.0).abs() <= 5.0 && shown[tail].unwrap() <= 500.0, "{shown:?}");
    }
    let shown = gauges(&mut engine, 4);
    assert_eq!((shown[median], shown[tail]), (None, None), "one stale marker");
    assert!(gauges(&mut engine, 5).is_empty(), "and nothing after it");
    engine.merge(&agents[0].window(&[call(1, 1, 8 * MS, 5000)]), STARTED + 6 * SECOND).unwrap();
    assert_eq!(gauges(&mut engine, 7)[median].map(f64::round), Some(8.0));
}
