//! c(n): how deep a point lies on average in a random tree over n points, which is what depths are measured by.
//!
//! `c(n) = 2 H(n-1) - 2 (n-1)/n` with the harmonic number H (Liu, Ting, Zhou 2008, equation 1).
//! Never: divides by zero; c(0) and c(1) are 0.

/// Euler's constant.
const EULER_GAMMA: f64 = 0.577_215_664_901_532_9;
/// Up to here harmonic numbers are summed; beyond, the logarithm is closer than `1e-4`.
const SUMMED: usize = 64;

/// c(n) with the logarithm for the harmonic number, exactly as scikit-learn has it: 1 for two points.
pub fn average_path(points: usize) -> f64 {
    match points {
        0 | 1 => 0.0,
        2 => 1.0,
        _ => from_harmonic(points, ((points - 1) as f64).ln() + EULER_GAMMA),
    }
}

/// c(n) with the harmonic number itself up to 64 points, and with its expansion to 1/n² beyond.
pub fn average_path_exact(points: usize) -> f64 {
    if points <= 1 {
        return 0.0;
    }
    let last = (points - 1) as f64;
    let harmonic = if points <= SUMMED {
        (1..points).map(|index| 1.0 / index as f64).sum()
    } else {
        last.ln() + EULER_GAMMA + 1.0 / (2.0 * last) - 1.0 / (12.0 * last * last)
    };
    from_harmonic(points, harmonic)
}

fn from_harmonic(points: usize, harmonic: f64) -> f64 {
    2.0 * harmonic - 2.0 * (points - 1) as f64 / points as f64
}
