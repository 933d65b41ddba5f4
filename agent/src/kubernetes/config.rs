//! The configuration of `processors.k8sattributes`, with the keys of the collector's processor where
//! the meaning is the same.
//!
//! Absent on purpose: `pod_association` (the order is fixed, see [`crate::kubernetes`]), and of other
//! kinds of objects everything but the labels and annotations of namespaces and nodes.

use std::time::Duration;

use mirador_service::duration::GoDuration;
use mirador_transport::kubernetes::ApiConfig;
use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Resource attributes from the pod that sent a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How the API server is reached.
    pub api: ApiConfig,
    /// Which pods are watched.
    pub filter: FilterConfig,
    /// What is added.
    pub extract: ExtractConfig,
    /// Whether a request of a pod that is not known yet waits for it. Default false: it passes without.
    pub wait_for_metadata: bool,
    /// How long it waits at most. An address that stays unknown is not waited for again for a minute.
    /// Default 3s; what waits takes room in the byte budget.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "GoDuration")]
    pub wait_for_metadata_timeout: Duration,
    /// How long a deleted pod is known by its UID; its address leads to it for 5s. Default 2m.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "GoDuration")]
    pub pod_delete_grace: Duration,
    /// Pods that are known at most, deleted ones included. Default 2000; a kubelet runs 110 by default.
    /// What is beyond is counted, and its telemetry passes without attributes.
    pub max_pods: usize,
    /// Bytes that the pods take at most; as many as an eighth of it each are for the labels of namespaces
    /// and of nodes. Default 67108864 (64 MiB); a pod takes some 1 to 2 KiB.
    pub max_bytes: usize,
    /// How long a connect to the API server or its answer to a list may take. Default 10s.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "GoDuration")]
    pub timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            api: ApiConfig::default(),
            filter: FilterConfig::default(),
            extract: ExtractConfig::default(),
            wait_for_metadata: false,
            wait_for_metadata_timeout: Duration::from_secs(3),
            pod_delete_grace: Duration::from_secs(120),
            max_pods: 2000,
            max_bytes: 64 << 20,
            timeout: Duration::from_secs(10),
        }
    }
}

/// Which pods are watched: those of one node, or all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FilterConfig {
    /// The node's name. Default: the value of the variable that `node_from_env_var` names. `""`: the pods
    /// of the whole cluster, for a gateway; raise `max_pods` to what runs there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The variable that holds the node's name. Default `K8S_NODE_NAME`.
    pub node_from_env_var: String,
}

impl Default for FilterConfig {
    fn default() -> Self {
        Self { node: None, node_from_env_var: "K8S_NODE_NAME".to_owned() }
    }
}

/// The pods that are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scope {
    /// Those of the node with this name.
    Node(String),
    /// All of the cluster.
    Cluster,
}

impl FilterConfig {
    /// What is watched, when that is known.
    pub(super) fn scope(&self) -> Option<Scope> {
        let node = match &self.node {
            Some(node) if node.is_empty() => return Some(Scope::Cluster),
            Some(node) => node.clone(),
            None => std::env::var(&self.node_from_env_var).ok().filter(|node| !node.is_empty())?,
        };
        Some(Scope::Node(node))
    }
}

/// What is added to a resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExtractConfig {
    /// Attributes by name. The default adds those of the collector but `k8s.pod.start_time`, and the
    /// names of the other workloads and of the container.
    pub metadata: Vec<Metadata>,
    /// Attributes from labels.
    pub labels: Vec<FieldRule>,
    /// Attributes from annotations.
    pub annotations: Vec<FieldRule>,
}

impl Default for ExtractConfig {
    fn default() -> Self {
        use Metadata as M;
        let metadata = vec![
            M::NamespaceName,
            M::PodName,
            M::PodUid,
            M::NodeName,
            M::DeploymentName,
            M::StatefulSetName,
            M::DaemonSetName,
            M::JobName,
            M::CronJobName,
            M::ContainerName,
            M::ContainerImageName,
            M::ContainerImageTag,
        ];
        Self { metadata, labels: Vec::new(), annotations: Vec::new() }
    }
}

