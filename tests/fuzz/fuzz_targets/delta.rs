//! Any bytes in place of a RED delta: refused with a reason, or consistent.

#![no_main]

#[path = "../../../crates/sketch/tests/deltas/laws.rs"]
mod laws;

libfuzzer_sys::fuzz_target!(|data: &[u8]| laws::delta(data));
