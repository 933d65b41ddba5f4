//! Climbs the ladder: finds the pods, loads the programs, attaches them.
//!
//! Links live as long as the process: the kernel detaches everything when it ends, however it ends. With
//! `steering.pin` they stay, and an agent takes over what the last one has left (`super::pins`).
//! Nothing is redirected before `super::start` has put the listeners into their map.

use std::error::Error as _;
use std::fs::File;
use std::path::Path;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::links::{FdLink, LinkError};
use aya::programs::{CgroupAttachMode, CgroupSockAddr, ProgramError, ProgramType, SockOps};
use aya::sys::is_program_supported;
use aya::{Ebpf, EbpfLoader};
use mirador_ebpf_shared::{Address, Config, Introduction, Kind, Rule};
use mirador_service::cause::chain;

use super::cgroup::{self, Cgroup};
use super::config::{PodsMode, SteeringConfig};
use super::ladder::{Failure, Ladder, Step};
use super::pins::{self, Held, Pins};
use super::{introduce, object, privileges, switch};

/// Programs by what they are needed for.
const CONNECT: [&str; 2] = ["mirador_conn4", "mirador_conn6"];
const PEER_NAME: [&str; 2] = ["mirador_peer4", "mirador_peer6"];
const ESTABLISH: &str = "mirador_tcp";

/// A link, which detaches as it is dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "a link is held, and that is all its use")]
pub(super) enum Link {
    Address(aya::programs::cgroup_sock_addr::CgroupSockAddrLink),
    Established(aya::programs::sock_ops::SockOpsLink),
}

/// The programs in the kernel.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) ebpf: Ebpf,
    /// The folder of the pins, when there are any.
    pub(super) pins: Option<Pins>,
    /// Links of ours, which end with the process. Pinned ones are nobody's.
    links: Vec<Link>,
    attached: bool,
    abilities: Abilities,
    /// The cgroup of all pods, as it was attached to.
    pub(super) pods: Cgroup,
    /// Our own cgroup, when it is to be attached to as well.
    own: Option<Cgroup>,
}

/// What the climb has given beyond redirection.
#[derive(Debug, Clone, Copy, Default)]
struct Abilities {
    identity: bool,
    peer_name: bool,
}

/// A climb that has reached the attachment.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) programs: Programs,
    /// What the kernel calls this process; zeros when it is outside the pods.
    pub(super) introduction: Introduction,
    /// Our own cgroup, 0 when it cannot be seen.
    pub(super) own_cgroup: u64,
}

/// Climbs as far as it goes. Without `attach` nothing is attached.
pub(super) fn climb(config: &SteeringConfig, attach: bool) -> (Ladder, Option<Loaded>) {
    let mut ladder = Ladder::default();
    let loaded = steps(config, attach, &mut ladder);
    (ladder, loaded)
}

