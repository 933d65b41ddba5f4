//! The files of the checkout that tidy reads, and what of a Rust file is not test code.

use std::path::Path;
use std::{fs, io};

use anyhow::{Context as _, Result};

/// Folders that no rule is about.
const SKIPPED: [&str; 6] = [".git", ".cache", "target", "target-bpf", "node_modules", "__pycache__"];

/// A text file of the checkout.
#[derive(Debug, Clone)]
pub(super) struct File {
    /// Its path from the top folder, with `/`.
    pub(super) path: String,
    pub(super) text: String,
}

impl File {
    #[cfg(test)]
    pub(super) fn of(path: &str, text: &str) -> Self {
        Self { path: path.into(), text: text.into() }
    }

    pub(super) fn is_rust(&self) -> bool {
        self.ends_with(&["rs"])
    }

    /// Whether its name ends with one of these, without the dot.
    pub(super) fn ends_with(&self, endings: &[&str]) -> bool {
        Path::new(&self.path)
            .extension()
            .and_then(|ending| ending.to_str())
            .is_some_and(|ending| endings.contains(&ending))
    }

    /// Whether a program wrote it.
    pub(super) fn is_generated(&self) -> bool {
        self.path.contains("/gen/") || self.ends_with(&["lock"])
    }

    /// Whether all of it is test code.
    pub(super) fn is_test(&self) -> bool {
        let in_tests = self.path.split('/').rev().skip(1).any(|folder| folder == "tests" || folder == "benches");
        // Only what stands beside the support library is a test there; the library itself is prod code.
        let support = self.path.starts_with("tests/support/src/");
        let nested = self.path.strip_prefix("tests/support/src/").is_some_and(|rest| rest.contains("/tests/"));
        self.path.ends_with("/tests.rs") || nested || (in_tests && !support)
    }

    /// The lines that are no test code, with their numbers: all but an inline `#[cfg(test)] mod … { … }`
    /// and what it gates. Such a module is taken to end the file, as it does everywhere here.
    pub(super) fn prod_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines: Vec<_> = self.text.lines().collect();
        let mut keep = vec![!self.is_test(); lines.len()];
        let mut at = 0;
        while at < lines.len() {
            if lines[at].trim_start().starts_with("#[cfg(test)]") {
                let item = lines[at + 1..].iter().position(|line| !line.trim_start().starts_with("#["));
                let item = item.map_or(lines.len() - 1, |offset| at + 1 + offset);
                let top = !lines[at].starts_with(' ');
                let end = if top && lines[item].contains("mod ") && lines[item].ends_with('{') {
                    lines.len()
                } else {
                    item + 1
                };
                keep[at..end].fill(false);
                at = end;
            } else {
                at += 1;
            }
        }
        lines.into_iter().enumerate().filter(move |(index, _)| keep[*index]).map(|(index, line)| (index + 1, line))
    }

    /// The `//!` lines at its top, as one text with single spaces.
    pub(super) fn header(&self) -> String {
        let lines = self.text.lines().take_while(|line| line.starts_with("//!"));
        let words: Vec<_> = lines.flat_map(|line| line[3..].split_whitespace()).collect();
        words.join(" ")
    }
}

/// Every text file below `root` that rules may be about, in order of path.
pub(super) fn files(root: &Path) -> Result<Vec<File>> {
    let mut files = Vec::new();
    walk(root, root, &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<File>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if !SKIPPED.contains(&name.as_str()) {
                walk(root, &path, files)?;
            }
        } else if kind.is_file() {
            match fs::read_to_string(&path) {
                Ok(text) => {
                    let path = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
                    files.push(File { path, text });
                }
                // No text: a corpus, an image. No rule is about those.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
                // Gone since the folder was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prod(text: &str) -> Vec<usize> {
        File::of("agent/src/x.rs", text).prod_lines().map(|(line, _)| line).collect()
    }

    #[test]
    fn an_inline_test_module_ends_the_prod_lines_and_a_gated_line_does_not() {
        assert_eq!(prod("a\n#[cfg(test)]\nmod tests {\n}\n"), [1]);
        assert_eq!(prod("a\n#[cfg(test)]\nmod tests;\nb\n"), [1, 4]);
        assert_eq!(prod("impl A {\n    #[cfg(test)]\n    fn x() {}\n}\n"), [1, 4]);
        assert_eq!(prod("a\n#[cfg(test)]\n#[path = \"x.rs\"]\nmod tests;\nb\n"), [1, 5]);
        assert_eq!(prod("#[cfg(test)]"), [0; 0]);
    }

    #[test]
    fn test_files_have_no_prod_lines_and_the_support_library_has() {
        let is_test = |path| File::of(path, "").is_test();
        assert!(
            is_test("agent/src/red/tests.rs") && is_test("tests/src/lib.rs") && is_test("crates/otlp/tests/wire.rs")
        );
        assert!(is_test("agent/src/red/tests/more.rs") && is_test("tests/support/src/x/tests.rs"));
        assert!(!is_test("tests/support/src/backends.rs") && !is_test("agent/src/red.rs"));
    }

    #[test]
    fn a_header_is_read_as_one_text() {
        assert_eq!(File::of("a.rs", "//! One\n//!   two.\n\nuse x;\n//! no").header(), "One two.");
    }

    #[test]
    fn build_output_and_binary_files_are_left_out() {
        let root = tempfile::tempdir().unwrap();
        for (path, bytes) in [("a/b.rs", &b"x"[..]), ("target/c.rs", b"x"), ("a/d.bin", &[0xff, 0xfe, 0x80])] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let paths: Vec<_> = files(root.path()).unwrap().into_iter().map(|file| file.path).collect();
        assert_eq!(paths, ["a/b.rs"]);
    }
}
