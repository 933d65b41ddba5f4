//! `cargo xtask image`: the container images without a container engine.
//!
//! Each is one program, the shared libraries that it names, and the few files that libc wants: no shell, no package
//! manager, no user but 10001. [`rootfs`] puts that together in a folder, [`layout`] packs it as an OCI image layout,
//! which registry clients push (`skopeo copy oci:DIR:TAG docker://…`, `crane push DIR …`), and [`archive`] as one file
//! with the image's name in it, which nodes load (`kind load image-archive`, `ctr images import`, `podman load`). The
//! Dockerfiles beside the programs make the same folder their image.
//!
//! Invariants: the same binary on the same machine gives the same image, byte by byte; a root filesystem that lacks a library is never
//! packed, because its program is run from it first; the agent of an image has the programs of steering.

mod archive;
mod layout;
mod rootfs;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::build_ebpf;
use crate::workspace::{cargo, program, succeed, target_folder};

/// An image: the program that it is, and the ports that it serves.
pub(crate) const PROGRAMS: [&str; 2] = ["mirador-agent", "mirador-central"];

/// OTLP/gRPC, OTLP/HTTP, metrics, health.
const PORTS: [u16; 4] = [4317, 4318, 8888, 13133];

/// Build the container images as OCI image layouts, without a container engine, and print their sizes.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only these: mirador-agent, mirador-central; default: both.
    #[arg(value_parser = PROGRAMS)]
    programs: Vec<String>,
    /// The folder in which each image gets a folder; default: `images` in cargo's target folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The tag under which the layout lists the image.
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    tag: String,
    /// Write the root filesystem alone, into DIR/rootfs of each image: what the Dockerfiles take.
    #[arg(long)]
    rootfs: bool,
    /// Pack the debug build, which is large and quickly built.
    #[arg(long)]
    debug: bool,
    /// Build the agent without the programs of steering, where their compiler cannot be had.
    #[arg(long)]
    without_steering: bool,
}

/// Builds both images and returns their archives; `debug` packs the debug build.
pub(crate) fn archives(debug: bool) -> Result<Vec<PathBuf>> {
    let options = Options {
        programs: Vec::new(),
        out: None,
        tag: env!("CARGO_PKG_VERSION").to_owned(),
        rootfs: false,
        debug,
        without_steering: false,
    };
    run(&options)?;
    let out = target_folder()?.join("images");
    Ok(PROGRAMS.iter().map(|name| out.join(name).join(archive::FILE)).collect())
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let out = match &options.out {
        Some(out) => std::path::absolute(out)?,
        None => target_folder()?.join("images"),
    };
    let programs: Vec<&str> = match options.programs.as_slice() {
        [] => PROGRAMS.to_vec(),
        some => some.iter().map(String::as_str).collect(),
    };
    if programs.contains(&PROGRAMS[0]) && !options.without_steering {
        // The agent's build script embeds what this leaves.
        build_ebpf::ensure(false).context("the programs of steering; --without-steering leaves them out")?;
    }
    let profile = if options.debug { "debug" } else { "release" };
    let mut build = cargo(["build", "--locked", "--bins"]);
    build.args(programs.iter().flat_map(|name| ["--package", name]));
    succeed(build.args((!options.debug).then_some("--release")))?;
    for name in programs {
        pack(options, name, &program(name, profile)?, &out.join(name))?;
    }
    Ok(())
}

/// Makes root filesystem, layout and archive of one program in `folder`.
fn pack(options: &Options, name: &str, binary: &Path, folder: &Path) -> Result<()> {
    let root = folder.join("rootfs");
    clear(&root)?;
    rootfs::build(binary, name, &root)?;
    let said = rootfs::run(&root, name, "--version")?;
    let unpacked = rootfs::size(&root)?;
    if options.rootfs {
        println!("image: {name} is {said}: {} in {}", mib(unpacked), root.display());
        return Ok(());
    }
    let layout = folder.join("oci");
    clear(&layout)?;
    let image = layout::Image { name, tag: &options.tag, ports: &PORTS, user: rootfs::USER };
    let packed = layout::write(&root, &image, &layout)?;
    archive::write(&layout, &folder.join(archive::FILE))?;
    println!("image: {name} is {said}: {} packed, {} unpacked, in {}", mib(packed), mib(unpacked), layout.display());
    Ok(())
}

/// Makes `folder` a new and empty one.
fn clear(folder: &Path) -> Result<()> {
    if folder.exists() {
        let ours = folder.ends_with("rootfs") || folder.ends_with("oci");
        ensure!(ours, "{} is not a folder of an image", folder.display());
        fs::remove_dir_all(folder).with_context(|| format!("cannot replace {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
