//! Rows by their keys: what Cassandra and a repeated export rely on.

use mirador_otlp::{Limits, Signal};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{self as wire, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource as WireResource;
use proptest::prelude::*;
use prost::Message;

use super::*;

/// 2023-11-14T22:13:20Z.
const NOW: Duration = Duration::from_secs(1_700_000_000);

fn text(value: &str) -> AnyValue {
    AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) }
}

fn request(service: &str, log_records: Vec<wire::LogRecord>) -> Request {
    let name = KeyValue { key: "service.name".to_owned(), value: Some(text(service)), ..KeyValue::default() };
    let resource_logs = vec![ResourceLogs {
        resource: Some(WireResource { attributes: vec![name], ..WireResource::default() }),
        scope_logs: vec![ScopeLogs { log_records, ..ScopeLogs::default() }],
        ..ResourceLogs::default()
    }];
    let body = ExportLogsServiceRequest { resource_logs }.encode_to_vec();
    Request::parse(Signal::Logs, body.into(), &Limits::default()).unwrap()
}

fn record(body: &str, time_unix_nano: u64) -> wire::LogRecord {
    wire::LogRecord { body: Some(text(body)), time_unix_nano, ..wire::LogRecord::default() }
}

fn one(record: wire::LogRecord, now: Duration) -> Read {
    read(&request("cart", vec![record]), &Config::default(), now)
}

/// The primary key.
fn key(read: &Read) -> (Partition, [u8; 16]) {
    let row = &read.rows[0].row;
    (row.partition(), *row.id.as_bytes())
}

fn ticks(id: CqlTimeuuid) -> u64 {
    let bits = (u128::from_be_bytes(*id.as_bytes()) >> 64) as u64;
    ((bits & 0x0fff) << 48) | ((bits >> 16 & 0xffff) << 32) | (bits >> 32)
}

#[test]
fn the_layout_of_an_id_is_version_1_and_stays_so() {
    // RFC 9562 appendix A.1: 2022-02-22T19:22:22Z is the time C232AB00-9414-11EC.
    let id = timeuuid(1_645_557_742_000_000_000, u128::MAX);
    assert_eq!(id.to_string(), "c232ab00-9414-11ec-bfff-ffffffffffff");
    assert_eq!(timeuuid(1_645_557_742_000_000_000, 0).to_string(), "c232ab00-9414-11ec-8000-010000000000");
    assert_eq!(timeuuid(0, 0).to_string(), "13814000-1dd2-11b2-8000-010000000000");
}

proptest! {
    #[test]
    fn an_id_gives_back_its_time_and_can_be_no_hardware_address(nanos in 0..i64::MAX as u64, name in any::<u128>()) {
        let id = timeuuid(nanos, name);
        let bytes = id.as_bytes();
        prop_assert_eq!(bytes[6] >> 4, 1, "version");
        prop_assert_eq!(bytes[8] >> 6, 0b10, "variant");
        prop_assert_eq!(bytes[10] & 1, 1, "multicast");
        prop_assert_eq!((ticks(id) - GREGORIAN_TICKS) * 100, nanos - nanos % 100);
    }

    #[test]
    fn ids_stand_in_the_order_of_their_times(one in 0..i64::MAX as u64, two in 0..i64::MAX as u64, names in any::<(u128, u128)>()) {
        prop_assume!(one / 100 != two / 100);
        prop_assert_eq!(timeuuid(one, names.0).cmp(&timeuuid(two, names.1)), one.cmp(&two));
    }

    #[test]
    fn a_record_has_one_key_whenever_it_is_read(body in "[a-z]{0,20}", back in 0..86_400_u64, later in 0..3600_u64) {
        let time = NOW.saturating_sub(Duration::from_secs(back)).as_nanos() as u64;
        let first = one(record(&body, time), NOW);
        let second = one(record(&body, time), NOW + Duration::from_secs(later));
        prop_assert_eq!(key(&first), key(&second));
        prop_assert_eq!(first.clamped, 0);
        prop_assert!((0..4).contains(&first.rows[0].row.shard));
        prop_assert_eq!(i64::from(first.rows[0].row.bucket), (time / 600_000_000_000) as i64);
    }

    #[test]
    fn whatever_the_time_says_there_are_only_buckets_of_the_kept_range(time in 1..u64::MAX) {
        let read = one(record("x", time), NOW);
        let bucket = Duration::from_secs(read.rows[0].row.bucket as u64 * 600);
        prop_assert!(bucket + Duration::from_secs(600) > NOW.saturating_sub(Config::default().ttl) && bucket <= NOW + FUTURE);
        prop_assert_eq!(read.rows[0].row.time_nanos, i64::try_from(time).unwrap_or(i64::MAX), "the own time is kept");
    }

    #[test]
    fn a_body_is_cut_between_characters(body in "\\PC{0,40}", limit in 1..40_usize) {
        let config = Config { max_body_bytes: limit, ..Config::default() };
        let read = read(&request("cart", vec![record(&body, 1)]), &config, NOW);
        let kept = &read.rows[0].row.body;
        prop_assert!(body.starts_with(kept.as_str()) && kept.len() <= limit);
        prop_assert_eq!(read.truncated, u64::from(body.len() > limit));
        prop_assert!(body.len() <= limit || kept.len() + 4 > limit);
    }
}

