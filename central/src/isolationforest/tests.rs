//! The role as a whole: requests in, a store behind, answers out.

use std::collections::BTreeMap;
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
    let (role, tasks) =
        Role::start(Config { shards: 3, ..Config::default() }, Arc::clone(&store) as _, &registry, &health);
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
    let (role, tasks) = Role::start(Config::default(), Arc::clone(&store) as _, &Registry::new(), &Health::new());
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
    let (role, tasks) = Role::start(Config::default(), Arc::clone(&store) as _, &Registry::new(), &Health::new());
    let points = vec![number(0, 1.0, &[]), number(now_unix_nano(), 1.0, &[])];
    let accepted = role.take(request(vec![(Vec::new(), vec![metric("g", "", gauge(points))])])).await.unwrap();
    assert_eq!(accepted.rejected_items, 1);
    assert!(accepted.message.contains("mirador_normalise_dropped_total"), "{}", accepted.message);
    let none = role.take(request(Vec::new())).await.unwrap();
    assert_eq!(none, Accepted::default());
    drop(role);
    tasks.ended().await.unwrap();
}

#[test]
fn the_default_configuration_has_no_problems_and_a_wrong_one_names_its_keys() {
    assert_eq!(Config::default().problems(), Vec::<String>::new());
    let mut config = Config::default();
    config.engine.sample_size = 4;
    config.series.max_series = 0;
    config.normalise.limits.max_labels = 1;
    let problems = config.problems().join("\n");
    for key in ["engine.sample_size", "series.max_series", "normalise.limits.max_labels"] {
        assert!(problems.contains(key), "{problems}");
    }
}
