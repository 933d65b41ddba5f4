//! One forest for all resources of a kind: what is odd about a resource is what is odd among its like.
//!
//! A row is a vector of surprises (see [`resource`]), one per signal, 0 where nothing is known. Rows enter a
//! reservoir that forgets by the horizon; an eighth of the trees grows anew from it in each epoch, all of them
//! when the rows drift. Readers hold an [`Arc`] of what has grown ([`FamilyForest::grown`]) and are never in
//! anybody's way; a rebuild is a value that any thread can run:
//!
//! ```
//! use mirador_central::isolationforest::trees::family::{FamilyForest, FamilySettings};
//!
//! let settings = FamilySettings { width: 2, ..FamilySettings::default() };
//! let mut family = FamilyForest::new(settings, 7).expect("the settings are in their ranges");
//! for row in 0..200_u16 {
//!     family.update(&[f32::from(row % 7), f32::from(row % 5)], false);
//! }
//! if let Some(rebuild) = family.plan() {
//!     family.accept(rebuild.run()); // `run` may happen elsewhere
//! }
//! let grown = family.grown();
//! assert!(grown.score(&[60.0, -40.0]) > grown.score(&[3.0, 2.0]));
//! ```
//!
//! Never: does IO, reads a clock, waits. Invariants: the same seed and calls give the same scores; memory is
//! bounded by the settings; what [`FamilyForest::restore`] brings back goes on as if nothing had happened.

mod grown;
pub mod resource;
mod snapshot;

use std::sync::Arc;

pub use grown::Grown;
pub use snapshot::SnapshotError;

use super::grow::{Grower, Sample, Shape};
use super::random::Random;
use super::tree::Tree;

/// Parts in which the trees are rebuilt, one per epoch.
const PARTS: usize = 8;
/// One row in this many enters the reservoir while the rows look anomalous.
const ANOMALY_DILUTION: usize = 5;
/// Rows that the share of anomalies is measured over.
const DRIFT_WINDOW: f64 = 256.0;
/// The rows have drifted when this many times the expected share of them is anomalous.
const DRIFT_FACTOR: f64 = 4.0;

/// How a family's forest behaves.
#[derive(Debug, Clone, PartialEq)]
pub struct FamilySettings {
    /// Features of a row, 1 to 16.
    pub width: usize,
    /// Trees, 1 to 1,000.
    pub trees: usize,
    /// Rows that a tree grows from, 2 to 65,536.
    pub sample: usize,
    /// Rows that are kept, at least `sample`, at most 1,048,576.
    pub reservoir: usize,
    /// Rows before there are scores.
    pub warmup_rows: usize,
    /// Epochs over which the reservoir forgets: a row stays so long on average, once so many have passed.
    pub horizon_epochs: u32,
    /// The share of rows that is expected to be anomalous; four times as many are a drift.
    pub expected_anomalies: f64,
}

impl Default for FamilySettings {
    fn default() -> Self {
        Self {
            width: resource::SIGNALS,
            trees: 50,
            sample: 256,
            reservoir: 4096,
            warmup_rows: 64,
            horizon_epochs: 8640,
            expected_anomalies: 0.01,
        }
    }
}

impl FamilySettings {
    /// What is out of its range, if anything is.
    fn problem(&self) -> Option<&'static str> {
        let checks = [
            ((1..=16).contains(&self.width), "width must be 1 to 16"),
            ((1..=1000).contains(&self.trees), "trees must be 1 to 1000"),
            ((2..=65_536).contains(&self.sample), "sample must be 2 to 65536"),
            ((self.sample..=1 << 20).contains(&self.reservoir), "reservoir must be sample to 1048576"),
            ((2..=self.reservoir).contains(&self.warmup_rows), "warmup_rows must be 2 to reservoir"),
            (self.horizon_epochs > 0, "horizon_epochs must be at least 1"),
            (
                self.expected_anomalies > 0.0 && self.expected_anomalies < 0.25,
                "expected_anomalies must be in (0, 0.25)",
            ),
        ];
        checks.into_iter().find_map(|(holds, problem)| (!holds).then_some(problem))
    }

    /// Levels of every tree; fewer rows than `sample` leave the lower ones empty.
    fn levels(&self) -> u32 {
        self.sample.next_power_of_two().trailing_zeros()
    }
}

