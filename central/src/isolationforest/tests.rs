//! The role as a whole: requests in, a store behind, answers out.

mod shop;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use super::pass::tests::{attributes, gauge, metric, number, request};
use super::*;
use crate::exporter::Stored;
use crate::series::SeriesBatch;

const SECOND: u64 = 1_000_000_000;

#[derive(Default)]
struct Memory {
    samples: Mutex<BTreeMap<String, u64>>,
    fail: Mutex<Vec<ExportError>>,
}

impl MetricStore for Memory {
    fn write(&self, batch: Arc<SeriesBatch>) -> Stored<'_> {
        Box::pin(async move {
            if let Some(error) = self.fail.lock().unwrap().pop() {
                return Err(error);
            }
            let mut samples = self.samples.lock().unwrap();
            for series in &batch.series {
                *samples.entry(series.labels.value("__name__").unwrap().to_owned()).or_default() +=
                    series.samples.len() as u64;
            }
            Ok(())
        })
    }
}

fn parts<'a>(store: &Arc<Memory>, registry: &'a Registry, health: &'a Health) -> Parts<'a> {
    Parts { store: Arc::clone(store) as _, logs: None, state: None, registry, health }
}

fn requests(count: u64) -> Vec<Request> {
    let start = now_unix_nano() - count * SECOND;
    (0..count)
        .map(|step| {
            let time = start + step * SECOND;
            let resources = (0..8).map(|index| {
                let resource = attributes(&[("service.name", &format!("service-{index}"))]);
                (resource, vec![metric("load", "", gauge(vec![number(time, step as f64, &[])]))])
            });
            request(resources.collect())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_point_is_stored_with_a_score_whatever_its_shard() {
    let store = Arc::new(Memory::default());
    let (registry, health) = (Registry::new(), Health::new());
    let (role, tasks) = Role::start(Config { shards: 3, ..Config::default() }, parts(&store, &registry, &health));
    let mut clients = JoinSet::new();
    for request in requests(100) {
        let role = role.clone();
        clients.spawn(async move { assert_eq!(role.take(request).await.unwrap(), Accepted::default()) });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    drop(role);
    tasks.ended().await.unwrap();
    let samples = store.samples.lock().unwrap();
    assert_eq!((samples["load"], samples["anomaly_score"]), (800, 800));
    let text = registry.encode();
    assert!(text.contains("mirador_isolationforest_points_total 800"), "{text}");
    assert!(text.contains("mirador_isolationforest_series 0"), "state is gone with its shard: {text}");
}

#[tokio::test]
async fn a_store_that_is_down_is_told_to_the_client_and_the_retry_changes_no_number() {
    let store = Arc::new(Memory::default());
    let after = Some(Duration::from_secs(3));
    store.fail.lock().unwrap().push(ExportError::Retry { after, reason: "down".to_owned() });
    let (registry, health) = (Registry::new(), Health::new());
    let (role, tasks) = Role::start(Config::default(), parts(&store, &registry, &health));
    let request = requests(1).remove(0);
    let refusal = role.take(request.clone()).await.unwrap_err();
    assert_eq!((refusal.code, refusal.retry_after), (tonic::Code::Unavailable, after));
    role.take(request).await.unwrap();
    drop(role);
    tasks.ended().await.unwrap();
    assert_eq!(store.samples.lock().unwrap()["load"], 8);
}

#[tokio::test]
async fn unusable_points_are_a_partial_success() {
    let store = Arc::new(Memory::default());
    let (registry, health) = (Registry::new(), Health::new());
    let (role, tasks) = Role::start(Config::default(), parts(&store, &registry, &health));
    let points = vec![number(0, 1.0, &[]), number(now_unix_nano(), 1.0, &[])];
    let accepted = role.take(request(vec![(Vec::new(), vec![metric("g", "", gauge(points))])])).await.unwrap();
    assert_eq!(accepted.rejected_items, 1);
    assert!(accepted.message.contains("mirador_normalise_dropped_total"), "{}", accepted.message);
    let none = role.take(request(Vec::new())).await.unwrap();
    assert_eq!(none, Accepted::default());
    drop(role);
    tasks.ended().await.unwrap();
}

#[tokio::test]
async fn files_of_another_version_are_refused_by_name_and_the_role_starts_cold() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("isolationforest.state");
    let own = state::path(&file, 0);
    Snapshot::write(&own, state::KIND, 1, b"what the release before wrote").unwrap();
    let said = Snapshot::read(&own, state::KIND, state::VERSION).unwrap_err().to_string();
    assert!(said.ends_with("has version 1, this release reads version 2"), "{said}");
    let common = shared::path(&file);
    std::fs::write(&common, b"no snapshot at all").unwrap();
    starts_cold_before(&file).await;
    assert!(std::fs::read(&common).unwrap().starts_with(b"MIRADOR"), "and so is what shards have in common");
}

#[test]
fn the_default_configuration_has_no_problems_and_a_wrong_one_names_its_keys() {
    assert_eq!(Config::default().problems(), Vec::<String>::new());
    let mut config = Config::default();
    config.engine.sample_size = 4;
    config.series.max_series = 0;
    config.normalise.limits.max_labels = 1;
    config.forest.reservoir = 10;
    config.forest.max_resources = 0;
    let problems = config.problems().join("\n");
    for key in [
        "engine.sample_size",
        "series.max_series",
        "normalise.limits.max_labels",
        "forest.reservoir",
        "forest.max_resources",
    ] {
        assert!(problems.contains(key), "{problems}");
    }
}

#[derive(Default)]
struct Records(Mutex<Vec<String>>);

impl LogStore for Records {
    fn store<'a>(&'a self, request: &'a Request) -> Stored<'a> {
        Box::pin(async move {
            let mut records = self.0.lock().unwrap();
            for resource in request.resource_logs() {
                for scope in resource.scopes() {
                    records.extend(scope.log_records().map(|record| {
                        assert_eq!(record.event_name(), episodes::EVENT_NAME);
                        let service = resource.resource().service_name().unwrap_or_default().to_owned();
                        format!("{service}: {}", record.body().to_text())
                    }));
                }
            }
            Ok(())
        })
    }
}

/// One gauge of one service: 400 ordinary points, three odd ones, 40 ordinary ones.
fn fault() -> Vec<Request> {
    let start = now_unix_nano() - 500 * SECOND;
    let value = |step: u64| if (400..403).contains(&step) { 900.0 } else { 100.0 + (step % 7) as f64 };
    (0..443)
        .map(|step| {
            let point = number(start + step * SECOND, value(step), &[]);
            request(vec![(attributes(&[("service.name", "cart")]), vec![metric("load", "", gauge(vec![point]))])])
        })
        .collect()
}

#[tokio::test]
async fn an_episode_is_told_with_its_reason_and_survives_a_restart() {
    let (registry, health, records) = (Registry::new(), Health::new(), Arc::new(Records::default()));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("isolationforest.state");
    let config = Config { shards: 1, ..Config::default() };
    let requests = fault();
    // The process ends amid the episode.
    for part in [&requests[..402], &requests[402..]] {
        let store = Arc::new(Memory::default());
        let logs = Some(Arc::clone(&records) as _);
        let parts = Parts { logs, state: Some(file.clone()), ..parts(&store, &registry, &health) };
        let (role, tasks) = Role::start(config.clone(), parts);
        for request in part {
            role.take(request.clone()).await.unwrap();
        }
        drop(role);
        tasks.ended().await.unwrap();
    }
    let told = records.0.lock().unwrap();
    assert!(told[0].starts_with("cart: load opened: value: value too high: 900 where "), "{told:?}");
    assert!(told.last().unwrap().starts_with("cart: load closed: back to usual after "), "{told:?}");
    assert_eq!(told.iter().filter(|record| record.contains(" opened:")).count(), 1, "{told:?}");
}

/// A role that cannot use `file` works, and leaves one that the next can use.
async fn starts_cold_before(file: &Path) {
    let (registry, health, store) = (Registry::new(), Health::new(), Arc::new(Memory::default()));
    let parts = Parts { state: Some(file.to_owned()), ..parts(&store, &registry, &health) };
    let (role, tasks) = Role::start(Config { shards: 1, ..Config::default() }, parts);
    role.take(requests(1).remove(0)).await.unwrap();
    drop(role);
    tasks.ended().await.unwrap();
    assert_eq!(store.samples.lock().unwrap()["load"], 8);
    assert_eq!(state::read(file, 0, 1).watches.len(), 8, "the next snapshot is sound");
}

#[tokio::test]
async fn a_damaged_snapshot_is_refused_and_the_role_starts_cold() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("isolationforest.state");
    std::fs::write(state::path(&file, 0), b"not a snapshot").unwrap();
    starts_cold_before(&file).await;
}
