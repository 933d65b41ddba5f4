//! The section `steering` of the agent's configuration.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use mirador_transport::kubernetes::ApiConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::{Cidr, Match, Namespace, ServiceName};

/// Ports, destinations and pods that can be listed at most, each.
const MAX_RULES: usize = 1000;
/// Services that can be named at most; each is watched by itself.
const MAX_SERVICES: usize = 16;
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
    /// Where names of Services, namespaces, labels and annotations are looked up. Needed by rules that use
    /// them and by nothing else; `{}` is the pod's own service account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<Box<KubernetesConfig>>,
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
    /// Whether the BPF programs write a debug line for every connect to a steered port. Before Linux 6.16 that
    /// takes `CAP_PERFMON` too; without it nothing else changes, and the agent says so. Default false.
    pub debug: bool,
    /// A folder in the BPF file system, such as `/sys/fs/bpf/mirador`. The programs and their counters stay
    /// there when the agent ends, and the next agent takes them over; while none runs connections go to
    /// their original destination. Default: none, everything ends with the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin: Option<PathBuf>,
}

impl Default for SteeringConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            ports: PortsConfig::default(),
            addresses: Vec::new(),
            destinations: DestinationsConfig::default(),
            pods: PodsConfig::default(),
            kubernetes: None,
            identity: IdentityConfig::default(),
            cgroup: CgroupConfig::default(),
            heartbeat_max_age: Duration::from_secs(2),
            drop_privileges: true,
            debug: false,
            pin: None,
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
    /// Services, `namespace/name`, each of which stands for its cluster addresses while it has them. An
    /// address that `steer` or `leave` names is theirs to decide. Default empty.
    pub services: Listed<ServiceName>,
}

/// What rules name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Listed<T> {
    /// What is redirected.
    pub steer: Vec<T>,
    /// What is left alone. It counts more than `steer`.
    pub leave: Vec<T>,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self { steer: Vec::new(), leave: Vec::new() }
    }
}

impl<T> Listed<T> {
    fn len(&self) -> usize {
        self.steer.len() + self.leave.len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where names are looked up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KubernetesConfig {
    /// How the API server is reached.
    pub api: ApiConfig,
    /// The node whose pods rules are about. Default: the value of the variable `K8S_NODE_NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// How long a connect to the API server or its answer to a list may take. Default 10s.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "mirador_service::duration::GoDuration")]
    pub timeout: Duration,
}

impl Default for KubernetesConfig {
    fn default() -> Self {
        Self { api: ApiConfig::default(), node: None, timeout: Duration::from_secs(10) }
    }
}

impl KubernetesConfig {
    /// The node, when it is known.
    pub(super) fn node_name(&self) -> Option<String> {
        let node = self.node.clone().or_else(|| std::env::var("K8S_NODE_NAME").ok());
        node.filter(|node| !node.is_empty() && !node.contains([',', '=', '!']))
    }
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
    /// Pods by their labels, `key` or `key=value`. A pod's UID counts more, its namespace less. Default empty.
    pub labels: Listed<Match>,
    /// Pods by their annotations, which count as much as labels. Default empty.
    pub annotations: Listed<Match>,
    /// Pods by their namespaces. Default empty.
    pub namespaces: Listed<Namespace>,
}

impl DestinationsConfig {
    /// Whether what no rule names is left alone.
    pub(super) fn is_listed(&self) -> bool {
        !self.steer.is_empty() || !self.services.steer.is_empty()
    }

    /// Whether there are rules.
    pub(super) fn has_rules(&self) -> bool {
        self.is_listed() || !self.leave.is_empty() || !self.services.leave.is_empty()
    }
}

impl PodsConfig {
    /// Whether pods are named by what the API server knows of them.
    pub(super) fn has_names(&self) -> bool {
        !self.labels.is_empty() || !self.annotations.is_empty() || !self.namespaces.is_empty()
    }

    /// Whether some pods are not redirected.
    pub(super) fn has_rules(&self) -> bool {
        self.mode == PodsMode::Listed || !self.leave.is_empty() || self.has_names()
    }
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
    /// Whether the kernel hands over who is calling. Default true. Without it nothing is added and a
    /// connect is cheaper by what docs/benchmarks.md says; TLS cannot be passed on to where it wanted to go.
    pub enabled: bool,
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
            enabled: true,
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
            ("pods.labels", self.pods.labels.len()),
            ("pods.annotations", self.pods.annotations.len()),
            ("pods.namespaces", self.pods.namespaces.len()),
        ] {
            if length > MAX_RULES {
                found.push(format!("steering.{key}: {length} rules: at most {MAX_RULES}"));
            }
        }
        found.extend(self.problems_of_names());
        if let Some(both) = self.destinations.steer.iter().find(|cidr| self.destinations.leave.contains(cidr)) {
            found.push(format!("steering.destinations: {both} stands under steer and under leave"));
        }
        if self.heartbeat_max_age < Duration::from_millis(100) || self.heartbeat_max_age > Duration::from_secs(60) {
            found.push(format!("steering.heartbeat_max_age: {:?}: between 100ms and 1m", self.heartbeat_max_age));
        }
        if let Some(pin) = self.pin.as_ref().filter(|pin| !pin.is_absolute()) {
            found.push(format!("steering.pin: {}: an absolute path below a BPF file system", pin.display()));
        }
        if !(1..=16_384).contains(&self.identity.max_pods) {
            found.push(format!("steering.identity.max_pods: {}: between 1 and 16384", self.identity.max_pods));
        }
        found
    }

