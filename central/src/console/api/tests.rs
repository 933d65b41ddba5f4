//! The API over a filled store, asked as a browser asks: over a socket.

use std::sync::Arc;
use std::time::Duration;

use mirador_otlp::{Limits, Request, Signal};
use mirador_service::drain::Drain;
use mirador_service::metrics::Registry;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;
use serde_json::{Value, json};

use crate::clock::unix_nano;
use crate::console::{Config, Console};
use crate::exporter::embedded::{self, Embedded};
use crate::exporter::{LogStore, MetricStore, TraceStore};
use crate::series::{LabelSet, STALE_NAN, Series, SeriesBatch};

const HTML: &str = "<script>alert(1)</script>";

struct Served {
    base: String,
    client: reqwest::Client,
    drain: Drain,
    _folder: tempfile::TempDir,
}

fn text(value: &str) -> AnyValue {
    AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) }
}

fn resource(service: &str) -> Resource {
    let name = KeyValue { key: "service.name".to_owned(), value: Some(text(service)), ..KeyValue::default() };
    Resource { attributes: vec![name], ..Resource::default() }
}

fn span(trace: u8, id: u8, parent: u8, millis: u64, code: i32) -> Span {
    let start = unix_nano() - 60_000_000_000 + u64::from(id) * 1_000_000;
    Span {
        trace_id: vec![trace; 16],
        span_id: vec![id; 8],
        parent_span_id: if parent == 0 { Vec::new() } else { vec![parent; 8] },
        name: format!("op {id}"),
        kind: 2,
        start_time_unix_nano: start,
        end_time_unix_nano: start + millis * 1_000_000,
        status: Some(Status { code, ..Status::default() }),
        ..Span::default()
    }
}

fn spans(service: &str, spans: Vec<Span>) -> Request {
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let resource_spans =
        vec![ResourceSpans { resource: Some(resource(service)), scope_spans, ..ResourceSpans::default() }];
    let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
    Request::parse(Signal::Traces, body.into(), &Limits::default()).unwrap()
}

