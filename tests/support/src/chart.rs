//! The Helm chart of the checkout: its folder, its example values, and what is kept of a rendering.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// The namespace for which renderings are kept.
pub const NAMESPACE: &str = "miradorstack";
/// The release for which renderings are kept.
pub const RELEASE: &str = "mirador";
/// The case without any values, which the renderings of all others are compared with.
pub const DEFAULT: &str = "default";

/// The checkout's top folder.
pub fn root() -> PathBuf {
    let support = Path::new(env!("CARGO_MANIFEST_DIR"));
    support.ancestors().nth(2).map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// The chart's folder.
pub fn folder() -> PathBuf {
    root().join("charts").join("mirador")
}

/// Where the rendering of a case is kept.
pub fn golden(case: &str) -> PathBuf {
    root().join("tests").join("golden").join("chart").join(format!("{case}.yaml"))
}

/// The example values by name, [`DEFAULT`] (no file) among them.
pub fn cases() -> Result<BTreeMap<String, Option<PathBuf>>> {
    let mut cases = BTreeMap::from([(DEFAULT.to_owned(), None)]);
    for entry in std::fs::read_dir(folder().join("ci"))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let name = name.strip_suffix("-values.yaml").with_context(|| format!("{name}: name it NAME-values.yaml"))?;
        cases.insert(name.to_owned(), Some(path));
    }
    ensure!(cases.len() > 5, "only {} cases: is the checkout whole?", cases.len());
    Ok(cases)
}

/// The arguments with which helm renders the chart.
pub fn template_arguments(values: Option<&Path>) -> Vec<String> {
    let folder = folder().display().to_string();
    let mut arguments: Vec<String> = ["template", RELEASE, &folder, "--namespace", NAMESPACE].map(str::to_owned).into();
    arguments.extend(values.into_iter().flat_map(|path| ["--values".to_owned(), path.display().to_string()]));
    arguments
}

/// What is kept of a rendering: the objects that differ from those of the default, and the names of those that are
/// gone. Dashboards are kept without their content, which is committed as it is.
pub fn kept(default: Option<&str>, rendered: &str) -> String {
    let default: Vec<&str> = default.map(documents).unwrap_or_default();
    let known: HashSet<&str> = default.iter().copied().collect();
    let documents = documents(rendered);
    let names: HashSet<String> = documents.iter().map(|document| name(document)).collect();
    let mut text = String::new();
    for gone in default.iter().map(|document| name(document)).filter(|name| !names.contains(name)) {
        text.extend(["# gone: ", &gone, "\n"]);
    }
    for document in documents.into_iter().filter(|document| !known.contains(document)) {
        let board = name(document).contains("-dashboard-");
        let end = document.find("\ndata:\n").filter(|_| board).map_or(document.len(), |at| at + "\ndata:\n".len());
        text.extend(["---\n", document[..end].trim_end(), "\n"]);
    }
    text
}

/// The documents of a rendering, without the lines that divide them.
fn documents(text: &str) -> Vec<&str> {
    text.split("---\n# Source: ")
        .map(|part| part.split_once('\n').map_or(part, |(_, rest)| rest).trim_end())
        .filter(|part| !part.is_empty())
        .collect()
}

/// Kind and name of a document, as they stand in it.
fn name(document: &str) -> String {
    let value = |key: &str| document.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim();
    format!("{} {}", value("kind:"), value("  name:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(parts: &[&str]) -> String {
        parts.iter().fold(String::new(), |text, part| text + "---\n# Source: x.yaml\n" + part + "\n")
    }

    #[test]
    fn only_what_differs_from_the_default_is_kept_and_what_is_gone_is_named() {
        let a = "kind: A\nmetadata:\n  name: one";
        let b = "kind: B\nmetadata:\n  name: two";
        let changed = "kind: B\nmetadata:\n  name: two\nspec: 1";
        let default = rendered(&[a, b]);
        assert_eq!(kept(None, &default), format!("---\n{a}\n---\n{b}\n"));
        assert_eq!(kept(Some(&default), &rendered(&[changed])), format!("# gone: A one\n---\n{changed}\n"));
        assert_eq!(kept(Some(&default), &default), "");
    }

    #[test]
    fn dashboards_are_kept_without_their_content() {
        let board = "kind: ConfigMap\nmetadata:\n  name: m-dashboard-red\ndata:\n  red.json: |-\n    {}";
        assert!(kept(None, &rendered(&[board])).ends_with("name: m-dashboard-red\ndata:\n"));
    }

    #[test]
    fn the_charts_cases_are_found() {
        let cases = cases().unwrap();
        assert!(cases[DEFAULT].is_none() && cases["steering"].as_ref().unwrap().is_file());
        assert!(golden(DEFAULT).ends_with("tests/golden/chart/default.yaml"));
        assert_eq!(template_arguments(Some(Path::new("v")))[5..], ["--values", "v"]);
    }
}
