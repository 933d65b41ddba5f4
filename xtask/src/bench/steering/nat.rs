//! Translation of a pod's destination as a host port or a Service has it: connection tracking and DNAT, by
//! nftables or iptables, whichever is installed.
//!
//! Never: touches the rules of the machine. They stand in the network namespace of the rig's pod, which goes
//! with the rig.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use mirador_support::rig::{GATEWAY, Pod};

/// The program that translates.
#[derive(Debug, Clone, Copy)]
pub(super) enum Nat {
    Nft,
    Iptables,
}

/// Rules that are taken away when this is dropped.
#[derive(Debug)]
pub(super) struct Translated {
    namespace: String,
    undo: Vec<String>,
}

impl Nat {
    /// The one that works here: tried in a namespace of its own.
    pub(super) fn find() -> Result<Self> {
        for (nat, words) in [(Self::Nft, "nft list ruleset"), (Self::Iptables, "iptables -t nat -L")] {
            let tried = Command::new("unshare").arg("--net").args(words.split(' ')).output();
            if tried.is_ok_and(|output| output.status.success()) {
                return Ok(nat);
            }
        }
        anyhow::bail!("neither nft nor iptables works here (Debian: apt-get install nftables)")
    }

    fn is_nft(self) -> bool {
        matches!(self, Self::Nft)
    }

    /// The row's name.
    pub(super) fn name(self) -> &'static str {
        if self.is_nft() { "host port (DNAT by nftables)" } else { "host port (DNAT by iptables)" }
    }

    /// Sends what `pod` sends to the gateway's port 4317 to `target`.
    pub(super) fn translate(self, pod: &Pod, target: &str) -> Result<Translated> {
        let gateway = GATEWAY.0;
        let (steps, undo) = match self {
            Self::Nft => (
                vec![
                    "nft add table ip mirador".to_owned(),
                    "nft add chain ip mirador output { type nat hook output priority -100 ; }".to_owned(),
                    format!("nft add rule ip mirador output ip daddr {gateway} tcp dport 4317 dnat to {target}"),
                ],
                "nft delete table ip mirador".to_owned(),
            ),
            Self::Iptables => {
                let rule = format!("OUTPUT -p tcp -d {gateway} --dport 4317 -j DNAT --to-destination {target}");
                (vec![format!("iptables -t nat -A {rule}")], format!("iptables -t nat -D {rule}"))
            }
        };
        let namespace = pod.namespace().to_owned();
        for step in &steps {
            within(&namespace, step)?;
        }
        Ok(Translated { namespace, undo: vec![undo] })
    }
}

impl Drop for Translated {
    fn drop(&mut self) {
        for step in &self.undo {
            if let Err(error) = within(&self.namespace, step) {
                eprintln!("bench: a rule stays until its namespace goes: {error:#}");
            }
        }
    }
}

fn within(namespace: &str, step: &str) -> Result<()> {
    let output = Command::new("ip").args(["netns", "exec", namespace]).args(step.split(' ')).output();
    let output = output.with_context(|| step.to_owned())?;
    ensure!(output.status.success(), "{step}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
