//! The tap's rules, one by one.

use super::*;

fn only(merged: Merged) -> (SeriesKey, Point) {
    assert_eq!(merged.len(), 1, "{merged:?}");
    merged.into_iter().next().expect("one")
}

#[test]
fn labels_have_the_names_and_values_of_the_connector() {
    let mut tap = Tap::new(&Config::default(), 1);
    let mut failed = item(1, "cart", "GET /");
    failed.span.status = Some(Status { code: 2, ..Status::default() });
    tap.observe(&request(&[failed]), 5);
    let (key, point) = only(closed(&mut tap));
    let labels: Vec<_> = key.labels().collect();
    assert_eq!(
        labels,
        [
            ("service.name", "cart"),
            ("span.name", "GET /"),
            ("span.kind", "SPAN_KIND_SERVER"),
            ("status.code", "STATUS_CODE_ERROR"),
        ]
    );
    assert_eq!((point.calls, point.sum_nanos), (1, 5_000_000));
    assert_eq!(point.exemplars()[0].time_unix_nano, 1_005_000_000);
}

#[test]
fn resources_that_differ_in_no_label_add_up() {
    let mut tap = Tap::new(&Config::default(), 1);
    let (one, mut other) = (item(1, "cart", "GET /"), item(2, "cart", "GET /"));
    other.resource.push(text("host.name", "pod-2"));
    tap.observe(&request(&[one, other]), 5);
    assert_eq!(only(closed(&mut tap)).1.calls, 2);
}

#[test]
fn excluded_labels_do_not_leave_and_their_series_add_up() {
    let config = Config {
        exclude_dimensions: vec![BuiltIn::SpanName, BuiltIn::SpanKind, BuiltIn::ServiceName],
        ..Config::default()
    };
    let mut tap = Tap::new(&config, 1);
    let mut client = item(2, "checkout", "POST /pay");
    client.span.kind = 3;
    tap.observe(&request(&[item(1, "cart", "GET /"), client]), 5);
    let (key, point) = only(closed(&mut tap));
    assert_eq!(key.labels().collect::<Vec<_>>(), [("status.code", "STATUS_CODE_UNSET")]);
    assert_eq!(point.calls, 2);
}

#[test]
fn a_repeat_that_meets_a_full_window_takes_no_place_in_it() {
    let config = Config { aggregation_cardinality_limit: 2, ..Config::default() };
    let mut tap = Tap::new(&config, 1);
    let first = request(&[item(1, "a", "x"), item(2, "b", "y")]);
    tap.observe(&first, 5);
    assert!(tap.close(10).is_some());
    // The repeat's series are new in this window; none of them may stay.
    let again = tap.observe(&first, 11);
    assert!(again.duplicate);
    assert_eq!(tap.series(), 0);
    assert!(tap.close(12).is_none());
    let next = tap.observe(&request(&[item(3, "c", "z"), item(4, "a", "x")]), 13);
    assert_eq!((next.spans, next.overflowed), (2, 0));
    let services: Vec<_> = closed(&mut tap).into_keys().map(|key| key.service.to_string()).collect();
    assert_eq!(services, ["a", "c"]);
}

#[test]
fn the_overflow_series_has_one_label_and_the_limit_holds_per_window() {
    let config = Config { aggregation_cardinality_limit: 1, ..Config::default() };
    let mut tap = Tap::new(&config, 1);
    let all = [item(1, "a", "x"), item(2, "b", "y"), item(3, "c", "z")];
    let observed = tap.observe(&request(&all), 5);
    assert_eq!((observed.spans, observed.overflowed), (3, 2));
    let merged = closed(&mut tap);
    let overflow = SeriesKey::overflow();
    assert_eq!(overflow.labels().collect::<Vec<_>>(), [("otel.metric.overflow", "true")]);
    assert_eq!(merged[&overflow].calls, 2);
    let observed = tap.observe(&request(&[item(9, "b", "y")]), 20);
    assert_eq!(observed.overflowed, 0);
}

#[test]
fn a_huge_label_value_is_cut_on_a_character_and_counted() {
    let mut tap = Tap::new(&Config::default(), 1);
    let huge = "語".repeat(22_000);
    let observed = tap.observe(&request(&[item(1, "a", &huge), item(2, &huge, "x")]), 5);
    assert_eq!((observed.spans, observed.truncated), (2, 2));
    assert!(tap.series_bytes() < 16_384, "{}", tap.series_bytes());
    let kept: Vec<_> = closed(&mut tap).into_keys().map(|key| key.service.len().max(key.span_name.len())).collect();
    // 341 characters of 3 bytes fit into 1024 bytes.
    assert_eq!(kept, [1_023, 1_023]);
}

#[test]
fn spans_without_ids_are_told_apart_by_their_content_and_are_no_exemplars() {
    let mut tap = Tap::new(&Config::default(), 1);
    let mut nameless = item(1, "a", "x");
    nameless.span.span_id = Vec::new();
    let mut later = nameless.clone();
    later.span.end_time_unix_nano += 1;
    assert_eq!(tap.observe(&request(std::slice::from_ref(&nameless)), 5).spans, 1);
    assert_eq!(tap.observe(&request(&[later]), 5).spans, 1);
    assert!(tap.observe(&request(&[nameless]), 5).duplicate);
    let (_, point) = only(closed(&mut tap));
    assert_eq!((point.calls, point.exemplars().len()), (2, 0));
}

