//! `cargo xtask bench steering`: what steering adds to a connect, and what it costs to export through it.
//!
//! Everything is measured in one run, in turns, so that a drift of the machine hits all rows alike. Read the
//! ratios: absolute times are those of the machine and of what else it does.

mod nat;

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use mirador_support::load::sink;
use mirador_support::rig::{Agent, Class, Driver, GATEWAY, Gateway, NODE, Pod, Rig, use_agent_in};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use self::nat::Nat;
use super::{median, subject};
use crate::build_ebpf;

/// Measure what steering adds to a connect and to an export.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Connects per row and turn.
    #[arg(long, default_value_t = 1000)]
    connects: u32,
    /// Turns; rows are measured one after the other in each.
    #[arg(long, default_value_t = 5)]
    turns: u32,
    /// Seconds that the exports of a row are measured in each turn.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Measure the release binaries that are there instead of building them.
    #[arg(long)]
    no_build: bool,
}

/// A row's name and the settings of its agent; without settings there is none.
type Row = (&'static str, Option<fn() -> Value>);

const CONNECTS: [Row; 4] = [
    ("no steering", None),
    ("the hooks pass it (only another destination is steered)", Some(passes)),
    ("redirected", Some(without_identity)),
    ("redirected, with identity", Some(|| json!({}))),
];

/// The two ways from a pod to the node.
const PATHS: [&str; 2] = ["loopback", "veth"];

/// The processor of clients, and that of who answers them: the agent, the gateway, the owner. Who answers on the
/// client's own processor interrupts it.
const CLIENTS: &str = "0";
const SERVERS: usize = 1;

/// Spans in a request.
const SPANS: [usize; 2] = [10, 1000];

fn passes() -> Value {
    json!({"destinations": {"steer": ["198.51.100.0/24"]}})
}

fn without_identity() -> Value {
    json!({"identity": {"enabled": false}})
}

/// What the load program prints.
#[derive(Debug, Clone, Deserialize)]
struct Figures {
    p50_us: f64,
    p99_us: f64,
    cpu_us_per_request: f64,
    machine_us_per_request: f64,
    refused_requests: u64,
}

pub(super) fn run(options: &Options) -> Result<()> {
    ensure!(options.turns > 0 && options.connects > 0, "--turns and --connects are at least 1");
    if !options.no_build {
        build_ebpf::ensure(false)?;
        subject::build()?;
    }
    use_agent_in(subject::binary("mirador-agent").parent().context("a binary has a folder")?.to_owned());
    stay(SERVERS)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut rig = Rig::new(Driver::Systemd)?;
    let pod = rig.pod(Class::Burstable)?;
    connects(options, &runtime, &rig, &pod)?;
    exports(options, &runtime, &rig, &pod)
}

fn connects(options: &Options, runtime: &Runtime, rig: &Rig, pod: &Pod) -> Result<()> {
    let _gateway = Gateway::start(&[4317])?;
    let mut took = [const { [const { Vec::new() }; CONNECTS.len()] }; PATHS.len()];
    for turn in 1..=options.turns {
        eprintln!("bench: connects, turn {turn} of {}", options.turns);
        for (row, (_, steering)) in CONNECTS.iter().enumerate() {
            let agent = steering.map(|steering| runtime.block_on(rig.agent(steering(), None))).transpose()?;
            for (path, took) in PATHS.into_iter().zip(&mut took) {
                took[row].extend(connect(pod, path, options.connects)?);
            }
            if let Some(mut agent) = agent {
                runtime.block_on(agent.stop())?;
            }
        }
    }
    println!("| connect | path | p50 µs | p99 µs | added p50 µs | p50 against none | p99 against none |");
    println!("|---|---|--:|--:|--:|--:|--:|");
    for (path, took) in PATHS.into_iter().zip(&mut took) {
        let (p50, p99) = (quantile(&mut took[0], 0.5)?, quantile(&mut took[0], 0.99)?);
        for ((name, _), took) in CONNECTS.iter().zip(took.iter_mut()) {
            let (own50, own99) = (quantile(took, 0.5)?, quantile(took, 0.99)?);
            let (added, times, tail) = (own50 - p50, own50 / p50, own99 / p99);
            println!("| {name} | {path} | {own50:.1} | {own99:.1} | {added:.1} | {times:.2} | {tail:.2} |");
        }
    }
    println!(
        "\n{} turns of {} connects a row, one after the other from CPU 0, each reset as it is closed; who answers is on CPU 1.\n",
        options.turns, options.connects
    );
    Ok(())
}

/// How long each of `count` connects to the gateway's address took, in microseconds.
fn connect(pod: &Pod, path: &str, count: u32) -> Result<Vec<f64>> {
    let mut command = if path == "veth" { pod.command("taskset") } else { pod.command_on_node("taskset") };
    command.args(["-c", CLIENTS]).arg(subject::binary("mirador-connect"));
    command.arg(format!("{}:4317", GATEWAY.0)).arg(count.to_string()).arg((count / 10).to_string());
    let nanos: Vec<u64> = printed(&mut command)?;
    ensure!(nanos.len() == count as usize, "{} of {count} connects", nanos.len());
    Ok(nanos.into_iter().map(|nanos| nanos as f64 / 1000.0).collect())
}

fn exports(options: &Options, runtime: &Runtime, rig: &Rig, pod: &Pod) -> Result<()> {
    let nat = Nat::find();
    let owner = mirador_support::backends::ports::free()?;
    let owner = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, owner));
    let _sink = runtime.spawn(sink::serve(owner, std::sync::Arc::default(), std::time::Duration::ZERO));
    let mut rows = vec!["direct"];
    match &nat {
        Ok(nat) => rows.push(nat.name()),
        Err(why) => println!("No row of address translation: {why:#}.\n"),
    }
    rows.push("steered");
    let mut measured: Vec<Vec<Figures>> = vec![Vec::new(); rows.len() * SPANS.len()];
    for turn in 1..=options.turns {
        eprintln!("bench: exports, turn {turn} of {}", options.turns);
        for (row, name) in rows.iter().enumerate() {
            let steering = json!({"enabled": *name == "steered"});
            let mut agent = runtime.block_on(rig.agent(steering, Some(owner)))?;
            let direct = format!("{}:{}", NODE.0, agent.grpc);
            let translated = match &nat {
                Ok(nat) if *name == nat.name() => Some(nat.translate(pod, &direct)?),
                _ => None,
            };
            let target = if *name == "direct" { direct } else { format!("{}:4317", GATEWAY.0) };
            for (size, spans) in SPANS.into_iter().enumerate() {
                let figures = export(pod, &agent, &target, spans, options.seconds)?;
                measured[row * SPANS.len() + size].push(figures);
            }
            drop(translated);
            runtime.block_on(agent.stop())?;
        }
    }
    print(options, &rows, &measured);
    Ok(())
}

