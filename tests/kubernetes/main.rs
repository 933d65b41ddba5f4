//! The chart: what it renders, what it refuses, and how a real control plane and a real metric store take it.
//!
//! Every test runs on this machine alone. Pods on the fake nodes run nothing, so what is shown here is what
//! Kubernetes makes of the objects; that the programs take their configuration is shown by the programs.

mod alerts;
mod boards;
mod chart;
mod configuration;
mod deployment;
mod encryption;
mod endtoend;
mod golden;
mod install;
mod permissions;
mod refusals;
mod rig;
mod schema;
mod strict;
