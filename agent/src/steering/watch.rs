//! What goes on while the programs are attached: the heartbeat, the counters, the pods, the cgroup that
//! may be made anew under us.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use aya::maps::{MapData, PerCpuArray, PerCpuHashMap, PerCpuValues, RingBuf};
use aya_log::EbpfLogger;
use mirador_ebpf_shared::{Config, Counters, Event};
use mirador_service::drain::Drain;
use mirador_transport::receiver::Pulse;
use rustix::time::{ClockId, clock_gettime};

use super::applied::Applied;
use super::caller::Directory;
use super::cgroup::Cgroup;
use super::config::SteeringConfig;
use super::load::{Owned, Programs, record};
use super::metrics::{Carried, Meters};
use super::pins::Held;
use super::rules::address;
use super::seat::{Beat, Neighbour, Seat};

/// Heartbeats per `heartbeat_max_age`.
const BEATS: u32 = 5;
/// How often the counters and the cgroup are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often the programs' own log is read, while they write one.
const LOG: Duration = Duration::from_millis(100);
/// How many looks lie between two looks at all pods.
const PODS_EVERY: u32 = 10;

/// The clock of the programs.
pub(super) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64)
}

/// Says that the runtime which accepts connections still turns; stops saying so when a drain begins.
pub(super) async fn beat(mut seat: Seat, pulse: Pulse, max_age: Duration, drain: Drain, meters: Meters) {
    let mut ticks = tokio::time::interval(max_age / BEATS);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = drain.started() => break,
            _ = ticks.tick() => {}
        }
        // A thread of the receiver hangs: what comes in there would wait for it.
        if pulse.age() > max_age {
            continue;
        }
        match seat.beat(now()) {
            Ok(Beat::Mine) => {}
            Ok(Beat::Again) => tracing::info!("has been silent for so long that its place was cleared, and is back"),
            Ok(Beat::Lost) => {
                tracing::warn!("has been silent for so long that another agent has its place: gets no connections");
                meters.state("unavailable", "replaced");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "the heartbeat of steering cannot be written, connections go to their original destination");
            }
        }
    }
    // New connections go elsewhere from now on.
    seat.shed();
}

/// What one look needs.
pub(super) struct Watch {
    pub(super) programs: Programs,
    /// The agent that may share our tables.
    pub(super) neighbour: Option<Neighbour>,
    /// Somebody has removed the pins by hand.
    pub(super) removed: bool,
    pub(super) settings: Owned<Config>,
    pub(super) total: PerCpuArray<MapData, Counters>,
    pub(super) by_pod: PerCpuHashMap<MapData, u64, Counters>,
    pub(super) rules: Applied,
    pub(super) events: RingBuf<MapData>,
    pub(super) directory: Arc<Directory>,
    pub(super) config: SteeringConfig,
    /// What the state `attached` lacks, or `complete`.
    pub(super) reason: &'static str,
    pub(super) meters: Meters,
}

impl Watch {
    /// Looks until the process ends; the programs stay attached as long as this lives.
    pub(super) async fn run(mut self) {
        let mut seen = Seen::default();
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for look in 0_u32.. {
            ticks.tick().await;
            if let Some(neighbour) = &mut self.neighbour {
                neighbour.look();
            }
            self.follow_cgroup();
            if look % PODS_EVERY == 0 || self.rules.name_pods() {
                self.directory.refresh();
            }
            self.rules.apply(&self.directory, &self.meters);
            self.carry(&mut seen);
            self.report();
            if look % PODS_EVERY == 0 {
                self.forget(&mut seen);
            }
        }
    }

    /// A cgroup that was removed takes its links with it, and one of the same name is another.
    fn follow_cgroup(&mut self) {
        let path = self.programs.pods.path.clone();
        match Cgroup::at(path) {
            // A newer agent shares our links and looks after them.
            _ if self.neighbour.as_ref().is_some_and(|other| other.is_newer(now(), self.config.heartbeat_max_age)) => {}
            Some(pods)
                if pods.id == self.programs.pods.id
                    && self.programs.is_attached()
                    && self.programs.held(pods.id) == Some(Held::Gone) =>
            {
                tracing::warn!(
                    "the pinned programs were removed, connections are not steered until the agent restarts"
                );
                self.programs.detach();
                self.removed = true;
                self.meters.state("unavailable", "unpinned");
            }
            _ if self.removed => {}
            None if self.programs.is_attached() => {
                tracing::warn!("the cgroup of the pods is gone, connections are not steered until it is back");
                self.programs.detach();
                self.meters.state("unavailable", "no_pods_cgroup");
            }
            Some(pods) if pods.id != self.programs.pods.id || !self.programs.is_attached() => {
                match self.programs.attach_again(pods) {
                    Ok(()) => {
                        tracing::info!(id = self.programs.pods.id, "attached to the new cgroup of the pods");
                        self.meters.reattached.inc();
                        self.meters.state("attached", self.reason);
                    }
                    Err(failure) => {
                        tracing::warn!(detail = failure.detail, "cannot attach to the new cgroup of the pods");
                        self.programs.detach();
                        self.meters.state("unavailable", failure.reason);
                    }
                }
            }
            _ => {}
        }
        let wanted = record(&self.config, &self.programs.pods);
        if self.settings.get(&0, 0).is_ok_and(|settings| settings != wanted) {
            // It fails only when the map is gone, and then nothing reads it.
            self.settings.set(0, wanted, 0).ok();
        }
    }

