//! The role around the engine: answers, own counting, the last flush.

use mirador_service::drain::Drain;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::*;
use crate::metrics_out::FlushMeters;
use crate::testing::{FakeOut, request, span};

struct Running {
    role: Arc<SpanMetrics>,
    out: Arc<FakeOut>,
    supervised: tokio::task::JoinHandle<anyhow::Result<()>>,
    drain: Drain,
    registry: Registry,
}

fn start(interval: Duration) -> Running {
    start_from(interval, None)
}

fn start_from(interval: Duration, state: Option<PathBuf>) -> Running {
    let config = Config { metrics_flush_interval: interval, ..Config::default() };
    let (registry, health, drain) = (Registry::new(), Health::new(), Drain::new(Duration::from_secs(20)));
    let mut supervisor = Supervisor::new(drain.clone(), health.clone());
    let out = FakeOut::shared();
    let flusher = Flusher::new("spanmetrics", Arc::<FakeOut>::clone(&out), FlushMeters::new(&registry));
    let parts =
        Parts { flusher, registry: &registry, health: &health, drain: &drain, supervisor: &mut supervisor, state };
    let role = Arc::new(SpanMetrics::start(&config, parts));
    let supervised = tokio::spawn(async move { supervisor.run().await.map_err(Into::into) });
    Running { role, out, supervised, drain, registry }
}

type Answer = tokio::task::JoinHandle<Result<Accepted, Refusal>>;

impl Running {
    /// Sends a delta without waiting for its answer.
    fn send(&self, delta: Bytes) -> Answer {
        let role = Arc::clone(&self.role);
        tokio::spawn(async move { role.merge(delta, None).await })
    }

