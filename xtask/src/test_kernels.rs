//! `cargo xtask test-kernels`: the same agent and the same object on other kernels, in a virtual machine.
//!
//! Kernels are those that Debian packages, unpacked into the cache and never installed. The machine is
//! emulated, has no disk and no network, and ends with its first process, `mirador-kernel-check`. Never:
//! runs for longer than [`LIMIT`].

mod initramfs;
mod kernel;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mirador_support::backends::cache::Cache;

use crate::build_ebpf;
use crate::workspace::{cargo, program, succeed};
use kernel::Kernel;

/// How long a machine may take; on an idle host it takes seconds.
const LIMIT: Duration = Duration::from_secs(240);
/// The series that are wanted: the oldest that Debian still packages for machines like this, and a new one.
const SERIES: [&str; 2] = ["6.1", "6.12"];
/// What `mirador-kernel-check` prints.
const GOOD: &str = "KERNEL-CHECK ok";
const BAD: &str = "KERNEL-CHECK failed";

/// Boot other kernels under emulation and check that steering works there.
///
/// Needs qemu-system-x86 (installed when root has apt-get) and Debian's package archive for the kernels,
/// which are kept in the cache.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Only this series (6.1, 6.12).
    series: Option<String>,
}

/// What became of a kernel.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Steering works on it.
    Good(String),
    /// It does not.
    Bad(String),
    /// It could not be had or booted here.
    Skipped(String),
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let verdicts = check(options.series.as_deref())?;
    for verdict in &verdicts {
        match verdict {
            Verdict::Good(text) => println!("ok       {text}"),
            Verdict::Bad(text) => println!("FAILED   {text}"),
            Verdict::Skipped(text) => println!("skipped  {text}"),
        }
    }
    let good = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Good(_))).count();
    ensure!(good == verdicts.len() && good > 0, "steering was seen to work on {good} of {} kernels", verdicts.len());
    Ok(())
}

/// Checks every series, or the one named.
pub(crate) fn check(series: Option<&str>) -> Result<Vec<Verdict>> {
    build_ebpf::ensure(false)?;
    // What the tests have built: two packages alone would have libraries with other features compiled again.
    succeed(&mut cargo(["build", "--workspace", "--all-targets"]))?;
    let cache = Cache::locate()?;
    if let Err(error) = kernel::ensure_emulator() {
        return Ok(vec![Verdict::Skipped(format!("{error:#}"))]);
    }
    let folder = tempfile::Builder::new().prefix("mirador-kernels-").tempdir()?;
    let image = folder.path().join("initramfs");
    initramfs::write(&image, &program("mirador-kernel-check", "debug")?, &program("mirador-agent", "debug")?)?;
    let wanted = SERIES.iter().filter(|known| series.is_none_or(|series| series == **known));
    Ok(wanted
        .map(|series| match kernel::ensure(&cache, series) {
            Ok(kernel) => boot(&kernel, &image, folder.path())
                .unwrap_or_else(|error| Verdict::Bad(format!("{kernel}: {error:#}"))),
            Err(error) => Verdict::Skipped(format!("Linux {series}: {error:#}")),
        })
        .collect())
}

fn boot(kernel: &Kernel, image: &Path, folder: &Path) -> Result<Verdict> {
    eprintln!("test-kernels: booting {kernel}");
    let console = folder.join("console");
    let output = File::create(&console)?;
    let mut machine = Command::new("qemu-system-x86_64")
        .args([
            "-accel",
            "tcg",
            "-cpu",
            "max",
            "-m",
            "1024",
            "-nographic",
            "-nodefaults",
            "-serial",
            "stdio",
            "-no-reboot",
        ])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(image)
        // The machine ends when its first process does: that is a panic, and a panic reboots.
        .args(["-append", "console=ttyS0 quiet panic=-1"])
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(Stdio::null())
        .spawn()
        .context("qemu-system-x86_64")?;
    let begun = Instant::now();
    let read = || fs::read(&console).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let verdict = loop {
        let text = read();
        // Whole lines only: the console is written as we read.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let line =
            |mark: &str| whole.lines().find_map(|line| line.split_once(mark)).map(|(_, said)| said.trim().to_owned());
        if let Some(said) = line(GOOD) {
            break Verdict::Good(format!("{kernel} in {:.0} s{said}", begun.elapsed().as_secs_f64()));
        }
        if let Some(said) = line(BAD) {
            break Verdict::Bad(format!("{kernel}{said}"));
        }
        let ended = machine.try_wait()?.is_some();
        if ended || begun.elapsed() > LIMIT {
            let why = if ended { "the machine ended" } else { "the machine took too long" };
            break Verdict::Bad(format!("{kernel}: {why}; its console ends with:\n{}", tail(&read())));
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    machine.kill().ok();
    machine.wait()?;
    Ok(verdict)
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().rev().take(15).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
