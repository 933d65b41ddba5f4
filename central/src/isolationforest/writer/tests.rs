//! Group commit: everything is written, everybody is answered, nothing twice.

use std::collections::BTreeSet;
use std::sync::Mutex;

use mirador_service::metrics::Registry;
use tokio::sync::Semaphore;

use super::*;
use crate::exporter::Stored;
use crate::series::{LabelSet, Series};

/// Keeps what it is given; refuses series that carry `poison`; waits for its gate.
struct Memory {
    batches: Mutex<Vec<Vec<String>>>,
    gate: Semaphore,
    fail: Mutex<Vec<ExportError>>,
}

impl Memory {
    fn new(open: usize) -> Arc<Self> {
        Arc::new(Self { batches: Mutex::default(), gate: Semaphore::new(open), fail: Mutex::default() })
    }

    fn stored(&self) -> Vec<String> {
        self.batches.lock().unwrap().concat()
    }
}

impl MetricStore for Memory {
    fn write(&self, batch: Arc<SeriesBatch>) -> Stored<'_> {
        Box::pin(async move {
            self.gate.acquire().await.unwrap().forget();
            if let Some(error) = self.fail.lock().unwrap().pop() {
                return Err(error);
            }
            let names: Vec<String> =
                batch.series.iter().map(|series| series.labels.value("__name__").unwrap().to_owned()).collect();
            if names.iter().any(|name| name.contains("poison")) {
                return Err(ExportError::Drop { reason: "bad".to_owned() });
            }
            self.batches.lock().unwrap().push(names);
            Ok(())
        })
    }
}

fn part(name: &str) -> (Part, oneshot::Receiver<Result<Settled, ExportError>>) {
    let labels: LabelSet = [(Box::from("__name__"), Box::from(name))].into_iter().collect();
    let mut out = Output::default();
    out.push(&Arc::new(labels), 1, 1.0);
    let (reply, settled) = oneshot::channel();
    (Part { out, points: 1, lost: 0, reply: Some(reply) }, settled)
}

fn start(store: &Arc<Memory>, config: WriterConfig) -> (mpsc::Sender<Part>, tokio::task::JoinHandle<()>) {
    let (parts, parts_in) = mpsc::channel(16);
    let store: Arc<dyn MetricStore> = Arc::clone(store) as _;
    let telemetry = Telemetry::new(&Registry::new());
    (parts, tokio::spawn(run(config, store, telemetry, parts_in, || {})))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_part_is_written_once_and_answered_and_the_load_makes_groups() {
    let store = Memory::new(10_000);
    let (parts, task) = start(&store, WriterConfig { concurrency: 2, max_samples: 50, ..WriterConfig::default() });
    let mut clients = JoinSet::new();
    for index in 0..500 {
        let parts = parts.clone();
        clients.spawn(async move {
            let (part, settled) = part(&format!("m{index}"));
            parts.send(part).await.unwrap();
            assert_eq!(settled.await.unwrap().unwrap(), Settled::default());
        });
    }
    drop(parts);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    task.await.unwrap();
    let stored = store.stored();
    assert_eq!(stored.len(), 500);
    assert_eq!(stored.iter().collect::<BTreeSet<_>>().len(), 500);
    assert!(store.batches.lock().unwrap().iter().all(|batch| batch.len() <= 50 + 16));
}

#[tokio::test]
async fn what_comes_while_a_write_runs_is_one_group_and_nobody_is_answered_before_the_store() {
    let store = Memory::new(0);
    let (parts, task) = start(&store, WriterConfig { max_delay: Duration::from_hours(1), ..WriterConfig::default() });
    let mut waiting = Vec::new();
    for index in 0..10 {
        let (part, settled) = part(&format!("m{index}"));
        parts.send(part).await.unwrap();
        waiting.push(settled);
        tokio::task::yield_now().await;
    }
    assert!(waiting.iter_mut().all(|settled| settled.try_recv().is_err()));
    store.gate.add_permits(2);
    drop(parts);
    for settled in waiting {
        settled.await.unwrap().unwrap();
    }
    task.await.unwrap();
    assert_eq!(store.batches.lock().unwrap().len(), 2, "the first by itself, the rest together");
}

#[tokio::test]
async fn poison_hurts_only_the_request_that_carries_it() {
    let store = Memory::new(1);
    let (parts, task) =
        start(&store, WriterConfig { max_delay: Duration::from_hours(1), concurrency: 1, ..WriterConfig::default() });
    let mut waiting = Vec::new();
    for name in ["first", "a", "poison", "b"] {
        let (part, settled) = part(name);
        parts.send(part).await.unwrap();
        waiting.push(settled);
    }
    store.gate.add_permits(100);
    drop(parts);
    let mut rejected = Vec::new();
    for settled in waiting {
        rejected.push(settled.await.unwrap().unwrap().rejected);
    }
    task.await.unwrap();
    assert_eq!(rejected, [0, 0, 1, 0]);
    let mut stored = store.stored();
    stored.sort();
    assert_eq!(stored, ["a", "b", "first"]);
}

#[tokio::test]
async fn a_store_that_is_down_refuses_the_whole_group_with_its_hint() {
    let store = Memory::new(100);
    let after = Some(Duration::from_secs(7));
    store.fail.lock().unwrap().push(ExportError::Retry { after, reason: "down".to_owned() });
    let (parts, task) = start(&store, WriterConfig::default());
    let (lost, settled) = part("m");
    parts.send(lost).await.unwrap();
    let error = settled.await.unwrap().unwrap_err();
    assert!(matches!(error, ExportError::Retry { after: asked, .. } if asked == after), "{error:?}");
    let (again, settled) = part("m");
    parts.send(again).await.unwrap();
    drop(parts);
    settled.await.unwrap().unwrap();
    task.await.unwrap();
    assert_eq!(store.stored(), ["m"]);
}

#[test]
fn the_series_of_a_part_keep_their_samples_when_a_group_is_made() {
    let (part, _settled) = part("m");
    let group = {
        let mut group = Group::default();
        group.add(part);
        group
    };
    assert_eq!((group.samples, group.parts.len()), (1, 1));
    let series: &Series = &group.parts[0].out.series[0];
    assert_eq!(series.samples[..], [(1, 1.0)]);
}
