//! What a resource is: resources of one kind share a forest, because what is odd depends on what is usual for its like.
//!
//! The kind is read from the metrics that a resource sends: semantic conventions of OpenTelemetry (and common
//! exporters) begin a metric's name with what it is measured at. A resource that sends metrics of several kinds is
//! of the one that stands first in [`Kind::ALL`]: a service that also tells of its runtime is a service, an exporter
//! of a database that also tells of its own process is a database. Only where no metric tells, its identifying
//! attributes do; where these do not tell either, it is [`Kind::Other`].
//!
//! Never: grows; there are [`KINDS`] kinds.

use mirador_otlp::resource::Resource;

/// How many kinds there are.
pub(in crate::isolationforest) const KINDS: usize = 8;

/// What a resource is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::isolationforest) enum Kind {
    /// Answers calls: RED of spans, edges of the service graph, HTTP, RPC and function metrics.
    Service,
    /// A database server.
    Database,
    /// A message broker.
    Messaging,
    /// A pod.
    Pod,
    /// A container.
    Container,
    /// A host, virtual machine or node.
    Host,
    /// A process, or the runtime in it.
    Process,
    /// Anything else.
    Other,
}

/// Beginnings of metric names, with a dot between words, and what they are measured at. The first that fits decides.
const METRICS: [(&str, Kind); 47] = [
    ("traces.span.metrics.", Kind::Service),
    ("traces.service.graph.", Kind::Service),
    ("http.", Kind::Service),
    ("rpc.", Kind::Service),
    ("grpc.", Kind::Service),
    ("faas.", Kind::Service),
    ("gen.ai.", Kind::Service),
    ("aspnetcore.", Kind::Service),
    ("kestrel.", Kind::Service),
    ("signalr.", Kind::Service),
    // Measured by whoever calls the database or the broker.
    ("db.client.", Kind::Service),
    ("messaging.", Kind::Service),
    ("postgresql.", Kind::Database),
    ("pg.", Kind::Database),
    ("mysql.", Kind::Database),
    ("mariadb.", Kind::Database),
    ("redis.", Kind::Database),
    ("mongodb.", Kind::Database),
    ("cassandra.", Kind::Database),
    ("scylla.", Kind::Database),
    ("elasticsearch.", Kind::Database),
    ("opensearch.", Kind::Database),
    ("oracledb.", Kind::Database),
    ("sqlserver.", Kind::Database),
    ("clickhouse.", Kind::Database),
    ("memcached.", Kind::Database),
    ("couchdb.", Kind::Database),
    ("kafka.", Kind::Messaging),
    ("rabbitmq.", Kind::Messaging),
    ("activemq.", Kind::Messaging),
    ("pulsar.", Kind::Messaging),
    ("nats.", Kind::Messaging),
    ("k8s.pod.", Kind::Pod),
    ("kube.pod.", Kind::Pod),
    ("k8s.container.", Kind::Container),
    ("container.", Kind::Container),
    ("k8s.node.", Kind::Host),
    ("kube.node.", Kind::Host),
    ("system.", Kind::Host),
    ("node.", Kind::Host),
    ("hw.", Kind::Host),
    ("process.", Kind::Process),
    ("jvm.", Kind::Process),
    ("go.", Kind::Process),
    ("dotnet.", Kind::Process),
    ("nodejs.", Kind::Process),
    ("cpython.", Kind::Process),
];

/// Attributes that identify an entity, and what it is. The first that is there decides; the order is that of the kinds.
const ATTRIBUTES: [(&str, Kind); 14] = [
    ("db.system.name", Kind::Database),
    ("db.system", Kind::Database),
    ("messaging.system", Kind::Messaging),
    ("service.name", Kind::Service),
    ("faas.name", Kind::Service),
    ("k8s.pod.uid", Kind::Pod),
    ("k8s.pod.name", Kind::Pod),
    ("container.id", Kind::Container),
    ("container.name", Kind::Container),
    ("host.id", Kind::Host),
    ("host.name", Kind::Host),
    ("k8s.node.uid", Kind::Host),
    ("k8s.node.name", Kind::Host),
    ("process.pid", Kind::Process),
];

impl Kind {
    /// All of them; a resource is of the first that its metrics tell.
    pub(in crate::isolationforest) const ALL: [Self; KINDS] = [
        Self::Service,
        Self::Database,
        Self::Messaging,
        Self::Pod,
        Self::Container,
        Self::Host,
        Self::Process,
        Self::Other,
    ];

    /// What a metric is measured at, by its name; `None` when the name does not tell.
    pub(in crate::isolationforest) fn of_metric(metric: &str) -> Option<Self> {
        let name = metric.to_ascii_lowercase().replace('_', ".");
        METRICS.iter().find(|(begin, _)| name.starts_with(begin)).map(|(_, kind)| *kind)
    }

    /// What the identifying attributes tell. The name that SDKs give to a service without one tells nothing.
    pub(in crate::isolationforest) fn of_attributes(resource: &Resource<'_>) -> Self {
        let attributes = resource.attributes();
        let is_there = |key: &str| {
            let text = attributes.get(key).map(|value| value.to_text()).unwrap_or_default();
            let is_placeholder = key == "service.name" && text.starts_with("unknown_service");
            !text.is_empty() && !is_placeholder
        };
        ATTRIBUTES.iter().find(|(key, _)| is_there(key)).map_or(Self::Other, |(_, kind)| *kind)
    }

    /// The value of the label `kind`.
    pub(in crate::isolationforest) fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Database => "database",
            Self::Messaging => "messaging",
            Self::Pod => "pod",
            Self::Container => "container",
            Self::Host => "host",
            Self::Process => "process",
            Self::Other => "other",
        }
    }
}

/// What the metrics of a resource have told of its kind so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::isolationforest) struct Evidence {
    /// One bit per kind that a metric told of.
    pub(super) metrics: u8,
    /// What the attributes tell.
    pub(super) attributes: Kind,
}

impl Evidence {
    pub(super) fn new(attributes: Kind) -> Self {
        Self { metrics: 0, attributes }
    }

    /// A metric of the resource tells of this kind.
    pub(super) fn add(&mut self, kind: Option<Kind>) {
        if let Some(kind) = kind {
            self.metrics |= 1 << kind as u8;
        }
    }

    /// The kind, as far as it is known.
    pub(super) fn kind(self) -> Kind {
        let told = Kind::ALL.into_iter().find(|kind| self.metrics >> (*kind as u8) & 1 == 1);
        told.unwrap_or(self.attributes)
    }
}
