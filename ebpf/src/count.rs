//! Counters and rare events. Never: decides anything.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use mirador_ebpf_shared::{Address, Counters, Event, Outcome};

use crate::maps::{BY_POD, EVENT, TOTAL, lookup, pair, words};

/// What a pod has when it is first seen. It lies in read-only data: on the stack it would be cleared in a
/// loop that the kernel refuses from a loader without `CAP_PERFMON`.
static NOTHING: Counters = Counters { attempts: 0, outcomes: [0; 9], lost_identities: 0, lost_pods: 0 };

/// Counts a connect of `pod` before anything is decided: for all pods, and for its own, whose counters are
/// made when they are not there. Returns the kind of [`Event`] that this is, 0 for none.
///
/// A counter is looked up wherever it is added to: a pointer that is kept may be null as far as speculation
/// could tell, which a loader without `CAP_PERFMON` may not.
#[inline(always)]
pub fn attempt(pod: u64) -> u32 {
    if let Some(total) = total() {
        add(unsafe { &raw mut (*total).attempts });
    }
    if pod == 0 {
        return 0;
    }
    if let Some(counters) = BY_POD.get_ptr_mut(pod) {
        add(unsafe { &raw mut (*counters).attempts });
        return 0;
    }
    let added = BY_POD.insert(pod, &NOTHING, u64::from(BPF_NOEXIST));
    // Another processor may have been first: then there is nothing to report.
    if let Some(counters) = BY_POD.get_ptr_mut(pod) {
        add(unsafe { &raw mut (*counters).attempts });
        return if added.is_ok() { Event::FIRST_CONNECT } else { 0 };
    }
    if let Some(total) = total() {
        add(unsafe { &raw mut (*total).lost_pods });
    }
    Event::LOST_POD
}

/// The counters of all pods, of this processor.
#[inline(always)]
fn total() -> Option<*mut Counters> {
    let total: *mut Counters = lookup(&TOTAL, &[0]);
    (!total.is_null()).then_some(total)
}

/// Counts what became of a connect of `pod`: an [`Outcome`] that went through [`opaque`].
#[inline(always)]
pub fn outcome(pod: u64, outcome: u64) {
    let place = (outcome & 15) as usize;
    if place >= Outcome::ALL.len() {
        return;
    }
    if let Some(total) = total() {
        add(unsafe { (&raw mut (*total).outcomes).cast::<u64>().add(place) });
    }
    if let Some(pod) = BY_POD.get_ptr_mut(pod) {
        add(unsafe { (&raw mut (*pod).outcomes).cast::<u64>().add(place) });
    }
}

/// `number` as the verifier does not know it. Without `CAP_PERFMON` it masks every addition to a pointer
/// against speculation, and refuses one instruction that adds another constant on each path; and before
/// Linux 6.8 it refuses to overwrite half of a number on the stack whose bounds it knows.
#[inline(always)]
pub fn opaque(number: u32) -> u64 {
    let noise = unsafe { bpf_ktime_get_ns() };
    let mixed = u64::from(number) ^ noise;
    // Volatile, or the compiler sees that the two cancel out.
    unsafe { core::ptr::from_ref(&mixed).read_volatile() ^ noise }
}

/// Counts an identity that was lost on its way.
#[inline(always)]
pub fn lost_identity(pod: u64) {
    if let Some(total) = total() {
        add(unsafe { &raw mut (*total).lost_identities });
    }
    if let Some(counters) = BY_POD.get_ptr_mut(pod) {
        add(unsafe { &raw mut (*counters).lost_identities });
    }
}

/// Reports an event of `kind`; a full buffer drops it, and what it reports is counted elsewhere.
#[inline(always)]
pub fn report(kind: u32, outcome: u32, cgroup: u64, pod: u64, address: &Address, port: u16) {
    let [high, low] = words(address);
    let event = [pair(kind, outcome), cgroup, pod, high, low, u64::from(port)];
    let _ = EVENT.output::<[u64; 6]>(&event, 0);
}

const _: () = assert!(size_of::<Event>() == 6 * 8);

/// The hooks may be preempted on their processor, so the addition is one instruction. The standard
/// library has none for this target, because Linux 5.10 cannot give back the old value.
#[inline(always)]
fn add(counter: *mut u64) {
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, 1) };
}
