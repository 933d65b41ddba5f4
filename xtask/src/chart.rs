//! `cargo xtask chart`: what of the chart is made from its other parts: README.md from the comments in values.yaml,
//! and the committed renderings under tests/golden/chart from the example values.
//!
//! Never: changes values or templates. The renderings need helm, which is installed with the tests' control plane.

mod readme;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use mirador_support::backends::catalog::Program;
use mirador_support::backends::install;
use mirador_support::chart;

use crate::backends;
use crate::workspace::{first_difference, shown};

/// Write the chart's README.md and the committed renderings, or check that what is committed is current.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Write nothing; fail when a committed file differs.
    #[arg(long)]
    check: bool,
    /// Only README.md, which needs no helm.
    #[arg(long)]
    readme: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut pages = vec![(chart::folder().join("README.md"), readme::page(&chart::folder())?)];
    if !options.readme {
        pages.extend(renderings()?);
    }
    for (path, want) in &pages {
        if options.check {
            compare(path, want)?;
        } else {
            fs::create_dir_all(path.parent().context("a file has a folder")?)?;
            fs::write(path, want).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    println!("chart: {} files are {}", pages.len(), if options.check { "current" } else { "written" });
    Ok(())
}

/// That README.md says what values.yaml says; cheap enough for every change.
pub(crate) fn check_readme() -> Result<()> {
    run(&Options { check: true, readme: true })
}

fn compare(path: &Path, want: &str) -> Result<()> {
    let have = fs::read_to_string(path).unwrap_or_default();
    if let Some((line, have, want)) = first_difference(&have, want) {
        bail!(
            "{}:{line} is not what the chart makes; run `cargo xtask chart`\n  committed: {have}\n  current:   {want}",
            path.strip_prefix(chart::root()).unwrap_or(path).display()
        );
    }
    Ok(())
}

/// What is kept of helm's rendering of every case.
fn renderings() -> Result<Vec<(PathBuf, String)>> {
    let program = Program::find("kubernetes")?;
    backends::install_all(&[program])?;
    let helm = install::ensure(program.name)?.join("helm");
    let default = render(&helm, None)?;
    let mut pages = Vec::new();
    for (name, values) in chart::cases()? {
        let text = render(&helm, values.as_deref())?;
        pages.push((chart::golden(&name), chart::kept(values.is_some().then_some(&default), &text)));
    }
    Ok(pages)
}

fn render(helm: &Path, values: Option<&Path>) -> Result<String> {
    let mut command = Command::new(helm);
    command.args(chart::template_arguments(values));
    let output = command.output().context("cannot run helm")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{}`: {error}", shown(&command));
    Ok(String::from_utf8(output.stdout)?)
}
