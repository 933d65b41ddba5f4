//! What a resource is, what its score is made of, and what survives a restart.

use std::sync::Arc;

use mirador_otlp::Request;
use proptest::prelude::*;

use super::super::config::{Config, ForestConfig};
use super::super::detector::codec::{Decoder, Encoder};
use super::super::pass::Shard;
use super::super::pass::tests::{attributes, gauge, metric, number, request};
use super::super::shared::Shared;
use super::super::state;
use super::super::trees::family::FamilySettings;
use super::forests::Nursery;
use super::*;

const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 1_700_000_000 * SECOND;

#[test]
fn metrics_tell_the_kind_and_the_strongest_word_wins() {
    for (metric, kind) in [
        ("traces_span_metrics_calls_total", Some(Kind::Service)),
        ("traces_service_graph_request_total", Some(Kind::Service)),
        ("http.server.request.duration", Some(Kind::Service)),
        ("http_server_request_duration_seconds", Some(Kind::Service)),
        ("db.client.operation.duration", Some(Kind::Service)),
        ("postgresql.backends", Some(Kind::Database)),
        ("redis_commands_processed_total", Some(Kind::Database)),
        ("kafka.brokers", Some(Kind::Messaging)),
        ("k8s.pod.cpu.usage", Some(Kind::Pod)),
        ("container_cpu_usage_seconds_total", Some(Kind::Container)),
        ("system.cpu.utilization", Some(Kind::Host)),
        ("node_load1", Some(Kind::Host)),
        ("jvm.memory.used", Some(Kind::Process)),
        ("process_cpu_seconds_total", Some(Kind::Process)),
        ("goldfish", None),
        ("my.system.load", None),
    ] {
        assert_eq!(Kind::of_metric(metric), kind, "{metric}");
    }
    let mut evidence = Evidence::new(Kind::Service);
    assert_eq!(evidence.kind(), Kind::Service, "attributes speak where no metric does");
    for (metric, kind) in [
        ("go_goroutines", Kind::Process),
        ("node_load1", Kind::Host),
        ("redis_up", Kind::Database),
        ("go_gc", Kind::Database),
    ] {
        evidence.add(Kind::of_metric(metric));
        assert_eq!(evidence.kind(), kind, "after {metric}");
    }
}

#[test]
fn identifying_attributes_tell_the_kind_where_no_metric_does() {
    for (pairs, kind) in [
        (vec![("service.name", "cart"), ("k8s.pod.uid", "1"), ("host.name", "n")], Kind::Service),
        (vec![("service.name", "unknown_service:java"), ("host.name", "n")], Kind::Host),
        (vec![("service.name", "orders"), ("db.system.name", "postgresql")], Kind::Database),
        (vec![("k8s.pod.uid", "1"), ("k8s.node.name", "n")], Kind::Pod),
        (vec![("container.id", "1"), ("host.name", "n")], Kind::Container),
        (vec![("process.pid", "1")], Kind::Process),
        (vec![("team", "x")], Kind::Other),
    ] {
        let request = request(vec![(attributes(&pairs), Vec::new())]);
        let entry = request.resource_metrics().next().unwrap();
        assert_eq!(Kind::of_attributes(&entry.resource()), kind, "{pairs:?}");
    }
}

/// A nursery in which services have seen rate and CPU rise together, and hosts CPU alone.
fn nursery() -> Nursery {
    let settings = FamilySettings { reservoir: 512, ..FamilySettings::default() };
    let mut nursery = Nursery::new(settings, 1).unwrap();
    for epoch in 0..40_u128 {
        let rows = (0..32_u128).map(|index| {
            let up = (((epoch * 7919 + index * 104_729) % 97) as f32 / 97.0 - 0.5) * 6.0;
            let kind = if index % 2 == 0 { Kind::Service } else { Kind::Host };
            let mut signals = [0.0; SIGNALS];
            signals[Signal::Cpu.place()] = up;
            signals[Signal::Rate.place()] = if kind == Kind::Service { up } else { 0.0 };
            Row { owner: index, kind, signals, is_anomalous: false }
        });
        nursery.gather(rows.collect(), usize::MAX);
        let rebuilds = nursery.plan();
        nursery.accept(rebuilds.run());
    }
    nursery
}

#[test]
fn one_row_is_usual_for_one_kind_and_odd_for_another() {
    let nursery = nursery();
    let forests = nursery.forests().load();
    let mut row = [0.0; SIGNALS];
    (row[Signal::Cpu.place()], row[Signal::Rate.place()]) = (2.5, 2.5);
    let [service, host, pod] = [Kind::Service, Kind::Host, Kind::Pod].map(|kind| forests[kind as usize].score(&row));
    assert!(host > service + 0.1, "{host} {service}");
    assert_eq!(pod.to_bits(), 0, "nothing is known of pods");
    row[Signal::Rate.place()] = -2.5;
    let broken = forests[Kind::Service as usize].score(&row);
    assert!(broken > service, "CPU up while the rate is down was never seen: {broken}");
}

