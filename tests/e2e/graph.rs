//! Edges as they leave the servicegraph role: every kind of pair, each with its labels and both latencies.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use mirador_support::backends::client::until;
use mirador_support::capture::Capture;
use mirador_support::connector::{Labels, Last, last_points};
use mirador_support::node::Node;
use mirador_support::odd::{Maker, failed, request, text};
use mirador_support::shop::Sender;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::span::Link;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};
use serde_json::json;

use crate::fleet::WAIT;
use crate::red::owner;

const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const PRODUCER: i32 = 4;
const CONSUMER: i32 = 5;
const MS: i64 = 1_000_000;
const BOUNDS: [f64; 16] = [0.002, 0.004, 0.006, 0.008, 0.01, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.4, 2.0, 5.0, 10.0, 15.0];

fn with(span: Span, key: &str, value: &str) -> Span {
    Span { attributes: vec![text(key, value)], ..span }
}

/// Every kind of pair once.
fn spans() -> Vec<(&'static str, Span)> {
    let mut make = Maker::new(7, 1_767_225_600_000_000_000);
    let mut all = Vec::new();
    // On a bound, and one nanosecond above it.
    let call = make.span("call", CLIENT, 4 * MS + 1);
    all.extend([("cart", make.below(&call, "serve", SERVER, 2 * MS)), ("shop", with(call, "zone", "a"))]);
    // Either side fails the edge.
    let call = make.span("call", CLIENT, 3 * MS);
    all.extend([("cart", failed(make.below(&call, "serve", SERVER, MS))), ("shop", call)]);
    // Backwards, and a day long; names of any script.
    let call = make.span("call", CLIENT, -5 * MS);
    all.extend([("株式会社", make.below(&call, "serve", SERVER, 86_400_000 * MS)), ("Größe", call)]);
    // By the parent, and by a link from a trace of its own.
    let message = make.span("publish", PRODUCER, MS);
    let link = Link { trace_id: message.trace_id.clone(), span_id: message.span_id.clone(), ..Link::default() };
    all.push(("mail", make.below(&message, "process", CONSUMER, 6 * MS)));
    all.push(("books", Span { links: vec![link], ..make.span("process", CONSUMER, 8 * MS) }));
    all.push(("shop", message));
    // Databases: by the new name before the old one, by the old one, by the system alone.
    let mut query = with(make.span("query", CLIENT, 10 * MS), "db.name", "old");
    query.attributes.push(text("db.namespace", "orders"));
    all.push(("cart", query));
    all.push(("cart", with(make.span("query", CLIENT, MS), "db.name", "carts")));
    all.push(("cart", with(make.span("query", CLIENT, MS), "db.system", "redis")));
    // Nobody answers: the peer, or nobody knows who.
    let mut call = with(make.span("call", CLIENT, 20 * MS), "db.operation", "x");
    call.attributes.push(text("peer.service", "bank"));
    all.push(("cart", failed(call)));
    all.push(("cart", make.span("call", CLIENT, 20 * MS)));
    // Called from outside, and by somebody who was never seen.
    all.push(("shop", make.span("visit", SERVER, MS)));
    let absent = make.span("call", CLIENT, MS);
    all.push(("shop", make.below(&absent, "serve", SERVER, MS)));
    // No edges: a span inside a service, and one of nobody.
    all.push(("shop", make.span("inside", 1, MS)));
    all.push(("", make.span("call", CLIENT, MS)));
    all
}

/// Client, server, type, failed, dimensions; nanoseconds of the client and of the server, where one is measured.
type Edge = (&'static str, &'static str, &'static str, bool, &'static [(&'static str, &'static str)]);
const EDGES: [(Edge, Option<f64>, Option<f64>); 11] = [
    (("shop", "cart", "", false, &[("client_zone", "a"), ("server_zone", "eu")]), Some(4_000_001.0), Some(2e6)),
    (("shop", "cart", "", true, &[("server_zone", "eu")]), Some(3e6), Some(1e6)),
    (("Größe", "株式会社", "", false, &[]), Some(0.0), Some(8.64e13)),
    (("shop", "mail", "messaging_system", false, &[]), Some(1e6), Some(6e6)),
    (("shop", "books", "messaging_system", false, &[]), Some(1e6), Some(8e6)),
    (("cart", "orders", "database", false, &[("client_zone", "eu")]), Some(1e7), Some(1e7)),
    (("cart", "carts", "database", false, &[("client_zone", "eu")]), Some(1e6), Some(1e6)),
    (("cart", "redis", "database", false, &[("client_zone", "eu")]), Some(1e6), Some(1e6)),
    (("cart", "bank", "virtual_node", true, &[("client_zone", "eu"), ("virtual_node", "server")]), Some(2e7), None),
    (("cart", "unknown", "virtual_node", false, &[("client_zone", "eu"), ("virtual_node", "server")]), Some(2e7), None),
    (("user", "shop", "virtual_node", false, &[("virtual_node", "client")]), None, Some(1e6)),
];

