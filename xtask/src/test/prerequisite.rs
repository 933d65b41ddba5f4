//! Looks whether the machine has what the tests are built and run with, before minutes are spent.
//!
//! What Debian packages in a usable version is installed when we are root there; everything else is named
//! with the version that is needed. Never: installs anything that is already there.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::workspace::{shown, succeed};

/// Something that must be there.
struct Need {
    /// A command that succeeds when it is.
    probe: &'static [&'static str],
    what: &'static str,
    /// Debian's packages for it; empty when Debian's are too old.
    debian: &'static [&'static str],
    why: &'static str,
}

const NODE_20_6: &str =
    "const [a, b] = process.versions.node.split('.').map(Number); process.exit(a > 20 || a === 20 && b >= 6 ? 0 : 1)";

const NEEDS: [Need; 9] = [
    Need { probe: &["cc", "--version"], what: "a C compiler", debian: &["gcc", "libc6-dev"], why: "SQLite and zstd" },
    Need {
        probe: &["go", "version"],
        what: "Go 1.26 or newer",
        debian: &[],
        why: "VictoriaMetrics, VictoriaLogs, Jaeger, telemetrygen, Kubernetes",
    },
    Need { probe: &["openssl", "version"], what: "openssl", debian: &["openssl"], why: "keys of the control plane" },
    Need { probe: &["java", "-version"], what: "JDK 17", debian: &["openjdk-17-jdk-headless"], why: "Cassandra" },
    Need { probe: &["mvn", "--version"], what: "Maven", debian: &["maven"], why: "Cassandra" },
    Need {
        probe: &["python3", "--version"],
        what: "Python 3",
        debian: &["python3"],
        why: "an application of stock SDKs",
    },
    Need {
        probe: &["python3", "-c", "import ensurepip, venv"],
        what: "Python's venv module",
        debian: &["python3-venv"],
        why: "an application of stock SDKs",
    },
    Need {
        probe: &["node", "-e", NODE_20_6],
        what: "Node 20.6 or newer",
        debian: &["nodejs"],
        why: "an application of stock SDKs",
    },
    Need { probe: &["npm", "--version"], what: "npm", debian: &["npm"], why: "an application of stock SDKs" },
];

/// Makes sure that everything is there, or says all that is missing.
pub(super) fn check() -> Result<()> {
    let missing = || NEEDS.iter().filter(|need| !runs(need.probe)).collect::<Vec<_>>();
    let packages: Vec<_> = missing().iter().flat_map(|need| need.debian).copied().collect();
    if !packages.is_empty() && rustix::process::geteuid().is_root() && Path::new("/usr/bin/apt-get").exists() {
        eprintln!("test: installing {}", packages.join(" "));
        for arguments in
            [vec!["update", "-q"], [&["install", "-q", "-y", "--no-install-recommends"], &packages[..]].concat()]
        {
            let mut apt = Command::new("apt-get");
            apt.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
            if let Err(error) = succeed(&mut apt) {
                // What is still missing is named below, with what is wanted.
                eprintln!("test: {error} ({})", shown(&apt));
                break;
            }
        }
    }
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = missing.iter().map(|need| line(need)).collect();
    bail!("the tests need what this machine has not:\n{}", lines.join("\n"))
}

fn line(need: &Need) -> String {
    let hint = if need.debian.is_empty() {
        "install it and put it on PATH".to_owned()
    } else {
        format!("Debian: apt-get install {}", need.debian.join(" "))
    };
    format!("  {} (for {}): {hint}", need.what, need.why)
}

fn runs(probe: &[&str]) -> bool {
    let [program, arguments @ ..] = probe else { return false };
    let status =
        Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_what_it_is_for_and_how_to_get_it() {
        assert!(runs(&["true"]) && !runs(&["false"]) && !runs(&["mirador-no-such-program"]));
        let go = NEEDS.iter().find(|need| need.what.starts_with("Go")).unwrap();
        assert!(line(go).contains("PATH") && line(go).contains("Jaeger"));
        let venv = NEEDS.iter().find(|need| need.what.contains("venv")).unwrap();
        assert!(line(venv).contains("apt-get install python3-venv"));
    }
}
