//! Whatever way the spans are dealt out to requests, taps and windows, the merged deltas are what
//! one pass over all of them computes.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const BOUND: u64 = 50_000_000;

/// What the oracle knows of one series, by its labels.
#[derive(Debug, Default, PartialEq)]
struct Expected {
    calls: u64,
    sum: u128,
    min: Option<u64>,
    max: u64,
    /// Cumulative: calls with a duration of at most each bound.
    at_most: Vec<u64>,
    durations: Vec<(u64, u64)>,
    exemplars: Vec<Exemplar>,
}

fn config() -> Config {
    Config {
        dimensions: vec![
            Dimension { name: "zone".into(), default: Some("z0".into()) },
            Dimension { name: "http.method".into(), default: None },
        ],
        label_value_length_limit: 32,
        ..Config::default()
    }
}

fn any_resource() -> impl Strategy<Value = Vec<KeyValue>> {
    let service = prop_oneof![
        4 => Just(Some("cart")), 4 => Just(Some("Bestellung-支付-🛒")), 2 => Just(Some("checkout")),
        1 => Just(Some("")), 1 => Just(None),
    ];
    let method = prop_oneof![3 => Just(None), 1 => Just(Some("PUT")), 1 => Just(Some(""))];
    (service, 0..3_u32, method).prop_map(|(service, pod, method)| {
        let mut attributes = vec![text("host.name", &format!("pod-{pod}"))];
        attributes.extend(service.map(|name| text("service.name", name)));
        attributes.extend(method.map(|method| text("http.method", method)));
        attributes
    })
}

fn any_times() -> impl Strategy<Value = (u64, u64)> {
    let start = 1_700_000_000_000_000_000_u64;
    prop_oneof![
        (0..3_000_000_000_u64).prop_map(move |nanos| (start, start + nanos)),
        Just((start, start + BOUND)),
        Just((start, start + BOUND + 1)),
        Just((start, start)),
        Just((start, start - 7)),
        Just((0, u64::MAX)),
        Just((start, 0)),
    ]
}

fn any_attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    let value = prop_oneof![
        Just(Value::StringValue("GET".into())),
        Just(Value::StringValue(String::new())),
        Just(Value::StringValue("ä".repeat(20))),
        Just(Value::IntValue(-5)),
        Just(Value::BoolValue(true)),
    ];
    let key = prop_oneof![Just("http.method"), Just("zone"), Just("other")];
    vec((key, value).prop_map(|(key, value)| attribute(key, value)), 0..4)
}

fn any_items() -> impl Strategy<Value = Vec<Item>> {
    let name =
        prop_oneof![Just("GET /cart".to_owned()), Just(String::new()), Just("検索".to_owned()), Just("ß".repeat(40)),];
    let state = prop_oneof![
        4 => Just(""), 1 => Just("ot=th:8"), 1 => Just("a=b,ot=rv:1;th:4ccd"), 1 => Just("ot=th:zz"),
    ];
    let parts = (name, state, any_times(), any_attributes(), -1..8_i32, prop::option::of(-1..4_i32));
    vec((any_resource(), parts), 1..60).prop_map(|all| {
        let all = all.into_iter().enumerate();
        all.map(|(id, (resource, (name, state, (start, end), attributes, kind, status)))| Item {
            resource,
            span: Span {
                trace_state: state.into(),
                start_time_unix_nano: start,
                end_time_unix_nano: end,
                kind,
                attributes,
                status: status.map(|code| Status { code, ..Status::default() }),
                ..span(id as u64, &name)
            },
        })
        .collect()
    })
}

fn cut_to_32(text: &str) -> String {
    let mut text = text.to_owned();
    while text.len() > 32 {
        text.pop();
    }
    text
}

fn shown(attribute: &KeyValue) -> String {
    match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(flag)) => flag.to_string(),
        other => panic!("not generated: {other:?}"),
    }
}

fn value_of(attributes: &[KeyValue], name: &str) -> Option<String> {
    attributes.iter().find(|one| one.key == name).map(shown)
}

