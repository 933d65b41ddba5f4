//! Addresses that a process listens on, compared before anything is bound.
//!
//! A clash that the kernel would report is told by `validate` already, with both keys; and one that it would
//! not (two sockets that share a port, a process whose own exporter leads back to it) is told at all.
//!
//! Never: resolves a name. `localhost` is loopback; any other name is only itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const LOOPBACK_V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LOOPBACK_V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// A host as it stands in an address.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    /// Every address of the machine, or all of version 4.
    Any {
        v6: bool,
    },
    Address(IpAddr),
    /// `localhost`, of either version.
    Loopback,
    Name(String),
}

/// `host:port`; `None` when it is none, or the port is 0 (a free one).
fn parse(address: &str) -> Option<(Host, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => Host::Any { v6: false },
        Ok(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => Host::Any { v6: true },
        Ok(address) => Host::Address(address.to_canonical()),
        Err(_) if host.eq_ignore_ascii_case("localhost") => Host::Loopback,
        Err(_) => Host::Name(host.to_ascii_lowercase()),
    };
    Some((host, port))
}

impl Host {
    /// Whether a socket on this host takes, or blocks, what is for `other`.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            // A socket on `::` takes version 4 as well (`net.ipv6.bindv6only` is 0 unless it is changed).
            (Self::Any { v6 }, Self::Address(address)) => *v6 || address.is_ipv4(),
            (Self::Any { .. }, _) => true,
            // The two that a resolver has for `localhost`; the rest of 127/8 is other addresses.
            (Self::Loopback, Self::Address(address)) => [LOOPBACK_V4, LOOPBACK_V6].contains(address),
            _ => self == other,
        }
    }
}

/// Pairs of keys whose addresses cannot be listened on together, one sentence each.
///
/// Port 0 takes a free port and is never one of them.
pub fn conflicts(endpoints: &[(&str, &str)]) -> Vec<String> {
    let mut found = Vec::new();
    for (at, (key, address)) in endpoints.iter().enumerate() {
        for (other_key, other) in &endpoints[..at] {
            let (Some((host, port)), Some((other_host, other_port))) = (parse(address), parse(other)) else { continue };
            if port == other_port && (host.covers(&other_host) || other_host.covers(&host)) {
                let same = format!("{key}: `{address}` is taken by {other_key} (`{other}`)");
                found.push(format!("{same}: give each an address of its own"));
            }
        }
    }
    found
}

/// Whether a connection from this machine to `dialled` ends at a socket that listens on `endpoint`, as far as
/// that can be said without asking for names or addresses.
pub fn leads_to(dialled: &str, endpoint: &str) -> bool {
    let (Some((target, port)), Some((host, listening))) = (parse(dialled), parse(endpoint)) else { return false };
    let reached = match &target {
        // A connection to the unspecified address goes to loopback.
        Host::Loopback | Host::Any { .. } => host.covers(&Host::Loopback) || Host::Loopback.covers(&host),
        Host::Address(address) if address.is_loopback() => host.covers(&target),
        _ => host == target,
    };
    port == listening && reached
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_share_a_port_clash_when_one_covers_the_other() {
        for (one, other) in [
            ("0.0.0.0:4317", "0.0.0.0:4317"),
            ("0.0.0.0:4317", "127.0.0.1:4317"),
            ("[::]:4317", "10.0.0.1:4317"),
            ("[::]:4317", "[fd00::1]:4317"),
            ("localhost:4317", "127.0.0.1:4317"),
            ("localhost:4317", "[::1]:4317"),
            ("agent:4317", "AGENT:4317"),
            ("0.0.0.0:4317", "agent:4317"),
        ] {
            for pair in [[("grpc", one), ("http", other)], [("grpc", other), ("http", one)]] {
                let found = conflicts(&pair);
                assert_eq!(found.len(), 1, "{pair:?}");
                assert!(found[0].contains("grpc") && found[0].contains("http") && found[0].contains(one), "{found:?}");
            }
        }
        for (one, other) in [
            ("0.0.0.0:4317", "0.0.0.0:4318"),
            ("0.0.0.0:0", "0.0.0.0:0"),
            ("127.0.0.1:4317", "127.0.0.2:4317"),
            ("localhost:8888", "127.0.0.2:8888"),
            ("127.0.0.2:8888", "localhost:8888"),
            ("0.0.0.0:4317", "[::1]:4317"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(conflicts(&[("grpc", one), ("http", other)]), Vec::<String>::new(), "{one} {other}");
        }
        let all = [("a", "0.0.0.0:1"), ("b", "0.0.0.0:1"), ("c", "0.0.0.0:1")];
        assert_eq!(conflicts(&all).len(), 3, "each pair");
    }

    #[test]
    fn what_leads_back_to_the_process_is_found_without_asking_anyone() {
        for (dialled, endpoint) in [
            ("127.0.0.1:4317", "0.0.0.0:4317"),
            ("localhost:4317", "[::]:4317"),
            ("localhost:4317", "127.0.0.1:4317"),
            ("127.0.0.1:4317", "localhost:4317"),
            ("0.0.0.0:4317", "0.0.0.0:4317"),
            ("0.0.0.0:4317", "[::1]:4317"),
            ("10.0.0.1:4317", "10.0.0.1:4317"),
        ] {
            assert!(leads_to(dialled, endpoint), "{dialled} {endpoint}");
        }
        for (dialled, endpoint) in [
            ("127.0.0.1:14317", "0.0.0.0:4317"),
            ("10.0.0.1:4317", "0.0.0.0:4317"),
            ("central:4317", "0.0.0.0:4317"),
            ("127.0.0.2:4317", "127.0.0.1:4317"),
            ("0.0.0.0:4317", "10.0.0.1:4317"),
            ("localhost:4317", "127.0.0.2:4317"),
            ("127.0.0.2:4317", "localhost:4317"),
            ("0.0.0.0:4317", "127.0.0.2:4317"),
            ("127.0.0.1:0", "127.0.0.1:0"),
        ] {
            assert!(!leads_to(dialled, endpoint), "{dialled} {endpoint}");
        }
    }
}
