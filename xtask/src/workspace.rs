//! Where the checkout is, and how cargo is called in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// The checkout's top folder.
pub(crate) fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// The cargo that runs us, in the checkout.
pub(crate) fn cargo<const N: usize>(arguments: [&str; N]) -> Command {
    let mut cargo = mirador_support::cargo::command();
    cargo.args(arguments).current_dir(root());
    cargo
}

/// Runs `command` with our own output; its failure is an error that names it.
pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let what = shown(command);
    let status = command.status().with_context(|| format!("cannot run `{what}`"))?;
    ensure!(status.success(), "`{what}` ended with {status}");
    Ok(())
}

/// `command` as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// What cargo says of the workspace's own packages.
pub(crate) fn metadata() -> Result<Value> {
    let output = cargo(["metadata", "--format-version", "1", "--no-deps"]).output().context("cannot run cargo")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The folder that has what cargo has built.
pub(crate) fn target_folder() -> Result<PathBuf> {
    let metadata = metadata()?;
    Ok(metadata["target_directory"].as_str().context("cargo metadata names no target folder")?.into())
}

/// The program `name` that a build of `profile` (`debug`, `release`) has left.
pub(crate) fn program(name: &str, profile: &str) -> Result<PathBuf> {
    Ok(target_folder()?.join(profile).join(name))
}

/// The number and the two texts of the first line that differs; `None` when they are equal.
pub(crate) fn first_difference<'a>(have: &'a str, want: &'a str) -> Option<(usize, &'a str, &'a str)> {
    if have == want {
        return None;
    }
    let (mut have, mut want) = (have.lines(), want.lines());
    for number in 1.. {
        let (a, b) = (have.next(), want.next());
        if a != b || a.is_none() {
            return Some((number, a.unwrap_or("(end of file)"), b.unwrap_or("(end of file)")));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_found_also_at_the_end() {
        assert_eq!(first_difference("a\nb", "a\nb"), None);
        assert_eq!(first_difference("a\nb", "a\nc"), Some((2, "b", "c")));
        assert_eq!(first_difference("a", "a\nb"), Some((2, "(end of file)", "b")));
        assert_eq!(first_difference("a\n", "a").map(|found| found.0), Some(2), "a missing line end counts");
    }

    #[test]
    fn a_failed_command_is_named_in_the_error() {
        let error = succeed(Command::new("false").arg("--flag")).unwrap_err().to_string();
        assert!(error.contains("`false --flag`") && error.contains("exit status: 1"), "{error}");
    }
}
