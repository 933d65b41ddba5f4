//! The resource identity against the collector's vectors.

use mirador_otlp::{Limits, Request, Signal};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::ResourceLogs;
use opentelemetry_proto::tonic::resource::v1::Resource;
use proptest::prelude::*;
use prost::Message;
use xxhash_rust::xxh64::xxh64;

use crate::draw::Draw;
use crate::generate::any_value;

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn string(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn with_resource<T>(attributes: Vec<KeyValue>, read: impl FnOnce(mirador_otlp::resource::Resource<'_>) -> T) -> T {
    let resource = Some(Resource { attributes, ..Resource::default() });
    let request =
        ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { resource, ..ResourceLogs::default() }] };
    let request = Request::parse(Signal::Logs, request.encode_to_vec().into(), &Limits::default());
    let request = request.expect("prost wrote it");
    read(request.resource_logs().next().expect("there is one").resource())
}

fn identity(attributes: Vec<KeyValue>) -> u128 {
    with_resource(attributes, |resource| resource.identity())
}

#[test]
fn the_collectors_vectors_hold() {
    assert_eq!(identity(Vec::new()), 0);
    assert_eq!(with_resource(Vec::new(), |resource| resource.otel_routing_key()), "resource/88201fb960ff6465");
    let checkout = || vec![string("service.name", "checkout")];
    // The collector's 16 bytes in hex, the first being our lowest.
    assert_eq!(format!("{:032x}", identity(checkout()).swap_bytes()), "831d0817d731c2054ac194e9ddcf7e5c");
    assert_eq!(with_resource(checkout(), |resource| resource.otel_routing_key()), "resource/9d126046fdb6c015");
}

#[test]
fn nested_values_are_hashed_as_the_collector_writes_them() {
    let attributes = vec![
        attribute("z", Value::BoolValue(true)),
        attribute(
            "list",
            Value::ArrayValue(ArrayValue {
                values: vec![AnyValue { value: Some(Value::IntValue(-1)) }, AnyValue { value: None }],
            }),
        ),
        attribute("map", Value::KvlistValue(KeyValueList { values: vec![string("b", "2"), string("a", "1")] })),
        attribute("d", Value::DoubleValue(0.5)),
        attribute("b", Value::BytesValue(vec![1, 2])),
        attribute("f", Value::BoolValue(false)),
    ];
    let mut text = Vec::new();
    text.extend(b"\xF4b\xF6\x01\x02");
    text.extend(b"\xF4d\xFB");
    text.extend(0.5f64.to_bits().to_le_bytes());
    text.extend(b"\xF4f\xF9");
    text.extend(b"\xF4list\xFE\xFA\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xF5\xFF");
    text.extend(b"\xF4map\xFC\xF4a\xF71\xF4b\xF72\xFD");
    text.extend(b"\xF4z\xF8");
    let low = xxh64(&text, 0);
    text.push(0xF3);
    assert_eq!(identity(attributes), u128::from(low) | u128::from(xxh64(&text, 0)) << 64);
}

#[test]
fn a_name_that_occurs_twice_counts_twice_with_its_own_values() {
    let once = identity(vec![string("a", "1")]);
    let twice = identity(vec![string("a", "1"), string("a", "2")]);
    assert_ne!(once, twice);
    let text = b"\xF4a\xF71\xF4a\xF72";
    assert_eq!(twice as u64, xxh64(text, 0));
}

proptest! {
    #[test]
    fn the_order_of_attributes_is_irrelevant(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        order in Just((0..8usize).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let draw = &mut Draw::new(&bytes);
        let attributes: Vec<KeyValue> = (0..8)
            .map(|index| KeyValue { key: format!("key.{index}"), value: Some(any_value(draw, 3)), ..KeyValue::default() })
            .collect();
        let shuffled: Vec<KeyValue> = order.iter().map(|index| attributes[*index].clone()).collect();
        prop_assert_eq!(identity(attributes.clone()), identity(shuffled));
        prop_assert_ne!(identity(attributes.clone()), identity(attributes[1..].to_vec()));
    }
}
