//! What a request that is on its way holds of the byte budget when owners leave.

use mirador_proto::otlp::collector::trace::v1::ExportTraceServiceRequest;
use mirador_proto::otlp::trace::v1::{ResourceSpans, ScopeSpans, Span};
use mirador_service::health::Health;
use mirador_service::memory::Budget;
use mirador_transport::receiver::{self, Receiver};
use mirador_transport::sender::config::{Config, ResolverConfig, StaticConfig};
use prost::Message as _;
use tokio::net::TcpSocket;

use super::*;

/// A request of eight traces whose header is longer than all of them.
fn request() -> Request {
    let spans = (1..9).map(|id| Span { trace_id: vec![id; 16], span_id: vec![id; 8], ..Span::default() }).collect();
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let resource = ResourceSpans { scope_spans, schema_url: "x".repeat(4000), ..ResourceSpans::default() };
    let body = ExportTraceServiceRequest { resource_spans: vec![resource] }.encode_to_vec();
    Request::parse(Signal::Traces, body.into(), &Limits::default()).unwrap()
}

/// Owners that are down: their ports are bound, so that nobody else gets them, and not listened on.
struct Down(Vec<TcpSocket>);

impl Down {
    fn new(count: usize) -> Self {
        let bound = (0..count).map(|_| {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            socket
        });
        Self(bound.collect())
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|owner| owner.local_addr().unwrap().to_string()).collect()
    }
}

struct Rig {
    pipeline: Pipeline,
    traces: Destination,
    registry: Registry,
    budget: Budget,
}

impl Rig {
    async fn start(owners: Vec<String>, budget: usize) -> Self {
        let registry = Registry::new();
        let budget = Budget::new(budget);
        let mut ports = receiver::Config::default();
        "127.0.0.1:0".clone_into(&mut ports.protocols.grpc.endpoint);
        "127.0.0.1:0".clone_into(&mut ports.protocols.http.endpoint);
        let drain = Drain::new(Duration::ZERO);
        let received = Receiver::bind(ports, budget.clone(), &registry, drain.clone()).await.unwrap().items();
        let resolver = ResolverConfig { fixed: Some(StaticConfig { hostnames: owners }), ..ResolverConfig::default() };
        let mut config = Config { resolver, ..Config::default() };
        config.retry_on_failure.max_elapsed_time = Duration::from_mins(5);
        let traces = Destination::start("traces", config, &registry, &Health::new(), None).unwrap();
        let destinations = Destinations { traces: Some(traces.clone()), ..Destinations::default() };
        let inlet = Inlet { own_id: "me".to_owned(), enricher: Enricher::none(), processors: Processors::default() };
        let pipeline = Pipeline::new(destinations, inlet, None, received, &registry, drain);
        Self { pipeline, traces, registry, budget }
    }

    /// Sends the request; the owners of the ring change to each of `rings` while it waits.
    async fn forward(&self, request: &Request, rings: impl Future<Output = ()>) -> Option<Result<Accepted, Refusal>> {
        let permit = self.budget.try_acquire(request.bytes().len()).unwrap();
        let sending = self.pipeline.stages.forward(request, request.bytes().clone(), permit, None);
        tokio::select! {
            biased;
            settled = sending => Some(settled),
            () = rings => None,
        }
    }

    /// Another ring, once what waited for the one before is placed on it.
    async fn ring(&self, owners: &Down, replaced: usize) {
        self.traces.set_owners(owners.names());
        let line = format!("mirador_sender_replaced_items_total{{destination=\"traces\"}} {replaced}\n");
        let placed = tokio::time::timeout(Duration::from_mins(1), async {
            while !self.registry.encode().contains(&line) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        placed.await.unwrap();
    }
}

/// What the ring makes of each of the parts.
fn cut(rig: &Rig, parts: &[Bytes]) -> Vec<Bytes> {
    let owners = rig.traces.owners();
    let cut = parts.iter().flat_map(|part| owners.place_part(Signal::Traces, part, |_| true).unwrap().unwrap());
    cut.map(|part| part.bytes).collect()
}

fn total(parts: &[Bytes]) -> usize {
    parts.iter().map(Bytes::len).sum()
}

#[tokio::test]
async fn parts_that_are_placed_again_are_paid_for_as_long_as_they_are_there() {
    let request = request();
    let body = request.bytes().clone();
    let rings = [Down::new(1), Down::new(6), Down::new(6), Down::new(1)];
    let rig = Rig::start(rings[0].names(), 64 * body.len()).await;
    let changes = async {
        assert_eq!(rig.budget.used(), body.len(), "one owner gets the very bytes");
        rig.ring(&rings[1], 8).await;
        let parts = cut(&rig, std::slice::from_ref(&body));
        assert!(total(&parts) > 4000, "the header is in each of {} parts", parts.len());
        assert_eq!(rig.budget.used(), body.len() + total(&parts));
        rig.ring(&rings[2], 16).await;
        let again = cut(&rig, &parts);
        assert_eq!(rig.budget.used(), body.len() + total(&again), "and nothing for the parts before");
        rig.ring(&rings[3], 24).await;
        assert_eq!(rig.budget.used(), body.len() + total(&again), "nothing is cut");
    };
    let settled = rig.forward(&request, changes).await;
    assert!(settled.is_none(), "nobody answered: {settled:?}");
    assert_eq!(rig.budget.used(), 0);
}

#[tokio::test]
async fn a_part_that_would_be_cut_beyond_the_budget_is_refused_and_the_client_comes_back() {
    let request = request();
    let (one, many) = (Down::new(1), Down::new(6));
    let rig = Rig::start(one.names(), request.bytes().len()).await;
    let settled = rig.forward(&request, rig.ring(&many, 8)).await;
    let refusal = match settled {
        Some(settled) => settled.unwrap_err(),
        None => panic!("the parts were sent without being paid for"),
    };
    assert_eq!((refusal.code, refusal.reason), (Code::ResourceExhausted, "memory"), "{}", refusal.message);
    assert!(refusal.retry_after.is_some());
    assert_eq!(rig.budget.used(), 0);
}
