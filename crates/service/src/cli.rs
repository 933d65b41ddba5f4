//! What the command lines of both processes share: how a command fails, and what the program documents of itself.
//!
//! Exit codes: 0 done, 64 the configuration is wrong (nothing was bound), 70 the process failed while it ran.
//!
//! Never: ends the process.

use std::io::Write as _;
use std::process::ExitCode;

use clap::ValueEnum;

use crate::config::EXIT_CODE;

/// `EX_SOFTWARE` of sysexits.h.
const EXIT_FAILED: u8 = 70;

/// A part of the documentation that the program knows best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Topic {
    /// Every key of the configuration.
    Config,
    /// Every metric that the process serves.
    Telemetry,
}

/// A command that failed, with its exit code.
#[derive(Debug)]
pub struct Failed {
    code: u8,
    message: String,
}

impl Failed {
    /// The configuration or the command line is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: EXIT_CODE, message: message.into() }
    }

    /// The configuration was read and cannot work: every problem is told.
    pub fn problems(problems: &[String]) -> Self {
        Self::usage(format!("the configuration cannot work:\n  {}", problems.join("\n  ")))
    }

    /// The process failed while it ran.
    pub fn software(error: &anyhow::Error) -> Self {
        Self { code: EXIT_FAILED, message: format!("{error:#}") }
    }

    /// A failure with an exit code of its own, which the command documents.
    pub fn coded(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The exit code.
    pub const fn code(&self) -> u8 {
        self.code
    }

    /// What is wrong.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Says it on stderr, as `program: message`.
    pub fn report(&self, program: &str) -> ExitCode {
        // Nothing is left to do when stderr is closed.
        drop(writeln!(std::io::stderr(), "{program}: {}", self.message.trim_end()));
        ExitCode::from(self.code)
    }
}

/// Writes to stdout.
///
/// # Errors
/// When stdout is closed.
pub fn print(text: &str) -> Result<(), Failed> {
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| Failed::software(&error.into()))
}

/// Moves endpoints to free ports of loopback, for a process that is built only to be asked what it has.
pub fn on_free_ports<'a>(endpoints: impl IntoIterator<Item = &'a mut String>) {
    for endpoint in endpoints {
        "127.0.0.1:0".clone_into(endpoint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_told_and_the_codes_are_those_of_sysexits() {
        let failed = Failed::problems(&["a: 1 is wrong".to_owned(), "b: 2 is wrong".to_owned()]);
        assert_eq!((failed.code(), Failed::software(&anyhow::anyhow!("x")).code()), (64, 70));
        assert_eq!(failed.message, "the configuration cannot work:\n  a: 1 is wrong\n  b: 2 is wrong");
    }

    #[test]
    fn errors_are_told_with_their_causes() {
        let error = anyhow::anyhow!("refused").context("cannot connect");
        assert_eq!(Failed::software(&error).message, "cannot connect: refused");
    }

    #[test]
    fn endpoints_move_to_free_ports_of_loopback() {
        let mut endpoints = ["0.0.0.0:4317".to_owned(), String::new()];
        on_free_ports(&mut endpoints);
        assert_eq!(endpoints, ["127.0.0.1:0", "127.0.0.1:0"]);
    }
}
