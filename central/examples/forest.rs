//! Prints what a score costs: layer 1 (a series), layer 2 (a resource's row), the classic batch.
//!
//! `cargo run --release -p mirador-central --example forest` prints one JSON object; `cargo xtask bench forest` puts
//! it beside peers. Times are wall times of one thread: the best pass of several, because what is slower was
//! disturbed. A figure is printed and never asserted.

#![expect(clippy::print_stdout, reason = "printing figures is what this program is for")]

use std::hint::black_box;
use std::time::Instant;

use mirador_central::isolationforest::detector::{Detector, Settings as DetectorSettings, Shape};
use mirador_central::isolationforest::trees::family::{FamilyForest, FamilySettings};
use mirador_central::isolationforest::trees::{Forest, Mode, Rows, Settings};
use serde_json::json;

/// Series of layer 1.
const SERIES: usize = 20_000;
/// Points of each before it is measured: samples are full, thresholds known.
const WARM_UP: u64 = 600;
/// Points of each that are measured, all series in turn.
const POINTS: u64 = 40;
/// Rows of layer 2 and of the batch.
const ROWS: usize = 20_000;
/// Features of a row.
const WIDTH: usize = 8;
/// Rows that are timed together.
const CHUNK: usize = 512;
const PASSES: usize = 20;

/// A small generator of noise; its quality does not matter here.
struct Noise(u64);

impl Noise {
    /// About normal, variance one half.
    fn next(&mut self) -> f64 {
        (0..6).map(|_| self.unit()).sum::<f64>() - 3.0
    }

    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Nanoseconds a point and bytes a series.
fn univariate() -> (f64, f64) {
    let settings = DetectorSettings::default();
    let mut noise = Noise(1);
    let mut series: Vec<Detector> =
        (0..SERIES).map(|seed| Detector::new(&settings, Shape::Level, seed as u64)).collect();
    let mut time = 1_700_000_000_000_000_000_u64;
    let mut values = vec![0.0; SERIES];
    let (mut best, mut step) = (f64::MAX, 0);
    while step < WARM_UP + POINTS {
        time += 10_000_000_000;
        for (index, value) in values.iter_mut().enumerate() {
            *value = 100.0 + index as f64 + 10.0 * noise.next();
        }
        let started = Instant::now();
        for (detector, value) in series.iter_mut().zip(&values) {
            black_box(detector.observe(&settings, None, time, *value));
        }
        if step >= WARM_UP {
            best = best.min(started.elapsed().as_nanos() as f64 / SERIES as f64);
        }
        step += 1;
    }
    let heap: usize = series.iter().map(Detector::heap_bytes).sum();
    (best, size_of::<Detector>() as f64 + heap as f64 / SERIES as f64)
}

fn best_of(rows: &[f64], mut score: impl FnMut(&[f64])) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..PASSES {
        for chunk in rows.chunks_exact(CHUNK * WIDTH) {
            let started = Instant::now();
            score(chunk);
            best = best.min(started.elapsed().as_nanos() as f64 / CHUNK as f64);
        }
    }
    best
}

/// Nanoseconds a row, nanoseconds to rebuild an eighth, bytes of a family.
fn multivariate(rows: &[f64]) -> (f64, f64, usize) {
    let mut family = FamilyForest::new(FamilySettings::default(), 1).expect("the defaults are in their ranges");
    let as_single: Vec<f32> = rows.iter().map(|value| *value as f32).collect();
    let mut rebuild = f64::MAX;
    for (index, row) in as_single.chunks_exact(WIDTH).enumerate() {
        family.update(row, false);
        if index % 200 == 199 {
            let started = Instant::now();
            family.rebuild();
            rebuild = rebuild.min(started.elapsed().as_nanos() as f64);
        }
    }
    let grown = family.grown();
    let mut scores = Vec::with_capacity(CHUNK);
    let mut single: Vec<f32> = Vec::with_capacity(CHUNK * WIDTH);
    let nanos = best_of(rows, |chunk| {
        scores.clear();
        single.clear();
        single.extend(chunk.iter().map(|value| *value as f32));
        grown.score_batch(&single, &mut scores);
        black_box(&scores);
    });
    (nanos, rebuild, family.heap_bytes())
}

/// Nanoseconds a row to score and milliseconds to fit, 100 trees of 256 rows.
fn batch(rows: &[f64], mode: Mode) -> (f64, f64) {
    let settings = Settings { mode, ..Settings::default() };
    let table = Rows::new(rows, WIDTH).expect("the rows are whole");
    let mut fit = f64::MAX;
    for seed in 0..5 {
        let started = Instant::now();
        black_box(Forest::fit(table, &settings, seed).expect("the settings are in their ranges"));
        fit = fit.min(started.elapsed().as_secs_f64() * 1e3);
    }
    let forest = Forest::fit(table, &settings, 1).expect("the settings are in their ranges");
    let mut scores = Vec::with_capacity(CHUNK);
    let nanos = best_of(rows, |chunk| {
        scores.clear();
        forest.score_batch(Rows::new(chunk, WIDTH).expect("the rows are whole"), &mut scores);
        black_box(&scores);
    });
    (nanos, fit)
}

fn main() {
    let mut noise = Noise(2);
    let rows: Vec<f64> = (0..ROWS * WIDTH).map(|_| noise.next()).collect();
    let (point, bytes) = univariate();
    let (row, rebuild, family) = multivariate(&rows);
    let (classic, classic_fit) = batch(&rows, Mode::Classic);
    let (combined, combined_fit) = batch(&rows, Mode::Combined);
    println!(
        "{}",
        json!({
            "point_ns": point, "series_bytes": bytes,
            "row_ns": row, "rebuild_us": rebuild / 1e3, "family_bytes": family,
            "classic_ns": classic, "classic_fit_ms": classic_fit,
            "combined_ns": combined, "combined_fit_ms": combined_fit,
        })
    );
}
