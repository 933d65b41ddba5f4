//! What a run says on stderr: a progress bar on a terminal, and complaints, of which only the first are shown.
//!
//! Never: fails because nobody reads stderr.

use std::io::Write;

use indicatif::{ProgressBar, ProgressStyle};

/// Complaints that are shown; further ones are counted.
const SHOWN: u64 = 20;

/// Where a run speaks.
pub struct Screen<'a> {
    errors: &'a mut dyn Write,
    bar: ProgressBar,
    complaints: u64,
}

impl<'a> Screen<'a> {
    /// Speaks to `errors`; shows a bar only when stderr is a terminal and `bar` is asked for.
    pub fn new(errors: &'a mut dyn Write, bar: bool) -> Self {
        let bar = if bar { ProgressBar::no_length() } else { ProgressBar::hidden() };
        Self { errors, bar, complaints: 0 }
    }

    /// Bytes that are to be read; unknown for a pipe.
    pub(super) fn expect(&mut self, bytes: Option<u64>) {
        let template = match bytes {
            Some(bytes) => {
                self.bar.set_length(bytes);
                "{bar:30} {percent:>3}% {binary_bytes_per_sec} eta {eta} {msg}"
            }
            None => "{spinner} {binary_bytes} {binary_bytes_per_sec} {msg}",
        };
        // The templates are constants that indicatif's own grammar accepts; with another one the bar keeps its form.
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
    }

    /// The bar that counts the bytes read.
    pub(super) fn bar(&self) -> ProgressBar {
        self.bar.clone()
    }

    /// Names what is being read.
    pub(super) fn on(&mut self, name: &str) {
        self.bar.set_message(name.to_owned());
    }

    /// Something is wrong with the input, and the run goes on.
    pub(super) fn complain(&mut self, place: &str, reason: &str) {
        self.complaints += 1;
        if self.complaints <= SHOWN {
            self.say(&format!("{place}: {reason}"));
        }
    }

    /// Says a line.
    pub(super) fn say(&mut self, line: &str) {
        let Self { errors, bar, .. } = self;
        // Nothing is left to do when stderr is closed.
        bar.suspend(|| drop(writeln!(errors, "{line}")));
    }

    /// Takes the bar away and says how many complaints were not shown.
    pub(super) fn end(&mut self) {
        self.bar.finish_and_clear();
        if self.complaints > SHOWN {
            let rest = self.complaints - SHOWN;
            self.say(&format!("and {rest} more"));
        }
    }
}
