//! The whole role: OTLP/gRPC in, every point scored, remote write out to a store that counts the samples.
//!
//! A real process with its default settings on CPU 0, load and store on CPU 1. Its cost is its processor time, user
//! and system, per point.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use mirador_support::backends::ports;
use serde::Deserialize;

use crate::bench::subject::binary;

/// Distinct series, one point each in turn.
const SERIES: usize = 20_000;
/// Points of a request.
const POINTS: usize = 2_000;
/// Points of every series before the measurement: samples are full, thresholds known.
const WARM_UP: usize = 128;

/// What `mirador-scores` prints.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Figures {
    cpu_ns_per_point: f64,
    user_ns_per_point: f64,
    points_per_second_core: f64,
    points_per_second: f64,
    samples_per_point: f64,
    written_bytes_per_point: f64,
    request_bytes_per_point: f64,
    samples_per_write: f64,
    rss_mib: f64,
}

/// Builds what is measured and what measures it.
pub(super) fn build() -> Result<()> {
    let status = Command::new(env!("CARGO"))
        .args(["build", "--release", "--package", "mirador-central", "--package", "mirador-support"])
        .args(["--bin", "mirador-central", "--bin", "mirador-scores"])
        .status()?;
    ensure!(status.success(), "the release build of mirador-central failed");
    Ok(())
}

/// Starts the role, sends so many points of every series and ends it.
pub(super) fn measure(rounds: usize) -> Result<Figures> {
    let folder = tempfile::tempdir()?;
    let [grpc, http, store, metrics, health] = [local()?, local()?, local()?, local()?, local()?];
    let config = folder.path().join("config.yaml");
    let text = format!(
        "receiver:\n  protocols:\n    grpc: {{ endpoint: \"{grpc}\" }}\n    http: {{ endpoint: \"{http}\" }}\n\
         exporters:\n  victoriametrics: {{ endpoint: \"http://{store}/api/v1/write\" }}\n\
         telemetry: {{ metrics: {{ endpoint: \"{metrics}\" }} }}\nhealth: {{ endpoint: \"{health}\" }}\n"
    );
    std::fs::write(&config, text)?;
    let log = File::create(folder.path().join("log"))?;
    let mut role = Command::new("taskset")
        .args(["-c", "0"])
        .arg(binary("mirador-central"))
        .args(["isolationforest", "--config"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::from(log.try_clone()?))
        .stderr(Stdio::from(log))
        .spawn()
        .context("cannot run taskset; it comes with util-linux")?;
    let numbers = [role.id() as usize, SERIES, POINTS, WARM_UP, rounds].map(|number| number.to_string());
    let output = Command::new("taskset")
        .args(["-c", "1"])
        .arg(binary("mirador-scores"))
        .args([grpc, store].map(|address| address.to_string()))
        .args(numbers)
        .output();
    // It may have ended by itself; either way it is reaped.
    let _ended = role.kill();
    let _reaped = role.wait();
    let output = output.context("cannot run taskset; it comes with util-linux")?;
    ensure!(
        output.status.success(),
        "the load failed: {}\nthe role said: {}",
        String::from_utf8_lossy(&output.stderr),
        std::fs::read_to_string(folder.path().join("log")).unwrap_or_default()
    );
    serde_json::from_slice(&output.stdout).context("the load printed no figures")
}

/// The round that cost least: what cost more was disturbed.
pub(super) fn print(rounds: &[Figures]) {
    let Some(best) = rounds.iter().min_by(|one, other| one.cpu_ns_per_point.total_cmp(&other.cpu_ns_per_point)) else {
        return;
    };
    println!("\n| whole role, {SERIES} series, {POINTS} points a request | |\n|---|--:|");
    println!("| points a second and core | {:.0} |", best.points_per_second_core);
    println!(
        "| processor time a point, ns (of it in user mode) | {:.0} ({:.0}) |",
        best.cpu_ns_per_point, best.user_ns_per_point
    );
    println!("| points a second, wall | {:.0} |", best.points_per_second);
    println!("| samples written a point | {:.2} |", best.samples_per_point);
    println!("| samples a write | {:.0} |", best.samples_per_write);
    println!(
        "| bytes a point in (OTLP) and out (zstd) | {:.0} and {:.0} |",
        best.request_bytes_per_point, best.written_bytes_per_point
    );
    println!("| resident memory, MiB | {:.0} |", best.rss_mib);
}

fn local() -> Result<SocketAddr> {
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()?)))
}
