//! `mirador-agent steering …`: the ladder step by step, without an agent that runs.

use std::sync::Arc;

use aya::programs::loaded_programs;
use mirador_service::cause::chain;
use mirador_service::metrics::Registry;
use tokio::task::JoinSet;

use super::config::SteeringConfig;
use super::ladder::Ladder;
use super::load::climb;
use super::scope::Scope;
use super::{names, pins};

/// How far an agent with this configuration would get, up to the programs being taken by the kernel.
/// Nothing is attached.
pub fn probe(config: &SteeringConfig) -> Ladder {
    climb(config, false).0
}

/// The whole way: attaches to the pods' cgroup and lets go at once. Nothing is pinned. Without a listener in
/// their map the programs pass every connection.
pub fn attach_and_detach(config: &SteeringConfig) -> Ladder {
    climb(&SteeringConfig { pin: None, ..config.clone() }, true).0
}

/// What is pinned, a line each; empty when nothing is to be.
pub fn pinned(config: &SteeringConfig) -> String {
    config.pin.as_deref().map(pins::list).unwrap_or_default()
}

/// Removes what is pinned, which detaches it. Connections that are open stay with their agent.
///
/// # Errors
/// When `steering.pin` is not set, or a folder cannot be removed.
pub fn detach(config: &SteeringConfig) -> Result<String, String> {
    let Some(root) = &config.pin else {
        return Err("steering.pin is not set: what is not pinned ends with its agent".to_owned());
    };
    match pins::remove(root) {
        Ok(removed) => Ok(format!("removed {removed} pins below {}\n", root.display())),
        Err(error) => Err(format!("steering.pin: {}: {error}", root.display())),
    }
}

/// The rules that would hold, names resolved as far as the API server answers within its time limit.
pub fn rules(config: &SteeringConfig) -> String {
    let scope = Scope::new(config);
    let resolved = resolve(&scope, config);
    let failure = resolved.err().map(|why| format!("names in rules are not resolved: {why}\n"));
    scope.text() + &failure.unwrap_or_default()
}

/// Waits until every watch has read its list once.
fn resolve(scope: &Arc<Scope>, config: &SteeringConfig) -> Result<(), String> {
    let (Some(kubernetes), lists @ 1..) = (&config.kubernetes, names::watches(scope)) else { return Ok(()) };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        let mut seen = names::start(scope, &Registry::new(), &mut tasks);
        let all = tokio::time::timeout(kubernetes.timeout, seen.wait_for(|seen| *seen >= lists)).await;
        if matches!(all, Ok(Ok(_))) {
            return Ok(());
        }
        drop(all);
        Err(format!("{} of {lists} lists were read within {:?}", *seen.borrow(), kubernetes.timeout))
    })
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
