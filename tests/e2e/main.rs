//! End to end: our two programs as processes, real backends, real senders, questions to the backends.
//!
//! A test waits for a condition and never for a time; every port is free when it is taken; every process is a
//! child that ends with the test.

mod backtest;
mod connector;
mod exact;
mod faults;
mod fleet;
mod graph;
mod laptop;
mod logs;
mod odd;
mod outage;
mod red;
mod schema;
mod scored;
mod sdk;
mod unruly;
mod whole;
