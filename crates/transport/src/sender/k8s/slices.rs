//! From `EndpointSlices` to members: which endpoints own data, under which names, and when the ring
//! follows.
//!
//! - An owner is an endpoint that is ready, serving and not terminating. When there is none, those that
//!   still serve while they terminate are.
//! - One endpoint may stand in several slices (while it moves between two, and once per address family);
//!   it is one owner, at its address of the preferred family.
//! - Changes are taken together: the ring follows when nothing has changed for a moment, and at the
//!   latest some moments after the first change. A first complete list counts at once.
//! - An empty set counts only after a grace period, during which the last owners stay.
//!
//! Never: does IO, reads a clock. Invariants: what is read of a list counts when the list is complete;
//! members are at most [`MAX_MEMBERS`], the first by name, so that every node keeps the same.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::{IpFamily, PortRef};
use crate::kubernetes::Event;
use crate::sender::config::DEFAULT_PORT;
use crate::sender::resolver::Member;

/// Owners of one destination at most.
pub(super) const MAX_MEMBERS: usize = 1024;

/// Slices of one service at most; 100 endpoints stand in each by default.
const MAX_SLICES: usize = 1000;

/// How slices become members.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) service: String,
    pub(super) ports: Vec<PortRef>,
    pub(super) return_hostnames: bool,
    pub(super) ip_family: IpFamily,
    pub(super) debounce: Duration,
    pub(super) debounce_max: Duration,
    pub(super) empty_grace: Duration,
}

/// Endpoints by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Ready, serving, not terminating.
    pub(super) ready: usize,
    /// Terminating but serving.
    pub(super) draining: usize,
    /// Neither.
    pub(super) not_ready: usize,
    /// Without a configured port.
    pub(super) no_port: usize,
    /// Members and endpoints beyond the bounds.
    pub(super) over_limit: usize,
}

/// What the ring is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Have these members.
    Install(Vec<Member>),
    /// Keep the last ones although nobody is left, for now.
    Hold,
}

/// The slices of one service.
#[derive(Debug)]
pub(super) struct Slices {
    rules: Rules,
    current: BTreeMap<String, EndpointSlice>,
    /// A list that is not complete yet.
    staged: Option<BTreeMap<String, EndpointSlice>>,
    installed: Option<Vec<Member>>,
    first_change: Option<Instant>,
    last_change: Option<Instant>,
    empty_since: Option<Instant>,
    tally: Tally,
    /// Endpoints in slices beyond the bound.
    ignored: usize,
}