fn expected_labels(item: &Item) -> Option<BTreeMap<String, String>> {
    let service = value_of(&item.resource, "service.name").filter(|name| !name.is_empty())?;
    let kinds = ["UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"];
    let codes = ["UNSET", "OK", "ERROR"];
    let kind = usize::try_from(item.span.kind).ok().filter(|kind| *kind < 6).unwrap_or(0);
    let code = item.span.status.as_ref().map_or(0, |status| status.code);
    let code = usize::try_from(code).ok().filter(|code| *code < 3).unwrap_or(0);
    let mut labels = BTreeMap::from([
        ("service.name".to_owned(), cut_to_32(&service)),
        ("span.name".to_owned(), cut_to_32(&item.span.name)),
        ("span.kind".to_owned(), format!("SPAN_KIND_{}", kinds[kind])),
        ("status.code".to_owned(), format!("STATUS_CODE_{}", codes[code])),
    ]);
    for (name, default) in [("zone", Some("z0")), ("http.method", None)] {
        let value = value_of(&item.span.attributes, name)
            .or_else(|| value_of(&item.resource, name))
            .or_else(|| default.map(str::to_owned));
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            labels.insert(name.to_owned(), cut_to_32(&value));
        }
    }
    Some(labels)
}

fn weight(span: &Span) -> u64 {
    let random = identity::rounding((*span.span_id).try_into().expect("8 bytes"));
    match &*span.trace_state {
        "ot=th:8" => 2,
        // 1 / (1 - 0.3) = 1.43: one or two, told by the span id.
        "a=b,ot=rv:1;th:4ccd" => adjusted_count(0x4ccd << 40, random),
        _ => 1,
    }
}

/// One pass over all spans, by the words of the contract.
fn recompute(items: &[Item]) -> (BTreeMap<BTreeMap<String, String>, Expected>, usize) {
    let bounds = config().bounds_nanos();
    let mut all: BTreeMap<_, Expected> = BTreeMap::new();
    let mut skipped = 0;
    for item in items {
        let Some(labels) = expected_labels(item) else {
            skipped += 1;
            continue;
        };
        let span = &item.span;
        let (start, end) = (span.start_time_unix_nano, span.end_time_unix_nano);
        let nanos = u64::try_from(i128::from(end) - i128::from(start)).unwrap_or(0);
        let weight = weight(span);
        let one = all.entry(labels).or_default();
        one.calls += weight;
        one.sum += u128::from(weight) * u128::from(nanos);
        one.min = Some(one.min.unwrap_or(nanos).min(nanos));
        one.max = one.max.max(nanos);
        one.at_most.resize(bounds.len(), 0);
        for (count, bound) in one.at_most.iter_mut().zip(&bounds) {
            *count += if nanos <= *bound { weight } else { 0 };
        }
        one.durations.push((nanos, weight));
        one.exemplars.push(Exemplar {
            trace_id: (*span.trace_id).try_into().expect("16 bytes"),
            span_id: (*span.span_id).try_into().expect("8 bytes"),
            value_nanos: nanos,
            time_unix_nano: if end == 0 { 5 } else { end },
        });
    }
    (all, skipped)
}

fn check(got: &Merged, expected: &BTreeMap<BTreeMap<String, String>, Expected>) -> Result<(), TestCaseError> {
    let keys: Vec<_> = got.keys().map(labels).collect();
    prop_assert_eq!(keys.len(), expected.len(), "{:?}", keys);
    for (key, point) in got {
        let one = expected.get(&labels(key));
        prop_assert!(one.is_some(), "unexpected {:?}", key);
        let Some(one) = one else { continue };
        prop_assert_eq!(point.calls, one.calls);
        prop_assert_eq!(point.sum_nanos, one.sum);
        prop_assert_eq!(Some(point.min_nanos), one.min);
        prop_assert_eq!(point.max_nanos, one.max);
        let mut sum = 0;
        let at_most: Vec<_> = point
            .buckets
            .iter()
            .map(|count| {
                sum += count;
                sum
            })
            .collect();
        prop_assert_eq!(&at_most[..one.at_most.len()], &*one.at_most);
        prop_assert_eq!(sum, one.calls);
        let mut hdr = crate::Hdr::default();
        one.durations.iter().for_each(|&(nanos, weight)| hdr.record(nanos, weight));
        prop_assert_eq!(&point.hdr, &hdr);
        prop_assert_eq!(&point.exemplars, &Exemplars::select(one.exemplars.iter().copied()));
    }
    Ok(())
}

