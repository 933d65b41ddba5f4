//! The sender against scripted owners: wire form, admission, delivery side by side, retry, placing again.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the line")]

#[path = "sender/fake_owner.rs"]
mod fake_owner;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use fake_owner::{FakeOwner, Reply, until};
use mirador_otlp::splice::Part;
use mirador_otlp::{Limits, Request, Signal};
use mirador_service::health::Health;
use mirador_service::metrics::Registry;
use mirador_service::secret::Secret;
use mirador_transport::sender::config::{Compression, Config, DnsConfig, ResolverConfig, StaticConfig};
use mirador_transport::sender::{Destination, Owners};
use mirador_transport::{Accepted, Kind, Refusal};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use proptest::prelude::*;
use prost::Message as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Code;

const TRACES: Kind = Kind::Otlp(Signal::Traces);

struct Rig {
    destination: Destination,
    registry: Registry,
}

fn config(owners: &[&FakeOwner]) -> Config {
    let mut config = Config {
        resolver: ResolverConfig {
            fixed: Some(StaticConfig { hostnames: owners.iter().map(|owner| owner.name()).collect() }),
            dns: None,
            k8s: None,
        },
        ..Config::default()
    };
    config.retry_on_failure.initial_interval = Duration::from_millis(10);
    config.retry_on_failure.max_interval = Duration::from_millis(20);
    // Nothing here runs out of time unless a test says so, however busy the machine is.
    config.retry_on_failure.max_elapsed_time = Duration::from_mins(1);
    config.timeout = Duration::from_mins(1);
    config.connection.connect_timeout = Duration::from_mins(1);
    config.connection.max_probe_interval = Duration::from_millis(50);
    config
}

fn start(config: Config) -> Rig {
    let registry = Registry::new();
    let destination =
        Destination::start("traces", config, &registry, &Health::new(), Some("node-1".to_owned())).unwrap();
    Rig { destination, registry }
}

impl Rig {
    async fn send(&self, owners: &Owners, parts: Vec<Part>) -> Result<Accepted, Refusal> {
        self.destination.send(TRACES, owners, parts, self.destination.deadline()).await
    }

    async fn send_within(&self, owners: &Owners, parts: Vec<Part>, time: Duration) -> Result<Accepted, Refusal> {
        self.destination.send(TRACES, owners, parts, Instant::now() + time).await
    }

    /// The value of a metric whose name and labels start like this, summed.
    fn metric(&self, start: &str) -> u64 {
        let page = self.registry.encode();
        let lines = page.lines().filter(|line| line.starts_with(start));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
    }

    /// The index of an owner in the present ring.
    fn index(&self, owner: &FakeOwner) -> usize {
        self.destination.owners().position(&owner.name()).unwrap()
    }

    fn part(&self, owner: &FakeOwner, traces: std::ops::Range<u8>) -> Part {
        let items = traces.len();
        Part { owner: self.index(owner), bytes: request(traces), items }
    }
}

/// A request with one span per trace id.
fn request(traces: std::ops::Range<u8>) -> Bytes {
    let spans = traces.map(|id| Span {
        trace_id: vec![id; 16],
        span_id: vec![id; 8],
        name: format!("span-{id}"),
        ..Span::default()
    });
    let scope = ScopeSpans { spans: spans.collect(), ..ScopeSpans::default() };
    let resource = ResourceSpans { scope_spans: vec![scope], ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource] }.encode_to_vec().into()
}

/// The names of the spans that the owners have acknowledged, with repetitions.
fn delivered(owners: &[&FakeOwner]) -> Vec<String> {
    let mut names: Vec<String> = owners
        .iter()
        .flat_map(|owner| owner.accepted())
        .flat_map(|message| ExportTraceServiceRequest::decode(message).unwrap().resource_spans)
        .flat_map(|resource| resource.scope_spans)
        .flat_map(|scope| scope.spans)
        .map(|span| span.name)
        .collect();
    names.sort();
    names
}

