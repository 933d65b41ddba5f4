//! The section `steering` of the agent's configuration.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::Cidr;

/// Ports, destinations and pods that can be listed at most, each.
const MAX_RULES: usize = 1000;
/// The map of ports has this many places.
const MAX_PORTS: usize = 64;

/// Redirection of the pods' OTLP connections to this agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SteeringConfig {
    /// Whether the BPF programs are attached when they can be. Default true. Where they cannot, the agent
    /// works without them and says why.
    pub enabled: bool,
    /// Destination ports whose connections are redirected.
    pub ports: PortsConfig,
    /// Where pods reach this agent: one IPv4 and one IPv6 address at most. On Kubernetes the node's
    /// address. Default: what the receiver listens on, or the address that this host would send from.
    pub addresses: Vec<IpAddr>,
    /// Which destinations are redirected.
    pub destinations: DestinationsConfig,
    /// Which pods are redirected.
    pub pods: PodsConfig,
    /// Who is calling, and what is made of it.
    pub identity: IdentityConfig,
    /// The tree of cgroups.
    pub cgroup: CgroupConfig,
    /// Connections go to their original destination when the agent has not shown itself alive for this
    /// long. Default 2s.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "mirador_service::duration::GoDuration")]
    pub heartbeat_max_age: Duration,
    /// Whether the agent gives up `CAP_BPF`, `CAP_NET_ADMIN` and what includes them once the programs are
    /// attached. Default true.
    pub drop_privileges: bool,
    /// Whether the BPF programs write a debug line for every connect to a steered port. Default false.
    pub debug: bool,
}

impl Default for SteeringConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            ports: PortsConfig::default(),
            addresses: Vec::new(),
            destinations: DestinationsConfig::default(),
            pods: PodsConfig::default(),
            identity: IdentityConfig::default(),
            cgroup: CgroupConfig::default(),
            heartbeat_max_age: Duration::from_secs(2),
            drop_privileges: true,
            debug: false,
        }
    }
}

/// Destination ports whose connections are redirected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PortsConfig {
    /// To the agent's port of OTLP/gRPC. Default 4317.
    pub grpc: Vec<u16>,
    /// To the agent's port of OTLP/HTTP. Default 4318.
    pub http: Vec<u16>,
}

impl Default for PortsConfig {
    fn default() -> Self {
        Self { grpc: vec![4317], http: vec![4318] }
    }
}

/// Which destinations are redirected. The longest prefix that holds decides. Loopback, link-local and
/// multicast addresses are never redirected.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DestinationsConfig {
    /// Networks (`10.96.0.0/12`, `fd00::/8`) or addresses, such as the ones of a Service. Empty: all that
    /// `leave` does not name. Default empty.
    pub steer: Vec<Cidr>,
    /// Networks or addresses that are left alone. Default empty.
    pub leave: Vec<Cidr>,
}

/// Which pods are redirected.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PodsConfig {
    /// Whether pods that no list names are redirected. Default `all`.
    pub mode: PodsMode,
    /// UIDs of pods that are redirected when `mode` is `listed`. Default empty.
    pub steer: Vec<String>,
    /// UIDs of pods that are left alone. Default empty.
    pub leave: Vec<String>,
}

/// Whether pods that no list names are redirected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PodsMode {
    /// They are.
    #[default]
    All,
    /// They are not.
    Listed,
}

/// Who is calling, and what is made of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IdentityConfig {
    /// Attributes that are added to resources which a pod sends and which lack them. A resource that has
    /// one of them with another value speaks of somebody else and gets none. Requests that another agent
    /// has forwarded get none. Default `k8s.pod.uid` and `container.id`; empty adds nothing.
    pub attributes: Vec<IdentityAttribute>,
    /// Whether connections are also counted by pod. Default true.
    pub pod_metrics: bool,
    /// Pods with counters of their own at most; the others count in the totals only. Default 512.
    pub max_pods: u32,
}

impl Default for IdentityConfig {
    fn default() -> Self {
        Self {
            attributes: vec![IdentityAttribute::PodUid, IdentityAttribute::ContainerId],
            pod_metrics: true,
            max_pods: 512,
        }
    }
}

/// What the kernel knows about a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IdentityAttribute {
    /// The pod.
    #[serde(rename = "k8s.pod.uid")]
    PodUid,
    /// The container.
    #[serde(rename = "container.id")]
    ContainerId,
}

/// The tree of cgroups.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CgroupConfig {
    /// Where the cgroup2 tree of the node is mounted. Default: found among the mounts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount: Option<PathBuf>,
    /// The cgroup that holds all pods, below the mount. Default: the first of `kubepods.slice`,
    /// `kubepods`, `kubelet.slice/kubelet-kubepods.slice`, `kubelet/kubepods` that is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<PathBuf>,
}

impl SteeringConfig {
    /// Everything that cannot work; each line names the key, the value and what would be right.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        let ports: Vec<u16> = self.ports.grpc.iter().chain(&self.ports.http).copied().collect();
        if ports.is_empty() || ports.len() > MAX_PORTS || ports.contains(&0) {
            found.push(format!("steering.ports: {ports:?}: name 1 to {MAX_PORTS} ports between 1 and 65535"));
        }
        if let Some(port) = self.ports.grpc.iter().find(|port| self.ports.http.contains(port)) {
            found.push(format!("steering.ports: {port} stands under grpc and under http: leave it in one of them"));
        }
        let v4 = self.addresses.iter().filter(|address| address.is_ipv4()).count();
        if v4 > 1 || self.addresses.len() - v4 > 1 || self.addresses.iter().any(IpAddr::is_unspecified) {
            let all = &self.addresses;
            found.push(format!("steering.addresses: {all:?}: at most one IPv4 and one IPv6 address, none unspecified"));
        }
        for (key, length) in [
            ("destinations", self.destinations.steer.len() + self.destinations.leave.len()),
            ("pods", self.pods.steer.len() + self.pods.leave.len()),
        ] {
            if length > MAX_RULES {
                found.push(format!("steering.{key}: {length} rules: at most {MAX_RULES}"));
            }
        }
        if let Some(both) = self.destinations.steer.iter().find(|cidr| self.destinations.leave.contains(cidr)) {
            found.push(format!("steering.destinations: {both} stands under steer and under leave"));
        }
        if self.heartbeat_max_age < Duration::from_millis(100) || self.heartbeat_max_age > Duration::from_secs(60) {
            found.push(format!("steering.heartbeat_max_age: {:?}: between 100ms and 1m", self.heartbeat_max_age));
        }
        if !(1..=16_384).contains(&self.identity.max_pods) {
            found.push(format!("steering.identity.max_pods: {}: between 1 and 16384", self.identity.max_pods));
        }
        found
    }
}