/// A family's reservoir and the forest that grew from it.
#[derive(Debug, Clone)]
pub struct FamilyForest {
    settings: FamilySettings,
    /// Rows, one after the other.
    reservoir: Vec<f32>,
    random: Random,
    /// Rows so far.
    seen: u64,
    /// Rows per epoch, smoothed, and those of this epoch.
    rate: f64,
    rows_in_epoch: u32,
    /// The share of anomalies among late rows.
    anomalies: f64,
    /// Rows that still enter undiluted after a drift.
    learning: usize,
    /// The reservoir is not what the trees have seen.
    changed: bool,
    drifted: bool,
    /// The part of the trees that is rebuilt next.
    part: usize,
    grown: Arc<Grown>,
}

/// Trees that are to be grown: rows and seeds, nothing borrowed.
#[derive(Debug)]
pub struct Rebuild {
    /// One sample per tree, one after the other.
    values: Vec<f32>,
    width: usize,
    sample: usize,
    levels: u32,
    trees: Vec<(usize, Random)>,
    constants: Box<[(u32, f32)]>,
}

/// Trees that have grown and wait to take their places.
#[derive(Debug)]
pub struct Rebuilt {
    sample: usize,
    trees: Vec<(usize, Arc<Tree>)>,
    constants: Box<[(u32, f32)]>,
}

impl Rebuild {
    /// Grows the trees: about 50 µs a tree of 256 rows and 8 features.
    pub fn run(self) -> Rebuilt {
        let shape = Shape { levels: self.levels, range_aware: true };
        let mut order = Vec::with_capacity(self.sample);
        let samples = self.values.chunks_exact(self.sample * self.width);
        let trees = self.trees.into_iter().zip(samples).map(|((place, random), values)| {
            order.clear();
            order.extend(0..self.sample as u32);
            let sample = Sample { values, width: self.width };
            (place, Arc::new(Grower::new(sample, shape, random).grow(&mut order)))
        });
        Rebuilt { sample: self.sample, trees: trees.collect(), constants: self.constants }
    }

    /// How many trees.
    pub fn trees(&self) -> usize {
        self.trees.len()
    }
}

