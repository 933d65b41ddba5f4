//! Pressure, time and churn: what a peer can do to the receiver without sending anything that is wrong.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use mirador_transport::receiver::{BindError, Receiver};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::payload::{frame, traces};
use crate::rig::{Behaviour, H1, H2, Rig, TRACES, config, head, soon, until};

const LENGTH: (&str, &str) = ("content-length", "200000");
const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");

/// A raw HTTP/2 client whose streams are written by hand.
async fn raw(
    address: std::net::SocketAddr,
) -> (h2::client::SendRequest<Bytes>, tokio::task::JoinHandle<Result<(), h2::Error>>) {
    let stream = TcpStream::connect(address).await.expect("it listens");
    let (client, connection) = h2::client::handshake(stream).await.expect("it speaks HTTP/2");
    (client, tokio::spawn(connection))
}

fn call(address: std::net::SocketAddr) -> Request<()> {
    Request::post(format!("http://{address}{TRACES}"))
        .header("content-type", "application/grpc")
        .body(())
        .expect("a sound request")
}

fn status_of(headers: &http::HeaderMap) -> tonic::Status {
    tonic::Status::from_header_map(headers).expect("a trailers-only answer")
}

#[tokio::test]
async fn without_memory_a_call_is_refused_before_its_body_is_sent_and_the_connection_goes_on() {
    let rig = Rig::with(config(), 512 << 10).await;
    rig.behave(Behaviour::Hold);
    let mut holder = H2::connect(rig.grpc).await;
    let mut other = holder.clone();
    let held = tokio::spawn(async move { holder.export(TRACES, &vec![0; 400 << 10]).await });
    until("the first call holds its memory", || rig.given_count() == 1).await;
    assert!(rig.budget.used() >= 400 << 10);

    let (client, _connection) = raw(rig.grpc).await;
    let mut client = client.ready().await.expect("it is ready");
    let (response, mut body) = client.send_request(call(rig.grpc), false).expect("a stream");
    // Only the prefix of a message of 200 KB: the permit is asked for before the rest.
    body.send_data(Bytes::from_static(&[0, 0, 3, 0, 0]), false).expect("it is open");
    let answer = soon("a refusal without the body", response).await.expect("it is answered");
    let status = status_of(answer.headers());
    assert_eq!((status.code(), rig.refused("memory")), (Code::Unavailable, 1));
    let hint = status.get_details_retry_info().and_then(|info| info.retry_delay);
    assert_eq!(hint, Some(Duration::from_secs(1)), "pressure tells when to come back");

    let mut plain = H1::connect(rig.http).await;
    plain.write((head("POST", "/v1/traces", &[PROTOBUF, LENGTH]) + "\r\n").as_bytes()).await;
    let answer = plain.answer().await;
    assert_eq!(
        (answer.status, answer.header("retry-after"), answer.header("connection")),
        (503, Some("1"), Some("close"))
    );
    assert_eq!((answer.rpc_status().code, rig.refused("memory")), (Code::Unavailable as i32, 2));
    plain.closed().await;
    // A short body runs out and the connection is kept, as on HTTP/2.
    let mut plain = H1::connect(rig.http).await;
    let grown = rig.budget.try_acquire(rig.budget.limit() - rig.budget.used() - 8192).expect("the rest");
    let answer = plain.post("/v1/traces", &[], &traces(300)).await;
    assert_eq!((answer.status, answer.header("connection")), (503, None));
    drop(grown);
    let status = other.export(TRACES, &vec![0; 200 << 10]).await.tonic();
    assert_eq!(status.code(), Code::Unavailable);

    rig.consumer.gate.add_permits(100);
    assert_eq!(held.await.expect("it ran").grpc_status(), Some(0), "the held call was never disturbed");
    assert_eq!(other.export(TRACES, &vec![0; 200 << 10]).await.grpc_status(), Some(0), "the connection goes on");
    assert_eq!(plain.post("/v1/traces", &[], &traces(300)).await.status, 200);
    rig.settled().await;
}

