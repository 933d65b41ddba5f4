//! Every map, and how they are read. Sizes are the defaults; the agent sets those that depend on its
//! configuration at load.
//!
//! Keys and values that lie on the stack are made of [`pair`]s: before Linux 6.8 the verifier refuses a loader
//! without `CAP_PERFMON` to overwrite a part of a word on the stack that it knows the bounds of, and the
//! compiler gives one place on the stack to several variables. A key that is shorter than a word lies at its
//! beginning, because the target is little-endian.

use core::ffi::c_void;

use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::generated::bpf_map_lookup_elem;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::lpm_trie::LpmTrie;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf, SockMap};
use mirador_ebpf_shared::{Address, Config, Counters, Flow, INSTANCES, Instance, Introduction, KINDS, Origin, Tuple};

/// What holds for all instances.
#[map]
pub static CONFIG: Array<Config> = Array::with_max_entries(1, 0);

/// The running agents.
#[map]
pub static INSTANCE: Array<Instance> = Array::with_max_entries(INSTANCES, 0);

/// When each agent was last heard of, in nanoseconds of the monotonic clock. Zero sheds new connections.
#[map]
pub static HEARTBEAT: Array<u64> = Array::with_max_entries(INSTANCES, 0);

/// The listeners. The kernel takes a socket out as it closes, however its process ended.
#[map]
pub static LISTENER: SockMap = SockMap::with_max_entries(INSTANCES * KINDS, 0);

/// Steered destination ports and the kind of listener that takes them.
#[map]
pub static PORT: HashMap<u16, u32> = HashMap::with_max_entries(64, 0);

/// Rules on destinations; IPv4 lies in ::ffff:0:0/96.
#[map]
pub static DESTINATION: LpmTrie<Address, u32> = LpmTrie::with_max_entries(1024, 0);

/// Rules on pods, by the pod's cgroup.
#[map]
pub static POD: HashMap<u64, u32> = HashMap::with_max_entries(1024, 0);

/// Pods that speak TLS to a destination.
#[map]
pub static TLS: LruHashMap<Flow, u64> = LruHashMap::with_max_entries(1024, 0);

/// An agent that finds out what the kernel calls it.
#[map]
pub static INTRODUCTION: Array<Introduction> = Array::with_max_entries(1, 0);

/// With a client's socket: who it is and where it wanted to go.
#[btf_map]
pub static ORIGIN: SkStorage<Origin> = SkStorage::new();

/// With a socket that an agent has made to connect from: it is never steered.
#[btf_map]
pub static OWN: SkStorage<u32> = SkStorage::new();

/// With a socket that the agent has accepted: who is at the other end.
#[btf_map]
pub static CALLER: SkStorage<Origin> = SkStorage::new();

/// From a client's socket to the agent's: there for the duration of a handshake. What a handshake that
/// fails has left goes with the oldest.
#[map]
pub static HANDSHAKE: LruHashMap<Tuple, Origin> = LruHashMap::with_max_entries(8192, 0);

/// Counts of all pods.
#[map]
pub static TOTAL: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// Counts by pod.
#[map]
pub static BY_POD: PerCpuHashMap<u64, Counters> = PerCpuHashMap::with_max_entries(512, 0);

/// Rare events.
#[map]
pub static EVENT: RingBuf = RingBuf::with_byte_size(64 << 10, 0);

/// The map as helpers take it.
#[inline(always)]
pub fn handle<T>(map: &'static T) -> *mut c_void {
    core::ptr::from_ref(map).cast_mut().cast()
}

/// The value in `map` for the key that is, or begins, `key`; null when there is none.
#[inline(always)]
pub fn lookup<T, V, const N: usize>(map: &'static T, key: &[u64; N]) -> *mut V {
    unsafe { bpf_map_lookup_elem(handle(map), key.as_ptr().cast()) }.cast()
}

/// The record at `index` of an array.
#[inline(always)]
pub fn at<V>(map: &'static Array<V>, index: u32) -> Option<&'static V> {
    unsafe { lookup::<_, V, 1>(map, &[u64::from(index)]).as_ref() }
}

/// Two halves of a word, in the order in which they lie in memory.
#[inline(always)]
pub const fn pair(first: u32, second: u32) -> u64 {
    first as u64 | (second as u64) << 32
}

/// An address as words.
#[inline(always)]
pub const fn words(address: &Address) -> [u64; 2] {
    [pair(address[0], address[1]), pair(address[2], address[3])]
}
