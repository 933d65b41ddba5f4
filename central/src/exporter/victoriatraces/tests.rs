//! Against a server that keeps VictoriaTraces' contract: nothing may be lost behind its 200.

mod limits;

use std::sync::atomic::{AtomicU64, Ordering};

use mirador_otlp::{Limits, Signal};
use mirador_support::backends::victoriatraces::{Fault, INSERT_PATH, StandIn};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;

use super::*;
use crate::clock::unix_nano;

static NEXT: AtomicU64 = AtomicU64::new(1);

const TRACE: [u8; 16] = [0xab; 16];
const TRACE_HEX: &str = "abababababababababababababababab";

/// A sound span of a millisecond.
fn span(name: &str) -> Span {
    let start = unix_nano() - 60_000_000_000;
    Span {
        trace_id: TRACE.to_vec(),
        span_id: NEXT.fetch_add(1, Ordering::SeqCst).to_be_bytes().to_vec(),
        name: name.to_owned(),
        start_time_unix_nano: start,
        end_time_unix_nano: start + 1_000_000,
        ..Span::default()
    }
}

fn request(spans: Vec<Span>) -> Request {
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
    let mut body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
    // An unknown field shows whether the request was decoded on its way.
    body.extend_from_slice(&[0xfa, 0x3e, 0x01, 0x07]);
    Request::parse(Signal::Traces, body.into(), &Limits::default()).unwrap()
}

struct Setup {
    server: StandIn,
    store: VictoriaTraces,
    registry: Registry,
}

async fn setup() -> Setup {
    let (server, registry) = (StandIn::start().await.unwrap(), Registry::new());
    let config = Config {
        endpoint: format!("{}{INSERT_PATH}", server.url()),
        compression: Compression::None,
        ..Config::default()
    };
    let store = VictoriaTraces::new(&config, &registry).unwrap();
    Setup { server, store, registry }
}

