//! Hashes of a span's identity: the randomness that is the same wherever the span is seen.
//!
//! Exemplar selection and the rounding of adjusted counts draw on these instead of a generator, so
//! that a span which is sent again, or taken by another agent, is treated alike.
//!
//! Never: depends on a seed, a process or a platform. Values are part of no stored format.

/// Which 8 bytes of a span id make its number; `None` unless there are exactly 8 and one is not 0.
pub(crate) fn span_id_array(span_id: &[u8]) -> Option<[u8; 8]> {
    span_id.try_into().ok().filter(|id| *id != [0; 8])
}

/// A well-mixed number from a trace id and a span id; ranks spans for uniform selection.
#[inline]
pub(crate) fn priority(trace_id: [u8; 16], span_id: [u8; 8]) -> u64 {
    let trace = u128::from_le_bytes(trace_id);
    let span = u64::from_le_bytes(span_id);
    mix(mix(trace as u64, (trace >> 64) as u64) ^ span, 0x9E37_79B9_7F4A_7C15)
}

/// A well-mixed number from a span id alone; rounds the span's adjusted count.
#[inline]
pub(crate) fn rounding(span_id: [u8; 8]) -> u64 {
    mix(u64::from_le_bytes(span_id), 0xD6E8_FEB8_6659_FD93)
}

/// Two rounds of folded multiplication, the mixing step of wyhash
/// (<https://github.com/wangyi-fudan/wyhash>), with whitened inputs.
#[inline]
const fn mix(a: u64, b: u64) -> u64 {
    let once = fold(a ^ 0xA076_1D64_78BD_642F, b ^ 0xE703_7ED1_A0B4_28DB);
    fold(once ^ 0x8EBC_6AF0_9C88_C6E3, 0x5899_65CC_7537_4CC3)
}

const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}
