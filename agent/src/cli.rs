//! The command line: `run`, `validate`, `explain`.
//!
//! Exit codes, which `--help` tells as well: [`EXIT_CODES`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mirador_otlp::Signal;
pub use mirador_service::cli::{Failed, Topic};
use mirador_service::cli::{on_free_ports, print};
use mirador_service::config as file;
use mirador_service::drain::Drain;
use mirador_transport::sender::config::{K8sConfig, ResolverConfig};

use crate::config::Config;
use crate::explain::{self, Placement, Subject};
use crate::kubernetes;
use crate::steering::command;
use crate::topology::Agent;

/// What the process's exit codes say.
pub const EXIT_CODES: &str = "Exit codes:
  0    done; a drain that had to give something up says so in the log
  2    the command line is wrong
  64   the configuration is, or what explain was asked for; nothing was bound
  70   the process failed while it ran
  130  a second signal cut the drain short";

/// One small agent per node: OTLP in, RED at the source, spans by trace id and the rest by resource out.
#[derive(Debug, Parser)]
#[command(name = "mirador-agent", version, about, propagate_version = true, after_help = EXIT_CODES)]
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
    /// Look at steering: what this machine can do, step by step, and what is in its kernel.
    Steering {
        /// What to look at.
        #[command(subcommand)]
        what: SteeringCommand,
    },
    /// Print a part of the documentation as markdown.
    #[command(hide = true)]
    Docs {
        /// Which part.
        #[arg(value_enum)]
        topic: Topic,
    },
}

/// What to look at.
#[derive(Debug, Subcommand)]
pub enum SteeringCommand {
    /// Climb the ladder without attaching anything, and list the programs and pins that are in the kernel now.
    Status(FileArgs),
    /// Remove what is pinned under `steering.pin`, which detaches it, whether an agent runs or not.
    Detach(FileArgs),
    /// Climb the ladder up to the programs being taken by the kernel; fails where it stops.
    Probe(FileArgs),
    /// Climb the whole ladder: attach to the pods' cgroup and let go at once; fails where it stops.
    Attach {
        /// Where the configuration is.
        #[command(flatten)]
        file: FileArgs,
        /// Let go at once. Without a running agent there is nothing to attach for, so it must be given.
        #[arg(long, required = true)]
        dry_run: bool,
    },
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
    Err(Failed::problems(&problems))
}

/// Prints the configuration that is in effect.
pub fn validate(args: &FileArgs) -> Result<(), Failed> {
    let config = load(args.config.as_deref())?;
    print(&file::render(&config))
}

/// Prints the steps of steering and where they stop.
pub fn steering(what: &SteeringCommand) -> Result<(), Failed> {
    let (SteeringCommand::Status(file)
    | SteeringCommand::Detach(file)
    | SteeringCommand::Probe(file)
    | SteeringCommand::Attach { file, .. }) = what;
    let config = load(file.config.as_deref())?.steering;
    if matches!(what, SteeringCommand::Detach(_)) {
        return print(&command::detach(&config).map_err(|error| Failed::software(&anyhow::anyhow!(error)))?);
    }
    let ladder = match what {
        SteeringCommand::Attach { .. } => command::attach_and_detach(&config),
        _ => command::probe(&config),
    };
    print(&ladder.to_string())?;
    if !matches!(what, SteeringCommand::Probe(_)) {
        print(&command::rules(&config))?;
    }
    if matches!(what, SteeringCommand::Status(_)) {
        return print(&(command::in_kernel() + &command::pinned(&config)));
    }
    match ladder.stopped() {
        Some(failure) => Err(Failed::software(&anyhow::anyhow!("steering: {}", failure.reason))),
        None => Ok(()),
    }
}

/// Prints a part of the documentation.
pub async fn docs(topic: Topic) -> Result<(), Failed> {
    let text = match topic {
        Topic::Config => file::document::<Config>("Keys of the agent"),
        Topic::Telemetry => Box::pin(telemetry()).await.map_err(|error| Failed::software(&error))?,
    };
    print(&text)
}

/// Builds the agent on free ports, because a metric is known once its part is built.
async fn telemetry() -> anyhow::Result<String> {
    let mut config = Config::default();
    let mut pods = kubernetes::Config::default();
    pods.filter.node = Some("any".to_owned());
    config.processors.k8sattributes = Some(Box::new(pods));
    if let Some(traces) = &mut config.exporters.traces {
        let k8s = K8sConfig { service: "any".to_owned(), ..K8sConfig::default() };
        traces.resolver = ResolverConfig { k8s: Some(Box::new(k8s)), ..ResolverConfig::default() };
    }
    on_free_ports([
        &mut config.receiver.protocols.grpc.endpoint,
        &mut config.receiver.protocols.http.endpoint,
        &mut config.telemetry.metrics.endpoint,
        &mut config.health.endpoint,
    ]);
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
        Some(problem) => Err(Failed::software(&anyhow::anyhow!("{problem}"))),
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
    use mirador_service::metrics::undocumented;

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

    fn committed(page: &str) -> String {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page)).unwrap()
    }

    #[test]
    fn the_committed_page_has_every_key_as_it_is_documented_here() {
        let keys = file::document::<Config>("Keys of the agent");
        assert!(committed("config.md").contains(keys.trim()), "docs/config.md is not current: run `cargo xtask docs`");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_committed_page_has_every_metric_as_it_is_documented_here() {
        let table = Box::pin(telemetry()).await.unwrap();
        let missing = undocumented(&committed("telemetry.md"), &table);
        assert_eq!(missing, None, "docs/telemetry.md is not current: run `cargo xtask docs`");
    }
}
