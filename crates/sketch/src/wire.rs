//! RED deltas on the wire: `mirador.red.v1` messages from windows, and points from messages.
//!
//! What is decoded comes from another process and is checked before any of it is used: a message is
//! taken as a whole or refused as a whole.

mod decode;
pub(crate) mod encode;

pub use decode::{DecodeError, Decoded, SeriesProblem, decode};
pub use encode::MESSAGE_TARGET_BYTES;

#[cfg(test)]
mod tests;
