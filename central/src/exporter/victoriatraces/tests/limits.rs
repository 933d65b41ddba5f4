//! The limits of a row and of time: nothing is lost behind a 200, and only what breaks a limit is touched.

use mirador_support::backends::jaeger::tag;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Status;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use proptest::prelude::*;

use super::*;
use crate::exporter::victoriatraces::row::Row;

const DAY: u64 = 86_400_000_000_000;

fn pair(key: impl Into<String>, value: Any) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn text(key: impl Into<String>, value: impl Into<String>) -> KeyValue {
    pair(key, Any::StringValue(value.into()))
}

fn map(key: &str, values: Vec<KeyValue>) -> KeyValue {
    pair(key, Any::KvlistValue(KeyValueList { values }))
}

fn event(attributes: Vec<KeyValue>) -> Event {
    Event { name: "exception".to_owned(), time_unix_nano: 5, attributes, ..Event::default() }
}

fn of_resource(attributes: Vec<KeyValue>, scope: Vec<KeyValue>, spans: Vec<Span>) -> Request {
    let scope = InstrumentationScope { name: "lib".to_owned(), attributes: scope, ..InstrumentationScope::default() };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
    let resource = Some(Resource { attributes, ..Resource::default() });
    let resource_spans = vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }];
    let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
    Request::parse(Signal::Traces, body.into(), &Limits { ..Limits::default() }).unwrap()
}

/// Stores the spans and returns what is read back, by name.
async fn stored(setup: &Setup, request: &Request) -> impl Fn(&str) -> serde_json::Value + use<> {
    setup.store.store(request).await.unwrap();
    assert!(setup.server.dropped().is_empty(), "{:?}", setup.server.dropped());
    let read = setup.read().await;
    move |name| {
        read.iter().find(|span| span["operationName"] == name).unwrap_or_else(|| panic!("{name} is lost")).clone()
    }
}

#[tokio::test]
async fn a_row_of_too_many_fields_loses_its_last_ones_and_keeps_what_makes_it_a_span() {
    let setup = setup().await;
    let attributes = (0..1500).map(|at| text(format!("k{at}"), "v")).collect();
    let wide = Span {
        parent_span_id: vec![7; 8],
        attributes,
        events: vec![event(vec![text("exception.type", "Oops")])],
        links: vec![Link { trace_id: vec![3; 16], span_id: vec![4; 8], ..Link::default() }],
        status: Some(Status { code: 2, message: "broken".to_owned() }),
        ..span("wide")
    };
    let eventful = Span { events: vec![event(Vec::new()); 400], ..span("eventful") };
    let read = stored(&setup, &request(vec![wide, eventful, span("sound")])).await;
    let wide = read("wide");
    assert_eq!(tag(&wide, "k0").as_deref(), Some("v"));
    assert_eq!(tag(&wide, "k1499"), None);
    assert_eq!(tag(&wide, MENDED).as_deref(), Some("too_many_fields"));
    assert_eq!(tag(&wide, "error").as_deref(), Some("true"));
    assert_eq!(wide["duration"], 1000);
    assert_eq!((wide["logs"].as_array().unwrap().len(), wide["references"].as_array().unwrap().len()), (1, 2));
    assert!((300..400).contains(&read("eventful")["logs"].as_array().unwrap().len()));
    assert_eq!(tag(&read("sound"), MENDED), None);
    assert_eq!(setup.counted("mended_spans", "too_many_fields"), 2);
}

#[tokio::test]
async fn a_name_that_is_too_long_is_cut_and_names_that_differ_behind_the_cut_stay_apart() {
    let setup = setup().await;
    let long = |end: &str| format!("{}{end}", "ü".repeat(80));
    let nested = map("a", vec![map(&"b".repeat(100), vec![text("c".repeat(30), "deep")])]);
    let attributes = vec![text(long("1"), "one"), text(long("2"), "two"), nested, text("short", "kept")];
    let spans =
        vec![Span { attributes: attributes.clone(), events: vec![event(attributes)], ..span("long") }, span("sound")];
    let read = stored(&setup, &request(spans)).await;
    let long = read("long");
    let values: Vec<_> = long["tags"].as_array().unwrap().iter().map(|tag| tag["value"].as_str().unwrap()).collect();
    for value in ["one", "two", "deep", "kept"] {
        assert!(values.contains(&value), "{value} of {values:?}");
    }
    assert_eq!(long["logs"][0]["fields"].as_array().unwrap().len(), 5);
    assert_eq!(setup.counted("mended_spans", "field_name_too_long"), 1);
}

