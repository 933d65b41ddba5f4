//! The transcoder against `opentelemetry-proto`: what that crate writes as JSON must come back equal,
//! and every leniency of the mapping is taken.

use mirador_service::memory::Budget;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, EntityRef, InstrumentationScope, KeyValue, KeyValueList, any_value,
};
use opentelemetry_proto::tonic::logs::v1 as logs;
use opentelemetry_proto::tonic::metrics::v1 as metrics;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1 as trace;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost::Message as _;

use super::*;

const LIMIT: usize = 1 << 20;

fn transcode(signal: Signal, json: &str) -> Result<Transcoded, Fault> {
    let budget = Budget::new(8 << 20);
    let mut permit = budget.try_acquire(json.len()).expect("it is free");
    let output = to_protobuf(signal, json.as_bytes(), LIMIT, &mut permit)?;
    assert!(permit.bytes() >= json.len() + output.body.len());
    drop(permit);
    assert_eq!(budget.used(), 0);
    Ok(output)
}

fn convert(signal: Signal, json: &str) -> Result<Bytes, Fault> {
    transcode(signal, json).map(|output| output.body)
}

/// The warning that a client gets.
fn warning(signal: Signal, json: &str) -> Option<String> {
    transcode(signal, json).expect(json).ignored.map(|ignored| ignored.to_string())
}

fn traces(json: &str) -> ExportTraceServiceRequest {
    let output = convert(Signal::Traces, json).unwrap_or_else(|fault| panic!("{json}: {fault:?}"));
    ExportTraceServiceRequest::decode(output).expect("the output is protobuf")
}

fn refused(signal: Signal, json: &str) -> String {
    let fault = convert(signal, json).expect_err(json);
    assert_eq!((fault.reason, fault.retry_after), ("json", None), "{json}");
    fault.message.into_owned()
}

fn span(json: &str) -> trace::Span {
    let request = traces(&format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{json}]}}]}}]}}"#));
    request.resource_spans[0].scope_spans[0].spans[0].clone()
}

fn value(json: &str) -> Option<any_value::Value> {
    let span = span(&format!(r#"{{"attributes":[{{"key":"k","value":{json}}}]}}"#));
    span.attributes[0].value.clone().and_then(|value| value.value)
}

#[test]
fn the_example_of_the_specification_is_read() {
    // opentelemetry-proto, examples/trace.json.
    let json = r#"{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"my.service"}}]},
        "scopeSpans":[{"scope":{"name":"my.library","version":"1.0.0","attributes":[]},"spans":[{
        "traceId":"5B8EFFF798038103D269B633813FC60C","spanId":"EEE19B7EC3C1B174","parentSpanId":"EEE19B7EC3C1B173",
        "name":"I'm a server span","startTimeUnixNano":"1544712660000000000","endTimeUnixNano":"1544712661000000000",
        "kind":2,"attributes":[{"key":"my.span.attr","value":{"stringValue":"some value"}}]}]}]}]}"#;
    let request = traces(json);
    let scope = &request.resource_spans[0].scope_spans[0];
    let span = &scope.spans[0];
    assert_eq!(span.trace_id, 0x5B8E_FFF7_9803_8103_D269_B633_813F_C60C_u128.to_be_bytes());
    assert_eq!(span.parent_span_id, 0xEEE1_9B7E_C3C1_B173_u64.to_be_bytes());
    assert_eq!((span.kind, span.start_time_unix_nano), (2, 1_544_712_660_000_000_000));
    assert_eq!(scope.scope.as_ref().map(|scope| scope.version.as_str()), Some("1.0.0"));
}