fn logs(service: &str, records: &[(&str, i32, u8)]) -> Request {
    let log_records = records.iter().map(|&(body, severity_number, trace)| LogRecord {
        time_unix_nano: unix_nano() - 1_000_000_000,
        severity_number,
        body: Some(text(body)),
        trace_id: if trace == 0 { Vec::new() } else { vec![trace; 16] },
        ..LogRecord::default()
    });
    let scope_logs = vec![ScopeLogs { log_records: log_records.collect(), ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { resource: Some(resource(service)), scope_logs, ..ResourceLogs::default() }];
    let body = ExportLogsServiceRequest { resource_logs }.encode_to_vec();
    Request::parse(Signal::Logs, body.into(), &Limits::default()).unwrap()
}

/// A series with a sample every second, the last one now.
fn series(labels: &[(&'static str, &str)], values: &[f64]) -> Series {
    let now = (unix_nano() / 1_000_000) as i64;
    let start = now - values.len() as i64 * 1000;
    Series {
        labels: Arc::new(LabelSet::from_sorted(labels.iter().copied())),
        samples: values.iter().enumerate().map(|(index, &value)| (start + index as i64 * 1000, value)).collect(),
        exemplars: Vec::new(),
    }
}

fn calls(code: &str, values: &[f64]) -> Series {
    let name = "traces_span_metrics_calls_total";
    let labels = [
        ("__name__", name),
        ("service_name", "red-only"),
        ("span_kind", "SPAN_KIND_SERVER"),
        ("span_name", "GET"),
        ("status_code", code),
    ];
    series(&labels, values)
}

fn bucket(le: &str, value: f64) -> Series {
    let name = "traces_span_metrics_duration_milliseconds_bucket";
    let labels = [
        ("__name__", name),
        ("le", le),
        ("service_name", "red-only"),
        ("span_kind", "SPAN_KIND_SERVER"),
        ("span_name", "GET"),
    ];
    series(&labels, &[0.0, value])
}

fn edge(name: &'static str, values: &[f64]) -> Series {
    series(&[("__name__", name), ("client", "web"), ("connection_type", ""), ("server", "cart")], values)
}

fn metrics() -> Vec<Series> {
    vec![
        // A restart in the middle: 5 + 7 + 3.
        calls("STATUS_CODE_UNSET", &[10.0, 15.0, STALE_NAN, 7.0, 10.0]),
        calls("STATUS_CODE_ERROR", &[0.0, 5.0]),
        bucket("10", 10.0),
        bucket("20", 20.0),
        bucket("+Inf", 20.0),
        edge("traces_service_graph_request_total", &[1.0, 9.0]),
        edge("traces_service_graph_request_failed_total", &[0.0, 2.0]),
        series(
            &[("__name__", "anomaly_score"), ("job", "shop/cart"), ("metric", "up"), ("pod", "a")],
            &[0.2, 0.9, 0.4],
        ),
        series(
            &[("__name__", "anomaly_score"), ("job", "shop/cart"), ("metric", "up"), ("pod", "b"), ("server", "mail")],
            &[0.95],
        ),
        series(&[("__name__", "is_anomaly"), ("job", "shop/cart"), ("metric", "up"), ("pod", "a")], &[1.0, 0.0]),
        series(&[("__name__", "up"), ("pod", "a")], &[1.0, f64::NAN]),
        series(&[("__name__", "up"), ("pod", "b")], &[0.0]),
    ]
}

/// The records of an episode of the series `up` of pod `a`, which is over.
fn episode() -> Request {
    let record = |kind: &str, ago_nanos: u64, own: &[(&str, any_value::Value)]| {
        let word = |text: &str| any_value::Value::StringValue(text.to_owned());
        let pairs = [
            ("anomaly.kind", word(kind)),
            ("anomaly.metric", word("up")),
            ("anomaly.part", word("value")),
            ("anomaly.peak", any_value::Value::DoubleValue(0.9)),
            ("anomaly.opened_at_unix_nano", any_value::Value::IntValue(7_000_000)),
            ("anomaly.incident.id", word("00000000000000ab")),
            ("anomaly.incident.opened_at_unix_nano", any_value::Value::IntValue(5_000_000)),
            ("anomaly.incident.series", any_value::Value::IntValue(3)),
            ("anomaly.incident.lead", word("up{pod=\"a\"} value")),
            ("series.job", word("shop/cart")),
            ("series.pod", word("a")),
        ];
        let attributes = pairs.into_iter().chain(own.iter().cloned()).map(|(key, value)| KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue { value: Some(value) }),
            ..KeyValue::default()
        });
        LogRecord {
            time_unix_nano: unix_nano() - ago_nanos,
            event_name: crate::isolationforest::episodes::EVENT_NAME.to_owned(),
            attributes: attributes.collect(),
            ..LogRecord::default()
        }
    };
    let word = |text: &str| any_value::Value::StringValue(text.to_owned());
    let double = any_value::Value::DoubleValue;
    let opened = [
        ("anomaly.reason", word("value too high")),
        ("anomaly.direction", word("high")),
        ("anomaly.value", double(9.0)),
        ("anomaly.expected_low", double(1.0)),
        ("anomaly.expected_high", double(2.5)),
        ("anomaly.contribution", double(0.5)),
    ];
    let log_records = vec![
        record("opened", 2_000_000_000, &opened),
        record("closed", 1_000_000_000, &[("anomaly.reason", word("back to usual"))]),
    ];
    let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { resource: Some(resource("cart")), scope_logs, ..ResourceLogs::default() }];
    let body = ExportLogsServiceRequest { resource_logs }.encode_to_vec();
    Request::parse(Signal::Logs, body.into(), &Limits::default()).unwrap()
}

async fn served() -> Served {
    served_with(None).await
}