fn names(traces: std::ops::Range<u8>) -> Vec<String> {
    let mut names: Vec<String> = traces.map(|id| format!("span-{id}")).collect();
    names.sort();
    names
}

#[tokio::test]
async fn one_owner_gets_the_very_bytes_with_the_headers_of_a_grpc_call() {
    let owner = FakeOwner::start().await;
    let mut config = config(&[&owner]);
    config.headers.insert("authorization".to_owned(), Secret::new("Bearer t"));
    let rig = start(config);
    let body = request(1..9);
    let request = Request::parse(Signal::Traces, body.clone(), &Limits::default()).unwrap();
    let owners = rig.destination.owners();
    let placed = owners.place(&request).unwrap();
    assert_eq!(placed.parts[0].bytes.as_ptr(), body.as_ptr(), "no copy is made for one owner");
    assert_eq!(rig.send(&owners, placed.parts).await.unwrap(), Accepted::default());
    let calls = owner.received();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].message, body);
    assert_eq!(calls[0].path, "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    for (name, value) in [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("x-mirador-agent", "node-1"),
        ("authorization", "Bearer t"),
    ] {
        assert_eq!(calls[0].headers[name], value);
    }
    assert!(calls[0].headers.contains_key("grpc-timeout"));
    assert_eq!(rig.metric("mirador_sender_sent_items_total{destination=\"traces\"}"), 8);
    assert_eq!(rig.metric("otelcol_exporter_sent_spans_total{exporter=\"otlp/traces\"}"), 8);
    assert_eq!(rig.metric("mirador_sender_owner_in_flight_bytes"), 0);
}

#[tokio::test]
async fn every_kind_goes_to_its_own_method_and_partial_success_is_passed_on() {
    let owner = FakeOwner::start().await;
    let rig = start(config(&[&owner]));
    let owners = rig.destination.owners();
    for kind in Kind::ALL {
        let part = Part { owner: 0, bytes: Bytes::new(), items: 1 };
        rig.destination.send(kind, &owners, vec![part], rig.destination.deadline()).await.unwrap();
    }
    let paths: BTreeSet<String> = owner.received().into_iter().map(|call| call.path).collect();
    assert_eq!(paths.len(), 4);
    assert!(paths.contains(mirador_proto::PATH_RED));
    let partial = ExportTracePartialSuccess { rejected_spans: 3, error_message: "too old".to_owned() };
    let answer = ExportTraceServiceResponse { partial_success: Some(partial) };
    owner.always(Reply::Ok(answer.encode_to_vec()));
    let accepted = rig.send(&owners, vec![rig.part(&owner, 0..4)]).await.unwrap();
    assert_eq!(accepted, Accepted { rejected_items: 3, message: "too old".to_owned() });
    assert_eq!(rig.metric("mirador_sender_rejected_items_total"), 3);
}

#[tokio::test]
async fn compressed_parts_say_so_and_arrive_whole() {
    let owner = FakeOwner::start().await;
    for compression in [Compression::Gzip, Compression::Zstd] {
        let rig = start(Config { compression, ..config(&[&owner]) });
        rig.send(&rig.destination.owners(), vec![rig.part(&owner, 0..50)]).await.unwrap();
    }
    let calls = owner.received();
    assert_eq!(calls[0].headers["grpc-encoding"], "gzip");
    assert_eq!(calls[1].headers["grpc-encoding"], "zstd");
    assert!(calls.iter().all(|call| call.message == request(0..50)));
}

