//! Isolation forests over rows of numbers: what scores a table, and what scores a resource by all of its series.
//!
//! One kind of tree serves four readings of it:
//!
//! | [`Mode`] | what is read off the path of a row |
//! |---|---|
//! | classic | edges and leaf size, as in Liu, Ting, Zhou: *Isolation Forest* (ICDM 2008) and in scikit-learn |
//! | range-aware | edges until the row would have been cut off, were it in the sample itself |
//! | density | how many rows of the sample share the row's cells, against the cells' extent (Cortes, arXiv 2111.11639) |
//! | combined | the more suspicious of range-aware and density, by rank |
//!
//! A classic tree cannot tell a row that lies a little outside its sample from one that lies far outside:
//! both fall into the outermost leaf. The range-aware reading puts the row into the tree after the fact: at a
//! node whose rows span `r` along the split feature and from which the row stands off by `e`, a uniform cut of
//! the span that includes the row isolates it at once with probability `e / (e + r)`, and otherwise falls as the
//! tree's own cut did. That is exact for one feature and, for more, what the tree that was grown can tell.
//!
//! [`family`] keeps a forest per kind of resource and rebuilds it piece by piece. Never: does IO, reads a clock,
//! starts a thread, uses `unsafe`. Invariants: the same rows, settings and seed give the same forest and the same
//! scores, one row at a time or in batches; a score is in (0, 1]; scores do not change (but for rounding) when a
//! feature `x` becomes `a*x + b` with `a > 0` everywhere; memory is bounded by the settings.
//!
//! # Missing values
//!
//! NaN is a missing value. A missing value stands for the median of its feature over the rows that the forest
//! was grown from, so it neither isolates a row nor hides it. Infinities are taken for values far outside: in
//! the rows that a forest is grown from they count as missing, in a row that is scored they stand beyond every
//! finite value. A feature that never varied in the sample is not split, thus does not count.

mod depth;
pub mod family;
mod forest;
mod grow;
mod random;
mod rank;
mod rows;
mod scale;
mod tree;

pub use depth::average_path;
pub use forest::{Forest, Mode, Settings, SettingsError};
pub use rows::{Rows, RowsError};

#[cfg(test)]
mod tests;
