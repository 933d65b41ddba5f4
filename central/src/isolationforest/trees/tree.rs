//! A tree as the descent wants it: every leaf at the same level, nodes numbered as in a heap, no pointers.
//!
//! Eight or sixteen rows go down side by side, without a branch that depends on them: while one waits for its node
//! the others move. Most trees have eight levels and few features; theirs lie in arrays whose bounds the compiler
//! knows. Never: allocates while it scores. Invariant: a row's result depends neither on its company nor on how the
//! nodes lie.
#![expect(
    clippy::inline_always,
    reason = "the descent is unrolled over its lanes; a call in it would cost more than its work"
)]

/// Rows of a block, and the distance between the features of one row in it.
pub(crate) const LANES: usize = 16;
/// Rows that go down side by side where chances are computed: what they need fits into the registers.
const HALF: usize = LANES / 2;
/// Features of a block whose length the compiler knows.
pub(crate) const FEW: usize = 16;
/// Values of a block that [`Tree::add`] is quick with: `FEW` features, and lanes counted from the last of them.
pub(crate) const BLOCK: usize = (FEW + 1) * LANES;
/// Nodes of a tree of eight levels, and one that is not used: the root has number 1.
const SMALL: usize = 256;
/// Levels after which the chance of being still unseparated is folded: two to the power of
/// `FOLD * log2(LARGEST_STEP)` must be a finite `f32`.
const FOLD: usize = 4;
/// The most that one node lowers that chance by; a row a thousand million spans away is as good as separated.
const LARGEST_STEP: f32 = 1_073_741_824.0;

/// An inner node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Node {
    /// Rows with more than this in the feature go right.
    pub(crate) threshold: f32,
    /// The middle of the node's rows along the feature.
    pub(crate) middle: f32,
    /// One over their extent; 0 lets every row pass, as a node does that only leads on to a leaf.
    pub(crate) per_extent: f32,
    /// Which feature.
    pub(crate) feature: u32,
}

impl Node {
    /// Leads left, separates nothing.
    pub(crate) const PASS: Self = Self { threshold: f32::INFINITY, middle: 0.0, per_extent: 0.0, feature: 0 };
}

/// What is at the bottom.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Leaf {
    /// What is added to the depth, see [`Tree::new`].
    pub(crate) depth: f32,
    /// Logarithm (base 2) of how much denser the leaf's cell is than the whole.
    pub(crate) density: f32,
}

/// One tree.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tree {
    nodes: Nodes,
    leaves: Box<[Leaf]>,
}

/// How the nodes lie.
#[derive(Debug, Clone, PartialEq)]
enum Nodes {
    /// Eight levels, few features.
    Small(Box<Small>),
    /// Any other tree.
    Large(Box<[Node]>),
}

/// What trees say about one row, summed over them.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Sums {
    pub(crate) depth: f64,
    pub(crate) density: f64,
}

impl Tree {
    /// `nodes` as a heap whose root has number 1; number 0 is not used. As many leaves as nodes.
    ///
    /// For the classic reading a leaf's `depth` is all of it. For the range-aware one every level adds its
    /// chance by itself, so a leaf's `depth` is what comes below it, less one for each level that only led on.
    pub(crate) fn new(nodes: Box<[Node]>, leaves: Box<[Leaf]>) -> Self {
        debug_assert!(leaves.len().is_power_of_two() && nodes.len() == leaves.len(), "a perfect heap");
        let is_small = nodes.len() == SMALL && nodes.iter().all(|node| (node.feature as usize) < FEW);
        let nodes = if is_small { Nodes::Small(Box::new(Small::of(&nodes))) } else { Nodes::Large(nodes) };
        Self { nodes, leaves }
    }

