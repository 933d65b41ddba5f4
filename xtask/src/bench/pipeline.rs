//! `cargo xtask bench pipeline`: what a span costs, beside the OpenTelemetry Collector in the same run.
//!
//! The measured process runs alone on CPU 0, generator and sinks on CPU 1. Every figure is the median of the
//! rounds; subjects take turns inside a round, so that a drift of the machine's speed hits all alike. A process
//! that waits for its load pays for every request alone what it would pay once for several, so the table says how
//! much of its CPU each had, and the load says what it does without any of them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::median;
use super::subject::{self, Job, Subject};

/// How many connections small requests come over, beside the number that all rows have.
const CONNECTIONS: [usize; 4] = [1, 4, 16, 64];

/// Measure what a span costs, beside the OpenTelemetry Collector in the same run.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Seconds that each figure is measured.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds of load before a measurement.
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
    /// Connections, each with one request in flight.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// How often every subject is measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Measure the OpenTelemetry Collector too (built into the cache on first use, several minutes).
    #[arg(long)]
    peers: bool,
    /// Only subjects whose name contains this.
    #[arg(long)]
    only: Option<String>,
}

/// What the load program prints.
#[derive(Debug, Clone, Deserialize)]
struct Figures {
    cpu_ns_per_span: f64,
    cpu_us_per_request: f64,
    spans_per_second: f64,
    cpu_share: f64,
    refused_requests: u64,
    rss_mib: f64,
    peak_rss_mib: f64,
    bytes_per_span: usize,
}

/// Runs the bench and prints a table in Markdown.
pub(super) fn run(options: &Options) -> Result<()> {
    ensure!(
        std::thread::available_parallelism().is_ok_and(|cores| cores.get() >= 2),
        "the bench needs two cores: one for the measured process, one for the load"
    );
    subject::build()?;
    let subjects: Vec<Subject> = subject::all(options.peers)?
        .into_iter()
        .filter(|subject| options.only.as_ref().is_none_or(|part| subject.name.contains(part.as_str())))
        .collect();
    ensure!(!subjects.is_empty(), "no subject's name contains {:?}", options.only.as_deref().unwrap_or_default());
    let mut measured: BTreeMap<String, Vec<Figures>> = BTreeMap::new();
    for round in 1..=options.rounds {
        for subject in &subjects {
            eprintln!("round {round} of {}: {}", options.rounds, subject.name);
            let figures = measure(subject, options.connections, options).with_context(|| subject.name.clone())?;
            measured.entry(subject.name.clone()).or_default().push(figures);
        }
    }
    print(&subjects, &measured, options);
    by_connections(&subjects, options)?;
    for spans in [1000, 10] {
        let figures = measure(&subject::nothing(spans), options.connections, options)?;
        let requests = figures.spans_per_second / spans as f64;
        println!("load straight to a sink, grpc, {spans} spans: {requests:.0} requests/s");
    }
    Ok(())
}

/// What a small request costs depends on how many come at one time: they are read, and written on, together.
fn by_connections(subjects: &[Subject], options: &Options) -> Result<()> {
    let small = |subject: &&Subject| subject.protocol == "grpc" && subject.spans == 10 && subject.job == Job::Forward;
    let rows: Vec<&Subject> = subjects.iter().filter(small).collect();
    let mut measured: BTreeMap<(usize, &str), Vec<f64>> = BTreeMap::new();
    for round in 1..=options.rounds {
        for connections in CONNECTIONS {
            for subject in &rows {
                eprintln!("round {round} of {}: {}, {connections} connections", options.rounds, subject.name);
                let figures = measure(subject, connections, options).with_context(|| subject.name.clone())?;
                measured.entry((connections, subject.program)).or_default().push(figures.cpu_us_per_request);
            }
        }
    }
    println!("\n| forward, grpc, 10 spans: connections | program | CPU µs/request |\n|--:|---|--:|");
    for ((connections, program), rounds) in measured {
        println!("| {connections} | {program} | {:.1} |", median(rounds.into_iter()));
    }
    println!();
    Ok(())
}