async fn served_with(more_logs: Option<Request>) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let config = embedded::Config { path: folder.path().join("store.sqlite"), ..embedded::Config::default() };
    let store = Embedded::open(&config, &Registry::new(), || ()).unwrap();
    TraceStore::store(&store, &spans("cart", vec![span(1, 1, 0, 50, 0), span(1, 2, 1, 10, 2)])).await.unwrap();
    TraceStore::store(&store, &spans("pay", vec![span(2, 3, 0, 500, 1)])).await.unwrap();
    LogStore::store(&store, &logs("cart", &[("paid", 9, 1), (HTML, 17, 0)])).await.unwrap();
    LogStore::store(&store, &logs("mail", &[("sent", 9, 0)])).await.unwrap();
    if let Some(logs) = more_logs {
        LogStore::store(&store, &logs).await.unwrap();
    }
    MetricStore::write(&store, Arc::new(SeriesBatch { series: metrics() })).await.unwrap();
    let config = Config { endpoint: ([127, 0, 0, 1], 0).into(), ..Config::default() };
    let console = Console::bind(&config, &store).await.unwrap();
    let base = format!("http://{}", console.address().unwrap());
    let drain = Drain::new(Duration::from_secs(5));
    tokio::spawn(console.serve(drain.clone()));
    Served { base, client: mirador_support::backends::client::client().unwrap(), drain, _folder: folder }
}

