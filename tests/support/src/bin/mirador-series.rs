//! `mirador-series`: writes the series of `mirador_support::anomaly` as tables, one file each, to try a backtest on.
//!
//! The same seed writes the same files.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Parser;
use mirador_support::anomaly::{Fault, Ordinary, table};

/// Writes ordinary series, and one with faults, as CSV files.
#[derive(Debug, Parser)]
struct Args {
    /// The folder that is written to.
    #[arg(long)]
    out: PathBuf,
    /// Length of each series.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u64).range(1..=366))]
    days: u64,
    /// Seconds between points.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// The same seed gives the same series.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    let write = |name: &str, text: String| {
        let path = args.out.join(format!("{name}.csv"));
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    for kind in Ordinary::ALL {
        write(kind.as_str(), table(&kind.points(args.days, args.interval, args.seed)))?;
    }
    let mut points = Ordinary::NoisyPeriodic.points(args.days, args.interval, args.seed);
    let length = points.len();
    // At noon of the fourth, fifth and sixth day of seven, or as far into another length.
    for (fault, share) in [(Fault::Spike, 3.5), (Fault::Dip, 4.5), (Fault::LevelShift, 5.5)] {
        fault.inject(&mut points, (length as f64 * share / 7.0) as usize);
    }
    write("faults", table(&points))
}
