//! The BPF programs of steering.
//!
//! - [`connect`]: a pod's TCP connect to a steered port goes to its node's agent; `getpeername` still
//!   names the original destination.
//! - [`establish`]: hands the identity of the caller from its socket to the one that the agent accepts.
//! - [`maps`]: every map.
//!
//! Invariants: no path refuses or delays a connection (every hook returns 1); whatever is missing or
//! wrong leaves the destination as the application wrote it; a pod's own loopback, UDP and every port
//! that is not listed are never touched.
//!
//! What each record means is said in `mirador-ebpf-shared`. Only helpers and context fields that Linux
//! 5.10 has are used; counters are added to without reading them back, which is all that 5.10 can do.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "an atomic addition has no other name on this target")]

mod connect;
mod count;
mod establish;
mod maps;

use aya_ebpf::macros::{cgroup_sock_addr, sock_ops};
use aya_ebpf::programs::{SockAddrContext, SockOpsContext};

/// What every hook answers: go on. Names of programs have 15 characters at most, or the kernel cuts them.
const GO: i32 = 1;

#[cgroup_sock_addr(connect4)]
fn mirador_conn4(ctx: SockAddrContext) -> i32 {
    connect::v4(&ctx);
    GO
}

#[cgroup_sock_addr(connect6)]
fn mirador_conn6(ctx: SockAddrContext) -> i32 {
    connect::v6(&ctx);
    GO
}

#[cgroup_sock_addr(getpeername4)]
fn mirador_peer4(ctx: SockAddrContext) -> i32 {
    connect::peer_v4(&ctx);
    GO
}

#[cgroup_sock_addr(getpeername6)]
fn mirador_peer6(ctx: SockAddrContext) -> i32 {
    connect::peer_v6(&ctx);
    GO
}

#[sock_ops]
fn mirador_tcp(ctx: SockOpsContext) -> u32 {
    establish::established(&ctx);
    GO as u32
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier accepts no program in which this can be reached.
    loop {}
}

/// The helpers used are open to every licence but the clock's on old kernels, which asks for this.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
