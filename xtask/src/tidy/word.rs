//! Words that must not stand in what is committed: paths of somebody's machine, hosts of package
//! registries, marks of unfinished work.

use super::Finding;
use super::source::File;

/// Folders that exist on one machine and not on the reader's. The quotes are split so that this file
/// keeps its own rule.
const MACHINE: [&str; 5] =
    [concat!("/wo", "rk"), concat!("/ro", "ot"), concat!("/fa", "rm"), concat!("/ho", "me"), concat!("/Us", "ers")];

/// Package registries: a client's settings name them, a file of ours does not.
const REGISTRY: [&str; 10] = [
    concat!("crates", ".io"),
    concat!("proxy.golang", ".org"),
    concat!("sum.golang", ".org"),
    concat!("repo.maven.apache", ".org"),
    concat!("repo1.maven", ".org"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("registry.npmjs", ".org"),
    concat!("registry.yarnpkg", ".com"),
    concat!("deb.debian", ".org"),
];

/// Marks of unfinished work.
const UNFINISHED: [&str; 4] =
    [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("to", "do!("), concat!("unimpl", "emented!(")];

/// Files whose format prescribes where packages come from.
const LOCKS: [&str; 4] = ["Cargo.lock", "go.sum", "go.mod", "package-lock.json"];

/// Folders of a container or a pod that look like those of a machine: path of the file, text of the line.
const ALLOWED: [(&str, &str); 0] = [];

pub(super) fn check(file: &File) -> Vec<Finding> {
    let name = file.path.rsplit('/').next().unwrap_or_default();
    // A licence and a lock file are others' words.
    if LOCKS.contains(&name) || name == "LICENSE" {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        let mut found = |rule, message| findings.push(Finding::new(&file.path, number + 1, rule, message));
        for path in MACHINE.iter().filter(|path| names_folder(line, path)) {
            if !ALLOWED.iter().any(|(of, text)| *of == file.path && line.contains(text)) {
                found(
                    "machine-path",
                    format!(
                        "{path} is a folder of one machine: take it from the environment or from where the file lies"
                    ),
                );
            }
        }
        for host in REGISTRY.iter().filter(|host| line.contains(**host)) {
            found("registry-host", format!("{host} belongs into the user's settings: name the package and its client"));
        }
        for mark in UNFINISHED.iter().filter(|mark| line.contains(**mark)) {
            let mark = mark.trim_end_matches('(');
            found("unfinished", format!("{mark}: finish it, or open an issue and say here what is true today"));
        }
    }
    findings
}

/// Whether `line` has the folder `path` itself or something in it, and not as the end of a longer path.
fn names_folder(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + path.len()..].chars().next();
        let joined = before.is_some_and(|c| c.is_alphanumeric() || "_.-})]>*/~".contains(c));
        !joined && after == Some('/')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<&'static str> {
        check(&File::of(path, text)).into_iter().map(|found| found.rule).collect()
    }

    #[test]
    fn folders_of_a_machine_are_found_and_parts_of_longer_paths_are_not() {
        for folder in MACHINE {
            for found in [format!("see {folder}/me/x"), format!("\"{folder}/x\""), format!("={folder}/.cache")] {
                assert_eq!(rules("README.md", &found), ["machine-path"], "{found}");
            }
        }
        for fine in
            [format!("$X{}/y", MACHINE[0]), format!("http://host{}/", MACHINE[3]), format!("{}shop/", MACHINE[0])]
        {
            assert_eq!(rules("README.md", &fine), [""; 0], "{fine}");
        }
    }

    #[test]
    fn registry_hosts_are_found_outside_lock_files() {
        for host in REGISTRY {
            assert_eq!(rules("docs/x.md", &format!("source = \"https://{host}/\"")), ["registry-host"], "{host}");
        }
        let line = format!("source = \"https://{}\"", REGISTRY[0]);
        assert_eq!(rules("Cargo.lock", &line), [""; 0]);
        assert_eq!(rules("tests/backends/jaeger/go.sum", &line), [""; 0]);
    }

    #[test]
    fn marks_of_unfinished_work_are_found() {
        for mark in UNFINISHED {
            assert_eq!(rules("agent/src/x.rs", &format!("// {mark}")), ["unfinished"], "{mark}");
        }
    }
}