#[test]
fn readers_keep_the_forest_that_they_hold_while_a_newer_one_takes_its_place() {
    let mut nursery = nursery();
    let forests = nursery.forests();
    let held = forests.load();
    let row = [3.0; SIGNALS];
    let before = held[Kind::Service as usize].score(&row);
    let rows = (0..200).map(|owner| Row { owner, kind: Kind::Service, signals: row, is_anomalous: false });
    nursery.gather(rows.collect(), usize::MAX);
    let rebuilds = nursery.plan();
    assert!(rebuilds.trees() > 0);
    let planned = forests.load()[Kind::Service as usize].score(&row);
    assert_eq!(planned.to_bits(), before.to_bits(), "nothing is shown before it has grown");
    nursery.accept(rebuilds.run());
    assert_eq!(held[Kind::Service as usize].score(&row).to_bits(), before.to_bits());
    assert_ne!(forests.load()[Kind::Service as usize], held[Kind::Service as usize]);
}

#[test]
fn forests_do_not_depend_on_the_order_in_which_shards_tell() {
    let grow = |reversed: bool| {
        let mut nursery = nursery();
        for epoch in 0..4_u16 {
            let mut rows: Vec<Row> = (0..100_u16)
                .map(|index| {
                    let signals = [f32::from((epoch * 31 + index * 17) % 11); SIGNALS];
                    Row { owner: index.into(), kind: Kind::Pod, signals, is_anomalous: index % 9 == 0 }
                })
                .collect();
            if reversed {
                rows.reverse();
            }
            let late = rows.split_off(40);
            nursery.gather(rows, usize::MAX);
            nursery.gather(late, usize::MAX);
            let rebuilds = nursery.plan();
            nursery.accept(rebuilds.run());
        }
        nursery.forests().load()
    };
    assert!(grow(false) == grow(true));
}

#[test]
fn rows_beyond_the_bound_are_counted() {
    let mut nursery = Nursery::new(FamilySettings::default(), 1).unwrap();
    let row = Row { owner: 1, kind: Kind::Other, signals: [0.0; SIGNALS], is_anomalous: false };
    assert_eq!(
        (nursery.gather(vec![row; 3], 4), nursery.gather(vec![row; 3], 4), nursery.gather(vec![row], 4)),
        (0, 2, 1)
    );
}

#[test]
fn a_forest_that_was_made_with_other_settings_is_refused_by_name() {
    let (mut bytes, nursery) = (Encoder::default(), nursery());
    nursery.encode(&mut bytes);
    let mut other = Nursery::new(FamilySettings { reservoir: 512, trees: 7, ..FamilySettings::default() }, 1).unwrap();
    let refused = other.decode(&mut Decoder(&bytes.0)).unwrap();
    assert_eq!(refused[0], "the forest of kind service: it was made with another number of trees");
    assert_eq!(refused.len(), 2);
    let mut same = Nursery::new(FamilySettings { reservoir: 512, ..FamilySettings::default() }, 1).unwrap();
    assert!(same.decode(&mut Decoder(&bytes.0)).unwrap().is_empty());
    assert!(same.forests().load() == nursery.forests().load());
    for cut in [0, 5, bytes.0.len() / 2, bytes.0.len() - 1] {
        assert!(same.decode(&mut Decoder(&bytes.0[..cut])).is_none(), "{cut}");
    }
}

/// A shard and what it shares, as the role runs them.
struct Rig {
    config: Arc<Config>,
    shard: Shard,
    shared: Shared,
}

impl Rig {
    fn new() -> Self {
        let mut config = Config::default();
        config.engine.warmup_points = 16;
        config.forest = ForestConfig { trees: 8, reservoir: 256, sample_size: 64, ..ForestConfig::default() };
        let config = Arc::new(config);
        Self { shard: Shard::new(Arc::clone(&config), 1), shared: Shared::new(&config.forest, 3), config }
    }

    /// What a process that starts from this one's snapshot is.
    fn restarted(&self, now: u64) -> Self {
        let mut next = Self::new();
        let (payload, left_out) = self.shard.snapshot(1, now);
        assert_eq!(left_out, 0);
        next.shard.restore(state::decode(&payload).expect("what was written can be read"));
        assert_eq!(next.shared.decode(&self.shared.encode()), Some(Vec::new()));
        next
    }