#[tokio::test]
async fn a_request_is_refused_before_any_part_is_sent_when_an_owner_is_down() {
    let (left, right) = (FakeOwner::start().await, FakeOwner::start().await);
    // Bound and not listening: whoever connects is refused, and nobody else gets the port meanwhile.
    let gone = TcpSocket::new_v4().unwrap();
    gone.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let gone_name = gone.local_addr().unwrap().to_string();
    let mut config = config(&[&left, &right]);
    config.resolver.fixed.as_mut().unwrap().hostnames.push(gone_name.clone());
    let rig = start(config);
    let owners = rig.destination.owners();
    let down = owners.position(&gone_name).unwrap();
    let only_down = || vec![Part { owner: down, bytes: request(9..10), items: 1 }];
    let begun = Instant::now();
    while rig.send_within(&owners, only_down(), Duration::from_millis(20)).await.unwrap_err().reason != "owner_down" {
        assert!(begun.elapsed() < Duration::from_mins(1), "the owner never counts as down");
    }
    let mut parts = vec![rig.part(&left, 0..1), rig.part(&right, 1..2)];
    parts.extend(only_down());
    let refusal = rig.send(&owners, parts).await.unwrap_err();
    assert_eq!((refusal.code, refusal.reason), (Code::Unavailable, "owner_down"));
    assert!(refusal.retry_after.is_some_and(|wait| !wait.is_zero()));
    assert_eq!((left.calls(), right.calls()), (0, 0), "nothing was sent");
    assert!(rig.metric("mirador_sender_refused_items_total{destination=\"traces\",reason=\"owner_down\"}") >= 3);
    assert_eq!(rig.metric("mirador_sender_owner_in_flight_bytes"), 0, "room that was taken is given back");
}

#[tokio::test]
async fn a_request_is_refused_before_any_part_is_sent_when_an_owner_is_full() {
    let (free, full) = (FakeOwner::start().await, FakeOwner::start().await);
    full.always(Reply::Stall);
    let mut config = config(&[&free, &full]);
    config.sending_queue.queue_size_requests = 1;
    let rig = start(config);
    let owners = rig.destination.owners();
    let waiting = tokio::spawn({
        let (destination, owners) = (rig.destination.clone(), owners.clone());
        let part = rig.part(&full, 0..1);
        async move { destination.send(TRACES, &owners, vec![part], destination.deadline()).await }
    });
    until("the first part is on its way", || full.calls() == 1).await;
    let parts = vec![rig.part(&free, 1..2), rig.part(&full, 2..3)];
    let refusal = rig.send(&owners, parts.clone()).await.unwrap_err();
    assert_eq!((refusal.code, refusal.reason), (Code::Unavailable, "owner_full"));
    assert!(refusal.retry_after.is_some());
    assert_eq!(free.calls(), 0);
    full.release();
    waiting.await.unwrap().unwrap();
    rig.send(&owners, parts).await.unwrap();
    assert_eq!(delivered(&[&free, &full]), names(0..3));
}

#[tokio::test]
async fn bytes_in_flight_are_bounded_but_one_larger_part_gets_through() {
    let owner = FakeOwner::start().await;
    owner.always(Reply::Stall);
    let mut config = config(&[&owner]);
    config.sending_queue.queue_size_bytes = 10;
    let rig = start(config);
    let owners = rig.destination.owners();
    let first = tokio::spawn({
        let (destination, owners, part) = (rig.destination.clone(), owners.clone(), rig.part(&owner, 0..20));
        async move { destination.send(TRACES, &owners, vec![part], destination.deadline()).await }
    });
    until("the large part is on its way", || owner.calls() == 1).await;
    let refusal = rig.send(&owners, vec![rig.part(&owner, 20..21)]).await.unwrap_err();
    assert_eq!(refusal.reason, "owner_full");
    owner.release();
    first.await.unwrap().unwrap();
}

#[tokio::test]
async fn parts_go_out_side_by_side_and_a_stalled_owner_delays_only_the_answer() {
    let owners: Vec<FakeOwner> = vec![FakeOwner::start().await, FakeOwner::start().await, FakeOwner::start().await];
    let all: Vec<&FakeOwner> = owners.iter().collect();
    for stalled in 0..3 {
        owners[stalled].always(Reply::Stall);
        let rig = start(config(&all));
        let before: Vec<usize> = owners.iter().map(FakeOwner::calls).collect();
        let parts = (0..3).map(|at| rig.part(&owners[at], at as u8..at as u8 + 1)).collect();
        let snapshot = rig.destination.owners();
        let destination = rig.destination.clone();
        let answer =
            tokio::spawn(async move { destination.send(TRACES, &snapshot, parts, destination.deadline()).await });
        until("every owner has its part", || (0..3).all(|at| owners[at].calls() == before[at] + 1)).await;
        assert!(!answer.is_finished(), "the request is not answered before the last part");
        owners[stalled].release();
        answer.await.unwrap().unwrap();
        owners[stalled].always(Reply::Ok(Vec::new()));
    }
}

