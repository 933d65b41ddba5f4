//! What one pod adds to its telemetry, encoded once when the pod is read.
//!
//! Never: reads another object. Names of workloads come from the pod's own controller:
//! - a deployment's replica set is named `<deployment>-<pod-template-hash>`, and the pod carries the
//!   hash as a label; a replica set that stands alone has no such label;
//! - a cron job's job is named `<cron job>-<minutes since 1970>`, of which there are eight digits.
//!
//! Bounded: by [`Fields`](super::rules::Fields), and by what the API server lets an object be.

use std::net::IpAddr;
use std::sync::Arc;

use mirador_otlp::enrich::Addition;

use super::config::Metadata as M;
use super::metrics::Metrics;
use super::object::{self, PodObject};
use super::rules::Extract;

/// The annotation with which a pod is left alone, as in the collector.
const IGNORE: &str = "opentelemetry.io/k8s-processor/ignore";

/// The UID under which the kubelet runs a static pod; its object has another.
const STATIC_UID: &str = "kubernetes.io/config.hash";

/// A pod.
#[derive(Debug, PartialEq)]
pub(super) struct Pod {
    pub(super) uid: Arc<str>,
    /// The UID in its cgroups when it is not `uid`.
    pub(super) static_uid: Option<Arc<str>>,
    pub(super) name: Box<str>,
    pub(super) namespace: Box<str>,
    /// Empty before it is bound to one.
    pub(super) node: Box<str>,
    /// The addresses that are its own; none on the host's network, and none when it has ended.
    pub(super) ips: Vec<IpAddr>,
    /// When it started, in RFC 3339 and UTC, which sorts as text.
    pub(super) started: Box<str>,
    pub(super) ignored: bool,
    pub(super) attributes: Box<[Addition]>,
    pub(super) containers: Box<[Container]>,
    /// Whether a resource that does not say which container it comes from can only come from the first.
    pub(super) only_one: bool,
}

/// What is added when the container is known.
#[derive(Debug, PartialEq)]
pub(super) struct Container {
    pub(super) name: Box<str>,
    /// Without the runtime's scheme; empty before it runs.
    pub(super) id: Box<str>,
    pub(super) attributes: Box<[Addition]>,
}

impl Pod {
    pub(super) fn of(object: &PodObject, extract: &Extract, metrics: &Metrics) -> Self {
        let spec = &object.spec;
        let status = &object.status;
        let restarts = |container: &&object::Container| container.restart_policy.as_deref() == Some("Always");
        let sidecars = spec.init_containers.iter().flatten().filter(restarts);
        let all: Vec<&object::Container> = spec.containers.iter().flatten().chain(sidecars).collect();
        let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let has_ips = !ended && spec.host_network != Some(true);
        Self {
            uid: object.uid().into(),
            static_uid: object.annotation(STATIC_UID).map(Arc::from),
            name: object.name().into(),
            namespace: object.namespace().into(),
            node: spec.node_name.as_deref().unwrap_or_default().into(),
            ips: if has_ips { ips(object) } else { Vec::new() },
            started: status.start_time.as_deref().unwrap_or_default().into(),
            ignored: object.annotation(IGNORE) == Some("true"),
            attributes: attributes(object, extract, metrics),
            only_one: all.len() == 1,
            containers: all.into_iter().map(|of| container(object, of, extract)).collect(),
        }
    }

    /// Bytes that it takes, without the allocator's overhead.
    pub(super) fn bytes(&self) -> usize {
        let additions =
            |list: &[Addition]| list.iter().map(|one| size_of::<Addition>() + one.heap_bytes()).sum::<usize>();
        let containers: usize = self
            .containers
            .iter()
            .map(|of| size_of::<Container>() + of.name.len() + of.id.len() + additions(&of.attributes))
            .sum();
        let names = self.name.len() + self.namespace.len() + self.node.len();
        let texts = self.uid.len() + self.static_uid.as_ref().map_or(0, |uid| uid.len()) + names;
        size_of::<Self>()
            + texts
            + self.started.len()
            + self.ips.len() * size_of::<IpAddr>()
            + additions(&self.attributes)
            + containers
    }
}

fn ips(object: &PodObject) -> Vec<IpAddr> {
    let status = &object.status;
    let listed = status.pod_ips.iter().flatten().map(|of| of.ip.as_str());
    let mut ips: Vec<IpAddr> = listed.chain(status.pod_ip.as_deref()).filter_map(|ip| ip.parse().ok()).collect();
    ips.sort_unstable();
    ips.dedup();
    ips
}

/// Collects attributes that are asked for and have a value.
struct Collect<'a> {
    extract: &'a Extract,
    found: Vec<Addition>,
}

impl Collect<'_> {
    fn add(&mut self, metadata: M, key: &str, value: Option<&str>) {
        if let Some(value) = value.filter(|value| !value.is_empty() && self.extract.has(metadata)) {
            self.found.push(Addition::string(key, value));
        }
    }
}

