//! Documents that must agree with what exists: the map in ARCHITECTURE.md, the list of decisions, the
//! meaning of every key and metric.

use std::collections::BTreeSet;
use std::path::Path;

use super::Finding;
use super::source::File;

pub(super) fn check(root: &Path, files: &[File]) -> Vec<Finding> {
    let mut findings = architecture(root, files);
    findings.extend(decisions(files));
    findings.extend(["docs/config.md", "docs/telemetry.md"].iter().flat_map(|path| meanings(path, files)));
    findings.extend(metrics(files));
    findings
}

fn text<'a>(files: &'a [File], path: &str) -> Option<&'a str> {
    files.iter().find(|file| file.path == path).map(|file| file.text.as_str())
}

/// The first fenced block below a heading with the word "map" has a line for every top-level folder and
/// every crate, and for nothing that does not exist; entries are indented below their folder.
fn architecture(root: &Path, files: &[File]) -> Vec<Finding> {
    const PAGE: &str = "ARCHITECTURE.md";
    let Some(page) = text(files, PAGE) else {
        return vec![Finding::new(PAGE, 1, "map", "there is no ARCHITECTURE.md: write one with a map of the folders")];
    };
    let named = map(page);
    if named.is_empty() {
        let message =
            "there is no map: a fenced block below a heading with the word `map`, a folder and its meaning per line";
        return vec![Finding::new(PAGE, 1, "map", message)];
    }
    let mut findings = Vec::new();
    for (line, path) in &named {
        if !root.join(path).is_dir() {
            findings.push(Finding::new(PAGE, *line, "map", format!("{path}/ does not exist: take it out of the map")));
        }
    }
    for folder in folders(files) {
        if !named.iter().any(|(_, path)| *path == folder) {
            findings.push(Finding::new(
                PAGE,
                named[0].0,
                "map",
                format!("{folder}/ is missing in the map: add a line"),
            ));
        }
    }
    findings
}

/// The folders that a map must name: those at the top, and those of crates.
fn folders(files: &[File]) -> BTreeSet<String> {
    let mut folders = BTreeSet::new();
    for file in files.iter().filter(|file| !file.path.starts_with('.')) {
        if let Some((top, _)) = file.path.split_once('/') {
            folders.insert(top.to_owned());
        }
        if let Some(folder) = file.path.strip_suffix("/Cargo.toml") {
            folders.insert(folder.to_owned());
        }
    }
    folders
}

/// Line number and path of every entry of the map.
fn map(page: &str) -> Vec<(usize, String)> {
    let mut lines = page
        .lines()
        .enumerate()
        .skip_while(|(_, line)| !(line.starts_with('#') && line.to_lowercase().contains("map")));
    let mut entries = Vec::new();
    let mut parents: Vec<(usize, String)> = Vec::new();
    if lines.by_ref().find(|(_, line)| line.trim_start().starts_with("```")).is_none() {
        return entries;
    }
    for (number, line) in lines.take_while(|(_, line)| !line.trim_start().starts_with("```")) {
        let indent = line.len() - line.trim_start().len();
        let Some(name) = line.split_whitespace().next().and_then(|word| word.strip_suffix('/')) else { continue };
        parents.retain(|(depth, _)| *depth < indent);
        let path = parents.last().map_or_else(|| name.to_owned(), |(_, parent)| format!("{parent}/{name}"));
        entries.push((number + 1, path.clone()));
        parents.push((indent, path));
    }
    entries
}

/// Every decision stands in the list.
fn decisions(files: &[File]) -> Vec<Finding> {
    const LIST: &str = "docs/adr/README.md";
    let list = text(files, LIST).unwrap_or_default();
    let names = files.iter().filter_map(|file| file.path.strip_prefix("docs/adr/"));
    let missing = names.filter(|name| *name != "README.md" && !list.contains(*name));
    missing
        .map(|name| Finding::new(LIST, 1, "adr-list", format!("{name} is not listed: add a line that links to it")))
        .collect()
}

/// No row of a generated table has an empty last cell, which is the meaning.
fn meanings(path: &'static str, files: &[File]) -> Vec<Finding> {
    let Some(page) = text(files, path) else {
        return vec![Finding::new(path, 1, "documented", format!("there is no {path}: run `cargo xtask docs`"))];
    };
    let rows = page.lines().enumerate().filter(|(_, line)| line.starts_with('|'));
    // What `Registry::document` writes for a family of which nobody has said the labels.
    let unknown = rows.clone().filter(|(_, line)| line.contains("| ? |")).map(|(number, line)| {
        let name = line.trim_matches('|').split('|').next().unwrap_or_default().trim();
        let message = format!("the labels of {name} are not declared: say them with `Registry::declare_labels`");
        Finding::new(path, number + 1, "documented", message)
    });
    let empty = rows.clone().filter(|(_, line)| {
        let cells: Vec<_> = line.trim_end().trim_matches('|').split('|').map(str::trim).collect();
        cells.last().is_none_or(|cell| cell.is_empty())
    });
    let finding = |(number, line): (usize, &str)| {
        let name = line.trim_matches('|').split('|').next().unwrap_or_default().trim();
        let message = format!("{name} has no meaning: document it where it is defined, then run `cargo xtask docs`");
        Finding::new(path, number + 1, "documented", message)
    };
    empty.map(finding).chain(unknown).collect()
}

/// Every metric name that stands in the programs' code stands in docs/telemetry.md.
fn metrics(files: &[File]) -> Vec<Finding> {
    let Some(page) = text(files, "docs/telemetry.md") else { return Vec::new() };
    let programs = ["agent/src/", "central/src/", "crates/"];
    let code =
        files.iter().filter(|file| file.is_rust() && programs.iter().any(|folder| file.path.starts_with(folder)));
    let mut findings = Vec::new();
    for file in code {
        for (number, line) in file.prod_lines() {
            for name in line.split('"').skip(1).step_by(2).filter(|text| is_metric(text) && !page.contains(*text)) {
                let message = format!(
                    "{name} is not in docs/telemetry.md: register it where the page is made from, then run `cargo xtask docs`"
                );
                findings.push(Finding::new(&file.path, number, "documented", message));
            }
        }
    }
    findings
}

/// Whether a text in quotes is a metric of ours: a prefix and a name, with nothing else.
fn is_metric(text: &str) -> bool {
    let name = text.strip_prefix("mirador_").or_else(|| text.strip_prefix("otelcol_"));
    // A crate's name in a log filter has no second underscore.
    name.is_some_and(|name| {
        name.contains('_') && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    })
}

#[cfg(test)]
mod tests;