#[tokio::test]
async fn retryable_answers_are_tried_again_inside_the_deadline() {
    let owner = FakeOwner::start().await;
    let rig = start(config(&[&owner]));
    let owners = rig.destination.owners();
    let codes =
        [Code::Unavailable, Code::Aborted, Code::DataLoss, Code::Cancelled, Code::OutOfRange, Code::DeadlineExceeded];
    let mut replies = codes.into_iter().map(|code| Reply::Status(code, None)).chain([
        Reply::Status(Code::ResourceExhausted, Some(Duration::from_millis(5))),
        Reply::Http(503),
        Reply::HangUp,
    ]);
    owner.script(move |_| replies.next().unwrap_or(Reply::Ok(Vec::new())));
    rig.send(&owners, vec![rig.part(&owner, 0..5)]).await.unwrap();
    assert_eq!(owner.calls(), 10);
    assert_eq!(delivered(&[&owner]), names(0..5));
    assert_eq!(rig.metric("mirador_sender_retries_total"), 9);
    assert_eq!(rig.metric("mirador_sender_failed_items_total"), 0);
}

#[tokio::test]
async fn the_wait_that_an_owner_asks_for_keeps_new_requests_away_from_it() {
    let owner = FakeOwner::start().await;
    owner.always(Reply::Status(Code::Unavailable, Some(Duration::from_mins(1))));
    let rig = start(config(&[&owner]));
    let owners = rig.destination.owners();
    let refusal = rig.send(&owners, vec![rig.part(&owner, 0..1)]).await.unwrap_err();
    assert_eq!((refusal.code, refusal.retry_after), (Code::Unavailable, Some(Duration::from_mins(1))));
    assert_eq!(owner.calls(), 1, "the wait would pass the deadline, so there is no second attempt");
    let refusal = rig.send(&owners, vec![rig.part(&owner, 1..2)]).await.unwrap_err();
    assert_eq!((refusal.reason, owner.calls()), ("owner_paused", 1));
}

#[tokio::test]
async fn permanent_answers_pass_through_at_once() {
    let owner = FakeOwner::start().await;
    let rig = start(config(&[&owner]));
    let owners = rig.destination.owners();
    for (reply, code) in [
        (Reply::Status(Code::InvalidArgument, None), Code::InvalidArgument),
        (Reply::Status(Code::ResourceExhausted, None), Code::ResourceExhausted),
        (Reply::Status(Code::Unauthenticated, None), Code::Unauthenticated),
        (Reply::Http(404), Code::Unimplemented),
    ] {
        let before = owner.calls();
        owner.always(reply);
        let refusal = rig.send(&owners, vec![rig.part(&owner, 0..2)]).await.unwrap_err();
        assert_eq!((refusal.code, refusal.retry_after), (code, None));
        assert_eq!(owner.calls(), before + 1);
    }
    assert_eq!(rig.metric("otelcol_exporter_send_failed_spans_total"), 8);
}

