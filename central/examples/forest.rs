//! Prints what a score costs: layer 1 (a series), layer 2 (a resource's row), the classic batch.
//!
//! `cargo run --release -p mirador-central --example forest` prints one JSON object; `cargo xtask bench forest` puts
//! it beside peers. Times are processor times of one thread: the best pass of several, because what is slower was
//! disturbed. Bytes are counted by the allocator. A figure is printed and never asserted.

#![expect(clippy::print_stdout, reason = "printing figures is what this program is for")]

use std::hint::black_box;
use std::sync::Arc;

use allocation_counter::measure;
use mirador_central::isolationforest::Config;
use mirador_central::isolationforest::detector::{Detector, Settings as DetectorSettings, Shape};
use mirador_central::isolationforest::pass::Shard;
use mirador_central::isolationforest::trees::family::{FamilyForest, FamilySettings};
use mirador_central::isolationforest::trees::{Forest, Mode, Rows, Settings};
use mirador_otlp::{Limits, Request, Signal};
use mirador_support::load::metrics::{Payload, STEP_NANOS};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

/// When points begin, unix nanoseconds.
const START: u64 = 1_700_000_000_000_000_000;

/// Series of layer 1.
const SERIES: usize = 20_000;
/// Points of each before it is measured: samples are full, thresholds known.
const WARM_UP: u64 = 600;
/// Points of each that are measured, all series in turn.
const POINTS: u64 = 100;
/// Points of each before bytes are counted.
const COUNTED: u64 = 128;
/// Points of a request of the pass that is timed without process, network and store.
const REQUEST: usize = 2_000;
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

/// Processor time of this thread, in nanoseconds.
fn processor() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 * 1e9 + now.tv_nsec as f64
}

/// Nanoseconds a point of so many series in turn.
fn univariate(count: usize) -> f64 {
    let settings = DetectorSettings::default();
    let mut noise = Noise(1);
    let mut series: Vec<Detector> =
        (0..count).map(|seed| Detector::new(&settings, Shape::Level, seed as u64)).collect();
    let mut time = START;
    let mut values = vec![0.0; count];
    let mut best = f64::MAX;
    for step in 0..WARM_UP + POINTS {
        time += STEP_NANOS;
        for (index, value) in values.iter_mut().enumerate() {
            *value = 100.0 + index as f64 + 10.0 * noise.next();
        }
        let started = processor();
        for (detector, value) in series.iter_mut().zip(&values) {
            black_box(detector.observe(&settings, None, time, *value));
        }
        if step >= WARM_UP {
            best = best.min((processor() - started) / count as f64);
        }
    }
    best
}

/// Passes requests that bring so many points to each of [`SERIES`] series; nanoseconds a point of the best round.
fn passed(shard: &mut Shard, payloads: &mut [Payload], time: &mut u64, points: u64) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..points {
        *time += STEP_NANOS;
        let mut spent = 0.0;
        for payload in payloads.iter_mut() {
            let body = payload.later().slice(5..);
            let started = processor();
            let request = Request::parse(Signal::Metrics, body, &Limits::default()).expect("the payload is OTLP");
            let outcome = black_box(shard.pass(&request, None, *time));
            assert_eq!(outcome.tally.points, REQUEST as u64, "no point is lost");
            drop(outcome);
            spent += processor() - started;
        }
        best = best.min(spent / SERIES as f64);
    }
    best
}

/// Nanoseconds a point from the bytes of a request to samples and scores, and bytes a series, all in.
fn pass() -> (f64, f64) {
    let mut payloads: Vec<Payload> =
        (0..SERIES / REQUEST).map(|index| Payload::new(index * REQUEST, REQUEST, START)).collect();
    let (mut kept, mut time) = (None, START);
    let counted = measure(|| {
        let mut shard = Shard::new(Arc::new(Config::default()), 1);
        passed(&mut shard, &mut payloads, &mut time, COUNTED);
        kept = Some(shard);
    });
    let nanos = kept.map_or(f64::NAN, |mut shard| passed(&mut shard, &mut payloads, &mut time, POINTS));
    (nanos, counted.bytes_current as f64 / SERIES as f64)
}

fn best_of(rows: &[f64], mut score: impl FnMut(&[f64])) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..PASSES {
        for chunk in rows.chunks_exact(CHUNK * WIDTH) {
            let started = processor();
            score(chunk);
            best = best.min((processor() - started) / CHUNK as f64);
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
            let started = processor();
            family.rebuild();
            rebuild = rebuild.min(processor() - started);
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
        let started = processor();
        black_box(Forest::fit(table, &settings, seed).expect("the settings are in their ranges"));
        fit = fit.min((processor() - started) / 1e6);
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
    let (point, hot) = (univariate(SERIES), univariate(50));
    let (passed, bytes) = pass();
    let (row, rebuild, family) = multivariate(&rows);
    let (classic, classic_fit) = batch(&rows, Mode::Classic);
    let (combined, combined_fit) = batch(&rows, Mode::Combined);
    println!(
        "{}",
        json!({
            "point_ns": point, "hot_point_ns": hot, "pass_ns": passed, "series_bytes": bytes,
            "row_ns": row, "rebuild_us": rebuild / 1e3, "family_bytes": family,
            "classic_ns": classic, "classic_fit_ms": classic_fit,
            "combined_ns": combined, "combined_fit_ms": combined_fit,
        })
    );
}
