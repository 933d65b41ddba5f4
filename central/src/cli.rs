//! The command line: one subcommand per role, `validate`, and tools.
//!
//! Exit codes: 0 done, 2 the command line is wrong, 64 the configuration is (nothing was bound), 70 the process failed
//! while it ran. `schema` has more, see [`schema`].

pub mod backtest;
pub mod forest;
pub mod schema;

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
pub use mirador_service::cli::{Failed, Topic, print};
use mirador_service::config as file;

use crate::config::Config;
use crate::role::Role;

/// Pairs spans into service edges, merges RED series, scores every metric and stores everything once.
#[derive(Debug, Parser)]
#[command(name = "mirador-central", version, about, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do. A running role drains on SIGTERM; a second signal exits at once.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Pair spans into service edges and store traces.
    #[command(name = "servicegraph")]
    ServiceGraph(RoleArgs),
    /// Merge the RED deltas of all agents into one exact set of series.
    #[command(name = "spanmetrics")]
    SpanMetrics(RoleArgs),
    /// Score and store every metric.
    #[command(name = "isolationforest")]
    IsolationForest(RoleArgs),
    /// Store log records.
    Logs(RoleArgs),
    /// Every role in one process; without a file on loopback, with everything in one SQLite file.
    All(AllArgs),
    /// Score recorded series as the service would: CSV files or Prometheus exports, row by row.
    Backtest(Box<backtest::BacktestArgs>),
    /// Score the rows of a table (CSV or .npz), and measure the scores when there are labels.
    Forest(Box<forest::Options>),
    /// Print, make or check the keyspace and the tables of role logs in Cassandra.
    #[command(subcommand)]
    Schema(schema::SchemaCommand),
    /// Print the configuration that is in effect, or every problem in it.
    Validate(ValidateArgs),
    /// Print a part of the documentation as markdown.
    #[command(hide = true)]
    Docs {
        /// Which part.
        #[arg(value_enum)]
        topic: Topic,
    },
}

/// Where the configuration of one role is.
#[derive(Debug, Clone, Args)]
pub struct RoleArgs {
    /// The configuration file (YAML).
    #[arg(long, short, env = "MIRADOR_CENTRAL_CONFIG", value_name = "FILE")]
    config: PathBuf,
}

/// Where the configuration of all roles is.
#[derive(Debug, Clone, Args)]
pub struct AllArgs {
    /// The configuration file (YAML). Without it: 127.0.0.1:14317 and 14318, metrics on 18888, health on 23133, the
    /// embedded store in ./mirador-data.
    #[arg(long, short, env = "MIRADOR_CENTRAL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What to check.
#[derive(Debug, Clone, Args)]
pub struct ValidateArgs {
    /// The role that the file is for.
    #[arg(value_enum, default_value = "all")]
    role: Role,
    #[command(flatten)]
    file: AllArgs,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Task {
    /// Run a role.
    Run(Role, Box<Config>),
    /// Print this.
    Print(String),
    /// Print every metric that the process serves.
    Telemetry,
    /// Score a table.
    Forest(Box<forest::Options>),
    /// Look after the schema of a cluster.
    Schema(Box<schema::SchemaTask>),
    /// Score recorded series.
    Backtest(Box<backtest::BacktestArgs>),
}

impl Cli {
    /// Reads and checks what the command needs; all problems are in the error.
    ///
    /// # Errors
    /// When the configuration cannot be read or cannot work.
    pub fn task(&self) -> Result<Task, Failed> {
        let run = |role: Role, path: Option<&Path>| Ok(Task::Run(role, Box::new(load(role, path)?)));
        match &self.command {
            Command::ServiceGraph(args) => run(Role::ServiceGraph, Some(&args.config)),
            Command::SpanMetrics(args) => run(Role::SpanMetrics, Some(&args.config)),
            Command::IsolationForest(args) => run(Role::IsolationForest, Some(&args.config)),
            Command::Logs(args) => run(Role::Logs, Some(&args.config)),
            Command::All(args) => run(Role::All, args.config.as_deref()),
            Command::Validate(args) => {
                let config = load(args.role, args.file.config.as_deref())?;
                Ok(Task::Print(file::render(&config)))
            }
            Command::Schema(command) => command.task(),
            Command::Docs { topic: Topic::Config } => {
                Ok(Task::Print(file::document::<Config>("Keys of the central roles")))
            }
            Command::Docs { topic: Topic::Telemetry } => Ok(Task::Telemetry),
            Command::Backtest(args) => Ok(Task::Backtest(args.clone())),
            Command::Forest(options) => Ok(Task::Forest(options.clone())),
        }
    }
}

/// The configuration of a role: the file's, or without a file the laptop's.
fn load(role: Role, path: Option<&Path>) -> Result<Config, Failed> {
    let config = match path {
        Some(path) => file::load::<Config>(path).map_err(|error| Failed::usage(error.to_string()))?,
        None => Config::laptop(),
    };
    let problems = config.problems(role);
    if problems.is_empty() {
        return Ok(config);
    }
    Err(Failed::problems(&problems))
}

#[cfg(test)]
mod tests;
