//! The exporter against a server that answers as told, on a real socket.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Mutex as Guarded;

use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::encode::tests::WriteRequest;
use super::*;
use crate::series::{LabelSet, Series};

/// What the server does with the next request.
#[derive(Debug, Clone, Copy)]
enum Reply {
    Status(u16),
    RetryAfter(u16, u64),
    /// Reads the request and never answers.
    Hang,
    /// Reads the request and closes without an answer.
    Close,
    /// 413 for more than so many series, 204 else; stays for all further requests.
    AtMost(usize),
    /// 400 for zstd, 204 for snappy; stays for all further requests.
    OnlySnappy,
}

#[derive(Debug, Clone)]
struct Seen {
    encoding: String,
    version: Option<&'static str>,
    tenant: Option<String>,
    series: usize,
}

struct Server {
    address: SocketAddr,
    seen: Arc<Guarded<Vec<Seen>>>,
}

impl Server {
    async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Guarded::new(Vec::new()));
        let replies = Arc::new(Guarded::new(replies.into_iter().collect::<VecDeque<_>>()));
        let log = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&replies), Arc::clone(&log)));
            }
        });
        Self { address, seen }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn store(&self, protocol: Protocol) -> RemoteWrite {
        let config = Config {
            endpoint: format!("http://{}/api/v1/write", self.address),
            headers: [("X-Scope-OrgID".to_owned(), "tenant-7".to_owned().into())].into(),
            protocol,
            timeout: Duration::from_secs(3),
            ..Config::default()
        };
        RemoteWrite::new("victoriametrics", &config, &Registry::new()).unwrap()
    }
}

