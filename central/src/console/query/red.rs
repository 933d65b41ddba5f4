//! RED per operation, edges of the service graph and anomalies, read from stored series.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};
use serde::Serialize;
use serde_json::Value as Json;

use super::{Growth, LabelMap, growth};

pub(super) const CALLS: &str = "traces_span_metrics_calls_total";
const DURATION: [(&str, f64); 2] = [
    ("traces_span_metrics_duration_milliseconds_bucket", 1.0),
    ("traces_span_metrics_duration_seconds_bucket", 1000.0),
];
const EDGE_TOTAL: &str = "traces_service_graph_request_total";
const EDGE_FAILED: &str = "traces_service_graph_request_failed_total";
const EDGE_SERVER: &str = "traces_service_graph_request_server_seconds_bucket";
const EDGE_CLIENT: &str = "traces_service_graph_request_client_seconds_bucket";

/// RED of one operation.
#[derive(Debug, Serialize)]
pub(in crate::console) struct RedRow {
    service: String,
    span: String,
    kind: String,
    calls: f64,
    rate: f64,
    errors: f64,
    error_ratio: f64,
    p50_ms: Option<f64>,
    p95_ms: Option<f64>,
    p99_ms: Option<f64>,
}

/// One edge of the service graph.
#[derive(Debug, Serialize)]
pub(in crate::console) struct EdgeRow {
    client: String,
    server: String,
    connection_type: String,
    calls: f64,
    rate: f64,
    failed: f64,
    p50_ms: Option<f64>,
    p95_ms: Option<f64>,
}

/// The latest score of one series.
#[derive(Debug, Serialize)]
pub(in crate::console) struct AnomalyRow {
    metric: String,
    labels: LabelMap,
    score: f64,
    peak: f64,
    flagged: bool,
    timestamp_ms: i64,
    /// The latest episode of the series, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    episode: Option<EpisodeRow>,
}

/// What the latest log record about a series says.
#[derive(Debug, Clone, Serialize)]
struct EpisodeRow {
    /// `opened`, `peak`, `closed`, `silent` or `heard_again`.
    kind: String,
    /// In words.
    reason: String,
    /// `rate`, `p99` or another part of the metric.
    part: String,
    direction: Option<String>,
    value: Option<f64>,
    expected_low: Option<f64>,
    expected_high: Option<f64>,
    contribution: Option<f64>,
    peak: Option<f64>,
    opened_ms: i64,
    timestamp_ms: i64,
    /// What it belongs to, with other episodes of the same service or resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    incident: Option<IncidentRow>,
}

/// Episodes that belong together.
#[derive(Debug, Clone, Serialize)]
struct IncidentRow {
    id: String,
    opened_ms: i64,
    /// Series with an episode, when the record was written.
    series: i64,
    /// The series that led, as a selector with its part.
    lead: String,
}

impl IncidentRow {
    fn of(record: &BTreeMap<String, Json>) -> Option<Self> {
        let number = |key: &str| record.get(key).and_then(Json::as_i64);
        Some(Self {
            id: record.get("anomaly.incident.id").and_then(Json::as_str)?.to_owned(),
            opened_ms: number("anomaly.incident.opened_at_unix_nano").unwrap_or_default() / 1_000_000,
            series: number("anomaly.incident.series").unwrap_or_default(),
            lead: record.get("anomaly.incident.lead").and_then(Json::as_str).unwrap_or_default().to_owned(),
        })
    }
}

/// What is asked about anomalies besides their range.
#[derive(Debug, Default)]
pub(in crate::console) struct AnomalyFilter {
    /// Series of this service only: by their label `service_name`, else `server`, else the name in `job`.
    pub(in crate::console) service: Option<String>,
    /// `true`: only series that were flagged; `false`: only the others.
    pub(in crate::console) flagged: Option<bool>,
    /// Series whose latest episode belongs to this incident only.
    pub(in crate::console) incident: Option<String>,
}

impl AnomalyFilter {
    fn wants(&self, row: &AnomalyRow) -> bool {
        let named = |name: &str| row.labels.get(name).map(String::as_str).filter(|value| !value.is_empty());
        let job = || named("job").map(|job| job.rsplit('/').next().unwrap_or(job));
        let service = || named("service_name").or_else(|| named("server")).or_else(job);
        let incident = || row.episode.as_ref()?.incident.as_ref().map(|incident| incident.id.as_str());
        self.flagged.is_none_or(|flagged| flagged == row.flagged)
            && self.service.as_deref().is_none_or(|wanted| service() == Some(wanted))
            && self.incident.as_deref().is_none_or(|wanted| incident() == Some(wanted))
    }
}

/// Log records read for one answer at most.
const RECORDS: i64 = 10_000;