#[tokio::test]
async fn a_row_that_is_too_big_keeps_the_beginnings_of_its_texts() {
    let setup = setup().await;
    let array = pair(
        "list",
        Any::ArrayValue(ArrayValue {
            values: vec![AnyValue { value: Some(Any::StringValue("\u{1}".repeat(400_000))) }],
        }),
    );
    let attributes = vec![text("sql", "s".repeat(1_200_000)), text("body", "b".repeat(1_200_000)), array];
    let big = Span { attributes, ..span("big") };
    let read = stored(&setup, &request(vec![big, span("sound")])).await;
    let big = read("big");
    assert!(tag(&big, "sql").unwrap().len() >= 65_536);
    assert_eq!(tag(&big, MENDED).as_deref(), Some("row_too_big"));
    assert_eq!(setup.counted("mended_spans", "row_too_big"), 1);
}

#[tokio::test]
async fn a_resource_that_is_too_large_for_any_row_keeps_its_service_name() {
    let setup = setup().await;
    let mut resource: Vec<_> = (0..1200).map(|at| text(format!("r{at}"), "x".repeat(3000))).collect();
    resource.push(text("service.name", "cart"));
    let scope = (0..300).map(|at| text(format!("s{at}"), "v")).collect();
    let read = stored(&setup, &of_resource(resource, scope, vec![span("a"), span("b")])).await;
    assert!(tag(&read("a"), MENDED).unwrap().contains("too_many_fields"));
    assert_eq!(setup.server.query().services().await.unwrap(), ["cart"]);
    assert_eq!(setup.counted("mended_spans", "too_many_fields"), 2);
}

#[tokio::test]
async fn times_outside_the_retention_are_told_and_long_spans_across_its_border_are_kept() {
    let setup = setup().await;
    setup.server.set_limits(|limits| limits.retention = Duration::from_hours(7 * 24));
    let now = unix_nano();
    let at =
        |start: u64, end: u64, name: &str| Span { start_time_unix_nano: start, end_time_unix_nano: end, ..span(name) };
    let spans = vec![
        at(now - 9 * DAY, now - 8 * DAY, "old"),
        at(now, now + 3 * DAY, "future"),
        at(now + 3 * DAY, 0, "future without an end"),
        at(u64::MAX - 1, u64::MAX, "another epoch"),
        at(now - 9 * DAY, now - DAY, "long"),
        at(0, now - DAY, "no start"),
        span("sound"),
    ];
    let error = setup.store.store(&request(spans)).await.unwrap_err();
    let ExportError::Partial { rejected: 4, reason } = &error else { panic!("{error:?}") };
    assert!(reason.contains("1 too_old") && reason.contains("3 too_far_in_future"), "{reason}");
    assert_eq!(
        (setup.counted("unstorable_spans", "too_old"), setup.counted("unstorable_spans", "too_far_in_future")),
        (1, 3)
    );
    assert_eq!(
        (setup.counted("mended_spans", "start_too_old"), setup.counted("mended_spans", "no_start_time")),
        (1, 1)
    );
    assert_eq!(setup.counted("mended_spans", "no_end_time"), 0, "what is left out is counted once");
    assert!(setup.server.dropped().is_empty(), "{:?}", setup.server.dropped());
    let read = setup.read().await;
    assert_eq!(read.len(), 3);
    let long = read.iter().find(|span| span["operationName"] == "long").unwrap();
    assert_eq!(tag(long, STARTED), Some((now - 9 * DAY).to_string()));
}

#[test]
fn a_retention_that_the_server_cannot_have_is_refused_by_key_and_value() {
    let error = Config { retention: Duration::from_secs(60), ..Config::default() }.check("victoriatraces").unwrap_err();
    let told = error.to_string();
    assert!(told.contains("exporters.victoriatraces.retention: 1m") && told.contains("168h"), "{told}");
}

