//! `mirador-central forest`: scores the rows of a table with an isolation forest that is grown from them.
//!
//! Exit codes: 0 every row has a score, 1 some rows could not be read (each is named on stderr), 2 there is nothing
//! to score: the command line is wrong or the input cannot be read. Never: changes its input, needs a configuration.

mod measure;
mod npy;
mod npz;
mod table;
mod text;

use std::fs::File;
use std::io::{BufWriter, Read as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use crate::isolationforest::trees::{Forest, Mode, Rows, Settings};
use table::{Bad, Table};

/// Some rows have no score.
const EXIT_BAD_ROWS: u8 = 1;
/// Nothing was scored.
const EXIT_UNREADABLE: u8 = 2;
/// Bad rows that are named one by one.
const NAMED: usize = 100;
/// Rows between two looks at the progress.
const STRIDE: usize = 8192;
/// Rows whose scoring takes long enough to be watched.
const LONG: usize = 100_000;
/// The bytes that an input may have.
const MOST_BYTES: u64 = 4 << 30;

/// What follows the options in `--help`.
const EXAMPLES: &str = "\
Input:
  CSV with a header (separated by comma, semicolon or tab), or the arrays X (rows x features) and y of a NumPy
  .npz; which one it is shows in its first bytes. Every column is a feature except labels and what --ignore
  names. An empty field, NaN, NA, null or ? is a missing value: it stands for the column's median.
  Labels are 1 (anomaly) or 0; also true/false, yes/no, anomaly/normal.

Output:
  With labels: the area under the ROC curve and the average precision. Without: `row,score`, rows counted from 1.
  --out writes the scores either way. A higher score is more suspicious. What it means depends on the mode:
    classic      2^(-E[h]/c) as in the paper and in scikit-learn: near .5 ordinary, towards 1 isolated
    range-aware  the same, and it keeps growing outside the range of the sample
    density      .5 as dense as the whole table would be if its rows were spread evenly, towards 1 sparse
    combined     .99 is more suspicious than 99 % of the rows, by range-aware depth or by density

Examples:
  mirador-central forest --input table.csv
  mirador-central forest --input shuttle.npz --mode classic
  mirador-central forest --input - --label is_attack --ignore time --out scores.csv < table.csv";

/// Score the rows of a table (CSV or .npz), and measure the scores when there are labels.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Options {
    /// The table; `-` is standard input.
    #[arg(long, short, value_name = "FILE")]
    input: PathBuf,
    /// What is read off the trees.
    #[arg(long, value_enum, default_value = "combined")]
    mode: ModeName,
    /// How many trees.
    #[arg(long, default_value_t = Settings::default().trees, value_name = "N")]
    trees: usize,
    /// Rows that each tree grows from.
    #[arg(long, default_value_t = Settings::default().sample, value_name = "N")]
    sample: usize,
    /// Levels of a tree, 1 to 16, or `auto`: the binary logarithm of the sample, rounded up.
    #[arg(long, default_value = "auto", value_parser = depth)]
    depth: Depth,
    /// The same seed gives the same scores.
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// The column or array with labels; default: `label` or `y`, if there is one.
    #[arg(long, value_name = "COLUMN")]
    label: Option<String>,
    /// A column that is no feature, such as a time or a name; may be repeated.
    #[arg(long, value_name = "COLUMN")]
    ignore: Vec<String>,
    /// Where the scores go; default: standard output when there are no labels, nowhere when there are.
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// A [`Mode`] on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ModeName {
    /// As in the paper and in scikit-learn.
    Classic,
    /// Depth that knows how far outside a row lies.
    RangeAware,
    /// How sparse the neighbourhood of a row is.
    Density,
    /// The more suspicious of range-aware and density, by rank: the best on average.
    Combined,
}

/// Levels of a tree, or the paper's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Depth(Option<u32>);

fn depth(text: &str) -> Result<Depth, String> {
    if text == "auto" {
        return Ok(Depth(None));
    }
    match text.parse() {
        Ok(levels @ 1..=16) => Ok(Depth(Some(levels))),
        _ => Err("it must be `auto` or 1 to 16".to_owned()),
    }
}

impl Options {
    fn settings(&self) -> Settings {
        let mode = match self.mode {
            ModeName::Classic => Mode::Classic,
            ModeName::RangeAware => Mode::RangeAware,
            ModeName::Density => Mode::Density,
            ModeName::Combined => Mode::Combined,
        };
        Settings { mode, trees: self.trees, sample: self.sample, depth: self.depth.0 }
    }
}

