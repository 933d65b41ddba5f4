//! The embedded store against a real file: what is repeated, reopened or not ours.

use std::sync::Arc;
use std::time::Duration;

use mirador_otlp::{Limits, Request, Signal};
use mirador_service::metrics::Registry;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;

use super::{Config, Embedded};
use crate::exporter::{LogStore, MetricStore, TraceStore};
use crate::series::{Exemplar, LabelSet, STALE_NAN, Series, SeriesBatch};

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) }),
        ..KeyValue::default()
    }
}

fn resource(service: &str) -> Resource {
    Resource { attributes: vec![text("service.name", service)], ..Resource::default() }
}

fn traces(spans: Vec<Span>) -> Request {
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let resource_spans =
        vec![ResourceSpans { resource: Some(resource("cart")), scope_spans, ..ResourceSpans::default() }];
    let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
    Request::parse(Signal::Traces, body.into(), &Limits::default()).unwrap()
}

fn logs(records: Vec<LogRecord>) -> Request {
    let scope_logs = vec![ScopeLogs { log_records: records, ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { resource: Some(resource("cart")), scope_logs, ..ResourceLogs::default() }];
    let body = ExportLogsServiceRequest { resource_logs }.encode_to_vec();
    Request::parse(Signal::Logs, body.into(), &Limits::default()).unwrap()
}

fn span(id: u8) -> Span {
    Span {
        trace_id: vec![7; 16],
        span_id: vec![id; 8],
        name: "GET /cart".to_owned(),
        kind: 2,
        start_time_unix_nano: crate::clock::unix_nano(),
        end_time_unix_nano: crate::clock::unix_nano() + 1_000_000,
        attributes: vec![text("http.route", "/cart/ünïcode")],
        ..Span::default()
    }
}

fn record(body: &str, time: u64) -> LogRecord {
    LogRecord {
        time_unix_nano: time,
        severity_number: 9,
        body: Some(AnyValue { value: Some(any_value::Value::StringValue(body.to_owned())) }),
        ..LogRecord::default()
    }
}

fn open(folder: &tempfile::TempDir) -> Embedded {
    let config = Config { path: folder.path().join("new/store.sqlite"), ..Config::default() };
    Embedded::open(&config, &Registry::new(), || ()).unwrap()
}

fn count(store: &Embedded, table: &str) -> i64 {
    let reader = store.reader().unwrap();
    reader.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn a_repeated_export_leaves_one_row_per_span_and_log_record() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let spans = traces(vec![span(1), span(2)]);
    let records = logs(vec![record("paid", 5), record("paid", 5), record("sent", 6), record("no time", 0)]);
    for _ in 0..3 {
        TraceStore::store(&store, &spans).await.unwrap();
        LogStore::store(&store, &records).await.unwrap();
    }
    assert_eq!(count(&store, "spans"), 2);
    // The same line twice in one request means two lines.
    assert_eq!(count(&store, "logs"), 4);
    store.close();
}

#[tokio::test]
async fn a_sample_is_named_by_series_and_time_and_a_stale_marker_reads_as_null() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let labels = Arc::new(LabelSet::from_sorted([("__name__", "up"), ("job", "cart")]));
    let series = Series { labels, samples: smallvec::smallvec![(1000, 1.0), (2000, STALE_NAN)], exemplars: Vec::new() };
    let batch = Arc::new(SeriesBatch { series: vec![series] });
    MetricStore::write(&store, Arc::clone(&batch)).await.unwrap();
    MetricStore::write(&store, batch).await.unwrap();
    let reader = store.reader().unwrap();
    let values: Vec<Option<f64>> = reader
        .prepare("SELECT value FROM samples ORDER BY timestamp_ms")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(values, [Some(1.0), None]);
    assert_eq!(count(&store, "series"), 1);
    store.close();
}