#[tokio::test]
async fn a_repetition_delivers_only_what_was_not_delivered_before() {
    let (good, bad) = (FakeOwner::start().await, FakeOwner::start().await);
    bad.always(Reply::Status(Code::Unavailable, None));
    // One attempt a request, so that no time has to pass for it to fail.
    let mut config = config(&[&good, &bad]);
    config.retry_on_failure.enabled = false;
    let rig = start(config);
    let owners = rig.destination.owners();
    let parts = vec![rig.part(&good, 0..3), rig.part(&bad, 3..5)];
    for _ in 0..3 {
        let refusal = rig.send(&owners, parts.clone()).await.unwrap_err();
        assert_eq!(refusal.code, Code::Unavailable);
    }
    assert_eq!((good.calls(), bad.calls()), (1, 3));
    bad.always(Reply::Ok(Vec::new()));
    rig.send(&owners, parts.clone()).await.unwrap();
    assert_eq!(delivered(&[&good, &bad]), names(0..5), "each part once");
    assert_eq!(rig.metric("mirador_sender_skipped_items_total"), 9);
    rig.send(&owners, parts).await.unwrap();
    assert_eq!(good.calls(), 2, "what was told to the client is forgotten: new data with equal bytes is sent");
}

#[tokio::test]
async fn a_dropped_request_remembers_what_was_delivered_and_gives_its_room_back() {
    let (good, slow) = (FakeOwner::start().await, FakeOwner::start().await);
    slow.always(Reply::Stall);
    let rig = start(config(&[&good, &slow]));
    let owners = rig.destination.owners();
    let parts = vec![rig.part(&good, 0..3), rig.part(&slow, 3..5)];
    {
        let mut sending = Box::pin(rig.send(&owners, parts.clone()));
        let polled = async { until("both have their part", || good.calls() + slow.calls() == 2).await };
        tokio::select! {
            _ = &mut sending => panic!("the slow owner has not answered"),
            () = polled => {}
        }
        // The answer of the good owner is on the wire; poll until the sender has counted it.
        let counted =
            async { until("the good part is counted", || rig.metric("mirador_sender_sent_parts_total") == 1).await };
        tokio::select! {
            _ = &mut sending => panic!("the slow owner has not answered"),
            () = counted => {}
        }
    }
    assert_eq!(rig.metric("mirador_sender_failed_items_total{destination=\"traces\",code=\"CANCELLED\"}"), 2);
    assert_eq!(rig.metric("mirador_sender_owner_in_flight_bytes"), 0);
    slow.always(Reply::Ok(Vec::new()));
    rig.send(&owners, parts).await.unwrap();
    assert_eq!(good.calls(), 1);
    assert_eq!(delivered(&[&good]), names(0..3));
    assert!(delivered(&[&slow]).ends_with(&names(3..5)));
}

#[tokio::test]
async fn what_waits_for_an_owner_that_leaves_is_placed_again_and_nothing_acknowledged_is_lost() {
    let (a, b, c) = (FakeOwner::start().await, FakeOwner::start().await, FakeOwner::start().await);
    let rig = start(config(&[&a, &b, &c]));
    let body = request(0..60);
    let request = Request::parse(Signal::Traces, body, &Limits::default()).unwrap();
    let owners = rig.destination.owners();
    let placed = owners.place(&request).unwrap();
    assert_eq!(placed.parts.len(), 3, "60 traces reach three owners");
    b.always(Reply::Status(Code::Unavailable, None));
    let destination = rig.destination.clone();
    let sending =
        tokio::spawn(async move { destination.send(TRACES, &owners, placed.parts, destination.deadline()).await });
    until("the part of b has failed and waits", || b.calls() > 0).await;
    rig.destination.set_owners(vec![a.name(), c.name()]);
    sending.await.unwrap().unwrap();
    assert_eq!(delivered(&[&a, &c]), names(0..60), "every span once, on the owners that stayed");
    assert!(rig.metric("mirador_sender_replaced_items_total") > 0);
    assert_eq!(rig.metric("mirador_sender_sent_items_total"), 60);
    assert_eq!(rig.metric("otelcol_loadbalancer_num_backends{resolver=\"static/traces\"}"), 2);
}

