//! What is read of spans: kinds, keys, names of peers and databases, links, dimensions; over real wire bytes.

use bytes::Bytes;
use mirador_otlp::{Limits, Request, Signal};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::Link;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;

use super::super::config::Config;
use super::{Extract, Half, KIND_CLIENT, KIND_CONSUMER, KIND_PRODUCER, KIND_SERVER, Side, Skipped, Via};

const TRACE: [u8; 16] = [7; 16];

fn attributes(pairs: &[(&str, &str)]) -> Vec<KeyValue> {
    let attribute = |(key, value): &(&str, &str)| KeyValue {
        key: (*key).to_owned(),
        value: Some(AnyValue { value: Some(Value::StringValue((*value).to_owned())) }),
        ..KeyValue::default()
    };
    pairs.iter().map(attribute).collect()
}

fn span(kind: i32, id: u8, parent: u8) -> Span {
    Span {
        trace_id: TRACE.to_vec(),
        span_id: vec![0, 0, 0, 0, 0, 0, 0, id],
        parent_span_id: if parent == 0 { Vec::new() } else { vec![0, 0, 0, 0, 0, 0, 0, parent] },
        kind,
        start_time_unix_nano: 1_000,
        end_time_unix_nano: 3_500,
        ..Span::default()
    }
}

fn link(trace: u8, span: u8) -> Link {
    Link { trace_id: vec![trace; 16], span_id: vec![span; 8], ..Link::default() }
}

fn read(config: &Config, resource: &[(&str, &str)], spans: Vec<Span>) -> (Vec<Half>, Skipped) {
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes: attributes(resource), ..Resource::default() }),
            scope_spans: vec![ScopeSpans { spans, ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        }],
    };
    let request = Request::parse(Signal::Traces, Bytes::from(request.encode_to_vec()), &Limits::default()).unwrap();
    let mut halves = Vec::new();
    let skipped = Extract::new(config).halves(&request, |half| halves.push(half));
    (halves, skipped)
}

fn of(spans: Vec<Span>) -> Vec<Half> {
    let (halves, skipped) = read(&Config::default(), &[("service.name", "shop")], spans);
    assert_eq!(skipped, Skipped::default());
    halves
}

#[test]
fn clients_are_keyed_by_themselves_and_servers_by_their_parent() {
    let kinds = [KIND_CLIENT, KIND_PRODUCER, KIND_SERVER, KIND_CONSUMER, 0, 1, 99];
    let halves = of(kinds.map(|kind| span(kind, 2, 1)).to_vec());
    let seen: Vec<_> = halves.iter().map(|half| (half.side, half.key.span_id[7], half.is_messaging)).collect();
    let expected =
        [(Side::Client, 2, false), (Side::Client, 2, true), (Side::Server, 1, false), (Side::Server, 1, true)];
    assert_eq!(seen, expected);
    assert!(halves.iter().all(|half| half.measure.nanos == 2_500 && &*half.service == "shop"));
}

#[test]
fn a_span_that_ends_before_it_starts_took_no_time() {
    let mut backwards = span(KIND_CLIENT, 1, 0);
    (backwards.start_time_unix_nano, backwards.end_time_unix_nano) = (9_000, 1_000);
    assert_eq!(of(vec![backwards])[0].measure.nanos, 0);
}

#[test]
fn only_the_status_error_fails() {
    let failed = [0, 1, 2].map(|code| {
        let status = Some(Status { code, ..Status::default() });
        of(vec![Span { status, ..span(KIND_CLIENT, 1, 0) }])[0].is_failed
    });
    assert_eq!(failed, [false, false, true]);
}

#[test]
fn a_parent_of_zeros_is_no_parent() {
    let root = Span { parent_span_id: vec![0; 8], ..span(KIND_SERVER, 1, 0) };
    assert_eq!(of(vec![root])[0].key.span_id, [0; 8]);
}