/// An attribute that is made of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Metadata {
    /// The namespace.
    #[serde(rename = "k8s.namespace.name")]
    NamespaceName,
    /// The pod's name.
    #[serde(rename = "k8s.pod.name")]
    PodName,
    /// The pod's UID.
    #[serde(rename = "k8s.pod.uid")]
    PodUid,
    /// The pod's first address.
    #[serde(rename = "k8s.pod.ip")]
    PodIp,
    /// The pod's host name.
    #[serde(rename = "k8s.pod.hostname")]
    PodHostname,
    /// When the kubelet took the pod up.
    #[serde(rename = "k8s.pod.start_time")]
    PodStartTime,
    /// The node's name.
    #[serde(rename = "k8s.node.name")]
    NodeName,
    /// The deployment, from the name of the pod's replica set without its hash.
    #[serde(rename = "k8s.deployment.name")]
    DeploymentName,
    /// The replica set.
    #[serde(rename = "k8s.replicaset.name")]
    ReplicaSetName,
    /// Its UID.
    #[serde(rename = "k8s.replicaset.uid")]
    ReplicaSetUid,
    /// The stateful set.
    #[serde(rename = "k8s.statefulset.name")]
    StatefulSetName,
    /// Its UID.
    #[serde(rename = "k8s.statefulset.uid")]
    StatefulSetUid,
    /// The daemon set.
    #[serde(rename = "k8s.daemonset.name")]
    DaemonSetName,
    /// Its UID.
    #[serde(rename = "k8s.daemonset.uid")]
    DaemonSetUid,
    /// The job.
    #[serde(rename = "k8s.job.name")]
    JobName,
    /// Its UID.
    #[serde(rename = "k8s.job.uid")]
    JobUid,
    /// The cron job, from the name of the pod's job without its scheduled minute.
    #[serde(rename = "k8s.cronjob.name")]
    CronJobName,
    /// The container, when the resource says which or the pod has only one.
    #[serde(rename = "k8s.container.name")]
    ContainerName,
    /// Its id in the runtime.
    #[serde(rename = "container.id")]
    ContainerId,
    /// The image without its tag.
    #[serde(rename = "container.image.name")]
    ContainerImageName,
    /// The image's tag, `latest` when it has neither tag nor digest.
    #[serde(rename = "container.image.tag")]
    ContainerImageTag,
    /// Derived as OpenTelemetry's conventions for Kubernetes say: annotation, workload, pod.
    #[serde(rename = "service.name")]
    ServiceName,
    /// Annotation, else the namespace.
    #[serde(rename = "service.namespace")]
    ServiceNamespace,
    /// Annotation, label `app.kubernetes.io/version`, image tag.
    #[serde(rename = "service.version")]
    ServiceVersion,
    /// Annotation, else namespace, pod and container joined by dots.
    #[serde(rename = "service.instance.id")]
    ServiceInstanceId,
}

/// An attribute, or several, from labels or annotations.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FieldRule {
    /// The attribute's name. With `key_regex` it may refer to groups (`$1`). Default
    /// `k8s.<from>.labels.<key>` or `k8s.<from>.annotations.<key>`, as in `k8s.pod.labels.app`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tag_name: String,
    /// The label or annotation. Exactly one of `key` and `key_regex` is set.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// Every label or annotation whose whole name matches.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key_regex: String,
    /// Whose label or annotation it is. Default `pod`. `namespace` and `node` are watched, by metadata
    /// alone, only when a rule asks for them, and need the right to list and watch that kind.
    pub from: Source,
}

/// Whose label or annotation it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The pod's.
    #[default]
    Pod,
    /// That of the namespace which the resource names, or of the pod's.
    Namespace,
    /// That of the node which the resource names, or of the pod's.
    Node,
}

impl FieldRule {
    /// The expression of `key_regex`, which has to match whole names.
    pub(super) fn regex(&self) -> Result<Option<Regex>, regex::Error> {
        if self.key_regex.is_empty() {
            return Ok(None);
        }
        Regex::new(&format!("^(?:{})$", self.key_regex)).map(Some)
    }

    fn problem(&self) -> Option<String> {
        match self.regex() {
            Err(error) => Some(format!("key_regex: `{}` is no regular expression: {error}", self.key_regex)),
            Ok(_) if self.key.is_empty() == self.key_regex.is_empty() => {
                Some("set exactly one of key and key_regex".to_owned())
            }
            Ok(_) => None,
        }
    }
}

impl Config {
    /// Everything that cannot work; each line names the key below `processors.k8sattributes`.
    pub fn problems(&self) -> Vec<String> {
        let mut found = self.api.problems();
        match self.filter.scope() {
            None => found.push(format!(
                "filter: the node is not known: set filter.node (\"\" for the whole cluster), or the variable {} \
                 (fieldRef spec.nodeName)",
                self.filter.node_from_env_var
            )),
            Some(Scope::Node(node)) if node.contains([',', '=', '!']) => {
                found.push(format!("filter.node: `{node}` is not a node's name"));
            }
            Some(_) => {}
        }
        for (name, rules) in [("labels", &self.extract.labels), ("annotations", &self.extract.annotations)] {
            for (index, rule) in rules.iter().enumerate() {
                found.extend(rule.problem().map(|problem| format!("extract.{name}[{index}]: {problem}")));
            }
        }
        if self.max_pods == 0 {
            found.push("max_pods is 0: it must be at least 1".to_owned());
        }
        if self.max_bytes == 0 {
            found.push("max_bytes is 0: it must be at least 1".to_owned());
        }
        if self.timeout.is_zero() {
            found.push("timeout is 0s: it must be longer".to_owned());
        }
        if self.wait_for_metadata && self.wait_for_metadata_timeout.is_zero() {
            found.push("wait_for_metadata_timeout is 0s: it must be longer, or wait_for_metadata false".to_owned());
        }
        found
    }
}
