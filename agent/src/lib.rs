//! The agent: OTLP in at a node, RED there, spans by trace id and the rest by resource out.
//!
//! One path, fixed order: receive, admit, decompress, validate, enrich, split by owner, send, tap, acknowledge.
//! The process is built by [`topology`], which is the only place that knows all stages.
//!
//! Never: decodes a span into an owned struct, answers a request before every owner it needs has
//! answered, depends on steering being there.

#![deny(unsafe_code)]

pub mod cli;
pub mod config;
pub mod explain;
pub mod kubernetes;
pub mod ledger;
pub mod pipeline;
pub mod processors;
pub mod red;
pub mod steering;
pub mod topology;
pub mod unheard;
