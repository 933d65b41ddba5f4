//! The contract between the BPF programs and the agent: every record that both read, and nothing else.
//!
//! Invariants: every record is `repr(C)`, has no hidden padding and a size that is asserted here, so
//! that an agent and an object that disagree do not compile; [`SCHEMA`] changes whenever a record or
//! the meaning of a map changes, because pinned maps outlive the program that made them.
//!
//! Never: holds code that needs an allocator, an operating system or a kernel.
#![no_std]

/// The version of this contract; part of the path under which maps and links are pinned.
pub const SCHEMA: u32 = 1;

/// How many agents can take over from each other at one time: the old one and the new one.
pub const INSTANCES: u32 = 2;

/// How many kinds of listener an agent has (see [`Kind`]).
pub const KINDS: u32 = 2;

/// The index in the map of listeners.
pub const fn listener_index(instance: u32, kind: u32) -> u32 {
    instance * KINDS + kind
}

/// Which listener of the agent a port belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// OTLP/gRPC.
    Grpc = 0,
    /// OTLP/HTTP.
    Http = 1,
}

/// What became of one TCP connect to a steered port. Numbers are the places in [`Counters`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Outcome {
    /// Sent to the agent.
    Redirected = 0,
    /// No agent listens.
    NoListener = 1,
    /// An agent listens, and has not been heard of for too long.
    Stale = 2,
    /// The destination is not to be steered: by rule, or because it lies in the pod itself.
    Destination = 3,
    /// The pod is not to be steered.
    Pod = 4,
    /// The agent's own connection, or one that goes to the agent anyway.
    Own = 5,
    /// The agent has no address in the connection's family.
    NoAddress = 6,
    /// This pod speaks TLS to this destination, so the agent would not understand it.
    Tls = 7,
    /// The kernel refused to store the original destination.
    NoMemory = 8,
}

impl Outcome {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::Redirected,
        Self::NoListener,
        Self::Stale,
        Self::Destination,
        Self::Pod,
        Self::Own,
        Self::NoAddress,
        Self::Tls,
        Self::NoMemory,
    ];

    /// The value of the label `reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Redirected => "redirected",
            Self::NoListener => "no_listener",
            Self::Stale => "stale_heartbeat",
            Self::Destination => "destination",
            Self::Pod => "pod",
            Self::Own => "own",
            Self::NoAddress => "no_address",
            Self::Tls => "tls",
            Self::NoMemory => "no_memory",
        }
    }
}

/// Counts of one processor, for one pod or for all. Only grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    /// TCP connects to a steered port, counted before anything is decided.
    pub attempts: u64,
    /// By [`Outcome`].
    pub outcomes: [u64; 9],
    /// Connections whose identity did not reach the agent's socket: the kernel had no memory for it.
    pub lost_identities: u64,
    /// Pods without counters of their own, because the table is full.
    pub lost_pods: u64,
}

/// What holds for all instances; written by the agent, read by every hook.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Config {
    /// The cgroup that holds the pods: a pod's cgroup is below it, or below one of `classes`.
    pub root: u64,
    /// Cgroups of the classes of service between `root` and the pods; 0 is none.
    pub classes: [u64; 2],
    /// How old a heartbeat may be, in nanoseconds.
    pub max_age: u64,
    /// See the constants of this type.
    pub flags: u32,
    /// Keeps the record free of hidden padding.
    pub padding: u32,
}

impl Config {
    /// Destinations that no rule names are left alone (there is a list of those to be steered).
    pub const LISTED_DESTINATIONS: u32 = 1;
    /// There are rules on destinations.
    pub const DESTINATION_RULES: u32 = 2;
    /// Pods that no rule names are left alone (pods have to opt in).
    pub const LISTED_PODS: u32 = 4;
    /// There are rules on pods.
    pub const POD_RULES: u32 = 8;
}

/// A rule on a destination or a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Rule {
    /// Steer it.
    Steer = 1,
    /// Leave it alone.
    Leave = 2,
}

