//! The agent end to end, in one process: its books, its acknowledgements, its RED windows, its drain.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the line")]

#[path = "agent/central.rs"]
mod central;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use central::{Call, Central, Reply, Running, TRACES, agent_config, attribute, impatient, span_names, spans, until};
use mirador_otlp::Signal;
use mirador_proto::otlp::collector::logs::v1::ExportLogsServiceRequest;
use mirador_proto::otlp::collector::metrics::v1::ExportMetricsServiceRequest;
use mirador_proto::otlp::collector::trace::v1::ExportTraceServiceRequest;
use mirador_proto::otlp::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use mirador_proto::otlp::metrics::v1::{Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric};
use mirador_proto::otlp::resource::v1::Resource;
use mirador_proto::red::ExportRedRequest;
use mirador_transport::{Accepted, Kind};
use proptest::prelude::*;
use prost::Message as _;
use tonic::Code;

/// Calls and summed nanoseconds by service and span name.
type Red = BTreeMap<(String, String), (u64, u128)>;

/// What the RED deltas of these calls add up to when each (epoch, stream, sequence) counts once.
fn merged<'a>(calls: impl IntoIterator<Item = &'a Call>) -> Red {
    let mut seen = HashSet::new();
    let mut red = Red::new();
    for call in calls {
        let request = ExportRedRequest::decode(call.body.clone()).unwrap();
        if !seen.insert((request.epoch, request.stream.clone(), request.sequence)) {
            continue;
        }
        for (key, point) in mirador_sketch::decode(&request).unwrap() {
            let entry = red.entry((text(&key.service), text(&key.span_name))).or_default();
            entry.0 += point.calls;
            entry.1 += point.sum_nanos;
        }
    }
    red
}

fn text(value: &impl ToString) -> String {
    value.to_string()
}

/// The same numbers, computed offline from the requests themselves.
fn offline<'a>(requests: impl IntoIterator<Item = &'a Bytes>) -> Red {
    let mut red = Red::new();
    for request in requests {
        for resource in ExportTraceServiceRequest::decode(request.clone()).unwrap().resource_spans {
            let attributes = resource.resource.unwrap().attributes;
            let Some(mirador_proto::otlp::common::v1::any_value::Value::StringValue(service)) =
                attributes.into_iter().next().and_then(|pair| pair.value).and_then(|value| value.value)
            else {
                panic!("the first attribute is service.name");
            };
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let entry = red.entry((service.clone(), span.name)).or_default();
                entry.0 += 1;
                entry.1 += u128::from(span.end_time_unix_nano - span.start_time_unix_nano);
            }
        }
    }
    red
}

fn red_calls(centrals: &[&Central]) -> Vec<Call> {
    centrals.iter().flat_map(|central| central.calls(Kind::Red)).filter(|call| call.accepted).collect()
}

