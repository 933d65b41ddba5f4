//! Names that say nothing: a module, folder or crate called after its contents' lack of one.

use super::Finding;
use super::source::File;

/// Forbidden for modules, folders and crates; the part that it would be called for has a better name.
const EMPTY: [&str; 8] = ["common", "util", "utils", "helper", "helpers", "misc", "manager", "types"];

pub(super) fn check(file: &File) -> Vec<Finding> {
    if !file.is_rust() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let parts = file.path.trim_end_matches(".rs").split('/');
    for part in parts.filter(|part| is_empty_name(part)) {
        findings.push(finding(file, 1, part));
    }
    for (number, line) in file.text.lines().enumerate() {
        if let Some(name) = declared_module(line).filter(|name| is_empty_name(name)) {
            findings.push(finding(file, number + 1, name));
        }
    }
    findings
}

fn finding(file: &File, line: usize, name: &str) -> Finding {
    let message = format!("`{name}` says nothing: name it after what it does (a noun, in the singular)");
    Finding::new(&file.path, line, "name", message)
}

/// Whether `name`, or its last word behind a `-` or `_`, is an empty one.
pub(super) fn is_empty_name(name: &str) -> bool {
    name.rsplit(['-', '_']).next().is_some_and(|last| EMPTY.contains(&last))
}

fn declared_module(line: &str) -> Option<&str> {
    let words: Vec<_> = line.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "mod")?;
    let visible = words[..at].iter().all(|word| word.starts_with("pub"));
    visible.then_some(words.get(at + 1)?.trim_end_matches([';', '{']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &str, text: &str) -> Vec<usize> {
        check(&File::of(path, text)).into_iter().map(|found| found.line).collect()
    }

    #[test]
    fn empty_names_of_files_folders_and_modules_are_found() {
        assert_eq!(names("agent/src/utils.rs", ""), [1]);
        assert_eq!(names("agent/src/helpers/x.rs", ""), [1]);
        assert_eq!(names("agent/src/x.rs", "\npub(crate) mod types;\nmod span_helper {\n"), [2, 3]);
        assert_eq!(names("agent/src/x.rs", "mod typescript;\n// mod types\nlet mod_types = 1;\n"), [0; 0]);
        assert_eq!(names("docs/types.md", ""), [0; 0]);
    }
}
