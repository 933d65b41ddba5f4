//! The admin servers over real sockets.

use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::health::Component;

struct Process {
    bound: Bound,
    registry: Registry,
    health: Health,
    drain: Drain,
}

async fn start() -> Process {
    let (registry, health, drain) = (Registry::new(), Health::new(), Drain::new(Duration::from_secs(20)));
    let config = AdminConfig {
        metrics: MetricsEndpoint { endpoint: "127.0.0.1:0".to_owned() },
        health: HealthEndpoint { endpoint: "127.0.0.1:0".to_owned() },
    };
    let bound = serve(&config, registry.clone(), health.clone(), drain.clone()).await.unwrap();
    Process { bound, registry, health, drain }
}

/// Sends `request` as it is and reads until the server closes.
async fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

async fn request(address: SocketAddr, method: &str, path: &str) -> (u16, String, String) {
    let answer = raw(address, &format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), head.to_owned(), body.to_owned())
}

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let (status, _, body) = request(address, "GET", path).await;
    (status, body)
}

#[tokio::test]
async fn metrics_are_served_in_the_format_that_scrapers_ask_for() {
    let process = start().await;
    process.registry.counter("mirador_x", "X.").inc();
    let (status, head, body) = request(process.bound.metrics, "GET", "/metrics?x=y").await;
    assert_eq!(status, 200);
    assert!(head.contains(&format!("content-type: {}", crate::metrics::CONTENT_TYPE)), "{head}");
    assert_eq!(body, "# HELP mirador_x X.\n# TYPE mirador_x counter\nmirador_x_total 1\n# EOF\n");
}

#[tokio::test]
async fn unknown_pages_are_404_and_other_methods_405_with_allow() {
    let process = start().await;
    let Bound { metrics, health, .. } = process.bound;
    for (address, path) in
        [(metrics, "/"), (metrics, "/livez"), (health, "/metrics"), (health, "/livez/"), (health, "//")]
    {
        assert_eq!(get(address, path).await.0, 404, "{path}");
    }
    for (address, path) in
        [(metrics, "/metrics"), (health, "/"), (health, "/livez"), (health, "/readyz"), (health, "/healthz")]
    {
        for method in ["POST", "DELETE", "OPTIONS"] {
            let (status, head, _) = request(address, method, path).await;
            assert_eq!(status, 405, "{method} {path}");
            assert!(head.contains("allow: GET, HEAD"), "{head}");
        }
        let (status, head, body) = request(address, "HEAD", path).await;
        assert_eq!((status, body.as_str()), (200, ""), "{path}");
        assert!(!head.contains("content-length: 0"), "{head}");
    }
}

#[tokio::test]
async fn readiness_follows_the_components_and_the_drain() {
    let process = start().await;
    let address = process.bound.health;
    assert_eq!(get(address, "/readyz").await, (200, "{\"ready\":true,\"reasons\":[]}\n".to_owned()));
    let ring = process.health.component("ring");
    let (status, body) = get(address, "/readyz").await;
    assert_eq!((status, body.as_str()), (503, "{\"ready\":false,\"reasons\":[\"ring: starting\"]}\n"));
    assert_eq!(get(address, "/").await.0, 503);
    ring.ready(true, "");
    assert_eq!(get(address, "/readyz").await.0, 200);
    process.drain.start();
    let (status, body) = get(address, "/readyz").await;
    assert_eq!((status, body.as_str()), (503, "{\"ready\":false,\"reasons\":[\"process: draining\"]}\n"));
    assert_eq!(get(address, "/").await.0, 503);
    assert_eq!(get(address, "/livez").await.0, 200, "a draining process is alive");
}

#[tokio::test]
async fn liveness_fails_with_the_name_of_the_worker_whose_task_died() {
    let process = start().await;
    let address = process.bound.health;
    let worker: Component = process.health.worker("shard-0", Duration::from_mins(1));
    worker.ready(true, "");
    assert_eq!(get(address, "/livez").await, (200, "{\"live\":true,\"reasons\":[]}\n".to_owned()));
    let task = tokio::spawn(async move {
        let _worker = worker;
        panic!("the worker dies");
    });
    assert!(task.await.is_err());
    let expected = "{\"live\":false,\"reasons\":[\"shard-0: the worker ended\"]}\n";
    assert_eq!(get(address, "/livez").await, (503, expected.to_owned()));
    assert_eq!(get(address, "/readyz").await.0, 503);
    assert_eq!(get(address, "/").await.0, 503);
    assert_eq!(get(address, "/healthz").await.0, 503);
}