#[test]
fn the_database_is_named_by_namespace_then_name_then_peer_then_system() {
    type Case = (&'static [(&'static str, &'static str)], Option<&'static str>);
    let cases: [Case; 8] = [
        (&[("db.system.name", "postgresql"), ("db.name", "old"), ("db.namespace", "new")], Some("new")),
        (&[("db.system", "mysql"), ("db.name", "orders")], Some("orders")),
        (&[("db.name", "orders")], Some("orders")),
        (&[("db.system", "redis"), ("peer.service", "cache")], Some("cache")),
        (&[("db.system.name", "redis"), ("service.peer.name", "cache"), ("peer.service", "old")], Some("cache")),
        (&[("db.system", "redis")], Some("redis")),
        (&[("peer.service", "bank")], None),
        (&[("db.name", "")], None),
    ];
    for (pairs, expected) in cases {
        let halves = of(vec![Span { attributes: attributes(pairs), ..span(KIND_CLIENT, 1, 0) }]);
        assert_eq!(halves[0].database.as_deref(), expected, "{pairs:?}");
    }
}

#[test]
fn the_database_name_of_the_resource_wins() {
    let call = Span { attributes: attributes(&[("db.name", "mine")]), ..span(KIND_CLIENT, 1, 0) };
    let resource = [("service.name", "shop"), ("db.name", "theirs")];
    let (halves, _) = read(&Config::default(), &resource, vec![call]);
    assert_eq!(halves[0].database.as_deref(), Some("theirs"));
}

#[test]
fn database_edges_can_be_turned_off_and_servers_never_name_one() {
    let pairs = attributes(&[("db.system", "mysql"), ("db.name", "orders")]);
    let served = Span { attributes: pairs.clone(), ..span(KIND_SERVER, 2, 1) };
    assert_eq!(of(vec![served])[0].database, None);
    let config = Config { database_name_attributes: Vec::new(), ..Config::default() };
    let call = Span { attributes: pairs, ..span(KIND_CLIENT, 1, 0) };
    let (halves, _) = read(&config, &[("service.name", "shop")], vec![call]);
    assert_eq!(halves[0].database, None);
    assert_eq!(halves[0].peer.as_deref(), Some("orders"), "it may still name the virtual node");
}

#[test]
fn the_first_configured_peer_attribute_of_the_span_names_the_peer() {
    let peer = |pairs| of(vec![Span { attributes: attributes(pairs), ..span(KIND_CLIENT, 1, 0) }])[0].peer.clone();
    assert_eq!(peer(&[("peer.service", "bank"), ("http.url", "x")]).as_deref(), Some("bank"));
    assert_eq!(peer(&[("peer.service", "old"), ("service.peer.name", "new")]).as_deref(), Some("new"));
    assert_eq!(peer(&[("server.address", "10.0.0.1")]), None);
    let (halves, _) = read(
        &Config::default(),
        &[("service.name", "shop"), ("peer.service", "of-the-resource")],
        vec![span(KIND_CLIENT, 1, 0)],
    );
    assert_eq!(halves[0].peer, None);
}

#[test]
fn a_consumer_with_links_only_belongs_to_every_producer_once_and_to_no_user() {
    let links = vec![link(1, 1), link(2, 2), link(1, 1)];
    let mut halves = of(vec![Span { links, ..span(KIND_CONSUMER, 9, 0) }]);
    halves.sort_by_key(|half| half.key);
    let keys: Vec<_> = halves.iter().map(|half| (half.key.trace_id[0], half.key.span_id[0], half.via)).collect();
    assert_eq!(keys, [(1, 1, Via::Link), (2, 2, Via::Link)]);
    assert!(halves.iter().all(|half| half.measure.trace_id == TRACE), "the measure names its own trace");
}

#[test]
fn a_consumer_whose_parent_is_the_linked_producer_is_one_half() {
    let links = vec![Link { trace_id: TRACE.to_vec(), span_id: vec![0, 0, 0, 0, 0, 0, 0, 3], ..Link::default() }];
    let halves = of(vec![Span { links, ..span(KIND_CONSUMER, 9, 3) }]);
    assert_eq!(halves.len(), 1);
    assert_eq!((halves[0].key.span_id[7], halves[0].via), (3, Via::Link));
}

