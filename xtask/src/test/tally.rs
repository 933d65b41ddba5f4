//! Adds up what the test binaries print.
//!
//! Reads only; invariant: passed + failed + skipped is the number of tests that the binaries report, less
//! those that a filter took out.

use std::fmt;

use crate::test_kernels::Verdict;

/// The sums so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: u64,
    pub(super) failed: u64,
    skipped: u64,
    failures: Vec<String>,
    reasons: Vec<String>,
    /// Tests that said they skip themselves; libtest counts them as passed.
    excused: u64,
}

/// What a test prints, past libtest's capture, when it cannot do its work on this machine.
const MARK: &str = "SKIPPED: ";

impl Tally {
    /// Takes in one line of output.
    pub(super) fn line(&mut self, line: &str) {
        let line = strip_colour(line);
        let line = line.trim_end();
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.binary(counts);
        } else if let Some((_, reason)) = line.split_once(MARK) {
            self.excused += 1;
            self.reasons.push(reason.to_owned());
        } else if let Some(test) = line.strip_prefix("test ") {
            self.test(test);
        }
    }

    fn test(&mut self, test: &str) {
        if let Some(name) = test.strip_suffix(" ... FAILED") {
            self.failures.push(name.to_owned());
        } else if let Some((name, why)) = test.split_once(" ... ignored") {
            let why = why.strip_prefix(", ").unwrap_or("ignored");
            self.reasons.push(format!("{name}: {why}"));
        }
    }

    /// `ok. 5 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.00s`
    fn binary(&mut self, counts: &str) {
        let count = |word: &str| {
            let part = counts.split([';', '.']).map(str::trim).find_map(|part| part.strip_suffix(word));
            part.and_then(|number| number.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        // A binary's excuses come before its closing line; a test is skipped once, however often it says so.
        let excused = std::mem::take(&mut self.excused).min(count(" passed"));
        self.passed += count(" passed") - excused;
        self.failed += count(" failed");
        self.skipped += count(" ignored") + excused;
    }

    /// Takes in a check on another kernel.
    pub(super) fn kernel(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Good(_) => self.passed += 1,
            Verdict::Bad(text) => {
                self.failed += 1;
                self.failures.push(format!("steering on {text}"));
            }
            Verdict::Skipped(text) => {
                self.skipped += 1;
                self.reasons.push(format!("steering on another kernel: {text}"));
            }
        }
    }

    /// What is worth reading before the closing line: why tests were skipped, and which failed.
    pub(super) fn notes(&self) -> Vec<String> {
        let skipped = self.reasons.iter().map(|reason| format!("skipped: {reason}"));
        skipped.chain(self.failures.iter().map(|name| format!("failed: {name}"))).collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// `line` without terminal colours (`ESC [ … m`, and the `ESC (B` that some terminals' reset adds).
fn strip_colour(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('\x1b') {
        plain.push_str(before);
        rest = match after.strip_prefix("(B") {
            Some(after) => after,
            None => after.split_once('m').map_or("", |(_, after)| after),
        };
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(text: &str) -> Tally {
        let mut tally = Tally::default();
        text.lines().for_each(|line| tally.line(line));
        tally
    }

    #[test]
    fn the_closing_lines_of_all_binaries_are_added_up() {
        let tally = tally(
            "running 3 tests
test a ... ok
test b ... FAILED
test c ... ignored, needs root
test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
test result: ok. 10 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.00s",
        );
        assert_eq!(tally.to_string(), "11 passed, 1 failed, 1 skipped");
        assert_eq!(tally.notes(), ["skipped: c: needs root", "failed: b"]);
    }

    #[test]
    fn a_test_that_excuses_itself_is_skipped_and_not_passed() {
        let tally = tally(
            "test one ... SKIPPED: one: no VictoriaTraces here
test two ... ok
SKIPPED: three: no cgroup
test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        );
        assert_eq!(tally.to_string(), "3 passed, 0 failed, 2 skipped");
        assert_eq!(tally.notes(), ["skipped: one: no VictoriaTraces here", "skipped: three: no cgroup"]);
    }

    #[test]
    fn colours_change_no_number() {
        let tally = tally(
            "test a ... \x1b[31mFAILED\x1b[m\x1b(B
test result: \x1b[31mFAILED\x1b(B\x1b[m. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        );
        assert_eq!(tally.to_string(), "0 passed, 1 failed, 0 skipped");
        assert_eq!(tally.notes(), ["failed: a"]);
    }
}
