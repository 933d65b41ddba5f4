//! Measures layer 1: nanoseconds of processor time per point over many distinct series, and bytes per series.
//!
//! `cargo run --release -p mirador-central --example score -- [SERIES] [ROUNDS]`. Never: asserts a time.

use std::hint::black_box;
use std::time::Instant;

use mirador_central::isolationforest::detector::{Detector, Settings, Shape};

const START: u64 = 1_700_000_000_000_000_000;
const STEP: u64 = 15_000_000_000;
/// Points of every series before the measurement.
const HISTORY: u64 = 600;

/// `SplitMix64`, uniform in `[0, 1)`.
fn uniform(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// A noisy wave with seldom spikes, another one for each series.
fn value(series: u64, step: u64, random: &mut u64) -> f64 {
    let noise = uniform(random) + uniform(random) + uniform(random);
    let wave = (step as f64 * 0.01 + series as f64).sin();
    100.0 + 20.0 * wave + 10.0 * noise + if uniform(random) < 0.001 { 100.0 } else { 0.0 }
}

/// Processor seconds of this process so far, in user mode.
fn processor_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let ticks: f64 = stat.rsplit(')').next()?.split_whitespace().nth(11)?.parse().ok()?;
    Some(ticks / 100.0)
}

#[expect(clippy::print_stdout, reason = "the result is for a person")]
fn main() {
    let mut arguments = std::env::args().skip(1).filter_map(|text| text.parse::<u64>().ok());
    let (series, rounds) = (arguments.next().unwrap_or(20_000), arguments.next().unwrap_or(100));
    let settings = Settings::default();
    let mut random = 1;
    let mut detectors: Vec<Detector> = (0..series).map(|seed| Detector::new(&settings, Shape::Level, seed)).collect();
    for (index, detector) in (0..).zip(&mut detectors) {
        for step in 0..HISTORY {
            detector.observe(&settings, None, START + step * STEP, value(index, step, &mut random));
        }
    }
    let heap: usize = detectors.iter().map(Detector::heap_bytes).sum();
    let bytes = size_of::<Detector>() + heap / detectors.len().max(1);
    let mut values = vec![0.0; detectors.len()];
    let (mut processor, mut wall, mut best) = (0.0, 0.0, f64::INFINITY);
    for round in 0..rounds {
        let step = HISTORY + round;
        for (index, value_of) in (0..).zip(&mut values) {
            *value_of = value(index, step, &mut random);
        }
        let (busy, begun) = (processor_seconds(), Instant::now());
        for (detector, value) in detectors.iter_mut().zip(&values) {
            black_box(detector.observe(&settings, None, START + step * STEP, *value));
        }
        let taken = begun.elapsed().as_secs_f64();
        (wall, best) = (wall + taken, f64::min(best, taken));
        processor += processor_seconds().zip(busy).map_or(taken, |(after, before)| after - before);
    }
    let points = (series * rounds) as f64;
    println!("series {series}, points {points}, bytes per series {bytes} (of them {} in place)", size_of::<Detector>());
    println!("processor time per point {:.0} ns", processor / points * 1e9);
    println!("wall time per point {:.0} ns, best round {:.0} ns", wall / points * 1e9, best / series as f64 * 1e9);
}