fn steps(config: &SteeringConfig, attach: bool, ladder: &mut Ladder) -> Option<Loaded> {
    let missing = "this agent was built without the BPF programs: run `cargo xtask build-ebpf` before building it";
    let object = object::embedded().map(|bytes| (bytes, format!("{} bytes", bytes.len())));
    let object = ladder.take(Step::Object, object.ok_or_else(|| Failure::new("not_built", missing)))?;
    let (mount, pods) = ladder.take(Step::Cgroup, find(config))?;
    ladder.take(Step::Privileges, may_use_bpf())?;
    ladder.take(Step::Kernel, is_supported())?;
    let pins = config.pin.as_deref().map(|root| if attach { Pins::open(root).map(Some) } else { dry(root) });
    let (pins, unpinned) = match pins.transpose() {
        Ok(pins) => (pins.flatten(), None),
        Err(failure) => (None, Some(failure)),
    };
    // Two agents that start at one time take turns until everything is attached.
    let lock = pins.as_ref().map(Pins::lock).transpose();
    let _lock = ladder.given(Step::Load, lock)?;
    let mut programs = ladder.take(Step::Load, load(object, config, pods, pins))?;
    let own = cgroup::own(&mount);
    let own_cgroup = own.as_ref().map_or(0, |own| own.id);
    if !attach {
        take_pin(ladder, config, unpinned);
        return None;
    }
    ladder.take(Step::Attach, attach_connect(&mut programs))?;
    take_pin(ladder, config, unpinned);
    let introduction = introduce::introduce(&mut programs.ebpf, config).unwrap_or_default();
    // Sockets that the agent accepts belong to the cgroup of the listener. Inside the pods it is covered.
    programs.own = own.filter(|own| introduction.pod == 0 && !own.path.starts_with(&programs.pods.path));
    if config.identity.enabled {
        let identity = programs.load_established().and_then(|()| programs.attach_established());
        let identity = identity.map(|()| ((), "the agent learns who is calling".to_owned()));
        programs.abilities.identity =
            ladder.take(Step::Identity, identity.map_err(|failure| named("no_identity", failure))).is_some();
    }
    let peer_name = programs.load_peer_name().and_then(|()| programs.attach_peer_name());
    let peer_name = peer_name.map(|()| ((), "getpeername names the original destination".to_owned()));
    programs.abilities.peer_name =
        ladder.take(Step::PeerName, peer_name.map_err(|failure| named("no_peer_name", failure))).is_some();
    if let Some(pins) = &programs.pins {
        pins.replace_others();
    }
    Some(Loaded { programs, introduction, own_cgroup })
}

/// Whether there could be pins; none are made.
fn dry(root: &Path) -> Result<Option<Pins>, Failure> {
    pins::is_bpffs(root).map(|()| None)
}

fn take_pin(ladder: &mut Ladder, config: &SteeringConfig, unpinned: Option<Failure>) {
    if let Some(root) = &config.pin {
        let detail = format!("below {}", root.display());
        ladder.take(Step::Pin, unpinned.map_or(Ok(((), detail)), Err));
    }
}

fn find(config: &SteeringConfig) -> Result<((std::path::PathBuf, Cgroup), String), Failure> {
    let mount = cgroup::mount(&config.cgroup).map_err(|missing| Failure::new("no_cgroup2", missing))?;
    let pods = cgroup::pods(&config.cgroup, &mount).map_err(|missing| Failure::new("no_pods_cgroup", missing))?;
    let detail = format!("{} (id {})", pods.path.display(), pods.id);
    Ok(((mount, pods), detail))
}

fn may_use_bpf() -> Result<((), String), Failure> {
    match privileges::missing() {
        Ok(None) => Ok(((), "CAP_BPF and CAP_NET_ADMIN".to_owned())),
        Ok(Some(missing)) => Err(Failure::new("no_privileges", format!("the process has not {missing}"))),
        Err(error) => Err(Failure::new("no_privileges", error)),
    }
}

fn is_supported() -> Result<((), String), Failure> {
    match is_program_supported(ProgramType::CgroupSockAddr) {
        Ok(true) if !switch::kernel_lacks("sock_addr") => Ok(((), format!("Linux {}", release()))),
        Ok(_) => Err(Failure::new(
            "kernel_too_old",
            format!("Linux {} has no hooks at connect in cgroups: 5.10 or newer has", release()),
        )),
        Err(error) => Err(Failure::new(
            "bpf_refused",
            format!("bpf(2) is refused ({}): a seccomp profile or a security module may forbid it", chain(&error)),
        )),
    }
}

fn release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

fn load(
    object: &[u8],
    config: &SteeringConfig,
    pods: Cgroup,
    pins: Option<Pins>,
) -> Result<(Programs, String), Failure> {
    let logging = if config.debug { object::logging() } else { None };
    let logging = logging.and_then(|logging| match loaded(logging, config, &pods, pins.as_ref()) {
        Ok(ebpf) => Some(ebpf),
        Err(failure) => {
            let detail = failure.detail;
            tracing::warn!(detail, "this kernel does not take the programs that log: steering.debug has no effect");
            None
        }
    });
    let ebpf = logging.map_or_else(|| loaded(object, config, &pods, pins.as_ref()), Ok)?;
    let abilities = Abilities::default();
    let programs = Programs { ebpf, pins, links: Vec::new(), attached: false, abilities, pods, own: None };
    Ok((programs, format!("{} and {}", CONNECT[0], CONNECT[1])))
}

