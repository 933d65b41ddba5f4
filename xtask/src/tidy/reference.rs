//! What documents point at exists: links from one page to another, files named in backticks, tests named
//! as holding something, and a test in every row of the table of invariants.
//!
//! Never: follows a link out of the checkout, reads a heading behind a `#`.

use std::path::Path;

use super::Finding;
use super::source::File;

/// The pages whose backticks are held against the tree; others name files of other machines and programs.
const MAPS: [&str; 3] = ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"];

/// What cannot be held by a test of ours and is held by this program itself.
const TIDY: &str = "`cargo xtask tidy`";

pub(super) fn check(root: &Path, files: &[File]) -> Vec<Finding> {
    let pages = files.iter().filter(|file| file.ends_with(&["md"]));
    let mut findings: Vec<_> = pages.flat_map(|page| links(root, page)).collect();
    for page in files.iter().filter(|file| MAPS.contains(&file.path.as_str())) {
        findings.extend(named(root, page, files));
        findings.extend(invariants(page, files));
    }
    findings
}

/// Every relative link leads to a file or a folder.
fn links(root: &Path, page: &File) -> Vec<Finding> {
    let folder = page.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut findings = Vec::new();
    for (number, line) in plain_lines(page) {
        for target in line.split("](").skip(1).filter_map(|after| after.split([')', '#', ' ']).next()) {
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            if !root.join(folder).join(target).exists() {
                let message = format!("the link to {target} leads nowhere: name what is there");
                findings.push(Finding::new(&page.path, number, "link", message));
            }
        }
    }
    findings
}

/// Files that a page names by path or by name alone, and tests whose name it begins and leaves open
/// with `…`.
fn named(root: &Path, page: &File, files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in plain_lines(page) {
        for quoted in quotes(line) {
            let missing = if let Some(start) = quoted.strip_suffix('…') {
                is_test(start.trim_end_matches('_')) && !has_function(files, start, "")
            } else {
                is_source(quoted) && !is_there(root, quoted, files)
            };
            if missing {
                let message = format!("{quoted} does not exist: name what is there");
                findings.push(Finding::new(&page.path, number, "reference", message));
            }
        }
    }
    findings
}

/// Every row of a table below a heading with the word "invariant" names a test that exists, or says that
/// this program holds it; what else it names in backticks exists too.
fn invariants(page: &File, files: &[File]) -> Vec<Finding> {
    let mut inside = false;
    let mut findings = Vec::new();
    for (number, line) in plain_lines(page) {
        if line.starts_with('#') {
            inside = line.to_lowercase().contains("invariant");
        }
        let cells: Vec<_> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let is_row = inside && line.starts_with('|') && cells[0].parse::<usize>().is_ok();
        if !is_row {
            continue;
        }
        let last = cells.last().copied().unwrap_or_default();
        let tests: Vec<_> = quotes(last).map(|quoted| quoted.rsplit("::").next().unwrap_or(quoted)).collect();
        let tests: Vec<_> = tests.into_iter().filter(|name| is_test(name)).collect();
        for name in tests.iter().filter(|name| !has_function(files, name, "(")) {
            let message = format!("the test {name} does not exist: name the one that holds the invariant");
            findings.push(Finding::new(&page.path, number, "invariant", message));
        }
        if tests.is_empty() && !last.contains(TIDY) {
            let message = format!("invariant {} names no test: name one that fails when it does not hold", cells[0]);
            findings.push(Finding::new(&page.path, number, "invariant", message));
        }
    }
    findings
}

/// The lines of a page outside of fenced blocks, with their numbers.
fn plain_lines(page: &File) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    page.text.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fenced && !fence).then_some((index + 1, line))
    })
}

fn quotes(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Names of tests are sentences: a word with at least two underscores.
fn is_test(name: &str) -> bool {
    name.matches('_').count() >= 2 && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn has_function(files: &[File], name: &str, after: &str) -> bool {
    let declared = format!("fn {name}{after}");
    files.iter().any(|file| file.is_rust() && file.text.contains(&declared))
}

/// Whether a text in backticks is a path of the tree or the name of a Rust file, and not a pattern or a URL's path.
fn is_source(quoted: &str) -> bool {
    let path = quoted.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    let names_file = [".rs", ".md", ".toml", ".proto"].iter().any(|ending| quoted.ends_with(ending));
    path && !quoted.starts_with('/') && (names_file || quoted.contains('/'))
}

/// A path from the top or from the folder of the page's subject, or the last part of one.
fn is_there(root: &Path, quoted: &str, files: &[File]) -> bool {
    let ending = format!("/{quoted}");
    root.join(quoted).exists() || files.iter().any(|file| file.path.ends_with(&ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(findings: &[Finding]) -> Vec<String> {
        findings.iter().map(|found| format!("{}:{} {}", found.path, found.line, found.message)).collect()
    }

    #[test]
    fn a_link_that_leads_nowhere_is_found_in_any_page() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("docs/adr")).unwrap();
        std::fs::write(root.path().join("docs/config.md"), "").unwrap();
        let page = "[a](../config.md) [b](../config.md#keys) [c](#here) [d](https://a.b/c)\n[e](gone.md)\n```\n[f](gone.md)\n```\n";
        let found = messages(&check(root.path(), &[File::of("docs/adr/0001-a.md", page)]));
        assert_eq!(found, ["docs/adr/0001-a.md:2 the link to gone.md leads nowhere: name what is there"]);
    }

    #[test]
    fn a_file_or_a_test_that_a_map_names_exists() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("crates/otlp")).unwrap();
        let page = "`crates/otlp`, `a/b.rs`, `b.rs`, `crates/*`, `/api/v1/x`, `one_two_…`, `MAX_OF_ALL`\n\
            `crates/gone`\n`gone.rs`\n`gone_two_three_…`\n";
        let code = File::of("x/a/b.rs", "fn one_two_three() {}");
        let found = |path: &str| messages(&check(root.path(), &[File::of(path, page), code.clone()]));
        assert_eq!(
            found("CONTRIBUTING.md"),
            ["crates/gone", "gone.rs", "gone_two_three_…"]
                .iter()
                .zip(2..)
                .map(|(name, line)| format!("CONTRIBUTING.md:{line} {name} does not exist: name what is there"))
                .collect::<Vec<_>>()
        );
        assert_eq!(found("docs/steering.md"), [""; 0], "other pages name what is elsewhere");
    }

    #[test]
    fn every_invariant_names_a_test_that_exists() {
        let page = "# Invariants\n| | invariant | held by |\n|---|---|---|\n| 1 | fine | `ring::one_two_three`, `crates/*` |\n\
            | 2 | gone | `gone_one_two`, `one_two_three` |\n| 3 | a folder is no test | `ring` |\n\
            | 4 | ours | `cargo xtask tidy` |\n# Else\n| 5 | no row of ours | `x` |\n";
        let root = tempfile::tempdir().unwrap();
        let files = [
            File::of("ARCHITECTURE.md", page),
            File::of("crates/ring/src/tests.rs", "fn one_two_three() {}\nfn gone_one_two_more() {}"),
        ];
        let found = messages(&check(root.path(), &files));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("ARCHITECTURE.md:5 the test gone_one_two does not exist"), "{found:?}");
        assert!(found[1].starts_with("ARCHITECTURE.md:6 invariant 3 names no test"), "{found:?}");
    }
}
