//! What readers hold: trees that do not change.
//!
//! Never: changes. Invariant: a row's score does not depend on its company.

use std::sync::Arc;

use super::super::super::engine::average_depth;
use super::super::tree::{BLOCK, LANES, Leaf, Node, Sums, Tree};

/// A feature of a row: 0 when it is missing or not finite, and never the negative zero, which compares apart.
pub(super) fn value(row: &[f32], feature: usize) -> f32 {
    row.get(feature).copied().filter(|value| value.is_finite()).unwrap_or_default() + 0.0
}

/// A forest of a family as it was at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Grown {
    width: usize,
    /// Rows that each tree grew from; 0: there is none yet.
    sample: usize,
    trees: Box<[Arc<Tree>]>,
    /// Features that never varied, with their value.
    constants: Box<[(u32, f32)]>,
    per_depth: f64,
}

impl Grown {
    /// No trees.
    pub(super) fn none(width: usize) -> Self {
        Self::new(width, 0, Box::default(), Box::default())
    }

    pub(super) fn new(width: usize, sample: usize, trees: Box<[Arc<Tree>]>, constants: Box<[(u32, f32)]>) -> Self {
        Self { width, sample, trees, constants, per_depth: 1.0 / average_depth(sample.max(2)) }
    }

    /// The same with some trees replaced; places beyond the end must come in order.
    pub(super) fn with(&self, sample: usize, trees: Vec<(usize, Arc<Tree>)>, constants: Box<[(u32, f32)]>) -> Self {
        let mut all = self.trees.to_vec();
        for (place, tree) in trees {
            match all.get_mut(place) {
                Some(old) => *old = tree,
                None => all.push(tree),
            }
        }
        Self::new(self.width, sample, all.into_boxed_slice(), constants)
    }

    /// Rows that each tree grew from; 0 while there are no trees, and every score is 0.
    pub fn sample(&self) -> usize {
        self.sample
    }

    /// Features of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    pub(super) fn trees(&self) -> &[Arc<Tree>] {
        &self.trees
    }

    pub(super) fn constants(&self) -> &[(u32, f32)] {
        &self.constants
    }

    /// The range-aware score of a row in (0, 1], or 0 while nothing has grown; about .5 and less is ordinary.
    ///
    /// What a short row lacks, and what is not finite, is 0.
    pub fn score(&self, row: &[f32]) -> f64 {
        let mut block = [0.0; BLOCK];
        self.fill(&mut block, 0, row);
        self.read::<1>(&block)[0]
    }

    /// The scores of many rows in order, appended to `scores`; each row has [`Grown::width`] features.
    pub fn score_batch(&self, rows: &[f32], scores: &mut Vec<f64>) {
        let mut block = [0.0; BLOCK];
        for rows in rows.chunks(self.width * LANES) {
            for (lane, row) in rows.chunks(self.width).enumerate() {
                self.fill(&mut block, lane, row);
            }
            scores.extend_from_slice(&self.read::<LANES>(&block)[..rows.len().div_ceil(self.width)]);
        }
    }

    /// What each feature of a row adds to its score: the score less what it were with the feature at 0, the
    /// usual. One number per feature, in their order; negative where the feature makes the row look usual.
    pub fn contributions(&self, row: &[f32]) -> Vec<f64> {
        let mut rows = vec![0.0; self.width * (self.width + 1)];
        let taken = row.len().min(self.width);
        for (index, copy) in rows.chunks_exact_mut(self.width).enumerate() {
            copy[..taken].copy_from_slice(&row[..taken]);
            if let Some(feature) = index.checked_sub(1) {
                copy[feature] = 0.0;
            }
        }
        let mut scores = Vec::with_capacity(self.width + 1);
        self.score_batch(&rows, &mut scores);
        scores[1..].iter().map(|without| scores[0] - without).collect()
    }

    fn fill(&self, block: &mut [f32; BLOCK], lane: usize, row: &[f32]) {
        for feature in 0..self.width {
            block[feature * LANES + lane] = value(row, feature);
        }
    }

    fn read<const N: usize>(&self, block: &[f32; BLOCK]) -> [f64; N] {
        if self.trees.is_empty() {
            return [0.0; N];
        }
        let mut sums = [Sums::default(); N];
        for tree in &self.trees {
            tree.add::<N, true>(block, &mut sums);
        }
        let per_tree = 1.0 / self.trees.len() as f64;
        std::array::from_fn(|lane| {
            let mut edges = sums[lane].depth * per_tree;
            if !self.constants.is_empty() {
                let differs =
                    |(feature, value): &&(u32, f32)| block[*feature as usize * LANES + lane].total_cmp(value).is_ne();
                let odd = self.constants.iter().filter(differs).count();
                let choices = self.width - self.constants.len() + odd;
                let cut_off = odd as f64 / choices.max(1) as f64;
                edges = cut_off + (1.0 - cut_off) * edges;
            }
            (-edges * self.per_depth).exp2()
        })
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        let trees: usize = self.trees.iter().map(|tree| tree.heap_bytes() + size_of::<Tree>()).sum();
        trees + size_of_val(&*self.trees) + size_of_val(&*self.constants)
    }

    /// Bytes of a tree of so many levels, as the snapshot has it.
    pub(super) fn tree_bytes(levels: u32) -> usize {
        ((1 << levels) - 1) * size_of::<Node>() + (1 << levels) * size_of::<Leaf>()
    }
}
