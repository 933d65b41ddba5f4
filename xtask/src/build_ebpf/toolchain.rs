//! What compiles for the kernel: a Rust compiler with the sources of its own library, and bpf-linker built
//! against the LLVM of that compiler.
//!
//! Two compilers can serve: Debian's `rustc-web` with `rust-web-src`, and rustup's active one when it has
//! `rust-src`. Library sources of another version than the compiler's do not compile, so they are never
//! mixed.

use std::fmt;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use mirador_support::backends::cache::Cache;

use crate::workspace::{shown, succeed};

/// The linker for BPF objects. <https://github.com/aya-rs/bpf-linker>
const LINKER: &str = "0.13.0";
/// Debian's compiler and its library's sources.
const DEBIAN: [&str; 2] = ["rustc-web", "rust-web-src"];
/// The oldest LLVM that the linker knows and the newest.
const LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// A compiler.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Compiler {
    /// What to call; `None` is the one that cargo takes.
    rustc: Option<PathBuf>,
    version: String,
    llvm: u32,
    /// The shared library of its LLVM.
    library: PathBuf,
}

/// A compiler and its linker.
#[derive(Debug)]
pub(super) struct Toolchain {
    compiler: Compiler,
    linker: PathBuf,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} and bpf-linker {LINKER}", self.compiler.version)
    }
}

impl Toolchain {
    /// Finds or installs it.
    pub(super) fn ensure(cache: &Cache) -> Result<Self> {
        let compiler = match Compiler::find() {
            Ok(compiler) => compiler,
            Err(missing) => {
                install_debian().with_context(|| format!("{missing:#}"))?;
                Compiler::find()?
            }
        };
        let linker = linker(cache, &compiler)?;
        Ok(Self { compiler, linker })
    }

    /// Makes `cargo` use it.
    pub(super) fn apply(&self, cargo: &mut Command) -> Result<()> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.linker.clone()).chain(std::env::split_paths(&path));
        cargo
            .env("PATH", std::env::join_paths(folders)?)
            // The library is built along with the programs, which stable compilers allow only so.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", "-C debuginfo=2 -C link-arg=--btf")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("CARGO_BUILD_TARGET")
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTC_WORKSPACE_WRAPPER");
        if let Some(rustc) = &self.compiler.rustc {
            cargo.env("RUSTC", rustc);
        }
        Ok(())
    }
}

impl Compiler {
    /// Debian's, or the one that cargo takes.
    fn find() -> Result<Self> {
        let debian = Self::with_sources(Path::new("/usr/bin/rustc"), true);
        let active = || Self::with_sources(Path::new("rustc"), false);
        debian.or_else(|debian| {
            active().map_err(|active| {
                anyhow::anyhow!(
                    "no Rust compiler with the sources of its library: Debian's: {debian:#}; the active one: {active:#}; \
                     install {} of Debian, or run `rustup component add rust-src`",
                    DEBIAN.join(" and ")
                )
            })
        })
    }

    fn with_sources(rustc: &Path, named: bool) -> Result<Self> {
        let verbose = output(Command::new(rustc).arg("-vV"))?;
        let line = |key: &str| verbose.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let version = verbose.lines().next().unwrap_or_default().to_owned();
        let llvm = line("LLVM version:").with_context(|| format!("{version} names no LLVM"))?.to_owned();
        let mut numbers = llvm.split('.');
        let major: u32 =
            numbers.next().and_then(|number| number.parse().ok()).with_context(|| format!("LLVM {llvm}"))?;
        let minor = numbers.next().unwrap_or("0");
        ensure!(LLVM.contains(&major), "{version} has LLVM {llvm}, bpf-linker {LINKER} knows {LLVM:?}");
        let sysroot = PathBuf::from(output(Command::new(rustc).args(["--print", "sysroot"]))?.trim());
        let sources = sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs");
        ensure!(sources.is_file(), "{version} has no library sources ({})", sources.display());
        let library = library(&sysroot, &format!("libLLVM.so.{major}.{minor}"));
        let library = library.with_context(|| format!("no libLLVM.so.{major}.{minor} for {version}"))?;
        Ok(Self { rustc: named.then(|| rustc.to_owned()), version, llvm: major, library })
    }
}

/// A file beginning with `name` where compilers keep their LLVM.
fn library(sysroot: &Path, name: &str) -> Option<PathBuf> {
    let multiarch = format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    [sysroot.join("lib"), Path::new("/").join(multiarch)].into_iter().find_map(|folder| {
        let files = fs::read_dir(folder).ok()?.flatten().map(|file| file.path());
        files.filter(|path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name))).min()
    })
}

fn output(command: &mut Command) -> Result<String> {
    let what = shown(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run `{what}`"))?;
    ensure!(output.status.success(), "`{what}` failed");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn install_debian() -> Result<()> {
    if !rustix::process::geteuid().is_root() || !Path::new("/usr/bin/apt-get").exists() {
        bail!("it cannot be installed here: that takes root and apt-get");
    }
    eprintln!("build-ebpf: installing {}", DEBIAN.join(" "));
    for arguments in [vec!["update", "-q"], [&["install", "-q", "-y", "--no-install-recommends"], &DEBIAN[..]].concat()]
    {
        let mut apt = Command::new("apt-get");
        succeed(apt.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null()))?;
    }
    Ok(())
}

/// The folder of the linker for this compiler, built into the cache when it is not there.
fn linker(cache: &Cache, compiler: &Compiler) -> Result<PathBuf> {
    let name = format!("bpf-linker-{LINKER}-llvm{}", compiler.llvm);
    let entry = cache.root().join("ebpf").join(&name);
    if !Cache::is_complete(&entry) {
        eprintln!("build-ebpf: building {name}, which takes a minute or two");
        // Where it is built it stays: it knows its LLVM by this path.
        Cache::put_in_place(&entry, |to| {
            let llvm = to.join("llvm");
            fs::create_dir_all(llvm.join("lib"))?;
            let file = compiler.library.file_name().context("a library has a name")?;
            symlink(&compiler.library, llvm.join("lib").join(file))?;
            symlink(file, llvm.join("lib/libLLVM.so"))?;
            let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            cargo
                .args(["install", "--quiet", "--locked", "--no-default-features", "--features"])
                .arg(format!("llvm-{}", compiler.llvm))
                .arg("--root")
                .arg(to)
                .arg(format!("bpf-linker@{LINKER}"))
                .env("LLVM_PREFIX", &llvm)
                .env("CARGO_TARGET_DIR", cache.root().join("ebpf").join("linker-target"))
                // Not in the checkout, whose settings are not for this.
                .current_dir(cache.root());
            succeed(&mut cargo)
        })?;
        // As large as the toolchain, and never needed again.
        fs::remove_dir_all(cache.root().join("ebpf").join("linker-target")).ok();
    }
    Ok(entry.join("bin"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_without_its_librarys_sources_is_refused_by_name() {
        let error = Compiler::with_sources(Path::new("/nowhere/rustc"), true).unwrap_err();
        assert!(format!("{error:#}").contains("cannot run"), "{error:#}");
    }

    #[test]
    fn the_llvm_of_a_compiler_is_found_by_its_number() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("lib")).unwrap();
        fs::write(folder.path().join("lib/libLLVM.so.22.1-rust-1.95.0-stable"), "").unwrap();
        assert!(library(folder.path(), "libLLVM.so.22.1").is_some());
        assert!(library(folder.path(), "libLLVM.so.99.0").is_none());
    }
}
