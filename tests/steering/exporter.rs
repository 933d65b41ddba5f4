//! The exporter of the tests, a program of its own because a pod's cgroup takes whole processes:
//! TARGET WAY COUNT CONNECTIONS. Prints how many attempts it took.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use mirador_support::load::exports;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [target, way, count, connections] = words.as_slice() else { anyhow::bail!("TARGET WAY COUNT CONNECTIONS") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let exported = exports::export(target.parse()?, way.parse()?, count.parse()?, connections.parse()?);
    let attempts = runtime.block_on(exported).context("an export was given up")?;
    writeln!(std::io::stdout(), "{attempts}")?;
    Ok(())
}
