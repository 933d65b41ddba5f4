//! Size and shape of a Rust file: its header, its length, no `mod.rs`, no prelude, no clock in an engine,
//! `unsafe` where the kernel is spoken to. Functions' arguments are clippy's, their length is looked at in
//! [`super::function`].

use super::Finding;
use super::source::File;

/// Prod lines over which a file fails.
const LIMIT: usize = 600;
/// Prod lines over which a reviewer asks.
const ASKED: usize = 400;
/// Lines of inline tests over which they belong into `tests.rs`.
const INLINE_TESTS: usize = 150;
/// Lines that `main.rs` may have: it names parts and does nothing.
const MAIN: usize = 80;

/// Where `unsafe` may stand.
const UNSAFE: &str = "ebpf/";

/// Crates that know no clock at all.
const CLOCKLESS: [&str; 3] = ["crates/otlp/src/", "crates/ring/src/", "crates/sketch/src/"];

pub(super) fn check(file: &File) -> Vec<Finding> {
    if file.is_generated() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let mut found = |line, rule, message: String| findings.push(Finding::new(&file.path, line, rule, message));
    if file.header().is_empty() {
        found(1, "header", "a file begins with `//!`: what it is for, what it never does, its invariants".into());
    }
    if file.path.ends_with("/mod.rs") {
        found(1, "mod-rs", "the module `foo` is foo.rs beside the folder foo/".into());
    }
    let prod = file.prod_lines().count();
    let limit = if file.path.ends_with("src/main.rs") { MAIN } else { LIMIT };
    if prod > limit {
        found(
            prod,
            "size",
            format!("{prod} lines without tests; at most {limit}: split it by what changes for one reason"),
        );
    }
    let clockless = is_clockless(file);
    for (number, line) in file.prod_lines() {
        let code = line.split("//").next().unwrap_or_default();
        if clockless && reads_clock(code) {
            found(number, "clock", "this engine reads no clock: take the time as an argument".into());
        }
        if code.trim_start().starts_with("pub use ") && code.contains("::*") {
            found(number, "prelude", "name what is exported: `pub use a::{B, C}`".into());
        }
        if (lifts_unsafe(code) || has_unsafe(code)) && !file.path.starts_with(UNSAFE) {
            found(number, "unsafe", format!("`unsafe` stands only in {UNSAFE}"));
        }
    }
    if prod > ASKED && prod <= limit {
        findings
            .push(Finding::new(&file.path, prod, "size", format!("{prod} lines without tests; aim at 250")).advice());
    }
    let inline = file.text.lines().count() - prod;
    if !file.is_test() && inline > INLINE_TESTS {
        let message = format!("{inline} lines of inline tests; over {INLINE_TESTS} they go into tests.rs beside it");
        findings.push(Finding::new(&file.path, prod, "inline-tests", message).advice());
    }
    findings
}

/// Whether the file lies in a crate without clocks, or its header promises to read none.
fn is_clockless(file: &File) -> bool {
    let header = file.header();
    let promise = header.to_lowercase();
    let promised = promise.contains("never") && (promise.contains("reads a clock") || promise.contains("read a clock"));
    promised || CLOCKLESS.iter().any(|folder| file.path.starts_with(folder))
}

/// Whether a lint is lifted; `forbid` and `deny` only tighten it.
fn lifts_unsafe(code: &str) -> bool {
    code.contains(concat!("expect(", "unsafe_code")) || code.contains(concat!("allow(", "unsafe_code"))
}

/// Whether the keyword itself is there: folders that are no members of the workspace have no lint for it.
fn has_unsafe(code: &str) -> bool {
    code.match_indices("unsafe ").any(|(at, keyword)| {
        let begins = !code[..at].ends_with(|c: char| c.is_alphanumeric() || "_\"`".contains(c));
        begins
            && ["{", "fn ", "impl ", "impl<", "extern ", "trait "]
                .iter()
                .any(|next| code[at + keyword.len()..].starts_with(next))
    })
}

fn reads_clock(code: &str) -> bool {
    code.contains("::now()") || code.contains("tokio::time::")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<(usize, &'static str, bool)> {
        check(&File::of(path, text)).into_iter().map(|found| (found.line, found.rule, found.advice)).collect()
    }

    fn lines(count: usize) -> String {
        "//! A header.\n".to_owned() + &"let x = 1;\n".repeat(count - 1)
    }

    #[test]
    fn a_file_needs_a_header_and_is_no_mod_rs() {
        assert_eq!(rules("agent/src/x.rs", "use y;\n"), [(1, "header", false)]);
        assert_eq!(rules("agent/src/x/mod.rs", "//! X.\n"), [(1, "mod-rs", false)]);
    }

    #[test]
    fn size_counts_prod_lines_only() {
        assert_eq!(rules("agent/src/x.rs", &lines(600)), [(600, "size", true)]);
        assert_eq!(rules("agent/src/x.rs", &lines(601)), [(601, "size", false)]);
        assert_eq!(rules("agent/src/main.rs", &lines(81)), [(81, "size", false)]);
        let tests = format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", lines(300), "x\n".repeat(500));
        assert_eq!(rules("agent/src/x.rs", &tests), [(300, "inline-tests", true)]);
        assert_eq!(rules("agent/src/x/tests.rs", &lines(900)), []);
        assert_eq!(rules("proto/src/gen/x.rs", &"x\n".repeat(900)), []);
    }

    #[test]
    fn an_engine_that_promises_to_read_no_clock_reads_none() {
        let promise = "//! Pairs.\n//!\n//! Never: does IO, reads a\n//! clock.\n";
        assert_eq!(rules("agent/src/x.rs", &format!("{promise}let t = Instant::now();\n")), [(5, "clock", false)]);
        assert_eq!(rules("agent/src/x.rs", "//! X.\nlet t = Instant::now();\n"), []);
        assert_eq!(rules("crates/ring/src/x.rs", "//! X.\nlet t = SystemTime::now();\n"), [(2, "clock", false)]);
        assert_eq!(rules("crates/ring/src/x.rs", "//! X.\n// not Instant::now()\n"), []);
        let tested = format!("{promise}#[cfg(test)]\nmod tests {{\nInstant::now();\n}}\n");
        assert_eq!(rules("agent/src/x.rs", &tested), []);
    }

    #[test]
    fn preludes_and_stray_unsafe_are_found() {
        assert_eq!(rules("agent/src/x.rs", "//! X.\npub use y::*;\n"), [(2, "prelude", false)]);
        let lifted = "//! X.\n#![expect(unsafe_code, reason = \"r\")]\n";
        assert_eq!(rules("agent/src/x.rs", lifted), [(2, "unsafe", false)]);
        assert_eq!(rules("ebpf/link/src/lib.rs", lifted), []);
        for keyword in ["unsafe { x }", "pub unsafe fn x() {}", "unsafe impl X for Y {}", "x(unsafe { y })"] {
            assert_eq!(
                rules("tests/support/src/x.rs", &format!("//! X.\n{keyword}\n")),
                [(2, "unsafe", false)],
                "{keyword}"
            );
            assert_eq!(rules("ebpf/src/x.rs", &format!("//! X.\n{keyword}\n")), [], "{keyword}");
        }
        assert_eq!(rules("agent/src/x.rs", "//! X.\n// unsafe { x }\nlet unsafe_code = \"unsafe {\";\n"), []);
        assert_eq!(rules("agent/src/lib.rs", "//! X.\n#![forbid(unsafe_code)]\n"), []);
    }
}
