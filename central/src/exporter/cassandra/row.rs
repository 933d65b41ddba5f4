//! From log views to rows of Cassandra.
//!
//! Invariant: a record with a time inside the kept range has one primary key, whenever it is read. A record
//! without a time, or far outside the range, has one per bucket of the time at which it arrives.
//!
//! Never: touches the network, writes a null.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mirador_otlp::Request;
use mirador_otlp::logs::LogRecord;
use mirador_otlp::resource::Resource;
use mirador_otlp::value::{Attributes, Value};
use scylla::SerializeRow;
use scylla::value::{CqlDate, CqlTimeuuid, MaybeUnset};

use super::Config;
use crate::exporter::{is_id, shorten};
use crate::logs::identity;

/// 100 ns ticks between the Gregorian reform (the epoch of version 1 UUIDs, RFC 9562 §5.1) and 1970.
const GREGORIAN_TICKS: u64 = 0x01b2_1dd2_1381_4000;
/// How far ahead of our clock an event time may lie.
const FUTURE: Duration = Duration::from_secs(2 * 3600);
/// Characters of a body that the look-up by trace shows.
const PREVIEW: usize = 120;

/// The partition of a row.
pub(super) type Partition = (String, i32, i16);

/// One row of `logs_v1`.
#[derive(Debug, Clone, SerializeRow)]
pub(super) struct LogRow {
    pub(super) tenant: String,
    pub(super) service: String,
    pub(super) bucket: i32,
    pub(super) shard: i16,
    pub(super) id: CqlTimeuuid,
    pub(super) time_nanos: i64,
    pub(super) observed_nanos: MaybeUnset<i64>,
    pub(super) severity: i8,
    pub(super) severity_text: MaybeUnset<String>,
    pub(super) body: String,
    pub(super) body_type: i8,
    pub(super) trace_id: MaybeUnset<Vec<u8>>,
    pub(super) span_id: MaybeUnset<Vec<u8>>,
    pub(super) flags: MaybeUnset<i32>,
    pub(super) event_name: MaybeUnset<String>,
    pub(super) namespace: MaybeUnset<String>,
    pub(super) pod: MaybeUnset<String>,
    pub(super) node: MaybeUnset<String>,
    pub(super) attributes: BTreeMap<String, String>,
    /// One map for all rows of a resource.
    pub(super) resource: Arc<BTreeMap<String, String>>,
    pub(super) scope: MaybeUnset<String>,
}

/// One row of `logs_by_trace_v1`.
#[derive(Debug, Clone, SerializeRow)]
pub(super) struct TraceRow {
    tenant: String,
    trace_id: Vec<u8>,
    id: CqlTimeuuid,
    service: String,
    bucket: i32,
    shard: i16,
    span_id: MaybeUnset<Vec<u8>>,
    severity: i8,
    preview: String,
}

/// One row of `log_streams_v1`.
#[derive(Debug, Clone, SerializeRow)]
pub(super) struct StreamRow {
    tenant: String,
    day: CqlDate,
    service: String,
    bucket: i32,
    shards: i16,
}

/// A row and, when it belongs to a trace, its entry in the look-up table.
pub(super) struct Placed {
    pub(super) row: LogRow,
    pub(super) by_trace: Option<TraceRow>,
}

/// All rows of a request and what had to be changed to keep them.
pub(super) struct Read {
    pub(super) rows: Vec<Placed>,
    pub(super) truncated: u64,
    pub(super) cut: u64,
    pub(super) clamped: u64,
}

impl LogRow {
    pub(super) fn partition(&self) -> Partition {
        (self.service.clone(), self.bucket, self.shard)
    }

    /// Bytes on the wire, near enough to size a batch.
    pub(super) fn estimated_bytes(&self) -> usize {
        let map = |map: &BTreeMap<String, String>| -> usize {
            map.iter().map(|(key, value)| key.len() + value.len() + 8).sum()
        };
        let set = |text: &MaybeUnset<String>| match text {
            MaybeUnset::Set(text) => text.len(),
            MaybeUnset::Unset => 0,
        };
        let texts = [&self.severity_text, &self.event_name, &self.namespace, &self.pod, &self.node, &self.scope];
        // Fixed columns, ids and a length before every value make up the constant.
        200 + self.tenant.len()
            + self.service.len()
            + self.body.len()
            + map(&self.attributes)
            + map(&self.resource)
            + texts.into_iter().map(set).sum::<usize>()
    }
}

