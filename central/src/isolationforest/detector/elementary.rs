//! Powers and logarithms for the features of a point, all of them at once.
//!
//! Single precision, branch-free and in plain arithmetic, so that the compiler keeps the features in one vector
//! register and every machine computes the same bits. Never: takes numbers outside of the ranges that are stated.

use super::FEATURES;
use super::sample::Parts;

/// Adding and subtracting it rounds a number below 2^22 to the nearest integer.
const ROUNDING: f32 = 12_582_912.0;
/// Mantissa bits of the square root of one half: mantissas are taken between it and twice it.
const HALF_ROOT: u32 = 0x3f35_04f3;

/// `2^x` for `x` in `[-126, 126]`, to 3e-7 of its value; what is lower or higher is taken for the end.
pub(crate) fn exp2(power: f32) -> f32 {
    let power = power.clamp(-126.0, 126.0);
    let shifted = power + ROUNDING;
    let whole = shifted - ROUNDING;
    let scale = f32::from_bits(shifted.to_bits().wrapping_sub(ROUNDING.to_bits()).wrapping_add(127) << 23);
    // The Taylor series of e^x: the first term that is left out is below 1e-8.
    let x = (power - whole) * std::f32::consts::LN_2;
    let series = 1.0 / 720.0 + x * (1.0 / 5040.0);
    let series = 1.0 / 24.0 + x * (1.0 / 120.0 + x * series);
    scale * (1.0 + x * (1.0 + x * (0.5 + x * (1.0 / 6.0 + x * series))))
}

/// The natural logarithm of a normal positive number, to 2e-7 of 1 or of its value.
pub(crate) fn ln(number: f32) -> f32 {
    let bits = number.to_bits().wrapping_sub(HALF_ROOT);
    let exponent = (bits as i32 >> 23) as f32;
    let mantissa = f32::from_bits((bits & 0x007f_ffff).wrapping_add(HALF_ROOT));
    // ln(m) = 2 artanh((m - 1) / (m + 1)), whose argument is below .172: the first term left out is below 1e-9.
    let x = (mantissa - 1.0) / (mantissa + 1.0);
    let square = x * x;
    let series = 1.0 / 3.0 + square * (1.0 / 5.0 + square * (1.0 / 7.0 + square * (1.0 / 9.0)));
    exponent * std::f32::consts::LN_2 + 2.0 * x * (1.0 + square * series)
}

/// `2^(-depth * inverse)` for each feature: its isolation score.
pub(crate) fn isolations(depths: &[Parts; FEATURES], inverse: f32) -> [f32; FEATURES] {
    let (mut scores, mut densities) = ([0.0; FEATURES], [0.0; FEATURES]);
    for index in 0..FEATURES {
        let Parts { spread, narrow, .. } = &depths[index];
        densities[index] = spread[0] / narrow[0] * (spread[1] / narrow[1]);
    }
    for index in 0..FEATURES {
        scores[index] = exp2(-(depths[index].depth + ln(densities[index])) * inverse);
    }
    scores
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_exact_to_three_ten_millionths() {
        for step in -126_000_i32..=126_000 {
            let power = step as f32 / 1000.0;
            let exact = f64::from(power).exp2();
            assert!((f64::from(exp2(power)) / exact - 1.0).abs() < 3e-7, "2^{power}: {} not {exact}", exp2(power));
        }
        assert_eq!((exp2(0.0), exp2(-1.0), exp2(-1e9)), (1.0, 0.5, exp2(-126.0)));
    }

    #[test]
    fn logarithms_are_exact_to_two_ten_millionths() {
        assert_eq!(ln(1.0).to_bits(), 0.0_f32.to_bits());
        for step in 0..400_000_u32 {
            let number = f32::from_bits(0x0080_0000 + step * 5_300);
            let exact = f64::from(number).ln();
            let off = (f64::from(ln(number)) - exact).abs();
            assert!(off < 2e-7 * exact.abs().max(1.0), "ln {number}: {} not {exact}", ln(number));
        }
    }
}
