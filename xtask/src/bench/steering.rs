//! What steering adds to a connect: none, the hooks let it pass, redirected with the caller's identity.
//!
//! All three are measured in the same run, in turns, from a pod over veth. Read the ratios: absolute times
//! are those of the machine and of what else it does.

use anyhow::{Context as _, Result, bail, ensure};
use mirador_support::rig::{Class, Driver, Gateway, Pod, Rig};
use serde_json::{Value, json};

use crate::build_ebpf;
use crate::workspace::{cargo, succeed};

/// Connects once per number and prints how long each connect(2) took, in nanoseconds.
const CLIENT: &str = r#"
import json, socket, sys, time
took = []
for _ in range(int(sys.argv[1])):
    stream = socket.socket()
    before = time.perf_counter_ns()
    stream.connect(("203.0.113.9", 4317))
    took.append(time.perf_counter_ns() - before)
    stream.close()
print(json.dumps(took))
"#;

/// What steering adds to a connect, from a pod over veth.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Connects per row and turn.
    #[arg(long, default_value_t = 1000)]
    connects: u32,
    /// Turns; rows are measured one after the other in each.
    #[arg(long, default_value_t = 5)]
    turns: u32,
}

/// A row's name and the settings of its agent; without settings there is none.
type Row = (&'static str, Option<fn() -> Value>);

const ROWS: [Row; 3] = [
    ("no steering", None),
    ("hooks pass (another destination is steered)", Some(|| json!({"destinations": {"steer": ["198.51.100.0/24"]}}))),
    ("redirected, with identity", Some(|| json!({}))),
];

pub(super) fn run(options: &Options) -> Result<()> {
    build_ebpf::ensure(false)?;
    succeed(&mut cargo(["build", "--quiet", "--package", "mirador-agent", "--bins"]))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut rig = Rig::new(Driver::Systemd)?;
    let _gateway = Gateway::start(&[4317])?;
    let pod = rig.pod(Class::Burstable)?;
    let mut took = [const { Vec::new() }; ROWS.len()];
    for turn in 1..=options.turns {
        eprintln!("bench: turn {turn} of {}", options.turns);
        for ((_, steering), took) in ROWS.iter().zip(&mut took) {
            let Some(steering) = steering else {
                took.extend(connects(&pod, options.connects)?);
                continue;
            };
            let mut agent = runtime.block_on(rig.agent(steering(), None))?;
            took.extend(connects(&pod, options.connects)?);
            runtime.block_on(agent.stop())?;
        }
    }
    let base = quantile(&mut took[0], 0.5)?;
    println!("| connect from a pod over veth | p50 µs | p99 µs | p50 against no steering |\n|---|---|---|---|");
    for ((name, _), took) in ROWS.iter().zip(&mut took) {
        let (p50, p99) = (quantile(took, 0.5)?, quantile(took, 0.99)?);
        println!("| {name} | {p50:.1} | {p99:.1} | {:.2} |", p50 / base);
    }
    Ok(())
}

fn connects(pod: &Pod, count: u32) -> Result<Vec<f64>> {
    let found = pod.python(CLIENT, &[&count.to_string()])?;
    let Value::Array(numbers) = found else { bail!("no list: {found}") };
    numbers.iter().map(|number| Ok(number.as_f64().context("a number")? / 1000.0)).collect()
}

fn quantile(took: &mut [f64], at: f64) -> Result<f64> {
    ensure!(!took.is_empty(), "nothing was measured");
    took.sort_by(f64::total_cmp);
    Ok(took[((took.len() - 1) as f64 * at) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let mut took = [5.0, 1.0, 3.0];
        assert!((quantile(&mut took, 0.5).unwrap() - 3.0).abs() < f64::EPSILON);
        assert!((quantile(&mut took, 1.0).unwrap() - 5.0).abs() < f64::EPSILON);
        assert!(quantile(&mut [], 0.5).is_err());
    }
}