fn any_value() -> impl Strategy<Value = Any> {
    let leaf = prop_oneof![
        "[a-z\"\\\\\u{1}ü]{0,40}".prop_map(Any::StringValue),
        any::<i64>().prop_map(Any::IntValue),
        any::<f64>().prop_map(Any::DoubleValue),
        any::<bool>().prop_map(Any::BoolValue),
        (0..3000_usize).prop_map(|len| Any::BytesValue(vec![9; len])),
        (0..1_500_000_usize).prop_map(|len| Any::StringValue("é".repeat(len / 2))),
    ];
    leaf.prop_recursive(3, 40, 8, |inner| {
        let value = || inner.clone().prop_map(|value| AnyValue { value: Some(value) });
        prop_oneof![
            proptest::collection::vec(value(), 0..8).prop_map(|values| Any::ArrayValue(ArrayValue { values })),
            proptest::collection::vec(("[a-z]{0,50}", inner.clone()), 0..8).prop_map(|pairs| Any::KvlistValue(
                KeyValueList { values: pairs.into_iter().map(|(key, value)| pair(key, value)).collect() }
            )),
        ]
    })
}

fn any_attributes(most: usize) -> impl Strategy<Value = Vec<KeyValue>> {
    let one = ("[a-z.]{0,30}", 0..140_usize, any_value());
    let few = proptest::collection::vec(one, 0..6);
    (few, prop_oneof![4 => Just(0), 1 => 0..most]).prop_map(|(few, many)| {
        let few = few.into_iter().map(|(key, more, value)| pair(format!("{key}{}", "k".repeat(more)), value));
        few.chain((0..many).map(|at| text(format!("many.{at}"), "v"))).collect()
    })
}

prop_compose! {
    fn any_span()(
        attributes in any_attributes(2000),
        events in proptest::collection::vec(any_attributes(100), 0..4),
        repeated in prop_oneof![4 => Just(0), 1 => 0..500_usize],
        links in proptest::collection::vec(any_attributes(100), 0..4),
        name in prop_oneof![4 => 0..40_usize, 1 => 0..3_000_000_usize],
    ) -> Span {
        let mut events: Vec<_> = events.into_iter().map(event).collect();
        events.extend(std::iter::repeat_n(event(Vec::new()), repeated));
        let link = |attributes| Link { trace_id: vec![1; 16], span_id: vec![2; 8], attributes, ..Link::default() };
        Span { attributes, events, links: links.into_iter().map(link).collect(), ..span(&"n".repeat(name)) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_sent_fits_afterwards_and_what_fitted_before_is_untouched(
        resource in any_attributes(1500),
        scope in any_attributes(1500),
        spans in proptest::collection::vec(any_span(), 1..4),
    ) {
        let request = of_resource(resource, scope, spans.clone());
        let (now, config) = (unix_nano(), Config::default());
        let kept = config.kept(now);
        // Views and decoded messages are measured alike.
        let of = request.resource_spans().next().unwrap();
        let views: Vec<_> = of.scopes().flat_map(|scope| scope.spans()).map(|span| Row::of(&span)).collect();
        let decoded: Vec<_> = spans.iter().map(Row::of_decoded).collect();
        prop_assert_eq!(&views, &decoded);
        let mended = mend::mend(&request, now, &kept).unwrap();
        prop_assert!(mend::is_sound(&mended.request, &kept));
        prop_assert_eq!(mended.request.items(), spans.len());
        let after = ExportTraceServiceRequest::decode(mended.request.bytes().clone()).unwrap();
        let after = &after.resource_spans[0].scope_spans[0].spans;
        for (before, after) in spans.iter().zip(after) {
            let essential = |span: &Span| (span.trace_id.clone(), span.span_id.clone(), span.start_time_unix_nano, span.end_time_unix_nano, span.kind);
            prop_assert_eq!(essential(before), essential(after));
        }
        if mend::is_sound(&request, &kept) {
            prop_assert_eq!(after, &spans);
            prop_assert!(mended.faults.is_empty());
        }
    }
}