impl StreamRow {
    pub(super) fn of(row: &LogRow, shards: i16, bucket_width: Duration) -> Self {
        let seconds = i64::from(row.bucket) * bucket_width.as_secs() as i64;
        // A CQL date counts days with 1970-01-01 in the middle of the unsigned range.
        let day = (1_i64 << 31) + seconds.div_euclid(86_400);
        Self {
            tenant: row.tenant.clone(),
            day: CqlDate(u32::try_from(day).unwrap_or(u32::MAX)),
            service: row.service.clone(),
            bucket: row.bucket,
            shards,
        }
    }
}

/// Partitions that `service` writes side by side.
pub(super) fn shards(config: &Config, service: &str) -> u16 {
    config.shards_by_service.get(service).copied().unwrap_or(config.shards).max(1)
}

/// Reads every record of the request; `now` (since the epoch) stands in for a missing time and bounds the others.
pub(super) fn read(request: &Request, config: &Config, now: Duration) -> Read {
    let mut found = Read { rows: Vec::with_capacity(request.items()), truncated: 0, cut: 0, clamped: 0 };
    let mut names = identity::Names::default();
    for resource_logs in request.resource_logs() {
        let resource = resource_logs.resource();
        let shared = Shared::of(&resource, config);
        for scope_logs in resource_logs.scopes() {
            let scope = scope_logs.scope();
            let context = identity::context(&resource, &scope);
            for record in scope_logs.log_records() {
                let (name, stamped) = names.next(context, &record);
                let (time, kept_under) = match stamped {
                    Some(time) => (time, file_under(time, config, now)),
                    // Without any time the record is filed at the start of the present bucket, so that a repeated
                    // export lands on the row that it wrote before.
                    None => (now.as_nanos() as u64, start_of_bucket(now.as_nanos() as u64, config)),
                };
                found.clamped += u64::from(stamped.is_some() && kept_under != time);
                let (row, shortened) = shared.row(&record, scope.name(), &Filed { name, time, kept_under });
                found.truncated += u64::from(shortened.body);
                found.cut += u64::from(shortened.attributes);
                let by_trace = trace_row(&row, &record);
                found.rows.push(Placed { row, by_trace });
            }
        }
    }
    found
}

/// The name of a record, its own time and the time under which it is filed.
struct Filed {
    name: u128,
    time: u64,
    kept_under: u64,
}

/// What of a record was too long.
struct Shortened {
    body: bool,
    /// Its attributes, a name, or what its resource has.
    attributes: bool,
}

/// What all rows of one resource share.
struct Shared<'a> {
    config: &'a Config,
    service: String,
    resource: Arc<BTreeMap<String, String>>,
    is_cut: bool,
    namespace: MaybeUnset<String>,
    pod: MaybeUnset<String>,
    node: MaybeUnset<String>,
}

impl<'a> Shared<'a> {
    fn of(resource: &Resource<'_>, config: &'a Config) -> Self {
        let mut texts = texts(&resource.attributes());
        // Read before anything is cut: whole attributes may go.
        let hot = |key: &str| texts.get(key).map_or(MaybeUnset::Unset, |value| text(value));
        let [namespace, pod, node] = ["k8s.namespace.name", "k8s.pod.name", "k8s.node.name"].map(hot);
        let service = resource.service_name().unwrap_or("unknown_service");
        let is_cut = shorten::map(&mut texts, shorten::RESOURCE) | (service.len() > shorten::NAME);
        Self {
            config,
            is_cut,
            service: shorten::name(service).to_owned(),
            namespace,
            pod,
            node,
            resource: Arc::new(texts),
        }
    }

