//! Hands a caller's identity from its socket to the one that the agent accepts.
//!
//! The client's side is established before its last packet of the handshake leaves, and the agent's side
//! when that arrives: what the first has written is there when the second reads. The sides know each
//! other by their four addresses, and the record is taken out when it is read.

use aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE;
use aya_ebpf::bindings::{BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB};
use aya_ebpf::helpers::generated::{bpf_map_delete_elem, bpf_map_update_elem, bpf_sk_storage_get};
use aya_ebpf::programs::SockOpsContext;
use mirador_ebpf_shared::{Address, Event, MAPPED, Origin, Tuple};

use crate::count;
use crate::maps::{CALLER, HANDSHAKE, INSTANCE, ORIGIN, at, handle, lookup, words};

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
    let tuple = tuple(&local(ctx), &remote(ctx), ctx.local_port() as u16, port);
    let socket = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if socket.is_null() {
        return;
    }
    let origin: *mut Origin =
        unsafe { bpf_sk_storage_get(handle(&ORIGIN), socket.cast(), core::ptr::null_mut(), 0) }.cast();
    if origin.is_null() || unsafe { (*origin).kind } == Origin::VOID {
        // Whatever an earlier connection with these addresses has left is not about this one.
        forget(&tuple);
        return;
    }
    let stored = unsafe { bpf_map_update_elem(handle(&HANDSHAKE), tuple.as_ptr().cast(), origin.cast(), 0) };
    if stored != 0 {
        lost(unsafe { &*origin });
    }
}

#[inline(always)]
fn by_agent(ctx: &SockOpsContext) {
    let port = ctx.local_port() as u16;
    if !is_agents(port) {
        return;
    }
    let tuple = tuple(&remote(ctx), &local(ctx), remote_port(ctx), port);
    let origin: *mut Origin = lookup(&HANDSHAKE, &tuple);
    if origin.is_null() {
        return;
    }
    let socket = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if !socket.is_null() {
        let flags = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
        // From map to map: a copy on the stack would be one more that has to be made word by word.
        if unsafe { bpf_sk_storage_get(handle(&CALLER), socket.cast(), origin.cast(), flags) }.is_null() {
            lost(unsafe { &*origin });
        }
    }
    forget(&tuple);
}

/// A [`Tuple`] as words; the last one is longer than what is left of it.
#[inline(always)]
fn tuple(client: &Address, server: &Address, client_port: u16, server_port: u16) -> [u64; 5] {
    let (client, server) = (words(client), words(server));
    let ports = u64::from(client_port) | u64::from(server_port) << 16;
    [client[0], client[1], server[0], server[1], ports]
}

const _: () = assert!(size_of::<Tuple>() == 4 * 8 + 4);

#[inline(always)]
fn forget(tuple: &[u64; 5]) {
    unsafe { bpf_map_delete_elem(handle(&HANDSHAKE), tuple.as_ptr().cast()) };
}

#[inline(always)]
fn lost(origin: &Origin) {
    count::lost_identity(origin.pod);
    count::report(Event::LOST_IDENTITY, 0, origin.cgroup, origin.pod, &origin.address, origin.port);
}

/// Whether an agent listens on `port`.
#[inline(always)]
fn is_agents(port: u16) -> bool {
    let (Some(first), Some(second)) = (at(&INSTANCE, 0), at(&INSTANCE, 1)) else { return false };
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
