//! `cargo xtask bench forest`: what a score costs, beside scikit-learn, krcf and extended-isolation-forest in the same
//! run.
//!
//! All on CPU 0, one thread, one after the other in every round; a figure is the best of the rounds, because noise
//! only ever adds. Then the whole role as a process, see [`role`]. Never: measures in another build than release.

mod role;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use mirador_support::backends::install;
use serde::Deserialize;

/// Measure what a score costs, beside scikit-learn, krcf and extended-isolation-forest in the same run.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// How often everything is measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only ours: installs and builds nothing else.
    #[arg(long)]
    alone: bool,
    /// Points of every series that the whole role is measured over.
    #[arg(long, default_value_t = 100)]
    points: usize,
}

/// What `central/examples/forest.rs` prints.
#[derive(Debug, Deserialize)]
struct Ours {
    point_ns: f64,
    hot_point_ns: f64,
    pass_ns: f64,
    series_bytes: f64,
    row_ns: f64,
    rebuild_us: f64,
    family_bytes: f64,
    classic_ns: f64,
    classic_fit_ms: f64,
    combined_ns: f64,
    combined_fit_ms: f64,
}

/// What `tests/peers` prints.
#[derive(Debug, Deserialize)]
struct Theirs {
    extended_ns: f64,
    extended_fit_ms: f64,
    krcf_row_ns: f64,
    krcf_point_ns: f64,
}

/// What `tests/backends/scikitlearn/forest.py --time` prints.
#[derive(Debug)]
struct Learn {
    fit_ms: f64,
    row_ns: f64,
}

/// Rows that scikit-learn fits and scores.
const ROWS: usize = 20_000;

/// Runs the bench and prints its tables in Markdown.
pub(super) fn run(options: &Options) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let ours = build(&root.join("Cargo.toml"), &["--package", "mirador-central", "--example", "forest"])?
        .join("examples/forest");
    let peers = if options.alone {
        None
    } else {
        let folder = build(&root.join("tests/peers/Cargo.toml"), &[])?;
        Some((folder.join("mirador-peers"), install::ensure("scikitlearn")?))
    };
    role::build()?;
    let (mut own, mut crates, mut learn, mut roles) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        own.push(serde_json::from_str::<Ours>(&output(&Command::new(&ours))?)?);
        roles.push(role::measure(options.points)?);
        let Some((program, python)) = &peers else { continue };
        crates.push(serde_json::from_str::<Theirs>(&output(&Command::new(program))?)?);
        let mut script = Command::new(python);
        script.arg(root.join("tests/backends/scikitlearn/forest.py")).args(["--time", &ROWS.to_string()]);
        learn.push(learned(&output(&script)?)?);
    }
    print(&own, &crates, &learn, options.rounds);
    role::print(&roles);
    Ok(())
}

/// Builds in release and gives the folder of the binaries.
fn build(manifest: &Path, words: &[&str]) -> Result<PathBuf> {
    let status = Command::new(env!("CARGO"))
        .args(["build", "--release", "--manifest-path"])
        .arg(manifest)
        .args(words)
        .status()?;
    ensure!(status.success(), "the release build of {} failed", manifest.display());
    let shared = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = shared.unwrap_or_else(|| manifest.with_file_name("target"));
    Ok(target.join("release"))
}

fn output(program: &Command) -> Result<String> {
    let mut pinned = Command::new("taskset");
    pinned.args(["-c", "0"]).arg(program.get_program()).args(program.get_args());
    pinned.env("OMP_NUM_THREADS", "1");
    let output = pinned.output().context("cannot run taskset; it comes with util-linux")?;
    let name = program.get_program().to_string_lossy();
    ensure!(output.status.success(), "{name} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Microseconds a row to fit and to score.
fn learned(text: &str) -> Result<Learn> {
    let (fit, score) = text.trim().split_once(' ').context("forest.py --time prints two numbers")?;
    Ok(Learn { fit_ms: fit.parse::<f64>()? * ROWS as f64 / 1e3, row_ns: score.parse::<f64>()? * 1e3 })
}

fn print(own: &[Ours], crates: &[Theirs], learn: &[Learn], rounds: usize) {
    let best = |pick: fn(&Ours) -> f64| own.iter().map(pick).fold(f64::MAX, f64::min);
    println!("| what | ours | peers |");
    println!("|---|--:|---|");
    let of = |pick: fn(&Theirs) -> f64| crates.iter().map(pick).fold(f64::MAX, f64::min);
    let of_learn = |pick: fn(&Learn) -> f64| learn.iter().map(pick).fold(f64::MAX, f64::min);
    let beside = |text: String| if crates.is_empty() { String::new() } else { text };
    println!(
        "| layer 1: score and learn a point, 20,000 series in turn, ns | {:.0} | {} |",
        best(|ours| ours.point_ns),
        beside(format!("krcf, one series, 50 x 256: {:.0}", of(|theirs| theirs.krcf_point_ns)))
    );
    println!(
        "| layer 1: the same with 50 series, which stay in the cache, ns | {:.0} | |",
        best(|ours| ours.hot_point_ns)
    );
    println!(
        "| pass: a point from OTLP bytes to samples and score, without process, ns | {:.0} | |",
        best(|ours| ours.pass_ns)
    );
    println!("| layer 1: bytes a series, all in, counted | {:.0} | |", best(|ours| ours.series_bytes));
    println!(
        "| layer 2: score a row of 8, range-aware 50 x 256, ns | {:.0} | {} |",
        best(|ours| ours.row_ns),
        beside(format!("krcf, 50 x 256: {:.0}", of(|theirs| theirs.krcf_row_ns)))
    );
    println!("| layer 2: rebuild an eighth of the trees, µs | {:.0} | |", best(|ours| ours.rebuild_us));
    println!("| layer 2: bytes a kind of resource | {:.0} | |", best(|ours| ours.family_bytes));
    println!(
        "| batch: score a row of 8, classic 100 x 256, ns | {:.0} | {} |",
        best(|ours| ours.classic_ns),
        beside(format!(
            "scikit-learn: {:.0}; extended-isolation-forest: {:.0}",
            of_learn(|learn| learn.row_ns),
            of(|theirs| theirs.extended_ns)
        ))
    );
    println!(
        "| batch: fit classic 100 x 256 on 20,000 rows, ms | {:.1} | {} |",
        best(|ours| ours.classic_fit_ms),
        beside(format!(
            "scikit-learn: {:.1}; extended-isolation-forest: {:.1}",
            of_learn(|learn| learn.fit_ms),
            of(|theirs| theirs.extended_fit_ms)
        ))
    );
    println!("| batch: score a row of 8, combined 100 x 256, ns | {:.0} | |", best(|ours| ours.combined_ns));
    println!("| batch: fit combined (with its ranks), ms | {:.1} | |", best(|ours| ours.combined_fit_ms));
    println!(
        "\nBest of {rounds} rounds, processor time of one thread on CPU 0, one after the other; peers in wall time."
    );
}
