//! `mirador-central schema`: the tables of the logs role, printed for an administrator, made, or checked.
//!
//! Exit codes: 0 done, 64 the configuration is wrong, 65 something is missing or of another shape, 69 the cluster did
//! not answer in time (trying again may help), 77 the cluster refuses a statement, as for want of a right.
//!
//! Never: drops or alters anything.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use mirador_service::config as file;
use mirador_service::duration::GoDuration;
use mirador_service::telemetry;
use tokio::runtime::Builder;

use super::{Failed, print};
use crate::config::Config;
use crate::exporter::cassandra::{self, schema};

/// `EX_DATAERR` of sysexits.h.
const EXIT_UNFIT: u8 = 65;
/// `EX_UNAVAILABLE` of sysexits.h.
const EXIT_UNAVAILABLE: u8 = 69;
/// `EX_NOPERM` of sysexits.h.
const EXIT_REFUSED: u8 = 77;

/// What to do about keyspace and tables.
#[derive(Debug, Clone, Subcommand)]
pub enum SchemaCommand {
    /// Print the CQL that makes them, for `cqlsh -f`; no cluster is asked.
    Print {
        /// The configuration of role logs (YAML); without it the defaults of `exporters.cassandra` are taken.
        #[arg(long, short, env = "MIRADOR_CENTRAL_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Make what is missing and wait until all nodes agree; what is there is left alone. One process at a time.
    Apply(ClusterArgs),
    /// Check that everything is there and has the right shape; changes nothing.
    Check(ClusterArgs),
}

/// Which cluster, and how long to wait for it.
#[derive(Debug, Clone, Args)]
pub struct ClusterArgs {
    /// The configuration of role logs (YAML), of which `exporters.cassandra` is used.
    #[arg(long, short, env = "MIRADOR_CENTRAL_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// How long to try while the cluster does not answer.
    #[arg(long, default_value = "2m", value_name = "DURATION")]
    timeout: GoDuration,
}

/// What is done with a configuration that has been checked.
#[derive(Debug)]
pub struct SchemaTask {
    cassandra: cassandra::Config,
    logs: telemetry::LogConfig,
    timeout: Duration,
    apply: bool,
}

impl SchemaCommand {
    /// The text to print, or what to do with the cluster.
    pub(super) fn task(&self) -> Result<super::Task, Failed> {
        match self {
            Self::Print { config } => {
                let section = match config {
                    Some(path) => section(path)?.0,
                    None => cassandra::Config::default(),
                };
                Ok(super::Task::Print(schema::text(&section)))
            }
            Self::Apply(args) => args.task(true),
            Self::Check(args) => args.task(false),
        }
    }
}

impl ClusterArgs {
    fn task(&self, apply: bool) -> Result<super::Task, Failed> {
        let (cassandra, logs) = section(&self.config)?;
        Ok(super::Task::Schema(Box::new(SchemaTask { cassandra, logs, timeout: self.timeout.0, apply })))
    }
}

/// The section of a file that says which cluster; the rest is not looked at, because the machine on which this runs
/// need not be the role's.
fn section(path: &Path) -> Result<(cassandra::Config, telemetry::LogConfig), Failed> {
    let config = file::load::<Config>(path).map_err(|error| Failed::usage(error.to_string()))?;
    let Some(section) = config.exporters.cassandra else {
        return Err(Failed::usage(format!(
            "{}: exporters.cassandra is not set, so there is no schema to look after",
            path.display()
        )));
    };
    section.check().map_err(|error| Failed::problems(&[format!("{error:#}")]))?;
    Ok((section, config.telemetry.logs))
}

impl SchemaTask {
    /// Does it; what was made, or that everything is there, is printed.
    ///
    /// # Errors
    /// With the exit codes that this module documents.
    pub fn run(&self) -> Result<(), Failed> {
        telemetry::init("mirador-central-schema", &self.logs).map_err(|error| Failed::usage(error.to_string()))?;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failed::software(&error.into()))?;
        let (made, notes) = runtime.block_on(self.ask()).map_err(|error| {
            let code = match error {
                schema::SchemaError::Unavailable(_) => EXIT_UNAVAILABLE,
                schema::SchemaError::Refused(_) => EXIT_REFUSED,
                schema::SchemaError::Unfit(_) => EXIT_UNFIT,
            };
            Failed::coded(code, error.to_string())
        })?;
        let made = made.into_iter().map(|name| format!("made {name}\n"));
        let notes = notes.into_iter().map(|note| format!("note: {note}\n"));
        let done = format!("keyspace {} has every table\n", self.cassandra.keyspace);
        let text: String = made.chain(notes).chain(std::iter::once(done)).collect();
        print(&text)
    }

    async fn ask(&self) -> Result<(Vec<String>, Vec<String>), schema::SchemaError> {
        if self.apply {
            let applied = schema::apply(&self.cassandra, self.timeout).await?;
            return Ok((applied.made, applied.notes));
        }
        Ok((Vec::new(), schema::check(&self.cassandra, self.timeout).await?))
    }
}
