//! Watches of Kubernetes objects that outlive every failure of the API server.
//!
//! [`Watch`] lists, watches and lists again over kube's watcher and hands out nothing but what is true;
//! failures are counted by reason and waited out. Its callers keep what they know while it fails.
//!
//! # What is survived
//! - an API server that is away, restarts or hangs: connects and lists have a time limit, waits grow
//!   from 200 ms to 30 s with jitter;
//! - 410 Gone, as a status or as an ERROR event inside a 200: a new list;
//! - a restart with older resource versions, or any other ERROR event: a new list;
//! - an expired or replaced token: the credentials are read again (they are re-read every minute, and
//!   at once after a 401), the authority's certificates too;
//! - 429 and 503: no request before the time in `Retry-After`;
//! - a stream that ends, breaks inside an object or falls silent: watched again where it ended.
//!
//! # Rights that a service account needs
//! | who | apiGroups | resources | verbs | where |
//! |---|---|---|---|---|
//! | resolver `k8s` of an exporter | `discovery.k8s.io` | `endpointslices` | `list`, `watch` | Role in the namespace of the service |
//! | agent, `processors.k8sattributes` | `""` | `pods` | `list`, `watch` | `ClusterRole` (a field selector on the node is no border of rights) |
//! | the same with a rule `from: namespace` | `""` | `namespaces` | `list`, `watch` | `ClusterRole` |
//! | the same with a rule `from: node` | `""` | `nodes` | `list`, `watch` | `ClusterRole` |
//! | agent, `steering.destinations.services` | `""` | `services` by `resourceNames` | `list`, `watch` | Role in the namespace of each |
//! | agent, `steering.pods.{labels,annotations,namespaces}` | `""` | `pods`, of which only the metadata is asked for | `list`, `watch` | `ClusterRole` |
//!
//! Nothing else is asked for: no `get`, no replicasets, leases or secrets; of namespaces and nodes only
//! the metadata ([`Watch::metadata`]).
//!
//! Never: writes an object, reads a kubeconfig that it was not told to read, reports a list before it
//! is complete.

mod api;
mod metrics;
mod watch;

pub use self::api::{ApiConfig, AuthType};
pub use self::watch::{Event, Watch, WatchConfig};
