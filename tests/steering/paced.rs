//! Load from a pod on a schedule, and what became of every connect of it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, ensure};
use mirador_support::rig::Pod;
use serde::Deserialize;

/// The client's script.
const PACED: &str = include_str!("paced.py");
/// Connects a second that the load aims at.
pub(crate) const RATE: u32 = 1000;

/// Load that runs until it is asked for its counts.
#[derive(Debug)]
pub(crate) struct Load(Child);

/// What became of the connects.
#[derive(Debug, Deserialize)]
pub(crate) struct Counts {
    /// Connects that were begun.
    pub(crate) attempts: u64,
    /// Connects a second that were reached.
    rate: u64,
    /// How late the latest connect was.
    late_ms: u64,
    /// How often each thing became of one: who has answered, or the error's name.
    became: BTreeMap<String, u64>,
}

impl Load {
    /// Begins in `pod`, to the gateway's steered port.
    pub(crate) fn start(pod: &Pod) -> Result<Self> {
        let mut command = pod.command("python3");
        command.args(["-c", PACED, "203.0.113.9", "4317", &RATE.to_string()]);
        Ok(Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?))
    }

    /// Ends it, and says in the test's output what the load was and what became of it.
    pub(crate) fn finish(mut self, what: &str) -> Result<Counts> {
        drop(self.0.stdin.take());
        let output = self.0.wait_with_output()?;
        let counts: Counts = serde_json::from_slice(&output.stdout).context("the load's counts")?;
        writeln!(
            std::io::stdout(),
            "{what}: {} connects at {} a second (of {RATE} wanted, latest {} ms late): {:?}",
            counts.attempts,
            counts.rate,
            counts.late_ms,
            counts.became
        )?;
        let sum: u64 = counts.became.values().sum();
        ensure!(sum == counts.attempts, "something became of every connect: {counts:?}");
        Ok(counts)
    }
}

impl Counts {
    /// How often `what` became of a connect.
    pub(crate) fn of(&self, what: &str) -> u64 {
        self.became.get(what).copied().unwrap_or(0)
    }

    /// That every connect was answered, but for accepted ones that ended with their agent.
    pub(crate) fn refused_nobody(&self) -> Result<()> {
        let answered = self.of("agent") + self.of("gateway") + self.of("reset");
        ensure!(answered == self.attempts, "refused, or timed out: {self:?}");
        Ok(())
    }
}
