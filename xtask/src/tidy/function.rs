//! How long functions are, in every Rust file of the checkout: clippy does not look into the folders that
//! are no members of the workspace (`ebpf`, `tests/fuzz`, `tests/peers`), and is not asked before a build.
//!
//! Relies on rustfmt: a function's closing brace stands alone, under the column of its first word. Lines
//! are counted as clippy's `too_many_lines` counts them, without empty ones and comments.

use super::Finding;
use super::source::File;

/// Lines of code that a function may have.
const LIMIT: usize = 80;

/// What may stand before `fn`.
const QUALIFIERS: [&str; 6] = ["pub", "default", "const", "async", "unsafe", "extern"];

pub(super) fn check(file: &File) -> Vec<Finding> {
    let lines: Vec<&str> = file.text.lines().collect();
    let mut findings = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(name) = declared(line) else { continue };
        let length = body(&lines[at..]).map_or(0, |body| body.iter().filter(|line| is_code(line)).count());
        if length > LIMIT {
            let message = format!("`{name}` has {length} lines of code; at most {LIMIT}: split it by what it does");
            findings.push(Finding::new(&file.path, at + 1, "function", message));
        }
    }
    findings
}

/// The name of the function that `line` begins to declare.
fn declared(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    loop {
        if let Some(name) = rest.strip_prefix("fn ") {
            return name.split(|c: char| !c.is_alphanumeric() && c != '_').next().filter(|name| !name.is_empty());
        }
        // `pub(crate)` and `extern "C"` end with something of their own.
        let word = rest.split([' ', '(']).next().filter(|word| QUALIFIERS.contains(word))?;
        rest = rest[word.len()..].trim_start();
        for (open, close) in [('(', ')'), ('"', '"')] {
            if let Some((_, after)) = rest.strip_prefix(open).and_then(|after| after.split_once(close)) {
                rest = after.trim_start();
            }
        }
    }
}

/// The lines between the braces of the function that begins with the first of `lines`; none when it has no
/// body, or one in a single line.
fn body<'a, 'b>(lines: &'a [&'b str]) -> Option<&'a [&'b str]> {
    let indent = &lines[0][..lines[0].len() - lines[0].trim_start().len()];
    let open = lines.iter().position(|line| line.trim_end().ends_with(['{', '}', ';']))?;
    if !lines[open].trim_end().ends_with('{') {
        return None;
    }
    let inside = &lines[open + 1..];
    let close = inside.iter().position(|line| line.strip_prefix(indent) == Some("}"))?;
    Some(&inside[..close])
}

fn is_code(line: &str) -> bool {
    let line = line.trim_start();
    !line.is_empty() && !line.starts_with("//")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(head: &str, lines: usize) -> String {
        format!("{head}\n{}}}\n", "    let x = 1;\n\n    // Why.\n".repeat(lines))
    }

    fn long(text: &str) -> Vec<usize> {
        check(&File::of("ebpf/src/x.rs", text)).into_iter().map(|found| found.line).collect()
    }

    #[test]
    fn a_function_of_more_than_eighty_lines_of_code_is_found_wherever_it_stands() {
        for head in [
            "fn a() {",
            "pub(crate) async fn a(x: u8) -> u8 {",
            "pub const unsafe extern \"C\" fn a() {",
            "fn a<T>(\n    x: T,\n) where\n    T: Copy,\n{",
        ] {
            assert_eq!(long(&function(head, 80)), [0; 0], "{head}");
            assert_eq!(long(&function(head, 81)), [1], "{head}");
        }
        let nested =
            format!("impl A {{\n    fn b() {{\n{}    }}\n\n    fn c() {{}}\n}}\n", "        x();\n".repeat(90));
        assert_eq!(long(&nested), [2]);
        assert_eq!(long(&format!("//! X.\n{}{}", function("fn a() {", 70), function("fn b() {", 70))), [0; 0]);
    }

    #[test]
    fn what_has_no_body_and_what_only_looks_like_a_function_is_passed_over() {
        let after = "x();\n".repeat(100);
        for text in
            ["    fn a();", "fn a() {}", "// fn a() {", "let fn_a = 1;", "const A: fn() = a;", "pub(crate) struct A {"]
        {
            assert_eq!(long(&format!("{text}\n{after}}}\n")), [0; 0], "{text}");
        }
    }
}