#[test]
fn numbers_may_be_strings_and_strings_numbers() {
    assert_eq!(span(r#"{"startTimeUnixNano":18446744073709551615}"#).start_time_unix_nano, u64::MAX);
    assert_eq!(span(r#"{"startTimeUnixNano":"18446744073709551615"}"#).start_time_unix_nano, u64::MAX);
    assert_eq!(span(r#"{"startTimeUnixNano":1.5e3,"flags":"257"}"#).start_time_unix_nano, 1500);
    assert_eq!(value(r#"{"intValue":-9223372036854775808}"#), Some(any_value::Value::IntValue(i64::MIN)));
    assert_eq!(value(r#"{"intValue":"-42"}"#), Some(any_value::Value::IntValue(-42)));
    assert_eq!(value(r#"{"doubleValue":"0.5"}"#), Some(any_value::Value::DoubleValue(0.5)));
    assert_eq!(value(r#"{"doubleValue":3}"#), Some(any_value::Value::DoubleValue(3.0)));
    assert_eq!(value(r#"{"doubleValue":"-Infinity"}"#), Some(any_value::Value::DoubleValue(f64::NEG_INFINITY)));
    assert!(matches!(value(r#"{"doubleValue":"NaN"}"#), Some(any_value::Value::DoubleValue(v)) if v.is_nan()));
}

#[test]
fn enums_may_be_numbers_or_names_and_unknown_numbers_stay() {
    assert_eq!(span(r#"{"kind":3}"#).kind, 3);
    assert_eq!(span(r#"{"kind":"SPAN_KIND_CLIENT"}"#).kind, 3);
    assert_eq!(span(r#"{"kind":77}"#).kind, 77);
    assert_eq!(span(r#"{"kind":-1}"#).kind, -1);
    assert_eq!(span(r#"{"status":{"code":"STATUS_CODE_ERROR"}}"#).status.expect("a status").code, 2);
    assert!(
        refused(Signal::Traces, r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"kind":"CLIENT"}]}]}]}"#)
            .contains("kind")
    );
}

#[test]
fn bytes_are_base64_of_either_alphabet_with_or_without_padding() {
    for text in ["-_8=", "+/8=", "+/8", "-_8"] {
        assert_eq!(
            value(&format!(r#"{{"bytesValue":"{text}"}}"#)),
            Some(any_value::Value::BytesValue(vec![0xfb, 0xff]))
        );
    }
}

#[test]
fn unknown_keys_and_null_are_absent_whatever_they_hold() {
    let span = span(
        r#"{"name":null,"x":{"y":[1,{"z":null}]},"trace_id":"00","attributes":null,"status":null,
            "kind":null,"links":[null,{}],"n\u0061me2":1}"#,
    );
    assert_eq!(span, trace::Span { links: vec![trace::span::Link::default(); 2], ..Default::default() });
    assert_eq!(traces(r#"{"unknown":[]}"#), ExportTraceServiceRequest::default());
    assert_eq!(value("{}"), None);
    assert_eq!(value(r#"{"futureValue":1}"#), None);
    for empty in ["", "  \n", "{}", "null", r#"{"resourceSpans":[]}"#] {
        assert!(convert(Signal::Traces, empty).expect(empty).is_empty());
    }
}

#[test]
fn the_first_key_in_snake_case_is_named_and_other_unknown_keys_are_not() {
    for quiet in [
        "",
        "{}",
        r#"{"unknown":[],"resourcespans":[],"ResourceSpans":[],"resource-spans":[]}"#,
        r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"00","future_key":1,"status":{"unknown_key":1}}]}]}]}"#,
        // What an unknown key holds is not looked at.
        r#"{"x":{"resource_spans":[{"scope_spans":[]}]}}"#,
    ] {
        assert_eq!(warning(Signal::Traces, quiet), None, "{quiet}");
    }
    let told = warning(Signal::Traces, r#"{"resource_spans":[{"scope_spans":[]}]}"#).expect("it is told");
    assert!(told.contains(r#""resource_spans""#) && told.contains(r#""resourceSpans""#), "{told}");
    let span = r#"{"traceId":"00","x":1,"start_time_unix_nano":1,"span_id":"00"}"#;
    let json = format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{span}]}}],"schema_url":""}}]}}"#);
    let told = warning(Signal::Traces, &json).expect("it is told");
    assert!(told.contains(r#""start_time_unix_nano" (span)"#) && told.contains(r#""startTimeUnixNano""#), "{told}");
    let point = r#"{"as_int":1}"#;
    let json = format!(
        r#"{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":[{{"gauge":{{"dataPoints":[{point}]}}}}]}}]}}]}}"#
    );
    assert!(warning(Signal::Metrics, &json).expect("it is told").contains("as_int"));
    assert!(warning(Signal::Logs, r#"{"resourceLogs":[],"resource_logs":[]}"#).is_some());
}

#[test]
fn escaped_keys_and_text_are_unescaped() {
    assert_eq!(span(r#"{"n\u0061me":"a\"\u00e9\ud83d\ude00\n"}"#).name, "a\"\u{e9}\u{1f600}\n");
}

#[test]
fn what_is_not_otlp_json_is_refused_with_its_place() {
    for json in [
        "{",
        "[]",
        "1",
        r#""text""#,
        "{}{}",
        r#"{"resourceSpans":{}}"#,
        r#"{"resourceSpans":[[]]}"#,
        r#"{"resourceSpans":[1]}"#,
        r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"xyz0"}]}]}]}"#,
        r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"abc"}]}]}]}"#,
        r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":7}]}]}]}"#,
        r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":{}}]}]}]}"#,
        r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":["a"]}]}]}]}"#,
        r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"startTimeUnixNano":-1}]}]}]}"#,
        r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"startTimeUnixNano":1.5}]}]}]}"#,
        r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"startTimeUnixNano":"soon"}]}]}]}"#,
        r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"droppedLinksCount":4294967296}]}]}]}"#,
        "{\"resourceSpans\":[{\"schemaUrl\":\"\u{1}\"}]}",
    ] {
        let message = refused(Signal::Traces, json);
        assert!(message.contains("line 1 column"), "{json}: {message}");
    }
}