#[tokio::test]
async fn exemplars_are_kept_beside_the_latest_sample_of_those_that_they_came_with() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let labels = Arc::new(LabelSet::from_sorted([("__name__", "duration_bucket"), ("le", "10")]));
    let ids = vec![(Box::from("span_id"), Box::from("cd")), (Box::from("trace_id"), Box::from("ab"))];
    let exemplars = vec![Exemplar { labels: ids, value: 7.5, timestamp_ms: 1999 }];
    let series = Series { labels, samples: smallvec::smallvec![(1000, 1.0), (2000, 2.0)], exemplars };
    MetricStore::write(&store, Arc::new(SeriesBatch { series: vec![series] })).await.unwrap();
    let reader = store.reader().unwrap();
    let kept: Vec<Option<String>> = reader
        .prepare("SELECT exemplars FROM samples ORDER BY timestamp_ms")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(kept[0], None);
    let latest: serde_json::Value = serde_json::from_str(kept[1].as_deref().unwrap()).unwrap();
    let expected =
        serde_json::json!([{"labels": {"span_id": "cd", "trace_id": "ab"}, "value": 7.5, "timestamp_ms": 1999}]);
    assert_eq!(latest, expected);
    store.close();
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_the_file_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    TraceStore::store(&store, &traces(vec![span(1)])).await.unwrap();
    store.close();
    let again = open(&folder);
    assert_eq!(count(&again, "spans"), 1);
    again.close();
}

#[tokio::test]
async fn many_writers_at_once_are_all_answered_after_their_commit() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let mut writes = tokio::task::JoinSet::new();
    for id in 1..=100u8 {
        let store = store.clone();
        writes.spawn(async move { TraceStore::store(&store, &traces(vec![span(id)])).await });
    }
    while let Some(written) = writes.join_next().await {
        written.unwrap().unwrap();
    }
    assert_eq!(count(&store, "spans"), 100);
    store.close();
}

#[test]
fn a_file_of_another_program_is_refused_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.sqlite");
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let config = Config { path, retention: Duration::from_secs(60), max_size_mib: 1 };
    let error = Embedded::open(&config, &Registry::new(), || ()).err().map(|error| format!("{error:#}"));
    assert!(error.is_some_and(|text| text.contains("something else")));
}

fn refused(config: &Config) -> String {
    Embedded::open(config, &Registry::new(), || ()).err().map(|error| format!("{error:#}")).unwrap()
}

#[test]
fn limits_that_cannot_work_are_refused_by_their_key() {
    let wrong = [
        ("retention", Config { retention: Duration::ZERO, ..Config::default() }),
        ("max_size_mib", Config { max_size_mib: 0, ..Config::default() }),
        ("max_size_mib", Config { max_size_mib: u64::MAX, ..Config::default() }),
        ("path", Config { path: std::path::PathBuf::new(), ..Config::default() }),
        ("path", Config { path: "/dev/null/store.sqlite".into(), ..Config::default() }),
    ];
    for (key, config) in wrong {
        assert!(refused(&config).contains(&format!("exporters.embedded.{key}")), "{key}: {}", refused(&config));
    }
}

#[test]
fn a_file_of_another_version_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let path = store.path().to_owned();
    store.close();
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 7).unwrap();
    let error = refused(&Config { path, ..Config::default() });
    assert!(error.contains("version 7") && error.contains("move the file away"), "{error}");
}

#[tokio::test]
async fn a_queue_that_is_full_refuses_for_now() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { path: folder.path().join("store.sqlite"), ..Config::default() };
    // The writing thread stands still until the gate opens.
    let (gate, closed) = std::sync::mpsc::channel::<()>();
    let store = Embedded::open(&config, &Registry::new(), move || closed.recv().unwrap_or_default()).unwrap();
    let request = traces(vec![span(1)]);
    let mut waiting: Vec<_> = (0..super::QUEUE).map(|_| TraceStore::store(&store, &request)).collect();
    for write in &mut waiting {
        assert!(futures_util::poll!(write).is_pending());
    }
    let full = TraceStore::store(&store, &request).await;
    assert!(matches!(full, Err(crate::exporter::ExportError::Retry { after: Some(_), .. })), "{full:?}");
    drop(gate);
    for write in waiting {
        write.await.unwrap();
    }
    store.close();
}