impl Setup {
    fn counted(&self, name: &str, reason: &str) -> u64 {
        let text = self.registry.encode();
        let line = format!("mirador_victoriatraces_{name}_total{{reason=\"{reason}\"}} ");
        text.lines().find_map(|found| found.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
    }

    async fn read(&self) -> Vec<serde_json::Value> {
        self.server.query().trace(TRACE_HEX).await.unwrap()
    }
}

#[tokio::test]
async fn a_sound_request_is_forwarded_byte_for_byte() {
    let setup = setup().await;
    let request = request(vec![span("a"), span("b")]);
    setup.store.store(&request).await.unwrap();
    let [seen] = setup.server.seen().try_into().unwrap();
    assert_eq!(
        (seen.bytes, seen.spans, seen.content_type.as_str()),
        (request.bytes().len(), 2, "application/x-protobuf")
    );
    assert!(mend::is_sound(&request, &Config::default().kept(unix_nano())));
}

#[tokio::test]
async fn spans_whose_times_would_be_lost_can_be_read_back_with_the_reason() {
    let setup = setup().await;
    let backwards = Span { end_time_unix_nano: 5, ..span("backwards") };
    let endless = Span { end_time_unix_nano: 0, ..span("endless") };
    let timeless = Span { start_time_unix_nano: 0, end_time_unix_nano: 0, ..span("timeless") };
    setup.store.store(&request(vec![span("sound"), backwards, endless, timeless])).await.unwrap();
    let read = setup.read().await;
    let mended = |name: &str| {
        let span = read.iter().find(|span| span["operationName"] == name).unwrap_or_else(|| panic!("{name} is lost"));
        let tag = mirador_support::backends::jaeger::tag(span, MENDED);
        (span["duration"].as_i64().unwrap(), tag)
    };
    assert_eq!(mended("sound"), (1000, None));
    assert_eq!(mended("backwards"), (0, Some("end_before_start".to_owned())));
    assert_eq!(mended("endless"), (0, Some("no_end_time".to_owned())));
    assert_eq!(mended("timeless"), (0, Some("no_end_time".to_owned())));
    assert_eq!(
        (setup.counted("mended_spans", "end_before_start"), setup.counted("mended_spans", "no_end_time")),
        (1, 2)
    );
    assert!(setup.server.dropped().is_empty(), "{:?}", setup.server.dropped());
}

#[tokio::test]
async fn spans_without_valid_ids_are_left_out_told_and_counted_and_the_rest_is_stored() {
    let setup = setup().await;
    let spans = vec![
        Span { trace_id: Vec::new(), ..span("no trace") },
        Span { trace_id: vec![0; 16], ..span("zero trace") },
        Span { trace_id: vec![1; 8], ..span("short trace") },
        Span { span_id: Vec::new(), ..span("no id") },
        Span { span_id: vec![0; 8], ..span("zero id") },
        span("sound"),
    ];
    let error = setup.store.store(&request(spans)).await.unwrap_err();
    assert!(matches!(error, ExportError::Partial { rejected: 5, .. }), "{error:?}");
    assert_eq!(setup.read().await.len(), 1);
    assert_eq!(setup.counted("unstorable_spans", "no_trace_id"), 3);
    assert_eq!(setup.counted("unstorable_spans", "no_span_id"), 2);
    assert!(setup.server.dropped().is_empty(), "{:?}", setup.server.dropped());
}

#[tokio::test]
async fn a_request_of_nothing_but_invalid_spans_is_not_sent() {
    let setup = setup().await;
    let error = setup.store.store(&request(vec![Span { trace_id: Vec::new(), ..span("x") }])).await.unwrap_err();
    assert!(matches!(error, ExportError::Partial { rejected: 1, .. }), "{error:?}");
    setup.store.store(&request(Vec::new())).await.unwrap();
    assert!(setup.server.seen().is_empty());
}

#[tokio::test]
async fn nothing_is_counted_until_the_rest_is_stored_so_that_a_retry_counts_once() {
    let setup = setup().await;
    let spans = vec![
        Span { end_time_unix_nano: 0, ..span("endless") },
        Span { span_id: Vec::new(), ..span("no id") },
        span("sound"),
    ];
    let request = request(spans);
    setup.server.fail_next(2, &Fault::Status { code: 503, retry_after: Some(2) });
    for _ in 0..2 {
        let error = setup.store.store(&request).await.unwrap_err();
        assert!(matches!(error, ExportError::Retry { after: Some(_), .. }), "{error:?}");
    }
    assert_eq!((setup.counted("mended_spans", "no_end_time"), setup.counted("unstorable_spans", "no_span_id")), (0, 0));
    setup.store.store(&request).await.unwrap_err();
    assert_eq!((setup.counted("mended_spans", "no_end_time"), setup.counted("unstorable_spans", "no_span_id")), (1, 1));
    assert_eq!(setup.server.kept(), 2);
}

#[tokio::test]
async fn an_attribute_of_the_application_with_our_name_is_not_counted() {
    let setup = setup().await;
    let mut fake = span("fake");
    fake.attributes
        .push(opentelemetry_proto::tonic::common::v1::KeyValue { key: MENDED.to_owned(), ..Default::default() });
    let request = request(vec![fake, Span { end_time_unix_nano: 1, ..span("backwards") }]);
    setup.store.store(&request).await.unwrap();
    assert_eq!(setup.counted("mended_spans", "end_before_start"), 1);
}

#[tokio::test]
async fn a_full_disk_and_a_stopped_server_are_tried_again_and_it_recovers() {
    let mut setup = setup().await;
    setup.server.set_limits(|limits| limits.read_only = true);
    let full = setup.store.store(&request(vec![span("a")])).await;
    assert!(matches!(full, Err(ExportError::Retry { .. })), "{full:?}");
    setup.server.set_limits(|limits| limits.read_only = false);
    setup.server.stop().await.unwrap();
    let stopped = setup.store.store(&request(vec![span("a")])).await;
    assert!(matches!(stopped, Err(ExportError::Retry { .. })), "{stopped:?}");
    setup.server.restart().await.unwrap();
    setup.store.store(&request(vec![span("a")])).await.unwrap();
    assert_eq!(setup.read().await.len(), 1);
}