#[test]
fn depth_is_bounded() {
    let nested = |depth: usize| {
        let value = r#"{"arrayValue":{"values":["#.repeat(depth) + "{}" + &"]}}".repeat(depth);
        format!(r#"{{"resourceSpans":[{{"resource":{{"attributes":[{{"value":{value}}}]}}}}]}}"#)
    };
    assert!(convert(Signal::Traces, &nested(32)).is_ok());
    assert!(refused(Signal::Traces, &nested(5000)).contains("recursion"));
    let ignored = format!("{{\"x\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(convert(Signal::Traces, &ignored).is_ok(), "what is skipped needs no stack");
}

#[test]
fn the_output_is_limited_and_paid_for() {
    // Two bytes of JSON for nine of protobuf.
    let counts = "0,".repeat(200_000) + "0";
    let json = format!(
        r#"{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":[{{"histogram":{{"dataPoints":[{{"bucketCounts":[{counts}]}}]}}}}]}}]}}]}}"#
    );
    assert_eq!(convert(Signal::Metrics, &json).expect_err("1.8 MB").reason, "too_large_decompressed");
    for (others, reason) in [(15 << 20, "memory"), (0, "too_large_for_memory")] {
        let budget = Budget::new((1 << 20) + others);
        let held = budget.try_acquire(others).expect("it is free");
        let mut permit = budget.try_acquire(json.len()).expect("it is free");
        let fault = to_protobuf(Signal::Metrics, json.as_bytes(), 64 << 20, &mut permit).expect_err("no room");
        assert_eq!((fault.reason, fault.retry_after.is_some()), (reason, reason == "memory"));
        drop((permit, held));
        assert_eq!(budget.used(), 0);
    }
}

fn any_value() -> impl Strategy<Value = AnyValue> {
    use any_value::Value;
    let leaf = prop_oneof![
        ".{0,8}".prop_map(Value::StringValue),
        any::<bool>().prop_map(Value::BoolValue),
        any::<i64>().prop_map(Value::IntValue),
        (-1e9..1e9).prop_map(Value::DoubleValue),
        vec(any::<u8>(), 0..200).prop_map(Value::BytesValue),
    ];
    let value = leaf.prop_recursive(3, 20, 4, |inner| {
        let inner = inner.prop_map(|value| AnyValue { value: Some(value) }).boxed();
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|values| Value::ArrayValue(ArrayValue { values })),
            vec((".{0,6}", inner), 0..4).prop_map(|list| Value::KvlistValue(KeyValueList {
                values: list
                    .into_iter()
                    .map(|(key, value)| KeyValue { key, value: Some(value), ..Default::default() })
                    .collect()
            })),
        ]
    });
    value.prop_map(|value| AnyValue { value: Some(value) })
}