#[tokio::test]
async fn every_signal_reaches_its_owner_and_says_which_agent_forwarded_it() {
    let (one, two) = (Central::start().await, Central::start().await);
    let agent = Running::start(agent_config(&[&one, &two])).await;
    let body = spans(0, 40);
    assert_eq!(agent.send(TRACES, body.clone()).await.unwrap(), Accepted::default());
    let resource =
        |name: &str| Some(Resource { attributes: vec![attribute("service.name", name)], ..Resource::default() });
    let mut metrics = ExportMetricsServiceRequest::default();
    let mut logs = ExportLogsServiceRequest::default();
    for at in 0..12 {
        let points = vec![NumberDataPoint::default(); 2];
        let data = Some(metric::Data::Gauge(Gauge { data_points: points }));
        let metric = Metric { name: format!("m{at}"), data, ..Metric::default() };
        metrics.resource_metrics.push(ResourceMetrics {
            resource: resource(&format!("s{at}")),
            scope_metrics: vec![ScopeMetrics { metrics: vec![metric], ..ScopeMetrics::default() }],
            ..ResourceMetrics::default()
        });
        logs.resource_logs.push(ResourceLogs {
            resource: resource(&format!("s{at}")),
            scope_logs: vec![ScopeLogs { log_records: vec![LogRecord::default(); 3], ..ScopeLogs::default() }],
            ..ResourceLogs::default()
        });
    }
    agent.send(Kind::Otlp(Signal::Metrics), metrics.encode_to_vec().into()).await.unwrap();
    agent.send(Kind::Otlp(Signal::Logs), logs.encode_to_vec().into()).await.unwrap();
    let mut names = one.spans();
    names.extend(two.spans());
    names.sort();
    assert_eq!(names, span_names(&body));
    let mut placed: HashMap<Kind, Vec<usize>> = HashMap::new();
    for kind in Signal::ALL.map(Kind::Otlp) {
        for central in [&one, &two] {
            let calls = central.calls(kind);
            assert!(calls.iter().all(|call| call.via_agent.as_deref() == Some("node-1")));
            placed.entry(kind).or_default().push(calls.len());
        }
        assert_eq!(placed[&kind], [1, 1], "{kind:?} is spread over both owners, one part each");
    }
    for (signal, items) in [("traces", 40), ("metrics", 24), ("logs", 36)] {
        assert_eq!(agent.metric(&format!("mirador_agent_sent_items_total{{signal=\"{signal}\"}}")), items);
    }
    assert_eq!(agent.metric("otelcol_receiver_accepted_spans_total{receiver=\"otlp\",transport=\"grpc\"}"), 40);
    assert_eq!(agent.imbalance(), 0);
    assert!(agent.stop().await.is_clean());
}

#[tokio::test]
async fn one_owner_gets_the_bytes_of_the_client_unchanged() {
    let central = Central::start().await;
    let agent = Running::start(agent_config(&[&central])).await;
    let body = spans(0, 10);
    agent.send(TRACES, body.clone()).await.unwrap();
    assert_eq!(central.calls(TRACES)[0].body, body);
}

#[tokio::test]
async fn red_equals_an_offline_count_after_client_retries() {
    let (good, bad) = (Central::start().await, Central::start().await);
    let mut failures = 9;
    bad.script(move |call| {
        let fails = call.kind == TRACES && failures > 0;
        failures -= i32::from(fails);
        if fails { Reply::Refuse(Code::Unavailable) } else { Reply::Accept }
    });
    let agent = Running::start(impatient(agent_config(&[&good, &bad]))).await;
    let requests: Vec<Bytes> = (0..8).map(|at| spans(at * 30, 30)).collect();
    for request in &requests {
        let (_, outcome) = agent.send_until_settled(request).await;
        outcome.unwrap();
    }
    // A client that lost our answer sends the last one again, as a whole.
    agent.send_until_settled(&requests[7]).await.1.unwrap();
    assert_eq!(agent.metric("mirador_agent_red_spans_total"), 240);
    assert_eq!(agent.metric("mirador_agent_red_duplicate_spans_total"), 30);
    assert!(agent.stop().await.is_clean());
    assert_eq!(merged(&red_calls(&[&good, &bad])), offline(&requests));
    let mut stored = good.spans();
    stored.extend(bad.spans());
    stored.dedup();
    stored.sort();
    stored.dedup();
    assert_eq!(stored.len(), 240, "every span has been stored");
}

#[tokio::test]
async fn red_windows_are_sent_again_with_the_same_numbers_after_a_lost_acknowledgement() {
    let central = Central::start().await;
    let mut red_answers_lost = 3;
    central.script(move |call| {
        if call.kind == Kind::Red && red_answers_lost > 0 {
            red_answers_lost -= 1;
            return Reply::Refuse(Code::Unavailable);
        }
        Reply::Accept
    });
    let agent = Running::start(agent_config(&[&central])).await;
    let body = spans(0, 20);
    agent.send(TRACES, body.clone()).await.unwrap();
    until("the window was taken", || agent.metric("mirador_agent_red_acknowledged_deltas_total") >= 1).await;
    let calls = central.calls(Kind::Red);
    assert!(calls.len() >= 4, "{}", calls.len());
    assert!(calls[..4].iter().all(|call| call.body == calls[0].body), "byte for byte, so the same epoch and sequence");
    let first = ExportRedRequest::decode(calls[0].body.clone()).unwrap();
    assert_eq!((first.agent_id.as_str(), first.sequence, first.stream), ("node-1", 1, central.name()));
    agent.send(TRACES, spans(20, 20)).await.unwrap();
    assert!(agent.stop().await.is_clean());
    let numbers: BTreeSet<u64> = central
        .calls(Kind::Red)
        .iter()
        .filter(|call| call.accepted)
        .map(|call| ExportRedRequest::decode(call.body.clone()).unwrap().sequence)
        .collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect(), "contiguous from 1");
    assert_eq!(
        merged(&central.calls(Kind::Red)),
        offline([&body, &spans(20, 20)]),
        "counting what was answered with an error too"
    );
}