#[tokio::test]
async fn a_part_without_any_owner_left_waits_for_one() {
    let (a, b) = (FakeOwner::start().await, FakeOwner::start().await);
    let rig = start(config(&[&a]));
    a.always(Reply::Status(Code::Unavailable, None));
    let (destination, owners, part) = (rig.destination.clone(), rig.destination.owners(), rig.part(&a, 0..4));
    let sending =
        tokio::spawn(async move { destination.send(TRACES, &owners, vec![part], destination.deadline()).await });
    until("the first attempt has failed", || a.calls() > 0).await;
    rig.destination.set_owners(Vec::new());
    for _ in 0..50 {
        // Lets the part find that the ring is empty.
        tokio::task::yield_now().await;
    }
    assert!(!sending.is_finished());
    rig.destination.set_owners(vec![b.name()]);
    sending.await.unwrap().unwrap();
    assert_eq!(delivered(&[&b]), names(0..4));
    rig.destination.set_owners(Vec::new());
    assert!(rig.destination.owners().is_empty());
}

#[tokio::test]
async fn a_snapshot_taken_before_a_change_is_placed_again_before_anything_is_sent() {
    let (a, b) = (FakeOwner::start().await, FakeOwner::start().await);
    let rig = start(config(&[&a, &b]));
    let old = rig.destination.owners();
    let parts = vec![rig.part(&a, 0..4), rig.part(&b, 4..9)];
    rig.destination.set_owners(vec![b.name()]);
    rig.send(&old, parts).await.unwrap();
    assert_eq!(a.calls(), 0);
    assert_eq!(delivered(&[&b]), names(0..9));
}

#[tokio::test]
async fn an_owner_that_comes_back_is_used_again_without_a_restart() {
    let owner = FakeOwner::start().await;
    let addr = owner.addr();
    let rig = start(config(&[&owner]));
    let owners = rig.destination.owners();
    let part = rig.part(&owner, 0..1);
    rig.send(&owners, vec![part.clone()]).await.unwrap();
    drop(owner);
    until("the owner counts as down", || !rig.destination.is_up(&owners, 0)).await;
    let back = FakeOwner::start_at(addr).await;
    until("the probe has brought it back", || rig.destination.is_up(&owners, 0)).await;
    rig.send(&owners, vec![part]).await.unwrap();
    assert_eq!(back.calls(), 1);
}

#[tokio::test]
async fn an_owner_that_answers_no_ping_is_given_up_and_dialled_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(&[]);
    config.resolver.fixed = Some(StaticConfig { hostnames: vec![listener.local_addr().unwrap().to_string()] });
    config.retry_on_failure.enabled = false;
    config.connection.keepalive_time = Duration::from_millis(50);
    config.connection.keepalive_timeout = Duration::from_millis(50);
    // Says with an empty SETTINGS frame that it speaks HTTP/2, and then nothing, whatever comes.
    let (mute, mut accepted) = watch::channel(Vec::new());
    let accepting = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            mute.send_modify(|held| held.push(stream));
        }
    });
    let rig = start(config);
    let part = Part { owner: 0, bytes: request(0..1), items: 1 };
    let refusal = rig.send(&rig.destination.owners(), vec![part]).await.unwrap_err();
    assert_eq!(refusal.code, Code::Unavailable);
    assert!(refusal.message.contains("connection"), "{}", refusal.message);
    let again = accepted.wait_for(|held| held.len() > 1);
    tokio::time::timeout(Duration::from_mins(1), again).await.expect("it is dialled again").unwrap();
    accepting.abort();
}

#[tokio::test]
async fn owners_from_dns_are_named_as_addresses_and_used() {
    let owner = FakeOwner::start().await;
    let mut config = config(&[]);
    config.resolver = ResolverConfig {
        fixed: None,
        dns: Some(DnsConfig {
            hostname: "localhost".to_owned(),
            port: Some(owner.addr().port()),
            timeout: Duration::from_secs(30),
            ..DnsConfig::default()
        }),
        k8s: None,
    };
    let rig = start(config);
    until("the name is resolved", || !rig.destination.owners().is_empty()).await;
    let owners = rig.destination.owners();
    let at = owners.position(&owner.name()).expect("127.0.0.1:port is a member");
    rig.send(&owners, vec![Part { owner: at, bytes: request(0..1), items: 1 }]).await.unwrap();
    assert!(rig.metric("otelcol_loadbalancer_num_resolutions_total{resolver=\"dns/traces\",success=\"true\"}") >= 1);
}