/// The object with its maps filled and the programs of [`CONNECT`] in the kernel.
fn loaded(object: &[u8], config: &SteeringConfig, pods: &Cgroup, pins: Option<&Pins>) -> Result<Ebpf, Failure> {
    let mut ebpf = parse(object, config, None)?;
    if let Some(pins) = pins {
        // What is pinned is used whatever its shape, so it is compared with what was just made.
        if let Some(name) = pins.misfit(&ebpf) {
            tracing::warn!(map = name, "a pinned map has another shape: replaces all pins, counters begin anew");
            pins.clear();
        }
        ebpf = parse(object, config, Some(pins))?;
    }
    fill(&mut ebpf, config, pods)?;
    for name in CONNECT {
        let program: &mut CgroupSockAddr = program(&mut ebpf, name)?;
        let failed = |error| Failure::new("load_failed", format!("{name}: {}", refusal(&error)));
        program.load().map_err(failed)?;
    }
    Ok(ebpf)
}

/// Makes the maps, and opens those that are pinned.
fn parse(object: &[u8], config: &SteeringConfig, pins: Option<&Pins>) -> Result<Ebpf, Failure> {
    let mut loader = EbpfLoader::new();
    loader.map_max_entries("BY_POD", config.identity.max_pods);
    for name in pins::SHARED.into_iter().filter(|_| pins.is_some()) {
        loader.map_pin_path(name, pins.map(|pins| pins.map(name)).unwrap_or_default());
    }
    loader.load(object).map_err(|error| Failure::new("load_failed", chain(&error)))
}

/// Writes what the configuration says into the maps.
fn fill(ebpf: &mut Ebpf, config: &SteeringConfig, pods: &Cgroup) -> Result<(), Failure> {
    let text = |error: aya::maps::MapError| Failure::new("maps_refused", chain(&error));
    let mut ports: HashMap<_, u16, u32> = map(ebpf, "PORT")?;
    for (listed, kind) in [(&config.ports.grpc, Kind::Grpc), (&config.ports.http, Kind::Http)] {
        for port in listed {
            ports.insert(port, kind as u32, 0).map_err(text)?;
        }
    }
    let mut destinations: LpmTrie<_, Address, u32> = map(ebpf, "DESTINATION")?;
    for (listed, rule) in [(&config.destinations.steer, Rule::Steer), (&config.destinations.leave, Rule::Leave)] {
        for cidr in listed {
            let (length, address) = cidr.key();
            destinations.insert(&Key::new(length, address), rule as u32, 0).map_err(text)?;
        }
    }
    let mut settings: Array<_, Config> = map(ebpf, "CONFIG")?;
    settings.set(0, record(config, pods), 0).map_err(text)
}

/// The record that all hooks read.
pub(super) fn record(config: &SteeringConfig, pods: &Cgroup) -> Config {
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    let (destinations, rules) = (&config.destinations, &config.pods);
    Config {
        root: pods.id,
        classes: cgroup::classes(&pods.path),
        max_age: u64::try_from(config.heartbeat_max_age.as_nanos()).unwrap_or(u64::MAX),
        flags: flag(destinations.is_listed(), Config::LISTED_DESTINATIONS)
            | flag(destinations.has_rules(), Config::DESTINATION_RULES)
            | flag(rules.mode == PodsMode::Listed, Config::LISTED_PODS)
            | flag(rules.has_rules(), Config::POD_RULES),
        padding: 0,
    }
}

fn attach_connect(programs: &mut Programs) -> Result<((), String), Failure> {
    let path = programs.pods.path.clone();
    for name in CONNECT {
        programs.attach_address(name, &path).map_err(|failure| named("attach_failed", failure))?;
    }
    programs.attached = true;
    Ok(((), format!("links on {}", path.display())))
}