fn attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    let pair = ("[a-z.]{1,12}", option::weighted(0.9, any_value()));
    vec(pair.prop_map(|(key, value)| KeyValue { key, value, ..Default::default() }), 0..4)
}

fn resource() -> impl Strategy<Value = Option<Resource>> {
    let entity = ("[a-z]{0,5}", vec("[a-z]{0,5}", 0..3)).prop_map(|(r#type, id_keys)| EntityRef {
        schema_url: "s".to_owned(),
        r#type,
        description_keys: id_keys.clone(),
        id_keys,
    });
    option::of((attributes(), any::<u32>(), vec(entity, 0..2)).prop_map(|(attributes, dropped, entity_refs)| {
        Resource { attributes, dropped_attributes_count: dropped, entity_refs }
    }))
}

fn scope() -> impl Strategy<Value = Option<InstrumentationScope>> {
    option::of((".{0,5}", ".{0,5}", attributes(), any::<u32>()).prop_map(|(name, version, attributes, dropped)| {
        InstrumentationScope { name, version, attributes, dropped_attributes_count: dropped }
    }))
}

fn id(length: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(Vec::new()), vec(any::<u8>(), length)]
}

fn a_span() -> impl Strategy<Value = trace::Span> {
    let event = (any::<u64>(), ".{0,5}", attributes(), any::<u32>()).prop_map(|(time, name, attributes, dropped)| {
        trace::span::Event { time_unix_nano: time, name, attributes, dropped_attributes_count: dropped }
    });
    let link = (id(16), id(8), ".{0,5}", attributes(), any::<u32>(), any::<u32>()).prop_map(
        |(trace_id, span_id, trace_state, attributes, dropped, flags)| trace::span::Link {
            trace_id,
            span_id,
            trace_state,
            attributes,
            dropped_attributes_count: dropped,
            flags,
        },
    );
    let status = option::of((".{0,5}", 0..3).prop_map(|(message, code)| trace::Status { message, code }));
    (
        (id(16), id(8), id(8), ".{0,5}", ".{0,20}", 0..6),
        (any::<u64>(), any::<u64>(), any::<[u32; 4]>()),
        (attributes(), vec(event, 0..3), vec(link, 0..3), status),
    )
        .prop_map(|((trace_id, span_id, parent_span_id, trace_state, name, kind), (start, end, n), rest)| {
            trace::Span {
                trace_id,
                span_id,
                parent_span_id,
                trace_state,
                name,
                kind,
                start_time_unix_nano: start,
                end_time_unix_nano: end,
                attributes: rest.0,
                events: rest.1,
                links: rest.2,
                status: rest.3,
                dropped_attributes_count: n[0],
                dropped_events_count: n[1],
                dropped_links_count: n[2],
                flags: n[3],
            }
        })
}