#[tokio::test]
async fn overload_on_either_protocol_holds_no_more_than_the_budget() {
    let limit = 2 << 20;
    let rig = Rig::with(config(), limit).await;
    rig.behave(Behaviour::Hold);
    let body = vec![0; 200 << 10];
    let mut calls = Vec::new();
    for i in 0..40 {
        let (body, grpc, http) = (body.clone(), rig.grpc, rig.http);
        calls.push(tokio::spawn(async move {
            if i % 2 == 0 {
                H2::connect(grpc).await.export(TRACES, &body).await.grpc_status() == Some(0)
            } else {
                H1::connect(http).await.post("/v1/traces", &[], &body).await.status == 200
            }
        }));
    }
    until("all are held or refused", || rig.given_count() as u64 + rig.refused("memory") == 40).await;
    assert!(rig.budget.used() <= limit);
    assert!(rig.given_count() >= 7, "what fits is taken: {}", rig.given_count());
    rig.consumer.gate.add_permits(40);
    let mut taken = 0;
    for call in calls {
        taken += usize::from(call.await.expect("it ran"));
    }
    assert_eq!(taken, rig.given_count());
    assert_eq!(rig.count("mirador_receiver_requests_total", &[]), 40, "every request has one outcome");
    rig.settled().await;
}

#[tokio::test]
async fn a_body_that_trickles_is_given_up() {
    let mut config = config();
    config.body.progress_interval = Duration::from_millis(100);
    config.body.min_progress_bytes = 1000;
    let rig = Rig::with(config, 4 << 20).await;
    let (client, _connection) = raw(rig.grpc).await;
    let mut client = client.ready().await.expect("it is ready");
    let (mut response, mut body) = client.send_request(call(rig.grpc), false).expect("a stream");
    body.send_data(Bytes::from_static(&[0, 0, 3, 0, 0]), false).expect("it is open");
    let answer = loop {
        tokio::select! {
            answer = &mut response => break answer.expect("it is answered"),
            // The stream may be reset between two bytes.
            () = tokio::time::sleep(Duration::from_millis(5)) => drop(body.send_data(Bytes::from_static(b"x"), false)),
        }
    };
    assert_eq!(status_of(answer.headers()).code(), Code::DeadlineExceeded);
    assert_eq!(rig.refused("body_stalled"), 1);
    assert_eq!(rig.budget.used(), 0, "nothing is kept");

    let mut plain = H1::connect(rig.http).await;
    plain.write((head("POST", "/v1/traces", &[PROTOBUF, LENGTH]) + "\r\nabc").as_bytes()).await;
    let answer = plain.answer().await;
    assert_eq!(
        (answer.status, answer.header("retry-after"), answer.header("connection")),
        (503, Some("1"), Some("close"))
    );
    assert_eq!(rig.refused("body_stalled"), 2);
    plain.closed().await;
    rig.settled().await;
}