/// The latest episode of each series, by metric and labels; an opening's reason outlives its close.
fn episodes(connection: &Connection, since_ms: i64) -> anyhow::Result<BTreeMap<(String, LabelMap), EpisodeRow>> {
    let mut statement = connection.prepare_cached(
        "SELECT time_nanos, attributes FROM logs WHERE event_name = ?1 AND time_nanos >= ?2 \
         ORDER BY time_nanos DESC LIMIT ?3",
    )?;
    let name = crate::isolationforest::episodes::EVENT_NAME;
    let mut rows = statement.query(params![name, since_ms.saturating_mul(1_000_000), RECORDS])?;
    let mut found: BTreeMap<(String, LabelMap), EpisodeRow> = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let time: i64 = row.get(0)?;
        let record: BTreeMap<String, Json> = serde_json::from_str(row.get_ref(1)?.as_str()?)?;
        let text = |key: &str| record.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
        let number = |key: &str| record.get(key).and_then(Json::as_f64);
        let labels = record.iter().filter_map(|(key, value)| {
            Some((key.strip_prefix("series.")?.to_owned(), value.as_str().unwrap_or_default().to_owned()))
        });
        let nanos = record.get("anomaly.opened_at_unix_nano").and_then(Json::as_i64).unwrap_or(time);
        let episode = EpisodeRow {
            kind: text("anomaly.kind"),
            reason: text("anomaly.reason"),
            part: text("anomaly.part"),
            direction: record.get("anomaly.direction").and_then(Json::as_str).map(str::to_owned),
            value: number("anomaly.value"),
            expected_low: number("anomaly.expected_low"),
            expected_high: number("anomaly.expected_high"),
            contribution: number("anomaly.contribution"),
            peak: number("anomaly.peak"),
            opened_ms: nanos / 1_000_000,
            timestamp_ms: time / 1_000_000,
            incident: IncidentRow::of(&record),
        };
        let known = found.entry((text("anomaly.metric"), labels.collect())).or_insert_with(|| episode.clone());
        if known.direction.is_none() && known.opened_ms == episode.opened_ms && episode.direction.is_some() {
            *known = EpisodeRow { kind: known.kind.clone(), timestamp_ms: known.timestamp_ms, ..episode };
        }
    }
    Ok(found)
}

/// Cumulative bucket growth by upper bound, in the order of the bounds.
#[derive(Default)]
struct Buckets(BTreeMap<u64, f64>);

impl Buckets {
    fn add(&mut self, le: &str, increase: f64) {
        if let Ok(bound) = le.parse::<f64>() {
            // Bounds are not negative, so their bits sort as their values do; +Inf comes last.
            *self.0.entry(bound.to_bits()).or_default() += increase;
        }
    }

    /// Linear inside a bucket, as `histogram_quantile` does; the last finite bound stands for what is above it.
    fn quantile(&self, quantile: f64, scale: f64) -> Option<f64> {
        let total = *self.0.values().next_back()?;
        if total <= 0.0 {
            return None;
        }
        let rank = quantile * total;
        let (mut below, mut lower) = (0.0, 0.0);
        for (&bits, &count) in &self.0 {
            let bound = f64::from_bits(bits);
            if count >= rank {
                if bound.is_infinite() {
                    return Some(lower * scale);
                }
                let inside = if count > below { (rank - below) / (count - below) } else { 1.0 };
                return Some((lower + (bound - lower) * inside) * scale);
            }
            (below, lower) = (count, bound);
        }
        Some(lower * scale)
    }
}

/// Seconds between the first and the last sample, at least one.
fn seconds(growths: &[Growth]) -> f64 {
    let first = growths.iter().map(|growth| growth.first_ms).min().unwrap_or(0);
    let last = growths.iter().map(|growth| growth.last_ms).max().unwrap_or(0);
    ((last - first) as f64 / 1000.0).max(1.0)
}

fn label(labels: &LabelMap, name: &str) -> String {
    labels.get(name).cloned().unwrap_or_default()
}

/// RED of every operation since `since_ms`, busiest first.
pub(in crate::console) fn red(connection: &Connection, since_ms: i64) -> anyhow::Result<Vec<RedRow>> {
    type Key = (String, String, String);
    let key = |labels: &LabelMap| -> Key {
        (label(labels, "service_name"), label(labels, "span_name"), label(labels, "span_kind"))
    };
    let calls = growth(connection, CALLS, since_ms)?;
    let seconds = seconds(&calls);
    let mut rows: BTreeMap<Key, (f64, f64)> = BTreeMap::new();
    for growth in &calls {
        let (total, errors) = rows.entry(key(&growth.labels)).or_default();
        *total += growth.increase;
        if growth.labels.get("status_code").is_some_and(|code| code == "STATUS_CODE_ERROR") {
            *errors += growth.increase;
        }
    }
    let mut durations: BTreeMap<Key, (Buckets, f64)> = BTreeMap::new();
    for (name, scale) in DURATION {
        for growth in growth(connection, name, since_ms)? {
            let (buckets, stored_scale) = durations.entry(key(&growth.labels)).or_default();
            buckets.add(&label(&growth.labels, "le"), growth.increase);
            *stored_scale = scale;
        }
    }
    let mut found: Vec<RedRow> = rows
        .into_iter()
        .map(|(key, (calls, errors))| {
            let quantile =
                |quantile| durations.get(&key).and_then(|(buckets, scale)| buckets.quantile(quantile, *scale));
            RedRow {
                calls,
                rate: calls / seconds,
                errors,
                error_ratio: if calls > 0.0 { errors / calls } else { 0.0 },
                p50_ms: quantile(0.5),
                p95_ms: quantile(0.95),
                p99_ms: quantile(0.99),
                service: key.0,
                span: key.1,
                kind: key.2.trim_start_matches("SPAN_KIND_").to_lowercase(),
            }
        })
        .collect();
    found.sort_by(|left, right| right.calls.total_cmp(&left.calls));
    Ok(found)
}