#[tokio::test]
async fn liveness_fails_while_a_worker_does_not_beat_and_recovers_when_it_does() {
    let process = start().await;
    let address = process.bound.health;
    let stuck = process.health.worker("shard-0", Duration::from_millis(1));
    stuck.ready(true, "");
    let mut asked = 0;
    while get(address, "/livez").await.0 == 200 {
        asked += 1;
        assert!(asked < 10_000, "a worker without a beat is found");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (status, body) = get(address, "/livez").await;
    assert_eq!(status, 503);
    assert!(body.contains("shard-0: no heartbeat for ") && body.contains("expected one every 0.001s"), "{body}");
    for page in ["/", "/readyz", "/healthz"] {
        assert_eq!(get(address, page).await.0, 503, "{page}");
    }
    // Another of the same kind that beats is not taken for it.
    let alive = process.health.worker("shard-1", Duration::from_hours(1));
    alive.beat();
    let (_, body) = get(address, "/livez").await;
    assert!(!body.contains("shard-1"), "{body}");
    stuck.finish();
    assert_eq!(get(address, "/livez").await.0, 200);
}

#[tokio::test]
async fn healthz_shows_every_component() {
    let process = start().await;
    process.health.component("receiver").ready(true, "");
    let _worker = process.health.worker("tap", Duration::from_mins(1));
    let (status, body) = get(process.bound.health, "/healthz").await;
    let page: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &page["live"], &page["ready"]), (503, &true.into(), &false.into()));
    assert_eq!(page["components"][0], serde_json::json!({"name": "receiver", "live": true, "ready": true}));
    assert_eq!(page["components"][1]["reason"], "starting");
    assert_eq!(page["components"][1]["heartbeat_age_seconds"], 0);
}

#[tokio::test]
async fn the_root_page_is_that_of_the_collectors_health_check() {
    let process = start().await;
    let (status, body) = get(process.bound.health, "/").await;
    let page: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, page["status"].as_str()), (200, Some("Server available")));
    assert_eq!(page["upSince"], pages::rfc3339(process.health.up_since()));
    assert!(crate::duration::parse(page["uptime"].as_str().unwrap()).is_ok());
}

#[tokio::test]
async fn bytes_that_are_no_request_are_answered_with_400_and_the_server_goes_on() {
    let process = start().await;
    let address = process.bound.health;
    assert!(raw(address, "\u{16}\u{3}\u{1} no HTTP\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    let long = format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", "x".repeat(20_000));
    assert!(raw(address, &long).await.starts_with("HTTP/1.1 431"));
    assert_eq!(get(address, "/livez").await.0, 200);
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let process = start().await;
    let mut stream = TcpStream::connect(process.bound.health).await.unwrap();
    let mut answers = String::new();
    for _ in 0..3 {
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut chunk = [0; 4096];
        let read = stream.read(&mut chunk).await.unwrap();
        answers += std::str::from_utf8(&chunk[..read]).unwrap();
    }
    assert_eq!(answers.matches("200 OK").count(), 3);
}

#[tokio::test]
async fn idle_connections_up_to_the_bound_leave_the_next_one_waiting_until_one_goes() {
    let process = start().await;
    let address = process.bound.health;
    let mut idle = Vec::new();
    for _ in 0..connection::MAX_CONNECTIONS {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let read = stream.read(&mut [0; 4096]).await.unwrap();
        assert!(read > 0);
        idle.push(stream);
    }
    let waiting = tokio::spawn(async move { get(address, "/livez").await });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!waiting.is_finished(), "the bound holds");
    idle.pop();
    assert_eq!(waiting.await.unwrap().0, 200);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_finishes_its_headers_is_cut_off() {
    let process = start().await;
    let before = tokio::time::Instant::now();
    // The paused clock runs ahead whenever everyone waits, so this ends only by a time limit.
    let answer = raw(process.bound.health, "GET /livez HTTP/1.1\r\nhost:").await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(before.elapsed() < connection::MAX_AGE, "by that for headers, not by that for connections");
    tokio::time::resume();
    assert_eq!(get(process.bound.health, "/livez").await.0, 200);
}

#[tokio::test]
async fn an_address_that_cannot_be_bound_is_named_with_its_key() {
    let process = start().await;
    let taken = process.bound.health.to_string();
    let fresh = || (Registry::new(), Health::new(), Drain::new(Duration::ZERO));
    for endpoint in [taken.as_str(), "nowhere", "127.0.0.1:99999"] {
        let config = AdminConfig {
            metrics: MetricsEndpoint { endpoint: "127.0.0.1:0".to_owned() },
            health: HealthEndpoint { endpoint: endpoint.to_owned() },
        };
        let (registry, health, drain) = fresh();
        let error = serve(config, registry, health, drain).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("health.endpoint: \"{endpoint}\": ")), "{error}");
    }
}

#[tokio::test]
async fn dropping_the_servers_frees_their_ports() {
    let process = start().await;
    let address = process.bound.health;
    drop(process.bound);
    // The abort takes effect when the task is next polled; each turn gives it one.
    for turn in 0.. {
        match TcpListener::bind(address).await {
            Ok(_) => break,
            Err(error) => assert!(turn < 10_000, "{error}"),
        }
        tokio::task::yield_now().await;
    }
}

#[test]
fn times_are_printed_as_rfc_3339() {
    let at = |seconds| pages::rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    assert_eq!(at(0), "1970-01-01T00:00:00Z");
    assert_eq!(at(951_827_696), "2000-02-29T12:34:56Z");
    assert_eq!(at(1_767_225_599), "2025-12-31T23:59:59Z");
    assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
}