    fn carry(&self, seen: &mut Seen) {
        if let Ok(values) = self.total.get(&0, 0) {
            let now = sum(&values);
            self.meters.carry_total(&seen.total, &now);
            seen.total = now;
        }
        if !self.config.identity.pod_metrics {
            return;
        }
        let mut refreshed = false;
        for (cgroup, values) in self.by_pod.iter().filter_map(Result::ok) {
            let uid = || self.directory.pods(|pods| pods.uid(cgroup).cloned());
            let mut known = uid();
            if known.is_none() && !seen.gone.contains(&cgroup) && !std::mem::replace(&mut refreshed, true) {
                self.directory.refresh();
                known = uid();
            }
            seen.pods.pod(&self.meters, cgroup, known.as_deref(), &sum(&values));
        }
    }

    /// Writes rare events into the log.
    fn report(&mut self) {
        while let Some(item) = self.events.next() {
            self.meters.events.inc();
            if let Some(event) = read(&item) {
                say(&event);
            }
        }
    }

    /// Frees what belongs to pods that two looks in a row have not seen.
    fn forget(&mut self, seen: &mut Seen) {
        let counted: HashSet<u64> = self.by_pod.keys().filter_map(Result::ok).chain(seen.pods.cgroups()).collect();
        let gone: HashSet<u64> =
            self.directory.pods(|pods| counted.iter().copied().filter(|cgroup| pods.uid(*cgroup).is_none()).collect());
        for cgroup in gone.intersection(&seen.gone) {
            self.by_pod.remove(cgroup).ok();
            seen.pods.forget(&self.meters, *cgroup);
        }
        seen.gone = gone;
    }
}

/// What earlier looks have seen.
#[derive(Default)]
struct Seen {
    total: Counters,
    pods: Carried,
    gone: HashSet<u64>,
}

fn sum(values: &PerCpuValues<Counters>) -> Counters {
    values.iter().fold(Counters::default(), |mut sum, one| {
        sum.attempts += one.attempts;
        sum.lost_identities += one.lost_identities;
        sum.lost_pods += one.lost_pods;
        for (sum, one) in sum.outcomes.iter_mut().zip(one.outcomes) {
            *sum += one;
        }
        sum
    })
}

/// Writes what the programs log into ours, at level debug.
pub(super) async fn log(mut logger: EbpfLogger<&'static dyn log::Log>) {
    let mut ticks = tokio::time::interval(LOG);
    loop {
        ticks.tick().await;
        logger.flush();
    }
}

/// The record as the programs have written it: fields in their order, in the host's byte order.
fn read(bytes: &[u8]) -> Option<Event> {
    let u32_at = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    Some(Event {
        kind: u32_at(0)?,
        outcome: u32_at(4)?,
        cgroup: u64_at(8)?,
        pod: u64_at(16)?,
        address: [u32_at(24)?, u32_at(28)?, u32_at(32)?, u32_at(36)?],
        port: u64_at(40)?,
    })
}

fn say(event: &Event) {
    let outcome = mirador_ebpf_shared::Outcome::ALL.get(event.outcome as usize).map_or("", |outcome| outcome.as_str());
    let (cgroup, pod, port, to) = (event.cgroup, event.pod, event.port, address(&event.address));
    match event.kind {
        Event::FIRST_CONNECT => tracing::debug!(cgroup, pod, %to, port, outcome, "a pod's first connect"),
        Event::LOST_IDENTITY => tracing::debug!(cgroup, pod, %to, port, "the identity of a caller was lost"),
        _ => tracing::debug!(cgroup, pod, %to, port, outcome, "a pod has no counters of its own"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_as_the_programs_write_it() {
        let mut bytes = Vec::new();
        bytes.extend(Event::LOST_POD.to_ne_bytes());
        bytes.extend(4_u32.to_ne_bytes());
        bytes.extend(11_u64.to_ne_bytes());
        bytes.extend(12_u64.to_ne_bytes());
        for word in [1_u32, 2, 3, 4] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(4317_u64.to_ne_bytes());
        assert_eq!(bytes.len(), size_of::<Event>());
        let event = read(&bytes).unwrap();
        let expected = Event { kind: 3, outcome: 4, cgroup: 11, pod: 12, address: [1, 2, 3, 4], port: 4317 };
        assert_eq!(event, expected);
        assert_eq!(read(&bytes[..41]), None);
    }
}
