//! The other side of a measurement: sinks and a generator in one process that can be pinned.
//!
//! Prints one line of JSON when the measured time is over: CPU of the measured process, what was delivered,
//! its memory.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use mirador_support::load::Protocol;
use mirador_support::load::generator::{Pace, Progress, drive};
use mirador_support::load::payload::Payload;
use mirador_support::load::sink::{self, Arrived};

/// Arguments in the order of the command line.
#[derive(clap::Parser)]
#[command(about = "Loads a process, serves its sinks and prints what it cost")]
struct Arguments {
    /// Requests a second over all connections; 0 is a closed loop.
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// Milliseconds that every sink waits before it answers.
    #[arg(long, default_value_t = 0)]
    sink_delay_ms: u64,
    target: SocketAddr,
    protocol: Protocol,
    spans: usize,
    connections: usize,
    #[arg(value_parser = seconds)]
    warm_up: Duration,
    #[arg(value_parser = seconds)]
    measure: Duration,
    pid: u32,
    sinks: Vec<SocketAddr>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse().ok().and_then(|value| Duration::try_from_secs_f64(value).ok()).ok_or_else(|| "no seconds".to_owned())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = <Arguments as clap::Parser>::parse();
    let arrived = Arc::new(Arrived::default());
    for address in &arguments.sinks {
        tokio::spawn(sink::serve(*address, Arc::clone(&arrived), Duration::from_millis(arguments.sink_delay_ms)));
    }
    wait_for(arguments.target).await?;
    let progress = Arc::new(Progress::default());
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    let pace = Arc::new(Pace::new(arguments.rate));
    let mut connections = tokio::task::JoinSet::new();
    for connection in 0..arguments.connections {
        let payload = Payload::new(arguments.spans, 1 + connection as u64, now);
        connections.spawn(drive(
            arguments.target,
            arguments.protocol,
            payload,
            Arc::clone(&progress),
            Arc::clone(&pace),
        ));
    }
    tokio::time::sleep(arguments.warm_up).await;
    progress.take_times();
    let before = sample(arguments.pid, &progress, &arrived)?;
    tokio::time::sleep(arguments.measure).await;
    let after = sample(arguments.pid, &progress, &arrived)?;
    let times = Times::of(progress.take_times());
    progress.stop();
    while let Some(ended) = connections.join_next().await {
        ended??;
    }
    let spans = (after.accepted - before.accepted) * arguments.spans as u64;
    ensure!(spans > 0, "nothing was accepted while it was measured ({} requests were refused)", after.refused);
    let cpu_nanos = (after.cpu_ticks - before.cpu_ticks) as f64 * 1e9 / 100.0;
    let seconds = after.at.duration_since(before.at).as_secs_f64();
    let line = serde_json::json!({
        "cpu_ns_per_span": cpu_nanos / spans as f64,
        "cpu_us_per_request": cpu_nanos / 1000.0 / (after.accepted - before.accepted) as f64,
        "spans_per_second": spans as f64 / seconds,
        "cpu_share": cpu_nanos / 1e9 / seconds,
        "refused_requests": after.refused - before.refused,
        "sink_bytes": after.sunk - before.sunk,
        "rss_mib": after.rss_mib, "peak_rss_mib": after.peak_rss_mib,
        "p50_us": times.at(0.5), "p99_us": times.at(0.99),
        "machine_us_per_request": (after.machine_ticks - before.machine_ticks) as f64 * 1e4
            / (after.accepted - before.accepted) as f64,
        "bytes_per_span": Payload::new(arguments.spans, 1, now).body_bytes() / arguments.spans,
    });
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

struct Sample {
    at: Instant,
    cpu_ticks: u64,
    /// Of all processors together, whoever was busy, interrupts included.
    machine_ticks: u64,
    accepted: u64,
    refused: u64,
    sunk: u64,
    rss_mib: f64,
    peak_rss_mib: f64,
}

fn sample(pid: u32, progress: &Progress, arrived: &Arrived) -> anyhow::Result<Sample> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the measured process has ended")?;
    // The command's name may contain spaces: fields are counted behind its closing parenthesis (proc(5)).
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let mib = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|text| text.parse::<f64>().ok()).unwrap_or_default() / 1024.0
    };
    Ok(Sample {
        at: Instant::now(),
        cpu_ticks: ticks(11) + ticks(12),
        machine_ticks: machine_ticks()?,
        accepted: progress.accepted(),
        refused: progress.refused(),
        sunk: arrived.bytes(),
        rss_mib: mib("VmRSS:"),
        peak_rss_mib: mib("VmHWM:"),
    })
}

/// Ticks in which a processor was not idle (proc(5): user, nice, system, idle, iowait, irq, softirq).
fn machine_ticks() -> anyhow::Result<u64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let first = stat.lines().next().unwrap_or_default();
    let fields = first.split_whitespace().skip(1).map(|text| text.parse::<u64>().unwrap_or_default());
    Ok(fields.enumerate().filter(|(index, _)| matches!(index, 0..=2 | 5 | 6)).map(|(_, ticks)| ticks).sum())
}

/// How long requests took, in order.
struct Times(Vec<u64>);

impl Times {
    fn of(mut times: Vec<u64>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// In microseconds.
    fn at(&self, quantile: f64) -> f64 {
        let index = (self.0.len().saturating_sub(1) as f64 * quantile) as usize;
        self.0.get(index).copied().unwrap_or_default() as f64 / 1000.0
    }
}

async fn wait_for(target: SocketAddr) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while tokio::net::TcpStream::connect(target).await.is_err() {
        ensure!(Instant::now() < deadline, "nothing listens on {target} after 20 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
