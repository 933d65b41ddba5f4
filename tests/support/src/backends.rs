//! Real backends for the tests, the bench and `cargo xtask up --backends real`.
//!
//! [`catalog`] names every program and pins it by a module under `tests/backends`, [`install`] builds
//! what is missing into a cache outside the checkout ([`cache`]), and each backend's own module starts
//! it as a child process on loopback with free ports, waits until it answers, and stops it again.
//!
//! Never: listens beyond loopback, leaves a child behind (it is killed when its owner is dropped and, by
//! the kernel, when this process dies), ends a process that it has not started.

pub mod cache;
pub mod cassandra;
pub mod catalog;
pub mod client;
pub mod controlplane;
pub mod install;
pub mod jaeger;
pub mod ports;
pub mod server;
pub mod victorialogs;
pub mod victoriametrics;
pub mod victoriatraces;

pub use cassandra::Cassandra;
pub use controlplane::ControlPlane;
pub use jaeger::Jaeger;
pub use server::Server;
pub use victorialogs::VictoriaLogs;
pub use victoriametrics::VictoriaMetrics;
pub use victoriatraces::{StandIn, VictoriaTraces};

/// [`install::ensure`] off the runtime's threads: a build takes minutes.
pub async fn install_blocking(name: &'static str) -> anyhow::Result<std::path::PathBuf> {
    tokio::task::spawn_blocking(move || install::ensure(name)).await?
}
