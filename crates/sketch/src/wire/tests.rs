//! What comes over the wire is refused as a whole when any of it is wrong.

use mirador_proto::red::{ExportRedRequest, RedExemplar, RedSeries};
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::wire::decode::SeriesProblem;

fn valid() -> ExportRedRequest {
    ExportRedRequest {
        start_unix_nano: 10,
        end_unix_nano: 20,
        bounds_nanos: vec![100, 200],
        strings: ["", "cart", "GET /", "eu"].map(String::from).into(),
        dimension_names: vec!["zone".into(), "area".into()],
        series: vec![
            RedSeries {
                service: 1,
                span_name: 2,
                kind: 2,
                status: 1,
                dimension_values: vec![3, 0],
                calls: 3,
                sum_nanos: 450,
                min_nanos: 100,
                max_nanos: 250,
                bucket_counts: vec![2, 0, 1],
                hdr_index_deltas: vec![100, 150],
                hdr_counts: vec![2, 1],
                exemplars: vec![RedExemplar {
                    trace_id: vec![1; 16],
                    span_id: vec![2; 8],
                    value_nanos: 250,
                    time_unix_nano: 15,
                }],
                ..RedSeries::default()
            },
            RedSeries {
                overflow: true,
                calls: 1,
                sum_nanos: u64::MAX,
                sum_nanos_high: 2,
                max_nanos: u64::MAX,
                bucket_counts: vec![0, 0, 1],
                hdr_index_deltas: vec![7423],
                hdr_counts: vec![1],
                ..RedSeries::default()
            },
        ],
        ..ExportRedRequest::default()
    }
}

fn refused(change: impl FnOnce(&mut ExportRedRequest)) -> DecodeError {
    let mut request = valid();
    change(&mut request);
    decode(&request).expect_err("it must be refused")
}

fn problem(change: impl FnOnce(&mut RedSeries)) -> SeriesProblem {
    match refused(|request| change(&mut request.series[0])) {
        DecodeError::Series { at: 0, problem } => problem,
        other => panic!("{other}"),
    }
}

#[test]
fn a_valid_delta_gives_its_series() {
    let request = valid();
    let decoded = decode(&request).expect("valid");
    assert_eq!(decoded.bounds_nanos(), [100, 200]);
    assert_eq!(decoded.interval(), 10..20);
    let series: Vec<_> = decoded.collect();
    let (key, point) = &series[0];
    let labels: Vec<_> = key.labels().collect();
    assert_eq!(
        labels,
        [
            ("service.name", "cart"),
            ("span.name", "GET /"),
            ("span.kind", "SPAN_KIND_SERVER"),
            ("status.code", "STATUS_CODE_OK"),
            ("zone", "eu"),
        ]
    );
    assert_eq!((point.calls, point.sum_nanos, point.min_nanos), (3, 450, 100));
    assert_eq!(point.hdr.entries(), [(100, 2), (250, 1)]);
    assert_eq!(point.exemplars()[0].value_nanos, 250);
    assert_eq!(series[1].0, crate::SeriesKey::overflow());
    assert_eq!(series[1].1.sum_nanos, (2_u128 << 64) + u128::from(u64::MAX));
}

#[test]
fn dimensions_in_another_order_are_the_same_key() {
    let (one, mut other) = (valid(), valid());
    other.dimension_names.reverse();
    other.series[0].dimension_values.reverse();
    let key = |request: &ExportRedRequest| decode(request).expect("valid").next().expect("one").0;
    assert_eq!(key(&one), key(&other));
}