    fn problems_of_names(&self) -> Vec<String> {
        let mut found = Vec::new();
        let services = &self.destinations.services;
        if services.len() > MAX_SERVICES {
            let length = services.len();
            found.push(format!("steering.destinations.services: {length} Services: at most {MAX_SERVICES}"));
        }
        if let Some(both) = services.steer.iter().find(|service| services.leave.contains(service)) {
            found.push(format!("steering.destinations.services: {both} stands under steer and under leave"));
        }
        let named: Vec<&str> = [
            ("destinations.services", !services.is_empty()),
            ("pods.labels", !self.pods.labels.is_empty()),
            ("pods.annotations", !self.pods.annotations.is_empty()),
            ("pods.namespaces", !self.pods.namespaces.is_empty()),
        ]
        .into_iter()
        .filter_map(|(key, is_set)| is_set.then_some(key))
        .collect();
        match (&self.kubernetes, named.as_slice()) {
            (None, []) => {}
            (None, _) => found.push(format!(
                "steering.{}: names are looked up at the Kubernetes API server, and steering.kubernetes does not say how \
                 to reach it: set it ({{}} in a pod with a service account), or write addresses and UIDs instead",
                named.join(", steering.")
            )),
            (Some(kubernetes), _) => {
                found.extend(kubernetes.api.problems().into_iter().map(|line| format!("steering.kubernetes.{line}")));
                if self.pods.has_names() && kubernetes.node_name().is_none() {
                    found.push(
                        "steering.kubernetes.node: the node is not known: set it, or the variable K8S_NODE_NAME \
                         (fieldRef spec.nodeName)"
                            .to_owned(),
                    );
                }
                if kubernetes.timeout.is_zero() {
                    found.push("steering.kubernetes.timeout: 0s: it must be longer".to_owned());
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn problems(over: Value) -> String {
        serde_json::from_value::<SteeringConfig>(over).expect("the keys are known").problems().join("\n")
    }

    #[test]
    fn names_without_kubernetes_are_refused_and_with_it_they_are_sound() {
        let named = json!({"destinations": {"services": {"steer": ["monitoring/collector"]}},
            "pods": {"namespaces": {"leave": ["kube-system"]}, "labels": {"leave": ["mirador.io/steer=false"]}}});
        let found = problems(named.clone());
        for key in ["steering.destinations.services", "steering.pods.labels", "steering.pods.namespaces"] {
            assert!(found.contains(key) && found.contains("steering.kubernetes"), "{found}");
        }
        let mut sound = named;
        sound["kubernetes"] = json!({"node": "node-1"});
        assert_eq!(problems(sound), "");
        assert_eq!(problems(json!({"kubernetes": {}})), "");
    }

    #[test]
    fn what_names_nothing_is_not_read() {
        for wrong in [
            json!({"destinations": {"services": {"steer": ["collector"]}}}),
            json!({"pods": {"namespaces": {"leave": ["kube system"]}}}),
            json!({"pods": {"labels": {"leave": ["=x"]}}}),
            json!({"pods": {"label": {}}}),
        ] {
            assert!(serde_json::from_value::<SteeringConfig>(wrong.clone()).is_err(), "{wrong}");
        }
        let both = json!({"kubernetes": {}, "destinations": {"services": {"steer": ["a/b"], "leave": ["a/b"]}}});
        assert!(problems(both).contains("a/b stands under steer and under leave"));
    }
}