fn a_record() -> impl Strategy<Value = logs::LogRecord> {
    (
        (any::<[u64; 2]>(), 0..25, ".{0,5}", option::of(any_value())),
        (attributes(), any::<[u32; 2]>(), id(16), id(8), ".{0,5}"),
    )
        .prop_map(
            |((times, severity_number, severity_text, body), (attributes, n, trace_id, span_id, event_name))| {
                logs::LogRecord {
                    time_unix_nano: times[0],
                    observed_time_unix_nano: times[1],
                    severity_number,
                    severity_text,
                    body,
                    attributes,
                    dropped_attributes_count: n[0],
                    flags: n[1],
                    trace_id,
                    span_id,
                    event_name,
                }
            },
        )
}

fn float() -> impl Strategy<Value = f64> {
    -1e12..1e12
}

fn exemplar() -> impl Strategy<Value = metrics::Exemplar> {
    use metrics::exemplar::Value;
    let value = prop_oneof![float().prop_map(Value::AsDouble), any::<i64>().prop_map(Value::AsInt)];
    (attributes(), any::<u64>(), id(8), id(16), value).prop_map(
        |(filtered_attributes, time, span_id, trace_id, value)| metrics::Exemplar {
            filtered_attributes,
            time_unix_nano: time,
            span_id,
            trace_id,
            value: Some(value),
        },
    )
}

fn number_point() -> impl Strategy<Value = metrics::NumberDataPoint> {
    use metrics::number_data_point::Value;
    let value = prop_oneof![float().prop_map(Value::AsDouble), any::<i64>().prop_map(Value::AsInt)];
    (attributes(), any::<[u64; 2]>(), vec(exemplar(), 0..2), any::<u32>(), value).prop_map(
        |(attributes, times, exemplars, flags, value)| metrics::NumberDataPoint {
            attributes,
            start_time_unix_nano: times[0],
            time_unix_nano: times[1],
            exemplars,
            flags,
            value: Some(value),
        },
    )
}

fn histogram_point() -> impl Strategy<Value = metrics::HistogramDataPoint> {
    let floats = [option::of(float()), option::of(float()), option::of(float())];
    (
        attributes(),
        any::<[u64; 3]>(),
        floats,
        vec(any::<u64>(), 0..5),
        vec(float(), 0..4),
        vec(exemplar(), 0..2),
        any::<u32>(),
    )
        .prop_map(|(attributes, n, [sum, min, max], bucket_counts, explicit_bounds, exemplars, flags)| {
            metrics::HistogramDataPoint {
                attributes,
                start_time_unix_nano: n[0],
                time_unix_nano: n[1],
                count: n[2],
                sum,
                min,
                max,
                bucket_counts,
                explicit_bounds,
                exemplars,
                flags,
            }
        })
}

fn exponential_point() -> impl Strategy<Value = metrics::ExponentialHistogramDataPoint> {
    use metrics::exponential_histogram_data_point::Buckets;
    let buckets = || {
        let buckets = (any::<i32>(), vec(any::<u64>(), 0..5));
        option::of(buckets.prop_map(|(offset, bucket_counts)| Buckets { offset, bucket_counts }))
    };
    (histogram_point(), any::<i32>(), any::<u64>(), buckets(), buckets(), float()).prop_map(
        |(point, scale, zero_count, positive, negative, zero_threshold)| metrics::ExponentialHistogramDataPoint {
            attributes: point.attributes,
            start_time_unix_nano: point.start_time_unix_nano,
            time_unix_nano: point.time_unix_nano,
            count: point.count,
            sum: point.sum,
            min: point.min,
            max: point.max,
            exemplars: point.exemplars,
            flags: point.flags,
            scale,
            zero_count,
            positive,
            negative,
            zero_threshold,
        },
    )
}

