//! The agent asks the kernel what it calls it: process id and pod as the hooks see them.
//!
//! Inside a container both differ from what the process itself can read. The agent connects a socket
//! whose cookie it has told the hook, which writes down who that was and lets it go. An agent outside the
//! pods is not seen by the hook, and needs no guard against it.

use std::net::{Ipv4Addr, SocketAddrV4};

use aya::Ebpf;
use aya::maps::Array;
use mirador_ebpf_shared::Introduction;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

use super::config::SteeringConfig;
use super::load::map;

/// A loopback address at which nobody is expected.
const NOBODY: Ipv4Addr = Ipv4Addr::new(127, 255, 255, 254);

/// What the hook has seen; `None` when the kernel would not say.
pub(super) fn introduce(ebpf: &mut Ebpf, config: &SteeringConfig) -> Option<Introduction> {
    let port = config.ports.grpc.iter().chain(&config.ports.http).next()?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).ok()?;
    let cookie = sockopt::socket_cookie(&socket).ok()?;
    let mut introductions: Array<_, Introduction> = map(ebpf, "INTRODUCTION").ok()?;
    introductions.set(0, Introduction { cookie, ..Introduction::default() }, 0).ok()?;
    // Nobody answers, and nobody has to: the hook runs before the first packet.
    connect(&socket, &SocketAddrV4::new(NOBODY, *port)).ok();
    let seen = introductions.get(&0, 0).ok();
    introductions.set(0, Introduction::default(), 0).ok()?;
    seen.filter(|introduction| introduction.process != 0)
}
