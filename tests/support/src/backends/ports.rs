//! Free ports on loopback that stay free until they are used.
//!
//! A port that the kernel hands out for port 0 may be taken by anybody's outgoing connection before the
//! backend listens on it, or between its stop and its restart. These come from below the range of
//! outgoing connections, this process gives each only once, and no other test process gives one of the same
//! block while this one lives.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};

/// Below every usual range of ephemeral ports (Linux begins at 32768) and above the well-known ones.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// Ports that a process takes at once: one descriptor stands for them.
const BLOCK: u16 = 200;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A port that nobody listens on now.
pub fn free() -> Result<u16> {
    let width = u32::from(RANGE.end - RANGE.start);
    for _ in 0..width {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(start()) % width;
        let port = RANGE.start + offset as u16;
        if is_leased(port) && is_free(port) {
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

/// Whether the block of `port` is this process's, or becomes it. The sign is a socket with an abstract name, which
/// the kernel removes with the process that bound it, and which is known where the port is: in one network
/// namespace.
fn is_leased(port: u16) -> bool {
    static BLOCKS: Mutex<BTreeMap<u16, Option<UnixListener>>> = Mutex::new(BTreeMap::new());
    let block = port / BLOCK;
    BLOCKS.lock().unwrap_or_else(PoisonError::into_inner).entry(block).or_insert_with(|| sign(block)).is_some()
}

fn sign(block: u16) -> Option<UnixListener> {
    UnixListener::bind_addr(&SocketAddr::from_abstract_name(format!("mirador-ports-{block}")).ok()?).ok()
}

/// Where this process begins, so that test processes side by side seldom try the same port.
fn start() -> u32 {
    static START: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *START.get_or_init(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
        let anywhere = std::process::id().wrapping_mul(2_654_435_761).wrapping_add(now);
        anywhere % u32::from(RANGE.end - RANGE.start) / u32::from(BLOCK) * u32::from(BLOCK)
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
            assert!(sign(port / BLOCK).is_none(), "another process would be given {port} too");
        }
    }
}
