//! The central process, in four acts: command line and configuration, telemetry, build, run and drain.

use std::process::ExitCode;

use clap::Parser as _;
use mirador_central::cli::{self, Cli, Failed, Task, forest};
use mirador_central::config::Config;
use mirador_central::describe;
use mirador_central::role::Role;
use mirador_central::topology::Central;
use mirador_service::drain::{self, Drain};
use mirador_service::telemetry;
use tokio::runtime::Builder;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let outcome = match Cli::parse().task() {
        Ok(Task::Run(role, config)) => run(role, *config),
        Ok(Task::Print(text)) => cli::print(&text),
        Ok(Task::Telemetry) => telemetry_page(),
        Ok(Task::Schema(task)) => task.run(),
        Ok(Task::Forest(options)) => return forest::run(&options),
        Ok(Task::Backtest(args)) => return args.run(),
        Err(failed) => Err(failed),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => failed.report("mirador-central"),
    }
}

fn run(role: Role, config: Config) -> Result<(), Failed> {
    let name = format!("mirador-central-{}", role.as_str());
    telemetry::init(&name, &config.telemetry.logs).map_err(|error| Failed::usage(error.to_string()))?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(config.runtime.effective_workers())
        .enable_all()
        .build()
        .map_err(|error| Failed::software(&error.into()))?;
    let outcome = runtime.block_on(serve(role, config)).map_err(|error| Failed::software(&error));
    // What is left are connections to peers that have their answers.
    runtime.shutdown_background();
    outcome
}

/// Builds every role on free ports and a store that is thrown away, because a metric is known once its part is built.
fn telemetry_page() -> Result<(), Failed> {
    let runtime =
        Builder::new_current_thread().enable_all().build().map_err(|error| Failed::software(&error.into()))?;
    let text = runtime.block_on(describe::telemetry()).map_err(|error| Failed::software(&error))?;
    cli::print(&text)
}

async fn serve(role: Role, config: Config) -> anyhow::Result<()> {
    let drain = Drain::new(config.shutdown_grace);
    let signals = tokio::spawn(drain::signals(drain.clone()));
    let central = Central::build(config, role, drain).await?;
    central.run().await?;
    signals.abort();
    Ok(())
}
