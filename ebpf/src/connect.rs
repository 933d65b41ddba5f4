//! The hooks at connect and getpeername.
//!
//! Order: TCP, port, introduction, destination, own connections, pod, TLS, a living agent, an address in
//! the family. The first that does not hold leaves the connection as it is, and is counted.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_sk_release, bpf_sk_storage_get,
};
use aya_ebpf::helpers::{bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use aya_ebpf::programs::SockAddrContext;
use mirador_ebpf_shared::{
    Address, Config, Flow, INSTANCES, Introduction, MAPPED, Origin, Outcome, Rule, listener_index,
};

use crate::count;
use crate::maps::{
    CONFIG, DESTINATION, HEARTBEAT, INSTANCE, INTRODUCTION, LISTENER, ORIGIN, OWN, POD, PORT, TLS, at, handle, lookup,
    pair, words,
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

/// What is decided about a connection.
///
/// Every field has a value on every path, and no `Result` or `Option` holds an address: what one of these leaves
/// open the compiler leaves unwritten on the stack, where a loader without `CAP_PERFMON` may not read even in
/// speculation.
struct Verdict {
    /// An [`Outcome`].
    outcome: u32,
    /// Where it is sent instead, if it is.
    address: Address,
    port: u16,
}

impl Verdict {
    const fn no(outcome: Outcome) -> Self {
        Self { outcome: outcome as u32, address: [0; 4], port: 0 }
    }

    const fn is(&self, outcome: Outcome) -> bool {
        self.outcome == outcome as u32
    }
}

pub fn v4(ctx: &SockAddrContext) {
    let address = [0, 0, MAPPED, unsafe { (&raw const (*ctx.sock_addr).user_ip4).read_volatile() }];
    let target = steer(ctx, address);
    if target.port != 0 {
        unsafe {
            (&raw mut (*ctx.sock_addr).user_ip4).write_volatile(target.address[3]);
            (&raw mut (*ctx.sock_addr).user_port).write_volatile(u32::from(target.port.to_be()));
        }
    }
}

pub fn v6(ctx: &SockAddrContext) {
    let address = read_v6(ctx);
    let target = steer(ctx, address);
    if target.port != 0 {
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

/// Where the connection goes instead; port 0 leaves it as it is.
#[inline(always)]
fn steer(ctx: &SockAddrContext, address: Address) -> Verdict {
    let untouched = Verdict::no(Outcome::NoListener);
    if unsafe { (*ctx.sock_addr).protocol } != TCP {
        return untouched;
    }
    let port = u16::from_be(unsafe { (&raw const (*ctx.sock_addr).user_port).read_volatile() } as u16);
    let kind: *mut u32 = lookup(&PORT, &[u64::from(port)]);
    if kind.is_null() {
        forget(ctx);
        return untouched;
    }
    let kind = unsafe { *kind };
    let Some(config) = at(&CONFIG, 0) else {
        forget(ctx);
        return untouched;
    };
    let process = process(config);
    if introduced(ctx, &process) {
        return untouched;
    }
    let event = count::attempt(process.pod);
    let mut verdict = decide(ctx, config, &process, address, port, kind);
    let outcome = count::opaque(verdict.outcome);
    count::outcome(process.pod, outcome);
    if event != 0 {
        count::report(event, outcome as u32, process.cgroup, process.pod, &address, port);
    }
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(
        ctx,
        "connect of cgroup {} in pod {} to port {}: outcome {}",
        process.cgroup,
        process.pod,
        port,
        outcome as u32
    );
    if outcome != Outcome::Redirected as u64 {
        verdict.port = 0;
    }
    verdict
}

/// Decides, and keeps with the socket what the agent has to know of it.
#[inline(always)]
fn decide(
    ctx: &SockAddrContext,
    config: &Config,
    process: &Process,
    address: Address,
    port: u16,
    kind: u32,
) -> Verdict {
    let mut verdict = Verdict::no(judge(ctx, config, process, address, port));
    if verdict.is(Outcome::Redirected) {
        verdict = target(config, &address, kind);
    }
    if verdict.is(Outcome::Redirected) {
        if !remember(ctx, process, address, port, Origin::REDIRECTED) {
            verdict.outcome = Outcome::NoMemory as u32;
        }
    } else if verdict.is(Outcome::Own) && process.pod != 0 {
        // The application has dialled the agent: it goes on, and the agent still learns who it is.
        remember(ctx, process, address, port, Origin::DIRECT);
    } else {
        forget(ctx);
    }
    verdict
}

/// Whether the connection may be steered at all: [`Outcome::Redirected`] if so.
#[inline(always)]
fn judge(ctx: &SockAddrContext, config: &Config, process: &Process, address: Address, port: u16) -> Outcome {
    if is_local(&address) {
        return Outcome::Destination;
    }
    let id = (bpf_get_current_pid_tgid() >> 32) as u32;
    let marked = !unsafe { OWN.get_ptr_mut(ctx) }.is_null();
    if marked || is_own(0, process, &address, port, id) || is_own(1, process, &address, port, id) {
        return Outcome::Own;
    }
    if config.flags & Config::DESTINATION_RULES != 0 {
        // The length of the prefix, then the address.
        let key = [pair(128, address[0]), pair(address[1], address[2]), u64::from(address[3])];
        let rule = rule(lookup(&DESTINATION, &key));
        let listed = config.flags & Config::LISTED_DESTINATIONS != 0;
        if rule == Rule::Leave as u32 || (listed && rule != Rule::Steer as u32) {
            return Outcome::Destination;
        }
    }
    if config.flags & Config::POD_RULES != 0 {
        let rule = rule(lookup(&POD, &[process.pod]));
        let listed = config.flags & Config::LISTED_PODS != 0;
        if rule == Rule::Leave as u32 || (listed && rule != Rule::Steer as u32) {
            return Outcome::Pod;
        }
    }
    let [high, low] = words(&address);
    let flow: *mut u64 = lookup(&TLS, &[process.pod, high, low, u64::from(port)]);
    if !flow.is_null() {
        return Outcome::Tls;
    }
    Outcome::Redirected
}

/// The [`Rule`] that was found, 0 for none.
#[inline(always)]
fn rule(found: *mut u32) -> u32 {
    if found.is_null() { 0 } else { unsafe { *found } }
}

const _: () = assert!(size_of::<Flow>() == 4 * 8);

/// The living agent with the greatest generation.
#[inline(always)]
fn target(config: &Config, address: &Address, kind: u32) -> Verdict {
    let (Some(first), Some(second)) = (at(&INSTANCE, 0), at(&INSTANCE, 1)) else {
        return Verdict::no(Outcome::NoListener);
    };
    let newer = u32::from(second.generation > first.generation);
    let found = target_of(newer, config, address, kind);
    if found.is(Outcome::Redirected) {
        return found;
    }
    let other = target_of(1 - newer, config, address, kind);
    // What keeps the newer one from it is what an operator has to know.
    if other.is(Outcome::Redirected) { other } else { found }
}

#[inline(always)]
fn target_of(index: u32, config: &Config, address: &Address, kind: u32) -> Verdict {
    if index >= INSTANCES || kind > 1 {
        return Verdict::no(Outcome::NoListener);
    }
    let (Some(instance), Some(heartbeat)) = (at(&INSTANCE, index), at(&HEARTBEAT, index)) else {
        return Verdict::no(Outcome::NoListener);
    };
    if instance.generation == 0 || !is_listening(listener_index(index, kind)) {
        return Verdict::no(Outcome::NoListener);
    }
    let heard = unsafe { core::ptr::from_ref(heartbeat).read_volatile() };
    if unsafe { bpf_ktime_get_ns() }.saturating_sub(heard) > config.max_age {
        return Verdict::no(Outcome::Stale);
    }
    // Both are read: an address that depends on the kind is what a loader without `CAP_PERFMON` may not compute.
    let (grpc, http) =
        unsafe { ((&raw const instance.ports[0]).read_volatile(), (&raw const instance.ports[1]).read_volatile()) };
    let port = if kind == 0 { grpc } else { http };
    if is_mapped(address) {
        if instance.ipv4 == 0 {
            return Verdict::no(Outcome::NoAddress);
        }
        return Verdict { outcome: Outcome::Redirected as u32, address: [0, 0, MAPPED, instance.ipv4], port };
    }
    if instance.ipv6[0] | instance.ipv6[1] | instance.ipv6[2] | instance.ipv6[3] == 0 {
        return Verdict::no(Outcome::NoAddress);
    }
    Verdict { outcome: Outcome::Redirected as u32, address: instance.ipv6, port }
}

/// Whether the listener is there. The kernel takes it out of the map when its process dies.
#[inline(always)]
fn is_listening(index: u32) -> bool {
    let socket: *mut bpf_sock = lookup(&LISTENER, &[u64::from(index)]);
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
    let Some(instance) = at(&INSTANCE, index) else { return false };
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
    let introduction: *mut Introduction = lookup(&INTRODUCTION, &[0]);
    if introduction.is_null() {
        return false;
    }
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
    let [high, low] = words(&address);
    let mut origin = [
        process.cgroup,
        process.pod,
        unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
        unsafe { bpf_ktime_get_ns() },
        high,
        low,
        u64::from(port) | u64::from(kind) << 16,
    ];
    let socket = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    let flags = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
    let stored: *mut u64 =
        unsafe { bpf_sk_storage_get(handle(&ORIGIN), socket.cast(), origin.as_mut_ptr().cast(), flags) }.cast();
    if stored.is_null() {
        return false;
    }
    // What was there already is not replaced by that. Word by word: a copy of the whole is a call that
    // subtracts pointers, which the kernel refuses from a loader without `CAP_PERFMON`.
    unsafe {
        stored.write_volatile(origin[0]);
        stored.add(1).write_volatile(origin[1]);
        stored.add(2).write_volatile(origin[2]);
        stored.add(3).write_volatile(origin[3]);
        stored.add(4).write_volatile(origin[4]);
        stored.add(5).write_volatile(origin[5]);
        stored.add(6).write_volatile(origin[6]);
    }
    true
}

const _: () = assert!(size_of::<Origin>() == 7 * 8);
