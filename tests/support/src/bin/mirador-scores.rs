//! The other side of the scoring bench: sends the points of many series, takes what is written, prints what it cost.
//!
//! One process that can be pinned. Every series gets so many points before the measurement that its samples are full.
//! The store answers remote write at once and counts the samples in it. Prints one line of JSON.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use mirador_support::load::generator::grpc;
use mirador_support::load::metrics::Payload;
use tokio::net::{TcpListener, TcpStream};

/// Arguments in the order of the command line.
#[derive(Debug, clap::Parser)]
#[command(about = "Sends points of many series, serves the store and prints what scoring cost")]
struct Arguments {
    /// OTLP/gRPC of the measured process.
    target: SocketAddr,
    /// Where the store listens.
    store: SocketAddr,
    /// The measured process.
    pid: u32,
    /// Series in all.
    series: usize,
    /// Points of a request.
    points: usize,
    /// Points of every series before the measurement.
    warm_up: usize,
    /// Points of every series that are measured.
    measured: usize,
}

/// What the store has taken.
#[derive(Debug, Default)]
struct Taken {
    samples: AtomicU64,
    bytes: AtomicU64,
    writes: AtomicU64,
}

/// Requests on their way at once.
const IN_FLIGHT: usize = 4;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = <Arguments as clap::Parser>::parse();
    ensure!(
        arguments.points > 0 && arguments.series.is_multiple_of(arguments.points),
        "{} points a request do not divide {} series",
        arguments.points,
        arguments.series
    );
    let taken = Arc::new(Taken::default());
    let listener = TcpListener::bind(arguments.store).await?;
    tokio::spawn(serve(listener, Arc::clone(&taken)));
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    let mut payloads: Vec<Payload> = (0..arguments.series / arguments.points)
        .map(|index| Payload::new(index * arguments.points, arguments.points, now))
        .collect();
    let mut send = connect(arguments.target).await?;
    let mut rounds = async |rounds: usize, payloads: &mut Vec<Payload>| -> Result<()> {
        let mut waiting = VecDeque::new();
        for _ in 0..rounds {
            for payload in payloads.iter_mut() {
                if waiting.len() == IN_FLIGHT.min(arguments.series / arguments.points) {
                    answered(waiting.pop_front()).await?;
                }
                send.ready().await?;
                let request = request(arguments.target, payload.later())?;
                waiting.push_back(tokio::spawn(send.send_request(request)));
            }
        }
        while !waiting.is_empty() {
            answered(waiting.pop_front()).await?;
        }
        Ok(())
    };
    rounds(arguments.warm_up, &mut payloads).await?;
    let before = Sample::of(arguments.pid, &taken)?;
    rounds(arguments.measured, &mut payloads).await?;
    let after = Sample::of(arguments.pid, &taken)?;
    let points = (arguments.series * arguments.measured) as f64;
    let cpu = (after.cpu_ticks - before.cpu_ticks) as f64 / 100.0;
    let user = (after.user_ticks - before.user_ticks) as f64 / 100.0;
    let wall = after.at.duration_since(before.at).as_secs_f64();
    let line = serde_json::json!({
        "points": points,
        "cpu_ns_per_point": cpu * 1e9 / points,
        "user_ns_per_point": user * 1e9 / points,
        "points_per_second_core": points / cpu.max(1e-9),
        "points_per_second": points / wall,
        "samples_per_point": (after.samples - before.samples) as f64 / points,
        "written_bytes_per_point": (after.bytes - before.bytes) as f64 / points,
        "samples_per_write": (after.samples - before.samples) as f64 / (after.writes - before.writes).max(1) as f64,
        "request_bytes_per_point": payloads[0].body_bytes() as f64 / payloads[0].points() as f64,
        "rss_mib": after.rss_mib,
    });
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