proptest! {
    #[test]
    fn property_deltas_of_any_taps_merge_to_one_recomputation(
        (items, shuffled) in any_items().prop_flat_map(|items| (Just(items.clone()), Just(items).prop_shuffle())),
        cuts in vec(1..9_usize, 60),
        taps in 1..4_usize,
        closes in vec(any::<bool>(), 60),
        repeats in vec(any::<bool>(), 60),
    ) {
        let mut all: Vec<_> = (0..taps).map(|seed| Tap::new(&config(), seed as u64 * 77)).collect();
        let mut merged = Merged::new();
        let (mut spans, mut skipped) = (0, 0);
        let mut rest = &shuffled[..];
        for (at, cut) in cuts.iter().enumerate() {
            let (head, tail) = rest.split_at((*cut).min(rest.len()));
            rest = tail;
            let tap = &mut all[at % taps];
            let request = request(head);
            let observed = tap.observe(&request, 5);
            prop_assert!(!observed.duplicate);
            prop_assert_eq!(observed.spans + observed.skipped_no_service, head.len());
            spans += observed.spans;
            skipped += observed.skipped_no_service;
            if closes[at] && let Some(window) = tap.close(7) {
                merge_deltas(window, &mut merged);
            }
            if repeats[at] {
                let again = tap.observe(&request, 6);
                prop_assert_eq!((again.spans, again.duplicate_spans), (0, observed.spans));
                prop_assert_eq!(again.duplicate, observed.spans > 0);
            }
        }
        let observed = all[0].observe(&request(rest), 5);
        spans += observed.spans;
        skipped += observed.skipped_no_service;
        for window in all.iter_mut().filter_map(|tap| tap.close(8)) {
            merge_deltas(window, &mut merged);
        }
        let (expected, expected_skipped) = recompute(&items);
        prop_assert_eq!((spans, skipped), (items.len() - expected_skipped, expected_skipped));
        check(&merged, &expected)?;
    }

    #[test]
    fn property_points_without_the_wire_are_those_with_it(items in any_items()) {
        let (mut one, mut other) = (Tap::new(&config(), 1), Tap::new(&config(), 2));
        one.observe(&request(&items), 5);
        other.observe(&request(&items), 5);
        let direct: Merged = one.close(9).map(|window| window.into_series().collect()).unwrap_or_default();
        prop_assert_eq!(direct, closed(&mut other));
    }

    #[test]
    fn property_overflow_loses_detail_but_no_number(items in any_items(), limit in 1..6_usize) {
        let config = Config { aggregation_cardinality_limit: limit, ..config() };
        let mut tap = Tap::new(&config, 3);
        let observed = tap.observe(&request(&items), 5);
        prop_assert!(tap.series() <= limit);
        let merged = closed(&mut tap);
        let (expected, _) = recompute(&items);
        prop_assert_eq!(observed.overflowed > 0, expected.len() > limit);
        prop_assert_eq!(merged.len(), expected.len().min(limit) + usize::from(expected.len() > limit));
        let (mut got, mut want) = (Point::default(), Point::default());
        for point in merged.values() {
            got.merge(point);
        }
        for &(nanos, weight) in expected.values().flat_map(|one| &one.durations) {
            want.record(nanos, weight, &config.bounds_nanos());
        }
        want.exemplars = Exemplars::select(expected.values().flat_map(|one| one.exemplars.iter().copied()));
        prop_assert_eq!(got, want);
    }
}
