//! Who takes what, and that spans are counted by exactly one tap.

use std::time::Duration;

use mirador_service::health::Health;
use mirador_service::memory::Budget;
use mirador_service::supervise::Supervisor;
use mirador_transport::receiver::{self, Receiver};

use super::*;
use crate::metrics_out::{FlushMeters, Flusher};
use crate::spanmetrics;
use crate::testing::{FakeOut, span, traces};

struct Running {
    consumer: Consumer,
    spanmetrics: Arc<SpanMetrics>,
    out: Arc<FakeOut>,
    budget: Budget,
    // Dropping it ends the tasks.
    _supervisor: Supervisor,
}

/// A process of the role spanmetrics.
async fn start() -> Running {
    let (registry, health, drain) = (Registry::new(), Health::new(), Drain::new(Duration::from_secs(20)));
    let mut supervisor = Supervisor::new(drain.clone(), health.clone());
    let out = FakeOut::shared();
    let flusher = Flusher::new("spanmetrics", Arc::<FakeOut>::clone(&out), FlushMeters::new(&registry));
    let config = spanmetrics::Config { metrics_flush_interval: Duration::from_hours(1), ..Default::default() };
    let parts = spanmetrics::Parts {
        flusher,
        registry: &registry,
        health: &health,
        drain: &drain,
        supervisor: &mut supervisor,
        state: None,
    };
    let spanmetrics = Arc::new(SpanMetrics::start(&config, parts));
    let roles = Roles { spanmetrics: Some(Arc::clone(&spanmetrics)), ..Roles::default() };
    let budget = Budget::new(1 << 20);
    let mut listening = receiver::Config::default();
    "127.0.0.1:0".clone_into(&mut listening.protocols.grpc.endpoint);
    "127.0.0.1:0".clone_into(&mut listening.protocols.http.endpoint);
    let receiver = Receiver::bind(listening, budget.clone(), &registry, drain.clone()).await.unwrap();
    let consumer = Consumer::new(roles, receiver.items(), &registry, drain);
    Running { consumer, spanmetrics, out, budget, _supervisor: supervisor }
}

impl Running {
    async fn consume(&self, kind: Kind, body: Bytes, via_agent: Option<&str>) -> Result<Accepted, Refusal> {
        let incoming = Incoming {
            kind,
            body,
            peer: ([127, 0, 0, 1], 9).into(),
            caller: None,
            via_agent: via_agent.map(str::to_owned),
            transport: "grpc",
            permit: self.budget.try_acquire(10).unwrap(),
        };
        self.consumer.consume(incoming).await
    }
}

#[tokio::test]
async fn spans_that_an_agent_forwarded_are_not_counted_again() {
    let running = start().await;
    let kind = Kind::Otlp(Signal::Traces);
    running.consume(kind, traces(&[span("shop", 2, 1, 1, 0)]), Some("node-1")).await.unwrap();
    running.consume(kind, traces(&[span("shop", 2, 1, 2, 0)]), None).await.unwrap();
    running.spanmetrics.finish().await;
    let totals = running.out.totals();
    assert_eq!(totals["traces.span.metrics.calls{shop,work,SPAN_KIND_SERVER,STATUS_CODE_UNSET}"], 1);
    assert_eq!(running.budget.used(), 0, "every permit is given back");
}

#[tokio::test]
async fn what_another_role_takes_is_not_implemented_here() {
    let running = start().await;
    for signal in [Signal::Metrics, Signal::Logs] {
        let refusal = running.consume(Kind::Otlp(signal), Bytes::new(), None).await.unwrap_err();
        assert_eq!((refusal.code, refusal.reason), (Code::Unimplemented, "wrong_role"));
    }
}

#[tokio::test]
async fn malformed_spans_are_refused_for_good() {
    let running = start().await;
    let refusal = running.consume(Kind::Otlp(Signal::Traces), Bytes::from_static(&[0x0a, 9]), None).await.unwrap_err();
    assert_eq!((refusal.code, refusal.retry_after), (Code::InvalidArgument, None));
}
