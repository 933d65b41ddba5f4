//! `cargo xtask test`: installs what the tests need, builds everything once, runs every test and ends
//! with one line, `N passed, N failed, N skipped`.
//!
//! Invariants: that line is the last of stdout whatever happens; a test that has not run is never counted
//! as passed, and why it has not is printed; failing to compile, a failed test and no test at all are
//! failures.

mod prerequisite;
mod tally;

use std::io::{BufRead as _, BufReader, IsTerminal as _, Write as _};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use mirador_support::backends::catalog::{Group, Program};
use tally::Tally;

use crate::test_kernels::{self, Verdict};
use crate::workspace::{cargo, shown, succeed, target_folder};
use crate::{backends, build_ebpf, workspace};

/// Install what the tests need, run all of them and say how many passed, failed and were skipped.
///
/// The last line is `N passed, N failed, N skipped`. Skipped are ignored tests and those that print a
/// line `SKIPPED: reason`; each reason is printed.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Only tests whose name contains this.
    filter: Option<String>,
    /// Only the tests of this package.
    #[arg(long, short)]
    package: Option<String>,
    /// Do not install backends: tests that need one install it when they start.
    #[arg(long)]
    no_install: bool,
    /// Show what passing tests print.
    #[arg(long)]
    show_output: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut tally = Tally::default();
    let result = prepare(options).and_then(|()| run_tests(options, &mut tally));
    if options.filter.is_none() && options.package.is_none() && result.is_ok() {
        other_kernels(&mut tally);
    }
    for line in tally.notes() {
        println!("{line}");
    }
    if let Err(error) = &result {
        eprintln!("error: {error:#}");
    }
    println!("{tally}");
    std::io::stdout().flush()?;
    // The reason has been printed before the closing line, which stays the last one.
    if result.is_err() || tally.failed > 0 {
        std::process::exit(1);
    }
    Ok(())
}

fn prepare(options: &Options) -> Result<()> {
    prerequisite::check()?;
    if !options.no_install {
        let programs: Vec<_> = Program::of(Group::Tests).collect();
        backends::install_all(&programs)?;
    }
    // The agent works without the programs; the tests that need them say so and are counted as skipped.
    if let Err(error) = build_ebpf::ensure(false) {
        eprintln!("test: the agent is built without steering: {error:#}");
    }
    // With all targets, so that the programs which tests start are there and share one set of features.
    let mut build = cargo(["build", "--all-targets"]);
    succeed(scope(options, &mut build)).context("the workspace does not compile")
}

fn scope<'a>(options: &Options, command: &'a mut std::process::Command) -> &'a mut std::process::Command {
    match &options.package {
        Some(package) => command.args(["--package", package]),
        None => command.arg("--workspace"),
    }
}

/// The checks that need another kernel than this machine's; each is one test.
fn other_kernels(tally: &mut Tally) {
    let verdicts = test_kernels::check(None).unwrap_or_else(|error| vec![Verdict::Skipped(format!("{error:#}"))]);
    for verdict in verdicts {
        let (Verdict::Good(text) | Verdict::Bad(text) | Verdict::Skipped(text)) = &verdict;
        println!("steering on another kernel: {text}");
        tally.kernel(&verdict);
    }
}

fn run_tests(options: &Options, tally: &mut Tally) -> Result<()> {
    let mut test = cargo(["test", "--no-fail-fast"]);
    scope(options, &mut test);
    // Behind the dashes: before them, cargo takes a filter as a wish to leave documentation tests out.
    test.arg("--").args(options.filter.iter());
    if options.show_output {
        test.arg("--show-output");
    }
    if std::io::stdout().is_terminal() {
        test.arg("--color=always");
    }
    // Where tests find the programs, whatever the target folder is.
    test.env("MIRADOR_BIN_DIR", target_folder()?.join("debug"));
    test.env("MIRADOR_ROOT", workspace::root());
    let what = shown(&test);
    let mut child = test.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot run `{what}`"))?;
    let output = child.stdout.take().context("no output of cargo test")?;
    let mut stdout = std::io::stdout();
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        writeln!(stdout, "{line}")?;
        tally.line(&line);
    }
    let status = child.wait()?;
    if !status.success() && tally.failed == 0 {
        bail!("`{what}` ended with {status} though no test failed: a test process died, see above");
    }
    if tally.passed + tally.failed == 0 {
        let filter = options.filter.as_deref().unwrap_or_default();
        bail!("no test has run: does any name contain {filter:?}?");
    }
    Ok(())
}