/// One running agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Instance {
    /// Of two living agents the greater one gets the connections; 0 is no agent.
    pub generation: u64,
    /// The cgroup that the agent runs in; its connects are never steered.
    pub cgroup: u64,
    /// The pod that the agent runs in, 0 when it runs in none; its connects are never steered.
    pub pod: u64,
    /// Where pods reach it over IPv6, in network order; zeros are nowhere.
    pub ipv6: [u32; 4],
    /// Where pods reach it over IPv4, in network order; 0 is nowhere.
    pub ipv4: u32,
    /// The agent's process id as the kernel counts it, 0 while unknown; its connects are never steered.
    pub process: u32,
    /// Ports of its listeners by [`Kind`], in host order.
    pub ports: [u16; 2],
    /// Keeps the record free of hidden padding.
    pub padding: u32,
}

/// How an agent finds out what the kernel calls it: it connects a socket whose cookie it has written
/// here, and the hook fills in the rest and lets the connection go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Introduction {
    /// The socket's cookie; 0 when nobody is being introduced.
    pub cookie: u64,
    /// The caller's cgroup.
    pub cgroup: u64,
    /// The caller's pod, 0 when it is in none.
    pub pod: u64,
    /// The caller's process id, 0 until the hook has seen it.
    pub process: u32,
    /// Keeps the record free of hidden padding.
    pub padding: u32,
}

/// An IP address in network order; IPv4 as `::ffff:a.b.c.d`.
pub type Address = [u32; 4];

/// The third word of an IPv4 address in an [`Address`].
pub const MAPPED: u32 = 0xffff_u32.to_be();

/// Who has opened a connection, and to where: kept with the client's socket and handed to the agent's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Origin {
    /// The cgroup of the process that connected.
    pub cgroup: u64,
    /// The pod's cgroup, 0 when the process is in no pod.
    pub pod: u64,
    /// The cookie of the network namespace.
    pub namespace: u64,
    /// When, in nanoseconds of the monotonic clock.
    pub connected: u64,
    /// Where the application wanted to go.
    pub address: Address,
    /// The port there, in host order.
    pub port: u16,
    /// One of the constants of this type.
    pub kind: u16,
    /// Keeps the record free of hidden padding.
    pub padding: u32,
}

impl Origin {
    /// The record means nothing: the socket has been connected again, to elsewhere.
    pub const VOID: u16 = 0;
    /// The connection was redirected.
    pub const REDIRECTED: u16 = 1;
    /// The application has dialled the agent itself.
    pub const DIRECT: u16 = 2;
}

/// The two ends of a connection, as the client sees them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tuple {
    /// The client.
    pub client: Address,
    /// The agent.
    pub server: Address,
    /// The client's port, in host order.
    pub client_port: u16,
    /// The agent's port, in host order.
    pub server_port: u16,
}

/// A destination of a pod that speaks TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// The pod's cgroup.
    pub pod: u64,
    /// Where it wanted to go.
    pub address: Address,
    /// The port there, in host order.
    pub port: u16,
    /// Keeps the record free of hidden padding. Two fields, because six bytes would be cleared in a loop
    /// that the kernel refuses from a loader without `CAP_PERFMON`.
    pub padding: u16,
    /// As `padding`.
    pub end: u32,
}

/// Something rare that the hooks report as it happens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// One of the constants of this type.
    pub kind: u32,
    /// The [`Outcome`] of the connect, where there is one.
    pub outcome: u32,
    /// The cgroup of the process.
    pub cgroup: u64,
    /// The pod's cgroup.
    pub pod: u64,
    /// Where the application wanted to go.
    pub address: Address,
    /// The port there, in host order. As wide as a word, because older kernels refuse a loader without
    /// `CAP_PERFMON` that writes a word of the stack in parts.
    pub port: u64,
}

impl Event {
    /// A pod's first connect to a steered port.
    pub const FIRST_CONNECT: u32 = 1;
    /// An identity did not reach the agent's socket.
    pub const LOST_IDENTITY: u32 = 2;
    /// A pod has no counters of its own.
    pub const LOST_POD: u32 = 3;
}

const _: () = {
    assert!(size_of::<Counters>() == 12 * 8);
    assert!(size_of::<Config>() == 40);
    assert!(size_of::<Instance>() == 56);
    assert!(size_of::<Introduction>() == 32);
    assert!(size_of::<Origin>() == 56);
    assert!(size_of::<Tuple>() == 36);
    assert!(size_of::<Flow>() == 32);
    assert!(size_of::<Event>() == 48);
};

#[cfg(feature = "user")]
mod user;