#[test]
fn a_request_that_contradicts_itself_is_refused() {
    assert_eq!(refused(|r| r.end_unix_nano = 9), DecodeError::Interval { start: 10, end: 9 });
    assert_eq!(refused(|r| r.bounds_nanos[1] = 100), DecodeError::Bounds { at: 1, bound: 100 });
    assert!(matches!(
        refused(|r| r.bounds_nanos = (0..257).collect()),
        DecodeError::TooMany { list: "bounds_nanos", len: 257, most: 256 }
    ));
    assert!(matches!(
        refused(|r| r.dimension_names = (0..65).map(|at| at.to_string()).collect()),
        DecodeError::TooMany { list: "dimension_names", .. }
    ));
    assert_eq!(refused(|r| r.strings.clear()), DecodeError::Strings);
    assert_eq!(refused(|r| r.strings[0].push('x')), DecodeError::Strings);
    for name in ["", "area", "span.kind"] {
        let expected = DecodeError::DimensionName { name: name.into() };
        assert_eq!(refused(|r| r.dimension_names[0] = name.into()).to_string(), expected.to_string());
    }
    assert!(matches!(refused(|r| r.excluded_dimensions.push("zone".into())), DecodeError::Excluded { .. }));
    let overflow = refused(|r| r.series[1].service = 1);
    assert_eq!(overflow.to_string(), "series 1: service.name is excluded but has a value");
    let overflow = refused(|r| r.series[1].dimension_values = vec![0, 0]);
    assert!(matches!(overflow, DecodeError::Series { at: 1, .. }));
}

#[test]
fn a_series_that_cannot_be_is_refused() {
    assert_eq!(problem(|s| s.span_name = 4), SeriesProblem::Text { index: 4, len: 4 });
    assert_eq!(problem(|s| s.dimension_values[1] = 9), SeriesProblem::Text { index: 9, len: 4 });
    let length = |list, len, expected| SeriesProblem::Length { list, len, expected };
    assert_eq!(problem(|s| s.dimension_values.truncate(1)), length("dimension_values", 1, 2));
    assert_eq!(problem(|s| s.bucket_counts.push(0)), length("bucket_counts", 4, 3));
    assert_eq!(problem(|s| s.hdr_counts.push(1)), length("hdr_counts", 3, 2));
    let range = |change: fn(&mut RedSeries), name: &str| match problem(change) {
        SeriesProblem::Range { field, .. } => assert_eq!(field, name),
        other => panic!("{other}"),
    };
    range(|s| s.kind = 6, "kind");
    range(|s| s.status = 3, "status");
    range(|s| s.calls = 0, "calls");
    range(|s| s.min_nanos = 251, "min_nanos");
    range(|s| s.hdr_index_deltas[1] = 0, "hdr_index_deltas entry");
    range(|s| s.hdr_index_deltas[1] = 7324, "hdr index");
    range(|s| s.hdr_index_deltas[1] = u32::MAX, "hdr_index_deltas entry");
    range(|s| s.hdr_counts[1] = 0, "hdr_counts entry");
    range(|s| s.exemplars = vec![s.exemplars[0].clone(); 6], "number of exemplars");
    let total = |list| SeriesProblem::Total { list, sum: 4, calls: 3 };
    assert_eq!(problem(|s| s.bucket_counts[0] = 3), total("bucket_counts"));
    assert_eq!(problem(|s| s.hdr_counts[0] = 3), total("hdr_counts"));
    assert_eq!(problem(|s| s.exemplars[0].span_id.clear()), SeriesProblem::Exemplar);
    assert_eq!(problem(|s| s.exemplars[0].trace_id = vec![0; 16]), SeriesProblem::Exemplar);
    let excluded = refused(|r| r.excluded_dimensions.push("span.kind".into()));
    assert_eq!(excluded.to_string(), "series 0: span.kind is excluded but has a value");
}

#[test]
fn one_text_that_many_series_name_is_stored_once() {
    let mut request = valid();
    request.strings[2] = "x".repeat(1 << 20);
    request.series = vec![request.series[0].clone(); 5_000];
    let keys: Vec<_> = decode(&request).expect("valid").map(|(key, _)| key).collect();
    assert!(keys.iter().all(|key| std::sync::Arc::ptr_eq(&key.span_name, &keys[0].span_name)));
}

proptest! {
    #[test]
    fn property_mutated_bytes_are_read_or_refused_without_panic(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        shorten in any::<bool>(),
    ) {
        let mut bytes = valid().encode_to_vec();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if shorten {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(request) = ExportRedRequest::decode(&*bytes) {
            match decode(&request) {
                Ok(series) => prop_assert_eq!(series.count(), request.series.len()),
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }
}
