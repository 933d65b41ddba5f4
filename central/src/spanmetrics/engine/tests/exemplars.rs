//! Exemplars of all agents: how many leave, and what a flush that was not taken does to them.

use opentelemetry_proto::tonic::metrics::v1::{Exemplar, exemplar};

use super::*;

/// Two agents with ten calls each, of 1 to 20 ms.
fn counted(config: &Config) -> Engine {
    let mut engine = Engine::new(config, STARTED);
    for (first, name) in [(1, "a"), (11, "b")] {
        let calls: Vec<_> = (first..first + 10).map(|ms| call(1, 1, u64::from(ms) * MS, ms)).collect();
        engine.merge(&Agent::new(name, STARTED + 1, &Config::default().tap()).window(&calls), STARTED).unwrap();
    }
    engine
}

/// Milliseconds of the exemplars of the one series, which both metrics carry alike.
fn shown(requests: &[Bytes]) -> Vec<f64> {
    let flushed = read(requests);
    let (_, duration) = flushed.durations.last().unwrap();
    assert_eq!(flushed.calls.last().unwrap().1.exemplars, duration.exemplars);
    let value = |exemplar: &Exemplar| match exemplar.value {
        Some(exemplar::Value::AsDouble(value)) => value,
        other => panic!("unexpected {other:?}"),
    };
    duration.exemplars.iter().map(value).collect()
}

#[test]
fn as_many_leave_as_are_configured_here_whatever_agents_send_and_the_slowest_is_among_them() {
    for (enabled, places, expected) in [(true, 5, 5), (true, 2, 2), (true, 1, 1), (false, 5, 0)] {
        let mut config = Config::default();
        (config.exemplars.enabled, config.exemplars.max_per_data_point) = (enabled, places);
        let (_, requests) = counted(&config).flush(STARTED + SECOND);
        let values = shown(&requests);
        assert_eq!(values.len(), expected);
        assert!(places < 2 || !enabled || values.contains(&20.0), "{values:?}");
    }
}

#[test]
fn they_leave_again_with_the_next_flush_until_one_is_taken() {
    let config = Config::default();
    let mut engine = counted(&config);
    let (_, requests) = engine.flush(STARTED + SECOND);
    let first = shown(&requests);
    assert_eq!(first.len(), 5);
    // Meanwhile a slower one has come.
    let slower = [call(1, 1, 30 * MS, 99)];
    engine.merge(&Agent::new("c", STARTED + 1, &config.tap()).window(&slower), STARTED).unwrap();
    let (flush, requests) = engine.flush(STARTED + 2 * SECOND);
    let again = shown(&requests);
    assert!(again.len() == 5 && again.contains(&30.0) && again.contains(&20.0), "{first:?}, then {again:?}");
    engine.confirm(flush);
    let (_, requests) = engine.flush(STARTED + 3 * SECOND);
    assert_eq!(shown(&requests), Vec::<f64>::new());
}
