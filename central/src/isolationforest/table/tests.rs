//! Series that fall silent.

use std::sync::Arc;

use super::super::config::Config;
use super::super::episodes::{Event, EventKind};
use super::super::pass::Shard;
use super::super::pass::tests::{attributes, gauge, metric, number, request};

const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 1_700_000_000 * SECOND;

/// Ten gauges of one service, a point of each every ten seconds; some of them may keep quiet.
struct Rig {
    shard: Shard,
    step: u64,
}

impl Rig {
    fn new(silent_series: bool) -> Self {
        let mut config = Config::default();
        config.engine.silent_series = silent_series;
        Self { shard: Shard::new(Arc::new(config), 1), step: 0 }
    }

    /// So many steps in which all but the first `quiet` speak; what is told of silence, by kind.
    fn run(&mut self, steps: u64, quiet: usize) -> Vec<(EventKind, String)> {
        let mut told = Vec::new();
        for _ in 0..steps {
            self.step += 1;
            let time = NOW + self.step * 10 * SECOND;
            let value = 5.0 + (self.step % 7) as f64;
            let speaks = |index: &usize| *index >= quiet;
            let metrics = (0..10)
                .filter(speaks)
                .map(|index| metric(&format!("m{index}"), "", gauge(vec![number(time, value, &[])])));
            let load = request(vec![(attributes(&[("service.name", "cart")]), metrics.collect())]);
            told.extend(self.shard.pass(&load, None, time).events);
            told.extend(self.shard.expire(time).1);
        }
        told.iter().map(|event: &Event| (event.kind, event.label("metric").to_owned())).collect()
    }
}

#[test]
fn a_series_that_falls_silent_among_others_is_told_once_and_so_is_its_return() {
    let mut rig = Rig::new(true);
    assert_eq!(rig.run(100, 0), []);
    assert_eq!(rig.run(12, 1), [], "two minutes are the least silence");
    assert_eq!(rig.run(50, 1), [(EventKind::Silent, "m0".to_owned())]);
    assert_eq!(rig.run(50, 0), [(EventKind::HeardAgain, "m0".to_owned())]);
}

#[test]
fn a_resource_that_loses_many_series_at_once_is_told_as_one() {
    let mut rig = Rig::new(true);
    rig.run(100, 0);
    let told = rig.run(50, 4);
    assert_eq!(told.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [EventKind::Silent]);
}

#[test]
fn nothing_is_told_of_young_series_nor_when_nobody_asks() {
    let mut rig = Rig::new(true);
    rig.run(60, 0);
    assert_eq!(rig.run(60, 1), [], "64 points are the least that tells an interval");
    let mut rig = Rig::new(false);
    rig.run(100, 0);
    assert_eq!(rig.run(60, 1), []);
}
