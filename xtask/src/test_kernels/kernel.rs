//! Kernels that Debian packages, and the emulator that boots them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use mirador_support::backends::cache::Cache;

use crate::workspace::succeed;

/// A kernel that can be booted.
#[derive(Debug)]
pub(super) struct Kernel {
    package: String,
    /// The file that a boot loader would load.
    pub(super) image: PathBuf,
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.package.trim_start_matches("linux-image-"))
    }
}

/// Makes sure that there is an emulator.
pub(super) fn ensure_emulator() -> Result<()> {
    let works = || Command::new("qemu-system-x86_64").arg("--version").stdout(Stdio::null()).status().is_ok();
    if works() {
        return Ok(());
    }
    let root = rustix::process::geteuid().is_root() && Path::new("/usr/bin/apt-get").exists();
    ensure!(root, "no qemu-system-x86_64: install qemu-system-x86");
    eprintln!("test-kernels: installing qemu-system-x86");
    for words in [&["update", "-q"][..], &["install", "-q", "-y", "--no-install-recommends", "qemu-system-x86"]] {
        let mut apt = Command::new("apt-get");
        succeed(apt.args(words).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null()))?;
    }
    ensure!(works(), "qemu-system-x86 was installed, and there is no qemu-system-x86_64");
    Ok(())
}

/// The newest kernel of `series` in the cache, fetched when there is none.
pub(super) fn ensure(cache: &Cache, series: &str) -> Result<Kernel> {
    let entry = cache.root().join("kernels").join(series);
    let _lock = cache.lock("kernels", || eprintln!("test-kernels: another process fetches kernels, waiting"))?;
    if !Cache::is_complete(&entry) {
        let package = newest(series)?;
        eprintln!("test-kernels: fetching {package}");
        cache.put(&entry, |to| {
            succeed(
                Command::new("apt-get")
                    .args(["download", "-q", &package, "-o", "APT::Sandbox::User=root"])
                    .current_dir(to)
                    .stdout(Stdio::null()),
            )?;
            let archive = file(to, ".deb")?;
            succeed(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(to.join("root")))?;
            let image = file(&to.join("root/boot"), "")?;
            std::fs::rename(image, to.join(&package))?;
            std::fs::remove_dir_all(to.join("root"))?;
            Ok(std::fs::remove_file(archive)?)
        })?;
    }
    let image = file(&entry, "amd64")?;
    let package = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Kernel { package, image })
}

/// The file in `folder` that ends so; of a kernel's files the one that boots.
fn file(folder: &Path, end: &str) -> Result<PathBuf> {
    let files = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?.flatten();
    let mut named = files.map(|file| file.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if end.is_empty() { name.starts_with("vmlinuz") } else { name.ends_with(end) }
    });
    named.next().with_context(|| format!("nothing that ends with {end:?} in {}", folder.display()))
}

/// The package of the newest kernel of `series` that the archive offers for virtual machines.
fn newest(series: &str) -> Result<String> {
    if !Path::new("/usr/bin/apt-cache").exists() {
        bail!("kernels come from Debian's archive, and there is no apt-cache");
    }
    let pattern = format!("^linux-image-{}\\.[0-9].*-cloud-amd64$", series.replace('.', "\\."));
    let found = || -> Result<Option<String>> {
        let output = Command::new("apt-cache").args(["search", "--names-only", &pattern]).output()?;
        Ok(pick(&String::from_utf8_lossy(&output.stdout)))
    };
    if let Some(package) = found()? {
        return Ok(package);
    }
    let mut update = Command::new("apt-get");
    update.args(["update", "-q"]).stdout(Stdio::null());
    if rustix::process::geteuid().is_root() {
        succeed(&mut update)?;
    }
    found()?.context("the archive offers none")
}

/// The package with the greatest version among the lines of `apt-cache search`.
fn pick(listing: &str) -> Option<String> {
    let names = listing.lines().filter_map(|line| line.split_whitespace().next());
    let version = |name: &str| -> Vec<u64> {
        name.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
    };
    names.filter(|name| !name.contains("-rt-")).max_by_key(|name| version(name)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_package_is_picked_by_number_and_not_by_letter() {
        let listing = "linux-image-6.1.0-9-cloud-amd64 - Linux 6.1\nlinux-image-6.1.0-42-cloud-amd64 - Linux 6.1\n";
        assert_eq!(pick(listing).as_deref(), Some("linux-image-6.1.0-42-cloud-amd64"));
        assert_eq!(pick(""), None);
    }
}
