//! `cargo xtask tidy`: what no compiler checks and every reader relies on.
//!
//! Rules of size, shape, names and words on the files ([`source`]), of who may depend on whom on what
//! cargo says, and of documents on what exists, links and tests that they name included. Never: changes a file, guesses; each finding names a line,
//! a rule and what would be right.

mod dependency;
mod document;
mod function;
mod name;
mod reference;
mod shape;
mod source;
mod word;

use std::fmt;
use std::path::Path;

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
    let findings = all(&root, &files, &workspace::metadata()?);
    for finding in findings.iter().filter(|finding| options.advice || !finding.advice) {
        println!("{finding}");
    }
    let faults = findings.iter().filter(|finding| !finding.advice).count();
    ensure!(faults == 0, "tidy: {faults} findings in {} files", files.len());
    println!("tidy: {} files are in order", files.len());
    Ok(())
}

/// Everything that is found in `files` below `root`, of which cargo says `metadata`, in order of place.
fn all(root: &Path, files: &[File], metadata: &serde_json::Value) -> Vec<Finding> {
    let mut findings: Vec<_> = files.iter().flat_map(of_file).collect();
    findings.extend(dependency::check(metadata));
    findings.extend(document::check(root, files));
    findings.extend(reference::check(root, files));
    findings.sort_by(|a, b| (&a.path, a.line, a.rule).cmp(&(&b.path, b.line, b.rule)));
    findings
}

fn of_file(file: &File) -> Vec<Finding> {
    let mut findings = word::check(file);
    findings.extend(name::check(file));
    if file.is_rust() {
        findings.extend(shape::check(file));
        findings.extend(function::check(file));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So that `cargo xtask test` alone finds what breaks a rule.
    #[test]
    fn this_checkout_is_in_order() {
        let root = workspace::root();
        let findings = all(&root, &source::files(&root).unwrap(), &workspace::metadata().unwrap());
        let faults: Vec<_> = findings.iter().filter(|finding| !finding.advice).map(ToString::to_string).collect();
        assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    }

    /// One checkout that breaks every rule once: a rule that is no longer asked is missed here.
    #[test]
    fn every_rule_is_asked() {
        let long = format!("//! X.\nfn a() {{\n{}}}\n", "    x();\n".repeat(81));
        let broken = [
            (
                "ARCHITECTURE.md",
                "# Map\n```\nagent/ it\ngone/ it\n```\n# Invariants\n| 1 | a | b |\n[a](gone.md) `gone.rs`\n",
            ),
            ("agent/src/headless.rs", "use x;\n"),
            ("agent/src/mod.rs", "//! X.\n"),
            ("agent/src/large.rs", &format!("//! X.\n{}", "x();\n".repeat(601))),
            ("agent/src/long.rs", &long),
            ("agent/src/clock.rs", "//! Never: reads a clock.\nlet now = Instant::now();\n"),
            ("agent/src/prelude.rs", "//! X.\npub use x::*;\n"),
            ("agent/src/bold.rs", "//! X.\nunsafe { x() }\n"),
            ("agent/src/utils.rs", "//! X.\n"),
            ("agent/src/words.rs", concat!("//! X.\n// /ho", "me/x crates", ".io TO", "DO\n")),
            ("agent/src/metric.rs", "//! X.\nlet name = \"mirador_not_there\";\n"),
            ("docs/telemetry.md", "| `a` |  |\n"),
            ("docs/adr/0001-a.md", ""),
        ]
        .map(|(path, text)| File::of(path, text));
        let metadata = serde_json::json!({"workspace_root": "/", "packages": [{"name": "mirador-new", "manifest_path": "/new/Cargo.toml"}]});
        let root = tempfile::tempdir().unwrap();
        let mut rules: Vec<_> = all(root.path(), &broken, &metadata).into_iter().map(|found| found.rule).collect();
        rules.sort_unstable();
        rules.dedup();
        let every = [
            "adr-list",
            "clock",
            "dependency",
            "documented",
            "function",
            "header",
            "invariant",
            "link",
            "machine-path",
            "map",
            "mod-rs",
            "name",
            "prelude",
            "reference",
            "registry-host",
            "size",
            "unfinished",
            "unsafe",
        ];
        assert_eq!(rules, every);
    }
}