#[tokio::test]
async fn a_request_whose_client_goes_away_is_carried_on_and_its_repetition_is_not_sent_again() {
    let central = Central::start().await;
    central.script(|call| if call.kind == TRACES { Reply::Stall } else { Reply::Accept });
    let agent = Running::start(agent_config(&[&central])).await;
    let body = spans(0, 10);
    tokio::select! {
        _ = agent.send(TRACES, body.clone()) => panic!("central has not answered"),
        () = until("the spans are with central", || central.calls(TRACES).len() == 1) => {}
    }
    assert_eq!(agent.metric("mirador_agent_in_flight_items{signal=\"traces\"}"), 10);
    until("the agent knows that the client has gone", || agent.metric("mirador_agent_unheard_requests") == 1).await;
    let again = agent.send(TRACES, body.clone());
    let release = async {
        central.release();
    };
    let (answer, ()) = tokio::join!(again, release);
    answer.unwrap();
    until("all is settled", || agent.metric("mirador_agent_in_flight_items") == 0).await;
    assert_eq!(agent.metric("mirador_agent_dropped_items_total{signal=\"traces\",reason=\"delivered_before\"}"), 10);
    assert_eq!(agent.imbalance(), 0);
    assert!(agent.stop().await.is_clean());
    assert_eq!(central.spans(), span_names(&body), "stored once");
    assert_eq!(merged(&red_calls(&[&central])), offline([&body]), "counted once");
}

#[tokio::test]
async fn a_drain_answers_what_is_in_flight_sends_the_last_window_and_loses_nothing() {
    let central = Central::start().await;
    central.script(|call| if call.kind == TRACES { Reply::Stall } else { Reply::Accept });
    let mut config = agent_config(&[&central]);
    config.red.metrics_flush_interval = std::time::Duration::from_hours(1).into();
    let agent = Running::start(config).await;
    let body = spans(0, 10);
    let (answer, ()) = tokio::join!(agent.send(TRACES, body.clone()), async {
        until("the spans are with central", || central.calls(TRACES).len() == 1).await;
        agent.drain.start();
        central.release();
    });
    answer.unwrap();
    let registry = agent.registry.clone();
    assert!(agent.stop().await.is_clean());
    assert_eq!(central.spans(), span_names(&body));
    assert_eq!(merged(&red_calls(&[&central])), offline([&body]));
    assert!(registry.encode().contains("mirador_agent_in_flight_items{signal=\"traces\"} 0"));
}

#[tokio::test]
async fn windows_go_out_while_central_holds_earlier_ones_and_a_drain_asks_for_the_answers() {
    let central = Central::start().await;
    // A central that flushes for nobody but an agent that ends.
    central.script(|call| match call.kind {
        Kind::Red if !ExportRedRequest::decode(call.body.clone()).unwrap().closing => Reply::Stall,
        _ => Reply::Accept,
    });
    let agent = Running::start(agent_config(&[&central])).await;
    let bodies = [spans(0, 10), spans(10, 10), spans(20, 10)];
    for (held, body) in bodies.iter().enumerate() {
        agent.send(TRACES, body.clone()).await.unwrap();
        until("the window is with central", || central.calls(Kind::Red).len() > held).await;
    }
    assert_eq!(agent.metric("mirador_agent_red_acknowledged_deltas_total"), 0);
    assert!(agent.stop().await.is_clean());
    assert_eq!(merged(&red_calls(&[&central])), offline(&bodies));
}

