//! `cargo xtask bench life`: how fast the agent starts and how much memory it holds, idle, busy and overloaded.
//!
//! A cold start is the time from before the process is made to the first export that is answered with success;
//! the client asks again every 100 µs. Overload offers twice what the same owners took before, with more
//! requests in flight than the memory limit lets in.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::median;
use super::subject::{self, Job, Subject};

/// The memory limit of the agent while it is measured, MiB.
const LIMIT_MIB: u32 = 128;
/// How long every sink waits under overload: it bounds what the owners take, so that the agent has to refuse.
const SINK_DELAY_MS: u32 = 20;

/// Measure cold start and memory of the agent: idle, at a rate, at twice what its owners take.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Seconds that each row is measured.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Cold starts.
    #[arg(long, default_value_t = 30)]
    starts: usize,
}

#[derive(Debug, Deserialize)]
struct Figures {
    spans_per_second: f64,
    refused_requests: u64,
    rss_mib: f64,
    peak_rss_mib: f64,
}

/// Runs the bench and prints its tables in Markdown.
pub(super) fn run(options: &Options) -> Result<()> {
    subject::build()?;
    starts(options.starts)?;
    println!("\n| load | protocol | spans/s taken | refused requests | RSS MiB | peak MiB |");
    println!("|---|---|--:|--:|--:|--:|");
    for protocol in ["grpc", "http"] {
        let subject = subject::agent(Job::Full, protocol, 1000, LIMIT_MIB);
        let busy = measure(&subject, 8, 100.0, 0, options.seconds)?;
        row("100,000 spans/s", protocol, &busy);
        let most = measure(&subject, 16, 0.0, SINK_DELAY_MS, options.seconds)?;
        row("what its owners take, closed loop", protocol, &most);
        let over = measure(&subject, 120, 2.0 * most.spans_per_second / 1000.0, SINK_DELAY_MS, options.seconds)?;
        row("twice that, 120 connections", protocol, &over);
    }
    println!(
        "\nRED and 3 owners, 1,000 spans a request, memory.limit_mib {LIMIT_MIB}, {} s a row; under overload every \
         owner answers after {SINK_DELAY_MS} ms.",
        options.seconds
    );
    Ok(())
}

fn row(load: &str, protocol: &str, figures: &Figures) {
    println!(
        "| {load} | {protocol} | {:.0} | {} | {:.0} | {:.0} |",
        figures.spans_per_second, figures.refused_requests, figures.rss_mib, figures.peak_rss_mib
    );
}

fn measure(subject: &Subject, connections: usize, rate: f64, delay: u32, seconds: f64) -> Result<Figures> {
    let running = subject.start()?;
    let mut load = subject::load();
    load.args(["--rate", &rate.to_string(), "--sink-delay-ms", &delay.to_string()])
        .arg(running.target.to_string())
        .arg(subject.protocol)
        .arg(subject.spans.to_string())
        .arg(connections.to_string())
        .arg("2")
        .arg(seconds.to_string())
        .arg(running.pid().to_string())
        .args(running.sinks.iter().map(ToString::to_string));
    running.figures(&mut load)
}

fn starts(count: usize) -> Result<()> {
    let subject = subject::agent(Job::Receive, "http", 1, LIMIT_MIB);
    let mut times = Vec::with_capacity(count);
    let mut idle = Vec::with_capacity(count);
    for _ in 0..count {
        let begin = Instant::now();
        let running = subject.start()?;
        while !exported(running.target) {
            ensure!(begin.elapsed() < Duration::from_secs(20), "no export was answered: {}", running.log());
            std::thread::sleep(Duration::from_micros(100));
        }
        times.push(begin.elapsed().as_secs_f64() * 1000.0);
        idle.push(resident_mib(running.pid())?);
    }
    times.sort_by(f64::total_cmp);
    println!("| | median | 95th percentile |\n|---|--:|--:|");
    println!(
        "| cold start, exec to first OK, ms | {:.1} | {:.1} |",
        median(times.iter().copied()),
        times.get(times.len() * 95 / 100).copied().unwrap_or_default()
    );
    idle.sort_by(f64::total_cmp);
    println!(
        "| RSS after it, MiB | {:.1} | {:.1} |",
        median(idle.iter().copied()),
        idle.get(idle.len() * 95 / 100).copied().unwrap_or_default()
    );
    Ok(())
}

/// Whether an empty export is answered with 200; anything else is no answer yet.
fn exported(target: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(target) else { return false };
    let request = format!(
        "POST /v1/traces HTTP/1.1\r\nhost: {target}\r\ncontent-type: application/x-protobuf\r\n\
         content-length: 0\r\nconnection: close\r\n\r\n"
    );
    let mut answer = String::new();
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.starts_with("HTTP/1.1 200")
}

fn resident_mib(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS in /proc")?;
    let kib: f64 = line.split_whitespace().nth(1).context("no figure behind VmRSS")?.parse()?;
    Ok(kib / 1024.0)
}
