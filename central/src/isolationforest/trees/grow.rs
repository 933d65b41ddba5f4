//! How a tree grows from a sample: a feature at random, a threshold at random within its extent, until rows are
//! alone, alike or too deep.
//!
//! Features are drawn uniformly among those that vary in the node, thresholds uniformly in `[least, most)`, as the
//! paper and scikit-learn have it. Never: splits a feature that does not vary, leaves a side empty.

use super::super::engine::average_depth;
use super::depth::average_path;
use super::random::Random;
use super::tree::{Leaf, Node, Tree};

/// The least share of a node's extent that a cell is taken to have, so that densities stay finite.
const LEAST_SHARE: f32 = 1.0 / 16_777_216.0;
/// One over an extent of nothing: every other value is separated for certain.
const POINT: f32 = 1e30;

/// What a tree is grown from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample<'a> {
    /// Scaled rows, one after the other.
    pub(crate) values: &'a [f32],
    /// Features of a row.
    pub(crate) width: usize,
}

/// How a tree grows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Levels below the root.
    pub(crate) levels: u32,
    /// Whether leaves are read by the range-aware depth.
    pub(crate) range_aware: bool,
}

/// Grows one tree.
#[derive(Debug)]
pub(crate) struct Grower<'a> {
    sample: Sample<'a>,
    shape: Shape,
    random: Random,
    nodes: Box<[Node]>,
    leaves: Box<[Leaf]>,
    /// Features that vary in the sample.
    varying: Vec<u32>,
    /// Features that have not been tried in the node at hand.
    untried: Vec<u32>,
}

/// A node that is to be split or ended.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Its number in the heap; the root has 1.
    index: usize,
    level: u32,
    /// Logarithm of how much denser than the whole its cell is.
    density: f32,
}

impl Place {
    fn child(self, right: bool, density: f32) -> Self {
        Self { index: 2 * self.index + usize::from(right), level: self.level + 1, density: self.density + density }
    }
}

impl<'a> Grower<'a> {
    /// For the rows of `sample`.
    pub(crate) fn new(sample: Sample<'a>, shape: Shape, random: Random) -> Self {
        let ends = 1_usize << shape.levels;
        let (nodes, leaves) = (vec![Node::PASS; ends], vec![Leaf::default(); ends]);
        Self {
            sample,
            shape,
            random,
            nodes: nodes.into_boxed_slice(),
            leaves: leaves.into_boxed_slice(),
            varying: Vec::new(),
            untried: Vec::new(),
        }
    }

    /// The tree over the rows numbered `rows`, whose order changes.
    pub(crate) fn grow(mut self, rows: &mut [u32]) -> Tree {
        let features = 0..self.sample.width as u32;
        self.varying = features.filter(|feature| self.extent(rows, *feature).is_some()).collect();
        self.untried.reserve(self.varying.len());
        self.place(rows, Place { index: 1, level: 0, density: 0.0 });
        Tree::new(self.nodes, self.leaves)
    }

    fn place(&mut self, rows: &mut [u32], place: Place) {
        let split = if rows.len() > 1 && place.level < self.shape.levels { self.split(rows) } else { None };
        let Some((feature, least, most)) = split else {
            return self.end(rows, place);
        };
        let extent = most - least;
        let mut threshold = least + self.random.unit() as f32 * extent;
        if threshold >= most {
            threshold = least;
        }
        let middle = least + extent / 2.0;
        let per_extent = (1.0 / extent).min(POINT);
        self.nodes[place.index] = Node { threshold, middle, per_extent, feature };
        let mut count = 0;
        for index in 0..rows.len() {
            if self.value(rows[index], feature) <= threshold {
                rows.swap(index, count);
                count += 1;
            }
        }
        let all = rows.len() as f32;
        let (left, right) = rows.split_at_mut(count);
        let share = (threshold - least) / extent;
        let density = |rows: &[u32], share: f32| (rows.len() as f32 / all / share.max(LEAST_SHARE)).log2();
        let (on_left, on_right) = (density(left, share), density(right, 1.0 - share));
        self.place(left, place.child(false, on_left));
        self.place(right, place.child(true, on_right));
    }

    /// A feature that varies, drawn uniformly, with its extent.
    fn split(&mut self, rows: &[u32]) -> Option<(u32, f32, f32)> {
        let mut untried = std::mem::take(&mut self.untried);
        untried.clear();
        untried.extend_from_slice(&self.varying);
        let mut found = None;
        while found.is_none() && !untried.is_empty() {
            let feature = untried.swap_remove(self.random.below(untried.len()));
            found = self.extent(rows, feature).map(|(least, most)| (feature, least, most));
        }
        self.untried = untried;
        found
    }

    /// Ends a path above the last level or on it: all leaves below `place` are one.
    fn end(&mut self, rows: &[u32], place: Place) {
        let below = self.shape.levels - place.level;
        let depth = if self.shape.range_aware {
            // With the row itself there is one more; what only leads on is counted by the descent and taken back.
            average_depth(rows.len() + 1) - f64::from(below)
        } else if rows.len() == self.sample.values.len() / self.sample.width && rows.len() == 1 {
            // A single row is as deep as average: 0.5, as in scikit-learn.
            1.0
        } else {
            f64::from(place.level) + average_path(rows.len())
        };
        let first = (place.index << below) - self.leaves.len();
        let leaf = Leaf { depth: depth as f32, density: place.density };
        self.leaves[first..first + (1 << below)].fill(leaf);
        if self.shape.range_aware && below > 0 && rows.len() > 1 && !self.varying.is_empty() {
            // Rows that are all alike: another one parts from them with the next cut.
            let feature = self.varying[self.random.below(self.varying.len())];
            let middle = self.value(rows[0], feature);
            self.nodes[place.index] = Node { threshold: f32::INFINITY, middle, per_extent: POINT, feature };
        }
    }

    fn value(&self, row: u32, feature: u32) -> f32 {
        self.sample.values[row as usize * self.sample.width + feature as usize]
    }

    /// Least and most of a feature; `None` when it does not vary.
    fn extent(&self, rows: &[u32], feature: u32) -> Option<(f32, f32)> {
        let (mut least, mut most) = (f32::INFINITY, f32::NEG_INFINITY);
        for row in rows {
            let value = self.value(*row, feature);
            least = least.min(value);
            most = most.max(value);
        }
        (most > least).then_some((least, most))
    }
}
