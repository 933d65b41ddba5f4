//! The agent's process, in four acts: command line and configuration, telemetry, build, run and drain.

use std::process::ExitCode;

use clap::Parser as _;
use mirador_agent::cli::{self, Cli, Command, Failed, FileArgs};
use mirador_agent::config::Config;
use mirador_agent::steering::{self, Steering};
use mirador_agent::topology::Agent;
use mirador_service::drain::{self, Drain};
use mirador_service::telemetry;
use tokio::runtime::{Builder, Runtime};

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(args) => run(&args),
        Command::Validate(args) => cli::validate(&args),
        Command::Explain(args) => runtime(1).and_then(|runtime| runtime.block_on(cli::explain(&args))),
        Command::Steering { what } => cli::steering(&what),
        Command::Docs { topic } => runtime(1).and_then(|runtime| runtime.block_on(cli::docs(topic))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => failed.report("mirador-agent"),
    }
}

fn run(args: &FileArgs) -> Result<(), Failed> {
    let config = cli::load(args.config.as_deref())?;
    telemetry::init("mirador-agent", &config.telemetry.logs).map_err(|error| Failed::usage(error.to_string()))?;
    // Before there are threads: privileges are given up by thread.
    let steering = steering::load(&config.steering);
    let runtime = runtime(config.runtime.effective_workers())?;
    let outcome = runtime.block_on(serve(config, steering)).map_err(|error| Failed::software(&error));
    // What is left are connections to peers that have their answers.
    runtime.shutdown_background();
    outcome
}

async fn serve(config: Config, steering: Steering) -> anyhow::Result<()> {
    let drain = Drain::new(config.shutdown_grace);
    let signals = tokio::spawn(drain::signals(drain.clone()));
    let agent = Agent::build_steered(config, steering, drain).await?;
    agent.run().await?;
    signals.abort();
    Ok(())
}

fn runtime(workers: usize) -> Result<Runtime, Failed> {
    // One thread needs no queue that is shared between threads.
    let mut builder = if workers == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    if workers > 1 {
        builder.worker_threads(workers);
    }
    builder.enable_all().max_blocking_threads(4).build().map_err(|error| Failed::software(&error.into()))
}
