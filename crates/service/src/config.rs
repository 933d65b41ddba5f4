//! Configuration: one YAML file, checked against its type before anything else happens.
//!
//! The order is fixed: YAML to a tree with positions, environment references in the tree's
//! scalars, keys against the type's schema, then serde. Nothing of the environment's content can
//! become structure, because it is put in after the structure is known.
//! Every problem that can be found is reported, one line each, with file, line, key, value and
//! what would be right; a process that gets one exits with [`EXIT_CODE`] before it binds anything.
//!
//! Rules that a reader of docs/config.md relies on:
//! - `${env:NAME}`, `${NAME}`: the variable, which must be set (it may be empty);
//!   `${env:NAME:-default}`: the default when it is not set (as in the collector; an empty
//!   variable is set); `$$`: a dollar sign. Defaults may hold references; variables' values are
//!   taken as they are. Keys are never expanded.
//! - A number or boolean from the environment is read as such where one is expected.
//! - A section's key with nothing after it (`grpc:`) opens the section with its defaults; `null`
//!   or `~` leaves an optional one off.
//! - Duplicate keys are errors; anchors, aliases and merge keys (`<<`) are allowed, within limits.
//! - Key names are those of the schema: serde's `alias` is not known here.

mod check;
mod document;
mod expand;
mod read;
mod schema;
#[cfg(test)]
mod tests;
mod tree;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use check::nearest;
pub use document::document;

/// Exit code of a process whose configuration is wrong: `EX_USAGE` of sysexits.h. Wrong command-line
/// arguments end with 2, as the argument parser has it.
pub const EXIT_CODE: u8 = 64;

/// No configuration is larger; a larger file is refused before it is parsed.
pub const MAX_BYTES: usize = 1 << 20;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1; None when the problem is not at a place.
    pub line: Option<u64>,
    /// Path of the key, as `receiver.protocols.grpc.endpoint` or `list[0].name`; may be empty.
    pub key: String,
    /// What is wrong, with the value, and what would be right.
    pub message: String,
}

/// Everything that is wrong with a configuration; `Display` is one line per problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, if it came from one.
    pub file: Option<PathBuf>,
    /// All problems, in the order of their lines; never empty.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    /// An error that a component's own check found; `key` is the path of the key.
    pub fn invalid(key: impl Into<String>, message: impl Into<String>) -> Self {
        let problem = Problem { line: None, key: key.into(), message: message.into() };
        Self { file: None, problems: vec![problem] }
    }

    /// The same error, said of `file`.
    #[must_use]
    pub fn in_file(mut self, file: &Path) -> Self {
        self.file = Some(file.to_owned());
        self
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            match (&self.file, problem.line) {
                (Some(file), Some(line)) => write!(f, "{}:{line}: ", file.display())?,
                (Some(file), None) => write!(f, "{}: ", file.display())?,
                (None, Some(line)) => write!(f, "line {line}: ")?,
                (None, None) => {}
            }
            if !problem.key.is_empty() {
                write!(f, "{}: ", problem.key)?;
            }
            // A value may hold line ends; the report has one line per problem all the same.
            f.write_str(&problem.message.replace('\n', "\\n"))?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Reads a file with the process's environment.
pub fn load<T: DeserializeOwned + JsonSchema>(path: &Path) -> Result<T, ConfigError> {
    load_with(path, &|name| std::env::var(name).ok())
}

/// As [`load`], with an environment of one's own.
pub fn load_with<T: DeserializeOwned + JsonSchema>(
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<T, ConfigError> {
    let unreadable = |message: String| ConfigError::invalid("", message).in_file(path);
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| unreadable(format!("cannot be read: {error}; expected a readable YAML file")))?;
    let text = String::from_utf8(bytes)
        .map_err(|error| unreadable(format!("is not UTF-8 at byte {}", error.utf8_error().valid_up_to())))?;
    parse(&text, env).map_err(|error| error.in_file(path))
}

/// Reads a text; `env` answers for the environment.
pub fn parse<T: DeserializeOwned + JsonSchema>(
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<T, ConfigError> {
    let failed = |problems| ConfigError { file: None, problems };
    if text.len() > MAX_BYTES {
        let message = format!("is larger than {MAX_BYTES} bytes; expected a smaller configuration");
        return Err(ConfigError::invalid("", message));
    }
    let mut root = tree::read(text).map_err(|problem| failed(vec![problem]))?;
    let schema = schema::Catalog::of::<T>();
    let mut problems = Vec::new();
    expand::expand(&mut root, env, &mut problems);
    check::check(&mut root, &schema, &mut problems);
    let value = read::read::<T>(&mut root, &mut problems);
    problems.sort_by_key(|problem| problem.line.unwrap_or(u64::MAX));
    match value {
        Some(value) if problems.is_empty() => Ok(value),
        _ => Err(failed(problems)),
    }
}

/// The effective configuration as YAML, which [`parse`] reads back to the same value.
///
/// # Panics
/// When `value` has no YAML form (a map whose keys are no scalars), which no configuration has.
pub fn render<T: Serialize>(value: &T) -> String {
    let text = serde_saphyr::to_string(value).expect("a configuration has a YAML form");
    let mut escaped = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        escaped.push(character);
        if character == '$' && matches!(rest.peek(), Some('$' | '{')) {
            escaped.push('$');
        }
    }
    escaped
}