impl Slices {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            current: BTreeMap::new(),
            staged: None,
            installed: None,
            first_change: None,
            last_change: None,
            empty_since: None,
            tally: Tally::default(),
            ignored: 0,
        }
    }

    /// Takes one event of the watch.
    pub(super) fn apply(&mut self, event: Event<EndpointSlice>, now: Instant) {
        let changed = match event {
            Event::Begin => {
                self.ignored = 0;
                self.staged = Some(BTreeMap::new());
                false
            }
            Event::Listed(slice) => {
                insert(self.staged.get_or_insert_default(), slice, &mut self.ignored);
                false
            }
            Event::Complete => {
                let listed = self.staged.take().unwrap_or_default();
                let changed = self.installed.is_none() || self.current != listed;
                self.current = listed;
                changed
            }
            Event::Applied(slice) => insert(&mut self.current, slice, &mut self.ignored),
            Event::Deleted(slice) => self.current.remove(&name_of(&slice)).is_some(),
        };
        if changed {
            self.first_change.get_or_insert(now);
            self.last_change = Some(now);
        }
    }

    /// When [`Slices::poll`] has something to do next.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let settled = match (self.first_change, self.last_change) {
            (Some(first), Some(_)) if self.installed.is_none() => Some(first),
            (Some(first), Some(last)) => Some((last + self.rules.debounce).min(first + self.rules.debounce_max)),
            _ => None,
        };
        let emptied = self.empty_since.map(|since| since + self.rules.empty_grace);
        settled.into_iter().chain(emptied).min()
    }

    /// What is due now.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Step> {
        if self.wake_at().is_none_or(|at| now < at) {
            return None;
        }
        self.first_change = None;
        self.last_change = None;
        let (members, tally) = self.members();
        self.tally = tally;
        if members.is_empty() && self.installed.as_ref().is_some_and(|installed| !installed.is_empty()) {
            let held = self.empty_since.is_some();
            let since = *self.empty_since.get_or_insert(now);
            if now < since + self.rules.empty_grace {
                return (!held).then_some(Step::Hold);
            }
        }
        self.empty_since = None;
        if self.installed.as_ref() == Some(&members) {
            return None;
        }
        self.installed = Some(members.clone());
        Some(Step::Install(members))
    }

    /// Endpoints by state, as of the last poll that was due.
    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    fn members(&self) -> (Vec<Member>, Tally) {
        let mut tally = Tally::default();
        let mut pods: BTreeMap<&str, Candidate<'_>> = BTreeMap::new();
        for (slice, endpoint) in self.endpoints() {
            let Some(address) = endpoint.addresses.first() else { continue };
            let ports = self.ports(slice);
            let state = State::of(endpoint);
            let family = self.rules.ip_family.rank(&slice.address_type);
            let hostname = endpoint.hostname.as_deref().filter(|name| self.rules.return_hostnames && !name.is_empty());
            let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref());
            let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
            let candidate = Candidate { state, family, address, hostname, namespace, ports };
            let known = pods.entry(uid.or(hostname).unwrap_or(address)).or_insert_with(|| candidate.clone());
            // A copy without the port must not hide one that has it.
            let rank = |of: &Candidate<'_>| (of.ports.is_empty(), of.state, of.family);
            if (rank(&candidate), candidate.address) < (rank(known), known.address) {
                *known = candidate;
            }
        }
        for pod in pods.values() {
            *match (pod.ports.is_empty(), pod.state) {
                (true, _) => &mut tally.no_port,
                (_, State::Ready) => &mut tally.ready,
                (_, State::Draining) => &mut tally.draining,
                (_, State::NotReady) => &mut tally.not_ready,
            } += 1;
        }
        let owning = if tally.ready > 0 { State::Ready } else { State::Draining };
        let mut members: BTreeMap<String, (usize, String)> = BTreeMap::new();
        for pod in pods.values().filter(|pod| pod.state == owning) {
            for port in &pod.ports {
                let member = pod.member(&self.rules, *port);
                let found = (pod.family, member.address);
                // Of two endpoints with one name the same one wins on every node.
                let kept = members.entry(member.name).or_insert_with(|| found.clone());
                if found < *kept {
                    *kept = found;
                }
            }
        }
        tally.over_limit = members.len().saturating_sub(MAX_MEMBERS) + self.ignored;
        let members = members.into_iter().take(MAX_MEMBERS);
        (members.map(|(name, (_, address))| Member { name, address }).collect(), tally)
    }

    fn endpoints(&self) -> impl Iterator<Item = (&EndpointSlice, &Endpoint)> {
        self.current.values().flat_map(|slice| slice.endpoints.iter().flatten().map(move |endpoint| (slice, endpoint)))
    }

    /// The configured ports as this slice has them; port 0 stands for "none configured".
    fn ports(&self, slice: &EndpointSlice) -> Vec<u16> {
        if self.rules.ports.is_empty() {
            return vec![0];
        }
        let named = |name: &str| {
            let mut ports = slice.ports.iter().flatten();
            let port = ports.find(|port| port.name.as_deref().unwrap_or_default() == name)?.port?;
            u16::try_from(port).ok().filter(|port| *port != 0)
        };
        let wanted = self.rules.ports.iter();
        wanted
            .filter_map(|port| match port {
                PortRef::Number(number) => Some(*number),
                PortRef::Name(name) => named(name),
            })
            .collect()
    }
}

/// Better ones are less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Ready,
    Draining,
    NotReady,
}

impl State {
    /// Absent conditions mean what `discovery.k8s.io/v1` says: ready, serving as ready, not terminating.
    fn of(endpoint: &Endpoint) -> Self {
        let conditions = endpoint.conditions.as_ref();
        let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
        let serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(ready);
        let terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
        match (ready && serving, terminating) {
            (true, false) => Self::Ready,
            (_, true) if serving => Self::Draining,
            _ => Self::NotReady,
        }
    }
}

#[derive(Debug, Clone)]
struct Candidate<'a> {
    state: State,
    family: usize,
    address: &'a str,
    hostname: Option<&'a str>,
    namespace: &'a str,
    ports: Vec<u16>,
}

impl Candidate<'_> {
    fn member(&self, rules: &Rules, port: u16) -> Member {
        let host = match self.address.parse::<IpAddr>() {
            Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
            _ => self.address.to_owned(),
        };
        let base = match self.hostname {
            Some(hostname) => format!("{hostname}.{}.{}", rules.service, self.namespace),
            None => host.clone(),
        };
        match port {
            0 => Member { name: base, address: format!("{host}:{DEFAULT_PORT}") },
            port => Member { name: format!("{base}:{port}"), address: format!("{host}:{port}") },
        }
    }
}

fn name_of(slice: &EndpointSlice) -> String {
    slice.metadata.name.clone().unwrap_or_default()
}

/// Whether anything that counts changed.
fn insert(slices: &mut BTreeMap<String, EndpointSlice>, mut slice: EndpointSlice, ignored: &mut usize) -> bool {
    let name = name_of(&slice);
    if slices.len() >= MAX_SLICES && !slices.contains_key(&name) {
        *ignored += slice.endpoints.map_or(0, |endpoints| endpoints.len());
        return false;
    }
    // What is neither an address nor a state would only take memory and make equal slices differ.
    let metadata = std::mem::take(&mut slice.metadata);
    slice.metadata.namespace = metadata.namespace;
    for endpoint in slice.endpoints.iter_mut().flatten() {
        endpoint.deprecated_topology = None;
        endpoint.hints = None;
        endpoint.node_name = None;
        endpoint.zone = None;
    }
    match slices.get(&name) {
        Some(known) if *known == slice => false,
        _ => {
            slices.insert(name, slice);
            true
        }
    }
}

#[cfg(test)]
mod tests;
