//! What the process may do, and giving it up.

use std::io;

use rustix::thread::{CapabilitySet, capabilities, remove_capability_from_bounding_set, set_capabilities};

/// What steering needs, and everything that includes it.
const NEEDED_ONCE: CapabilitySet = CapabilitySet::BPF
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::SYS_RESOURCE);

/// What is missing to load and attach the programs; `None` when nothing is.
pub(super) fn missing() -> io::Result<Option<&'static str>> {
    let have = capabilities(None)?.effective;
    if have.contains(CapabilitySet::SYS_ADMIN) {
        return Ok(None);
    }
    let bpf = have.contains(CapabilitySet::BPF);
    let net_admin = have.contains(CapabilitySet::NET_ADMIN);
    Ok(match (bpf, net_admin) {
        (true, true) => None,
        (false, true) => Some("CAP_BPF"),
        (true, false) => Some("CAP_NET_ADMIN"),
        (false, false) => Some("CAP_BPF and CAP_NET_ADMIN"),
    })
}

/// Whether the verifier trusts the process not to be led astray by speculation.
pub(super) fn has_perfmon() -> bool {
    let trusted = CapabilitySet::PERFMON.union(CapabilitySet::SYS_ADMIN);
    capabilities(None).is_ok_and(|sets| sets.effective.intersects(trusted))
}

/// What is left after [`give_up`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Nothing of it.
    Nothing,
    /// `CAP_BPF`: before Linux 5.19 a process may not even read its maps without it.
    Bpf,
}

/// Gives up what loading and attaching has needed, for this thread and those that it starts. `works` says
/// whether the maps can still be used.
pub(super) fn give_up(works: impl Fn() -> bool) -> io::Result<Left> {
    // The bounding set first, while the right to lower it is there; where it is not, nothing is started
    // that could gain from it.
    for capability in NEEDED_ONCE.iter() {
        remove_capability_from_bounding_set(capability).ok();
    }
    let mut sets = capabilities(None)?;
    let had = sets.effective;
    sets.effective.remove(NEEDED_ONCE);
    set_capabilities(None, sets)?;
    let left = if works() { CapabilitySet::empty() } else { had.intersection(CapabilitySet::BPF) };
    let gone = NEEDED_ONCE.difference(left);
    sets.effective.insert(left);
    sets.permitted.remove(gone);
    sets.inheritable.remove(gone);
    set_capabilities(None, sets)?;
    Ok(if left.is_empty() { Left::Nothing } else { Left::Bpf })
}