fn measure(subject: &Subject, connections: usize, options: &Options) -> Result<Figures> {
    let running = subject.start()?;
    let mut load = subject::load();
    load.arg(running.target.to_string())
        .arg(subject.protocol)
        .arg(subject.spans.to_string())
        .arg(connections.to_string())
        .arg(options.warm_up.to_string())
        .arg(options.seconds.to_string())
        .arg(running.pid().to_string())
        .args(running.sinks.iter().map(ToString::to_string));
    let figures: Figures = running.figures(&mut load)?;
    ensure!(
        figures.refused_requests == 0,
        "{} requests were refused while it was measured, so the figures mean nothing: {}",
        figures.refused_requests,
        running.log()
    );
    Ok(figures)
}

fn print(subjects: &[Subject], measured: &BTreeMap<String, Vec<Figures>>, options: &Options) {
    println!("| subject | CPU ns/span | CPU µs/request | of its CPU | spans/s | RSS MiB | peak MiB | spread |");
    println!("|---|--:|--:|--:|--:|--:|--:|--:|");
    let mut cost: BTreeMap<(&str, &str, usize, Job), f64> = BTreeMap::new();
    for subject in subjects {
        let Some(rounds) = measured.get(&subject.name) else { continue };
        let of = |pick: fn(&Figures) -> f64| median(rounds.iter().map(pick));
        let nanos = of(|figures| figures.cpu_ns_per_span);
        let most = rounds.iter().map(|figures| figures.cpu_ns_per_span).fold(0.0, f64::max);
        let least = rounds.iter().map(|figures| figures.cpu_ns_per_span).fold(f64::MAX, f64::min);
        println!(
            "| {} | {nanos:.0} | {:.1} | {:.0} % | {:.0} | {:.0} | {:.0} | {:.0} % |",
            subject.name,
            of(|figures| figures.cpu_us_per_request),
            of(|figures| 100.0 * figures.cpu_share),
            of(|figures| figures.spans_per_second),
            of(|figures| figures.rss_mib),
            of(|figures| figures.peak_rss_mib),
            100.0 * (most - least) / nanos,
        );
        cost.insert((subject.program, subject.protocol, subject.spans, subject.job), nanos);
    }
    let bytes = measured.values().flatten().map(|figures| figures.bytes_per_span).max().unwrap_or_default();
    println!(
        "\n{} rounds of {} s after {} s of warm-up; {} connections, closed loop, about {bytes} bytes a span, no compression, \
         answered end to end; measured process on CPU 0, load and sinks on CPU 1.",
        options.rounds, options.seconds, options.warm_up, options.connections
    );
    ratios(&cost);
}

/// Ours divided by the Collector's; its full job is load balancing plus what span metrics add to receiving.
fn ratios(cost: &BTreeMap<(&str, &str, usize, Job), f64>) {
    for protocol in ["grpc", "http"] {
        for spans in [1000, 10] {
            let of = |program, job| cost.get(&(program, protocol, spans, job)).copied();
            if let (Some(ours), Some(theirs)) = (of("mirador", Job::Forward), of("otelcol", Job::Forward)) {
                println!("forward, {protocol}, {spans} spans a request: 1/{:.1} of the Collector", theirs / ours);
            }
            let full = of("otelcol", Job::Balance)
                .zip(of("otelcol", Job::SpanMetrics))
                .zip(of("otelcol", Job::Receive))
                .map(|((balance, metrics), receive)| balance + (metrics - receive).max(0.0));
            if let (Some(ours), Some(theirs)) = (of("mirador", Job::Full), full) {
                println!(
                    "full job, {protocol}, {spans} spans a request: 1/{:.1} of the Collector ({theirs:.0} ns)",
                    theirs / ours
                );
            }
        }
    }
}