#[tokio::test]
async fn a_body_that_progresses_still_has_a_deadline() {
    let mut config = config();
    // Long enough for a byte to come in each interval, however busy the machine is.
    config.body.progress_interval = Duration::from_secs(1);
    config.body.min_progress_bytes = 1;
    config.body.read_timeout = Duration::from_millis(2500);
    let rig = Rig::with(config, 4 << 20).await;
    let plain = H1::connect(rig.http).await;
    let (reader, mut writer) = plain.stream.into_split();
    let writing = tokio::spawn(async move {
        let head = head("POST", "/v1/traces", &[PROTOBUF, LENGTH]) + "\r\n";
        writer.write_all(head.as_bytes()).await.expect("it is open");
        while writer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    until("the deadline passes", || rig.refused("body_timeout") == 1).await;
    assert_eq!(rig.refused_in_all(), 1);
    drop(reader);
    soon("the peer closes", writing).await.expect("it ran");
    rig.settled().await;
}

#[tokio::test]
async fn a_client_that_goes_away_frees_everything_at_once() {
    let rig = Rig::with(config(), 4 << 20).await;
    // In the middle of its body, on both protocols.
    let mut plain = H1::connect(rig.http).await;
    plain.write((head("POST", "/v1/traces", &[PROTOBUF, LENGTH]) + "\r\nabc").as_bytes()).await;
    until("its body is paid for", || rig.budget.used() > 200_000).await;
    drop(plain);
    until("it is counted", || rig.refused("client_gone") == 1).await;
    let (client, connection) = raw(rig.grpc).await;
    let mut client = client.ready().await.expect("it is ready");
    let (_response, mut body) = client.send_request(call(rig.grpc), false).expect("a stream");
    body.send_data(Bytes::from_static(&[0, 0, 3, 0, 0]), false).expect("it is open");
    until("its body is paid for", || rig.budget.used() > 190_000).await;
    body.send_reset(h2::Reason::CANCEL);
    until("it is counted", || rig.refused("client_gone") == 2).await;
    rig.settled().await;
    connection.abort();
    // While it waits for the answer.
    rig.behave(Behaviour::Hold);
    let mut plain = H1::connect(rig.http).await;
    let request = head("POST", "/v1/traces", &[PROTOBUF, ("content-length", "0")]) + "\r\n";
    plain.write(request.as_bytes()).await;
    let mut client = H2::connect(rig.grpc).await;
    let waiting = tokio::spawn(async move { client.export(TRACES, &traces(10)).await });
    until("both are held", || rig.given_count() == 2).await;
    drop(plain);
    waiting.abort();
    until("both are counted", || rig.refused("client_gone") == 4).await;
    assert_eq!(rig.count("mirador_receiver_requests_total", &["outcome=\"cancelled\""]), 4);
    rig.settled().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let mut config = config();
    config.protocols.grpc.keepalive.server_parameters.max_connection_idle = Duration::from_millis(600);
    config.protocols.http.idle_timeout = Duration::from_millis(600);
    let rig = Rig::with(config, 4 << 20).await;
    rig.behave(Behaviour::Hold);
    let mut busy = H2::connect(rig.grpc).await;
    let mut probe = busy.clone();
    let answered = tokio::spawn(async move { busy.export(TRACES, &traces(1)).await });
    let silent = H2::connect(rig.grpc).await;
    let mut mute = H1::connect(rig.http).await;
    rig.consumer.gate.add_permits(1);
    until("one call is held", || rig.given_count() == 1).await;
    soon("the held call is answered", answered).await.expect("it ran");
    // From here on nobody does anything but this one.
    let head = head("POST", "/v1/traces", &[PROTOBUF, ("content-length", "0")]) + "\r\n";
    let mut used = H1::connect(rig.http).await;
    used.write(head.as_bytes()).await;
    until("the second call is held", || rig.given_count() == 2).await;
    mute.closed().await;
    until("the silent ones are closed", || silent.is_closed() && probe.is_closed()).await;
    until("they are counted", || rig.closed("idle") == 3).await;
    rig.consumer.gate.add_permits(1);
    assert_eq!(used.answer().await.status, 200, "a call in flight is not idle");
    used.closed().await;
    until("it became idle after that", || rig.closed("idle") == 4).await;
    let refused = probe.sender_is_gone().await;
    assert!(refused, "no call is lost: the client knows before it sends");
    rig.settled().await;
}

#[tokio::test]
async fn a_header_that_does_not_finish_is_given_up() {
    let mut config = config();
    config.protocols.http.read_header_timeout = Duration::from_millis(600);
    let rig = Rig::with(config, 4 << 20).await;
    for (count, start) in ["POST /v1/tra", "PRI * HTTP/2.0\r\n\r\nS", "P"].iter().enumerate() {
        let mut client = H1::connect(rig.http).await;
        client.write(start.as_bytes()).await;
        client.closed().await;
        until("it is counted", || rig.closed("header_timeout") == count as u64 + 1).await;
    }
    let mut client = H1::connect(rig.http).await;
    assert_eq!(client.post("/v1/traces", &[], b"").await.status, 200);
    client.write(b"POST /v1/traces HT").await;
    client.closed().await;
    until("the second header counts as the first", || rig.closed("header_timeout") == 4).await;
}

/// Waits until the peer has told this client not to begin another call.
async fn told_to_go(client: &h2::client::SendRequest<Bytes>) {
    let told = async {
        while client.clone().ready().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    soon("the client is told to go", told).await;
}

/// Sends a sound call whose answer is waited for elsewhere.
async fn begin(rig: &Rig, client: &h2::client::SendRequest<Bytes>) -> h2::client::ResponseFuture {
    let mut client = client.clone().ready().await.expect("it is ready");
    let (response, mut body) = client.send_request(call(rig.grpc), false).expect("a stream");
    body.send_data(frame(0, &traces(1)), true).expect("it is open");
    response
}

/// The status in the trailers of a call that was answered.
async fn finish(response: h2::client::ResponseFuture) -> Option<String> {
    let response = soon("an answer", response).await.expect("the call is finished");
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        let data = data.expect("the answer is whole");
        body.flow_control().release_capacity(data.len()).expect("it was received");
    }
    let trailers = body.trailers().await.expect("the answer is whole")?;
    Some(trailers.get("grpc-status")?.to_str().ok()?.to_owned())
}

#[tokio::test]
async fn an_old_connection_is_asked_to_go_and_its_calls_finish() {
    let mut config = config();
    config.protocols.grpc.keepalive.server_parameters.max_connection_age = Duration::from_secs(1);
    let rig = Rig::with(config, 4 << 20).await;
    rig.behave(Behaviour::Hold);
    let (client, _connection) = raw(rig.grpc).await;
    let held = begin(&rig, &client).await;
    told_to_go(&client).await;
    assert_eq!((rig.given_count(), rig.closed("age")), (1, 0));
    rig.consumer.gate.add_permits(1);
    assert_eq!(finish(held).await.as_deref(), Some("0"));
    until("it went", || rig.closed("age") == 1).await;
}

#[tokio::test]
async fn an_old_connection_that_does_not_go_is_dropped_after_its_grace() {
    let mut config = config();
    let parameters = &mut config.protocols.grpc.keepalive.server_parameters;
    parameters.max_connection_age = Duration::from_secs(1);
    parameters.max_connection_age_grace = Duration::from_millis(50);
    let rig = Rig::with(config, 4 << 20).await;
    rig.behave(Behaviour::Hold);
    let (client, _connection) = raw(rig.grpc).await;
    let held = begin(&rig, &client).await;
    until("it is dropped", || rig.closed("age") == 1).await;
    assert!(soon("the connection's end", held).await.is_err());
    assert_eq!(rig.refused("client_gone"), 1, "its call is counted as lost");
    rig.settled().await;
}

#[tokio::test]
async fn a_peer_that_opens_and_resets_streams_loses_its_connection_and_only_that() {
    let rig = Rig::with(config(), 4 << 20).await;
    let mut stream = TcpStream::connect(rig.grpc).await.expect("it listens");
    // Raw frames, so that no client library spares the receiver: preface, SETTINGS, then pairs of
    // HEADERS (indexed :method POST, :scheme http, :path /) and RST_STREAM.
    let mut attack = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for id in (1..4001_u32).step_by(2) {
        attack.extend([0, 0, 3, 1, 4]);
        attack.extend(id.to_be_bytes());
        attack.extend([0x83, 0x86, 0x84]);
        attack.extend([0, 0, 4, 3, 0]);
        attack.extend(id.to_be_bytes());
        attack.extend(8_u32.to_be_bytes());
    }
    // The connection may be gone before all is written.
    drop(stream.write_all(&attack).await);
    until("the connection is ended", || rig.closed("stream_churn") == 1).await;
    let mut client = H2::connect(rig.grpc).await;
    assert_eq!(client.export(TRACES, &traces(1)).await.grpc_status(), Some(0));
    rig.settled().await;
}

#[tokio::test]
async fn a_peer_that_speaks_nonsense_is_closed_and_counted() {
    let rig = Rig::with(config(), 4 << 20).await;
    let mut client = H1::connect(rig.http).await;
    client.write(b"\x16\x03\x01 this is TLS\r\n\r\n").await;
    client.closed().await;
    until("it is counted", || rig.closed("protocol") == 1).await;
    let mut client = H1::connect(rig.grpc).await;
    client.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").await;
    client.closed().await;
    until("it is counted", || rig.closed("protocol") == 2).await;
}

#[tokio::test]
async fn a_connection_too_many_is_closed_at_once_and_counted() {
    let mut config = config();
    config.connections.max_connections = 2;
    let rig = Rig::with(config, 4 << 20).await;
    let mut first = H1::connect(rig.http).await;
    assert_eq!(first.post("/v1/traces", &[], b"").await.status, 200);
    let mut second = H1::connect(rig.http).await;
    assert_eq!(second.post("/v1/traces", &[], b"").await.status, 200);
    H1::connect(rig.http).await.closed().await;
    assert_eq!(rig.count("mirador_receiver_connections_refused_total", &["reason=\"max_connections\""]), 1);
    assert_eq!(rig.count("mirador_receiver_connections{", &["listener=\"http\""]), 2);
    assert_eq!(H1::connect(rig.grpc).await.post("/v1/traces", &[], b"").await.status, 200, "the limit is per port");
    drop(second);
    until("a place is free", || rig.count("mirador_receiver_connections{", &["listener=\"http\""]) == 1).await;
    assert_eq!(H1::connect(rig.http).await.post("/v1/traces", &[], b"").await.status, 200);
    assert_eq!(first.post("/v1/traces", &[], b"").await.status, 200);
}

#[tokio::test]
async fn connections_share_a_fixed_amount_of_memory() {
    let mut config = config();
    config.connections.connection_memory_mib = Some(1);
    let rig = Rig::with(config, 4 << 20).await;
    let mut open = Vec::new();
    for _ in 0..8 {
        let mut client = H1::connect(rig.http).await;
        assert_eq!(
            client.post("/v1/traces", &[], &vec![0; 100 << 10]).await.status,
            400,
            "large bodies pass small buffers"
        );
        open.push(client);
    }
    H1::connect(rig.http).await.closed().await;
    assert_eq!(rig.count("mirador_receiver_connections_refused_total", &["reason=\"connection_memory\""]), 1);
}

#[tokio::test]
async fn large_messages_pass_small_windows() {
    let mut config = config();
    config.connections.connection_memory_mib = Some(1);
    config.protocols.grpc.max_recv_msg_size_mib = 16;
    let rig = Rig::with(config, 64 << 20).await;
    let mut client = H2::connect(rig.grpc).await;
    let body = traces(100_000);
    assert_eq!(client.export(TRACES, &body).await.grpc_status(), Some(0));
    assert_eq!(rig.given().remove(0).body, body);
}

#[tokio::test]
async fn a_drain_finishes_what_is_in_flight_and_takes_nothing_new() {
    let rig = Rig::with(config(), 4 << 20).await;
    rig.behave(Behaviour::Hold);
    let mut idle = H1::connect(rig.http).await;
    let (idle_h2, _idle_connection) = raw(rig.grpc).await;
    let (client, _connection) = raw(rig.grpc).await;
    let held = begin(&rig, &client).await;
    let mut plain = H1::connect(rig.http).await;
    plain.write((head("POST", "/v1/traces", &[PROTOBUF, ("content-length", "0")]) + "\r\n").as_bytes()).await;
    until("both are held", || rig.given_count() == 2).await;
    rig.drain.start();
    told_to_go(&client).await;
    told_to_go(&idle_h2).await;
    idle.closed().await;
    until("the ports are closed", || {
        std::net::TcpStream::connect(rig.grpc).is_err() && std::net::TcpStream::connect(rig.http).is_err()
    })
    .await;
    assert!(!rig.task.is_finished());
    rig.consumer.gate.add_permits(2);
    assert_eq!(finish(held).await.as_deref(), Some("0"));
    let answer = plain.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    plain.closed().await;
    soon("the drain ends", rig.drain.finished()).await.expect("nothing is left");
    soon("the receiver ends", rig.task).await.expect("it ran");
    assert_eq!(rig.budget.used(), 0);
}

#[tokio::test]
async fn many_calls_on_one_connection_are_answered_each() {
    let rig = Rig::with(config(), 64 << 20).await;
    let client = H2::connect(rig.grpc).await;
    let mut calls = Vec::new();
    for i in 0..500 {
        let mut client = client.clone();
        calls.push(tokio::spawn(async move { client.raw(TRACES, &[], frame(0, &traces(i % 20))).await.grpc_status() }));
    }
    for call in calls {
        assert_eq!(call.await.expect("it ran"), Some(0));
    }
    assert_eq!(rig.given_count(), 500);
    rig.settled().await;
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_told_before_anything_is_bound() {
    let mut wrong = config();
    wrong.protocols.grpc.endpoint = "nowhere".to_owned();
    wrong.protocols.grpc.http2.max_frame_size = 1;
    wrong.body.read_timeout = Duration::ZERO;
    let bind = |config| {
        let (budget, drain) =
            (mirador_service::memory::Budget::new(1 << 20), mirador_service::drain::Drain::new(Duration::ZERO));
        async move { Receiver::bind(config, budget, &mirador_service::metrics::Registry::new(), drain).await }
    };
    let Err(BindError::Config(problems)) = bind(wrong).await else { panic!("it must be refused") };
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems[0].contains("nowhere") && problems[0].contains("0.0.0.0:4317"), "{problems:?}");
    let taken = bind(config()).await.expect("a free port");
    let mut same = config();
    same.protocols.http.endpoint = taken.grpc_addr().to_string();
    let error = bind(same).await.expect_err("it is in use");
    assert!(error.to_string().contains("protocols.http.endpoint"), "{error}");
}
