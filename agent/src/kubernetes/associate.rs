//! Which pod a resource belongs to. The rules are in [`crate::kubernetes`].

use std::net::IpAddr;

use mirador_otlp::enrich::Addition;
use mirador_otlp::resource::Resource;
use mirador_otlp::value::Value;

use super::Caller;
use super::pod::Pod;
use super::table::Table;

/// How a resource was associated; the label of the count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// By the pod that steering told.
    Steering,
    /// By the connection's address.
    Connection,
    /// By the pod that the resource names.
    Resource,
    /// It names a pod that is not known here.
    Foreign,
    /// The pod asks to be left alone.
    Ignored,
    /// Nothing led to a pod.
    Unknown,
}

impl Outcome {
    pub(super) const ALL: [(Self, &'static str); 6] = [
        (Self::Steering, "steering"),
        (Self::Connection, "connection"),
        (Self::Resource, "resource"),
        (Self::Foreign, "foreign"),
        (Self::Ignored, "ignored"),
        (Self::Unknown, "unknown"),
    ];
}

/// The pod that the connection belongs to.
pub(super) fn by_caller<'t>(table: &'t Table, caller: &Caller) -> Option<&'t Pod> {
    match &caller.pod_uid {
        Some(uid) => table.by_uid.get(uid).map(AsRef::as_ref),
        None => table.by_ip.get(&caller.ip.to_canonical()).map(AsRef::as_ref),
    }
}

/// What a resource says about where it comes from.
#[derive(Default)]
struct Claims<'a> {
    uid: Option<&'a str>,
    ip: Option<&'a str>,
    name: Option<&'a str>,
    container: Option<&'a str>,
    container_id: Option<&'a str>,
    namespace: Option<&'a str>,
    node: Option<&'a str>,
}

impl<'a> Claims<'a> {
    fn of(resource: &Resource<'a>) -> Self {
        let mut claims = Self::default();
        for entry in resource.attributes().entries() {
            let claim = match entry.key {
                b"k8s.pod.uid" => &mut claims.uid,
                b"k8s.pod.ip" => &mut claims.ip,
                b"k8s.pod.name" => &mut claims.name,
                b"k8s.container.name" => &mut claims.container,
                b"container.id" => &mut claims.container_id,
                b"k8s.namespace.name" => &mut claims.namespace,
                b"k8s.node.name" => &mut claims.node,
                _ => continue,
            };
            if let Value::Str(text) = entry.value() {
                *claim = claim.or(Some(text).filter(|text| !text.is_empty()));
            }
        }
        claims
    }
}

/// Where a resource comes from.
#[derive(Debug)]
pub(super) struct Origin<'t, 'r> {
    pub(super) pod: Option<&'t Pod>,
    /// What is added because of its container.
    pub(super) container: &'t [Addition],
    /// The namespace and the node that it names itself.
    pub(super) namespace: Option<&'r str>,
    pub(super) node: Option<&'r str>,
    pub(super) outcome: Outcome,
}

impl Origin<'_, '_> {
    /// The namespace's name: what the resource says counts, because that is what it leaves with.
    pub(super) fn namespace(&self) -> Option<&str> {
        self.namespace.or(self.pod.map(|pod| &*pod.namespace))
    }

    /// The node's name, likewise.
    pub(super) fn node(&self) -> Option<&str> {
        self.node.or(self.pod.map(|pod| &*pod.node))
    }
}

/// The pod of a resource, and what leads on from there.
pub(super) fn of_resource<'t, 'r>(
    table: &'t Table,
    caller: &Caller,
    by_caller: Option<&'t Pod>,
    resource: &Resource<'r>,
) -> Origin<'t, 'r> {
    let claims = Claims::of(resource);
    let direct = if caller.pod_uid.is_some() { Outcome::Steering } else { Outcome::Connection };
    let (pod, outcome) = if let Some(uid) = claims.uid {
        let is_caller = by_caller.filter(|pod| *pod.uid == *uid || pod.static_uid.as_deref() == Some(uid));
        match is_caller {
            Some(pod) => (Some(pod), direct),
            None => named(table.by_uid.get(uid).map(AsRef::as_ref)),
        }
    } else if let Some(ip) = claims.ip.and_then(|ip| ip.parse::<IpAddr>().ok()) {
        match by_caller.filter(|pod| pod.ips.contains(&ip)) {
            Some(pod) => (Some(pod), direct),
            None => named(table.by_ip.get(&ip).map(AsRef::as_ref)),
        }
    } else {
        match by_caller {
            Some(pod) => (Some(pod), direct),
            None => (None, Outcome::Unknown),
        }
    };
    let (pod, outcome) = match pod {
        // The name says most plainly that it is someone else's.
        Some(pod) if claims.name.is_some_and(|name| *name != *pod.name) => (None, Outcome::Foreign),
        Some(pod) if pod.ignored => (None, Outcome::Ignored),
        pod => (pod, outcome),
    };
    let asks = outcome != Outcome::Ignored;
    Origin {
        pod,
        container: pod.map_or(&[], |pod| container(pod, &claims)),
        namespace: claims.namespace.filter(|_| asks),
        node: claims.node.filter(|_| asks),
        outcome,
    }
}

fn named(pod: Option<&Pod>) -> (Option<&Pod>, Outcome) {
    (pod, if pod.is_some() { Outcome::Resource } else { Outcome::Foreign })
}

fn container<'t>(pod: &'t Pod, claims: &Claims<'_>) -> &'t [Addition] {
    let mut containers = pod.containers.iter();
    let found = match (claims.container, claims.container_id) {
        (Some(name), _) => containers.find(|container| *container.name == *name),
        (None, Some(id)) => containers.find(|container| *container.id == *id),
        (None, None) => containers.next().filter(|_| pod.only_one),
    };
    found.map_or(&[], |container| &container.attributes)
}
