//! The machine's file system: our programs, `sh`, `ip` and `mount`, and the libraries that they load.
//!
//! The format is cpio's "newc" (kernel documentation, early-userspace/buffer-format).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Modes of a folder, a program and a device.
const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const DEVICE: u32 = 0o020_600;

/// Host programs that the check calls, and where they stand.
const TOOLS: [&str; 3] = ["sh", "ip", "mount"];

/// Writes the archive to `to`, with `init` as the first process.
pub(super) fn write(to: &Path, init: &Path, agent: &Path) -> Result<()> {
    let mut files: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
    files.insert("init".into(), stripped(init)?);
    files.insert("bin/mirador-agent".into(), stripped(agent)?);
    let mut programs = vec![init.to_owned(), agent.to_owned()];
    for tool in TOOLS {
        let places = ["/bin", "/usr/bin", "/sbin", "/usr/sbin"].map(|folder| Path::new(folder).join(tool));
        let found =
            places.into_iter().find(|place| place.is_file()).with_context(|| format!("no {tool} on this host"))?;
        files.insert(Path::new("bin").join(tool), fs::read(&found)?);
        programs.push(found);
    }
    for library in programs.iter().map(|program| libraries(program)).collect::<Result<Vec<_>>>()?.concat() {
        let inside = library.strip_prefix("/").unwrap_or(&library).to_owned();
        files.insert(inside, fs::read(&library)?);
    }
    let mut archive = Archive::default();
    archive.entry("dev", FOLDER, (0, 0), &[]);
    archive.entry("dev/console", DEVICE, (5, 1), &[]);
    archive.entry("dev/null", DEVICE, (1, 3), &[]);
    let mut folders: Vec<&Path> = files.keys().flat_map(|path| path.ancestors().skip(1)).collect();
    folders.sort();
    folders.dedup();
    for folder in folders.iter().filter(|folder| !folder.as_os_str().is_empty()) {
        archive.entry(&folder.to_string_lossy(), FOLDER, (0, 0), &[]);
    }
    for (path, bytes) in &files {
        archive.entry(&path.to_string_lossy(), PROGRAM, (0, 0), bytes);
    }
    archive.entry("TRAILER!!!", 0, (0, 0), &[]);
    fs::write(to, archive.bytes).with_context(|| to.display().to_string())
}

/// The program without what only a debugger reads: the machine has little memory.
fn stripped(program: &Path) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    let to = folder.path().join("program");
    let done = Command::new("strip").arg("-o").arg(&to).arg(program).status().is_ok_and(|status| status.success());
    let from = if done { &to } else { program };
    fs::read(from).with_context(|| from.display().to_string())
}

/// The files that the loader of `program` reads, itself included.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("ldd")?;
    ensure!(output.status.success(), "ldd {} failed", program.display());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().filter_map(library).collect())
}

/// `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)` or `/lib64/ld-linux-x86-64.so.2 (0x…)`
fn library(line: &str) -> Option<PathBuf> {
    line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from)
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) {
        self.entries += 1;
        let length = name.len() as u32 + 1;
        // inode, mode, user, group, links, time, size, device of the file, device of a node, name, checksum
        let fields = [self.entries, mode, 0, 0, 1, 0, data.len() as u32, 0, 0, device.0, device.1, length, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_header_of_110_bytes_a_name_and_its_data_each_padded_to_four() {
        let mut archive = Archive::default();
        archive.entry("ab", PROGRAM, (0, 0), b"12345");
        assert_eq!(archive.bytes.len(), (110_usize + 3).next_multiple_of(4) + 8);
        assert!(archive.bytes.starts_with(b"07070100000001000081ed"));
        assert_eq!(&archive.bytes[110..113], b"ab\0");
    }

    #[test]
    fn the_loaders_list_is_read() {
        let line = "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)";
        assert_eq!(library(line), Some("/lib/x86_64-linux-gnu/libc.so.6".into()));
        assert_eq!(library("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)"), Some("/lib64/ld-linux-x86-64.so.2".into()));
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007f)"), None);
    }
}
