//! What a process does with a request, by its role.
//!
//! Never: answers before the request is settled. Invariants: a request is parsed once; spans that an agent forwarded
//! are in that agent's RED deltas and are not counted again here.

use std::sync::Arc;

use bytes::Bytes;
use mirador_otlp::{Limits, Request, Signal};
use mirador_service::drain::Drain;
use mirador_service::metrics::Registry;
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
    drain: Drain,
    malformed: Family<Vec<(&'static str, &'static str)>, Counter>,
}

impl Consumer {
    /// Wraps the roles of this process; every request holds the drain until it is settled.
    pub fn new(roles: Roles, registry: &Registry, drain: Drain) -> Self {
        let malformed = registry.counter_family(
            "mirador_central_malformed_requests",
            "Requests whose protobuf is not valid and that were refused for good, by kind and reason.",
        );
        registry.declare_labels("mirador_central_malformed_requests", &["kind", "reason"]);
        Self { roles, drain, malformed }
    }

    async fn traces(&self, request: Request, is_counted: bool) -> Result<Accepted, Refusal> {
        let accepted = match &self.roles.servicegraph {
            Some(servicegraph) => servicegraph.consume(&request).await?,
            None if self.roles.spanmetrics.is_none() => return Err(not_here(Kind::Otlp(Signal::Traces))),
            None => Accepted::default(),
        };
        if let Some(spanmetrics) = self.roles.spanmetrics.as_ref().filter(|_| !is_counted) {
            let counted = spanmetrics.observe(request).await;
            // Once they are stored, failing would make the client send all of it again for numbers that a shutdown is
            // about to end anyway.
            if self.roles.servicegraph.is_none() {
                counted?;
            }
        }
        Ok(accepted)
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
        // The permit pays for the body until the request is settled.
        let Incoming { kind, body, via_agent, permit: _permit, .. } = incoming;
        match kind {
            Kind::Red => match &self.roles.spanmetrics {
                Some(spanmetrics) => spanmetrics.merge(body).await,
                None => Err(not_here(kind)),
            },
            Kind::Otlp(Signal::Traces) => self.traces(self.parse(Signal::Traces, body)?, via_agent.is_some()).await,
            Kind::Otlp(Signal::Metrics) => match &self.roles.isolationforest {
                Some(isolationforest) => isolationforest.take(self.parse(Signal::Metrics, body)?).await,
                None => Err(not_here(kind)),
            },
            Kind::Otlp(Signal::Logs) => match &self.roles.logs {
                Some(logs) => logs.consume(&self.parse(Signal::Logs, body)?).await,
                None => Err(not_here(kind)),
            },
        }
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