async fn serve(mut stream: TcpStream, replies: Arc<Guarded<VecDeque<Reply>>>, log: Arc<Guarded<Vec<Seen>>>) {
    let mut buffer = Vec::new();
    loop {
        let head_end = loop {
            if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            match stream.read_buf(&mut buffer).await {
                Ok(read) if read > 0 => {}
                _ => return,
            }
        };
        let head = String::from_utf8_lossy(&buffer[..head_end]).to_lowercase();
        let header =
            |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned);
        let length: usize = header("content-length").unwrap().parse().unwrap();
        while buffer.len() < head_end + length {
            assert!(stream.read_buf(&mut buffer).await.unwrap() > 0);
        }
        let body: Vec<u8> = buffer.drain(..head_end + length).skip(head_end).collect();
        let encoding = header("content-encoding").unwrap();
        let raw = match encoding.as_str() {
            "zstd" => zstd::bulk::decompress(&body, 64 << 20).unwrap(),
            _ => snap::raw::Decoder::new().decompress_vec(&body).unwrap(),
        };
        let series = WriteRequest::decode(raw.as_slice()).unwrap().timeseries.len();
        let version = ["x-victoriametrics-remote-write-version", "x-prometheus-remote-write-version"]
            .into_iter()
            .find(|name| header(name).is_some());
        log.lock().unwrap().push(Seen { encoding: encoding.clone(), version, tenant: header("x-scope-orgid"), series });
        let reply = {
            let mut replies = replies.lock().unwrap();
            match replies.front().copied() {
                Some(staying @ (Reply::AtMost(_) | Reply::OnlySnappy)) => staying,
                Some(reply) => {
                    replies.pop_front();
                    reply
                }
                None => Reply::Status(204),
            }
        };
        let (status, extra) = match reply {
            Reply::Status(status) => (status, String::new()),
            Reply::RetryAfter(status, seconds) => (status, format!("retry-after: {seconds}\r\n")),
            Reply::AtMost(most) => (if series > most { 413 } else { 204 }, String::new()),
            Reply::OnlySnappy => (if encoding == "zstd" { 400 } else { 204 }, String::new()),
            Reply::Close => return,
            Reply::Hang => std::future::pending().await,
        };
        let answer = format!("HTTP/1.1 {status} Said\r\ncontent-length: 0\r\n{extra}\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

fn batch(series: usize) -> Arc<SeriesBatch> {
    let one = |index: usize| {
        let labels: LabelSet = [("__name__", "m".to_owned()), ("i", index.to_string())]
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        Series::sample(Arc::new(labels), 1_700_000_000_000 + index as i64, index as f64)
    };
    Arc::new(SeriesBatch { series: (0..series).map(one).collect() })
}

#[tokio::test]
async fn zstd_goes_out_with_its_version_header_and_the_tenant() {
    let server = Server::start([]).await;
    server.store(Protocol::Victoriametrics).write(batch(3)).await.unwrap();
    let seen = server.seen();
    assert_eq!((seen.len(), seen[0].encoding.as_str(), seen[0].series), (1, "zstd", 3));
    assert_eq!(seen[0].version, Some("x-victoriametrics-remote-write-version"));
    assert_eq!(seen[0].tenant.as_deref(), Some("tenant-7"));
}

#[tokio::test]
async fn the_prometheus_protocol_is_snappy() {
    let server = Server::start([]).await;
    server.store(Protocol::Prometheus).write(batch(3)).await.unwrap();
    assert_eq!(
        (server.seen()[0].encoding.as_str(), server.seen()[0].version),
        ("snappy", Some("x-prometheus-remote-write-version"))
    );
}

#[tokio::test]
async fn a_server_without_zstd_gets_snappy_from_then_on() {
    let server = Server::start([Reply::OnlySnappy]).await;
    let store = server.store(Protocol::Victoriametrics);
    store.write(batch(2)).await.unwrap();
    store.write(batch(2)).await.unwrap();
    let encodings: Vec<String> = server.seen().into_iter().map(|seen| seen.encoding).collect();
    assert_eq!(encodings, ["zstd", "snappy", "snappy"]);
}

#[tokio::test]
async fn a_body_that_is_refused_in_both_encodings_is_poison_and_zstd_stays() {
    let server = Server::start([Reply::Status(400), Reply::Status(400)]).await;
    let store = server.store(Protocol::Victoriametrics);
    assert!(matches!(store.write(batch(2)).await, Err(ExportError::Drop { .. })));
    store.write(batch(2)).await.unwrap();
    assert_eq!(server.seen()[2].encoding, "zstd");
}

#[tokio::test]
async fn a_block_that_is_too_large_is_halved_until_it_fits_and_one_series_that_never_fits_is_dropped() {
    let server = Server::start([Reply::AtMost(3)]).await;
    server.store(Protocol::Victoriametrics).write(batch(10)).await.unwrap();
    let taken: usize = server.seen().iter().filter(|seen| seen.series <= 3).map(|seen| seen.series).sum();
    assert_eq!(taken, 10);
    let strict = Server::start([Reply::AtMost(0)]).await;
    let settled = strict.store(Protocol::Victoriametrics).write(batch(2)).await;
    let Err(ExportError::Partial { rejected, reason }) = settled else { panic!("{settled:?}") };
    assert!(rejected > 0 && reason.contains("too large"), "{rejected}: {reason}");
    assert_eq!(strict.seen().len(), 3, "both, then each alone");
}

#[tokio::test]
async fn what_the_store_takes_and_does_not_keep_is_counted() {
    for (protocol, kept, lost) in [(Protocol::Victoriametrics, 3, 1), (Protocol::Prometheus, 4, 0)] {
        let (server, registry) = (Server::start([]).await, Registry::new());
        let config =
            Config { endpoint: format!("http://{}/api/v1/write", server.address), protocol, ..Config::default() };
        let store = RemoteWrite::new("victoriametrics", &config, &registry).unwrap();
        let labels = || Arc::new(LabelSet::from_sorted([("__name__", "m")]));
        let of = |(at, value): (i64, f64)| Series::sample(labels(), at, value);
        let values = [(1, 1.0), (2, f64::NAN), (3, f64::INFINITY), (4, STALE_NAN)];
        store.write(Arc::new(SeriesBatch { series: values.map(of).into() })).await.unwrap();
        let text = registry.encode();
        for line in [
            format!("mirador_victoriametrics_samples_total {kept}"),
            format!("mirador_victoriametrics_dropped_samples_total{{reason=\"nan\"}} {lost}"),
        ] {
            assert!(text.contains(&line), "{line}\n{text}");
        }
    }
}

#[tokio::test]
async fn statuses_are_sorted_by_who_must_act() {
    for (reply, after) in [
        (Reply::RetryAfter(429, 7), Some(Duration::from_secs(7))),
        (Reply::RetryAfter(503, 9_999_999), Some(Duration::from_mins(5))),
        (Reply::Status(503), None),
        (Reply::Status(500), None),
        (Reply::Hang, None),
    ] {
        let server = Server::start([reply]).await;
        let result = server.store(Protocol::Victoriametrics).write(batch(1)).await;
        let Err(ExportError::Retry { after: asked, reason }) = result else { panic!("{reply:?}: {result:?}") };
        assert_eq!(asked, after, "{reply:?}");
        assert!(reason.contains("victoriametrics"), "{reason}");
    }
    for status in [301, 401, 403, 404] {
        let server = Server::start([Reply::Status(status)]).await;
        let result = server.store(Protocol::Victoriametrics).write(batch(1)).await;
        assert!(matches!(result, Err(ExportError::Fatal { .. })), "{status}: {result:?}");
    }
    let conflict = Server::start([Reply::Status(409)]).await;
    let settled = conflict.store(Protocol::Victoriametrics).write(batch(1)).await;
    assert!(matches!(settled, Err(ExportError::Partial { rejected: 1.., .. })), "it is dropped, and told: {settled:?}");
}

#[tokio::test]
async fn a_connection_closed_without_an_answer_is_tried_again_once() {
    let once = Server::start([Reply::Close]).await;
    once.store(Protocol::Victoriametrics).write(batch(1)).await.unwrap();
    assert_eq!(once.seen().len(), 2);
    let always = Server::start([Reply::Close; 10]).await;
    let result = always.store(Protocol::Victoriametrics).write(batch(1)).await;
    assert!(matches!(result, Err(ExportError::Retry { .. })), "{result:?}");
    assert_eq!(always.seen().len(), 2);
}

#[tokio::test]
async fn a_server_that_is_down_is_a_retry_and_comes_back_without_a_restart() {
    // Bound and not yet listening: whoever connects is refused, and nobody else gets the port meanwhile.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let config = Config { endpoint: format!("http://{address}/api/v1/write"), ..Config::default() };
    let store = RemoteWrite::new("victoriametrics", &config, &Registry::new()).unwrap();
    assert!(matches!(store.write(batch(1)).await, Err(ExportError::Retry { .. })));
    let listener = socket.listen(8).unwrap();
    let log = Arc::default();
    let seen = Arc::clone(&log);
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream, Arc::default(), seen).await;
    });
    store.write(batch(1)).await.unwrap();
    assert_eq!(log.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn what_may_be_secret_in_the_url_is_in_no_message_and_the_labels_are_documented() {
    let registry = Registry::new();
    for reply in [Reply::Status(503), Reply::Status(401), Reply::Hang] {
        let server = Server::start([reply]).await;
        let config = Config {
            endpoint: format!("http://{}/api/v1/write?token=hush", server.address),
            timeout: Duration::from_millis(200),
            ..Config::default()
        };
        let store = RemoteWrite::new("victoriametrics", &config, &registry).unwrap();
        let told = store.write(batch(1)).await.unwrap_err().to_string();
        assert!(told.contains("/api/v1/write") && !told.contains("hush"), "{told}");
    }
    let row = registry.document();
    let row = row.lines().find(|line| line.contains("mirador_victoriametrics_requests")).unwrap();
    assert!(row.contains("exporter") && row.contains("status"), "{row}");
}

#[test]
fn a_wrong_configuration_names_the_key() {
    for (config, key) in [
        (Config::default(), "endpoint"),
        (Config { endpoint: "ftp://x/".into(), ..Config::default() }, "endpoint"),
        (Config { endpoint: "http://x/".into(), max_in_flight: 0, ..Config::default() }, "max_in_flight"),
        (Config { endpoint: "http://x/".into(), max_block_bytes: 1, ..Config::default() }, "max_block_bytes"),
        (
            Config {
                endpoint: "http://x/".into(),
                headers: [("a b".into(), "c".to_owned().into())].into(),
                ..Config::default()
            },
            "headers",
        ),
    ] {
        let Err(error) = RemoteWrite::new("victoriametrics", &config, &Registry::new()) else {
            panic!("{key} was taken")
        };
        assert!(format!("{error:#}").contains(&format!("exporters.victoriametrics.{key}")), "{error:#}");
    }
}
