//! A forest over a table: grown once, then asked.
//!
//! Never: changes after it has grown. Invariant: `score` and `score_batch` agree to the last bit.

use super::super::engine::average_depth;
use super::depth::average_path;
use super::grow::{Grower, Sample, Shape};
use super::random::Random;
use super::rank::{self, Ranks};
use super::rows::Rows;
use super::scale::Scale;
use super::tree::{BLOCK, LANES, Sums, Tree};

/// Levels that a tree may have; a level more doubles its memory (16 levels: 1.5 MiB).
const MOST_LEVELS: u32 = 16;
/// Trees that a forest may have.
const MOST_TREES: usize = 10_000;
/// Rows that a tree may be grown from.
const MOST_SAMPLE: usize = 1 << 20;
/// Blocks of rows that pass one tree before the next, so that a tree is read from the nearest cache.
const TILE: usize = 8;
/// How much the more suspicious of two readings counts in the combined one: 1 is their mean, infinity their
/// maximum. Chosen on tables whose labels are in this repository's tests, see docs/anomaly.md.
const SHARPNESS: i32 = 8;

/// What is read off the trees, see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// `2^(-E[h]/c(psi))` of Liu, Ting and Zhou, as scikit-learn computes it.
    Classic,
    /// The same with the depth at which the row itself would be isolated.
    RangeAware,
    /// `1/(1 + d)` with `d` the geometric mean of how many times denser than the whole the row's cells are.
    Density,
    /// The range-aware and the density score as ranks among the forest's own rows, the higher one counting
    /// most: .99 is more suspicious than 99 % of them in one of the two senses.
    #[default]
    Combined,
}

/// How a forest grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// What is read off the trees.
    pub mode: Mode,
    /// How many trees (the paper's t), 1 to 10,000.
    pub trees: usize,
    /// Rows that each tree is grown from (the paper's psi), drawn without replacement; all of them when there
    /// are fewer. At most 1,048,576.
    pub sample: usize,
    /// Levels of a tree, at most 16; `None`: the logarithm of the sample, rounded up, as in the paper.
    pub depth: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { mode: Mode::default(), trees: 100, sample: 256, depth: None }
    }
}

/// Why no forest grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Nothing to grow from.
    #[error("a forest needs at least one row")]
    NoRow,
    /// Too many rows or features for the indexes.
    #[error("a forest takes at most 4294967295 rows and features")]
    TooLarge,
    /// The number of trees.
    #[error("trees is {0}, it must be 1 to 10000")]
    Trees(usize),
    /// The sample.
    #[error("sample is {0}, it must be 1 to 1048576 rows")]
    Sample(usize),
    /// The depth.
    #[error("depth is {0}, it must be 1 to 16 levels")]
    Depth(u32),
}

impl Settings {
    fn check(&self) -> Result<(), SettingsError> {
        if !(1..=MOST_TREES).contains(&self.trees) {
            return Err(SettingsError::Trees(self.trees));
        }
        if !(1..=MOST_SAMPLE).contains(&self.sample) {
            return Err(SettingsError::Sample(self.sample));
        }
        match self.depth {
            Some(depth) if !(1..=MOST_LEVELS).contains(&depth) => Err(SettingsError::Depth(depth)),
            _ => Ok(()),
        }
    }

    /// Levels of a tree over `sample` rows: no more than the paper's, unless they are set.
    fn levels(&self, sample: usize) -> u32 {
        self.depth.unwrap_or_else(|| sample.max(2).next_power_of_two().trailing_zeros()).min(MOST_LEVELS)
    }
}

/// A grown forest.
#[derive(Debug, Clone, PartialEq)]
pub struct Forest {
    mode: Mode,
    scales: Box<[Scale]>,
    /// Features that did not vary at all: a row that differs in one is cut off at the root as likely as the
    /// feature is chosen there.
    constants: Box<[u32]>,
    trees: Box<[Tree]>,
    /// One over the depth that counts as 1.
    per_depth: f64,
    ranks: Option<(Ranks, Ranks)>,
}

impl Forest {
    /// Grows a forest from `rows`.
    ///
    /// # Errors
    /// When there is no row, or a setting is out of its range.
    pub fn fit(rows: Rows<'_>, settings: &Settings, seed: u64) -> Result<Self, SettingsError> {
        settings.check()?;
        if rows.is_empty() {
            return Err(SettingsError::NoRow);
        }
        if u32::try_from(rows.len()).is_err() || u32::try_from(rows.width()).is_err() {
            return Err(SettingsError::TooLarge);
        }
        let scales = Scale::all(&rows);
        let sample = settings.sample.min(rows.len());
        let range_aware = matches!(settings.mode, Mode::RangeAware | Mode::Combined);
        let shape = Shape { levels: settings.levels(sample), range_aware };
        let mut order: Vec<u32> = (0..rows.len() as u32).collect();
        let mut values = Vec::with_capacity(sample * rows.width());
        let mut picked: Vec<u32> = Vec::with_capacity(sample);
        let trees = (0..settings.trees).map(|tree| {
            let mut random = Random::stream(seed, tree as u64);
            values.clear();
            for place in 0..sample {
                let other = place + random.below(order.len() - place);
                order.swap(place, other);
                let row = rows.row(order[place] as usize);
                values.extend(row.iter().zip(&scales).map(|(value, scale)| scale.learn(*value)));
            }
            picked.clear();
            picked.extend(0..sample as u32);
            Grower::new(Sample { values: &values, width: rows.width() }, shape, random).grow(&mut picked)
        });
        let trees = trees.collect();
        let unit = if range_aware { average_depth(sample.max(2)) } else { average_path(sample.max(2)) };
        let constants = if range_aware { constants(&rows, &scales) } else { Box::default() };
        let mut forest = Self { mode: settings.mode, scales, constants, trees, per_depth: 1.0 / unit, ranks: None };
        if settings.mode == Mode::Combined {
            forest.rank(rows);
        }
        Ok(forest)
    }

