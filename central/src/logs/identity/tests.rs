//! What names a record, and that it goes on naming it.

use mirador_otlp::{Limits, Request, Signal};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::logs::v1::{self as wire, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource as WireResource;
use proptest::prelude::*;
use prost::Message;

use super::*;

fn pair(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn text(key: &str, value: &str) -> KeyValue {
    pair(key, Any::StringValue(value.to_owned()))
}

fn map(entries: Vec<KeyValue>) -> Any {
    Any::KvlistValue(KeyValueList { values: entries })
}

fn array(items: Vec<Any>) -> Any {
    Any::ArrayValue(ArrayValue { values: items.into_iter().map(|item| AnyValue { value: Some(item) }).collect() })
}

type Change = fn(&mut Given);

/// One resource with one scope.
#[derive(Clone)]
struct Given {
    resource: Vec<KeyValue>,
    scope: InstrumentationScope,
    records: Vec<wire::LogRecord>,
}

fn given() -> Given {
    Given {
        resource: vec![text("service.name", "cart"), text("host.name", "a")],
        scope: InstrumentationScope {
            name: "lib".to_owned(),
            version: "1".to_owned(),
            attributes: vec![text("x", "y")],
            ..InstrumentationScope::default()
        },
        records: vec![wire::LogRecord {
            time_unix_nano: 1_700_000_000_123_456_789,
            observed_time_unix_nano: 1_700_000_001_000_000_000,
            severity_number: 9,
            severity_text: "INFO".to_owned(),
            body: Some(AnyValue { value: Some(Any::StringValue("order paid".to_owned())) }),
            attributes: vec![
                text("http.route", "/pay"),
                pair("n", Any::IntValue(7)),
                pair(
                    "deep",
                    map(vec![text("a", "1"), pair("b", array(vec![Any::BoolValue(true), Any::DoubleValue(0.5)]))]),
                ),
            ],
            flags: 1,
            trace_id: vec![1; 16],
            span_id: vec![2; 8],
            event_name: "order".to_owned(),
            ..wire::LogRecord::default()
        }],
    }
}

/// The names of all records.
fn names(given: &Given) -> Vec<u128> {
    let resource_logs = vec![ResourceLogs {
        resource: Some(WireResource { attributes: given.resource.clone(), ..WireResource::default() }),
        scope_logs: vec![ScopeLogs {
            scope: Some(given.scope.clone()),
            log_records: given.records.clone(),
            ..ScopeLogs::default()
        }],
        ..ResourceLogs::default()
    }];
    let body = ExportLogsServiceRequest { resource_logs }.encode_to_vec();
    let request = Request::parse(Signal::Logs, body.into(), &Limits::default()).unwrap();
    let mut names = Names::default();
    let mut all = Vec::new();
    for resource in request.resource_logs() {
        for scope in resource.scopes() {
            let context = context(&resource.resource(), &scope.scope());
            all.extend(scope.log_records().map(|record| names.next(context, &record).0));
        }
    }
    all
}

fn changed(change: impl FnOnce(&mut Given)) -> u128 {
    let mut given = given();
    change(&mut given);
    names(&given)[0]
}

#[test]
fn the_name_of_a_record_does_not_change_from_version_to_version() {
    assert_eq!(format!("{:032x}", names(&given())[0]), GOLDEN);
    let bare = Given {
        resource: Vec::new(),
        scope: InstrumentationScope::default(),
        records: vec![wire::LogRecord::default()],
    };
    assert_eq!(format!("{:032x}", names(&bare)[0]), GOLDEN_BARE);
}

const GOLDEN: &str = "fa8950b4bd7b1fe2242fc302ba61864f";
const GOLDEN_BARE: &str = "69afb8236b76d65d9611eee0eb9928b6";

#[test]
fn every_field_that_is_part_of_a_record_is_part_of_its_name() {
    let own = names(&given())[0];
    let mut seen = vec![own];
    let changes: [(&str, Change); 22] = [
        ("resource value", |given| given.resource[1] = text("host.name", "b")),
        ("resource key", |given| given.resource[1] = text("host", "a")),
        ("resource length", |given| given.resource.truncate(1)),
        ("scope name", |given| given.scope.name = "bil".to_owned()),
        ("scope version", |given| given.scope.version = "2".to_owned()),
        ("scope attributes", |given| given.scope.attributes.clear()),
        ("time", |given| given.records[0].time_unix_nano += 1),
        ("severity", |given| given.records[0].severity_number = 10),
        ("severity text", |given| given.records[0].severity_text = "info".to_owned()),
        ("body", |given| given.records[0].body = Some(AnyValue { value: Some(Any::StringValue("order".to_owned())) })),
        ("type of the body", |given| {
            given.records[0].body = Some(AnyValue { value: Some(Any::BytesValue(b"order paid".to_vec())) });
        }),
        ("no body", |given| given.records[0].body = None),
        ("attribute", |given| given.records[0].attributes[0] = text("http.route", "/buy")),
        ("type of an attribute", |given| given.records[0].attributes[1] = text("n", "7")),
        ("one attribute fewer", |given| given.records[0].attributes.truncate(2)),
        ("the same attribute twice", |given| given.records[0].attributes.push(text("http.route", "/pay"))),
        ("deep value", |given| given.records[0].attributes[2] = pair("deep", map(vec![text("a", "2")]))),
        ("order of an array", |given| {
            let items = array(vec![Any::DoubleValue(0.5), Any::BoolValue(true)]);
            given.records[0].attributes[2] = pair("deep", map(vec![text("a", "1"), pair("b", items)]));
        }),
        ("trace", |given| given.records[0].trace_id = vec![3; 16]),
        ("span", |given| given.records[0].span_id = Vec::new()),
        ("event name", |given| given.records[0].event_name = "Order".to_owned()),
        ("flags", |given| given.records[0].flags = 0),
    ];
    for (what, change) in changes {
        let name = changed(change);
        assert!(!seen.contains(&name), "{what} makes no difference");
        seen.push(name);
    }
}

#[test]
fn text_does_not_move_between_neighbouring_fields_unseen() {
    let one = changed(|given| (given.scope.name, given.scope.version) = ("ab".to_owned(), "c".to_owned()));
    let two = changed(|given| (given.scope.name, given.scope.version) = ("a".to_owned(), "bc".to_owned()));
    assert_ne!(one, two);
    let nested = |body| changed(move |given| given.records[0].body = Some(AnyValue { value: Some(body) }));
    let inner = array(vec![array(vec![Any::IntValue(1)]), Any::IntValue(2)]);
    let outer = array(vec![array(vec![Any::IntValue(1), Any::IntValue(2)])]);
    assert_ne!(nested(inner), nested(outer));
    assert_ne!(nested(array(Vec::new())), nested(map(Vec::new())));
}

#[test]
fn when_a_record_was_observed_and_what_was_dropped_before_do_not_name_it() {
    let own = names(&given())[0];
    assert_eq!(changed(|given| given.records[0].observed_time_unix_nano = 5), own);
    assert_eq!(changed(|given| given.records[0].dropped_attributes_count = 5), own);
}

#[test]
fn without_a_time_of_its_own_a_record_is_named_by_when_it_was_observed_and_else_by_content_alone() {
    let at = |time, observed| {
        changed(|given| (given.records[0].time_unix_nano, given.records[0].observed_time_unix_nano) = (time, observed))
    };
    assert_ne!(at(0, 5), at(0, 6));
    assert_eq!(at(0, 0), at(0, 0));
    assert_ne!(at(0, 0), at(0, 5));
}

#[test]
fn copies_in_one_request_have_names_of_their_own_and_the_same_ones_when_it_is_repeated() {
    let mut given = given();
    given.records = vec![given.records[0].clone(); 3];
    let all = names(&given);
    assert_eq!(all, names(&given));
    assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2]);
    assert_eq!(all[0], names(&self::given())[0], "the first is the record itself");
}

fn shuffled(entries: &mut Vec<KeyValue>, by: usize) {
    let length = entries.len().max(1);
    entries.rotate_left(by % length);
    if by % 2 == 1 {
        entries.reverse();
    }
    for entry in entries {
        if let Some(AnyValue { value: Some(Any::KvlistValue(list)) }) = &mut entry.value {
            shuffled(&mut list.values, by);
        }
    }
}

proptest! {
    #[test]
    fn the_order_of_attributes_means_nothing_at_any_depth(
        keys in prop::collection::btree_set("[a-z]{1,4}", 0..8),
        deep in prop::collection::btree_map("[a-z]{1,3}", any::<i64>(), 0..6),
        by in 0..50_usize,
    ) {
        let mut given = given();
        let inner = deep.iter().map(|(key, value)| pair(key, Any::IntValue(*value))).collect();
        given.records[0].attributes = keys.iter().map(|key| text(key, "v")).collect();
        given.records[0].attributes.push(pair("deep map", map(inner)));
        let own = names(&given)[0];
        shuffled(&mut given.records[0].attributes, by);
        shuffled(&mut given.resource, by);
        prop_assert_eq!(names(&given)[0], own);
    }
}
