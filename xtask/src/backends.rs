//! `cargo xtask backends`: installs, starts and stops what Mirador stores into.
//!
//! Installing is the same code that the tests call, so what is installed here is what they find. Started
//! backends belong to a process in the background (or to this one, with `--foreground`): it dies, they
//! die.

pub(crate) mod hold;

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use mirador_support::backends::cache::Cache;
use mirador_support::backends::catalog::{Group, PROGRAMS, Program};
use mirador_support::backends::install::{self, Step};

/// Install, start and stop the backends that the tests and `up --backends real` use.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build what is missing into the cache; a second run only looks.
    ///
    /// The cache is `MIRADOR_CACHE`, else `mirador` in `XDG_CACHE_HOME` or ~/.cache. Versions are pinned by
    /// the modules under tests/backends; needs Go, Maven with JDK 17, and Python 3 with venv.
    Install {
        /// Only these (see `status`); default: all that the tests need.
        names: Vec<String>,
        /// Also what the bench compares us with: two builds of the OpenTelemetry Collector.
        #[arg(long)]
        peers: bool,
    },
    /// Start backends on loopback with data that is kept, and return when they answer.
    Start(hold::Options),
    /// Stop what `start` has started; the data stays.
    Stop,
    /// Say what is installed and what runs.
    Status,
    /// Print where an installed backend is; fails when it is not installed.
    Path {
        /// Its name (see `status`).
        name: String,
    },
}

pub(crate) fn run(options: &Options) -> Result<()> {
    match &options.verb {
        Verb::Install { names, peers } => {
            let programs = selected(names, *peers)?;
            install_all(&programs)
        }
        Verb::Start(options) => hold::start(options),
        Verb::Stop => hold::stop(),
        Verb::Status => status(),
        Verb::Path { name } => {
            let program = Program::find(name)?;
            let folder = install::installed(&Cache::locate()?, &program)?;
            let folder = folder
                .ok_or_else(|| anyhow::anyhow!("{name} is not installed: run `cargo xtask backends install {name}`"))?;
            println!("{}", install::program_path(&program, &folder).display());
            Ok(())
        }
    }
}

/// The programs called `names`, or all of the tests' when there are none.
fn selected(names: &[String], peers: bool) -> Result<Vec<Program>> {
    let mut programs: Vec<_> = names.iter().map(|name| Program::find(name)).collect::<Result<_>>()?;
    if names.is_empty() {
        programs.extend(Program::of(Group::Tests));
    }
    if peers {
        programs.extend(Program::of(Group::Peers));
    }
    programs.dedup();
    Ok(programs)
}

/// Makes sure that all of `programs` are installed, with a line for each that is built.
pub(crate) fn install_all(programs: &[Program]) -> Result<()> {
    let cache = Cache::locate()?;
    for program in programs {
        if install::installed(&cache, program)?.is_some() {
            continue;
        }
        let progress = Progress::new(program);
        let result = install::install(&cache, program, &mut |_, step| progress.step(step));
        progress.bar.finish_and_clear();
        result?;
    }
    let names: Vec<_> = programs.iter().map(|program| program.name).collect();
    eprintln!("backends: {} installed in {}", names.join(", "), cache.root().display());
    Ok(())
}

/// What is shown while one program is built: a moving line on a terminal, plain lines elsewhere.
struct Progress {
    bar: ProgressBar,
    name: &'static str,
    said: std::cell::Cell<Duration>,
}

impl Progress {
    fn new(program: &Program) -> Self {
        eprintln!("backends: {}: {}", program.name, program.about);
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg}") {
            bar.set_style(style);
        }
        Self { bar, name: program.name, said: std::cell::Cell::new(Duration::ZERO) }
    }

    fn step(&self, step: Step) {
        match step {
            Step::Waiting => eprintln!("backends: {} is being built by another process, waiting", self.name),
            Step::Building(elapsed) => {
                self.bar.set_message(format!("building {} {:.0} s", self.name, elapsed.as_secs_f64()));
                self.bar.tick();
                if self.bar.is_hidden() && elapsed >= self.said.get() + Duration::from_secs(15) {
                    self.said.set(elapsed);
                    eprintln!("backends: building {} {:.0} s", self.name, elapsed.as_secs_f64());
                }
            }
            Step::Built(elapsed) => {
                self.bar.finish_and_clear();
                eprintln!("backends: built {} in {:.0} s", self.name, elapsed.as_secs_f64());
            }
        }
    }
}

fn status() -> Result<()> {
    let cache = Cache::locate()?;
    println!("cache: {}", cache.root().display());
    for program in PROGRAMS.iter().filter(|program| program.folder().is_dir()) {
        let state = if install::installed(&cache, program)?.is_some() { "installed" } else { "not installed" };
        println!("  {:<22} {state:<14} {}", program.name, program.about);
    }
    match hold::running()? {
        Some(state) => {
            println!("running:");
            for (name, address) in state.addresses {
                println!("  {name:<22} {address}");
            }
        }
        None => println!("running: nothing (start with `cargo xtask backends start`)"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_names_means_the_tests_programs_and_peers_are_asked_for() {
        let group = |programs: &[Program]| programs.iter().any(|program| program.group == Group::Peers);
        let tests = selected(&[], false).unwrap();
        assert!(!group(&tests) && tests.iter().any(|program| program.name == "cassandra"));
        assert!(group(&selected(&[], true).unwrap()));
        let one = selected(&["jaeger".into()], false).unwrap();
        assert_eq!(one.len(), 1);
        assert!(selected(&["nothing".into()], false).is_err());
    }
}
