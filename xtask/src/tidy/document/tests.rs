//! Small pages and checkouts in memory.

use super::*;

fn files(all: &[(&str, &str)]) -> Vec<File> {
    all.iter().map(|(path, text)| File::of(path, text)).collect()
}

fn messages(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(|found| format!("{}:{} {}", found.path, found.line, found.message)).collect()
}

#[test]
fn the_map_names_every_folder_and_crate_and_no_other() {
    let root = tempfile::tempdir().unwrap();
    for folder in ["agent", "crates/ring", "docs"] {
        std::fs::create_dir_all(root.path().join(folder)).unwrap();
    }
    let page =
        "# A\n## Code map\n```\nagent/    the agent\ncrates/   shared\n  ring/   placement\n  gone/   nothing\n```\n";
    let files = files(&[
        ("ARCHITECTURE.md", page),
        ("agent/Cargo.toml", ""),
        ("crates/ring/Cargo.toml", ""),
        ("docs/x.md", ""),
        (".ci/run", ""),
        ("Cargo.toml", ""),
    ]);
    let found = messages(&architecture(root.path(), &files));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("ARCHITECTURE.md:7 crates/gone/ does not exist"), "{found:?}");
    assert!(found[1].contains("docs/ is missing in the map"), "{found:?}");
}

#[test]
fn a_page_without_a_map_is_found() {
    let root = tempfile::tempdir().unwrap();
    assert!(messages(&architecture(root.path(), &[]))[0].contains("write one"));
    let found = architecture(root.path(), &files(&[("ARCHITECTURE.md", "# A\n```\nagent/\n```\n")]));
    assert!(messages(&found)[0].contains("no map"));
}

#[test]
fn every_decision_is_listed() {
    let files =
        files(&[("docs/adr/README.md", "- [0001](0001-a.md)"), ("docs/adr/0001-a.md", ""), ("docs/adr/0002-b.md", "")]);
    let found = messages(&decisions(&files));
    assert_eq!(found, ["docs/adr/README.md:1 0002-b.md is not listed: add a line that links to it"]);
}

#[test]
fn a_key_or_metric_without_a_meaning_is_found() {
    let page = "| key | meaning |\n|---|---|\n| `a` | it is |\n| `b` | |\n";
    let found = messages(&meanings("docs/config.md", &files(&[("docs/config.md", page)])));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("docs/config.md:4 `b` has no meaning"), "{found:?}");
    assert!(messages(&meanings("docs/config.md", &[]))[0].contains("run `cargo xtask docs`"));
}

#[test]
fn a_metric_whose_labels_nobody_has_declared_is_found() {
    let page = "| metric | kind | labels | meaning |\n|---|---|---|---|\n| `a_total` | counter |  | A. |\n| `b_total` | counter | ? | B. |\n";
    let found = messages(&meanings("docs/telemetry.md", &files(&[("docs/telemetry.md", page)])));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("docs/telemetry.md:4 the labels of `b_total` are not declared"), "{found:?}");
}

#[test]
fn a_metric_in_the_code_stands_in_the_page() {
    let code = "a(\"mirador_spans_received\");\nb(\"mirador_spans_lost\");\nc(\"mirador_otlp=debug\");\n#[cfg(test)]\nmod tests {\n\"mirador_only_tested\"\n}\n";
    let files = files(&[("docs/telemetry.md", "| `mirador_spans_received_total` |"), ("agent/src/x.rs", code)]);
    let found = messages(&metrics(&files));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("agent/src/x.rs:2 mirador_spans_lost"), "{found:?}");
}