#[test]
fn a_consumer_with_another_parent_beside_its_links_has_a_half_for_both() {
    let halves = of(vec![Span { links: vec![link(1, 1)], ..span(KIND_CONSUMER, 9, 3) }]);
    let vias: Vec<_> = halves.iter().map(|half| half.via).collect();
    assert_eq!(vias, [Via::ParentBesideLinks, Via::Link]);
}

#[test]
fn links_are_followed_for_consumers_only_up_to_a_limit_and_the_rest_is_counted() {
    let served = Span { links: vec![link(1, 1)], ..span(KIND_SERVER, 9, 3) };
    assert_eq!(of(vec![served])[0].via, Via::Parent);
    let mut links: Vec<_> = (1..=200).map(|number| link(number, number)).collect();
    links.push(link(0, 1));
    let (halves, skipped) =
        read(&Config::default(), &[("service.name", "shop")], vec![Span { links, ..span(KIND_CONSUMER, 9, 0) }]);
    assert_eq!((halves.len(), skipped.links), (128, 73));
}

#[test]
fn spans_without_a_service_or_with_broken_ids_are_counted_and_left_out() {
    let broken = [
        Span { trace_id: vec![0; 16], ..span(KIND_CLIENT, 1, 0) },
        Span { trace_id: vec![1; 15], ..span(KIND_CLIENT, 1, 0) },
        Span { span_id: vec![0; 8], ..span(KIND_SERVER, 1, 0) },
        Span { span_id: Vec::new(), ..span(KIND_SERVER, 1, 0) },
        Span { parent_span_id: vec![1; 7], ..span(KIND_SERVER, 1, 0) },
    ];
    let (halves, skipped) = read(&Config::default(), &[("service.name", "shop")], broken.to_vec());
    assert!(halves.is_empty());
    assert_eq!(skipped, Skipped { invalid_id: 5, ..Skipped::default() });
    let (halves, skipped) = read(&Config::default(), &[], vec![span(KIND_CLIENT, 1, 0), span(1, 2, 1)]);
    assert!(halves.is_empty());
    assert_eq!(skipped, Skipped { no_service: 1, ..Skipped::default() });
}

#[test]
fn dimensions_are_looked_up_in_the_resource_then_in_the_span_in_configured_order() {
    let config = Config { dimensions: vec!["zone".to_owned(), "tier".to_owned()], ..Config::default() };
    let resource = [("service.name", "shop"), ("zone", "resource")];
    let both = Span { attributes: attributes(&[("tier", "gold"), ("zone", "span")]), ..span(KIND_SERVER, 2, 1) };
    let (halves, _) = read(&config, &resource, vec![both, span(KIND_CLIENT, 3, 0)]);
    let values = |half: &Half| {
        half.dimensions
            .as_ref()
            .unwrap()
            .iter()
            .map(|value| value.as_deref().unwrap_or("-").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(values(&halves[0]), ["resource", "gold"]);
    assert_eq!(values(&halves[1]), ["resource", "-"]);
    let (halves, _) = read(&config, &[("service.name", "shop")], vec![span(KIND_CLIENT, 3, 0)]);
    assert_eq!(halves[0].dimensions, None);
}

#[test]
fn the_same_half_has_the_same_fingerprint_and_no_other_half_of_the_span_has_it() {
    let spans = || vec![Span { links: vec![link(1, 1), link(2, 2)], ..span(KIND_CONSUMER, 9, 3) }];
    let (first, again) = (of(spans()), of(spans()));
    let mut prints: Vec<_> = first.iter().map(Half::fingerprint).collect();
    let mut repeated: Vec<_> = again.iter().map(Half::fingerprint).collect();
    prints.sort_unstable();
    repeated.sort_unstable();
    assert_eq!(prints, repeated);
    prints.dedup();
    assert_eq!(prints.len(), 3);
}

#[test]
fn both_sides_of_an_edge_are_in_one_shard_even_across_traces() {
    let producer = Span { trace_id: vec![1; 16], span_id: vec![1; 8], ..span(KIND_PRODUCER, 1, 0) };
    let consumer = Span { links: vec![link(1, 1)], ..span(KIND_CONSUMER, 9, 0) };
    let halves = of(vec![producer, consumer]);
    for shards in 1..20 {
        assert_eq!(halves[0].shard(shards), halves[1].shard(shards));
    }
}
