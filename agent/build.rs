//! Embeds the objects of the BPF programs when `cargo xtask build-ebpf` has left them in the target folder:
//! `mirador.o`, or the one that `MIRADOR_EBPF_OBJECT` names, and beside it `mirador-log.o`.
//!
//! Without the first the agent is built all the same, and says `unavailable(not_built)` when it runs.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo::rustc-check-cfg=cfg(ebpf_object, ebpf_log_object)");
    println!("cargo::rerun-if-env-changed=MIRADOR_EBPF_OBJECT");
    println!("cargo::rerun-if-changed=build.rs");
    let Some(out) = env::var_os("OUT_DIR").map(PathBuf::from) else { return };
    let object = match env::var_os("MIRADOR_EBPF_OBJECT") {
        Some(named) => PathBuf::from(named),
        None => target_folder(&out).join("ebpf").join("mirador.o"),
    };
    // The folder is watched and not the file: cargo takes a file that is missing for one that has changed.
    if let Some(folder) = object.parent()
        && fs::create_dir_all(folder).is_ok()
    {
        println!("cargo::rerun-if-changed={}", folder.display());
    }
    embed(&object, &out.join("mirador.o"), "ebpf_object", "MIRADOR_EBPF_EMBEDDED");
    let log = object.with_file_name("mirador-log.o");
    embed(&log, &out.join("mirador-log.o"), "ebpf_log_object", "MIRADOR_EBPF_LOG_EMBEDDED");
}

/// Copies `object`, when it is there, to where the agent includes it from.
fn embed(object: &Path, copy: &Path, flag: &str, variable: &str) {
    if fs::copy(object, copy).is_ok() {
        println!("cargo::rustc-cfg={flag}");
        println!("cargo::rustc-env={variable}={}", copy.display());
    }
}

/// The target folder: the outermost one that cargo has tagged as a cache.
fn target_folder(out: &Path) -> PathBuf {
    let tagged = out.ancestors().filter(|folder| folder.join("CACHEDIR.TAG").is_file()).last();
    tagged.or_else(|| out.ancestors().nth(4)).unwrap_or(out).to_path_buf()
}
