//! Counters and rare events. Never: decides anything.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::bindings::BPF_NOEXIST;
use mirador_ebpf_shared::{Counters, Event, Outcome};

use crate::maps::{BY_POD, EVENT, TOTAL};

/// Where one connect is counted: for all pods, and for its own when that has counters.
pub struct Tally {
    total: *mut Counters,
    pod: *mut Counters,
}

impl Tally {
    /// The counters of `event.pod`, made when they are not there.
    #[inline(always)]
    pub fn of(event: &mut Event) -> Self {
        let total = TOTAL.get_ptr_mut(0).unwrap_or(core::ptr::null_mut());
        let mut tally = Self { total, pod: core::ptr::null_mut() };
        if event.pod == 0 {
            return tally;
        }
        if let Some(pod) = BY_POD.get_ptr_mut(event.pod) {
            tally.pod = pod;
            return tally;
        }
        let added = BY_POD.insert(
            event.pod,
            Counters { attempts: 0, outcomes: [0; 9], lost_identities: 0, lost_pods: 0 },
            u64::from(BPF_NOEXIST),
        );
        // Another processor may have been first: then there is nothing to report.
        match BY_POD.get_ptr_mut(event.pod) {
            Some(pod) => {
                tally.pod = pod;
                if added.is_ok() {
                    event.kind = Event::FIRST_CONNECT;
                }
            }
            None => {
                event.kind = Event::LOST_POD;
                if !total.is_null() {
                    add(unsafe { &raw mut (*total).lost_pods });
                }
            }
        }
        tally
    }

    /// Counts the connect, before anything is decided.
    #[inline(always)]
    pub fn attempt(&self) {
        if !self.total.is_null() {
            add(unsafe { &raw mut (*self.total).attempts });
        }
        if !self.pod.is_null() {
            add(unsafe { &raw mut (*self.pod).attempts });
        }
    }

    /// Counts what became of it.
    #[inline(always)]
    pub fn outcome(&self, outcome: Outcome) {
        let place = outcome as usize;
        if place >= Outcome::ALL.len() {
            return;
        }
        if !self.total.is_null() {
            add(unsafe { (&raw mut (*self.total).outcomes).cast::<u64>().add(place) });
        }
        if !self.pod.is_null() {
            add(unsafe { (&raw mut (*self.pod).outcomes).cast::<u64>().add(place) });
        }
    }
}

/// Counts an identity that was lost on its way.
#[inline(always)]
pub fn lost_identity(pod: u64) {
    if let Some(total) = TOTAL.get_ptr_mut(0) {
        add(unsafe { &raw mut (*total).lost_identities });
    }
    if let Some(counters) = BY_POD.get_ptr_mut(pod) {
        add(unsafe { &raw mut (*counters).lost_identities });
    }
}

/// Reports `event`; a full buffer drops it, and what it reports is counted elsewhere.
#[inline(always)]
pub fn report(event: &Event) {
    let _ = EVENT.output::<Event>(*event, 0);
}

/// The hooks may be preempted on their processor, so the addition is one instruction. The standard
/// library has none for this target, because Linux 5.10 cannot give back the old value.
#[inline(always)]
fn add(counter: *mut u64) {
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, 1) };
}
