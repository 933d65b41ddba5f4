//! Steering: the pods' OTLP connections are redirected to the agent of their node, by BPF programs at
//! connect in the pods' cgroup.
//!
//! `load` climbs the ladder while the process has one thread and its privileges, and gives these up;
//! [`Steering::start`] puts the listeners into the programs' map once they are bound, from when on
//! connections are redirected. The records that both sides read are those of `mirador-ebpf-shared`.
//!
//! Invariants: whatever is missing, hung or dead leaves a connection to its original destination; nothing
//! stays attached when the process has ended, unless `steering.pin` asks for it; who is calling is known or `unknown`, never guessed.
//!
//! Never: keeps the agent from starting or serving.

mod applied;
mod caller;
mod cgroup;
pub mod command;
mod config;
mod gate;
mod introduce;
mod ladder;
mod load;
mod metrics;
mod names;
mod object;
mod pins;
mod pods;
mod privileges;
mod rules;
mod scope;
mod seat;
mod switch;
mod watch;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};

use aya::maps::{MapData, SkStorage, SockMap};
use mirador_ebpf_shared::Instance;
use mirador_service::cause::chain;
use mirador_service::drain::Drain;
use mirador_service::metrics::Registry;
use mirador_transport::outgoing;
use mirador_transport::receiver::Receiver;
use tokio::task::JoinSet;

use self::applied::Applied;
use self::caller::Directory;
pub use self::caller::Enricher;
pub use self::config::SteeringConfig;
use self::gate::Door;
pub use self::ladder::{Failure, Ladder};
use self::load::{Loaded, Owned, map, take};
use self::metrics::Meters;
use self::pins::Pins;
use self::privileges::Left;
use self::rules::words;
use self::scope::Scope;
use self::seat::{Neighbour, Seat};
use self::watch::{Watch, now};

/// Whether connections are redirected, and why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Switched off by `steering.enabled: false`.
    Off,
    /// Wanted, but it cannot be had.
    Unavailable {
        /// Why.
        reason: &'static str,
    },
    /// Connections are redirected.
    Attached {
        /// `complete`, or what is missing.
        reason: &'static str,
    },
}

impl State {
    fn labels(self) -> (&'static str, &'static str) {
        match self {
            Self::Off => ("off", "disabled"),
            Self::Unavailable { reason } => ("unavailable", reason),
            Self::Attached { reason } => ("attached", reason),
        }
    }
}

/// What the climb has given.
#[derive(Debug)]
pub struct Steering {
    state: State,
    ladder: Ladder,
    loaded: Option<Loaded>,
}

/// What runs while connections are redirected; dropped, it detaches.
#[derive(Debug)]
pub struct Running {
    tasks: JoinSet<()>,
    enricher: Enricher,
}

impl Running {
    /// Adds the identity of callers to what they send.
    pub fn enricher(&self) -> Enricher {
        self.enricher.clone()
    }

    /// Whether anything runs.
    pub fn is_active(&self) -> bool {
        !self.tasks.is_empty()
    }
}

/// Loads and attaches what can be, and gives up the privileges for it. To be called before the process
/// has threads: privileges are given up by thread.
pub fn load(config: &SteeringConfig) -> Steering {
    if !config.enabled {
        return Steering::off();
    }
    let (mut ladder, loaded) = load::climb(config, true);
    if let Some(loaded) = loaded.as_ref().filter(|_| config.drop_privileges) {
        let works = || loaded.programs.ebpf.map("CONFIG").is_some_and(load::is_readable);
        let left = privileges::give_up(works).map(|left| match left {
            Left::Nothing => ((), "CAP_BPF and CAP_NET_ADMIN are given up".to_owned()),
            Left::Bpf => ((), "CAP_NET_ADMIN is given up; this kernel wants CAP_BPF for maps".to_owned()),
        });
        ladder.take(ladder::Step::Drop, left.map_err(|error| Failure::new("privileges_kept", error)));
    }
    let state = match (ladder.stopped(), ladder.lacks()) {
        (Some(failure), _) => State::Unavailable { reason: failure.reason },
        (None, Some(failure)) => State::Attached { reason: failure.reason },
        (None, None) => State::Attached { reason: "complete" },
    };
    Steering { state, ladder, loaded }
}

