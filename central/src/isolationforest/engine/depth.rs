//! The closed form of the expected isolation depth in one dimension.
//!
//! For a sorted sample `x` and a query `q` the expected depth is
//! `sum over the right of (x[i]-x[i-1])/(x[i]-q) + sum over the left of (x[i+1]-x[i])/(q-x[i])`,
//! where the term of the nearest point on each side is 1. Points that equal the query are skipped and add the
//! depth that it takes to tell them apart, `c(multiplicity + 1)`.
//!
//! Never: allocates, depends on the order of evaluation across machines (fixed lanes of f32).

use std::f64::consts::EULER_GAMMA;
use std::sync::LazyLock;

/// Sample sizes up to here have their average depth in a table.
const TABLE: usize = 1025;
/// Independent sums, so that the compiler can keep them in vector registers.
const LANES: usize = 8;
/// Points nearer to the query than this share of the sample's middle range count as equal to it.
const TIE: f32 = 1e-3;

static AVERAGE_DEPTHS: LazyLock<Vec<f64>> = LazyLock::new(|| {
    let mut harmonic = 0.0;
    let mut table = vec![0.0; TABLE + 1];
    for (size, depth) in table.iter_mut().enumerate().skip(2) {
        harmonic += 1.0 / (size - 1) as f64;
        *depth = 2.0 * harmonic - 2.0 * (size - 1) as f64 / size as f64;
    }
    table
});

/// `c(n) = 2 H(n-1) - 2 (n-1)/n`: the average depth of an unsuccessful search among `n` points (Liu, Ting, Zhou
/// 2008, equation 1), with harmonic numbers H that are summed up to 1025 points and expanded to 1/n² beyond.
pub fn average_depth(points: usize) -> f64 {
    AVERAGE_DEPTHS.get(points).copied().unwrap_or_else(|| {
        let last = (points - 1) as f64;
        let harmonic = last.ln() + EULER_GAMMA + 1.0 / (2.0 * last) - 1.0 / (12.0 * last * last);
        2.0 * harmonic - 2.0 * last / points as f64
    })
}

/// `E[h(query)]` over a sorted sample; 0 for an empty one.
pub fn expected_depth(sorted: &[f32], query: f32) -> f64 {
    if sorted.is_empty() {
        return 0.0;
    }
    let edge = sorted.len() / 10;
    let tie = TIE * (sorted[sorted.len() - 1 - edge] - sorted[edge]);
    let left = sorted.partition_point(|value| *value < query - tie);
    let right = left + sorted[left..].partition_point(|value| *value <= query + tie);
    let mut depth = 0.0;
    if right > left {
        depth += average_depth(right - left + 1);
    }
    if left > 0 {
        depth += 1.0 + f64::from(gap_terms(&sorted[..left], query, false));
    }
    if right < sorted.len() {
        depth += 1.0 + f64::from(gap_terms(&sorted[right..], query, true));
    }
    depth
}

/// Sum of `gap / distance of its farther end` over the gaps of one side, which lies above the query or below it.
///
/// The nearest point of the side, whose term is 1, is the caller's.
fn gap_terms(side: &[f32], query: f32, above: bool) -> f32 {
    let pairs = side.len().saturating_sub(1);
    let (low, high) = (&side[..pairs], &side[side.len() - pairs..]);
    let away = if above { high } else { low };
    let mut sums = [0.0_f32; LANES];
    let (low, low_rest) = low.as_chunks::<LANES>();
    let (high, high_rest) = high.as_chunks::<LANES>();
    let (away, away_rest) = away.as_chunks::<LANES>();
    for ((low, high), away) in low.iter().zip(high).zip(away) {
        for lane in 0..LANES {
            sums[lane] += (high[lane] - low[lane]) / (away[lane] - query).abs();
        }
    }
    for (lane, ((low, high), away)) in low_rest.iter().zip(high_rest).zip(away_rest).enumerate() {
        sums[lane] += (high - low) / (away - query).abs();
    }
    sums.iter().sum()
}
