//! Who the owners are: the fixed list, or what DNS says.
//!
//! Invariants: the list is sorted and free of duplicates; a failed look-up never changes it; an empty
//! answer empties it only when it is the second in a row, so one bad answer of a name server does not
//! stop a node. The member string is exactly what the resolver returned, because it is what is hashed
//! (a ring of bare addresses differs from a ring of address:port).

use std::net::{IpAddr, SocketAddr};

use http::uri::Authority;

use super::config::{DEFAULT_PORT, DnsConfig};
use crate::outgoing;

/// Empty answers in a row that it takes to believe that nobody is left.
const EMPTY_ANSWERS: u32 = 2;

/// A member of the ring and where it is dialled.
///
/// The name alone decides what the member owns, so that a replica which comes back under its name at
/// another address keeps its part.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// The string that is hashed.
    pub name: String,
    /// `host` or `host:port`; port 4317 is dialled when it names none.
    pub address: String,
}

impl From<String> for Member {
    /// A member that is dialled under its name.
    fn from(name: String) -> Self {
        Self { address: name.clone(), name }
    }
}

/// What one look-up said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// These owners.
    Members(Vec<String>),
    /// The name exists no more, or has no address.
    Empty,
    /// Nothing is known: the look-up failed or took too long.
    Failed(String),
}

/// The last good set of owners.
#[derive(Debug, Default)]
pub(super) struct Membership {
    members: Vec<String>,
    empty_answers: u32,
}

impl Membership {
    /// Takes one answer; returns the new set when it differs from the last one.
    pub(super) fn apply(&mut self, answer: Answer) -> Option<&[String]> {
        let next = match answer {
            Answer::Failed(_) => return None,
            Answer::Empty => {
                self.empty_answers += 1;
                if self.empty_answers < EMPTY_ANSWERS {
                    return None;
                }
                Vec::new()
            }
            Answer::Members(mut members) => {
                self.empty_answers = 0;
                members.sort_unstable();
                members.dedup();
                members
            }
        };
        if next == self.members {
            return None;
        }
        self.members = next;
        Some(&self.members)
    }
}

/// Looks the name up once.
pub(super) async fn lookup(config: &DnsConfig) -> Answer {
    let port = config.port.unwrap_or(DEFAULT_PORT);
    let query = outgoing::look_up(format!("{}:{port}", config.hostname));
    match tokio::time::timeout(config.timeout, query).await {
        Err(_) => Answer::Failed(format!("no answer within {:?}", config.timeout)),
        Ok(Err(error)) => classify(&error.to_string()),
        Ok(Ok(found)) => {
            let members: Vec<String> = found.into_iter().map(|address| member(address, config.port)).collect();
            if members.is_empty() { Answer::Empty } else { Answer::Members(members) }
        }
    }
}

/// Tells "there is no such name or address" from "could not ask". The standard library hands the
/// resolver's code on as text only (`EAI_NONAME` and `EAI_NODATA` of glibc and musl).
fn classify(error: &str) -> Answer {
    const NOBODY: [&str; 3] =
        ["Name or service not known", "No address associated with hostname", "Name does not resolve"];
    if NOBODY.iter().any(|text| error.contains(text)) { Answer::Empty } else { Answer::Failed(error.to_owned()) }
}

/// The ring member of an address: IPv6 in brackets, the port only when one is configured.
fn member(address: SocketAddr, port: Option<u16>) -> String {
    match (address.ip(), port) {
        (ip, Some(port)) => SocketAddr::new(ip, port).to_string(),
        (IpAddr::V4(ip), None) => ip.to_string(),
        (IpAddr::V6(ip), None) => format!("[{ip}]"),
    }
}

/// What is dialled for a member: `host:port`, with port 4317 when it names none. `None`: not a host.
pub(super) fn authority(member: &str) -> Option<Authority> {
    let parsed: Authority = member.parse().ok()?;
    if parsed.host().is_empty() || member.contains('@') {
        return None;
    }
    match parsed.port() {
        Some(port) => (port.as_u16() != 0).then_some(parsed),
        None if member.ends_with(':') => None,
        None => format!("{member}:{DEFAULT_PORT}").parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(names: &[&str]) -> Answer {
        Answer::Members(names.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn the_set_is_sorted_and_equal_sets_are_no_news() {
        let mut membership = Membership::default();
        assert_eq!(membership.apply(members(&["b", "a", "b"])), Some(&["a".to_owned(), "b".to_owned()][..]));
        assert_eq!(membership.apply(members(&["a", "b"])), None);
    }

    #[test]
    fn one_empty_answer_keeps_the_last_good_set_and_the_second_empties_it() {
        let mut membership = Membership::default();
        assert!(membership.apply(members(&["a"])).is_some());
        assert_eq!(membership.apply(Answer::Empty), None);
        assert_eq!(membership.apply(members(&["a"])), None, "a good answer in between starts over");
        assert_eq!(membership.apply(Answer::Empty), None);
        assert_eq!(membership.apply(Answer::Empty), Some(&[][..]));
        assert_eq!(membership.apply(Answer::Empty), None);
    }

    #[test]
    fn failed_lookups_never_change_the_set() {
        let mut membership = Membership::default();
        assert!(membership.apply(members(&["a"])).is_some());
        for _ in 0..10 {
            assert_eq!(membership.apply(Answer::Failed("timeout".to_owned())), None);
        }
        assert_eq!(membership.apply(Answer::Empty), None, "failures are no empty answers");
    }

    #[test]
    fn resolver_errors_are_told_apart() {
        assert_eq!(classify("failed to lookup address information: Name or service not known"), Answer::Empty);
        assert!(matches!(
            classify("failed to lookup address information: Temporary failure in name resolution"),
            Answer::Failed(_)
        ));
    }

    #[test]
    fn ring_members_carry_a_port_only_when_one_is_configured() {
        let v4: SocketAddr = "10.0.0.1:4317".parse().unwrap();
        let v6: SocketAddr = "[fd00::1]:4317".parse().unwrap();
        assert_eq!(member(v4, None), "10.0.0.1");
        assert_eq!(member(v4, Some(9999)), "10.0.0.1:9999");
        assert_eq!(member(v6, None), "[fd00::1]");
        assert_eq!(member(v6, Some(4317)), "[fd00::1]:4317");
    }

    #[test]
    fn the_dialled_address_gets_the_default_port() {
        assert_eq!(authority("central").unwrap().as_str(), "central:4317");
        assert_eq!(authority("central:14317").unwrap().as_str(), "central:14317");
        assert_eq!(authority("[fd00::1]").unwrap().as_str(), "[fd00::1]:4317");
        for bad in ["", "http://central:4317", "central:", "user@central", "a b", "central:0"] {
            assert!(authority(bad).is_none(), "{bad}");
        }
    }
}
