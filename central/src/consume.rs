//! What a process does with a request, by its role.
//!
//! Never: answers before the request is settled. Invariants: a request is parsed once; spans that an agent forwarded
//! are in that agent's RED deltas and are not counted again here.

use std::sync::Arc;

use bytes::Bytes;
use mirador_otlp::{Limits, Request, Signal};
use mirador_service::drain::Drain;
use mirador_service::metrics::Registry;
use mirador_transport::receiver::ReceiverMetrics;
use mirador_transport::{Accepted, Consume, Incoming, Kind, Refusal};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tonic::Code;

use crate::isolationforest;
use crate::logs::Logs;
use crate::servicegraph::ServiceGraph;
use crate::spanmetrics::SpanMetrics;

/// The roles that run in this process.
#[derive(Clone, Default)]
pub struct Roles {
    /// Takes spans and stores them.
    pub servicegraph: Option<Arc<ServiceGraph>>,
    /// Takes RED deltas, and spans that no agent has counted.
    pub spanmetrics: Option<Arc<SpanMetrics>>,
    /// Takes metrics.
    pub isolationforest: Option<isolationforest::Role>,
    /// Takes log records.
    pub logs: Option<Arc<Logs>>,
}

/// Hands every request to the role that it is for.
pub struct Consumer {
    roles: Roles,
    received: ReceiverMetrics,
    drain: Drain,
    malformed: Family<Vec<(&'static str, &'static str)>, Counter>,
}

impl Consumer {
    /// Wraps the roles of this process; every request holds the drain until it is settled.
    pub fn new(roles: Roles, received: ReceiverMetrics, registry: &Registry, drain: Drain) -> Self {
        let malformed = registry.counter_family(
            "mirador_central_malformed_requests",
            "Requests whose protobuf is not valid and that were refused for good, by kind and reason.",
        );
        registry.declare_labels("mirador_central_malformed_requests", &["kind", "reason"]);
        Self { roles, received, drain, malformed }
    }

    /// Settles a request of a signal. `is_counted`: an agent has counted its spans.
    async fn settle(&self, request: Request, is_counted: bool) -> Result<Accepted, Refusal> {
        let signal = request.signal();
        let roles = &self.roles;
        match (signal, &roles.servicegraph, &roles.spanmetrics, &roles.isolationforest, &roles.logs) {
            (Signal::Traces, Some(servicegraph), ..) => {
                let accepted = servicegraph.consume(&request).await?;
                if let Some(spanmetrics) = roles.spanmetrics.as_ref().filter(|_| !is_counted) {
                    // They are stored, and a refusal would make the client store all of them again: when the store of
                    // the metrics is away for longer than the client waits, they are counted in memory only (and
                    // mirador_spanmetrics_unconfirmed_requests says so).
                    spanmetrics.observe(request).await.ok();
                }
                Ok(accepted)
            }
            (Signal::Traces, None, Some(_), ..) if is_counted => Ok(Accepted::default()),
            (Signal::Traces, None, Some(spanmetrics), ..) => spanmetrics.observe(request).await,
            (Signal::Metrics, _, _, Some(isolationforest), _) => isolationforest.take(request).await,
            (Signal::Logs, .., Some(logs)) => logs.consume(&request).await,
            _ => Err(not_here(Kind::Otlp(signal))),
        }
    }

    fn parse(&self, signal: Signal, body: Bytes) -> Result<Request, Refusal> {
        Request::parse(signal, body, &Limits::default()).map_err(|error| {
            self.malformed.get_or_create(&vec![("kind", signal.as_str()), ("reason", error.kind())]).inc();
            Refusal {
                code: Code::InvalidArgument,
                message: format!("not an OTLP {} request: {error}", signal.as_str()),
                retry_after: None,
                reason: "malformed",
            }
        })
    }
}

impl Consume for Consumer {
    async fn consume(&self, incoming: Incoming) -> Result<Accepted, Refusal> {
        let _in_flight = self.drain.guard();
        // The permit pays for the body until the request is settled; a delta's until it is merged.
        let Incoming { kind, body, via_agent, transport, permit, .. } = incoming;
        let signal = match (kind, &self.roles.spanmetrics) {
            (Kind::Otlp(signal), _) => signal,
            (Kind::Red, Some(spanmetrics)) => return spanmetrics.merge(body, Some(permit)).await,
            (Kind::Red, None) => return Err(not_here(kind)),
        };
        let request = self.parse(signal, body)?;
        let items = request.items() as u64;
        let settled = self.settle(request, via_agent.is_some()).await;
        let refused = settled.as_ref().map_or(items, |accepted| accepted.rejected_items.min(items));
        self.received.refused(signal, transport, refused);
        self.received.accepted(signal, transport, items - refused);
        settled
    }
}

fn not_here(kind: Kind) -> Refusal {
    Refusal {
        code: Code::Unimplemented,
        message: format!("this process does not take {}; send it to the role that does", kind.as_str()),
        retry_after: None,
        reason: "wrong_role",
    }
}

#[cfg(test)]
mod tests;