    /// The nodes from the root on, level by level.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = Node> {
        (1..self.leaves.len()).map(|number| match &self.nodes {
            Nodes::Small(nodes) => nodes.node(number),
            Nodes::Large(nodes) => nodes[number],
        })
    }

    pub(crate) fn leaves(&self) -> &[Leaf] {
        &self.leaves
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        let nodes = match &self.nodes {
            Nodes::Small(_) => size_of::<Small>(),
            Nodes::Large(nodes) => size_of_val(&**nodes),
        };
        nodes + size_of_val(&*self.leaves)
    }

    /// Adds the reading of `N` rows to `sums`; value `lane` of feature `f` is `block[f * LANES + lane]`.
    pub(crate) fn add<const N: usize, const RANGE_AWARE: bool>(&self, block: &[f32], sums: &mut [Sums; N]) {
        match (&self.nodes, block.first_chunk::<BLOCK>()) {
            (Nodes::Small(nodes), Some(block)) => {
                self.descend_all::<_, N, RANGE_AWARE>(&InSmall { nodes, block }, sums);
            }
            (Nodes::Large(nodes), _) => self.descend_all::<_, N, RANGE_AWARE>(&InLarge { nodes, block }, sums),
            (Nodes::Small(nodes), None) => {
                let nodes: Vec<Node> = (0..SMALL).map(|number| nodes.node(number)).collect();
                self.descend_all::<_, N, RANGE_AWARE>(&InLarge { nodes: &nodes, block }, sums);
            }
        }
    }

    #[inline(always)]
    fn descend_all<D: Descent, const N: usize, const RANGE_AWARE: bool>(&self, tree: &D, sums: &mut [Sums; N]) {
        if RANGE_AWARE && N == LANES {
            let (low, high) = sums.split_at_mut(HALF);
            descend::<_, HALF, 0, RANGE_AWARE>(tree, &self.leaves, low);
            descend::<_, HALF, HALF, RANGE_AWARE>(tree, &self.leaves, high);
        } else {
            descend::<_, N, 0, RANGE_AWARE>(tree, &self.leaves, sums);
        }
    }
}

/// What a row meets at a node.
struct Meeting {
    value: f32,
    threshold: f32,
    middle: f32,
    per_extent: f32,
}

/// Nodes with the rows that go down there.
trait Descent {
    /// The number of a node.
    type Place: Copy;
    /// The root's number.
    const ROOT: Self::Place;

    fn levels(&self) -> usize;
    fn meet(&self, place: Self::Place, lane: usize) -> Meeting;
    fn child(place: Self::Place, right: bool) -> Self::Place;
    /// The number of the leaf, from 0, once all levels are behind.
    fn leaf(&self, place: Self::Place) -> usize;
}

/// Nodes whose numbers are bytes: an index is never out of bounds, and the number of a child of the last level
/// wraps around to that of its leaf.
#[derive(Debug, Clone, PartialEq)]
struct Small {
    /// The feature times the distance of features in a block.
    offsets: [u8; SMALL],
    thresholds: [f32; SMALL],
    /// Middle and one over the extent.
    extents: [[f32; 2]; SMALL],
}

impl Small {
    fn of(nodes: &[Node]) -> Self {
        let (mut offsets, mut thresholds, mut extents) = ([0; SMALL], [0.0; SMALL], [[0.0; 2]; SMALL]);
        for (number, node) in nodes.iter().enumerate().take(SMALL) {
            offsets[number] = (node.feature as usize * LANES) as u8;
            thresholds[number] = node.threshold;
            extents[number] = [node.middle, node.per_extent];
        }
        Self { offsets, thresholds, extents }
    }

    fn node(&self, number: usize) -> Node {
        let [middle, per_extent] = self.extents[number];
        let feature = u32::from(self.offsets[number]) / LANES as u32;
        Node { threshold: self.thresholds[number], middle, per_extent, feature }
    }
}

struct InSmall<'a> {
    nodes: &'a Small,
    block: &'a [f32; BLOCK],
}

impl Descent for InSmall<'_> {
    type Place = u8;
    const ROOT: u8 = 1;

    fn levels(&self) -> usize {
        8
    }

    #[inline(always)]
    fn meet(&self, place: u8, lane: usize) -> Meeting {
        let place = usize::from(place);
        let [middle, per_extent] = self.nodes.extents[place];
        let value = self.block[usize::from(self.nodes.offsets[place]) + lane];
        Meeting { value, threshold: self.nodes.thresholds[place], middle, per_extent }
    }

    #[inline(always)]
    fn child(place: u8, right: bool) -> u8 {
        place.wrapping_mul(2).wrapping_add(u8::from(right))
    }

    fn leaf(&self, place: u8) -> usize {
        usize::from(place)
    }
}