fn labels(of: &Edge) -> Labels {
    let (client, server, connection_type, failed, more) = of;
    let mut labels: Labels = [("client", *client), ("server", *server), ("connection_type", *connection_type)]
        .into_iter()
        .chain([("failed", if *failed { "true" } else { "false" }), ("virtual_node", "")])
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    labels.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    labels
}

/// What the edges have to look like: metric with unit and kind, labels, last point.
fn expected() -> BTreeMap<([String; 3], Labels), Last> {
    let mut expected = BTreeMap::new();
    let sum = "sum, temporality 2, monotonic true";
    let mut add = |name: &str, unit: &str, kind: &str, labels: Labels, last: Last| {
        let about = [format!("traces_service_graph_{name}"), unit.to_owned(), kind.to_owned()];
        expected.insert((about, labels), last);
    };
    let one = || Last { count: Some(1.0), ..Last::default() };
    for (edge, client, server) in &EDGES {
        add("request_total", "", sum, labels(edge), one());
        if edge.3 {
            add("request_failed_total", "", sum, labels(edge), one());
        }
        for (name, nanos) in [("request_client", client), ("request_server", server)] {
            let Some(seconds) = nanos.map(|nanos| nanos / 1e9) else { continue };
            let mut buckets = vec![0; BOUNDS.len() + 1];
            buckets[BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len())] = 1;
            let last = Last { sum: seconds, bounds: BOUNDS.to_vec(), buckets, ..one() };
            add(name, "s", "histogram, temporality 2", labels(edge), last);
        }
    }
    let side = |client: &str, server: &str| -> Labels {
        [("client", client), ("server", server)].map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    };
    let twice = Last { count: Some(2.0), ..Last::default() };
    add("unpaired_spans_total", "", sum, side("cart", ""), twice);
    add("unpaired_spans_total", "", sum, side("", "shop"), one());
    expected
}

/// The spans, each in a resource of its service.
fn one_request(spans: &[(&'static str, Span)]) -> ExportTraceServiceRequest {
    let of = |(service, span): &(&str, Span)| -> Vec<ResourceSpans> {
        let mut attributes = vec![text("host.name", "node-1")];
        attributes.extend((!service.is_empty()).then(|| text("service.name", service)));
        attributes.extend((*service == "cart").then(|| text("zone", "eu")));
        request(attributes, vec![span.clone()]).resource_spans
    };
    ExportTraceServiceRequest { resource_spans: spans.iter().flat_map(of).collect() }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_edge_leaves_with_the_connectors_names_labels_and_latencies() -> Result<()> {
    let store = Capture::start().await?;
    let config = json!({
        "exporters": {
            "otlphttp_traces": {"endpoint": format!("http://{}/v1/traces", store.address)},
            "metrics": owner(store.address),
        },
        "servicegraph": {
            "metrics_flush_interval": "250ms", "store": {"ttl": "2s"}, "dimensions": ["zone"],
            "virtual_node_extra_label": true,
        },
    });
    let graph = Node::central("servicegraph", config).await?;
    let (mut spans, expected) = (spans(), expected());
    let sender = Sender::new(&format!("http://{}", graph.http))?;
    // Both sides of every pair come at once, and come again in the other order: a retry.
    sender.traces(&one_request(&spans)).await?;
    spans.reverse();
    sender.traces(&one_request(&spans)).await?;
    until("the edges", WAIT, async || {
        let mut found = BTreeMap::new();
        for ((about, resource, labels), mut last) in last_points(&store.metrics()?)? {
            ensure!(resource.is_empty() && about.scope == "traces_service_graph", "{about:?} of {resource:?}");
            last.exemplars = 0;
            found.insert(([about.name, about.unit, about.kind], labels), last);
        }
        for key in expected.keys().chain(found.keys()) {
            let (expected, found) = (expected.get(key), found.get(key));
            ensure!(expected == found, "{key:?}: expected {expected:?}, found {found:?}");
        }
        Ok(Some(()))
    })
    .await?;
    let stored: usize = store.traces()?.iter().map(|request| request.resource_spans.len()).sum();
    ensure!(stored == 2 * spans.len(), "{stored} spans were stored, of {} that were sent twice", spans.len());
    for (name, labels, expected) in [
        ("otelcol_connector_servicegraph_total_edges_total", &[][..], 11.0),
        ("otelcol_connector_servicegraph_expired_edges_total", &[], 3.0),
        ("otelcol_connector_servicegraph_dropped_spans_total", &[], 0.0),
        ("mirador_servicegraph_skipped_spans_total", &[("reason", "no_service_name")], 2.0),
        ("mirador_servicegraph_waiting_spans", &[], 0.0),
    ] {
        let found = graph.metric(name, labels).await?;
        ensure!((found - expected).abs() < 0.5, "{name} is {found}, not {expected}");
    }
    Ok(())
}
