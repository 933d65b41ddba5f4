//! The hooks at connect and getpeername.
//!
//! Order: TCP, port, introduction, destination, own connections, pod, TLS, a living agent, an address in
//! the family. The first that does not hold leaves the connection as it is, and is counted.

use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_map_lookup_elem,
    bpf_sk_release,
};
use aya_ebpf::helpers::{bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::debug;
use mirador_ebpf_shared::{Address, Config, Event, Flow, INSTANCES, MAPPED, Origin, Outcome, Rule, listener_index};

use crate::count;
use crate::maps::{
    CONFIG, DESTINATION, HEARTBEAT, INSTANCE, INTRODUCTION, LISTENER, ORIGIN, OWN, POD, PORT, TLS, handle,
};

/// `IPPROTO_TCP`.
const TCP: u32 = 6;
/// `TCP_LISTEN` of the kernel's socket states.
const LISTENING: u32 = 10;
/// How deep the pods' cgroup may lie.
const MAX_LEVEL: i32 = 10;

/// Who is calling.
struct Process {
    cgroup: u64,
    pod: u64,
}

/// Where a connection is sent instead.
struct Target {
    address: Address,
    port: u16,
}

pub fn v4(ctx: &SockAddrContext) {
    let address = [0, 0, MAPPED, unsafe { (&raw const (*ctx.sock_addr).user_ip4).read_volatile() }];
    if let Some(target) = steer(ctx, address) {
        unsafe {
            (&raw mut (*ctx.sock_addr).user_ip4).write_volatile(target.address[3]);
            (&raw mut (*ctx.sock_addr).user_port).write_volatile(u32::from(target.port.to_be()));
        }
    }
}

pub fn v6(ctx: &SockAddrContext) {
    let address = read_v6(ctx);
    if let Some(target) = steer(ctx, address) {
        write_v6(ctx, &target.address);
        unsafe { (&raw mut (*ctx.sock_addr).user_port).write_volatile(u32::from(target.port.to_be())) };
    }
}

pub fn peer_v4(ctx: &SockAddrContext) {
    let Some(origin) = redirected(ctx) else { return };
    unsafe {
        (&raw mut (*ctx.sock_addr).user_ip4).write_volatile((*origin).address[3]);
        (&raw mut (*ctx.sock_addr).user_port).write_volatile(u32::from((*origin).port.to_be()));
    }
}

pub fn peer_v6(ctx: &SockAddrContext) {
    let Some(origin) = redirected(ctx) else { return };
    let address = unsafe { (*origin).address };
    write_v6(ctx, &address);
    unsafe { (&raw mut (*ctx.sock_addr).user_port).write_volatile(u32::from((*origin).port.to_be())) };
}

/// Word by word: the verifier refuses a pointer into the context that was computed.
#[inline(always)]
fn read_v6(ctx: &SockAddrContext) -> Address {
    let sock_addr = ctx.sock_addr;
    unsafe {
        [
            (&raw const (*sock_addr).user_ip6[0]).read_volatile(),
            (&raw const (*sock_addr).user_ip6[1]).read_volatile(),
            (&raw const (*sock_addr).user_ip6[2]).read_volatile(),
            (&raw const (*sock_addr).user_ip6[3]).read_volatile(),
        ]
    }
}

#[inline(always)]
fn write_v6(ctx: &SockAddrContext, address: &Address) {
    let sock_addr = ctx.sock_addr;
    unsafe {
        (&raw mut (*sock_addr).user_ip6[0]).write_volatile(address[0]);
        (&raw mut (*sock_addr).user_ip6[1]).write_volatile(address[1]);
        (&raw mut (*sock_addr).user_ip6[2]).write_volatile(address[2]);
        (&raw mut (*sock_addr).user_ip6[3]).write_volatile(address[3]);
    }
}

/// The record of a socket that was redirected.
#[inline(always)]
fn redirected(ctx: &SockAddrContext) -> Option<*mut Origin> {
    let origin = unsafe { ORIGIN.get_ptr_mut(ctx) };
    (!origin.is_null() && unsafe { (*origin).kind } == Origin::REDIRECTED).then_some(origin)
}

/// What an earlier connect of the same socket has left is no longer true.
#[inline(always)]
fn forget(ctx: &SockAddrContext) {
    let origin = unsafe { ORIGIN.get_ptr_mut(ctx) };
    if !origin.is_null() {
        unsafe { (*origin).kind = Origin::VOID };
    }
}

/// Where the connection goes instead; `None` leaves it as it is.
#[inline(always)]
fn steer(ctx: &SockAddrContext, address: Address) -> Option<Target> {
    if unsafe { (*ctx.sock_addr).protocol } != TCP {
        return None;
    }
    let port = u16::from_be(unsafe { (&raw const (*ctx.sock_addr).user_port).read_volatile() } as u16);
    let kind = unsafe { PORT.get(port) }.copied();
    let config = CONFIG.get(0);
    let (Some(kind), Some(config)) = (kind, config) else {
        forget(ctx);
        return None;
    };
    let process = process(config);
    if introduced(ctx, &process) {
        return None;
    }
    let mut event =
        Event { kind: 0, outcome: 0, cgroup: process.cgroup, pod: process.pod, address, port: u64::from(port) };
    count::attempt(&mut event);
    let decided = decide(ctx, config, &process, address, port, kind);
    // Its fields are written on every path, because the verifier wants to see that whatever is read.
    let (outcome, target) = match decided {
        Ok(target) => (Outcome::Redirected, target),
        Err(outcome) => (outcome, Target { address: [0; 4], port: 0 }),
    };
    let outcome = count::opaque(outcome as u32);
    count::outcome(process.pod, outcome);
    if event.kind != 0 {
        event.outcome = outcome as u32;
        count::report(&event);
    }
    debug!(
        ctx,
        "connect of cgroup {} in pod {} to port {}: outcome {}", process.cgroup, process.pod, port, outcome as u32
    );
    (outcome == Outcome::Redirected as u64).then_some(target)
}

#[inline(always)]
fn decide(
    ctx: &SockAddrContext,
    config: &Config,
    process: &Process,
    address: Address,
    port: u16,
    kind: u32,
) -> Result<Target, Outcome> {
    let remembered = |target: Target, as_kind: u16| match remember(ctx, process, address, port, as_kind) {
        true => Ok(target),
        false => Err(Outcome::NoMemory),
    };
    let verdict = judge(ctx, config, process, address, port);
    let verdict = match verdict {
        Ok(()) => target(config, address, kind),
        Err(outcome) => Err(outcome),
    };
    match verdict {
        Ok(target) => remembered(target, Origin::REDIRECTED),
        // The application has dialled the agent: it goes on, and the agent still learns who it is.
        Err(Outcome::Own) if process.pod != 0 => {
            remember(ctx, process, address, port, Origin::DIRECT);
            Err(Outcome::Own)
        }
        Err(outcome) => {
            forget(ctx);
            Err(outcome)
        }
    }
}

/// Whether the connection may be steered at all.
#[inline(always)]
fn judge(
    ctx: &SockAddrContext,
    config: &Config,
    process: &Process,
    address: Address,
    port: u16,
) -> Result<(), Outcome> {
    if is_local(&address) {
        return Err(Outcome::Destination);
    }
    let id = (bpf_get_current_pid_tgid() >> 32) as u32;
    let marked = !unsafe { OWN.get_ptr_mut(ctx) }.is_null();
    if marked || is_own(0, process, &address, port, id) || is_own(1, process, &address, port, id) {
        return Err(Outcome::Own);
    }
    if config.flags & Config::DESTINATION_RULES != 0 {
        let rule = DESTINATION.get(Key::new(128, address)).copied().unwrap_or(0);
        let listed = config.flags & Config::LISTED_DESTINATIONS != 0;
        if rule == Rule::Leave as u32 || (listed && rule != Rule::Steer as u32) {
            return Err(Outcome::Destination);
        }
    }
    if config.flags & Config::POD_RULES != 0 {
        let rule = unsafe { POD.get(process.pod) }.copied().unwrap_or(0);
        let listed = config.flags & Config::LISTED_PODS != 0;
        if rule == Rule::Leave as u32 || (listed && rule != Rule::Steer as u32) {
            return Err(Outcome::Pod);
        }
    }
    let flow = Flow { pod: process.pod, address, port, padding: 0, end: 0 };
    if unsafe { TLS.get(&flow) }.is_some() {
        return Err(Outcome::Tls);
    }
    Ok(())
}

/// The living agent with the greatest generation.
#[inline(always)]
fn target(config: &Config, address: Address, kind: u32) -> Result<Target, Outcome> {
    let (Some(first), Some(second)) = (INSTANCE.get(0), INSTANCE.get(1)) else {
        return Err(Outcome::NoListener);
    };
    let (newer, older) = if second.generation > first.generation { (1, 0) } else { (0, 1) };
    match target_of(newer, config, address, kind) {
        Err(first) => match target_of(older, config, address, kind) {
            Ok(target) => Ok(target),
            // What keeps the newer one from it is what an operator has to know.
            Err(_) => Err(first),
        },
        found => found,
    }
}

#[inline(always)]
fn target_of(index: u32, config: &Config, address: Address, kind: u32) -> Result<Target, Outcome> {
    if index >= INSTANCES || kind > 1 {
        return Err(Outcome::NoListener);
    }
    let (Some(instance), Some(heartbeat)) = (INSTANCE.get(index), HEARTBEAT.get(index)) else {
        return Err(Outcome::NoListener);
    };
    if instance.generation == 0 || !is_listening(listener_index(index, kind)) {
        return Err(Outcome::NoListener);
    }
    let heard = unsafe { core::ptr::from_ref(heartbeat).read_volatile() };
    if unsafe { bpf_ktime_get_ns() }.saturating_sub(heard) > config.max_age {
        return Err(Outcome::Stale);
    }
    // Both are read: an address that depends on the kind is what a loader without `CAP_PERFMON` may not compute.
    let (grpc, http) =
        unsafe { ((&raw const instance.ports[0]).read_volatile(), (&raw const instance.ports[1]).read_volatile()) };
    let port = if kind == 0 { grpc } else { http };
    if is_mapped(&address) {
        if instance.ipv4 == 0 {
            return Err(Outcome::NoAddress);
        }
        return Ok(Target { address: [0, 0, MAPPED, instance.ipv4], port });
    }
    if instance.ipv6[0] | instance.ipv6[1] | instance.ipv6[2] | instance.ipv6[3] == 0 {
        return Err(Outcome::NoAddress);
    }
    Ok(Target { address: instance.ipv6, port })
}

/// Whether the listener is there. The kernel takes it out of the map when its process dies.
#[inline(always)]
fn is_listening(index: u32) -> bool {
    let socket: *mut bpf_sock =
        unsafe { bpf_map_lookup_elem(handle(&LISTENER), core::ptr::from_ref(&index).cast::<c_void>()) }.cast();
    if socket.is_null() {
        return false;
    }
    let state = unsafe { (&raw const (*socket).state).read_volatile() };
    unsafe { bpf_sk_release(socket.cast()) };
    state == LISTENING
}

/// Whether agent `index` is calling, or is called anyway. Its cgroup or pod and its process are two of the
/// three guards that each alone keep an agent from calling itself; the third is the mark on its sockets.
#[inline(always)]
fn is_own(index: u32, process: &Process, address: &Address, port: u16, id: u32) -> bool {
    let Some(instance) = INSTANCE.get(index) else { return false };
    if instance.generation == 0 {
        return false;
    }
    if process.cgroup == instance.cgroup || (process.pod != 0 && process.pod == instance.pod) || id == instance.process
    {
        return true;
    }
    if port != instance.ports[0] && port != instance.ports[1] {
        return false;
    }
    if is_mapped(address) { address[3] == instance.ipv4 } else { is_same(address, &instance.ipv6) }
}

/// Whether a destination lies in the pod itself: unspecified, loopback, link-local, multicast.
#[inline(always)]
fn is_local(address: &Address) -> bool {
    if is_mapped(address) {
        let host = u32::from_be(address[3]);
        let first = host >> 24;
        return first == 127 || first == 0 || first >= 224 || host >> 16 == 0xa9fe;
    }
    let high = u32::from_be(address[0]);
    let loopback = address[0] | address[1] | address[2] == 0 && u32::from_be(address[3]) <= 1;
    loopback || high >> 22 == 0xfe80 >> 6 || high >> 24 == 0xff
}

#[inline(always)]
fn is_mapped(address: &Address) -> bool {
    address[0] | address[1] == 0 && address[2] == MAPPED
}

#[inline(always)]
fn is_same(left: &Address, right: &Address) -> bool {
    left[0] == right[0] && left[1] == right[1] && left[2] == right[2] && left[3] == right[3]
}

/// The process that connects, and the pod that it is in: the first cgroup below the pods' root that is
/// no class of service.
#[inline(always)]
fn process(config: &Config) -> Process {
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    let mut pod = 0;
    let mut level = 0;
    while level < MAX_LEVEL {
        if unsafe { bpf_get_current_ancestor_cgroup_id(level) } == config.root {
            pod = unsafe { bpf_get_current_ancestor_cgroup_id(level + 1) };
            if pod != 0 && (pod == config.classes[0] || pod == config.classes[1]) {
                pod = unsafe { bpf_get_current_ancestor_cgroup_id(level + 2) };
            }
            break;
        }
        level += 1;
    }
    Process { cgroup, pod }
}

/// Answers an agent that asks what the kernel calls it.
#[inline(always)]
fn introduced(ctx: &SockAddrContext, process: &Process) -> bool {
    let Some(introduction) = INTRODUCTION.get_ptr_mut(0) else { return false };
    let cookie = unsafe { (&raw const (*introduction).cookie).read_volatile() };
    if cookie == 0 || cookie != unsafe { bpf_get_socket_cookie(ctx.as_ptr()) } {
        return false;
    }
    unsafe {
        (*introduction).cgroup = process.cgroup;
        (*introduction).pod = process.pod;
        (*introduction).process = (bpf_get_current_pid_tgid() >> 32) as u32;
    }
    true
}

/// Keeps with the socket who it is and where it wanted to go.
#[inline(always)]
fn remember(ctx: &SockAddrContext, process: &Process, address: Address, port: u16, kind: u16) -> bool {
    let mut origin = Origin {
        cgroup: process.cgroup,
        pod: process.pod,
        namespace: unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
        connected: unsafe { bpf_ktime_get_ns() },
        address,
        port,
        kind,
        padding: 0,
    };
    let stored = unsafe { ORIGIN.get_or_insert_ptr_mut(ctx, Some(&mut origin)) };
    if stored.is_null() {
        return false;
    }
    unsafe { store(stored, &origin) };
    true
}

/// Copies word by word: a copy of the whole is a call that subtracts pointers, which the kernel refuses from a
/// loader without `CAP_PERFMON`.
#[inline(always)]
unsafe fn store(to: *mut Origin, from: &Origin) {
    unsafe {
        (&raw mut (*to).cgroup).write_volatile(from.cgroup);
        (&raw mut (*to).pod).write_volatile(from.pod);
        (&raw mut (*to).namespace).write_volatile(from.namespace);
        (&raw mut (*to).connected).write_volatile(from.connected);
        (&raw mut (*to).address[0]).write_volatile(from.address[0]);
        (&raw mut (*to).address[1]).write_volatile(from.address[1]);
        (&raw mut (*to).address[2]).write_volatile(from.address[2]);
        (&raw mut (*to).address[3]).write_volatile(from.address[3]);
        (&raw mut (*to).port).write_volatile(from.port);
        (&raw mut (*to).kind).write_volatile(from.kind);
        (&raw mut (*to).padding).write_volatile(from.padding);
    }
}