    /// Half a tick of six services and two hosts; a whole one ends with their scores.
    fn step(&mut self, step: u64, seed: u64) -> Vec<(String, u64)> {
        let time = NOW + step * 5 * SECOND;
        self.shard.pass(&load(step, seed, time), None, time);
        if step.is_multiple_of(2) {
            return Vec::new();
        }
        let scored = self.shard.score_resources(&self.shared.forests());
        self.shared.learn(scored.rows);
        let rebuilds = self.shared.nursery.plan();
        self.shared.nursery.accept(rebuilds.run());
        let name = |labels: &Labels| {
            let pairs: Vec<String> = labels.texts().map(|(name, value)| format!("{name}={value}")).collect();
            pairs.join(",")
        };
        scored.out.series.iter().map(|series| (name(&series.labels), series.samples[0].1.to_bits())).collect()
    }
}

fn load(step: u64, seed: u64, time: u64) -> Request {
    let noise = |salt: u64| {
        let mut mixed = (seed ^ (step << 20) ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ (mixed >> 27)) >> 40) as f64 / (1_u64 << 24) as f64
    };
    let services = (0..6).map(|index| {
        let up = noise(index) * 10.0;
        let resource = attributes(&[("service.name", &format!("service-{index}"))]);
        let of = |name: &str, value: f64| metric(name, "", gauge(vec![number(time, value, &[])]));
        let latency = of("http.server.latency", 20.0 + up + noise(100 + index));
        (resource, vec![of("http.server.active_requests", 50.0 + up), latency, of("process.cpu.utilization", up)])
    });
    let hosts = (0..2).map(|index| {
        let resource = attributes(&[("host.name", &format!("host-{index}"))]);
        (resource, vec![metric("system.cpu.utilization", "1", gauge(vec![number(time, noise(200 + index), &[])]))])
    });
    request(services.chain(hosts).collect())
}

#[test]
fn resources_are_scored_by_the_forest_of_their_kind_and_counted_by_it() {
    let mut rig = Rig::new();
    let last = (0..120).map(|step| rig.step(step, 5)).last().unwrap();
    assert_eq!(last.len(), 8);
    let counts = rig.shard.resources();
    assert_eq!((counts[Kind::Service as usize], counts[Kind::Host as usize], counts.iter().sum::<usize>()), (6, 2, 8));
    let forests = rig.shared.forests().load();
    for kind in [Kind::Service, Kind::Host] {
        assert!(forests[kind as usize].sample() > 0, "{kind:?} has a forest");
    }
    assert_eq!(forests[Kind::Other as usize].sample(), 0);
}

#[test]
fn a_resource_beyond_the_limit_is_counted_and_its_series_are_scored() {
    let mut config = Config::default();
    config.forest.max_resources = 3;
    let mut shard = Shard::new(Arc::new(config), 1);
    let outcome = shard.pass(&load(0, 1, NOW), None, NOW);
    assert_eq!((outcome.resources_over_limit, shard.resources().iter().sum::<usize>()), (5, 3));
    assert_eq!(shard.series(), 20);
    let mut config = Config::default();
    config.forest.enabled = false;
    let mut shard = Shard::new(Arc::new(config), 1);
    assert_eq!((shard.pass(&load(0, 1, NOW), None, NOW).resources_over_limit, shard.resources()), (0, [0; KINDS]));
}

#[test]
fn no_prefix_of_a_shards_resources_is_taken_for_all_of_them() {
    let mut rig = Rig::new();
    (0..41).for_each(|step| {
        rig.step(step, 5);
    });
    let mut bytes = Encoder::default();
    rig.shard.resources.encode(&mut bytes);
    let whole = Resources::decode(&mut Decoder(&bytes.0)).unwrap();
    assert_eq!(whole.0.len(), 8);
    assert!(whole.0.iter().any(|(_, resource)| resource.gathered.series() > 0), "amid a tick");
    for cut in 0..bytes.0.len() {
        assert!(Resources::decode(&mut Decoder(&bytes.0[..cut])).is_none(), "{cut}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn replaying_a_snapshot_equals_never_having_stopped_for_resources_too(stop in 1_u64..110, seed: u64) {
        let mut whole = Rig::new();
        let mut stopped = Rig::new();
        for step in 0..120 {
            if step == stop {
                stopped = stopped.restarted(NOW + step * 5 * SECOND);
            }
            prop_assert_eq!(stopped.step(step, seed), whole.step(step, seed), "step {}", step);
        }
        let forests = whole.shared.forests().load();
        prop_assert!(forests[Kind::Service as usize].sample() > 0, "there was a forest to be restored");
        prop_assert!(whole.config.forest.trees == 8);
    }
}