impl FamilyForest {
    /// Knows nothing.
    ///
    /// # Errors
    /// Says which setting is out of its range.
    pub fn new(settings: FamilySettings, seed: u64) -> Result<Self, &'static str> {
        if let Some(problem) = settings.problem() {
            return Err(problem);
        }
        Ok(Self {
            grown: Arc::new(Grown::none(settings.width)),
            settings,
            reservoir: Vec::new(),
            random: Random::stream(seed, 0),
            seen: 0,
            rate: 0.0,
            rows_in_epoch: 0,
            anomalies: 0.0,
            learning: 0,
            changed: false,
            drifted: false,
            part: 0,
        })
    }

    /// Takes a row, shorter ones are filled with 0; `is_anomalous` is what was decided about it.
    ///
    /// Anomalous rows mostly stay out, so that an incident does not become the norm, until they are so many that
    /// they are it.
    pub fn update(&mut self, row: &[f32], is_anomalous: bool) {
        self.seen = self.seen.saturating_add(1);
        self.rows_in_epoch = self.rows_in_epoch.saturating_add(1);
        self.anomalies += (f64::from(u8::from(is_anomalous)) - self.anomalies) / DRIFT_WINDOW;
        if self.anomalies > DRIFT_FACTOR * self.settings.expected_anomalies && !self.drifted && self.learning == 0 {
            self.drifted = true;
            self.learning = self.settings.reservoir / PARTS;
        }
        let rows = self.rows();
        let full = rows >= self.settings.reservoir;
        let dilution = if is_anomalous && self.learning == 0 { ANOMALY_DILUTION } else { 1 };
        let shares = if full && self.learning == 0 { self.span() / rows as f64 } else { 1.0 };
        self.learning = self.learning.saturating_sub(1);
        if self.random.unit() * shares * dilution as f64 >= 1.0 {
            return;
        }
        let width = self.settings.width;
        let at = if full { self.random.below(rows) * width } else { self.reservoir.len() };
        if !full {
            if self.reservoir.len() == self.reservoir.capacity() {
                let most = self.settings.reservoir * width;
                let more = self.reservoir.len().max(64 * width).min(most - self.reservoir.len());
                self.reservoir.reserve_exact(more);
            }
            self.reservoir.resize(at + width, 0.0);
        }
        for (feature, kept) in self.reservoir[at..at + width].iter_mut().enumerate() {
            *kept = grown::value(row, feature);
        }
        self.changed = true;
    }

    /// Rows that the reservoir stands for: those of the horizon, or all while they are fewer.
    fn span(&self) -> f64 {
        let horizon = self.rate * f64::from(self.settings.horizon_epochs);
        (self.seen as f64).min(horizon.max(self.rows() as f64))
    }

    /// Ends an epoch and says which trees are to be grown anew, if any.
    ///
    /// All trees while the forest is new or has drifted, an eighth of them when the reservoir has changed since.
    /// The result must come back by [`FamilyForest::accept`] before the next call for scores to stay the same
    /// in every run.
    pub fn plan(&mut self) -> Option<Rebuild> {
        let rows = f64::from(std::mem::take(&mut self.rows_in_epoch));
        self.rate = if self.rate > 0.0 { self.rate + (rows - self.rate) / 16.0 } else { rows };
        if !self.changed || self.rows() < self.settings.warmup_rows {
            return None;
        }
        let sample = self.settings.sample.min(self.rows());
        let grown = self.grown.sample();
        let outgrown = sample != grown && (sample == self.settings.sample || sample >= 2 * grown);
        let all = outgrown || std::mem::take(&mut self.drifted);
        // A part keeps the sample of its siblings: depths of one forest have one unit.
        let sample = if all { sample } else { grown };
        let trees = self.settings.trees;
        let places = if all {
            0..trees
        } else {
            let part = self.part;
            self.part = (part + 1) % PARTS;
            part * trees / PARTS..(part + 1) * trees / PARTS
        };
        if self.part == 0 || all {
            self.changed = false;
        }
        Some(self.rebuild_of(places, sample))
    }

    fn rebuild_of(&mut self, places: std::ops::Range<usize>, sample: usize) -> Rebuild {
        let (width, rows) = (self.settings.width, self.rows());
        let mut order: Vec<u32> = (0..rows as u32).collect();
        let mut values = Vec::with_capacity(places.len() * sample * width);
        let mut trees = Vec::with_capacity(places.len());
        for place in places {
            let mut random = Random::stream(self.random.next(), place as u64);
            for index in 0..sample {
                let other = index + random.below(rows - index);
                order.swap(index, other);
                let at = order[index] as usize * width;
                values.extend_from_slice(&self.reservoir[at..at + width]);
            }
            trees.push((place, random));
        }
        Rebuild { values, width, sample, levels: self.settings.levels(), trees, constants: self.constants() }
    }

    /// Features with one value in all rows.
    fn constants(&self) -> Box<[(u32, f32)]> {
        let width = self.settings.width;
        let constant = |feature: usize| {
            let mut values = self.reservoir.iter().skip(feature).step_by(width);
            let first = values.next().copied()?;
            values.all(|value| value.total_cmp(&first).is_eq()).then_some((feature as u32, first))
        };
        (0..width).filter_map(constant).collect()
    }

    /// Puts grown trees in their places. Readers that hold the old [`Grown`] keep it until they ask again.
    pub fn accept(&mut self, rebuilt: Rebuilt) {
        self.grown = Arc::new(self.grown.with(rebuilt.sample, rebuilt.trees, rebuilt.constants));
    }

    /// [`FamilyForest::plan`] and what follows from it, here and now; says whether trees were grown.
    pub fn rebuild(&mut self) -> bool {
        let rebuilt = self.plan().map(Rebuild::run);
        let any = rebuilt.is_some();
        if let Some(rebuilt) = rebuilt {
            self.accept(rebuilt);
        }
        any
    }

    /// What has grown so far.
    pub fn grown(&self) -> Arc<Grown> {
        Arc::clone(&self.grown)
    }

    /// The score of a row, see [`Grown::score`].
    pub fn score(&self, row: &[f32]) -> f64 {
        self.grown.score(row)
    }

    /// Rows in the reservoir.
    pub fn rows(&self) -> usize {
        self.reservoir.len() / self.settings.width
    }

    /// Rows so far.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.reservoir.capacity() * size_of::<f32>() + self.grown.heap_bytes()
    }
}

#[cfg(test)]
mod tests;
