//! The central roles of Mirador.
//!
//! One binary, one role per process (or all of them on a laptop): `servicegraph` pairs spans into edges and
//! stores traces, `spanmetrics` merges RED deltas, `isolationforest` scores and stores every metric, `logs`
//! stores log records. [`topology`] is the only module that knows all parts.

#![forbid(unsafe_code)]

pub mod backtest;
pub mod cli;
pub mod clock;
mod columns;
pub mod complaint;
pub mod config;
pub mod console;
pub mod consume;
pub mod cumulative;
pub mod describe;
pub mod exporter;
pub mod isolationforest;
pub mod logs;
pub mod metrics_out;
pub mod normalise;
pub mod role;
pub mod series;
pub mod servicegraph;
pub mod snapshot;
pub mod spanmetrics;
pub mod stores;
#[cfg(test)]
mod testing;
pub mod topology;