fn export(pod: &Pod, agent: &Agent, target: &str, spans: usize, seconds: f64) -> Result<Figures> {
    let pid = agent.pid().context("the agent runs")?;
    let mut command = pod.command("taskset");
    command.args(["-c", CLIENTS]).arg(subject::binary("mirador-load")).args([target, "grpc"]);
    command.args([spans.to_string(), "1".into(), "0.3".into(), seconds.to_string(), pid.to_string()]);
    let figures: Figures = printed(&mut command)?;
    ensure!(
        figures.refused_requests == 0,
        "{} requests were refused: {}",
        figures.refused_requests,
        agent.log_tail(10)
    );
    Ok(figures)
}

fn print(options: &Options, rows: &[&str], measured: &[Vec<Figures>]) {
    println!(
        "| export over a kept connection, veth | spans | p50 µs | p99 µs | agent CPU µs | machine CPU µs | p50 against direct | machine CPU against direct |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|");
    for (size, spans) in SPANS.into_iter().enumerate() {
        let of = |row: usize, pick: fn(&Figures) -> f64| median(measured[row * SPANS.len() + size].iter().map(pick));
        for (row, name) in rows.iter().enumerate() {
            let (p50, cpu) = (of(row, |figures| figures.p50_us), of(row, |figures| figures.machine_us_per_request));
            println!(
                "| {name} | {spans} | {p50:.1} | {:.1} | {:.1} | {cpu:.1} | {:.2} | {:.2} |",
                of(row, |figures| figures.p99_us),
                of(row, |figures| figures.cpu_us_per_request),
                p50 / of(0, |figures| figures.p50_us),
                cpu / of(0, |figures| figures.machine_us_per_request),
            );
        }
    }
    println!(
        "\n{} turns of {} s a row, medians; OTLP/gRPC, one connection, one request at a time, answered end to end; client on CPU 0, agent and owner on CPU 1; \
         machine CPU is all that both processors did, interrupts included.",
        options.turns, options.seconds
    );
}

/// Keeps this process and what it starts from now on on one processor.
fn stay(cpu: usize) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).context("the bench needs two processors")
}

/// The JSON that a command prints.
fn printed<T: serde::de::DeserializeOwned>(command: &mut Command) -> Result<T> {
    let output = command.stdin(Stdio::null()).output().context("cannot run sh, ip or taskset")?;
    ensure!(output.status.success(), "a client failed: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("a client printed no figures")
}

fn quantile(took: &mut [f64], at: f64) -> Result<f64> {
    ensure!(!took.is_empty(), "nothing was measured");
    took.sort_by(f64::total_cmp);
    Ok(took[((took.len() - 1) as f64 * at) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let mut took = [5.0, 1.0, 3.0];
        assert!((quantile(&mut took, 0.5).unwrap() - 3.0).abs() < f64::EPSILON);
        assert!((quantile(&mut took, 1.0).unwrap() - 5.0).abs() < f64::EPSILON);
        assert!(quantile(&mut [], 0.5).is_err());
    }
}