#[tokio::test]
async fn a_drain_that_cannot_finish_says_what_was_lost() {
    let central = Central::start().await;
    central.script(|call| if call.kind == Kind::Red { Reply::Refuse(Code::Unavailable) } else { Reply::Accept });
    let mut config = agent_config(&[&central]);
    config.shutdown_grace = std::time::Duration::from_millis(500);
    let agent = Running::start(config).await;
    agent.send(TRACES, spans(0, 10)).await.unwrap();
    let registry = agent.registry.clone();
    let report = agent.stop().await;
    assert_eq!(report.requests, 0);
    assert_eq!(report.red.series, 10);
    assert!(registry.encode().contains("mirador_agent_red_lost_series_total{reason=\"drain\"} 10"));
}

#[tokio::test]
async fn malformed_and_unconfigured_requests_are_refused_for_good() {
    let central = Central::start().await;
    let mut config = agent_config(&[&central]);
    config.exporters.logs = None;
    let agent = Running::start(config).await;
    let refusal = agent.send(TRACES, Bytes::from_static(&[0x0A, 0x05, 0x01])).await.unwrap_err();
    assert_eq!((refusal.code, refusal.retry_after), (Code::InvalidArgument, None));
    assert!(refusal.message.contains("byte") || refusal.message.contains("offset"), "{}", refusal.message);
    let refusal = agent.send(Kind::Otlp(Signal::Logs), Bytes::new()).await.unwrap_err();
    assert_eq!(refusal.code, Code::Unimplemented);
    assert_eq!(agent.send(Kind::Red, Bytes::new()).await.unwrap_err().code, Code::Unimplemented);
    assert_eq!(agent.send(TRACES, Bytes::new()).await.unwrap(), Accepted::default(), "no items is success");
    assert!(central.calls(TRACES).is_empty());
    assert_eq!(agent.imbalance(), 0);
}

#[tokio::test]
async fn a_request_whose_parts_can_never_fit_into_the_budget_is_refused_for_good() {
    let (one, two) = (Central::start().await, Central::start().await);
    let mut config = agent_config(&[&one, &two]);
    config.memory.limit_mib = Some(1);
    config.memory.request_share_percentage = 50;
    config.receiver.connections.connection_memory_mib = Some(16);
    let agent = Running::start(config).await;
    // Half of a MiB is for requests; this one and its parts for two owners are more.
    let body = spans(0, 6000);
    assert!((300 << 10..480 << 10).contains(&body.len()), "{}", body.len());
    let refusal = agent.send(TRACES, body).await.unwrap_err();
    assert_eq!((refusal.code, refusal.retry_after), (Code::InvalidArgument, None), "{}", refusal.message);
    assert!(refusal.message.contains("524288"), "{}", refusal.message);
    assert_eq!(
        agent.metric("mirador_agent_refused_items_total{signal=\"traces\",reason=\"too_large_for_memory\"}"),
        6000
    );
    assert_eq!(one.calls(TRACES).len() + two.calls(TRACES).len(), 0, "nothing was sent");
    agent.send(TRACES, spans(0, 1000)).await.unwrap();
    assert_eq!(agent.imbalance(), 0);
}

#[tokio::test]
async fn items_that_an_owner_leaves_out_are_told_to_the_client_and_counted_as_dropped() {
    let central = Central::start().await;
    central.always(Reply::Reject(3));
    let agent = Running::start(agent_config(&[&central])).await;
    let accepted = agent.send(TRACES, spans(0, 10)).await.unwrap();
    assert_eq!((accepted.rejected_items, accepted.message.as_str()), (3, "left out"));
    assert_eq!(agent.metric("mirador_agent_sent_items_total"), 7);
    assert_eq!(agent.metric("mirador_agent_dropped_items_total{signal=\"traces\",reason=\"owner_rejected\"}"), 3);
    assert_eq!(agent.imbalance(), 0);
}

