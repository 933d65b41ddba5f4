//! Any request: a split gives each owner its items, and a merge gives them back.

#![no_main]

#[path = "../../../crates/otlp/tests/suite/compare.rs"]
mod compare;
#[path = "../../../crates/otlp/tests/suite/laws.rs"]
#[expect(dead_code, reason = "each target uses its half")]
mod laws;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Some((signal, choice, body)) = laws::input(data) {
        laws::split(signal, choice, body);
    }
});