    /// Waits until the role has counted so many of these.
    async fn until(&self, sample: &str) {
        while !self.registry.encode().lines().any(|line| line == sample) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn finish(self) -> Arc<FakeOut> {
        self.drain.start();
        self.role.finish().await;
        self.supervised.await.unwrap().expect("the task ends when it is told to");
        self.out
    }
}

const NEVER: Duration = Duration::from_hours(1);
const CALLS: &str = "traces.span.metrics.calls{shop,work,SPAN_KIND_SERVER,STATUS_CODE_UNSET}";

fn delta(sequence: u64, id: u8) -> Bytes {
    encoded(sequence, id, false)
}

/// The delta of an agent that ends.
fn last(sequence: u64, id: u8) -> Bytes {
    encoded(sequence, id, true)
}

fn encoded(sequence: u64, id: u8, closing: bool) -> Bytes {
    let mut tap = Tap::new(&Config::default().tap(), 1);
    tap.observe(&request(&[span("shop", 2, 1, id, 0)]), unix_nano());
    let (_, mut delta) = tap.close(unix_nano() + 1).unwrap().split(|_| 0).remove(0);
    (delta.agent_id, delta.epoch, delta.sequence) = ("node-1".to_owned(), 5, sequence);
    delta.closing = closing;
    delta.encode_to_vec().into()
}

#[tokio::test]
async fn a_delta_and_its_repetition_wait_for_the_flush_that_carries_them() {
    let running = start(NEVER);
    let first = running.send(delta(1, 1));
    running.until("mirador_spanmetrics_deltas_total 1").await;
    let again = running.send(delta(1, 1));
    running.until("mirador_spanmetrics_duplicate_deltas_total 1").await;
    assert!(!first.is_finished() && !again.is_finished());
    // An agent that ends does not wait for the interval, and takes the others with it.
    assert_eq!(running.role.merge(last(2, 2), None).await.unwrap(), Accepted::default());
    assert_eq!(first.await.unwrap().unwrap(), Accepted::default());
    assert!(again.await.unwrap().unwrap().is_duplicate());
    assert_eq!(running.out.totals()[CALLS], 2);
    assert!(running.role.merge(delta(1, 1), None).await.unwrap().is_duplicate(), "nothing is left to wait for");
    assert_eq!(running.finish().await.totals()[CALLS], 2);
}

#[tokio::test(start_paused = true)]
async fn a_flush_that_is_not_taken_answers_nobody_and_the_next_one_answers_all() {
    let running = start(NEVER);
    running.out.refusals.store(3, Ordering::SeqCst);
    let first = running.send(last(1, 1));
    running.until("mirador_metrics_flushes_total{from=\"spanmetrics\",outcome=\"failure\"} 1").await;
    assert!(!first.is_finished());
    let again = running.send(last(1, 1));
    assert_eq!(first.await.unwrap().unwrap(), Accepted::default());
    assert!(again.await.unwrap().unwrap().is_duplicate());
    assert_eq!(running.out.refusals.load(Ordering::SeqCst), 0);
    assert_eq!(running.out.totals()[CALLS], 1);
}

#[tokio::test]
async fn a_delta_whose_sender_has_gone_is_still_held_when_it_comes_again() {
    let running = start(NEVER);
    let gone = running.send(delta(1, 1));
    running.until("mirador_spanmetrics_deltas_total 1").await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    let again = running.send(delta(1, 1));
    running.until("mirador_spanmetrics_duplicate_deltas_total 1").await;
    assert!(!again.is_finished());
    running.role.merge(last(2, 2), None).await.unwrap();
    assert!(again.await.unwrap().unwrap().is_duplicate());
}

#[tokio::test]
async fn a_drain_answers_what_waits_before_the_last_flush_is_asked_for() {
    let running = start(NEVER);
    let waiting = running.send(delta(1, 1));
    running.until("mirador_spanmetrics_deltas_total 1").await;
    running.drain.start();
    assert_eq!(waiting.await.unwrap().unwrap(), Accepted::default());
    assert_eq!(running.role.merge(delta(2, 2), None).await.unwrap(), Accepted::default(), "and what comes later");
    assert_eq!(running.finish().await.totals()[CALLS], 2);
}

#[tokio::test(start_paused = true)]
async fn spans_of_other_senders_are_counted_once_and_answered_when_they_are_stored() {
    let running = start(NEVER);
    for _ in 0..2 {
        running.role.observe(request(&[span("shop", 2, 3, 3, 0)])).await.unwrap();
        assert_eq!(running.out.totals()[CALLS], 1);
    }
    running.role.merge(last(1, 1), None).await.unwrap();
    running.out.refusals.store(usize::MAX, Ordering::SeqCst);
    let refusal = running.role.observe(request(&[span("shop", 2, 4, 4, 0)])).await.unwrap_err();
    assert_eq!((refusal.code, refusal.retry_after.is_some()), (Code::Unavailable, true));
    running.out.refusals.store(0, Ordering::SeqCst);
    running.role.observe(request(&[span("shop", 2, 4, 4, 0)])).await.unwrap();
    assert_eq!(running.finish().await.totals()[CALLS], 3);
}

#[tokio::test]
async fn with_a_snapshot_the_next_process_goes_on_with_the_same_series_and_windows() {
    let folder = tempfile::tempdir().unwrap();
    let file = Some(folder.path().join("spanmetrics.state"));
    let before = start_from(NEVER, file.clone());
    before.role.merge(last(1, 1), None).await.unwrap();
    // The process dies without another word: its snapshot is that of its last flush.
    let unanswered = before.send(delta(2, 2));
    before.until("mirador_spanmetrics_deltas_total 2").await;
    unanswered.abort();
    let after = start_from(NEVER, file);
    assert!(after.role.merge(last(1, 1), None).await.unwrap().is_duplicate());
    assert_eq!(after.role.merge(last(2, 2), None).await.unwrap(), Accepted::default());
    assert_eq!(after.finish().await.totals()[CALLS], 2);
}

#[tokio::test]
async fn what_is_not_a_delta_is_refused_for_good() {
    let running = start(NEVER);
    let unnamed = Bytes::from(ExportRedRequest::default().encode_to_vec());
    for body in [Bytes::from_static(b"\xff\xff"), unnamed] {
        let refusal = running.role.merge(body, None).await.unwrap_err();
        assert_eq!((refusal.code, refusal.retry_after), (Code::InvalidArgument, None));
    }
    assert!(running.finish().await.totals().is_empty());
}

#[tokio::test(start_paused = true)]
async fn deltas_are_merged_while_flushes_fail_and_the_next_one_carries_everything() {
    let running = start(Duration::from_millis(100));
    running.out.refusals.store(2, Ordering::SeqCst);
    let answers: Vec<_> = (1..=50).map(|sequence| running.send(delta(sequence, sequence as u8))).collect();
    for answer in answers {
        assert_eq!(answer.await.unwrap().unwrap(), Accepted::default());
    }
    assert_eq!(running.out.refusals.load(Ordering::SeqCst), 0);
    assert_eq!(running.finish().await.totals()[CALLS], 50);
}

#[tokio::test(start_paused = true)]
async fn a_flush_of_many_series_leaves_in_pieces_and_a_refused_piece_loses_nothing() {
    let running = start(Duration::from_millis(100));
    running.out.refusals.store(1, Ordering::SeqCst);
    let names: Vec<&'static str> = (0..2_500).map(|number| &*format!("service-{number}").leak()).collect();
    let spans =
        |(number, name): (usize, &&'static str)| span(name, 2, (number / 250) as u8 + 1, (number % 250) as u8 + 1, 0);
    let all: Vec<_> = names.iter().enumerate().map(spans).collect();
    running.role.observe(request(&all)).await.unwrap();
    assert_eq!(running.out.refusals.load(Ordering::SeqCst), 0);
    let totals = running.finish().await.totals();
    assert_eq!(totals.len(), 2_500);
    assert!(totals.values().all(|calls| *calls == 1));
}
