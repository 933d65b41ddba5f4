//! Borrowed views over OTLP wire bytes: check a request once, then read, split and merge it without
//! decoding.
//!
//! [`Request::parse`] walks an export request once, in time proportional to its length, and checks
//! everything that the views rely on. After that every read is infallible: a view is a slice of the
//! request and reads its fields where they stand. [`splice`] splits and merges requests by copying
//! byte ranges.
//!
//! # What equals protobuf decoding
//! The views give what a protobuf decoder (`prost`) gives: of a scalar that occurs twice the last
//! one counts, a singular message that comes in pieces is their merge, of a oneof the last member
//! counts, repeated numbers are read packed and unpacked, unknown fields are skipped (and kept by
//! [`splice`]).
//!
//! # What is refused although protobuf allows it
//! - groups (wire types 3 and 4), which OTLP has never used;
//! - messages nested deeper than [`Limits::max_depth`];
//! - more than 10,000 pieces of singular messages (see below);
//! - more items than [`Limits::max_items`], or more than 100,000 resource and scope entries;
//! - bodies of 2 GiB and more.
//!
//! # Pieces of singular messages
//! Encoders never write a singular message (a resource, an attribute's value) in two pieces, but
//! protobuf allows it. A request that does so is rewritten once, in linear time, so that the views
//! find each in one place; [`Request::bytes`] is then the rewritten form, which means the same.
//!
//! Never: does IO, reads a clock, holds `unsafe` code, or panics on any input.

#![forbid(unsafe_code)]

mod canonical;
pub mod enrich;
mod entry;
mod error;
pub mod logs;
pub mod metrics;
mod repeated;
mod request;
pub mod resource;
mod schema;
pub mod scope;
mod signal;
pub mod splice;
pub mod traces;
mod validate;
pub mod value;
mod wire;

pub use error::WireError;
pub use repeated::{Message, Numbers, Repeated};
pub use request::{Limits, Request};
pub use signal::Signal;
