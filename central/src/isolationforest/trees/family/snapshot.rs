//! A family's forest as bytes, so that a restart changes no score.
//!
//! Little endian, no alignment: a magic number with the version, the settings that shape the forest, the state,
//! the reservoir, the trees, and a checksum over all of it. Never: panics on foreign bytes, allocates more than
//! the settings allow.

use std::sync::Arc;

use super::super::random::Random;
use super::super::tree::{Leaf, Node, Tree};
use super::{FamilyForest, FamilySettings, Grown};

/// "MFF" and the version.
const MAGIC: [u8; 4] = *b"MFF1";

/// Why bytes are no snapshot of this family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Other bytes, or another version.
    #[error("it does not begin with the mark of this version (MFF1)")]
    Foreign,
    /// It ends too early, or goes on where it should end.
    #[error("it is cut off or has bytes too many")]
    Length,
    /// The checksum does not fit.
    #[error("its checksum does not fit, so it is damaged")]
    Damaged,
    /// It was made with other settings.
    #[error("it was made with another {0}")]
    Settings(&'static str),
    /// A number in it cannot be.
    #[error("its {0} cannot be")]
    Value(&'static str),
}

impl FamilyForest {
    /// Appends the state to `out`.
    pub fn save(&self, out: &mut Vec<u8>) {
        let first = out.len();
        out.extend_from_slice(&MAGIC);
        let settings = &self.settings;
        for size in [settings.width, settings.trees, settings.sample, settings.reservoir] {
            put(out, (size as u32).to_le_bytes());
        }
        put(out, self.random.state().to_le_bytes());
        put(out, self.seen.to_le_bytes());
        put(out, self.rate.to_le_bytes());
        put(out, self.anomalies.to_le_bytes());
        for size in [self.rows_in_epoch, self.learning as u32, self.part as u32] {
            put(out, size.to_le_bytes());
        }
        out.extend([u8::from(self.changed), u8::from(self.drifted)]);
        put(out, (self.rows() as u32).to_le_bytes());
        self.reservoir.iter().for_each(|value| put(out, value.to_le_bytes()));
        self.save_grown(out);
        let sum = xxhash_rust::xxh3::xxh3_64(&out[first..]);
        put(out, sum.to_le_bytes());
    }

    fn save_grown(&self, out: &mut Vec<u8>) {
        let grown = &self.grown;
        for size in [grown.sample(), grown.constants().len(), grown.trees().len()] {
            put(out, (size as u32).to_le_bytes());
        }
        for (feature, value) in grown.constants() {
            put(out, feature.to_le_bytes());
            put(out, value.to_le_bytes());
        }
        for tree in grown.trees() {
            for node in tree.nodes() {
                put(out, node.threshold.to_le_bytes());
                put(out, node.middle.to_le_bytes());
                put(out, node.per_extent.to_le_bytes());
                put(out, node.feature.to_le_bytes());
            }
            for leaf in tree.leaves() {
                put(out, leaf.depth.to_le_bytes());
                put(out, leaf.density.to_le_bytes());
            }
        }
    }

    /// The state that [`FamilyForest::save`] wrote, under the same settings.
    ///
    /// # Errors
    /// When the bytes are anything else; nothing is restored then.
    pub fn restore(settings: FamilySettings, bytes: &[u8]) -> Result<Self, SnapshotError> {
        if !bytes.starts_with(&MAGIC) {
            return Err(SnapshotError::Foreign);
        }
        let (body, sum) = bytes.split_last_chunk::<8>().ok_or(SnapshotError::Length)?;
        if xxhash_rust::xxh3::xxh3_64(body) != u64::from_le_bytes(*sum) {
            return Err(SnapshotError::Damaged);
        }
        let mut reader = Reader(&body[MAGIC.len()..]);
        let sizes = [
            ("width", settings.width),
            ("number of trees", settings.trees),
            ("sample", settings.sample),
            ("reservoir", settings.reservoir),
        ];
        for (name, expected) in sizes {
            if reader.size()? != expected {
                return Err(SnapshotError::Settings(name));
            }
        }
        let mut family = Self::new(settings, 0).map_err(|_| SnapshotError::Settings("range"))?;
        family.random = Random::new(u64::from_le_bytes(reader.take()?));
        family.seen = u64::from_le_bytes(reader.take()?);
        family.rate = reader.float("rate")?;
        family.anomalies = reader.float("share of anomalies")?;
        family.rows_in_epoch = u32::from_le_bytes(reader.take()?);
        family.learning = reader.size()?;
        family.part = reader.at_most(super::PARTS - 1, "part")?;
        let [changed, drifted] = reader.take()?;
        (family.changed, family.drifted) = (changed != 0, drifted != 0);
        let rows = reader.at_most(family.settings.reservoir, "number of rows")?;
        family.reservoir.reserve_exact(rows * family.settings.width);
        for _ in 0..rows * family.settings.width {
            family.reservoir.push(reader.finite("row")?);
        }
        family.grown = Arc::new(reader.grown(&family.settings)?);
        if reader.0.is_empty() { Ok(family) } else { Err(SnapshotError::Length) }
    }
}

fn put<const N: usize>(out: &mut Vec<u8>, bytes: [u8; N]) {
    out.extend_from_slice(&bytes);
}

/// Reads what was put.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(SnapshotError::Length)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn size(&mut self) -> Result<usize, SnapshotError> {
        Ok(u32::from_le_bytes(self.take()?) as usize)
    }

    fn at_most(&mut self, most: usize, what: &'static str) -> Result<usize, SnapshotError> {
        let size = self.size()?;
        if size <= most { Ok(size) } else { Err(SnapshotError::Value(what)) }
    }

    fn float(&mut self, what: &'static str) -> Result<f64, SnapshotError> {
        let value = f64::from_le_bytes(self.take()?);
        if value.is_finite() { Ok(value) } else { Err(SnapshotError::Value(what)) }
    }

    fn finite(&mut self, what: &'static str) -> Result<f32, SnapshotError> {
        let value = f32::from_le_bytes(self.take()?);
        if value.is_finite() { Ok(value) } else { Err(SnapshotError::Value(what)) }
    }

    fn feature(&mut self, width: usize) -> Result<u32, SnapshotError> {
        Ok(self.at_most(width - 1, "feature")? as u32)
    }

    fn grown(&mut self, settings: &FamilySettings) -> Result<Grown, SnapshotError> {
        let sample = self.at_most(settings.sample, "sample")?;
        let constants = self.at_most(settings.width, "number of constants")?;
        let count = self.at_most(settings.trees, "number of trees")?;
        let constants: Result<_, _> =
            (0..constants).map(|_| Ok((self.feature(settings.width)?, self.finite("constant")?))).collect();
        let constants = constants?;
        if self.0.len() != count * Grown::tree_bytes(settings.levels()) {
            return Err(SnapshotError::Length);
        }
        let trees: Result<_, _> = (0..count).map(|_| self.tree(settings).map(Arc::new)).collect();
        Ok(Grown::new(settings.width, sample, trees?, constants))
    }

    fn tree(&mut self, settings: &FamilySettings) -> Result<Tree, SnapshotError> {
        let leaves = 1_usize << settings.levels();
        let nodes: Result<Vec<Node>, SnapshotError> = (1..leaves)
            .map(|_| {
                let threshold = f32::from_le_bytes(self.take()?);
                if threshold.is_nan() {
                    return Err(SnapshotError::Value("threshold"));
                }
                let (middle, per_extent) = (self.finite("middle")?, self.finite("extent")?);
                Ok(Node { threshold, middle, per_extent, feature: self.feature(settings.width)? })
            })
            .collect();
        let ends: Result<_, SnapshotError> =
            (0..leaves).map(|_| Ok(Leaf { depth: self.finite("depth")?, density: self.finite("density")? })).collect();
        Ok(Tree::new(std::iter::once(Node::PASS).chain(nodes?).collect(), ends?))
    }
}