impl Steering {
    /// No steering, as `steering.enabled: false` asks for.
    pub fn off() -> Self {
        Self { state: State::Off, ladder: Ladder::default(), loaded: None }
    }

    /// Whether connections will be redirected.
    pub fn state(&self) -> State {
        self.state
    }

    /// Lets the programs send connections to `receiver`. Says in one log line and one gauge what the
    /// state is. Must be called inside a tokio runtime.
    pub fn start(
        self,
        config: &SteeringConfig,
        receiver: &mut Receiver,
        registry: &Registry,
        drain: &Drain,
    ) -> Running {
        let meters = Meters::register(registry);
        let mut running = Running { tasks: JoinSet::new(), enricher: Enricher::none() };
        let mut state = self.state;
        let mut detail = self.ladder.stopped().or(self.ladder.lacks()).map(|failure| failure.detail.clone());
        if let Some(loaded) = self.loaded {
            let scope = Scope::new(config);
            match serve(loaded, &scope, receiver, &meters, drain, state.labels().1) {
                Ok(tasks) => {
                    running.tasks = tasks;
                    names::start(&scope, registry, &mut running.tasks);
                    running.enricher = Enricher::new();
                }
                Err(failure) => {
                    state = State::Unavailable { reason: failure.reason };
                    detail = Some(failure.detail);
                }
            }
        }
        let (state, reason) = state.labels();
        meters.state(state, reason);
        tracing::info!(state, reason, detail = detail.unwrap_or_default(), "steering");
        running
    }
}

/// Fills in the instance and starts the tasks. A failure drops the programs, which detaches them.
fn serve(
    loaded: Loaded,
    scope: &Arc<Scope>,
    receiver: &mut Receiver,
    meters: &Meters,
    drain: &Drain,
    reason: &'static str,
) -> Result<JoinSet<()>, Failure> {
    let config = &scope.config;
    let Loaded { mut programs, introduction, own_cgroup } = loaded;
    let ebpf = &mut programs.ebpf;
    let directory = Arc::new(Directory::new(programs.pods.path.clone()));
    let failed = |error: aya::maps::MapError| Failure::new("maps_refused", chain(&error));
    let (grpc, http) = (receiver.grpc_addr(), receiver.http_addr());
    let (ipv4, ipv6) = addresses(config, grpc.ip());
    if ipv4.is_none() && ipv6.is_none() {
        return Err(Failure::new("no_address", "no address at which pods reach this agent: set steering.addresses"));
    }
    let (by_cgroup, by_process) = (switch::guards("cgroup"), switch::guards("process"));
    let cgroup = if introduction.process == 0 { own_cgroup } else { introduction.cgroup };
    let instance = Instance {
        generation: now().max(1),
        cgroup: if by_cgroup { cgroup } else { 0 },
        pod: if by_cgroup { introduction.pod } else { 0 },
        process: if by_process { introduction.process } else { 0 },
        ipv4: ipv4.map_or(0, |address| words(IpAddr::V4(address))[3]),
        ipv6: ipv6.map_or([0; 4], |address| words(IpAddr::V6(address))),
        ports: [grpc.port(), http.port()],
        padding: 0,
    };
    if switch::guards("socket") {
        mark_own_sockets(take(ebpf, "OWN")?);
    }
    let (instances, heartbeat): (Owned<Instance>, Owned<u64>) = (take(ebpf, "INSTANCE")?, take(ebpf, "HEARTBEAT")?);
    let mut listeners: SockMap<_> = map(ebpf, "LISTENER")?;
    let _lock = programs.pins.as_ref().map(Pins::lock).transpose()?;
    let places = seat::look(&instances, &heartbeat).map_err(failed)?;
    let index = seat::choose(places, now(), config.heartbeat_max_age);
    let seat = Seat::take(index, instance, (instances, heartbeat), &mut listeners, &receiver.listeners(), now());
    let seat = seat.map_err(failed)?;
    let attributes = config.identity.attributes.clone();
    let (callers, tls) = (take(ebpf, "CALLER")?, take(ebpf, "TLS")?);
    receiver.set_gate(Arc::new(Door::new(callers, tls, Arc::clone(&directory), attributes, meters.clone())));
    tracing::debug!(?ipv4, ?ipv6, process = instance.process, pod = instance.pod, "connections are steered here");
    let mut tasks = JoinSet::new();
    tasks.spawn(watch::beat(seat, receiver.pulse(), config.heartbeat_max_age, drain.clone(), meters.clone()));
    // The programs that log have a map for that.
    if ebpf.map("AYA_LOGS").is_some() {
        let log = aya_log::EbpfLogger::init(ebpf).map_err(|error| Failure::new("maps_refused", chain(&error)))?;
        tasks.spawn(watch::log(log));
    }
    let settings = take(ebpf, "CONFIG")?;
    let rules = Applied::new(Arc::clone(scope), take(ebpf, "POD")?, take(ebpf, "DESTINATION")?);
    let (total, by_pod, events) = (take(ebpf, "TOTAL")?, take(ebpf, "BY_POD")?, take(ebpf, "EVENT")?);
    let (config, meters) = (config.clone(), meters.clone());
    let tables = programs.again("INSTANCE").zip(programs.again("HEARTBEAT"));
    let neighbour =
        tables.map(|(instances, heartbeat)| Neighbour::beside(index, instance.generation, instances, heartbeat));
    let removed = false;
    let watch = Watch {
        programs,
        neighbour,
        removed,
        settings,
        total,
        by_pod,
        rules,
        events,
        directory,
        config,
        reason,
        meters,
    };
    tasks.spawn(watch.run());
    Ok(tasks)
}

