//! `cargo xtask e2e`: the chart in a real cluster. Builds the images, creates a kind cluster, loads them, installs
//! stores and chart, sends the shop's telemetry through an agent in the cluster and a stranger's by steering, and asks
//! the stores.
//!
//! Needs a container engine (docker or podman), kind, kubectl and helm; where one of them is missing it says which and
//! is skipped, which is no failure. The cluster is deleted at the end, also after a failure, unless it is to be kept;
//! what its pods said is kept after a failure. Every step has a time by which it ends.
//!
//! Never: touches a cluster that it has not created, or anybody's kubeconfig.

mod check;
mod cluster;
mod tools;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::image;
use crate::workspace::{root, target_folder};
use cluster::Cluster;
use tools::Tools;

/// Install the chart in a kind cluster with real stores and run the shop through it.
///
/// Without a container engine, kind, kubectl or helm it says so and does nothing.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave the cluster there when it is over.
    #[arg(long)]
    keep: bool,
    /// Build the images by their Dockerfiles instead of on this machine; elsewhere than on Linux this is what is done.
    #[arg(long)]
    dockerfiles: bool,
    /// Leave steering out, as for a kernel without cgroup v2.
    #[arg(long)]
    without_steering: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let tools = Tools::new(std::env::var_os("PATH").unwrap_or_default());
    let tools = match tools.found() {
        Ok(tools) => tools,
        Err(missing) => {
            println!("SKIPPED: e2e: {missing}");
            return Ok(());
        }
    };
    let logs = target_folder()?.join("e2e-logs");
    let here = cfg!(target_os = "linux") && !options.dockerfiles;
    let images = || if here { image::archives(false) } else { by_dockerfiles(&tools) };
    carry_out(&tools, options, &logs, images, |cluster| {
        tokio::runtime::Runtime::new()?.block_on(check::everything(cluster, !options.without_steering))
    })?;
    println!("e2e: RED, edges, scores, traces and logs of the shop are in the stores");
    Ok(())
}

/// All steps but building and checking, in order; whatever fails, the cluster is gone afterwards unless it is kept.
fn carry_out(
    tools: &Tools,
    options: &Options,
    logs: &Path,
    images: impl FnOnce() -> Result<Vec<PathBuf>>,
    check: impl FnOnce(&Cluster<'_>) -> Result<()>,
) -> Result<()> {
    let folder = tempfile::tempdir()?;
    // Built before a cluster is there: what does not compile costs no cluster.
    let vacant = Cluster::vacant(tools, folder.path())?;
    let archives = images().context("e2e: the images")?;
    let cluster = vacant.create(options.keep)?;
    let outcome = cluster
        .load(&archives)
        .and_then(|()| cluster.install(!options.without_steering))
        .and_then(|()| check(&cluster));
    if outcome.is_err() {
        cluster.collect(logs);
    }
    outcome
}

/// The images as their Dockerfiles make them, saved by the container engine.
fn by_dockerfiles(tools: &Tools) -> Result<Vec<PathBuf>> {
    let folder = target_folder()?.join("images");
    let mut archives = Vec::new();
    for name in image::PROGRAMS {
        // The whole name, which is what the kubelet makes of one without a registry; podman would say localhost.
        let image = format!("docker.io/library/{name}:{}", env!("CARGO_PKG_VERSION"));
        let file = format!("{}/Dockerfile", name.trim_start_matches("mirador-"));
        let archive = folder.join(format!("{name}.docker.tar"));
        std::fs::create_dir_all(&folder)?;
        let built = ["build", "--file", &file, "--tag", &image, "."];
        tools::run(tools.engine(&built).current_dir(root()), Duration::from_secs(3600))?;
        let saved = ["save", "--output", &archive.display().to_string(), &image];
        tools::run(&mut tools.engine(&saved), Duration::from_secs(300))?;
        archives.push(archive);
    }
    Ok(archives)
}

#[cfg(test)]
mod tests;