async fn connect(target: SocketAddr) -> Result<http2::SendRequest<Full<Bytes>>> {
    let deadline = Instant::now() + Duration::from_mins(1);
    let stream = loop {
        match TcpStream::connect(target).await {
            Ok(stream) => break stream,
            Err(error) => ensure!(Instant::now() < deadline, "nothing listens on {target} after a minute: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    grpc(stream).await
}

fn request(target: SocketAddr, body: Bytes) -> Result<Request<Full<Bytes>>> {
    let path = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
    Ok(Request::builder()
        .method(Method::POST)
        .uri(format!("http://{target}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(body))?)
}

type Answer = tokio::task::JoinHandle<hyper::Result<Response<Incoming>>>;

/// Waits for an answer, which has to be a success that rejects nothing.
async fn answered(waiting: Option<Answer>) -> Result<()> {
    let Some(waiting) = waiting else { return Ok(()) };
    let response = waiting.await??;
    let header = |headers: &http::HeaderMap| headers.get("grpc-status").cloned();
    let in_headers = header(response.headers());
    let collected = response.into_body().collect().await?;
    let status = in_headers.or_else(|| collected.trailers().and_then(header));
    ensure!(status.as_ref().is_some_and(|status| status == "0"), "a request was refused: grpc-status {status:?}");
    // An empty message is five bytes of framing; more is a partial success.
    let message = collected.to_bytes();
    ensure!(message.len() <= 5, "points were rejected: {}", String::from_utf8_lossy(&message));
    Ok(())
}

/// Answers remote write and counts what is in it.
async fn serve(listener: TcpListener, taken: Arc<Taken>) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let taken = Arc::clone(&taken);
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| take(request, Arc::clone(&taken)));
            // A peer that goes away is the end of its connection and no more.
            let _ended =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn take(request: Request<Incoming>, taken: Arc<Taken>) -> Result<Response<Full<Bytes>>> {
    let body = request.into_body().collect().await?.to_bytes();
    taken.bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
    taken.samples.fetch_add(samples(&body)?, Ordering::Relaxed);
    taken.writes.fetch_add(1, Ordering::Relaxed);
    Ok(Response::builder().status(204).body(Full::default())?)
}

/// Samples in a `prometheus.WriteRequest` in a zstd frame.
fn samples(body: &[u8]) -> Result<u64> {
    let mut raw = Vec::new();
    zstd::Decoder::new(body)?.read_to_end(&mut raw)?;
    let (mut rest, mut samples) = (raw.as_slice(), 0);
    while !rest.is_empty() {
        let (field, mut series) = field(&mut rest)?;
        // WriteRequest.timeseries is field 1, TimeSeries.samples field 2.
        while field == 1 && !series.is_empty() {
            samples += u64::from(self::field(&mut series)?.0 == 2);
        }
    }
    Ok(samples)
}

/// Takes one length-delimited field: its number and its bytes.
fn field<'a>(rest: &mut &'a [u8]) -> Result<(u64, &'a [u8])> {
    let tag = varint(rest)?;
    ensure!(tag & 7 == 2, "a field of wire type {} where a message is expected", tag & 7);
    let length = varint(rest)? as usize;
    let (bytes, after) = rest.split_at_checked(length).context("a field goes beyond the end")?;
    *rest = after;
    Ok((tag >> 3, bytes))
}

fn varint(rest: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let Some((byte, after)) = rest.split_first() else { bail!("a varint goes beyond the end") };
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    bail!("a varint of more than nine bytes")
}

struct Sample {
    at: Instant,
    user_ticks: u64,
    /// User and system together.
    cpu_ticks: u64,
    samples: u64,
    bytes: u64,
    writes: u64,
    rss_mib: f64,
}

impl Sample {
    fn of(pid: u32, taken: &Taken) -> Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the measured process has ended")?;
        // The command's name may contain spaces: fields are counted behind its closing parenthesis (proc(5)).
        let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let rss = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
        Ok(Self {
            at: Instant::now(),
            user_ticks: ticks(11),
            cpu_ticks: ticks(11) + ticks(12),
            samples: taken.samples.load(Ordering::Relaxed),
            bytes: taken.bytes.load(Ordering::Relaxed),
            writes: taken.writes.load(Ordering::Relaxed),
            rss_mib: rss.split_whitespace().nth(1).and_then(|text| text.parse::<f64>().ok()).unwrap_or_default()
                / 1024.0,
        })
    }
}