impl Programs {
    /// Attaches again after the pods' cgroup was made anew; the old links died with the old one.
    pub(super) fn attach_again(&mut self, pods: Cgroup) -> Result<(), Failure> {
        self.links.clear();
        self.pods = pods;
        let _lock = self.pins.as_ref().map(Pins::lock).transpose()?;
        let path = self.pods.path.clone();
        for name in CONNECT {
            self.attach_address(name, &path)?;
        }
        if self.abilities.identity {
            self.attach_established()?;
        }
        if self.abilities.peer_name {
            self.attach_peer_name()?;
        }
        self.attached = true;
        Ok(())
    }

    /// Lets go of the cgroup. What is pinned stays.
    pub(super) fn detach(&mut self) {
        self.links.clear();
        self.attached = false;
    }

    /// Whether it is attached.
    pub(super) fn is_attached(&self) -> bool {
        self.attached
    }

    /// Where the pinned links are; `None` when nothing is pinned.
    pub(super) fn held(&self, cgroup: u64) -> Option<Held> {
        let pins = self.pins.as_ref()?;
        let found = CONNECT.map(|name| pins.holds(name, cgroup));
        Some(if found.contains(&Held::Gone) { Held::Gone } else { found[0].max(found[1]) })
    }

    /// Another handle of a pinned map.
    pub(super) fn again<T: aya::Pod>(&self, name: &str) -> Option<Owned<T>> {
        let data = MapData::from_pin(self.pins.as_ref()?.map(name)).ok()?;
        Array::try_from(Map::Array(data)).ok()
    }

    fn load_established(&mut self) -> Result<(), Failure> {
        let program: &mut SockOps = program(&mut self.ebpf, ESTABLISH)?;
        program.load().map_err(|error| Failure::new("load_failed", refusal(&error)))
    }

    fn attach_established(&mut self) -> Result<(), Failure> {
        let places = [Some(self.pods.path.clone()), self.own.as_ref().map(|own| own.path.clone())];
        for (path, pinned) in places.into_iter().zip([true, false]) {
            let Some(path) = path else { continue };
            let folder = open(&path)?;
            let program: &mut SockOps = program(&mut self.ebpf, ESTABLISH)?;
            // Our own cgroup ends with us, and so may the link on it.
            let pins = self.pins.as_ref().filter(|_| pinned);
            let fd = program.fd().map_err(|error| Failure::new("load_failed", chain(&error)))?;
            if pins.is_some_and(|pins| pins.take_over(ESTABLISH, self.pods.id, fd)) {
                continue;
            }
            let link = program.attach(folder, CgroupAttachMode::Single).and_then(|id| program.take_link(id));
            let link = link.map_err(|error| Failure::new("attach_failed", attach_refusal(&path, &error)))?;
            match pins {
                Some(pins) => pins.keep(ESTABLISH, pinnable(link)?)?,
                None => self.links.push(Link::Established(link)),
            }
        }
        Ok(())
    }

    fn load_peer_name(&mut self) -> Result<(), Failure> {
        for name in PEER_NAME {
            let program: &mut CgroupSockAddr = program(&mut self.ebpf, name)?;
            program.load().map_err(|error| Failure::new("load_failed", refusal(&error)))?;
        }
        Ok(())
    }

    fn attach_peer_name(&mut self) -> Result<(), Failure> {
        let path = self.pods.path.clone();
        PEER_NAME.into_iter().try_for_each(|name| self.attach_address(name, &path))
    }

    fn attach_address(&mut self, name: &str, path: &Path) -> Result<(), Failure> {
        let folder = open(path)?;
        let program: &mut CgroupSockAddr = program(&mut self.ebpf, name)?;
        let fd = program.fd().map_err(|error| Failure::new("load_failed", chain(&error)))?;
        if self.pins.as_ref().is_some_and(|pins| pins.take_over(name, self.pods.id, fd)) {
            return Ok(());
        }
        // A link lets others attach beside it whatever the mode says, and knows no other mode.
        let link = program.attach(folder, CgroupAttachMode::Single).and_then(|id| program.take_link(id));
        let link = link.map_err(|error| Failure::new("attach_failed", attach_refusal(path, &error)))?;
        match &self.pins {
            Some(pins) => pins.keep(name, pinnable(link)?)?,
            None => self.links.push(Link::Address(link)),
        }
        Ok(())
    }
}