/// Every edge since `since_ms`, busiest first.
pub(in crate::console) fn edges(connection: &Connection, since_ms: i64) -> anyhow::Result<Vec<EdgeRow>> {
    type Key = (String, String, String);
    let key = |labels: &LabelMap| -> Key {
        (label(labels, "client"), label(labels, "server"), label(labels, "connection_type"))
    };
    let totals = growth(connection, EDGE_TOTAL, since_ms)?;
    let seconds = seconds(&totals);
    let mut rows: BTreeMap<Key, (f64, f64, Buckets, Buckets)> = BTreeMap::new();
    for growth in &totals {
        rows.entry(key(&growth.labels)).or_default().0 += growth.increase;
    }
    for growth in growth(connection, EDGE_FAILED, since_ms)? {
        rows.entry(key(&growth.labels)).or_default().1 += growth.increase;
    }
    for growth in growth(connection, EDGE_SERVER, since_ms)? {
        rows.entry(key(&growth.labels)).or_default().2.add(&label(&growth.labels, "le"), growth.increase);
    }
    for growth in growth(connection, EDGE_CLIENT, since_ms)? {
        rows.entry(key(&growth.labels)).or_default().3.add(&label(&growth.labels, "le"), growth.increase);
    }
    let mut found: Vec<EdgeRow> = rows
        .into_iter()
        .map(|((client, server, connection_type), (calls, failed, by_server, by_client))| {
            // A virtual server has no latency of its own: the client's stands in.
            let quantile =
                |quantile| by_server.quantile(quantile, 1000.0).or_else(|| by_client.quantile(quantile, 1000.0));
            EdgeRow {
                client,
                server,
                connection_type,
                calls,
                rate: calls / seconds,
                failed,
                p50_ms: quantile(0.5),
                p95_ms: quantile(0.95),
            }
        })
        .collect();
    found.sort_by(|left, right| right.calls.total_cmp(&left.calls));
    Ok(found)
}

/// The highest scores since `since_ms` of what is asked for: flagged series first, then by peak.
pub(in crate::console) fn anomalies(
    connection: &Connection,
    filter: &AnomalyFilter,
    since_ms: i64,
    limit: usize,
) -> anyhow::Result<Vec<AnomalyRow>> {
    // SQLite documents that with one max() the other columns come from the row that holds it.
    let mut flagged = connection.prepare_cached(
        "SELECT series.labels, max(samples.value) FROM series JOIN samples ON samples.series = series.id \
         WHERE series.name = 'is_anomaly' AND samples.timestamp_ms >= ?1 GROUP BY series.id",
    )?;
    let flags: BTreeMap<String, bool> = flagged
        .query_map(params![since_ms], |row| Ok((row.get(0)?, row.get::<_, Option<f64>>(1)?.unwrap_or(0.0) > 0.0)))?
        .collect::<Result<_, _>>()?;
    let mut scored = connection.prepare_cached(
        "SELECT s.labels, (SELECT value FROM samples WHERE series = s.id AND value IS NOT NULL \
                           ORDER BY timestamp_ms DESC LIMIT 1), \
                max(samples.value), samples.timestamp_ms \
         FROM series AS s JOIN samples ON samples.series = s.id \
         WHERE s.name = 'anomaly_score' AND samples.timestamp_ms >= ?1 \
         GROUP BY s.id HAVING max(samples.value) > 0",
    )?;
    let mut told = episodes(connection, since_ms)?;
    let mut found: Vec<AnomalyRow> = Vec::new();
    let mut rows = scored.query(params![since_ms])?;
    while let Some(row) = rows.next()? {
        let text: String = row.get(0)?;
        let mut labels: LabelMap = serde_json::from_str(&text)?;
        let metric = labels.remove("metric").unwrap_or_default();
        let key = (metric, labels);
        let episode = told.remove(&key);
        let (metric, labels) = key;
        let row = AnomalyRow {
            metric,
            episode,
            flagged: flags.get(&text).copied().unwrap_or(false),
            labels,
            score: row.get::<_, Option<f64>>(1)?.unwrap_or(0.0),
            peak: row.get(2)?,
            timestamp_ms: row.get(3)?,
        };
        if filter.wants(&row) {
            found.push(row);
        }
    }
    found.sort_by(|left, right| right.flagged.cmp(&left.flagged).then_with(|| right.peak.total_cmp(&left.peak)));
    found.truncate(limit);
    Ok(found)
}

#[cfg(test)]
mod tests;
