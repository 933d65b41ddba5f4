//! How a test says that it cannot do its work on this machine.

use std::io::Write as _;

/// Prints `SKIPPED: reason` past the test harness's capture, where `cargo xtask test` counts it as skipped
/// and repeats the reason. The test returns after it.
///
/// ```
/// fn a_test_that_needs_a_thing(has_it: bool) {
///     if !has_it {
///         return mirador_support::skip("no such thing here");
///     }
///     // the test
/// }
/// # a_test_that_needs_a_thing(true);
/// ```
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // A closed stdout leaves nobody to tell.
    writeln!(std::io::stdout().lock(), "\nSKIPPED: {test}: {reason}").ok();
}
