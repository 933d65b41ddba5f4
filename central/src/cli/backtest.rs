//! `mirador-central backtest`: scores recorded series as the service would have.
//!
//! Exit codes: 0 every row was read, 1 some rows were bad and the rest is scored, 2 the command line is wrong, or an
//! input cannot be read, or an output cannot be written. A reader that closes the pipe ends the run quietly with 0.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use mirador_service::config as file;

use crate::backtest::{self, Format, Kind, Options, Report, Screen};
use crate::config::Config;
use crate::isolationforest::detector::{Preset, Settings};

const EXIT_BAD_ROWS: u8 = 1;
const EXIT_USAGE: u8 = 2;

/// What to score, and how.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct BacktestArgs {
    /// A file, a folder that is walked, or `-` for stdin.
    #[arg(long, short, value_name = "FILE|DIR|-")]
    input: PathBuf,
    /// Write one file per series below this folder, which mirrors the input. Without it rows go to stdout, each with
    /// the name of its series in front where the input may hold several.
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How readily a series is flagged; stands above the configuration.
    #[arg(long, value_enum)]
    preset: Option<PresetName>,
    /// The threshold itself, between 0.5 and 1; stands above the preset.
    #[arg(long, value_parser = threshold, conflicts_with = "preset")]
    threshold: Option<f64>,
    /// Also write a picture of every series (SVG) beside its file.
    #[arg(long, requires = "out")]
    plot: bool,
    /// What the input is.
    #[arg(long, value_enum, default_value = "auto")]
    format: FormatName,
    /// What the values are: a counter is scored on its rate.
    #[arg(long, value_enum, default_value = "auto")]
    kind: KindName,
    /// The column of times. Found by itself: by its name, else by what it holds.
    #[arg(long, value_name = "NAME")]
    time_column: Option<String>,
    /// A column to score, may be repeated. Otherwise all that hold numbers.
    #[arg(long = "column", value_name = "NAME")]
    columns: Vec<String>,
    /// The same seed gives the same scores.
    #[arg(long)]
    seed: Option<u64>,
    /// A central configuration; its section `isolationforest` says how to score.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Series that the summary names.
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// The summary as JSON on stdout (on stderr, when rows are on stdout).
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  mirador-central backtest --input metrics/ --out scores/ --plot
  mirador-central backtest --input cpu.csv --preset quiet | grep ',1,'
  curl -s 'http://victoria:8428/api/v1/export?match[]=up' | mirador-central backtest --input - --out scores/";

/// How readily a series is flagged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PresetName {
    /// More alarms, earlier ones.
    Sensitive,
    /// For alerting on services.
    Balanced,
    /// For alerting on very many series.
    Quiet,
}

/// What an input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatName {
    /// Told from the first bytes.
    Auto,
    /// Comma-separated values (also by semicolons or tabs).
    Csv,
    /// The JSON of a range query, or the lines of an export.
    Prometheus,
}

/// What the values of a series are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KindName {
    /// Scored as they are.
    Gauge,
    /// They only grow, except for resets.
    Counter,
    /// A counter when the name ends in _total, _count, _sum or _bucket.
    Auto,
}

fn threshold(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if (0.5..=1.0).contains(&value) { Ok(value) } else { Err(format!("{value} is not between 0.5 and 1")) }
}

impl BacktestArgs {
    /// Runs the command to its end; the exit code says how it went.
    pub fn run(&self) -> ExitCode {
        match self.outcome() {
            Ok(code) => code,
            Err(error) if backtest::is_broken_pipe(&error) => ExitCode::SUCCESS,
            Err(error) => {
                // Nothing is left to do when stderr is closed.
                drop(writeln!(io::stderr(), "mirador-central: {error:#}"));
                ExitCode::from(EXIT_USAGE)
            }
        }
    }

    fn outcome(&self) -> anyhow::Result<ExitCode> {
        let options = self.options()?;
        let mut errors = io::stderr();
        let bar = errors.is_terminal();
        let mut screen = Screen::new(&mut errors, bar);
        let report = backtest::run(&options, &mut io::stdout().lock(), &mut screen)?;
        self.summarise(&report)?;
        Ok(if report.unreadable_files > 0 {
            ExitCode::from(EXIT_USAGE)
        } else if report.bad_rows > 0 {
            ExitCode::from(EXIT_BAD_ROWS)
        } else {
            ExitCode::SUCCESS
        })
    }

    fn options(&self) -> anyhow::Result<Options> {
        let config = match &self.config {
            Some(path) => file::load::<Config>(path)?.isolationforest,
            None => crate::isolationforest::Config::default(),
        };
        let problems = config.problems();
        anyhow::ensure!(
            problems.is_empty(),
            "the configuration cannot work:\n  isolationforest.{}",
            problems.join("\n  isolationforest.")
        );
        Ok(Options {
            input: self.input.clone(),
            out: self.out.clone(),
            plot: self.plot,
            format: self.format.into(),
            kind: self.kind.into(),
            settings: self.settings(&config),
            seed: self.seed.unwrap_or(config.engine.seed),
            time_column: self.time_column.clone(),
            columns: self.columns.clone(),
            top: self.top,
        })
    }

    fn settings(&self, config: &crate::isolationforest::Config) -> Settings {
        let mut settings = config.scoring().settings();
        if let Some(preset) = self.preset {
            settings.floor = Preset::from(preset).floor();
        }
        if let Some(threshold) = self.threshold {
            settings.floor = threshold;
        }
        settings
    }

    fn summarise(&self, report: &Report) -> anyhow::Result<()> {
        if !self.json {
            // Nothing is left to do when stderr is closed.
            drop(io::stderr().write_all(report.text().as_bytes()));
            return Ok(());
        }
        let text = serde_json::to_string(report)? + "\n";
        if self.out.is_some() {
            io::stdout().write_all(text.as_bytes())?;
        } else {
            drop(io::stderr().write_all(text.as_bytes()));
        }
        Ok(())
    }
}

impl From<PresetName> for Preset {
    fn from(name: PresetName) -> Self {
        match name {
            PresetName::Sensitive => Self::Sensitive,
            PresetName::Balanced => Self::Balanced,
            PresetName::Quiet => Self::Quiet,
        }
    }
}

impl From<FormatName> for Format {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::Auto => Self::Auto,
            FormatName::Csv => Self::Csv,
            FormatName::Prometheus => Self::Prometheus,
        }
    }
}

impl From<KindName> for Kind {
    fn from(name: KindName) -> Self {
        match name {
            KindName::Gauge => Self::Gauge,
            KindName::Counter => Self::Counter,
            KindName::Auto => Self::Auto,
        }
    }
}
