//! How a process lives: configuration, telemetry, admin endpoints, health, drain, memory budget,
//! bounded queues, retry back-off, supervised tasks.
//!
//! Both processes build on this crate; it knows no telemetry format and never parses OTLP.
//!
//! Invariants: nothing here is unbounded; every refusal says why; a task that ends early ends the
//! process; a configuration error names the key, the value and what would be right, before
//! anything binds.
#![forbid(unsafe_code)]

pub mod admin;
pub mod backoff;
pub mod cause;
pub mod cli;
pub mod config;
pub mod drain;
pub mod duration;
pub mod endpoint;
pub mod health;
pub mod memory;
pub mod metrics;
pub mod queue;
pub mod runtime;
pub mod secret;
pub mod supervise;
pub mod telemetry;
pub mod tls;
