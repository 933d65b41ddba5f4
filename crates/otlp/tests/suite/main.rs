//! Tests of the wire views against `prost`, one binary.
//!
//! Requests are drawn from bytes ([`draw`], [`generate`]), encoded by `prost`, bent in every way
//! that protobuf allows ([`mutate`]) and read back; what `prost` decodes is the truth ([`compare`]).
//! [`laws`] is the body shared with the fuzz targets under `tests/fuzz`.

mod allocations;
mod compare;
mod corpus;
mod draw;
mod enriching;
mod generate;
mod hostile;
mod identity;
mod laws;
mod mutate;
mod splicing;
mod text;
mod views;