/// Does it; what it has to say goes to stdout and stderr.
pub fn run(options: &Options) -> ExitCode {
    let outcome = score(options, &mut std::io::stdout().lock(), &mut std::io::stderr().lock());
    match outcome {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(EXIT_BAD_ROWS),
        Err(error) => {
            // Nothing is left to do when stderr is closed.
            drop(writeln!(std::io::stderr(), "mirador-central forest: {error:#}"));
            ExitCode::from(EXIT_UNREADABLE)
        }
    }
}

/// Scores and reports; the number of bad rows.
fn score(options: &Options, out: &mut dyn Write, log: &mut dyn Write) -> Result<usize> {
    let is_stdin = options.input == Path::new("-");
    let name = if is_stdin { "standard input".to_owned() } else { options.input.display().to_string() };
    let table = read(options).with_context(|| format!("cannot read {name}"))?;
    complain(&table.bad, log)?;
    if table.numbers.is_empty() {
        bail!("{name} has no row that can be scored{}", table.hint());
    }
    let rows = Rows::new(&table.values, table.width)?;
    let bar = progress(rows.len());
    let settings = options.settings();
    let forest = Forest::fit(rows, &settings, options.seed)?;
    let mut scores = Vec::with_capacity(rows.len());
    for chunk in table.values.chunks(STRIDE * table.width) {
        forest.score_batch(Rows::new(chunk, table.width)?, &mut scores);
        bar.set_position(scores.len() as u64);
    }
    bar.finish_and_clear();
    if let Some(path) = &options.out {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        write_scores(&table, &scores, &mut BufWriter::new(file)).with_context(|| path.display().to_string())?;
    } else if table.labels.is_none() {
        write_scores(&table, &scores, &mut BufWriter::new(&mut *out))?;
    }
    if let Some(labels) = &table.labels {
        report(options, &table, labels, &scores, out)?;
    }
    Ok(table.bad.len())
}

fn read(options: &Options) -> Result<Table> {
    let mut bytes = Vec::new();
    let read = |input: &mut dyn std::io::Read, bytes: &mut Vec<u8>| input.take(MOST_BYTES + 1).read_to_end(bytes);
    if options.input == Path::new("-") {
        read(&mut std::io::stdin().lock(), &mut bytes)?;
    } else {
        read(&mut File::open(&options.input)?, &mut bytes)?;
    }
    if bytes.len() as u64 > MOST_BYTES {
        bail!("it has more than {} GiB; score a sample of its rows", MOST_BYTES >> 30);
    }
    let columns = table::Columns { label: options.label.as_deref(), ignore: &options.ignore };
    if bytes.starts_with(b"PK") {
        npz::read(&bytes, &columns)
    } else if bytes.starts_with(npy::MAGIC) {
        npz::read_bare(&bytes, &columns)
    } else {
        text::read(&bytes, &columns)
    }
}

fn complain(bad: &[Bad], log: &mut dyn Write) -> Result<()> {
    for bad in bad.iter().take(NAMED) {
        writeln!(log, "{bad}")?;
    }
    if bad.len() > NAMED {
        writeln!(log, "and {} more rows that cannot be read", bad.len() - NAMED)?;
    }
    Ok(())
}

fn write_scores(table: &Table, scores: &[f64], out: &mut dyn Write) -> Result<()> {
    writeln!(out, "row,score")?;
    for (number, score) in table.numbers.iter().zip(scores) {
        writeln!(out, "{number},{score:.6}")?;
    }
    out.flush()?;
    Ok(())
}

fn report(options: &Options, table: &Table, labels: &[bool], scores: &[f64], out: &mut dyn Write) -> Result<()> {
    let anomalies = labels.iter().filter(|label| **label).count();
    let settings = options.settings();
    let mode = options.mode.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    writeln!(
        out,
        "{} rows, {} features, {anomalies} anomalies; {mode}, {} trees of {} rows, seed {}",
        labels.len(),
        table.width,
        settings.trees,
        settings.sample.min(labels.len()),
        options.seed
    )?;
    match measure::measure(scores, labels) {
        Some(measured) => {
            writeln!(out, "AUC {:.5}", measured.auc)?;
            writeln!(out, "average precision {:.5}", measured.average_precision)?;
        }
        None => writeln!(out, "nothing to measure: all labels are the same")?,
    }
    out.flush()?;
    Ok(())
}

/// A bar on the terminal while rows are scored; elsewhere nothing.
fn progress(rows: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos} of {len} rows, {eta} left");
    let bar = if rows > LONG { ProgressBar::new(rows as u64) } else { ProgressBar::hidden() };
    style.into_iter().fold(bar, ProgressBar::with_style)
}

#[cfg(test)]
mod tests;
