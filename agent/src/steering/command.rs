//! `mirador-agent steering …`: the ladder step by step, without an agent that runs.

use aya::programs::loaded_programs;

use super::config::SteeringConfig;
use super::ladder::Ladder;
use super::load::climb;
use mirador_service::cause::chain;

/// How far an agent with this configuration would get, up to the programs being taken by the kernel.
/// Nothing is attached.
pub fn probe(config: &SteeringConfig) -> Ladder {
    climb(config, false).0
}

/// The whole way: attaches to the pods' cgroup and lets go at once. Without a listener in their map the
/// programs pass every connection.
pub fn attach_and_detach(config: &SteeringConfig) -> Ladder {
    climb(config, true).0
}

/// The programs of this name that are in the kernel now, whoever has loaded them.
pub fn in_kernel() -> String {
    let mut lines = Vec::new();
    for program in loaded_programs() {
        match program {
            Ok(program) => {
                let name = program.name_as_str().unwrap_or_default();
                if name.starts_with("mirador_") {
                    lines.push(format!("program {:<6} {name}\n", program.id()));
                }
            }
            Err(error) => return format!("programs in the kernel cannot be listed: {}\n", chain(&error)),
        }
    }
    if lines.is_empty() { "no program of ours is in the kernel\n".to_owned() } else { lines.concat() }
}