/// Kernels before 5.7 have no links, and nothing that could be pinned.
fn pinnable<L>(link: L) -> Result<FdLink, Failure>
where
    FdLink: TryFrom<L, Error = LinkError>,
{
    FdLink::try_from(link).map_err(|error| Failure::new("pin_refused", chain(&error)))
}

fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| Failure::new("attach_failed", format!("{}: {error}", path.display())))
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P, Failure>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let found =
        ebpf.program_mut(name).ok_or_else(|| Failure::new("load_failed", format!("the object has no {name}")))?;
    found.try_into().map_err(|error: ProgramError| Failure::new("load_failed", chain(&error)))
}

/// A map of the object, to be written.
pub(super) fn map<'a, M>(ebpf: &'a mut Ebpf, name: &str) -> Result<M, Failure>
where
    M: TryFrom<&'a mut Map, Error = aya::maps::MapError>,
{
    let found = ebpf.map_mut(name).ok_or_else(|| no_map(name))?;
    M::try_from(found).map_err(|error| Failure::new("maps_refused", format!("{name}: {}", chain(&error))))
}

/// A map of the object, to be kept.
pub(super) fn take<M>(ebpf: &mut Ebpf, name: &str) -> Result<M, Failure>
where
    M: TryFrom<Map, Error = aya::maps::MapError>,
{
    let found = ebpf.take_map(name).ok_or_else(|| no_map(name))?;
    M::try_from(found).map_err(|error| Failure::new("maps_refused", format!("{name}: {}", chain(&error))))
}

fn no_map(name: &str) -> Failure {
    Failure::new("maps_refused", format!("the object has no map {name}"))
}

/// Whether a process may still read `map`, which is an array.
pub(super) fn is_readable(map: &Map) -> bool {
    Array::<_, Config>::try_from(map).is_ok_and(|array| array.get(&0, 0).is_ok())
}

/// A map whose records the loader does not own.
pub(super) type Owned<T> = Array<MapData, T>;

fn named(reason: &'static str, failure: Failure) -> Failure {
    Failure { reason, ..failure }
}

/// What the verifier says last is what it has stopped at.
fn refusal(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else { return chain(error) };
    let log = verifier_log.to_string();
    tracing::debug!(%log, "the verifier has refused a program");
    let last: Vec<_> = log.lines().rev().filter(|line| !line.starts_with("processed ")).take(3).collect();
    let hint = if privileges::has_perfmon() { "" } else { "; before Linux 6.16 the verifier may want CAP_PERFMON too" };
    format!("{io_error}: {}{hint}", last.into_iter().rev().collect::<Vec<_>>().join(" | "))
}

fn attach_refusal(path: &Path, error: &ProgramError) -> String {
    let is_denied = error
        .source()
        .and_then(|error| error.source())
        .or(error.source())
        .is_some_and(|error| error.to_string().contains("not permitted"));
    let hint = if is_denied { culprit(path) } else { String::new() };
    format!("{}: {}{hint}", path.display(), chain(error))
}

/// Who has attached a program at `path`, or above, in a mode that lets nobody in beside it.
fn culprit(path: &Path) -> String {
    /// `BPF_CGROUP_INET4_CONNECT`, `INET6_CONNECT`, `SOCK_OPS`, `INET4_GETPEERNAME`, `INET6_GETPEERNAME`.
    const TYPES: [u32; 5] = [10, 11, 3, 29, 30];
    for folder in path.ancestors() {
        let Ok(opened) = File::open(folder) else { continue };
        let ids = TYPES.into_iter().filter_map(|kind| mirador_ebpf_link::exclusive(&opened, kind).ok()).flatten();
        let mut ids: Vec<u32> = ids.collect();
        ids.dedup();
        if !ids.is_empty() {
            let folder = folder.display();
            return format!("; program {ids:?} is attached to {folder} in a mode that lets nobody in beside it");
        }
    }
    "; another program may be attached there, or above, in a mode that lets nobody in beside it".to_owned()
}