/// Marks every socket that this process connects with, so that the hooks let it go. The mark is the
/// kernel's, with the socket: no pod can set it.
fn mark_own_sockets(own: SkStorage<MapData, u32>) {
    let own = Mutex::new(own);
    outgoing::mark_with(move |socket| {
        let marked = own.lock().unwrap_or_else(PoisonError::into_inner).insert(&socket, 1, 0);
        if let Err(error) = marked {
            tracing::debug!(%error, "a socket of ours cannot be marked, the other guards keep it out");
        }
    });
}

/// Where pods reach this agent, by family: as configured, as listened on, or as this host sends from. A
/// loopback address is reached only by who shares our network, so it has to be asked for.
fn addresses(config: &SteeringConfig, listening: IpAddr) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let found: Vec<IpAddr> = match listening {
        _ if !config.addresses.is_empty() => config.addresses.clone(),
        _ if listening.is_loopback() => Vec::new(),
        IpAddr::V4(address) if address.is_unspecified() => sends_from("0.0.0.0:0", "192.0.2.1:9").into_iter().collect(),
        IpAddr::V6(address) if address.is_unspecified() => {
            let v4 = sends_from("0.0.0.0:0", "192.0.2.1:9");
            v4.into_iter().chain(sends_from("[::]:0", "[2001:db8::1]:9")).collect()
        }
        address => vec![address],
    };
    let v4 = found.iter().find_map(|address| if let IpAddr::V4(v4) = address { Some(*v4) } else { None });
    let v6 = found.iter().find_map(|address| if let IpAddr::V6(v6) = address { Some(*v6) } else { None });
    (v4, v6)
}

/// The address from which this host would send to `to` (RFC 5737 and RFC 3849: nobody is there). Nothing
/// is sent.
fn sends_from(from: &str, to: &str) -> Option<IpAddr> {
    let socket = UdpSocket::bind(from).ok()?;
    socket.connect(to).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified() && !address.is_loopback()).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_sent_to_the_configured_address_and_never_to_an_unasked_loopback() {
        let mut config = SteeringConfig::default();
        assert_eq!(addresses(&config, "127.0.0.1".parse().unwrap()), (None, None));
        assert_eq!(addresses(&config, "192.0.2.7".parse().unwrap()), (Some(Ipv4Addr::new(192, 0, 2, 7)), None));
        config.addresses = vec!["fd00::7".parse().unwrap(), "127.0.0.1".parse().unwrap()];
        let expected = (Some(Ipv4Addr::LOCALHOST), Some("fd00::7".parse().unwrap()));
        assert_eq!(addresses(&config, "0.0.0.0".parse().unwrap()), expected);
    }

    #[test]
    fn steering_that_is_switched_off_is_off_and_loads_nothing() {
        let steering = load(&SteeringConfig { enabled: false, ..SteeringConfig::default() });
        assert_eq!(steering.state(), State::Off);
        assert!(steering.loaded.is_none());
    }
}
