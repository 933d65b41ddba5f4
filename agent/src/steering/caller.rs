//! Who is at the other end of an accepted connection, and the attributes that follow from it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mirador_ebpf_shared::Origin;
use mirador_otlp::Request;
use mirador_otlp::enrich::{Addition, add_resource_attributes};
use mirador_otlp::resource::Resource;
use mirador_transport::Caller as Attached;

use super::config::IdentityAttribute;
use super::pods::{Identity, Pods};

/// How long a cgroup that was not found is not looked for again.
const MISS: Duration = Duration::from_secs(1);
/// Misses that are remembered.
const MAX_MISSES: usize = 1024;

/// What comes with every request of a connection whose caller is known.
#[derive(Debug)]
pub(super) struct Caller {
    pod_uid: Arc<str>,
    additions: Box<[Addition]>,
}

/// All pods, looked up anew when somebody unknown calls.
#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    pods: Pods,
    missed: HashMap<(u64, u64), Instant>,
}

impl Directory {
    pub(super) fn new(root: PathBuf) -> Self {
        let inner = Inner { pods: Pods::look(&root), missed: HashMap::new() };
        Self { root, inner: Mutex::new(inner) }
    }

    /// Looks at the tree again.
    pub(super) fn refresh(&self) {
        let pods = Pods::look(&self.root);
        self.with(|inner| inner.pods = pods);
    }

    /// Who has opened the connection; `None` is unknown.
    pub(super) fn identify(&self, origin: &Origin) -> Option<Identity> {
        if origin.pod == 0 {
            return None;
        }
        let key = (origin.cgroup, origin.pod);
        let stale = self.with(|inner| {
            let searched = inner.missed.get(&key).is_some_and(|at| at.elapsed() < MISS);
            !inner.pods.knows(origin.cgroup, origin.pod) && !searched
        });
        if stale {
            self.refresh();
        }
        self.with(|inner| {
            if !inner.pods.knows(origin.cgroup, origin.pod) && stale {
                if inner.missed.len() >= MAX_MISSES {
                    inner.missed.clear();
                }
                inner.missed.insert(key, Instant::now());
            }
            inner.pods.identity(origin.cgroup, origin.pod)
        })
    }

    /// Asks what is known of the pods.
    pub(super) fn pods<T>(&self, ask: impl FnOnce(&Pods) -> T) -> T {
        self.with(|inner| ask(&inner.pods))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        // Its parts are replaced as a whole, so a poisoned lock still holds a whole one.
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Caller {
    pub(super) fn new(identity: &Identity, attributes: &[IdentityAttribute]) -> Self {
        let addition = |attribute: &IdentityAttribute| match attribute {
            IdentityAttribute::PodUid => Some(Addition::string("k8s.pod.uid", &identity.pod_uid)),
            IdentityAttribute::ContainerId => {
                identity.container_id.as_ref().map(|id| Addition::string("container.id", id))
            }
        };
        let additions = attributes.iter().filter_map(addition).collect();
        Self { pod_uid: Arc::clone(&identity.pod_uid), additions }
    }

    /// What `resource` gets: nothing when it speaks of somebody else.
    fn additions(&self, resource: &Resource<'_>) -> &[Addition] {
        let attributes = resource.attributes();
        let differs = |addition: &Addition| {
            let own = attributes.get(addition.key());
            own.is_some_and(|value| value.as_str() != Some(addition.value()))
        };
        if self.additions.iter().any(differs) { &[] } else { &self.additions }
    }
}

/// Adds the caller's identity to what it sends.
#[derive(Debug, Clone)]
pub struct Enricher {
    enabled: bool,
}

impl Enricher {
    /// One that adds nothing.
    pub fn none() -> Self {
        Self { enabled: false }
    }

    pub(super) fn new() -> Self {
        Self { enabled: true }
    }

    /// `request` with the attributes that its resources lack, and the pod that has sent it.
    pub fn enrich(&self, request: Request, caller: Option<&Attached>) -> (Request, Option<Arc<str>>) {
        let caller = caller.filter(|_| self.enabled).and_then(|caller| caller.downcast_ref::<Caller>());
        let Some(caller) = caller else { return (request, None) };
        let pod = Some(Arc::clone(&caller.pod_uid));
        if caller.additions.is_empty() {
            return (request, pod);
        }
        (add_resource_attributes(&request, |resource| caller.additions(resource)), pod)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mirador_otlp::{Limits, Signal};

    use super::*;

    fn identity() -> Identity {
        Identity { pod_uid: "u-1".into(), container_id: Some("c-1".into()) }
    }

    /// A request with one resource of these attributes and one span.
    fn request(attributes: &[(&str, &str)]) -> Request {
        let mut resource = Vec::new();
        for (key, value) in attributes {
            let value = [&[0x0a, value.len() as u8], value.as_bytes()].concat();
            let pair = [&[0x0a, key.len() as u8], key.as_bytes(), &[0x12, value.len() as u8], &value].concat();
            resource.extend([&[0x0a, pair.len() as u8], &pair[..]].concat());
        }
        let scope = [0x12, 0x02, 0x12, 0x00];
        let entry = [&[0x0a, resource.len() as u8], &resource[..], &scope].concat();
        let body = [&[0x0a, entry.len() as u8], &entry[..]].concat();
        Request::parse(Signal::Traces, Bytes::from(body), &Limits::default()).unwrap()
    }

    fn enriched(attributes: &[(&str, &str)], of: &[IdentityAttribute]) -> Vec<(String, String)> {
        let caller: Attached = Arc::new(Caller::new(&identity(), of));
        let (request, pod) = Enricher::new().enrich(request(attributes), Some(&caller));
        assert_eq!(pod.as_deref(), Some("u-1"));
        let resources: Vec<_> = request.resource_spans().collect();
        let attributes = resources[0].resource().attributes();
        attributes
            .iter()
            .map(|pair| (pair.key.to_owned(), pair.value.as_str().unwrap_or_default().to_owned()))
            .collect()
    }

    const BOTH: [IdentityAttribute; 2] = [IdentityAttribute::PodUid, IdentityAttribute::ContainerId];

    #[test]
    fn what_a_resource_lacks_is_added_and_nothing_is_overwritten() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let (pod, container) = (pair("k8s.pod.uid", "u-1"), pair("container.id", "c-1"));
        assert_eq!(enriched(&[], &BOTH), [pod.clone(), container.clone()]);
        assert_eq!(enriched(&[("service.name", "a")], &BOTH[..1]), [pair("service.name", "a"), pod.clone()]);
        assert_eq!(enriched(&[("k8s.pod.uid", "u-1")], &BOTH), [pod, container]);
        assert_eq!(enriched(&[], &[]), []);
    }

    #[test]
    fn a_resource_that_speaks_of_another_pod_gets_nothing() {
        let other = [("k8s.pod.uid", "u-2")];
        assert_eq!(enriched(&other, &BOTH), [("k8s.pod.uid".to_owned(), "u-2".to_owned())]);
        let other = [("container.id", "c-2")];
        assert_eq!(enriched(&other, &BOTH), [("container.id".to_owned(), "c-2".to_owned())]);
    }
}
