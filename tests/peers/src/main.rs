//! Prints what a score costs with the isolation forests of others; run by `cargo xtask bench forest`.
//!
//! The same rows, sizes and clock as `central/examples/forest.rs`: the best pass of several, one thread. The fourth
//! line is what one model of krcf for one series costs a point, score and update. Never: asserts a figure.

use std::hint::black_box;
use std::time::Instant;

use extended_isolation_forest::{Forest, ForestOptions};
use krcf::{RandomCutForest, RandomCutForestOptions};

const ROWS: usize = 20_000;
const WIDTH: usize = 8;
const CHUNK: usize = 64;
const PASSES: usize = 3;

struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        (0..6).map(|_| self.unit()).sum::<f64>() - 3.0
    }

    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn best_of<T>(rows: &[T], mut score: impl FnMut(&T)) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..PASSES {
        for chunk in rows.chunks_exact(CHUNK) {
            let started = Instant::now();
            chunk.iter().for_each(&mut score);
            best = best.min(started.elapsed().as_nanos() as f64 / CHUNK as f64);
        }
    }
    best
}

fn random_cut_forest(dimensions: usize) -> RandomCutForest {
    RandomCutForest::new(RandomCutForestOptions {
        dimensions,
        shingle_size: 1,
        num_trees: Some(50),
        sample_size: Some(256),
        random_seed: Some(1),
        ..Default::default()
    })
    .expect("the options are krcf's own defaults but for the sizes")
}

fn main() {
    let mut noise = Noise(2);
    let rows: Vec<[f64; WIDTH]> = (0..ROWS).map(|_| std::array::from_fn(|_| noise.next())).collect();
    let single: Vec<[f32; WIDTH]> = rows.iter().map(|row| row.map(|value| value as f32)).collect();
    let options = ForestOptions { n_trees: 100, sample_size: 256, max_tree_depth: None, extension_level: 0 };
    let started = Instant::now();
    let forest = Forest::from_slice(&rows, &options).expect("there are enough rows");
    let fit = started.elapsed().as_secs_f64() * 1e3;
    let extended = best_of(&rows[..4096], |row| {
        black_box(forest.score(row));
    });
    let mut forest = random_cut_forest(WIDTH);
    single[..2000].iter().for_each(|row| forest.update(row).expect("the row has the forest's width"));
    let cut = best_of(&single[..1024], |row| {
        black_box(forest.score(row).expect("the row has the forest's width"));
    });
    let mut forest = random_cut_forest(1);
    rows[..2000].iter().for_each(|row| forest.update(&[row[0] as f32]).expect("one value"));
    let point = best_of(&single[..1024], |row| {
        black_box(forest.score(&row[..1]).expect("one value"));
        forest.update(&row[..1]).expect("one value");
    });
    println!(
        "{{\"extended_ns\": {extended}, \"extended_fit_ms\": {fit}, \"krcf_row_ns\": {cut}, \"krcf_point_ns\": {point}}}"
    );
}
