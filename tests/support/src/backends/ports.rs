//! Free ports on loopback that stay free until they are used.
//!
//! A port that the kernel hands out for port 0 may be taken by anybody's outgoing connection before the
//! backend listens on it, or between its stop and its restart. These come from below the range of
//! outgoing connections, and this process gives each only once.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};

/// Below every usual range of ephemeral ports (Linux begins at 32768) and above the well-known ones.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A port that nobody listens on now.
pub fn free() -> Result<u16> {
    let width = u32::from(RANGE.end - RANGE.start);
    for _ in 0..width {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(start()) % width;
        let port = RANGE.start + offset as u16;
        if is_free(port) {
            return Ok(port);
        }
    }
    bail!("no port of {}..{} is free on loopback: something holds them all", RANGE.start, RANGE.end)
}

/// Whether a listener could bind `port` on loopback and on all addresses now.
pub fn is_free(port: u16) -> bool {
    let bind = |address: Ipv4Addr| TcpListener::bind((address, port)).is_ok();
    bind(Ipv4Addr::LOCALHOST) && bind(Ipv4Addr::UNSPECIFIED)
}

/// Where this process begins, so that test processes side by side seldom try the same port.
fn start() -> u32 {
    static START: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *START.get_or_init(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
        std::process::id().wrapping_mul(2_654_435_761).wrapping_add(now)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice_and_a_taken_one_never() {
        let taken = free().unwrap();
        let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, taken)).unwrap();
        assert!(!is_free(taken));
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let port = free().unwrap();
            assert!(seen.insert(port) && port != taken && RANGE.contains(&port));
        }
    }
}
