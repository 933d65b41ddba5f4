//! The programs that make clusters, and how they are called: by name on a PATH, and never for longer than a limit.

use std::ffi::OsString;
use std::io::{Read as _, Seek as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::workspace::shown;

/// How often a child is asked whether it has ended.
const LOOK: Duration = Duration::from_millis(50);
/// How long a program may take to say that it is there.
const PRESENT: Duration = Duration::from_secs(30);

/// Programs on a PATH.
pub(super) struct Tools {
    path: OsString,
    /// `docker` or `podman`.
    engine: &'static str,
}

impl Tools {
    pub(super) fn new(path: OsString) -> Self {
        Self { path, engine: "docker" }
    }

    /// These tools with the container engine that answers, or in words what is missing.
    pub(super) fn found(mut self) -> Result<Self, String> {
        let engine = ["docker", "podman"].into_iter().find(|engine| self.answers(engine, &["info"]));
        self.engine = engine.ok_or("no container engine answers (`docker info` and `podman info` fail)")?;
        let needed: [(&str, &[&str]); 3] =
            [("kind", &["version"]), ("kubectl", &["version", "--client"]), ("helm", &["version"])];
        match needed.iter().find(|(program, args)| !self.answers(program, args)) {
            Some((program, args)) => Err(format!("{program} is not on PATH (`{program} {}` fails)", args.join(" "))),
            None => Ok(self),
        }
    }

    fn answers(&self, program: &str, args: &[&str]) -> bool {
        let mut command = self.command(program, args);
        run(command.stdout(Stdio::null()).stderr(Stdio::null()), PRESENT).is_ok()
    }

    /// A call of `program`.
    pub(super) fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).env("PATH", &self.path).stdin(Stdio::null());
        if self.engine == "podman" {
            command.env("KIND_EXPERIMENTAL_PROVIDER", "podman");
        }
        command
    }

    /// A call of the container engine.
    pub(super) fn engine(&self, args: &[&str]) -> Command {
        self.command(self.engine, args)
    }
}

/// Runs `command` with our own output. It is killed after `limit`; its failure is an error that names it.
pub(super) fn run(command: &mut Command, limit: Duration) -> Result<()> {
    let what = shown(command);
    let mut child = command.spawn().with_context(|| format!("cannot run `{what}`"))?;
    let status = ended(&mut child, limit).with_context(|| format!("`{what}`"))?;
    ensure!(status.success(), "`{what}` ended with {status}");
    Ok(())
}

/// Like [`run`], and returns what `command` prints.
pub(super) fn output(command: &mut Command, limit: Duration) -> Result<String> {
    // A file and no pipe: nobody has to read while the command writes.
    let mut file = tempfile::tempfile()?;
    run(command.stdout(file.try_clone()?), limit)?;
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn ended(child: &mut Child, limit: Duration) -> Result<std::process::ExitStatus> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if started.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            bail!("has not ended after {} s", limit.as_secs());
        }
        std::thread::sleep(LOOK);
    }
}
