//! RED at the source: the tap over span views, mergeable points and histograms, windows and deltas.
//!
//! An agent feeds every acknowledged request to a [`Tap`] and closes a [`Window`] each flush
//! interval; the window becomes [`mirador_proto::red::ExportRedRequest`]s, one stream per owner.
//! Central [`decode`]s them and merges [`Point`]s by [`SeriesKey`].
//!
//! Everything is integer nanoseconds and integer counts. Merging is exact, associative and
//! commutative, so neither the number of agents nor the order of their deltas changes a number.
//!
//! Never: does IO, reads a clock (time is passed in), draws unseeded randomness, keeps more than
//! its configured bounds.

#![forbid(unsafe_code)]

mod config;
mod dedup;
mod dimensions;
mod exemplar;
mod hdr;
mod identity;
mod key;
mod point;
mod resource;
mod table;
mod tap;
mod text;
mod weight;
mod window;
mod wire;

pub use config::{
    BuiltIn, Config, ConfigError, Dimension, Exemplars as ExemplarsConfig, Explicit, Histogram, MAX_BOUNDS,
    MAX_DIMENSIONS, Unit,
};
pub use exemplar::{Exemplar, Exemplars, MAX_EXEMPLARS};
pub use hdr::{BUCKETS as HDR_BUCKETS, Hdr, coarsen_largest};
pub use key::{Excluded, LABEL_OVERFLOW, LABEL_SERVICE, LABEL_SPAN_KIND, LABEL_SPAN_NAME, LABEL_STATUS, SeriesKey};
pub use point::{Point, bucket_of};
pub use tap::{Observed, Tap};
pub use weight::{adjusted_count, threshold};
pub use window::Window;
pub use wire::{DecodeError, Decoded, MESSAGE_TARGET_BYTES, SeriesProblem, decode};
