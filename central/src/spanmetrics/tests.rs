//! The role around the engine: answers, own counting, the last flush.

use mirador_service::drain::Drain;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::*;
use crate::metrics_out::FlushMeters;
use crate::testing::{FakeOut, request, span};

struct Running {
    role: SpanMetrics,
    out: Arc<FakeOut>,
    supervised: tokio::task::JoinHandle<anyhow::Result<()>>,
    drain: Drain,
}

fn start(interval: Duration) -> Running {
    let config = Config { metrics_flush_interval: interval, ..Config::default() };
    let (registry, health, drain) = (Registry::new(), Health::new(), Drain::new(Duration::from_secs(20)));
    let mut supervisor = Supervisor::new(drain.clone(), health.clone());
    let out = FakeOut::shared();
    let flusher = Flusher::new("spanmetrics", Arc::<FakeOut>::clone(&out), FlushMeters::new(&registry));
    let role = SpanMetrics::start(&config, flusher, &registry, &health, &mut supervisor);
    let supervised = tokio::spawn(async move { supervisor.run().await.map_err(Into::into) });
    Running { role, out, supervised, drain }
}

impl Running {
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
    let mut tap = Tap::new(&Config::default().tap(), 1);
    tap.observe(&request(&[span("shop", 2, 1, id, 0)]), unix_nano());
    let (_, mut delta) = tap.close(unix_nano() + 1).unwrap().split(|_| 0).remove(0);
    (delta.agent_id, delta.epoch, delta.sequence) = ("node-1".to_owned(), unix_nano(), sequence);
    delta.epoch = 5;
    delta.encode_to_vec().into()
}

#[tokio::test]
async fn a_repeated_delta_is_accepted_as_a_duplicate_and_adds_nothing() {
    let running = start(NEVER);
    assert_eq!(running.role.merge(delta(1, 1)).await.unwrap(), Accepted::default());
    assert_eq!(running.role.merge(delta(1, 1)).await.unwrap().message, "duplicate");
    assert_eq!(running.role.merge(delta(2, 2)).await.unwrap(), Accepted::default());
    assert_eq!(running.finish().await.totals()[CALLS], 2);
}

#[tokio::test]
async fn spans_of_other_senders_are_counted_once_beside_the_deltas() {
    let running = start(NEVER);
    running.role.merge(delta(1, 1)).await.unwrap();
    for _ in 0..2 {
        running.role.observe(request(&[span("shop", 2, 3, 3, 0)])).await.unwrap();
    }
    assert_eq!(running.finish().await.totals()[CALLS], 2);
}

#[tokio::test]
async fn what_is_not_a_delta_is_refused_for_good() {
    let running = start(NEVER);
    let unnamed = Bytes::from(ExportRedRequest::default().encode_to_vec());
    for body in [Bytes::from_static(b"\xff\xff"), unnamed] {
        let refusal = running.role.merge(body).await.unwrap_err();
        assert_eq!((refusal.code, refusal.retry_after), (Code::InvalidArgument, None));
    }
    assert!(running.finish().await.totals().is_empty());
}

#[tokio::test]
async fn deltas_are_merged_while_flushes_fail_and_the_next_one_carries_everything() {
    let running = start(Duration::from_millis(100));
    running.out.refusals.store(2, Ordering::SeqCst);
    for sequence in 1..=50 {
        running.role.merge(delta(sequence, sequence as u8)).await.unwrap();
    }
    while running.out.refusals.load(Ordering::SeqCst) > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(running.finish().await.totals()[CALLS], 50);
}

#[tokio::test]
async fn a_flush_of_many_series_leaves_in_pieces_and_a_refused_piece_loses_nothing() {
    let running = start(Duration::from_millis(100));
    running.out.refusals.store(1, Ordering::SeqCst);
    let names: Vec<&'static str> = (0..2_500).map(|number| &*format!("service-{number}").leak()).collect();
    for (number, name) in names.iter().enumerate() {
        let (trace, id) = ((number / 250) as u8 + 1, (number % 250) as u8 + 1);
        running.role.observe(request(&[span(name, 2, trace, id, 0)])).await.unwrap();
    }
    let totals = running.finish().await.totals();
    assert_eq!(totals.len(), 2_500);
    assert!(totals.values().all(|calls| *calls == 1));
}