    /// Features of a row.
    pub fn width(&self) -> usize {
        self.scales.len()
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        let ranks = self.ranks.as_ref().map_or(0, |(depth, density)| depth.heap_bytes() + density.heap_bytes());
        let trees: usize = self.trees.iter().map(|tree| tree.heap_bytes() + size_of::<Tree>()).sum();
        trees + ranks + size_of_val(&*self.scales) + size_of_val(&*self.constants)
    }

    /// The score of one row, in (0, 1], higher is more suspicious.
    ///
    /// Features that a short row lacks are missing; what a long one has too many is not looked at.
    pub fn score(&self, row: &[f64]) -> f64 {
        let mut block = self.block(1);
        let mut score = 0.0;
        self.read::<1>(&mut block, 1, |_| row, |_, reading| score = self.judge(reading));
        score
    }

    /// The scores of `rows` in order, appended to `scores`.
    pub fn score_batch(&self, rows: Rows<'_>, scores: &mut Vec<f64>) {
        let mut block = self.block(TILE);
        for start in (0..rows.len()).step_by(LANES * TILE) {
            let count = (rows.len() - start).min(LANES * TILE);
            let row = |index: usize| rows.row(start + index);
            self.read::<LANES>(&mut block, count, row, |_, reading| scores.push(self.judge(reading)));
        }
    }

    /// Room for `count` blocks of rows.
    fn block(&self, count: usize) -> Vec<f32> {
        vec![0.0; self.block_len() * count]
    }

    /// Values of a block: as many as trees are quick with, or more.
    fn block_len(&self) -> usize {
        (self.width() * LANES).max(BLOCK)
    }

    /// Reads up to a tile of rows off the trees, in order; `block` has room for them.
    fn read<'r, const N: usize>(
        &self,
        block: &mut [f32],
        count: usize,
        row: impl Fn(usize) -> &'r [f64],
        mut take: impl FnMut(usize, Reading),
    ) {
        let mut sums = [[Sums::default(); N]; TILE];
        let size = self.block_len();
        for index in 0..count {
            let (at, lane) = (index / N * size, index % N);
            let row = row(index);
            for (feature, scale) in self.scales.iter().enumerate() {
                block[at + feature * LANES + lane] = scale.apply(row.get(feature).copied().unwrap_or(f64::NAN));
            }
        }
        let blocks = count.div_ceil(N);
        let range_aware = matches!(self.mode, Mode::RangeAware | Mode::Combined);
        for tree in &self.trees {
            for (block, sums) in block.chunks_exact(size).zip(&mut sums).take(blocks) {
                if range_aware {
                    tree.add::<N, true>(block, sums);
                } else {
                    tree.add::<N, false>(block, sums);
                }
            }
        }
        for index in 0..count {
            let (block, lane) = (&block[index / N * size..], index % N);
            let odd = self.constants.iter().filter(|feature| block[**feature as usize * LANES + lane] != 0.0).count();
            take(index, self.reading(sums[index / N][lane], odd));
        }
    }

    /// What the trees' sums mean for a row that differs in `odd` features that never varied.
    fn reading(&self, sums: Sums, odd: usize) -> Reading {
        let trees = self.trees.len() as f64;
        let choices = self.width() - self.constants.len() + odd;
        let cut_off = odd as f64 / choices.max(1) as f64;
        let edges = cut_off + (1.0 - cut_off) * sums.depth / trees;
        Reading { depth: (-edges * self.per_depth).exp2(), density: 1.0 / (1.0 + (sums.density / trees).exp2()) }
    }

    fn judge(&self, reading: Reading) -> f64 {
        match (self.mode, &self.ranks) {
            (Mode::Density, _) => reading.density,
            (Mode::Combined, Some((depths, densities))) => {
                combine(depths.rank(reading.depth), densities.rank(reading.density))
            }
            _ => reading.depth,
        }
    }

    /// Learns how the readings of the forest's own rows are distributed.
    fn rank(&mut self, rows: Rows<'_>) {
        let every = rows.len().div_ceil(rank::KEPT).max(1);
        let all = rows.len().div_ceil(every);
        let (mut depths, mut densities) = (Vec::with_capacity(all), Vec::with_capacity(all));
        let mut block = self.block(TILE);
        for start in (0..all).step_by(LANES * TILE) {
            let count = (all - start).min(LANES * TILE);
            let row = |index: usize| rows.row((start + index) * every);
            self.read::<LANES>(&mut block, count, row, |_, reading| {
                depths.push(reading.depth);
                densities.push(reading.density);
            });
        }
        self.ranks = Some((Ranks::of(depths), Ranks::of(densities)));
    }
}

/// Both scores of a row, in (0, 1].
#[derive(Debug, Clone, Copy)]
struct Reading {
    depth: f64,
    density: f64,
}

/// The power mean of two ranks.
fn combine(one: f64, other: f64) -> f64 {
    f64::midpoint(one.powi(SHARPNESS), other.powi(SHARPNESS)).powf(1.0 / f64::from(SHARPNESS))
}

/// Features with one value in all rows.
fn constants(rows: &Rows<'_>, scales: &[Scale]) -> Box<[u32]> {
    let varies = |feature: usize| rows.iter().any(|row| scales[feature].learn(row[feature]) != 0.0);
    (0..rows.width()).filter(|feature| !varies(*feature)).map(|feature| feature as u32).collect()
}
