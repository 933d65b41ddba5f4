//! The role around the engine: storing, retrying, shards, the last flush.

use std::sync::atomic::Ordering;

use mirador_service::drain::Drain;

use super::*;
use crate::metrics_out::FlushMeters;
use crate::testing::{FakeOut, FakeStore, Spanned, request, span};

const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const PRODUCER: i32 = 4;
const CONSUMER: i32 = 5;

struct Running {
    graph: ServiceGraph,
    store: Arc<FakeStore>,
    out: Arc<FakeOut>,
    supervised: tokio::task::JoinHandle<anyhow::Result<()>>,
    drain: Drain,
    registry: Registry,
}

/// A role that flushes only when it is told to finish.
fn start(store: FakeStore) -> Running {
    start_from(store, None)
}

/// The same with a snapshot.
fn start_from(store: FakeStore, state: Option<PathBuf>) -> Running {
    let config = Config { metrics_flush_interval: Duration::from_hours(1), ..Config::default() };
    let (registry, health, drain) = (Registry::new(), Health::new(), Drain::new(Duration::from_secs(20)));
    let mut supervisor = Supervisor::new(drain.clone(), health.clone());
    let (store, out) = (Arc::new(store), FakeOut::shared());
    let flusher = Flusher::new("servicegraph", Arc::<FakeOut>::clone(&out), FlushMeters::new(&registry));
    let parts = Parts {
        store: Arc::<FakeStore>::clone(&store),
        flusher,
        registry: &registry,
        health: &health,
        supervisor: &mut supervisor,
        state,
    };
    let graph = ServiceGraph::start(&config, parts);
    let supervised = tokio::spawn(async move { supervisor.run().await.map_err(Into::into) });
    Running { graph, store, out, supervised, drain, registry }
}

impl Running {
    async fn finish(self) -> Arc<FakeOut> {
        self.drain.start();
        self.graph.finish().await;
        self.supervised.await.unwrap().expect("every task ends when it is told to");
        self.out
    }
}

fn call() -> [Spanned; 2] {
    [span("shop", CLIENT, 1, 1, 0), span("cart", SERVER, 1, 2, 1)]
}

const CALL: &str = "traces_service_graph_request_total{shop,cart,,false}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_was_refused_and_comes_again_is_stored_and_paired_once() {
    let running = start(FakeStore { refusals: 2.into(), ..FakeStore::default() });
    for _ in 0..2 {
        let refusal = running.graph.consume(&request(&call())).await.unwrap_err();
        assert!(refusal.retry_after.is_some());
    }
    running.graph.consume(&request(&call())).await.unwrap();
    assert_eq!(running.store.spans.load(Ordering::SeqCst), 2);
    assert_eq!(running.finish().await.totals()[CALL], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_sent_again_after_an_unclear_answer_is_counted_once() {
    let running = start(FakeStore::default());
    for _ in 0..3 {
        running.graph.consume(&request(&call())).await.unwrap();
    }
    assert_eq!(running.store.spans.load(Ordering::SeqCst), 6);
    assert_eq!(running.finish().await.totals()[CALL], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_meets_the_producer_of_another_trace_whatever_their_shards() {
    let running = start(FakeStore::default());
    for trace in 1..=40 {
        let consumer = Spanned { link: (trace, 1), ..span("mail", CONSUMER, trace + 100, 2, 0) };
        running.graph.consume(&request(&[consumer])).await.unwrap();
    }
    for trace in 1..=40 {
        running.graph.consume(&request(&[span("shop", PRODUCER, trace, 1, 0)])).await.unwrap();
    }
    let totals = running.finish().await.totals();
    assert_eq!(totals["traces_service_graph_request_total{shop,mail,messaging_system,false}"], 40);
    assert_eq!(totals.len(), 1, "and nobody is virtual or unpaired: {totals:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_that_the_store_refuses_for_good_are_rejected_and_not_paired() {
    let running = start(FakeStore { is_poisoned: true, ..FakeStore::default() });
    let accepted = running.graph.consume(&request(&call())).await.unwrap();
    assert_eq!((accepted.rejected_items, accepted.message.as_str()), (2, "poison"));
    assert!(running.finish().await.totals().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_last_flush_that_is_refused_is_tried_again_and_spans_that_wait_are_counted() {
    let running = start(FakeStore::default());
    running.out.refusals.store(2, Ordering::SeqCst);
    let waiting = [span("shop", CLIENT, 1, 1, 0), span("shop", SERVER, 2, 1, 0)];
    running.graph.consume(&request(&waiting)).await.unwrap();
    let page = running.registry.clone();
    let totals = running.finish().await.totals();
    assert_eq!(totals["traces_service_graph_request_total{user,shop,virtual_node,false}"], 1);
    assert_eq!(totals["traces_service_graph_unpaired_spans_total{shop,}"], 1);
    let page = page.encode();
    assert!(page.contains("mirador_metrics_flushes_total{from=\"servicegraph\",outcome=\"failure\"} 2"), "{page}");
    assert!(page.contains("otelcol_connector_servicegraph_total_edges_total 1"), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_last_flush_nothing_is_taken_any_more() {
    let running = start(FakeStore::default());
    running.drain.start();
    running.graph.finish().await;
    let refusal = running.graph.consume(&request(&call())).await.unwrap_err();
    assert_eq!((refusal.code, running.store.spans.load(Ordering::SeqCst)), (Code::Unavailable, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sides_of_an_edge_meet_across_a_restart_and_what_is_sent_again_is_not_counted_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("servicegraph.state");
    let [client, server] = call();
    let before = start_from(FakeStore::default(), Some(file.clone()));
    before.graph.consume(&request(&[client])).await.unwrap();
    before.graph.consume(&request(&[span("shop", SERVER, 9, 9, 0)])).await.unwrap();
    let totals = before.finish().await.totals();
    assert_eq!(totals.keys().collect::<Vec<_>>(), ["traces_service_graph_request_total{user,shop,virtual_node,false}"]);
    assert!(file.is_file());
    let after = start_from(FakeStore::default(), Some(file.clone()));
    assert!(!file.exists(), "what is taken over once is not taken over again");
    for _ in 0..2 {
        after.graph.consume(&request(&[client, server, span("shop", SERVER, 9, 9, 0)])).await.unwrap();
    }
    let totals = after.finish().await.totals();
    assert_eq!((totals[CALL], totals.len()), (1, 1), "{totals:?}");
    // The edge's client is still known to a third process: another server of it is an edge of its own.
    let third = start_from(FakeStore::default(), Some(file));
    third.graph.consume(&request(&[client, server, span("mail", SERVER, 1, 3, 1)])).await.unwrap();
    let totals = third.finish().await.totals();
    assert_eq!(totals.keys().collect::<Vec<_>>(), ["traces_service_graph_request_total{shop,mail,,false}"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_cannot_be_used_is_refused_and_the_role_starts_cold() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("servicegraph.state");
    for bytes in [&b"SQLite format 3"[..], b"MIRADOR\x1a\x0cservice", b""] {
        std::fs::write(&file, bytes).unwrap();
        let running = start_from(FakeStore::default(), Some(file.clone()));
        running.graph.consume(&request(&call())).await.unwrap();
        assert_eq!(running.finish().await.totals()[CALL], 1);
    }
}
