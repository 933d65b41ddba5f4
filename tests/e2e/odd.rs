//! Spans that are easy to count wrongly.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use mirador_support::oracle;
use mirador_support::shop::Random;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use serde_json::json;

use crate::fleet::Fleet;

const MS: u64 = 1_000_000;

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) }),
        ..KeyValue::default()
    }
}

fn request(resource: Vec<KeyValue>, spans: Vec<Span>) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes: resource, ..Resource::default() }),
            scope_spans: vec![ScopeSpans { spans, ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        }],
    }
}

/// Spans of one service; each closure call makes one of the given kind, name and times.
struct Maker {
    random: Random,
    start: u64,
}

impl Maker {
    fn span(&mut self, name: &str, kind: i32, nanos: i64) -> Span {
        Span {
            trace_id: self.random.id::<16>(),
            span_id: self.random.id::<8>(),
            name: name.to_owned(),
            kind,
            start_time_unix_nano: self.start,
            end_time_unix_nano: self.start.saturating_add_signed(nanos),
            ..Span::default()
        }
    }
}

fn odd_requests(start: u64) -> Vec<ExportTraceServiceRequest> {
    let mut make = Maker { random: Random::new(5), start };
    let service = |name: &str| vec![text("service.name", name)];
    let durations: Vec<Span> = [
        0,
        -5_000_000,
        1,
        2 * MS as i64,
        2 * MS as i64 + 1,
        50 * MS as i64,
        15_000 * MS as i64,
        15_000 * MS as i64 + 1,
        86_400_000 * MS as i64,
    ]
    .into_iter()
    .map(|nanos| make.span("durations", 2, nanos))
    .collect();
    let mut failing = make.span("Zürich → 東京 🚆", 2, 7 * MS as i64);
    failing.status = Some(Status { code: 2, message: "no seat".to_owned() });
    let kinds: Vec<Span> = (0..=6).map(|kind| make.span("kinds", kind, 3 * MS as i64)).collect();
    let with_pod = |pod: &str| vec![text("service.name", "twins"), text("k8s.pod.uid", pod), text("host.name", pod)];
    vec![
        request(service("durations"), durations),
        request(service("unicode"), vec![failing]),
        request(service("kinds"), kinds),
        request(vec![text("host.name", "nobody")], vec![make.span("skipped", 2, 1)]),
        request(service(""), vec![make.span("skipped", 2, 1)]),
        // Resources that differ only in attributes that are no labels add up.
        request(with_pod("a"), vec![make.span("shared", 2, 3 * MS as i64), make.span("shared", 2, 5 * MS as i64)]),
        request(with_pod("b"), vec![make.span("shared", 2, 9 * MS as i64)]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_spans_are_counted_as_the_connector_documents() -> Result<()> {
    let fleet = Fleet::start(1, json!({}), json!({})).await?;
    let start = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64 - 86_400_000 * MS;
    let mut requests = odd_requests(start);
    let sender = fleet.sender(0)?;
    // Out of order: the last first.
    requests.reverse();
    for request in &requests {
        sender.traces(request).await?;
    }
    let expected = oracle::red(&requests);
    assert_eq!(expected.values().map(|red| red.calls).sum::<u64>(), 9 + 1 + 7 + 3);
    fleet.wait_for_red(&expected).await?;
    let skipped = fleet.agents[0].metric("mirador_agent_red_spans_without_service_total", &[]).await?;
    assert!((skipped - 2.0).abs() < 0.5, "{skipped} spans were skipped for want of a service");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sampled_span_counts_for_as_many_as_it_stands_for() -> Result<()> {
    let fleet = Fleet::start(1, json!({}), json!({})).await?;
    let start = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    let mut make = Maker { random: Random::new(6), start };
    let mut spans: Vec<Span> = (0..10).map(|_| make.span("sampled", 2, 3 * MS as i64)).collect();
    for span in &mut spans {
        // Threshold 0.75 of 2^56: one span in four was kept (OpenTelemetry, TraceState probability sampling).
        "ot=th:c".clone_into(&mut span.trace_state);
    }
    let request = request(vec![text("service.name", "sampled")], spans);
    fleet.sender(0)?.traces(&request).await?;
    let mut expected = oracle::red([&request]);
    for red in expected.values_mut() {
        red.calls *= 4;
        red.sum_nanos *= 4;
        red.buckets.iter_mut().for_each(|bucket| *bucket *= 4);
    }
    fleet.wait_for_red(&expected).await
}