#[test]
fn a_record_without_any_time_lands_on_its_row_again_inside_a_bucket() {
    let at = |seconds| one(record("no clock", 0), NOW + Duration::from_secs(seconds));
    let (first, again) = (at(0), at(9));
    assert_eq!(key(&first), key(&again));
    assert_eq!((first.clamped, first.rows[0].row.time_nanos), (0, NOW.as_nanos() as i64));
    assert_ne!(key(&first).0.1, key(&at(600)).0.1, "in the next bucket it is another row");
}

#[test]
fn a_broken_clock_is_counted_and_a_repetition_is_filed_alike() {
    for time in [1, 1_000_000_000, u64::MAX] {
        let (first, again) = (one(record("x", time), NOW), one(record("x", time), NOW + Duration::from_secs(5)));
        assert_eq!((first.clamped, key(&first)), (1, key(&again)), "{time}");
    }
}

#[test]
fn a_body_of_a_mebibyte_becomes_a_row_of_the_configured_size() {
    let read = one(record(&"é".repeat(1 << 19), 1), NOW);
    assert_eq!((read.truncated, read.rows[0].row.body.len()), (1, 64 << 10));
}

#[test]
fn no_row_comes_near_what_the_cluster_refuses_however_large_the_record_and_its_resource_are() {
    let huge = |letters: usize| text(&"x".repeat(letters));
    let pair = |key: &str, value| KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() };
    let mut large = record(&"b".repeat(8 << 20), 1);
    large.attributes = vec![pair("payload", huge(20 << 20)), pair("route", text("/cart"))];
    (large.severity_text, large.event_name) = ("s".repeat(1 << 20), "e".repeat(1 << 20));
    let resource_logs = vec![ResourceLogs {
        resource: Some(WireResource {
            attributes: vec![pair("service.name", huge(100_000)), pair("process.command_line", huge(4 << 20))],
            ..WireResource::default()
        }),
        scope_logs: vec![ScopeLogs { log_records: vec![large, record("small", 1)], ..ScopeLogs::default() }],
        ..ResourceLogs::default()
    }];
    let body = ExportLogsServiceRequest { resource_logs }.encode_to_vec();
    let read = read(&Request::parse(Signal::Logs, body.into(), &Limits::default()).unwrap(), &Config::default(), NOW);
    let [large, small] = &read.rows[..] else { panic!("{} rows", read.rows.len()) };
    // A mutation has 16 MiB at most, a partition key 65,535 bytes.
    assert!(large.row.estimated_bytes() < 2 << 20, "{}", large.row.estimated_bytes());
    assert!(small.row.estimated_bytes() < 64 << 10 && small.row.service.len() < 65_535);
    assert_eq!((large.row.attributes["route"].as_str(), read.truncated, read.cut), ("/cart", 1, 2));
    assert!(Arc::ptr_eq(&large.row.resource, &small.row.resource), "rows do not multiply their resource");
}

#[test]
fn ids_that_are_none_are_not_written_and_have_no_look_up() {
    for (trace_id, is_one) in [(Vec::new(), false), (vec![0; 16], false), (vec![1; 15], false), (vec![1; 16], true)] {
        let read = one(wire::LogRecord { trace_id, ..record("x", 1) }, NOW);
        assert_eq!(read.rows[0].by_trace.is_some(), is_one);
        assert_eq!(matches!(read.rows[0].row.trace_id, MaybeUnset::Set(_)), is_one);
    }
}

#[test]
fn the_catalogue_names_the_day_of_a_bucket() {
    let read = one(record("x", NOW.as_nanos() as u64), NOW);
    let stream = StreamRow::of(&read.rows[0].row, 4, Duration::from_secs(600));
    // 19,675 days after the epoch is 2023-11-14.
    assert_eq!(stream.day, CqlDate((1 << 31) + 19_675));
    assert_eq!((stream.service.as_str(), stream.shards), ("cart", 4));
}

#[test]
fn a_service_may_have_shards_of_its_own() {
    let mut config = Config { shards: 1, ..Config::default() };
    config.shards_by_service.insert("loud".to_owned(), 8);
    let records = || (0..200).map(|index| record(&index.to_string(), NOW.as_nanos() as u64)).collect();
    let used = |service| {
        let rows = read(&request(service, records()), &config, NOW).rows;
        rows.iter().map(|placed| placed.row.shard).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(used("quiet"), [0].into());
    assert_eq!(used("loud"), (0..8).collect());
}
