//! Hands a caller's identity from its socket to the one that the agent accepts.
//!
//! The client's side is established before its last packet of the handshake leaves, and the agent's side
//! when that arrives: what the first has written is there when the second reads. The sides know each
//! other by their four addresses, and the record is taken out when it is read.

use aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE;
use aya_ebpf::bindings::{BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB};
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use aya_ebpf::programs::SockOpsContext;
use mirador_ebpf_shared::{Address, Event, MAPPED, Origin, Tuple};

use crate::count;
use crate::maps::{CALLER, HANDSHAKE, INSTANCE, ORIGIN, handle};

/// `AF_INET6`.
const INET6: u32 = 10;

pub fn established(ctx: &SockOpsContext) {
    match ctx.op() {
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => by_client(ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => by_agent(ctx),
        _ => {}
    }
}

#[inline(always)]
fn by_client(ctx: &SockOpsContext) {
    let port = remote_port(ctx);
    if !is_agents(port) {
        return;
    }
    let tuple =
        Tuple { client: local(ctx), server: remote(ctx), client_port: ctx.local_port() as u16, server_port: port };
    let socket = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if socket.is_null() {
        return;
    }
    let origin: *mut Origin =
        unsafe { bpf_sk_storage_get(handle(&ORIGIN), socket.cast(), core::ptr::null_mut(), 0) }.cast();
    if origin.is_null() || unsafe { (*origin).kind } == Origin::VOID {
        // Whatever an earlier connection with these addresses has left is not about this one.
        let _ = HANDSHAKE.remove(&tuple);
        return;
    }
    let origin = unsafe { *origin };
    if HANDSHAKE.insert(&tuple, &origin, 0).is_err() {
        lost(&origin);
    }
}

#[inline(always)]
fn by_agent(ctx: &SockOpsContext) {
    let port = ctx.local_port() as u16;
    if !is_agents(port) {
        return;
    }
    let tuple = Tuple { client: remote(ctx), server: local(ctx), client_port: remote_port(ctx), server_port: port };
    let Some(origin) = (unsafe { HANDSHAKE.get(&tuple) }) else { return };
    let mut origin = *origin;
    let _ = HANDSHAKE.remove(&tuple);
    let socket = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if socket.is_null() {
        return;
    }
    let value = (&raw mut origin).cast();
    let flags = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
    if unsafe { bpf_sk_storage_get(handle(&CALLER), socket.cast(), value, flags) }.is_null() {
        lost(&origin);
    }
}

#[inline(always)]
fn lost(origin: &Origin) {
    count::lost_identity(origin.pod);
    count::report(&Event {
        kind: Event::LOST_IDENTITY,
        outcome: 0,
        cgroup: origin.cgroup,
        pod: origin.pod,
        address: origin.address,
        port: u64::from(origin.port),
    });
}

/// Whether an agent listens on `port`.
#[inline(always)]
fn is_agents(port: u16) -> bool {
    let (Some(first), Some(second)) = (INSTANCE.get(0), INSTANCE.get(1)) else { return false };
    port != 0
        && (port == first.ports[0] || port == first.ports[1] || port == second.ports[0] || port == second.ports[1])
}

/// The kernel shows the remote port in network order in the upper half of a word.
#[inline(always)]
fn remote_port(ctx: &SockOpsContext) -> u16 {
    u32::from_be(ctx.remote_port()) as u16
}

#[inline(always)]
fn local(ctx: &SockOpsContext) -> Address {
    if ctx.family() != INET6 {
        return [0, 0, MAPPED, ctx.local_ip4()];
    }
    let ops = ctx.ops;
    unsafe {
        [
            (&raw const (*ops).local_ip6[0]).read_volatile(),
            (&raw const (*ops).local_ip6[1]).read_volatile(),
            (&raw const (*ops).local_ip6[2]).read_volatile(),
            (&raw const (*ops).local_ip6[3]).read_volatile(),
        ]
    }
}

#[inline(always)]
fn remote(ctx: &SockOpsContext) -> Address {
    if ctx.family() != INET6 {
        return [0, 0, MAPPED, ctx.remote_ip4()];
    }
    let ops = ctx.ops;
    unsafe {
        [
            (&raw const (*ops).remote_ip6[0]).read_volatile(),
            (&raw const (*ops).remote_ip6[1]).read_volatile(),
            (&raw const (*ops).remote_ip6[2]).read_volatile(),
            (&raw const (*ops).remote_ip6[3]).read_volatile(),
        ]
    }
}
