//! Who may depend on whom, as cargo's manifests say: leaves know no runtime, agent and central do not know
//! each other, some libraries stand behind one door.

use serde_json::Value;

use super::Finding;
use super::name::is_empty_name;

/// A package of the workspace and the packages of the workspace that it may use outside its tests.
const ALLOWED: [(&str, &[&str]); 12] = [
    ("mirador-proto", &[]),
    ("mirador-ebpf-shared", &[]),
    ("mirador-otlp", &[]),
    ("mirador-ring", &[]),
    ("mirador-service", &[]),
    ("mirador-sketch", &["mirador-otlp", "mirador-proto", "mirador-service"]),
    ("mirador-transport", &["mirador-otlp", "mirador-proto", "mirador-ring", "mirador-service"]),
    ("mirador-agent", CRATES),
    ("mirador-central", CRATES),
    ("mirador-support", ANY),
    ("mirador-tests", ANY),
    ("xtask", ANY),
];

const CRATES: &[&str] =
    &["mirador-otlp", "mirador-proto", "mirador-ring", "mirador-service", "mirador-sketch", "mirador-transport"];
const ANY: &[&str] = &["*"];

/// What nothing but a test may use: the other end of the direction.
const TESTS_ONLY: &str = "mirador-support";

/// A library and the packages that may use it; with everything else it stays behind their door.
const DOORS: [(&str, &[&str]); 8] = [
    ("aya", &["mirador-agent"]),
    ("aya-log", &["mirador-agent"]),
    ("kube", &["mirador-agent", "mirador-central", "mirador-transport"]),
    ("rusqlite", &["mirador-central"]),
    ("scylla", &["mirador-central"]),
    ("prost", &["mirador-proto", "mirador-sketch", "mirador-transport", "mirador-agent", "mirador-central"]),
    ("opentelemetry-proto", &["mirador-proto", "mirador-transport", "mirador-agent", "mirador-central"]),
    ("tonic", &["mirador-proto", "mirador-transport", "mirador-agent", "mirador-central"]),
];

/// What a leaf may not use: it reads bytes and numbers, and does no IO.
const NOT_IN_LEAVES: [&str; 8] = ["tokio", "hyper", "axum", "reqwest", "tracing", "socket2", "rand", "aya"];
const LEAVES: [&str; 4] = ["mirador-proto", "mirador-otlp", "mirador-ring", "mirador-sketch"];

pub(super) fn check(metadata: &Value) -> Vec<Finding> {
    let root = metadata["workspace_root"].as_str().unwrap_or_default();
    let packages: Vec<_> = metadata["packages"].as_array().into_iter().flatten().collect();
    let ours: Vec<_> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    packages.iter().flat_map(|package| of_package(package, &ours, root)).collect()
}

fn of_package(package: &Value, ours: &[&str], root: &str) -> Vec<Finding> {
    let name = package["name"].as_str().unwrap_or_default();
    let manifest = package["manifest_path"].as_str().unwrap_or_default();
    let manifest = manifest.strip_prefix(root).unwrap_or(manifest).trim_start_matches('/');
    let mut findings = Vec::new();
    let mut found = |message: String| findings.push(Finding::new(manifest, 1, "dependency", message));
    if is_empty_name(name) {
        found(format!("a crate called {name} says nothing: name it after what it does"));
    }
    // The BPF programs have a toolchain and rules of their own.
    if manifest.starts_with("ebpf/") {
        return findings;
    }
    let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| *known == name) else {
        found(format!("{name} has no line in xtask/src/tidy/dependency.rs: say there what it may depend on"));
        return findings;
    };
    let any = *allowed == ANY;
    for dependency in package["dependencies"].as_array().into_iter().flatten() {
        let (on, test) = (dependency["name"].as_str().unwrap_or_default(), dependency["kind"] == "dev");
        if any || (test && on == TESTS_ONLY) {
            continue;
        }
        if ours.contains(&on) && !on.starts_with("mirador-ebpf") && !allowed.contains(&on) {
            found(format!("{name} may not depend on {on}: what two need goes into proto or crates/ when both need it"));
        }
        if test {
            continue;
        }
        if LEAVES.contains(&name) && NOT_IN_LEAVES.contains(&on) {
            found(format!("{name} does no IO and may not depend on {on}: take what it gives as an argument"));
        }
        if let Some((_, door)) = DOORS.iter().find(|(library, door)| *library == on && !door.contains(&name)) {
            found(format!("{on} is used only by {}: ask there for what you need", door.join(", ")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A package and what it depends on, with the kind of each dependency.
    type Package<'a> = (&'a str, &'a [(&'a str, Option<&'a str>)]);

    fn messages(packages: &[Package<'_>]) -> Vec<String> {
        let package = |(name, dependencies): &Package<'_>| {
            let all: Vec<_> = dependencies.iter().map(|(on, kind)| json!({"name": on, "kind": kind})).collect();
            json!({"name": name, "manifest_path": format!("/r/{name}/Cargo.toml"), "dependencies": all})
        };
        let packages: Vec<_> = packages.iter().map(package).collect();
        let found = check(&json!({"workspace_root": "/r", "packages": packages}));
        found.into_iter().map(|found| format!("{}: {}", found.path, found.message)).collect()
    }

    #[test]
    fn agent_and_central_do_not_know_each_other() {
        let found = messages(&[("mirador-agent", &[("mirador-central", None)]), ("mirador-central", &[])]);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].starts_with("mirador-agent/Cargo.toml: mirador-agent may not depend on mirador-central"),
            "{found:?}"
        );
    }

    #[test]
    fn leaves_do_no_io_and_libraries_stay_behind_their_door() {
        assert_eq!(messages(&[("mirador-otlp", &[("tokio", None), ("bytes", None)])]).len(), 1);
        assert_eq!(messages(&[("mirador-otlp", &[("tokio", Some("dev"))])]).len(), 0);
        assert_eq!(messages(&[("mirador-central", &[("aya", None)])]).len(), 1);
        assert_eq!(messages(&[("mirador-agent", &[("aya", None)])]).len(), 0);
        assert_eq!(messages(&[("xtask", &[("mirador-support", None), ("aya", None)])]).len(), 0);
    }

    #[test]
    fn the_support_library_is_only_for_tests() {
        let support: Package<'_> = ("mirador-support", &[]);
        assert_eq!(messages(&[("mirador-central", &[("mirador-support", None)]), support]).len(), 1);
        assert_eq!(messages(&[("mirador-central", &[("mirador-support", Some("dev"))]), support]).len(), 0);
    }

    #[test]
    fn a_new_crate_needs_a_rule_and_a_name() {
        let found = messages(&[("mirador-utils", &[])]);
        assert!(found[0].contains("says nothing") && found[1].contains("no line"), "{found:?}");
    }
}