fn attributes(object: &PodObject, extract: &Extract, metrics: &Metrics) -> Box<[Addition]> {
    let mut collect = Collect { extract, found: Vec::new() };
    let status = &object.status;
    collect.add(M::NamespaceName, "k8s.namespace.name", Some(object.namespace()));
    collect.add(M::PodName, "k8s.pod.name", Some(object.name()));
    collect.add(M::PodUid, "k8s.pod.uid", Some(object.uid()));
    collect.add(M::PodIp, "k8s.pod.ip", status.pod_ip.as_deref());
    let hostname = object.spec.hostname.as_deref().filter(|name| !name.is_empty()).unwrap_or(object.name());
    collect.add(M::PodHostname, "k8s.pod.hostname", Some(hostname));
    collect.add(M::PodStartTime, "k8s.pod.start_time", status.start_time.as_deref());
    collect.add(M::NodeName, "k8s.node.name", object.spec.node_name.as_deref());
    let workload = workload(object, &mut collect);
    service(object, &workload, &mut collect);
    let mut found = collect.found;
    extract.pod.add(object.labels(), object.annotations(), &mut found, metrics);
    found.into_boxed_slice()
}

/// Adds the workload's attributes; returns the name of the topmost one.
fn workload(object: &PodObject, collect: &mut Collect<'_>) -> String {
    let Some(owner) = object.owner() else { return object.name().to_owned() };
    let (name, uid) = (Some(owner.name.as_str()), Some(owner.uid.as_str()));
    match owner.kind.as_str() {
        "ReplicaSet" => {
            collect.add(M::ReplicaSetName, "k8s.replicaset.name", name);
            collect.add(M::ReplicaSetUid, "k8s.replicaset.uid", uid);
            let deployment = object.label("pod-template-hash").and_then(|hash| deployment(&owner.name, hash));
            collect.add(M::DeploymentName, "k8s.deployment.name", deployment);
            deployment.unwrap_or(&owner.name).to_owned()
        }
        "StatefulSet" => {
            collect.add(M::StatefulSetName, "k8s.statefulset.name", name);
            collect.add(M::StatefulSetUid, "k8s.statefulset.uid", uid);
            owner.name
        }
        "DaemonSet" => {
            collect.add(M::DaemonSetName, "k8s.daemonset.name", name);
            collect.add(M::DaemonSetUid, "k8s.daemonset.uid", uid);
            owner.name
        }
        "Job" => {
            collect.add(M::JobName, "k8s.job.name", name);
            collect.add(M::JobUid, "k8s.job.uid", uid);
            let cronjob = cronjob(&owner.name);
            collect.add(M::CronJobName, "k8s.cronjob.name", cronjob);
            cronjob.unwrap_or(&owner.name).to_owned()
        }
        // A static pod is owned by its node, a custom controller has no attribute of its own.
        _ => object.name().to_owned(),
    }
}

fn deployment<'a>(replica_set: &'a str, hash: &str) -> Option<&'a str> {
    replica_set.strip_suffix(hash)?.strip_suffix('-').filter(|name| !name.is_empty())
}

fn cronjob(job: &str) -> Option<&str> {
    let (name, minutes) = job.rsplit_once('-')?;
    let is_minutes = minutes.len() == 8 && minutes.bytes().all(|byte| byte.is_ascii_digit());
    (is_minutes && !name.is_empty()).then_some(name)
}

/// <https://opentelemetry.io/docs/specs/semconv/non-normative/k8s-attributes/>
fn service(object: &PodObject, workload: &str, collect: &mut Collect<'_>) {
    let told = |name: &str| object.annotation(&format!("resource.opentelemetry.io/{name}"));
    collect.add(M::ServiceName, "service.name", told("service.name").or(Some(workload)));
    collect.add(M::ServiceNamespace, "service.namespace", told("service.namespace").or(Some(object.namespace())));
    let version = told("service.version").or(object.label("app.kubernetes.io/version"));
    collect.add(M::ServiceVersion, "service.version", version);
    collect.add(M::ServiceInstanceId, "service.instance.id", told("service.instance.id"));
}

fn container(object: &PodObject, of: &object::Container, extract: &Extract) -> Container {
    let statuses = object.status.container_statuses.iter().flatten();
    let id =
        statuses.into_iter().find(|status| status.name == of.name).and_then(|status| status.container_id.as_deref());
    let id = id.map_or("", |id| id.rsplit_once("://").map_or(id, |(_, id)| id));
    let mut collect = Collect { extract, found: Vec::new() };
    collect.add(M::ContainerName, "k8s.container.name", Some(&of.name));
    collect.add(M::ContainerId, "container.id", Some(id));
    let image = of.image.as_deref().filter(|image| !image.is_empty()).map(image);
    collect.add(M::ContainerImageName, "container.image.name", image.map(|(name, _)| name));
    let tag = image.and_then(|(_, tag)| tag);
    collect.add(M::ContainerImageTag, "container.image.tag", tag);
    // Behind what the pod says of the same name, which is added first and therefore counts.
    collect.add(M::ServiceVersion, "service.version", tag);
    let instance = format!("{}.{}.{}", object.namespace(), object.name(), of.name);
    collect.add(M::ServiceInstanceId, "service.instance.id", Some(&instance));
    Container { name: of.name.as_str().into(), id: id.into(), attributes: collect.found.into_boxed_slice() }
}

/// The image's name and its tag: `latest` when it has neither tag nor digest.
fn image(reference: &str) -> (&str, Option<&str>) {
    let (rest, has_digest) = reference.split_once('@').map_or((reference, false), |(rest, _)| (rest, true));
    match rest.rsplit_once(':') {
        // A colon before a slash belongs to the registry's port.
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, (!has_digest).then_some("latest")),
    }
}

#[cfg(test)]
mod tests;
