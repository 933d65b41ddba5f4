//! Faults that tests switch on by the environment. A release build has none of them: the variables are not
//! read there.

/// The self-exclusion guards that are kept, when `MIRADOR_TEST_GUARDS` lists them.
const GUARDS: &str = "MIRADOR_TEST_GUARDS";
/// `MIRADOR_TEST_KERNEL_LACKS=sock_addr` answers the probe for that type of program with no.
const LACKS: &str = "MIRADOR_TEST_KERNEL_LACKS";

fn read(name: &str) -> Option<String> {
    if cfg!(debug_assertions) { std::env::var(name).ok() } else { None }
}

/// Whether the guard `name` (`cgroup`, `process`, `socket`) keeps the agent's own connections out.
pub(super) fn guards(name: &str) -> bool {
    read(GUARDS).is_none_or(|kept| kept.split(',').any(|kept| kept == name))
}

/// Whether the kernel is to be taken for one without this type of program.
pub(super) fn kernel_lacks(kind: &str) -> bool {
    read(LACKS).is_some_and(|lacking| lacking == kind)
}
