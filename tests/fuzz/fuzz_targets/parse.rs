//! Any bytes: what we accept prost accepts, and every view says what prost says.

#![no_main]

#[path = "../../../crates/otlp/tests/suite/compare.rs"]
mod compare;
#[path = "../../../crates/otlp/tests/suite/laws.rs"]
#[expect(dead_code, reason = "each target uses its half")]
mod laws;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Some((signal, _, body)) = laws::input(data) {
        laws::parse(signal, body);
    }
});
