//! The receiver's counters. Every request ends in exactly one `outcome`; every refused or lost one also
//! counts under exactly one `reason`; every connection that was let in ends under one `reason`.
//!
//! Items are known only to who parses the body: a [`crate::Consume`] reports them to [`ReceiverMetrics`].

use std::sync::Arc;

use mirador_otlp::Signal;
use mirador_service::metrics::Registry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::Kind;

/// The two protocols as they appear in labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Grpc,
    Http,
}

impl Transport {
    const ALL: [Self; 2] = [Self::Grpc, Self::Http];

    /// `grpc` or `http`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
        }
    }
}

/// The kind of a request whose path names none.
const NO_KIND: &str = "unknown";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    kind: &'static str,
    transport: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    kind: &'static str,
    transport: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
    transport: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TransportLabels {
    transport: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabels {
    listener: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerReasonLabels {
    listener: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ThreadLabels {
    thread: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ItemLabels {
    receiver: &'static str,
    transport: &'static str,
}

/// The counters of one kind on one protocol, looked up once.
#[derive(Debug)]
struct Cell {
    ok: Counter,
    partial: Counter,
    refused: Counter,
    cancelled: Counter,
    wire_bytes: Counter,
    body_bytes: Counter,
}

/// Items per signal and protocol as the collector counts them, for its dashboards and alerts.
///
/// A request's items are counted once, when its outcome is known, by who knows how many there are.
#[derive(Debug, Clone)]
pub struct ReceiverMetrics {
    accepted: [[Counter; 2]; 3],
    refused: [[Counter; 2]; 3],
}

impl ReceiverMetrics {
    fn register(registry: &Registry) -> Self {
        let family = |outcome: &str| {
            Signal::ALL.map(|signal| {
                let items = signal.item_name();
                let name = format!("otelcol_receiver_{outcome}_{items}");
                let help = format!("{items} of OTLP requests that were {outcome}, as the collector names it");
                let family: Family<ItemLabels, Counter> = registry.counter_family(&name, &help);
                Transport::ALL.map(|transport| {
                    let labels = ItemLabels { receiver: "otlp", transport: transport.as_str() };
                    family.get_or_create_owned(&labels)
                })
            })
        };
        Self { accepted: family("accepted"), refused: family("refused") }
    }

    /// Counts items that were taken. `transport` is [`crate::Incoming::transport`].
    pub fn accepted(&self, signal: Signal, transport: &str, items: u64) {
        self.accepted[signal_index(signal)][transport_index(transport)].inc_by(items);
    }

    /// Counts items that were not taken, wholly or as a partial success.
    pub fn refused(&self, signal: Signal, transport: &str, items: u64) {
        self.refused[signal_index(signal)][transport_index(transport)].inc_by(items);
    }
}

fn signal_index(signal: Signal) -> usize {
    match signal {
        Signal::Traces => 0,
        Signal::Metrics => 1,
        Signal::Logs => 2,
    }
}

fn transport_index(transport: &str) -> usize {
    usize::from(transport != Transport::Grpc.as_str())
}

/// The receiver's own counters.
#[derive(Debug)]
pub(super) struct Meters {
    cells: [[Cell; 2]; 5],
    reasons: Family<ReasonLabels, Counter>,
    warnings: Family<ReasonLabels, Counter>,
    in_flight: [Gauge; 2],
    connections: Family<ListenerLabels, Gauge>,
    opened: Family<ListenerLabels, Counter>,
    turned_away: Family<ListenerReasonLabels, Counter>,
    closed: Family<ListenerReasonLabels, Counter>,
    held: Family<ThreadLabels, Gauge>,
    moved: Counter,
}

impl Meters {
    /// Registers everything under `mirador_receiver_*` and `otelcol_receiver_*`.
    pub(super) fn register(registry: &Registry) -> (Arc<Self>, ReceiverMetrics) {
        let requests: Family<RequestLabels, Counter> = registry.counter_family(
            "mirador_receiver_requests",
            "Requests by outcome: ok, partial (some items left out), refused, cancelled (the client went away)",
        );
        let wire: Family<KindLabels, Counter> =
            registry.counter_family("mirador_receiver_wire_bytes", "Bytes of request bodies as they arrived");
        let body: Family<KindLabels, Counter> =
            registry.counter_family("mirador_receiver_body_bytes", "Bytes of request bodies as protobuf, decompressed");
        let in_flight: Family<TransportLabels, Gauge> =
            registry.gauge_family("mirador_receiver_in_flight", "Requests that are being received or settled");
        let cell = |kind: &'static str, transport: &'static str| {
            let outcome = |outcome| requests.get_or_create_owned(&RequestLabels { kind, transport, outcome });
            Cell {
                ok: outcome("ok"),
                partial: outcome("partial"),
                refused: outcome("refused"),
                cancelled: outcome("cancelled"),
                wire_bytes: wire.get_or_create_owned(&KindLabels { kind, transport }),
                body_bytes: body.get_or_create_owned(&KindLabels { kind, transport }),
            }
        };
        let [traces, metrics, logs, red] = Kind::ALL.map(Kind::as_str);
        let cells = [traces, metrics, logs, red, NO_KIND]
            .map(|kind| Transport::ALL.map(|transport| cell(kind, transport.as_str())));
        let meters = Self {
            cells,
            reasons: registry.counter_family(
                "mirador_receiver_refused",
                "Requests that were not taken, by reason; each is counted under one",
            ),
            warnings: registry.counter_family(
                "mirador_receiver_warnings",
                "Requests that were taken and answered with a warning in the partial success, by reason; \
                 `json_snake_case`: a key of OTLP/JSON in snake case was ignored, as the specification asks",
            ),
            in_flight: Transport::ALL
                .map(|transport| in_flight.get_or_create_owned(&TransportLabels { transport: transport.as_str() })),
            connections: registry.gauge_family("mirador_receiver_connections", "Open connections by listener"),
            opened: registry.counter_family("mirador_receiver_connections_opened", "Connections that were let in"),
            turned_away: registry.counter_family(
                "mirador_receiver_connections_refused",
                "Connections that were closed at once, and failures to accept, by reason",
            ),
            closed: registry.counter_family(
                "mirador_receiver_connections_closed",
                "Connections that ended, by reason; `client` is the usual one",
            ),
            held: registry.gauge_family(
                "mirador_receiver_thread_connections",
                "Open connections by the thread that serves them (`receiver.spread.threads`), both ports together",
            ),
            moved: registry.counter(
                "mirador_receiver_connections_moved",
                "Connections that a thread has handed to one that held fewer (`receiver.spread.threads`)",
            ),
        };
        registry.declare_labels("mirador_receiver_thread_connections", &["thread"]);
        // Series of these appear with the first event; the documentation names their labels before.
        for name in ["mirador_receiver_refused", "mirador_receiver_warnings"] {
            registry.declare_labels(name, &["kind", "transport", "reason"]);
        }
        for name in ["mirador_receiver_connections", "mirador_receiver_connections_opened"] {
            registry.declare_labels(name, &["listener"]);
        }
        for name in ["mirador_receiver_connections_refused", "mirador_receiver_connections_closed"] {
            registry.declare_labels(name, &["listener", "reason"]);
        }
        (Arc::new(meters), ReceiverMetrics::register(registry))
    }

    fn cell(&self, kind: Option<Kind>, transport: Transport) -> &Cell {
        let row = match kind {
            Some(Kind::Otlp(signal)) => signal_index(signal),
            Some(Kind::Red) => 3,
            None => 4,
        };
        &self.cells[row][transport as usize]
    }

    /// A connection was let in; the returned guard counts its end.
    pub(super) fn connection(self: &Arc<Self>, listener: &'static str) -> ConnectionMeter {
        let labels = ListenerLabels { listener };
        self.opened.get_or_create(&labels).inc();
        self.connections.get_or_create(&labels).inc();
        ConnectionMeter { meters: Arc::clone(self), listener, reason: "client" }
    }

    /// A connection was closed at once, or could not be accepted.
    pub(super) fn turned_away(&self, listener: &'static str, reason: &'static str) {
        self.turned_away.get_or_create(&ListenerReasonLabels { listener, reason }).inc();
    }

    /// What thread `index` holds.
    pub(super) fn held(&self, index: usize) -> Gauge {
        self.held.get_or_create_owned(&ThreadLabels { thread: index.to_string() })
    }

    /// A connection went to another thread.
    pub(super) fn moved(&self) {
        self.moved.inc();
    }

    /// A request has begun; the returned guard counts how it ends.
    pub(super) fn request(self: &Arc<Self>, transport: Transport) -> RequestMeter {
        self.in_flight[transport as usize].inc();
        RequestMeter { meters: Arc::clone(self), transport, kind: None, settled: false }
    }
}

/// One connection; counted as ended when it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionMeter {
    meters: Arc<Meters>,
    listener: &'static str,
    /// The label of its end.
    pub(super) reason: &'static str,
}

impl Drop for ConnectionMeter {
    fn drop(&mut self) {
        let labels = ListenerLabels { listener: self.listener };
        self.meters.connections.get_or_create(&labels).dec();
        let labels = ListenerReasonLabels { listener: self.listener, reason: self.reason };
        self.meters.closed.get_or_create(&labels).inc();
    }
}

/// One request; counted as cancelled when it is dropped without an outcome.
#[derive(Debug)]
pub(super) struct RequestMeter {
    meters: Arc<Meters>,
    transport: Transport,
    /// What it carries, once its path is known.
    pub(super) kind: Option<Kind>,
    settled: bool,
}

impl RequestMeter {
    /// The protocol.
    pub(super) fn transport(&self) -> Transport {
        self.transport
    }

    /// Its body has arrived: bytes of protobuf.
    pub(super) fn body(&self, bytes: usize) {
        self.meters.cell(self.kind, self.transport).body_bytes.inc_by(bytes as u64);
    }

    /// Bytes of its body that were read, whatever became of it.
    pub(super) fn wire(&self, bytes: u64) {
        self.meters.cell(self.kind, self.transport).wire_bytes.inc_by(bytes);
    }

    /// It was taken, with or without items left out.
    pub(super) fn accepted(mut self, partial: bool) {
        let cell = self.meters.cell(self.kind, self.transport);
        if partial {
            cell.partial.inc()
        } else {
            cell.ok.inc()
        };
        self.settled = true;
    }

    /// It was taken, and the client is told something about it.
    pub(super) fn warned(&self, reason: &'static str) {
        self.meters.warnings.get_or_create(&self.labels(reason)).inc();
    }

    /// It was not taken.
    pub(super) fn refused(mut self, reason: &'static str) {
        let cell = self.meters.cell(self.kind, self.transport);
        if reason == "client_gone" {
            cell.cancelled.inc()
        } else {
            cell.refused.inc()
        };
        self.count_reason(reason);
        self.settled = true;
    }

    fn count_reason(&self, reason: &'static str) {
        self.meters.reasons.get_or_create(&self.labels(reason)).inc();
    }

    fn labels(&self, reason: &'static str) -> ReasonLabels {
        let kind = self.kind.map_or(NO_KIND, Kind::as_str);
        ReasonLabels { kind, transport: self.transport.as_str(), reason }
    }
}

impl Drop for RequestMeter {
    fn drop(&mut self) {
        self.meters.in_flight[self.transport as usize].dec();
        if !self.settled {
            self.meters.cell(self.kind, self.transport).cancelled.inc();
            self.count_reason("client_gone");
        }
    }
}
