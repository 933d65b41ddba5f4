//! The root filesystem of an image: one program, its libraries, and what libc reads.
//!
//! Never: follows the machine's own library search path when the result is checked; writes outside the folder.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// User and group of the process.
pub(super) const USER: u32 = 10001;

/// Where all libraries are put; the loader that the program names is put at its own place as well.
const LIBRARIES: &str = "lib";

/// The public authorities, for stores by `https` whose `tls.ca_file` is empty (Debian's ca-certificates); a machine
/// without them makes an image without them.
const AUTHORITIES: &str = "etc/ssl/certs/ca-certificates.crt";

/// Puts together the root filesystem of `binary`, as `/NAME`, in the empty folder `root`.
pub(super) fn build(binary: &Path, name: &str, root: &Path) -> Result<()> {
    ensure!(binary.is_file(), "{} was not built", binary.display());
    install(binary, &root.join(name), 0o755)?;
    // Symbols are a third of a release build; a crash is named by its log line. Without binutils they stay.
    if let Ok(status) = Command::new("strip").arg(root.join(name)).status() {
        ensure!(status.success(), "`strip` ended with {status}");
    }
    let libraries = libraries(binary)?;
    for (wanted, path) in &libraries {
        let to = match wanted.strip_prefix("/") {
            // A whole path: the loader, which the kernel opens at exactly this place.
            Ok(inside) => root.join(inside),
            Err(_) => root.join(LIBRARIES).join(wanted),
        };
        install(path, &to, 0o755)?;
    }
    write(root, "etc/passwd", &format!("root:x:0:0:root:/:/\nmirador:x:{USER}:{USER}:mirador:/:/\n"))?;
    write(root, "etc/group", &format!("root:x:0:\nmirador:x:{USER}:\n"))?;
    // Files first, then DNS; without it libc asks services that are not there.
    write(root, "etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")?;
    let authorities = Path::new("/").join(AUTHORITIES);
    if authorities.is_file() {
        install(&authorities, &root.join(AUTHORITIES), 0o644)?;
    }
    let temporary = root.join("tmp");
    fs::create_dir_all(&temporary)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o1777))?;
    Ok(())
}

fn install(from: &Path, to: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(to.parent().context("a file has a folder")?)?;
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(mode))?)
}

fn write(root: &Path, path: &str, text: &str) -> Result<()> {
    let path = root.join(path);
    fs::create_dir_all(path.parent().context("a file has a folder")?)?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// What the program needs, as (name that is looked for, file): libraries by name, the loader by path.
fn libraries(binary: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let output = Command::new("ldd").arg(binary).output().context("cannot run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(error.contains("not a dynamic executable"), "ldd {}: {error}", binary.display());
        return Ok(Vec::new());
    }
    parse(&text)
}

/// Reads what ldd prints: `name => path (address)` or `path (address)`.
fn parse(text: &str) -> Result<Vec<(PathBuf, PathBuf)>> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (wanted, rest) = line.split_once(" => ").unwrap_or((line, line));
        ensure!(!rest.starts_with("not found"), "the library {wanted} is not on this machine");
        let path = rest.split(" (").next().unwrap_or_default().trim();
        if path.starts_with('/') {
            let wanted = wanted.split(" (").next().unwrap_or_default().trim();
            found.push((PathBuf::from(wanted), PathBuf::from(path)));
        }
    }
    Ok(found)
}

/// Runs the program of a root filesystem with only the libraries in there, and returns the line that it prints.
pub(super) fn run(root: &Path, name: &str, argument: &str) -> Result<String> {
    let loader = libraries(&root.join(name))?
        .into_iter()
        .find_map(|(wanted, _)| wanted.strip_prefix("/").ok().map(|inside| root.join(inside)));
    let mut command = match loader {
        Some(loader) => {
            let mut command = Command::new(loader);
            command.arg("--inhibit-cache").arg("--library-path").arg(root.join(LIBRARIES)).arg(root.join(name));
            command
        }
        None => Command::new(root.join(name)),
    };
    let output = command.arg(argument).output().with_context(|| format!("cannot run {name} in {}", root.display()))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} {argument} does not run in {}: {error}", root.display());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Bytes of all files below a folder.
pub(super) fn size(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let data = entry.metadata()?;
        sum += if data.is_dir() { size(&entry.path())? } else { data.len() };
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_known_by_name_and_the_loader_by_its_path() {
        let text = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x2)\n\t/lib64/ld-linux-x86-64.so.2 (0x3)\n";
        let found = parse(text).unwrap();
        let pair = |a: &str, b: &str| (PathBuf::from(a), PathBuf::from(b));
        let loader = "/lib64/ld-linux-x86-64.so.2";
        assert_eq!(found, [pair("libc.so.6", "/lib/x86_64-linux-gnu/libc.so.6"), pair(loader, loader)]);
        assert!(parse("libz.so => not found\n").unwrap_err().to_string().contains("libz.so"));
    }

    #[test]
    fn a_root_filesystem_runs_its_program_with_the_libraries_in_it() {
        let folder = tempfile::tempdir().unwrap();
        // A small program that every machine with a C library has.
        build(Path::new("/bin/cat"), "cat", folder.path()).unwrap();
        let page = folder.path().join("etc/nsswitch.conf");
        assert!(run(folder.path(), "cat", &page.display().to_string()).unwrap().contains("hosts: files dns"));
        assert!(size(folder.path()).unwrap() > 1 << 20);
    }
}
