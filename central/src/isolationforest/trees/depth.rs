//! c(n) as scikit-learn has it, for forests that are compared with its own.
//!
//! Never: divides by zero; c(0) and c(1) are 0.

use std::f64::consts::EULER_GAMMA;

/// c(n) with the logarithm for the harmonic number, exactly as scikit-learn has it: 1 for two points.
pub fn average_path(points: usize) -> f64 {
    match points {
        0 | 1 => 0.0,
        2 => 1.0,
        _ => {
            let last = (points - 1) as f64;
            2.0 * (last.ln() + EULER_GAMMA) - 2.0 * last / points as f64
        }
    }
}
