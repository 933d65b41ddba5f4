//! `cargo xtask bench`: what Mirador costs, part by part, beside its peers in the same run.
//!
//! Never: asserts a figure; a bench prints, people judge.

mod forest;
mod life;
mod pipeline;
mod steering;
mod subject;

use anyhow::Result;

/// Measure what Mirador costs, beside its peers in the same run.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, clap::Subcommand)]
enum Part {
    Forest(forest::Options),
    Pipeline(pipeline::Options),
    Life(life::Options),
    Steering(steering::Options),
}

/// Runs one part of the bench and prints its tables in Markdown.
pub(crate) fn run(options: &Options) -> Result<()> {
    match &options.part {
        Part::Forest(options) => forest::run(options),
        Part::Pipeline(options) => pipeline::run(options),
        Part::Life(options) => life::run(options),
        Part::Steering(options) => steering::run(options),
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