#[derive(Debug, Clone)]
struct Behaviour {
    /// The reply to each call of each owner, in order; OK afterwards.
    replies: [Vec<u8>; 3],
    requests: usize,
    leaves: Option<usize>,
}

fn behaviour() -> impl Strategy<Value = Behaviour> {
    let replies = || prop::collection::vec(0..6_u8, 0..4);
    (replies(), replies(), replies(), 1..6_usize, prop::option::of(0..3_usize))
        .prop_map(|(a, b, c, requests, leaves)| Behaviour { replies: [a, b, c], requests, leaves })
}

fn reply(code: u8) -> Reply {
    match code {
        0 => Reply::Status(Code::Unavailable, None),
        1 => Reply::Status(Code::ResourceExhausted, Some(Duration::from_millis(1))),
        2 => Reply::Status(Code::InvalidArgument, None),
        3 => Reply::HangUp,
        _ => Reply::Ok(Vec::new()),
    }
}

/// What a client does: repeats a request byte for byte until it is taken or refused for good.
async fn as_a_client(rig: &Rig, body: &Bytes) -> (usize, Result<(), Refusal>) {
    for attempt in 1..200 {
        let request = Request::parse(Signal::Traces, body.clone(), &Limits::default()).unwrap();
        let owners = rig.destination.owners();
        let parts = owners.place(&request).unwrap().parts;
        match rig.send_within(&owners, parts, Duration::from_millis(40)).await {
            Ok(_) => return (attempt, Ok(())),
            Err(refusal) if refusal.retry_after.is_none() => return (attempt, Err(refusal)),
            Err(refusal) => tokio::time::sleep(refusal.retry_after.unwrap().min(Duration::from_millis(20))).await,
        }
    }
    panic!("a client is answered for good in the end");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 32, ..ProptestConfig::default() })]

    /// Whatever owners answer: offered = sent + failed + refused + skipped, and what was acknowledged
    /// to the client has been acknowledged by an owner.
    #[test]
    fn the_books_of_the_sender_add_up_whatever_owners_answer(behaviour in behaviour()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let owners = [FakeOwner::start().await, FakeOwner::start().await, FakeOwner::start().await];
            for (owner, replies) in owners.iter().zip(&behaviour.replies) {
                let mut replies = replies.clone().into_iter();
                owner.script(move |_| replies.next().map_or(Reply::Ok(Vec::new()), reply));
            }
            let all: Vec<&FakeOwner> = owners.iter().collect();
            let rig = start(config(&all));
            let (mut offered, mut acknowledged) = (0, Vec::new());
            for number in 0..behaviour.requests {
                if number == 1 && let Some(leaves) = behaviour.leaves {
                    let stay = all.iter().enumerate().filter(|(at, _)| *at != leaves).map(|(_, owner)| owner.name());
                    rig.destination.set_owners(stay.collect());
                }
                let spans = number as u8 * 20..number as u8 * 20 + 20;
                let (attempts, outcome) = as_a_client(&rig, &request(spans.clone())).await;
                offered += attempts * 20;
                if outcome.is_ok() {
                    acknowledged.extend(names(spans));
                }
            }
            let counted = rig.metric("mirador_sender_sent_items_total")
                + rig.metric("mirador_sender_failed_items_total")
                + rig.metric("mirador_sender_refused_items_total")
                + rig.metric("mirador_sender_skipped_items_total");
            assert_eq!(counted, offered as u64, "{}", rig.registry.encode());
            assert_eq!(rig.metric("mirador_sender_owner_in_flight_bytes"), 0);
            let stored = delivered(&all);
            for name in acknowledged {
                assert!(stored.contains(&name), "{name} was acknowledged but no owner has it");
            }
        });
    }
}