struct InLarge<'a> {
    nodes: &'a [Node],
    block: &'a [f32],
}

impl Descent for InLarge<'_> {
    type Place = u32;
    const ROOT: u32 = 1;

    fn levels(&self) -> usize {
        self.nodes.len().trailing_zeros() as usize
    }

    #[inline(always)]
    fn meet(&self, place: u32, lane: usize) -> Meeting {
        let node = &self.nodes[place as usize];
        let value = self.block[node.feature as usize * LANES + lane];
        Meeting { value, threshold: node.threshold, middle: node.middle, per_extent: node.per_extent }
    }

    #[inline(always)]
    fn child(place: u32, right: bool) -> u32 {
        2 * place + u32::from(right)
    }

    fn leaf(&self, place: u32) -> usize {
        place as usize - self.nodes.len()
    }
}

/// Takes `N` rows down, the first of them in lane `FIRST`.
#[inline(always)]
fn descend<D: Descent, const N: usize, const FIRST: usize, const RANGE_AWARE: bool>(
    tree: &D,
    leaves: &[Leaf],
    sums: &mut [Sums],
) {
    let mut at = [D::ROOT; N];
    let (mut depth, mut alive) = ([0.0_f32; N], [1.0_f32; N]);
    let mut left = tree.levels();
    while left > 0 {
        let levels = left.min(FOLD);
        left -= levels;
        // Sum of chances and last chance of these levels as fractions with one denominator: a division a
        // fold instead of one a node.
        let (mut numerator, mut denominator) = ([0.0_f32; N], [1.0_f32; N]);
        for _ in 0..levels {
            let mut away = [0.0_f32; N];
            for lane in 0..N {
                let meeting = tree.meet(at[lane], FIRST + lane);
                if RANGE_AWARE {
                    away[lane] = (meeting.value - meeting.middle) * meeting.per_extent;
                }
                at[lane] = D::child(at[lane], meeting.value > meeting.threshold);
            }
            if RANGE_AWARE {
                for lane in 0..N {
                    // By how much the chance of not being cut off yet shrinks: (extent + excess) / extent.
                    let step = (0.5 + away[lane].abs()).clamp(1.0, LARGEST_STEP);
                    numerator[lane] = (numerator[lane] + 1.0) * step;
                    denominator[lane] *= step;
                }
            }
        }
        if RANGE_AWARE {
            for lane in 0..N {
                let inverse = 1.0 / denominator[lane];
                depth[lane] += alive[lane] * numerator[lane] * inverse;
                alive[lane] *= inverse;
            }
        }
    }
    for (lane, sums) in sums.iter_mut().enumerate().take(N) {
        let leaf = leaves[tree.leaf(at[lane])];
        let below = if RANGE_AWARE { depth[lane] + alive[lane] * leaf.depth } else { leaf.depth };
        sums.depth += f64::from(below);
        sums.density += f64::from(leaf.density);
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::Random;
    use super::*;

    #[test]
    fn small_and_large_trees_agree_to_the_last_bit() {
        let mut random = Random::new(3);
        let mut unit = || random.unit() as f32;
        let nodes: Box<[Node]> = (0..SMALL)
            .map(|_| Node {
                threshold: unit(),
                middle: unit(),
                per_extent: 1.0 / unit(),
                feature: (unit() * FEW as f32) as u32,
            })
            .collect();
        let leaves: Box<[Leaf]> = (0..SMALL).map(|_| Leaf { depth: unit(), density: unit() }).collect();
        let block: Vec<f32> = (0..BLOCK).map(|_| unit()).collect();
        let small = Tree::new(nodes.clone(), leaves.clone());
        assert!(matches!(small.nodes, Nodes::Small(_)));
        assert!(small.nodes().eq(nodes[1..].iter().copied()));
        let large = Tree { nodes: Nodes::Large(nodes), leaves };
        let mut sums = [[Sums::default(); LANES]; 3];
        small.add::<LANES, true>(&block, &mut sums[0]);
        large.add::<LANES, true>(&block, &mut sums[1]);
        // A block that is too short for the quick way.
        small.add::<LANES, true>(&block[..FEW * LANES], &mut sums[2]);
        assert!(sums[0] == sums[1] && sums[1] == sums[2]);
    }
}