impl Served {
    async fn ask(&self, path: &str) -> (u16, Value) {
        let answer = self.client.get(format!("{}{path}", self.base)).send().await.unwrap();
        let status = answer.status().as_u16();
        assert_eq!(answer.headers()["content-type"], "application/json", "{path}");
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap())
    }

    async fn good(&self, path: &str) -> Value {
        let (status, body) = self.ask(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    async fn list(&self, path: &str, key: &str) -> Vec<String> {
        let body = self.good(path).await;
        body.as_array().unwrap().iter().map(|row| row[key].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.drain.start();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_those_of_spans_records_and_red() {
    let served = served().await;
    assert_eq!(served.good("/api/v1/services").await, json!(["cart", "mail", "pay", "red-only"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn red_counts_through_resets_and_has_the_quantiles_of_its_buckets() {
    let served = served().await;
    let red = served.good("/api/v1/red?since=1h").await;
    let [row] = red.as_array().unwrap().as_slice() else { panic!("{red}") };
    assert_eq!(
        (row["calls"].as_f64(), row["errors"].as_f64(), row["error_ratio"].as_f64()),
        (Some(20.0), Some(5.0), Some(0.25))
    );
    assert_eq!((row["kind"].as_str(), row["span"].as_str()), (Some("server"), Some("GET")));
    assert_eq!((row["p50_ms"].as_f64(), row["p95_ms"].as_f64()), (Some(10.0), Some(19.0)));
    assert_eq!(served.good("/api/v1/red?since=1ms").await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_graph_has_its_edges() {
    let served = served().await;
    let graph = served.good("/api/v1/graph").await;
    let [row] = graph.as_array().unwrap().as_slice() else { panic!("{graph}") };
    assert_eq!((row["client"].as_str(), row["server"].as_str()), (Some("web"), Some("cart")));
    assert_eq!((row["calls"].as_f64(), row["failed"].as_f64()), (Some(8.0), Some(2.0)));
    assert_eq!(row["p50_ms"], Value::Null, "without buckets there is no quantile");
}

#[tokio::test(flavor = "multi_thread")]
async fn anomalies_stand_flagged_first_then_by_peak() {
    let served = served_with(Some(episode())).await;
    let found = served.good("/api/v1/anomalies").await;
    let rows: Vec<_> = found
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            (row["labels"]["pod"].as_str(), row["flagged"].as_bool(), row["peak"].as_f64(), row["score"].as_f64())
        })
        .collect();
    assert_eq!(rows, [(Some("a"), Some(true), Some(0.9), Some(0.4)), (Some("b"), Some(false), Some(0.95), Some(0.95))]);
    assert_eq!(served.good("/api/v1/anomalies?limit=1").await.as_array().unwrap().len(), 1);
    for (filter, pods) in [
        ("flagged=true", vec!["a"]),
        ("flagged=false", vec!["b"]),
        ("service=cart", vec!["a"]),
        ("service=mail", vec!["b"]),
        ("service=cart&flagged=false", vec![]),
        ("incident=00000000000000ab", vec!["a"]),
        ("incident=1", vec![]),
    ] {
        let found = served.good(&format!("/api/v1/anomalies?{filter}")).await;
        let found: Vec<_> = found.as_array().unwrap().iter().filter_map(|row| row["labels"]["pod"].as_str()).collect();
        assert_eq!(found, pods, "{filter}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anomaly_shows_its_latest_episode_with_the_reason_of_its_opening_and_its_incident() {
    let served = served_with(Some(episode())).await;
    let found = served.good("/api/v1/anomalies").await;
    let episode = &found[0]["episode"];
    assert_eq!((episode["kind"].as_str(), episode["reason"].as_str()), (Some("closed"), Some("value too high")));
    assert_eq!((episode["direction"].as_str(), episode["part"].as_str()), (Some("high"), Some("value")));
    assert_eq!((episode["value"].as_f64(), episode["expected_high"].as_f64()), (Some(9.0), Some(2.5)));
    assert_eq!((episode["peak"].as_f64(), episode["opened_ms"].as_i64()), (Some(0.9), Some(7)));
    assert_eq!(
        episode["incident"],
        json!({"id": "00000000000000ab", "opened_ms": 5, "series": 3, "lead": "up{pod=\"a\"} value"})
    );
    assert_eq!(found[1].get("episode"), None, "nothing was told of the other series");
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_are_found_by_service_error_and_duration() {
    let served = served().await;
    let (one, two) = ("01".repeat(16), "02".repeat(16));
    assert_eq!(served.list("/api/v1/traces", "trace_id").await, [two.clone(), one.clone()]);
    assert_eq!(served.list("/api/v1/traces?limit=1", "trace_id").await.len(), 1);
    assert_eq!(served.list("/api/v1/traces?service=cart", "trace_id").await, std::slice::from_ref(&one));
    assert_eq!(served.list("/api/v1/traces?errors=true", "root_span").await, ["op 1"]);
    assert_eq!(served.list("/api/v1/traces?min_duration_ms=100.5", "trace_id").await, [two]);
    assert!(served.list("/api/v1/traces?since=1s", "trace_id").await.is_empty());
    assert_eq!(served.list(&format!("/api/v1/traces/{one}"), "name").await, ["op 1", "op 2"]);
    let (status, body) = served.ask(&format!("/api/v1/traces/{}", "0f".repeat(16))).await;
    assert!(status == 404 && body["error"].as_str().unwrap().contains("0f0f"), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn log_records_are_found_by_service_severity_trace_and_text() {
    let served = served().await;
    assert_eq!(served.list("/api/v1/logs", "body").await.len(), 3);
    assert_eq!(served.list("/api/v1/logs?service=mail", "body").await, ["sent"]);
    assert_eq!(served.list("/api/v1/logs?min_severity=17", "body").await, [HTML]);
    assert_eq!(served.list("/api/v1/logs?contains=aid", "body").await, ["paid"]);
    assert_eq!(served.list("/api/v1/logs?contains=%25", "body").await, [""; 0], "a percent sign is no pattern");
    assert_eq!(served.list(&format!("/api/v1/logs?trace_id={}", "01".repeat(16)), "body").await, ["paid"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn series_are_found_by_name_and_labels_and_what_json_cannot_say_is_null() {
    let served = served().await;
    let names = served.good("/api/v1/metrics").await;
    assert!(names.as_array().unwrap().contains(&json!({"name": "up", "series": 2})), "{names}");
    let all = served.good("/api/v1/series?name=up").await;
    assert_eq!(all.as_array().unwrap().len(), 2);
    let one = served.good("/api/v1/series?name=up&pod=a").await;
    assert_eq!(one[0]["labels"], json!({"pod": "a"}));
    assert_eq!((&one[0]["samples"][0][1], &one[0]["samples"][1][1]), (&json!(1.0), &Value::Null));
    assert_eq!(served.good("/api/v1/series?name=up&pod=c").await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_parameter_is_refused_by_its_name() {
    let served = served().await;
    for (path, name) in [
        ("red?since=yesterday", "since"),
        ("red?limit=many", "limit"),
        ("red?limit=-1", "limit"),
        ("red?limit=0", "limit"),
        ("red?color=red", "color"),
        ("graph?since=", "since"),
        ("anomalies?since=-5m", "since"),
        ("anomalies?flagged=maybe", "flagged"),
        ("anomalies?color=red", "color"),
        ("services?limit=1", "limit"),
        ("metrics?name=up", "name"),
        ("traces?errors=maybe", "errors"),
        ("traces?min_duration_ms=NaN", "min_duration_ms"),
        ("traces?min_duration_ms=-1", "min_duration_ms"),
        ("traces?limit=1.5", "limit"),
        ("logs?min_severity=high", "min_severity"),
        ("logs?trace_id=1", "trace_id"),
        ("traces/xyz", "trace_id"),
        ("traces/%2B1%2B1%2B1%2B1%2B1%2B1%2B1%2B1%2B1%2B1%2B1%2B1%2B1%2B1%2B1%2B1", "trace_id"),
        ("series", "name"),
        ("series?name=up&since=1", "since"),
    ] {
        let (status, body) = served.ask(&format!("/api/v1/{path}")).await;
        assert_eq!(status, 400, "{path}: {body}");
        assert!(body["error"].as_str().unwrap().contains(name), "{path}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_paths_and_other_methods_are_answered_in_json() {
    let served = served().await;
    for path in ["/api/v1/nothing", "/api/nothing", "/api", "/nothing", "/page.jsx"] {
        let (status, body) = served.ask(path).await;
        assert!(status == 404 && body["error"].as_str().unwrap().contains(path), "{path}: {body}");
    }
    let answer = served.client.post(format!("{}/api/v1/red", served.base)).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 405);
    assert!(answer.text().await.unwrap().contains("GET"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_from_1_to_1000_everywhere_and_another_one_is_refused_with_the_bound() {
    let served = served().await;
    for path in ["logs?", "traces?", "anomalies?", "red?", "graph?", "series?name=up&"] {
        for right in ["1", "1000"] {
            served.good(&format!("/api/v1/{path}limit={right}")).await;
        }
        for limit in ["0", "1001", "99999999", "18446744073709551616", "-1", "1.5", "many", ""] {
            let (status, body) = served.ask(&format!("/api/v1/{path}limit={limit}")).await;
            let told = format!("limit={limit}: a whole number from 1 to 1000 is right");
            assert_eq!((status, body["error"].as_str()), (400, Some(told.as_str())), "{path}");
        }
    }
    assert_eq!(served.good("/api/v1/series?name=up&limit=1").await.as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_that_is_not_known_is_told_with_the_one_that_is_meant_and_all_there_are() {
    let served = served().await;
    for (asked, told) in [
        (
            "logs?limt=5",
            "limt is no parameter of /api/v1/logs; did you mean limit? It has since, limit, service, min_severity, trace_id, contains",
        ),
        (
            "traces?min-duration-ms=5",
            "min-duration-ms is no parameter of /api/v1/traces; did you mean min_duration_ms? It has since, limit, service, errors, min_duration_ms",
        ),
        ("red?color=red", "color is no parameter of /api/v1/red; it has since, limit"),
        ("services?since=1m", "since is no parameter of /api/v1/services, which has none"),
        ("red?limit=1&limit=2", "limit is given twice: once is right"),
        ("logs?min_severity=25", "min_severity=25: a whole number from 0 to 24 is right"),
        ("anomalies?flagged=1", "flagged=1: true or false is right"),
        ("traces?min_duration_ms=inf", "min_duration_ms=inf: a number of milliseconds, 0 or more, is right"),
    ] {
        let (status, body) = served.ask(&format!("/api/v1/{asked}")).await;
        assert_eq!((status, body["error"].as_str()), (400, Some(told)), "{asked}");
    }
    let long = "x".repeat(5000);
    let (status, body) = served.ask(&format!("/api/v1/red?{long}=1")).await;
    assert!(status == 400 && body["error"].as_str().unwrap().len() < 200, "{body}");
    let (status, body) = served.ask(&format!("/api/v1/traces/{}?since=1m", "01".repeat(16))).await;
    assert!(status == 400 && body["error"].as_str().unwrap().starts_with("since is no parameter"), "{body}");
    let (status, _) = served.ask("/api/v1/traces/%ff").await;
    assert_eq!(status, 400, "what is no text is answered in JSON, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_parameters_are_those_that_there_are() {
    let served = served().await;
    let page = include_str!("../../../../docs/embedded.md");
    let mut paths = 0;
    for row in page.lines().filter(|line| line.starts_with("| `/api/v1/")) {
        let cells: Vec<String> = row.split('|').map(|cell| cell.trim().replace('`', "")).collect();
        let (path, parameters) = (cells[1].replace("{trace_id}", &"01".repeat(16)), &cells[2]);
        paths += 1;
        if path.ends_with("/series") {
            assert_eq!(parameters, "name, since, limit, and any label");
            continue;
        }
        let (status, body) = served.ask(&format!("{path}?zzz=1")).await;
        let told = body["error"].as_str().unwrap();
        let end = if parameters == "none" { "which has none".to_owned() } else { format!("it has {parameters}") };
        assert!(status == 400 && told.ends_with(&end), "{path}: {told}");
    }
    assert_eq!(paths, 9, "every path is on the page");
}

#[tokio::test(flavor = "multi_thread")]
async fn text_of_telemetry_cannot_become_a_page_and_the_page_runs_only_its_own_script() {
    let served = served().await;
    let answer = served.client.get(format!("{}/api/v1/logs", served.base)).send().await.unwrap();
    let headers = answer.headers().clone();
    assert_eq!(
        (&headers["content-type"], &headers["x-content-type-options"]),
        (&"application/json".parse().unwrap(), &"nosniff".parse().unwrap())
    );
    assert_eq!(headers["cache-control"], "no-store");
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
    ] {
        let answer = served.client.get(format!("{}{path}", served.base)).send().await.unwrap();
        let policy = answer.headers()["content-security-policy"].to_str().unwrap().to_owned();
        assert_eq!((answer.status().as_u16(), answer.headers()["content-type"].to_str().unwrap()), (200, kind));
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self'") && policy.contains("frame-ancestors 'none'"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        let body = answer.text().await.unwrap();
        assert!(!body.contains("innerHTML") && !body.contains("src=\"http") && !body.contains("onclick=\""), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_made_to_point_here_is_refused_for_the_page_and_its_api() {
    let served = served().await;
    for path in ["/", "/page.js", "/api/v1/services", "/nowhere"] {
        for (host, status) in [("evil.example", 421), ("evil.example:14380", 421), ("localhost:1", 200)] {
            let asked = served.client.get(format!("{}{path}", served.base)).header("host", host);
            let answer = asked.send().await.unwrap();
            let expected = if path == "/nowhere" && status == 200 { 404 } else { status };
            assert_eq!(answer.status().as_u16(), expected, "{host}{path}");
            if status == 421 {
                let body: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
                let told = body["error"].as_str().unwrap();
                assert!(told.contains(host) && told.contains("console.hosts"), "{told}");
            }
        }
    }
}
