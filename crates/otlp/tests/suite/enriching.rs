//! Attributes added to resources, against the same done to decoded requests.

use bytes::Bytes;
use mirador_otlp::enrich::{Addition, add_resource_attributes};
use mirador_otlp::{Limits, Request, Signal};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use proptest::prelude::*;
use prost::Message;

use crate::compare::Decoded;
use crate::draw::Draw;
use crate::views::{bytes, requests};
use crate::{generate, mutate};

/// The resource of every entry, made where there is none.
fn resources(decoded: &mut Decoded) -> Vec<&mut Option<Resource>> {
    match decoded {
        Decoded::Traces(request) => request.resource_spans.iter_mut().map(|entry| &mut entry.resource).collect(),
        Decoded::Metrics(request) => request.resource_metrics.iter_mut().map(|entry| &mut entry.resource).collect(),
        Decoded::Logs(request) => request.resource_logs.iter_mut().map(|entry| &mut entry.resource).collect(),
    }
}

fn encoded(decoded: &Decoded) -> Vec<u8> {
    match decoded {
        Decoded::Traces(request) => request.encode_to_vec(),
        Decoded::Metrics(request) => request.encode_to_vec(),
        Decoded::Logs(request) => request.encode_to_vec(),
    }
}

fn string(key: &str, value: &str) -> KeyValue {
    let value = Some(any_value::Value::StringValue(value.to_owned()));
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value }), ..KeyValue::default() }
}

/// What is to happen, said with `prost`'s types.
fn model(resource: &mut Option<Resource>, additions: &[(String, String)]) {
    for (key, value) in additions {
        if resource.as_ref().is_none_or(|resource| resource.attributes.iter().all(|attribute| attribute.key != *key)) {
            resource.get_or_insert_default().attributes.push(string(key, value));
        }
    }
}

/// Names that the request has and names that it has not, values of every length of length.
fn additions(decoded: &mut Decoded, draw: &mut Draw<'_>) -> Vec<(String, String)> {
    let known: Vec<String> = resources(decoded)
        .into_iter()
        .filter_map(|resource| resource.as_ref())
        .flat_map(|resource| resource.attributes.iter().map(|attribute| attribute.key.clone()))
        .collect();
    draw.list(6, |draw| {
        let key = match draw.below(3) {
            0 if !known.is_empty() => known[draw.below(known.len())].clone(),
            1 => "k8s.pod.name".to_owned(),
            _ => "k".repeat(draw.below(200)),
        };
        let length = [0, 1, 90, 127, 128, 16_384][draw.below(6)];
        (key, "ü".repeat(length))
    })
}

fn law(signal: Signal, body: &[u8], choices: &[u8]) {
    let request = Request::parse(signal, Bytes::copy_from_slice(body), &Limits::default()).expect("it is valid");
    let mut expected = Decoded::of(signal, request.bytes()).expect("what we accept prost accepts");
    let mut draw = Draw::new(choices);
    let sets: Vec<Vec<(String, String)>> = draw.list(4, |draw| additions(&mut expected, draw));
    let ready: Vec<Vec<Addition>> =
        sets.iter().map(|set| set.iter().map(|(key, value)| Addition::string(key, value)).collect()).collect();
    let mut entry = 0;
    let enriched = add_resource_attributes(&request, |_| {
        entry += 1;
        ready.get((entry - 1) % 4).map_or(&[][..], Vec::as_slice)
    });
    for (index, resource) in resources(&mut expected).into_iter().enumerate() {
        model(resource, sets.get(index % 4).map_or(&[][..], Vec::as_slice));
    }
    assert_eq!(entry, resources(&mut expected).len(), "asked once per entry");
    let got = Decoded::of(signal, enriched.bytes()).expect("an enriched request decodes");
    assert_eq!(encoded(&got), encoded(&expected));
    let again = Request::parse(signal, enriched.bytes().clone(), &Limits::default()).expect("it is still valid");
    assert_eq!((again.items(), again.bytes()), (request.items(), enriched.bytes()));
    assert_eq!(enriched.items(), request.items());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn adding_attributes_equals_adding_them_to_the_decoded_request(bytes in bytes(), choices in bytes()) {
        for (signal, body) in requests(&bytes) {
            law(signal, &body, &choices);
        }
    }

    #[test]
    fn bent_requests_are_enriched_alike(bytes in bytes(), bends in bytes(), choices in bytes()) {
        for (signal, body) in requests(&bytes) {
            law(signal, &mutate::request(signal, &body, &mut Draw::new(&bends)), &choices);
        }
    }

    #[test]
    fn an_addition_reads_back(key in ".{1,200}", value in ".{0,300}") {
        let addition = Addition::string(&key, &value);
        prop_assert_eq!((addition.key(), addition.value()), (key.as_str(), value.as_str()));
        let field = Resource { attributes: vec![string(&key, &value)], ..Resource::default() }.encode_to_vec();
        prop_assert_eq!(addition.heap_bytes(), field.len());
    }
}

#[test]
fn a_request_that_lacks_nothing_is_passed_on_without_a_copy() {
    let body = generate::traces(&mut Draw::new(&[7; 400])).encode_to_vec();
    let request = Request::parse(Signal::Traces, body.into(), &Limits::default()).expect("prost wrote it");
    let nothing: [Addition; 0] = [];
    let same = add_resource_attributes(&request, |_| &nothing);
    assert_eq!(same.bytes().as_ptr(), request.bytes().as_ptr());
    let added = [Addition::string("k8s.pod.name", "cart-0"), Addition::string("k8s.pod.name", "cart-1")];
    let once = add_resource_attributes(&request, |_| &added);
    let twice = add_resource_attributes(&once, |_| &added);
    assert_ne!(once.bytes(), request.bytes());
    assert_eq!(twice.bytes().as_ptr(), once.bytes().as_ptr(), "what is there is not added again");
    for entry in once.resource_spans() {
        let value = entry.resource().attributes().get("k8s.pod.name").and_then(|value| value.as_str());
        assert_eq!(value, Some("cart-0"), "of two additions with one name the first counts");
    }
}
