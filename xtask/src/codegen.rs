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
    compare(&committed)?;
    println!("codegen: proto/src/gen is current");
    Ok(())
}

/// Generates anew and says where the files in `committed` differ.
fn compare(committed: &Path) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// `cargo xtask test` alone finds generated code that is not current, and where.
    #[test]
    fn what_is_committed_is_what_the_definitions_give_and_a_changed_line_is_found() {
        if Command::new("rustfmt").arg("--version").output().is_err() {
            println!("SKIPPED: generated code is not compared: there is no rustfmt");
            return;
        }
        let committed = root().join("proto/src/gen");
        compare(&committed).unwrap();
        let changed = tempfile::tempdir().unwrap();
        for (_, file) in DEFINITIONS {
            let text = fs::read_to_string(committed.join(file)).unwrap();
            fs::write(changed.path().join(file), text.replacen("pub sequence: u64", "pub sequence: u32", 1)).unwrap();
        }
        let error = compare(changed.path()).unwrap_err().to_string();
        assert!(error.contains("is not what proto/mirador/red/v1/red.proto says"), "{error}");
        assert!(
            error.contains("committed:     pub sequence: u32") && error.contains("run `cargo xtask codegen`"),
            "{error}"
        );
    }
}