    fn row(&self, record: &LogRecord<'_>, scope: &str, filed: &Filed) -> (LogRow, Shortened) {
        let value = record.body();
        let mut body = value.to_text().into_owned();
        let cut = body.len() > self.config.max_body_bytes;
        if cut {
            body.truncate(body.floor_char_boundary(self.config.max_body_bytes));
        }
        let mut attributes = texts(&record.attributes());
        let is_cut = [scope, record.severity_text(), record.event_name()].iter().any(|name| name.len() > shorten::NAME)
            || self.is_cut;
        let shortened =
            Shortened { body: cut, attributes: shorten::map(&mut attributes, shorten::ATTRIBUTES) || is_cut };
        let width = self.config.bucket_width.as_secs().max(1);
        let row = LogRow {
            tenant: self.config.tenant.clone(),
            service: self.service.clone(),
            bucket: i32::try_from(filed.kept_under / 1_000_000_000 / width).unwrap_or(i32::MAX),
            shard: (filed.name % u128::from(shards(self.config, &self.service))) as i16,
            id: timeuuid(filed.kept_under, filed.name),
            time_nanos: signed(filed.time),
            observed_nanos: set_if(record.observed_time_unix_nano() != 0, signed(record.observed_time_unix_nano())),
            severity: i8::try_from(record.severity_number()).unwrap_or_default(),
            severity_text: text(record.severity_text()),
            body,
            body_type: body_type(&value),
            trace_id: id(record.trace_id(), 16),
            span_id: id(record.span_id(), 8),
            flags: set_if(record.flags() != 0, record.flags() as i32),
            event_name: text(record.event_name()),
            namespace: self.namespace.clone(),
            pod: self.pod.clone(),
            node: self.node.clone(),
            attributes,
            resource: Arc::clone(&self.resource),
            scope: text(scope),
        };
        (row, shortened)
    }
}

fn trace_row(row: &LogRow, record: &LogRecord<'_>) -> Option<TraceRow> {
    // Ids that are none would all meet in one partition.
    is_id(record.trace_id(), 16).then(|| TraceRow {
        tenant: row.tenant.clone(),
        trace_id: record.trace_id().to_vec(),
        id: row.id,
        service: row.service.clone(),
        bucket: row.bucket,
        shard: row.shard,
        span_id: row.span_id.clone(),
        severity: row.severity,
        preview: row.body.chars().take(PREVIEW).collect(),
    })
}

/// A broken clock must not make thousands of partitions: times outside the kept range are filed at its edge,
/// rounded to whole buckets so that a repeated export soon after is filed alike.
fn file_under(time: u64, config: &Config, now: Duration) -> u64 {
    let oldest = start_of_bucket(now.saturating_sub(config.ttl).as_nanos() as u64, config);
    let newest = start_of_bucket((now + FUTURE).as_nanos() as u64, config);
    time.clamp(oldest, newest)
}

fn start_of_bucket(nanos: u64, config: &Config) -> u64 {
    nanos - nanos % (config.bucket_width.as_nanos() as u64).max(1)
}

/// A version 1 layout: 60 bits of event time, then 61 bits of the record's name. The multicast bit keeps the
/// node part apart from every real hardware address (RFC 9562 §6.10).
fn timeuuid(unix_nanos: u64, name: u128) -> CqlTimeuuid {
    let ticks = (unix_nanos / 100).wrapping_add(GREGORIAN_TICKS);
    let (low, mid, high) = (ticks & 0xffff_ffff, (ticks >> 32) & 0xffff, (ticks >> 48) & 0x0fff);
    let time = (low << 32) | (mid << 16) | 0x1000 | high;
    let sequence = ((name >> 114) as u64) & 0x3fff;
    let node = ((name >> 66) as u64 & 0xffff_ffff_ffff) | (1 << 40);
    let rest = (0b10 << 62) | (sequence << 48) | node;
    CqlTimeuuid::from_bytes(((u128::from(time) << 64) | u128::from(rest)).to_be_bytes())
}

fn texts(attributes: &Attributes<'_>) -> BTreeMap<String, String> {
    attributes.iter().map(|entry| (entry.key.to_owned(), entry.value.to_text().into_owned())).collect()
}

fn body_type(value: &Value<'_>) -> i8 {
    match value {
        Value::Empty => 0,
        Value::Str(_) => 1,
        Value::Bool(_) => 2,
        Value::Int(_) => 3,
        Value::Double(_) => 4,
        Value::Array(_) => 5,
        Value::Map(_) => 6,
        Value::Bytes(_) => 7,
    }
}

fn set_if<T>(is_set: bool, value: T) -> MaybeUnset<T> {
    if is_set { MaybeUnset::Set(value) } else { MaybeUnset::Unset }
}

fn text(text: &str) -> MaybeUnset<String> {
    set_if(!text.is_empty(), shorten::name(text).to_owned())
}

fn id(bytes: &[u8], length: usize) -> MaybeUnset<Vec<u8>> {
    set_if(is_id(bytes, length), bytes.to_vec())
}

fn signed(nanos: u64) -> i64 {
    i64::try_from(nanos).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
