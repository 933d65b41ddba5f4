//! `cargo xtask codegen`: the Rust of our own service definitions, from `proto/**/*.proto`.
//!
//! Invariant: the same definitions give the same bytes on every machine; no `protoc` is needed.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::workspace::{first_difference, root, succeed};

/// The definitions, relative to `proto/`, and the file that each becomes in `proto/src/gen/`.
const DEFINITIONS: [(&str, &str); 1] = [("mirador/red/v1/red.proto", "mirador.red.v1.rs")];

/// Write the Rust of our own service definitions, or check that what is committed is current.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Write nothing; fail when the committed files differ.
    #[arg(long)]
    pub(crate) check: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let committed = root().join("proto/src/gen");
    if !options.check {
        generate(&root(), &committed)?;
        println!("codegen: wrote {} files to proto/src/gen", DEFINITIONS.len());
        return Ok(());
    }
    let fresh = tempfile::tempdir()?;
    generate(&root(), fresh.path())?;
    for (definition, file) in DEFINITIONS {
        let have = fs::read_to_string(committed.join(file)).unwrap_or_default();
        let want = fs::read_to_string(fresh.path().join(file))?;
        if let Some((line, have, want)) = first_difference(&have, &want) {
            bail!(
                "proto/src/gen/{file}:{line} is not what proto/{definition} says; run `cargo xtask codegen`\n  committed: {have}\n  current:   {want}"
            );
        }
    }
    println!("codegen: proto/src/gen is current");
    Ok(())
}

fn generate(root: &Path, out: &Path) -> Result<()> {
    let names = DEFINITIONS.map(|(definition, _)| definition);
    let descriptors = protox::compile(names, [root.join("proto")])
        .with_context(|| format!("cannot compile proto/{}", names.join(", proto/")))?;
    fs::create_dir_all(out)?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .emit_rerun_if_changed(false)
        .out_dir(out)
        .compile_fds(descriptors)
        .context("cannot generate Rust")?;
    for (_, file) in DEFINITIONS {
        // The files are `include!`d, so `cargo fmt` does not reach them.
        succeed(Command::new("rustfmt").args(["--edition", "2024", "--config-path"]).arg(root).arg(out.join(file)))?;
    }
    Ok(())
}
