//! `cargo xtask tidy`: what no compiler checks and every reader relies on.
//!
//! Rules of size, shape, names and words on the files ([`source`]), of who may depend on whom on what
//! cargo says, and of documents on what exists. Never: changes a file, guesses; each finding names a line,
//! a rule and what would be right.

mod dependency;
mod document;
mod name;
mod shape;
mod source;
mod word;

use std::fmt;

use anyhow::{Result, ensure};

use crate::workspace;
use source::File;

/// Check size, shape, names, words, dependencies and documents; say what would be right.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Also show what is allowed but worth a look (files over 400 lines, long inline tests).
    #[arg(long)]
    advice: bool,
}

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    path: String,
    line: usize,
    rule: &'static str,
    message: String,
    /// Worth a look, no failure.
    advice: bool,
}

impl Finding {
    fn new(path: &str, line: usize, rule: &'static str, message: impl Into<String>) -> Self {
        Self { path: path.into(), line, rule, message: message.into(), advice: false }
    }

    fn advice(self) -> Self {
        Self { advice: true, ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.advice { "advice: " } else { "" };
        write!(f, "{}:{}: {kind}[{}] {}", self.path, self.line, self.rule, self.message)
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let root = workspace::root();
    let files = source::files(&root)?;
    let mut findings: Vec<_> = files.iter().flat_map(of_file).collect();
    findings.extend(dependency::check(&workspace::metadata()?));
    findings.extend(document::check(&root, &files));
    findings.sort_by(|a, b| (&a.path, a.line, a.rule).cmp(&(&b.path, b.line, b.rule)));
    for finding in findings.iter().filter(|finding| options.advice || !finding.advice) {
        println!("{finding}");
    }
    let faults = findings.iter().filter(|finding| !finding.advice).count();
    ensure!(faults == 0, "tidy: {faults} findings in {} files", files.len());
    println!("tidy: {} files are in order", files.len());
    Ok(())
}

fn of_file(file: &File) -> Vec<Finding> {
    let mut findings = word::check(file);
    findings.extend(name::check(file));
    if file.is_rust() {
        findings.extend(shape::check(file));
    }
    findings
}
