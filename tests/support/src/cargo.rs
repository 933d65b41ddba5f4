//! Cargo as a child of a process that cargo has started.
//!
//! Invariant: it sees the environment that it would see in a shell. Cargo tells its children which package they are
//! of (`CARGO_PKG_NAME`, `CARGO_MANIFEST_DIR`, …); build scripts such as ring's ask to be run again when these
//! change, so a cargo that inherited them would build ring anew, and all that stands on it, whenever another program
//! of this workspace calls it.

use std::ffi::OsStr;
use std::process::Command;

/// The cargo that started us, or the one on the path.
pub fn command() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_of_a_package(name)) {
        cargo.env_remove(name);
    }
    cargo
}

/// Whether cargo sets this variable for the children of one package.
fn is_of_a_package(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_says_of_which_package_the_parent_is_is_kept_from_a_child() {
        for kept in ["CARGO_HOME", "CARGO_TARGET_DIR", "CARGO_BUILD_JOBS", "CARGO_TERM_COLOR", "CARGO", "PATH"] {
            assert!(!is_of_a_package(OsStr::new(kept)), "{kept}");
        }
        for name in ["CARGO_PKG_NAME", "CARGO_PKG_VERSION_PRE", "CARGO_MANIFEST_DIR", "CARGO_MANIFEST_LINKS"] {
            assert!(is_of_a_package(OsStr::new(name)), "{name}");
        }
        let removed = |name: &OsStr| command().get_envs().any(|(key, value)| key == name && value.is_none());
        assert!(std::env::vars_os().all(|(name, _)| removed(&name) == is_of_a_package(&name)));
    }
}
