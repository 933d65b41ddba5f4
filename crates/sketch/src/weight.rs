//! Adjusted count of a sampled span.
//!
//! A sampler writes the rejection threshold T into W3C tracestate as `ot=th:<hex>` (OpenTelemetry
//! specification, "`TraceState`: Probability Sampling"); a span then stands for n = 2^56 / (2^56 - T)
//! spans. n is rounded to an integer up or down at random, in proportion to its fraction, so that
//! the mean over many spans is unbiased. The randomness comes from the span id (see `identity`), so
//! the same span is rounded alike every time.
//!
//! Never: fails. A threshold that cannot be read means "not sampled", a weight of 1.

/// Width of thresholds in bits.
const BITS: u32 = 56;

/// The rejection threshold in `trace_state`, in [0, 2^56), if it has a valid one.
pub fn threshold(trace_state: &str) -> Option<u64> {
    let list = trace_state.split(',').find_map(|member| member.trim().strip_prefix("ot="))?;
    let digits = list.split(';').find_map(|field| field.strip_prefix("th:"))?;
    if digits.len() > BITS as usize / 4 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let value = u64::from_str_radix(digits, 16).ok()?;
    // Trailing zeros are left out on the wire: the first digit is the most significant one.
    Some(value << (BITS - 4 * digits.len() as u32))
}

/// The count that a span sampled with `threshold` stands for, rounded by `random`. At least 1.
pub fn adjusted_count(threshold: u64, random: u64) -> u64 {
    let one = 1_u64 << BITS;
    let kept = one - threshold.min(one - 1);
    let (whole, rest) = (one / kept, one % kept);
    // random < rest / kept, compared in integers.
    let draw = u128::from(random >> (64 - BITS)) * u128::from(kept);
    whole + u64::from(draw < u128::from(rest) << BITS)
}

#[cfg(test)]
mod tests;