#[test]
fn a_request_larger_than_a_chunk_is_recognised_as_a_whole() {
    let mut tap = Tap::new(&Config::default(), 1);
    let items: Vec<_> = (0..CHUNK as u64 * 2 + 17).map(|id| item(id, "a", "x")).collect();
    let large = request(&items);
    assert_eq!(tap.observe(&large, 5).spans, items.len());
    let again = tap.observe(&large, 6);
    assert_eq!((again.spans, again.duplicate_spans, again.duplicate), (0, items.len(), true));
    assert_eq!(only(closed(&mut tap)).1.calls, items.len() as u64);
}

#[test]
fn windows_join_without_a_gap_and_an_empty_one_is_none() {
    let mut tap = Tap::new(&Config::default(), 1);
    assert!(tap.close(3).is_none());
    tap.observe(&request(&[item(1, "a", "x")]), 5);
    let first = tap.close(10).expect("one series");
    assert_eq!((first.start_unix_nano(), first.end_unix_nano(), first.len()), (3, 10, 1));
    assert!(tap.close(20).is_none());
    tap.observe(&request(&[item(2, "a", "x")]), 25);
    // A clock that steps back makes an empty interval, never a negative one.
    let second = tap.close(15).expect("one series");
    assert_eq!((second.start_unix_nano(), second.end_unix_nano()), (20, 20));
}

#[test]
fn exemplars_can_be_switched_off() {
    let mut config = Config::default();
    config.exemplars.enabled = false;
    let mut tap = Tap::new(&config, 1);
    tap.observe(&request(&[item(1, "a", "x")]), 5);
    assert!(only(closed(&mut tap)).1.exemplars().is_empty());
}

#[test]
fn the_seed_changes_no_number() {
    let items: Vec<_> = (0..200).map(|id| item(id, ["a", "b", "c"][id as usize % 3], "x")).collect();
    let windows = [0, 1, u64::MAX].map(|seed| {
        let mut tap = Tap::new(&Config::default(), seed);
        tap.observe(&request(&items), 5);
        closed(&mut tap)
    });
    assert_eq!(windows[0], windows[1]);
    assert_eq!(windows[0], windows[2]);
}

#[test]
fn large_windows_leave_in_messages_of_bounded_size() {
    let mut tap = Tap::new(&Config::default(), 1);
    let items: Vec<_> =
        (0..3_000).map(|id| item(id, &format!("s{}", id % 2), &format!("{id}{}", "n".repeat(1_000)))).collect();
    tap.observe(&request(&items), 5);
    let window = tap.close(9).expect("series");
    let deltas = window.split(|service| usize::from(service == "s0"));
    let owners: Vec<_> = deltas.iter().map(|(owner, _)| *owner).collect();
    assert!(owners.is_sorted() && owners.contains(&0) && owners.contains(&1));
    assert!(deltas.len() > 2);
    for (owner, delta) in &deltas {
        let (bytes, target) = (delta.encoded_len(), crate::MESSAGE_TARGET_BYTES);
        assert!(bytes < target + 2_000, "{bytes}");
        assert_eq!((delta.start_unix_nano, delta.end_unix_nano), (5, 9));
        let service = if *owner == 1 { "s0" } else { "s1" };
        assert!(crate::decode(delta).expect("valid").all(|(key, _)| &*key.service == service));
    }
    assert_eq!(deltas.iter().map(|(_, delta)| delta.series.len()).sum::<usize>(), 3_000);
}

/// Four series whose durations are spread over all magnitudes.
fn spread(seed: u64, spans: u64) -> Request {
    let items: Vec<_> = (0..spans)
        .map(|at| {
            let id = seed * 1_000_000 + at + 1;
            let random = id.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let mut one = item(1, "cart", ["a", "b", "c", "d"][(random >> 7) as usize % 4]);
            one.span.span_id = id.to_be_bytes().into();
            one.span.start_time_unix_nano = 1;
            one.span.end_time_unix_nano = 1 + (random >> (random % 60));
            one
        })
        .collect();
    request(&items)
}

#[test]
fn a_limit_of_memory_costs_resolution_and_no_count_sum_or_bucket() {
    // Too little for the buckets that durations of all magnitudes touch in so many series.
    let tight = Shape { hdr_bytes: 4096, ..shape_of(&Config::default()) };
    let (mut tap, mut free) = (Tap::new(&Config::default(), 1), Tap::new(&Config::default(), 1));
    tap.table = Table::new(tight);
    let (mut coarsened, mut spans) = (0, 0);
    for seed in 0..20 {
        let request = spread(seed, 500);
        let observed = tap.observe(&request, 5);
        assert_eq!(free.observe(&request, 5).coarsened, 0);
        coarsened += observed.coarsened;
        spans += observed.spans;
        let bytes: usize = tap.table.iter().map(|(_, series)| series.hdr.heap_bytes()).sum();
        assert!(bytes <= 4096, "{bytes}");
    }
    assert!(coarsened > 0 && spans == 10_000);
    let (tight, free) = (closed(&mut tap), closed(&mut free));
    assert_eq!(tight.len(), 4);
    for (key, exact) in free {
        let point = &tight[&key];
        let numbers = |point: &Point| (point.calls, point.sum_nanos, point.min_nanos, point.max_nanos);
        assert_eq!(numbers(point), numbers(&exact));
        assert_eq!((&point.buckets, &point.exemplars), (&exact.buckets, &exact.exemplars));
        assert_eq!(point.hdr.count(), exact.calls);
        assert!(point.hdr.entries().len() < exact.hdr.entries().len());
    }
}

fn shape_of(config: &Config) -> Shape {
    Tap::new(config, 1).table.shape().clone()
}