#[tokio::test]
async fn spans_without_valid_ids_are_told_and_the_rest_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let broken = [Span { trace_id: Vec::new(), ..span(1) }, Span { span_id: vec![0; 8], ..span(2) }];
    let request = traces([span(3)].into_iter().chain(broken).collect());
    let error = TraceStore::store(&store, &request).await.unwrap_err();
    assert!(matches!(error, crate::exporter::ExportError::Partial { rejected: 2, .. }), "{error:?}");
    assert_eq!(count(&store, "spans"), 1);
    store.close();
}

#[tokio::test]
async fn a_record_of_a_mebibyte_and_one_without_any_time_are_stored_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let request = logs(vec![record(&"é".repeat(1 << 19), 5), record("no clock", 0)]);
    for _ in 0..2 {
        LogStore::store(&store, &request).await.unwrap();
    }
    assert_eq!(count(&store, "logs"), 2);
    let reader = store.reader().unwrap();
    let longest: i64 = reader.query_row("SELECT max(length(body)) FROM logs", [], |row| row.get(0)).unwrap();
    let latest: i64 = reader.query_row("SELECT max(time_nanos) FROM logs", [], |row| row.get(0)).unwrap();
    assert_eq!(longest, 1 << 19);
    assert!(latest > 1_600_000_000_000_000_000, "it is filed under its arrival: {latest}");
    store.close();
}

#[tokio::test]
async fn a_resource_of_a_mebibyte_is_cut_told_and_in_memory_once_for_all_of_its_rows() {
    let (folder, registry) = (tempfile::tempdir().unwrap(), Registry::new());
    let config = Config { path: folder.path().join("store.sqlite"), ..Config::default() };
    let store = Embedded::open(&config, &registry, || ()).unwrap();
    let mut large = resource("cart");
    // A control character is six in the text that is stored.
    large.attributes.push(text("process.command_line", &"\u{1}".repeat(1 << 20)));
    let log_records = (0..200).map(|index| record("line", 1 + index)).collect();
    let spans = (0..200).map(span).collect();
    let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let resource_logs = vec![ResourceLogs { resource: Some(large.clone()), scope_logs, ..ResourceLogs::default() }];
    let resource_spans = vec![ResourceSpans { resource: Some(large), scope_spans, ..ResourceSpans::default() }];
    let logs = ExportLogsServiceRequest { resource_logs }.encode_to_vec();
    let spans = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
    let logs = Request::parse(Signal::Logs, logs.into(), &Limits::default()).unwrap();
    let spans = Request::parse(Signal::Traces, spans.into(), &Limits::default()).unwrap();
    let read = super::rows::logs(&logs, 1);
    assert!(read.rows.iter().all(|row| Arc::ptr_eq(&row.resource, &read.rows[0].resource)));

    LogStore::store(&store, &logs).await.unwrap();
    // The span without an id is refused.
    TraceStore::store(&store, &spans).await.unwrap_err();
    let reader = store.reader().unwrap();
    for (table, rows) in [("logs", 200), ("spans", 199)] {
        let (found, longest, named): (i64, i64, i64) = reader
            .query_row(
                &format!(
                    "SELECT count(*), max(length(resource)), sum(resource ->> 'service.name' = 'cart') FROM {table}"
                ),
                [],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )
            .unwrap();
        assert_eq!((found, named), (rows, rows), "{table}");
        assert!(longest <= 32 << 10, "{table}: {longest}");
    }
    assert!(registry.encode().contains("mirador_embedded_cut_rows_total 399"), "{}", registry.encode());
    store.close();
}
