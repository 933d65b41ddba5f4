//! The text form of values, as the collector's `AsString` writes it.

use mirador_otlp::{Limits, Request, Signal};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use prost::Message;

fn text(value: Option<Value>) -> String {
    let record = LogRecord { body: Some(AnyValue { value }), ..LogRecord::default() };
    let scope = ScopeLogs { log_records: vec![record], ..ScopeLogs::default() };
    let resource = ResourceLogs { scope_logs: vec![scope], ..ResourceLogs::default() };
    let body = ExportLogsServiceRequest { resource_logs: vec![resource] }.encode_to_vec();
    let request = Request::parse(Signal::Logs, body.into(), &Limits::default()).expect("prost wrote it");
    let mut records = request.resource_logs().flat_map(|entry| entry.scopes()).flat_map(|scope| scope.log_records());
    let body = records.next().expect("there is one").body();
    assert_eq!(body.to_text(), body.to_string());
    body.to_string()
}

#[expect(clippy::unnecessary_wraps, reason = "what `text` takes")]
fn list(values: impl IntoIterator<Item = Value>) -> Option<Value> {
    let values = values.into_iter().map(|value| AnyValue { value: Some(value) }).collect();
    Some(Value::ArrayValue(ArrayValue { values }))
}

fn entry(key: &str, value: Option<Value>) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value }), ..KeyValue::default() }
}

#[test]
fn scalars_are_written_as_the_collector_writes_them() {
    assert_eq!(text(None), "");
    assert_eq!(text(Some(Value::StringValue("a \"b\" <c>".to_owned()))), "a \"b\" <c>");
    assert_eq!(text(Some(Value::BoolValue(true))), "true");
    assert_eq!(text(Some(Value::IntValue(i64::MIN))), "-9223372036854775808");
    assert_eq!(text(Some(Value::BytesValue(vec![0xFB, 0xFF, 1]))), "+/8B");
    assert_eq!(text(Some(Value::BytesValue(vec![1]))), "AQ==");
}

#[test]
fn doubles_have_an_exponent_only_where_ecmascript_has_one() {
    let cases = [
        (0.0, "0"),
        (-0.0, "-0"),
        (1.0, "1"),
        (0.1, "0.1"),
        (1e-6, "0.000001"),
        (1.5e-7, "1.5e-7"),
        (1e-10, "1e-10"),
        (123_456_789.0, "123456789"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (-1.25e300, "-1.25e+300"),
        (f64::NAN, "json: unsupported value: NaN"),
        (f64::INFINITY, "json: unsupported value: +Inf"),
        (f64::NEG_INFINITY, "json: unsupported value: -Inf"),
    ];
    for (number, expected) in cases {
        assert_eq!(text(Some(Value::DoubleValue(number))), expected);
    }
}

#[test]
fn lists_and_maps_are_json_with_sorted_names() {
    let inner = list([Value::BytesValue(vec![1]), Value::BoolValue(false)]);
    let map = Value::KvlistValue(KeyValueList {
        values: vec![
            entry("z", Some(Value::DoubleValue(1e21))),
            entry("a", None),
            entry("z", inner),
            entry("m", Some(Value::StringValue("<\"\\\n\u{1}\u{8}\u{2028}ß>".to_owned()))),
        ],
    });
    let expected = r#"[7,{"a":null,"m":"<\"\\\n\u0001\b\u2028ß>","z":["AQ==",false]}]"#;
    assert_eq!(text(list([Value::IntValue(7), map])), expected);
    assert_eq!(text(list([])), "[]");
}

#[test]
fn a_list_with_a_number_that_json_lacks_is_empty() {
    assert_eq!(text(list([Value::IntValue(1), Value::DoubleValue(f64::NAN)])), "");
}
