//! Episodes as OTLP log records: one when it opens, one at each new peak, one when it closes.
//!
//! Records go to the store of logs behind a bounded queue; an episode that finds it full is counted as dropped, never
//! waited for, because metrics must not wait for logs. Never: scores.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mirador_otlp::{Limits, Request, Signal};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use tokio::sync::mpsc;

use super::detector::{EpisodeKind, Reason};
use super::incidents::Mark;
use super::telemetry::Telemetry;
use super::watch::Change;
use crate::complaint::Complaint;
use crate::exporter::{ExportError, LogStore};
use crate::metrics_out::points::text;
use crate::series::Labels;

/// The name of the records.
pub const EVENT_NAME: &str = "mirador.anomaly";
/// Records of one request.
const BATCH: usize = 256;
/// How often a batch is tried, beyond the retries of the store itself.
const ATTEMPTS: u32 = 5;
/// How long it waits in between.
const PAUSE: Duration = Duration::from_secs(2);
/// Log severities of OTLP: INFO and WARN.
const INFO: i32 = 9;
const WARN: i32 = 13;

/// What happened to a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EventKind {
    /// An episode began.
    Opened,
    /// Its score is higher than before.
    Peak,
    /// It is over.
    Closed,
    /// Nothing comes from the series any more.
    Silent,
    /// Something does again.
    HeardAgain,
}

impl EventKind {
    /// The value of `anomaly.kind`.
    fn as_str(self) -> &'static str {
        match self {
            Self::Opened => EpisodeKind::Opened.as_str(),
            Self::Peak => EpisodeKind::Peak.as_str(),
            Self::Closed => EpisodeKind::Closed.as_str(),
            Self::Silent => "silent",
            Self::HeardAgain => "heard_again",
        }
    }
}

/// Something that somebody may want to be told.
#[derive(Debug, Clone)]
pub struct Event {
    /// The labels of the score series, whose label `metric` names the metric.
    labels: Labels,
    /// The virtual series, as in `rate` or `p99`; empty where the series has only one.
    part: &'static str,
    pub(super) kind: EventKind,
    pub(super) time: u64,
    pub(super) opened_at: u64,
    pub(super) peak: f64,
    points: u32,
    reason: Option<Reason>,
    /// What is said when there is no reason by numbers.
    words: String,
    /// What it belongs to, once that is known.
    pub(super) incident: Option<Mark>,
}

impl Event {
    /// What happened to the episode of a series.
    pub(super) fn of(labels: &Labels, change: &Change) -> Self {
        let episode = &change.episode;
        let words = match (episode.kind, &change.reason) {
            (EpisodeKind::Closed, _) => {
                let seconds = episode.at.saturating_sub(episode.opened_at) / 1_000_000_000;
                format!("back to usual after {seconds} s, {} anomalous points", episode.points)
            }
            (_, Some(reason)) => format!("{}: {reason}", change.which.as_str()),
            (_, None) => change.which.as_str().to_owned(),
        };
        Self {
            labels: labels.clone(),
            part: change.which.as_str(),
            kind: match episode.kind {
                EpisodeKind::Opened => EventKind::Opened,
                EpisodeKind::Peak => EventKind::Peak,
                EpisodeKind::Closed => EventKind::Closed,
            },
            time: episode.at,
            opened_at: episode.opened_at,
            peak: episode.peak,
            points: episode.points,
            reason: change.reason,
            words,
            incident: None,
        }
    }

    fn plain(labels: &Labels, kind: EventKind, time: u64, words: String) -> Self {
        Self {
            labels: labels.clone(),
            part: "",
            kind,
            time,
            opened_at: time,
            peak: 1.0,
            points: 0,
            reason: None,
            words,
            incident: None,
        }
    }

    /// Nothing comes from a series any more.
    pub(super) fn silent(labels: &Labels, time: u64) -> Self {
        Self::plain(labels, EventKind::Silent, time, "no points where some are usual".to_owned())
    }

    /// Nothing comes from many series of a resource any more.
    pub(super) fn resource_silent(labels: &Labels, series: usize, time: u64) -> Self {
        Self::plain(labels, EventKind::Silent, time, format!("no points from {series} series of this resource"))
    }

    /// A silent series speaks again.
    pub(super) fn heard_again(labels: &Labels, time: u64) -> Self {
        Self::plain(labels, EventKind::HeardAgain, time, "points come again".to_owned())
    }

    /// The labels of the score series.
    pub(super) fn labels(&self) -> &Labels {
        &self.labels
    }

    /// The value of a label, empty when it is not there.
    pub(super) fn label(&self, name: &str) -> &str {
        self.labels.value(name).unwrap_or_default()
    }

