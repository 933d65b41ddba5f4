//! `cargo xtask ci`: everything that must hold before a change is taken, the cheap first; the first
//! failure ends it.

use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::workspace::{cargo, succeed};
use crate::{chart, codegen, docs, test, tidy};

/// Run every check and then all tests; stop at the first failure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave the tests out.
    #[arg(long)]
    no_test: bool,
}

type Check = (&'static str, fn() -> Result<()>);

/// Cheap first.
const CHECKS: [Check; 7] = [
    ("fmt", || succeed(&mut cargo(["fmt", "--all", "--check"]))),
    ("tidy", || tidy::run(&tidy::Options::default())),
    ("clippy", || succeed(&mut cargo(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))),
    ("doc", || {
        let mut doc = cargo(["doc", "--workspace", "--no-deps", "--document-private-items"]);
        succeed(doc.env("RUSTDOCFLAGS", "-D warnings"))
    }),
    ("codegen --check", || codegen::run(&codegen::Options { check: true })),
    ("docs --check", || docs::run(&docs::Options { check: true })),
    ("chart --check --readme", chart::check_readme),
];

pub(crate) fn run(options: &Options) -> Result<()> {
    for (name, check) in CHECKS {
        eprintln!("ci: {name}");
        let started = Instant::now();
        check().with_context(|| format!("ci: {name}"))?;
        eprintln!("ci: {name} holds ({:.0} s)", started.elapsed().as_secs_f64());
    }
    if options.no_test {
        return Ok(());
    }
    eprintln!("ci: test");
    test::run(&test::Options::default())
}