fn a_metric() -> impl Strategy<Value = metrics::Metric> {
    use metrics::metric::Data;
    let quantile = (float(), float())
        .prop_map(|(quantile, value)| metrics::summary_data_point::ValueAtQuantile { quantile, value });
    let summary = (attributes(), any::<[u64; 3]>(), float(), vec(quantile, 0..3), any::<u32>()).prop_map(
        |(attributes, n, sum, quantile_values, flags)| metrics::SummaryDataPoint {
            attributes,
            start_time_unix_nano: n[0],
            time_unix_nano: n[1],
            count: n[2],
            sum,
            quantile_values,
            flags,
        },
    );
    let data = prop_oneof![
        vec(number_point(), 0..3).prop_map(|data_points| Data::Gauge(metrics::Gauge { data_points })),
        (vec(number_point(), 0..3), 0..3, any::<bool>()).prop_map(
            |(data_points, aggregation_temporality, is_monotonic)| {
                Data::Sum(metrics::Sum { data_points, aggregation_temporality, is_monotonic })
            }
        ),
        (vec(histogram_point(), 0..3), 0..3).prop_map(|(data_points, aggregation_temporality)| {
            Data::Histogram(metrics::Histogram { data_points, aggregation_temporality })
        }),
        (vec(exponential_point(), 0..3), 0..3).prop_map(|(data_points, aggregation_temporality)| {
            Data::ExponentialHistogram(metrics::ExponentialHistogram { data_points, aggregation_temporality })
        }),
        vec(summary, 0..3).prop_map(|data_points| Data::Summary(metrics::Summary { data_points })),
    ];
    (".{0,8}", ".{0,8}", ".{0,3}", attributes(), option::of(data)).prop_map(
        |(name, description, unit, metadata, data)| metrics::Metric { name, description, unit, metadata, data },
    )
}

/// What the crate writes for a request must come back as that request.
fn comes_back<M>(signal: Signal, request: &M) -> Result<(), TestCaseError>
where
    M: prost::Message + serde::Serialize + Default + PartialEq + fmt::Debug,
{
    let json = serde_json::to_string(request).expect("it is written");
    let output = convert(signal, &json).map_err(|fault| TestCaseError::fail(format!("{json}: {fault:?}")))?;
    prop_assert!(output.len() <= json.len() * 5);
    let back = M::decode(output).map_err(|error| TestCaseError::fail(format!("{json}: {error}")))?;
    prop_assert!(back == *request, "{json}\nbecame\n{back:?}");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn traces_come_back_equal(groups in vec((resource(), scope(), vec(a_span(), 0..4), ".{0,3}"), 0..3)) {
        let resource_spans = groups.into_iter().map(|(resource, scope, spans, schema_url)| trace::ResourceSpans {
            resource,
            schema_url: schema_url.clone(),
            scope_spans: vec![trace::ScopeSpans { scope, spans, schema_url }],
        });
        comes_back(Signal::Traces, &ExportTraceServiceRequest { resource_spans: resource_spans.collect() })?;
    }

    #[test]
    fn metrics_come_back_equal(groups in vec((resource(), scope(), vec(a_metric(), 0..4), ".{0,3}"), 0..3)) {
        let resource_metrics = groups.into_iter().map(|(resource, scope, metrics, schema_url)| metrics::ResourceMetrics {
            resource,
            schema_url: schema_url.clone(),
            scope_metrics: vec![metrics::ScopeMetrics { scope, metrics, schema_url }],
        });
        comes_back(Signal::Metrics, &ExportMetricsServiceRequest { resource_metrics: resource_metrics.collect() })?;
    }

    #[test]
    fn logs_come_back_equal(groups in vec((resource(), scope(), vec(a_record(), 0..4), ".{0,3}"), 0..3)) {
        let resource_logs = groups.into_iter().map(|(resource, scope, log_records, schema_url)| logs::ResourceLogs {
            resource,
            schema_url: schema_url.clone(),
            scope_logs: vec![logs::ScopeLogs { scope, log_records, schema_url }],
        });
        comes_back(Signal::Logs, &ExportLogsServiceRequest { resource_logs: resource_logs.collect() })?;
    }

    #[test]
    fn noise_never_panics(json in r#"[\[\]{}:,"a-z0-9. \\u-]{0,200}"#) {
        drop(convert(Signal::Metrics, &json));
    }
}
