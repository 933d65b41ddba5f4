//! The isolation engine: how far a value stands apart from what its series has shown before.
//!
//! In one dimension the expected depth of a point over infinitely many range-aware isolation trees
//! (Liu, Ting, Zhou 2008; cuts proportional to range as in Guha et al. 2016) has a closed form, so there is
//! no tree and no randomness in a score: every gap of the sorted sample rings an exponential clock at a rate
//! equal to its length, and a gap's cut lies on the query's path exactly when it rings before every gap that
//! is nearer to the query.
//!
//! Invariant: a depth does not change under `x -> a*x + b`. Never: keeps state.

mod depth;

pub use depth::{average_depth, expected_depth};

#[cfg(test)]
mod tests;