    /// The virtual series; empty where nothing of the series stands out.
    pub(super) fn part(&self) -> &'static str {
        self.part
    }

    /// The log record.
    pub(super) fn record(&self) -> LogRecord {
        let (metric, kind) = (self.label("metric"), self.kind.as_str());
        let double = |key: &str, value: f64| attribute(key, Value::DoubleValue(value));
        let nanos = |key: &str, value: u64| attribute(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)));
        let mut attributes = vec![
            text("anomaly.kind", kind),
            text("anomaly.metric", metric),
            text("anomaly.part", self.part),
            text("anomaly.reason", self.words.as_str()),
            double("anomaly.peak", self.peak),
            nanos("anomaly.opened_at_unix_nano", self.opened_at),
            attribute("anomaly.points", Value::IntValue(i64::from(self.points))),
        ];
        if let Some(reason) = &self.reason {
            attributes.extend([
                text("anomaly.feature", reason.feature.as_str()),
                text("anomaly.direction", reason.side.as_str()),
                double("anomaly.value", reason.value),
                double("anomaly.expected_low", reason.expected.low),
                double("anomaly.expected_high", reason.expected.high),
                double("anomaly.contribution", reason.contribution),
            ]);
        }
        if let Some(Mark { id, opened_at, series, lead }) = &self.incident {
            attributes.extend([
                text("anomaly.incident.id", format!("{id:016x}")),
                nanos("anomaly.incident.opened_at_unix_nano", *opened_at),
                attribute("anomaly.incident.series", Value::IntValue(i64::from(*series))),
                text("anomaly.incident.lead", &**lead),
            ]);
        }
        let own = self.labels.texts().filter(|(name, _)| !matches!(*name, "__name__" | "metric"));
        attributes.extend(own.map(|(name, value)| text(format!("series.{name}"), value)));
        let loud = matches!(self.kind, EventKind::Opened | EventKind::Peak | EventKind::Silent);
        LogRecord {
            time_unix_nano: self.time,
            observed_time_unix_nano: self.time,
            severity_number: if loud { WARN } else { INFO },
            severity_text: if loud { "WARN" } else { "INFO" }.to_owned(),
            event_name: EVENT_NAME.to_owned(),
            body: Some(AnyValue { value: Some(Value::StringValue(format!("{metric} {kind}: {}", self.words))) }),
            attributes,
            ..LogRecord::default()
        }
    }

    /// The service that the series tells of: its own label, or what made it.
    pub(super) fn service(&self) -> String {
        self.named_service().unwrap_or("unknown").to_owned()
    }

    /// The same, where a label names one.
    pub(super) fn named_service(&self) -> Option<&str> {
        let value = |name| self.labels.value(name).filter(|value: &&str| !value.is_empty());
        let job = value("job").map(|job| job.rsplit('/').next().unwrap_or(job));
        value("service_name").or_else(|| value("server")).or(job)
    }
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// An OTLP logs request of these events.
fn request(events: &[Event]) -> Option<Request> {
    let resource_logs = events.iter().map(|event| ResourceLogs {
        resource: Some(Resource { attributes: vec![text("service.name", event.service())], ..Resource::default() }),
        scope_logs: vec![ScopeLogs {
            scope: Some(InstrumentationScope {
                name: "mirador.isolationforest".to_owned(),
                ..InstrumentationScope::default()
            }),
            log_records: vec![event.record()],
            ..ScopeLogs::default()
        }],
        ..ResourceLogs::default()
    });
    let message = ExportLogsServiceRequest { resource_logs: resource_logs.collect() };
    Request::parse(Signal::Logs, message.encode_to_vec().into(), &Limits::default()).ok()
}

/// Hands events to the store until all senders are gone; events without a store are only counted.
pub(super) async fn run(store: Option<Arc<dyn LogStore>>, mut events: mpsc::Receiver<Event>, telemetry: Telemetry) {
    let mut batch = Vec::with_capacity(BATCH);
    while events.recv_many(&mut batch, BATCH).await > 0 {
        if let (Some(store), Some(request)) = (&store, request(&batch))
            && !deliver(store.as_ref(), &request, &telemetry.untold).await
        {
            telemetry.events_dropped.inc_by(batch.len() as u64);
        }
        batch.clear();
    }
}

async fn deliver(store: &dyn LogStore, request: &Request, untold: &Complaint) -> bool {
    for attempt in 1..=ATTEMPTS {
        match store.store(request).await {
            Ok(()) => return true,
            Err(error @ (ExportError::Retry { .. } | ExportError::Fatal { .. })) if attempt < ATTEMPTS => {
                if let Some(times) = untold.due(Instant::now()) {
                    tracing::warn!(%error, times, "episodes wait for the store of logs");
                }
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => {
                if let Some(times) = untold.due(Instant::now()) {
                    tracing::warn!(%error, records = request.items(), times, "episodes were not stored");
                }
                return false;
            }
        }
    }
    false
}