#[tokio::test]
async fn spans_without_a_trace_id_go_where_their_resource_goes_and_are_counted() {
    let (one, two) = (Central::start().await, Central::start().await);
    let agent = Running::start(agent_config(&[&one, &two])).await;
    let mut request = ExportTraceServiceRequest::decode(spans(0, 30)).unwrap();
    for span in &mut request.resource_spans[0].scope_spans[0].spans {
        span.trace_id = if span.span_id[7] % 3 == 0 { vec![0; 16] } else { Vec::new() };
    }
    agent.send(TRACES, request.encode_to_vec().into()).await.unwrap();
    assert_eq!(agent.metric("mirador_agent_spans_without_trace_id_total"), 15);
    let cart = |central: &Central| {
        let calls = central.calls(TRACES).into_iter();
        let resources = calls.flat_map(|call| ExportTraceServiceRequest::decode(call.body).unwrap().resource_spans);
        let services = resources
            .filter(|resource| resource.resource.as_ref().unwrap().attributes[0] == attribute("service.name", "cart"));
        services.flat_map(|resource| resource.scope_spans).map(|scope| scope.spans.len()).sum::<usize>()
    };
    assert_eq!([cart(&one), cart(&two)].iter().filter(|count| **count == 15).count(), 1, "all on one owner");
}

#[tokio::test]
async fn the_http_port_takes_the_same_requests() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let central = Central::start().await;
    let agent = Running::start(agent_config(&[&central])).await;
    let body = spans(0, 10);
    let mut stream = tokio::net::TcpStream::connect(agent.http).await.unwrap();
    let head = format!(
        "POST /v1/traces HTTP/1.1\r\nhost: a\r\ncontent-type: application/x-protobuf\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(central.spans(), span_names(&body));
}

/// How each of three owners answers traces, by call; `Accept` afterwards.
fn failures() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(0..5_u8, 0..6), 3)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 16, ..ProptestConfig::default() })]

    /// received = sent + dropped + refused + in flight, acknowledged spans are stored, and RED counts
    /// exactly the acknowledged requests, whatever owners answer.
    #[test]
    fn the_books_of_the_agent_add_up_whatever_owners_answer(failures in failures(), requests in 1..5_u32) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let centrals = [Central::start().await, Central::start().await, Central::start().await];
            for (central, replies) in centrals.iter().zip(failures) {
                let mut replies = replies.into_iter();
                central.script(move |call| match (call.kind == TRACES).then(|| replies.next()).flatten() {
                    Some(0 | 1) => Reply::Refuse(Code::Unavailable),
                    Some(2) => Reply::Refuse(Code::InvalidArgument),
                    Some(3) => Reply::Refuse(Code::Aborted),
                    _ => Reply::Accept,
                });
            }
            let all: Vec<&Central> = centrals.iter().collect();
            let agent = Running::start(impatient(agent_config(&all))).await;
            let bodies: Vec<Bytes> = (0..requests).map(|at| spans(at * 25, 25)).collect();
            let client = &agent;
            let answers = bodies.iter().map(|body| async move { (body, client.send_until_settled(body).await) });
            let (mut acknowledged, mut attempts) = (Vec::new(), 0);
            for (body, (tries, outcome)) in futures_util::future::join_all(answers).await {
                attempts += tries;
                if outcome.is_ok() {
                    acknowledged.push(body.clone());
                }
            }
            assert_eq!(agent.metric("mirador_agent_in_flight_items"), 0);
            assert_eq!(agent.imbalance(), 0, "{}", agent.registry.encode());
            assert_eq!(agent.metric("mirador_agent_received_items_total"), attempts as i64 * 25);
            assert_eq!(agent.metric("mirador_agent_sent_items_total"), acknowledged.len() as i64 * 25);
            assert!(agent.stop().await.is_clean());
            let stored: Vec<String> = all.iter().flat_map(|central| central.spans()).collect();
            for body in &acknowledged {
                for name in span_names(body) {
                    assert!(stored.contains(&name), "{name} was acknowledged and is nowhere");
                }
            }
            assert_eq!(merged(&red_calls(&all)), offline(&acknowledged));
        });
    }
}
