//! Where the input is: one file, every file under a folder, or stdin.
//!
//! Never: follows a link to a folder, so that a loop of links ends; reads more than the first bytes of a file.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use indicatif::ProgressBar;

use super::Format;

/// One input that is open.
pub(super) struct Source {
    /// As the user wrote it, for messages.
    pub(super) label: String,
    /// Where it lies below the input, for the output.
    pub(super) relative: PathBuf,
    /// Its bytes.
    pub(super) reader: Box<dyn BufRead>,
}

/// An input that is not open yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// Stdin.
    Stdin,
    /// A file and where it lies below the input.
    File(PathBuf, PathBuf),
}

/// Endings of the files of a folder that are looked into.
const TABLES: [&str; 3] = ["csv", "tsv", "txt"];
const EXPORTS: [&str; 3] = ["json", "jsonl", "ndjson"];

/// The inputs, in the order of their names; `except` is a folder that is left out, the one that is written to.
pub(super) fn find(input: &Path, format: Format, except: Option<&Path>) -> anyhow::Result<Vec<Found>> {
    if input == Path::new("-") {
        return Ok(vec![Found::Stdin]);
    }
    let meta = fs::metadata(input).with_context(|| format!("cannot read {}", input.display()))?;
    if !meta.is_dir() {
        let name = input.file_name().map_or_else(|| PathBuf::from("input"), PathBuf::from);
        return Ok(vec![Found::File(input.to_owned(), name)]);
    }
    let except = except.and_then(|folder| folder.canonicalize().ok());
    let mut found = Vec::new();
    walk(input, Path::new(""), format, except.as_deref(), &mut found)?;
    ensure!(!found.is_empty(), "no file under {} ends in {}", input.display(), endings(format).join(", "));
    Ok(found)
}

fn endings(format: Format) -> Vec<&'static str> {
    match format {
        Format::Auto => [TABLES, EXPORTS].concat(),
        Format::Csv => TABLES.to_vec(),
        Format::Prometheus => EXPORTS.to_vec(),
    }
}

fn walk(
    folder: &Path,
    relative: &Path,
    format: Format,
    except: Option<&Path>,
    found: &mut Vec<Found>,
) -> anyhow::Result<()> {
    if except.is_some() && folder.canonicalize().ok().as_deref() == except {
        return Ok(());
    }
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut entries: Vec<_> =
        entries.collect::<io::Result<_>>().with_context(|| format!("cannot read {}", folder.display()))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let (path, below) = (entry.path(), relative.join(&name));
        if name.to_string_lossy().starts_with('.') {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, &below, format, except, found)?;
        } else if path.extension().is_some_and(|ending| endings(format).iter().any(|known| ending == *known))
            && path.is_file()
        {
            found.push(Found::File(path, below));
        }
    }
    Ok(())
}

impl Found {
    /// Its size, when it has one.
    pub(super) fn bytes(&self) -> Option<u64> {
        match self {
            Self::Stdin => None,
            Self::File(path, _) => fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|meta| meta.len()),
        }
    }

    /// As the user wrote it.
    pub(super) fn label(&self) -> String {
        match self {
            Self::Stdin => "stdin".to_owned(),
            Self::File(path, _) => path.display().to_string(),
        }
    }

    /// Opens it.
    pub(super) fn open(&self, bar: ProgressBar) -> anyhow::Result<Source> {
        let label = self.label();
        let (inner, relative): (Box<dyn Read>, _) = match self {
            Self::Stdin => (Box::new(io::stdin().lock()), PathBuf::from("stdin")),
            Self::File(path, relative) => {
                let file = File::open(path).with_context(|| format!("cannot read {label}"))?;
                (Box::new(file), relative.clone())
            }
        };
        let reader = Box::new(BufReader::with_capacity(256 * 1024, Counted { inner, bar }));
        Ok(Source { label, relative, reader })
    }
}

impl Source {
    /// A source of a text, as if it were a file of this name.
    #[cfg(test)]
    pub(super) fn of(name: &str, text: &str) -> Self {
        let reader = Box::new(io::Cursor::new(text.as_bytes().to_vec()));
        Self { label: name.to_owned(), relative: PathBuf::from(name), reader }
    }

    /// The first bytes, which stay to be read.
    pub(super) fn peek(&mut self) -> anyhow::Result<&[u8]> {
        self.reader.fill_buf().with_context(|| format!("cannot read {}", self.label))
    }
}

/// Counts what is read.
struct Counted {
    inner: Box<dyn Read>,
    bar: ProgressBar,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bar.inc(read as u64);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_walked_without_what_is_written_hidden_or_foreign() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b/2.csv", "b/1.CSV.bak", "a.json", "out/a.csv", ".hidden.csv", "notes.md"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let names = |format| {
            let out = folder.path().join("out");
            let found = find(folder.path(), format, Some(&out)).unwrap();
            found
                .into_iter()
                .map(|found| match found {
                    Found::File(_, relative) => relative.display().to_string(),
                    Found::Stdin => unreachable!("a folder was asked for"),
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(names(Format::Auto), ["a.json", "b/2.csv"]);
        assert_eq!(names(Format::Csv), ["b/2.csv"]);
        assert!(find(&folder.path().join("b/nothing"), Format::Auto, None).is_err());
    }
}
