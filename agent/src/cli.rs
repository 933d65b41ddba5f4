//! The command line: `run`, `validate`, `explain`.
//!
//! Exit codes: 0 done, 64 the configuration or the command line is wrong (nothing was bound), 70 the
//! process failed while it ran.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mirador_otlp::Signal;
use mirador_service::config as file;
use mirador_service::drain::Drain;

use crate::config::Config;
use crate::explain::{self, Placement, Subject};
use crate::topology::Agent;

/// `EX_SOFTWARE` of sysexits.h.
const EXIT_FAILED: u8 = 70;

/// One small agent per node: OTLP in, RED at the source, spans by trace id and the rest by resource out.
#[derive(Debug, Parser)]
#[command(name = "mirador-agent", version, about, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Receive, count and forward until a signal comes (SIGTERM drains, a second signal exits at once).
    Run(FileArgs),
    /// Print the configuration that is in effect, or every problem in it.
    Validate(FileArgs),
    /// Print which owner takes a trace, a resource or a service.
    Explain(ExplainArgs),
    /// Print a part of the documentation as markdown.
    #[command(hide = true)]
    Docs {
        /// Which part.
        #[arg(value_enum)]
        topic: Topic,
    },
}

/// A part of the documentation that the program knows best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Topic {
    /// Every key of the configuration.
    Config,
    /// Every metric that the process serves.
    Telemetry,
}

/// Where the configuration is.
#[derive(Debug, Clone, Args)]
pub struct FileArgs {
    /// The configuration file (YAML). Without it every key has its default.
    #[arg(long, short, env = "MIRADOR_AGENT_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What to explain.
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    subject: SubjectArgs,
    /// Only this signal.
    #[arg(long, value_enum)]
    signal: Option<SignalArg>,
    /// How to print it.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
struct SubjectArgs {
    /// A trace id: 32 hexadecimal digits.
    #[arg(long, value_name = "HEX")]
    trace_id: Option<String>,
    /// A resource's attributes, all of them: `service.name=cart,host.name=node-1`.
    #[arg(long, value_name = "K=V,…")]
    resource: Option<String>,
    /// A service, for its RED series.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SignalArg {
    Traces,
    Metrics,
    Logs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// One JSON array.
    Json,
}

/// A command that failed, with its exit code.
#[derive(Debug)]
pub struct Failed {
    code: u8,
    message: String,
}

impl Failed {
    /// The configuration or the command line is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: file::EXIT_CODE, message: message.into() }
    }

    /// The process failed while it ran.
    pub fn software(error: &anyhow::Error) -> Self {
        Self { code: EXIT_FAILED, message: format!("{error:#}") }
    }

    /// Says it on stderr.
    pub fn report(&self) -> ExitCode {
        // Nothing is left to do when stderr is closed.
        drop(writeln!(std::io::stderr(), "mirador-agent: {}", self.message.trim_end()));
        ExitCode::from(self.code)
    }
}

/// Reads and checks the configuration; all problems are in the message.
pub fn load(path: Option<&Path>) -> Result<Config, Failed> {
    let config = match path {
        Some(path) => file::load::<Config>(path).map_err(|error| Failed::usage(error.to_string()))?,
        None => Config::default(),
    };
    let problems = config.problems();
    if problems.is_empty() {
        return Ok(config);
    }
    Err(Failed::usage(format!("the configuration cannot work:\n  {}", problems.join("\n  "))))
}

/// Prints the configuration that is in effect.
pub fn validate(args: &FileArgs) -> Result<(), Failed> {
    let config = load(args.config.as_deref())?;
    print(&file::render(&config))
}

/// Prints a part of the documentation.
pub async fn docs(topic: Topic) -> Result<(), Failed> {
    let text = match topic {
        Topic::Config => file::document::<Config>("Keys of the agent"),
        Topic::Telemetry => telemetry().await.map_err(|error| Failed::software(&error))?,
    };
    print(&text)
}

/// Builds the agent on free ports, because a metric is known once its part is built.
async fn telemetry() -> anyhow::Result<String> {
    let mut config = Config::default();
    for endpoint in [
        &mut config.receiver.protocols.grpc.endpoint,
        &mut config.receiver.protocols.http.endpoint,
        &mut config.telemetry.metrics.endpoint,
        &mut config.health.endpoint,
    ] {
        "127.0.0.1:0".clone_into(endpoint);
    }
    let agent = Agent::build(config, Drain::new(Duration::ZERO)).await?;
    Ok(agent.registry().document())
}

/// Prints who takes the subject.
pub async fn explain(args: &ExplainArgs) -> Result<(), Failed> {
    let config = load(args.file.config.as_deref())?;
    let subject = args.subject.read()?;
    let placements = explain::explain(&config, &subject, args.signal.map(SignalArg::signal)).await;
    if placements.is_empty() {
        return Err(Failed::usage("no configured exporter takes this; see exporters in the configuration"));
    }
    print(&match args.output {
        Output::Text => text(&placements),
        Output::Json => json(&placements)?,
    })?;
    match placements.iter().find_map(|placement| placement.problem.as_ref()) {
        Some(problem) => Err(Failed { code: EXIT_FAILED, message: problem.clone() }),
        None => Ok(()),
    }
}

fn json(placements: &[Placement]) -> Result<String, Failed> {
    let text = serde_json::to_string_pretty(placements).map_err(|error| Failed::software(&error.into()))?;
    Ok(text + "\n")
}

fn text(placements: &[Placement]) -> String {
    let lines: Vec<String> = placements.iter().map(ToString::to_string).collect();
    lines.join("\n") + "\n"
}

fn print(text: &str) -> Result<(), Failed> {
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| Failed::software(&error.into()))
}

impl SubjectArgs {
    fn read(&self) -> Result<Subject, Failed> {
        let subject = match (&self.trace_id, &self.resource, &self.service) {
            (Some(id), ..) => Subject::trace(id),
            (_, Some(attributes), _) => Subject::resource(attributes),
            (.., Some(name)) => Ok(Subject::Service(name.clone())),
            (None, None, None) => return Err(Failed::usage("one of --trace-id, --resource and --service is needed")),
        };
        subject.map_err(|error| Failed::usage(error.to_string()))
    }
}

impl SignalArg {
    fn signal(self) -> Signal {
        match self {
            Self::Traces => Signal::Traces,
            Self::Metrics => Signal::Metrics,
            Self::Logs => Signal::Logs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn explain_needs_exactly_one_subject() {
        assert!(Cli::try_parse_from(["mirador-agent", "explain"]).is_err());
        assert!(Cli::try_parse_from(["mirador-agent", "explain", "--service", "a", "--trace-id", "b"]).is_err());
        assert!(Cli::try_parse_from(["mirador-agent", "explain", "--service", "a"]).is_ok());
    }
}
