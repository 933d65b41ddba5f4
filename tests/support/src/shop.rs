//! A simulated shop: nine services, two databases, a queue and an outside bank, speaking OTLP.
//!
//! The same seed gives the same traces: randomness comes from the seed and time from the caller. Only
//! [`run`] reads a clock and sends.

mod metrics;
mod send;
mod visit;
mod world;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};

pub use send::Sender;
pub use world::SERVICES;

/// Something that goes wrong in one service for a while.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// The service, one of [`SERVICES`].
    pub service: &'static str,
    /// First nanosecond (Unix) at which it holds.
    pub from_unix_nano: u64,
    /// First nanosecond at which it no longer holds.
    pub until_unix_nano: u64,
    /// The service's own work takes this many times as long.
    pub slower: f64,
    /// Share of its requests that fail on top of the usual ones.
    pub failing: f64,
}

/// What one visitor caused, by index into [`SERVICES`].
#[derive(Debug, Default)]
pub struct Visit {
    /// Spans with the service that reports them.
    pub spans: Vec<(usize, Span)>,
    /// Log records with the service that reports them.
    pub logs: Vec<(usize, LogRecord)>,
}

/// The shop's state: its randomness, its fault and its counters.
#[derive(Debug)]
pub struct Shop {
    random: Random,
    fault: Option<Fault>,
    served: [u64; SERVICES.len()],
    busy_nanos: [u64; SERVICES.len()],
    started_unix_nano: u64,
}

/// A small generator of numbers (`SplitMix64`, Steele, Lea and Flood 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Numbers that follow from `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Log-normal with the given median and a spread that keeps most values within a factor of two.
    pub fn duration_nanos(&mut self, median_micros: f64) -> u64 {
        let normal = (0..6).map(|_| self.unit()).sum::<f64>() - 3.0;
        (median_micros * 1000.0 * (normal * 0.5).exp()) as u64
    }

    /// Bytes of an id; never all zero.
    pub fn id<const N: usize>(&mut self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(N);
        while bytes.len() < N {
            bytes.extend_from_slice(&(self.bits() | 1).to_le_bytes());
        }
        bytes.truncate(N);
        bytes
    }
}

impl Shop {
    /// A shop whose every number follows from `seed`; counters start at `started_unix_nano`.
    pub fn new(seed: u64, started_unix_nano: u64) -> Self {
        Self {
            random: Random::new(seed),
            fault: None,
            served: [0; SERVICES.len()],
            busy_nanos: [0; SERVICES.len()],
            started_unix_nano,
        }
    }

    /// Lets something go wrong.
    pub fn set_fault(&mut self, fault: Fault) {
        self.fault = Some(fault);
    }
}

/// One request per service that has spans, as each service's own exporter would send it.
pub fn trace_requests(visits: &[Visit]) -> Vec<ExportTraceServiceRequest> {
    (0..SERVICES.len())
        .filter_map(|service| {
            let spans: Vec<Span> = visits
                .iter()
                .flat_map(|visit| &visit.spans)
                .filter(|(owner, _)| *owner == service)
                .map(|(_, span)| span.clone())
                .collect();
            (!spans.is_empty()).then(|| ExportTraceServiceRequest {
                resource_spans: vec![ResourceSpans {
                    resource: Some(resource(service)),
                    scope_spans: vec![ScopeSpans { scope: Some(scope()), spans, ..ScopeSpans::default() }],
                    ..ResourceSpans::default()
                }],
            })
        })
        .collect()
}

/// One request per service that has log records.
pub fn log_requests(visits: &[Visit]) -> Vec<ExportLogsServiceRequest> {
    (0..SERVICES.len())
        .filter_map(|service| {
            let log_records: Vec<LogRecord> = visits
                .iter()
                .flat_map(|visit| &visit.logs)
                .filter(|(owner, _)| *owner == service)
                .map(|(_, record)| record.clone())
                .collect();
            (!log_records.is_empty()).then(|| ExportLogsServiceRequest {
                resource_logs: vec![ResourceLogs {
                    resource: Some(resource(service)),
                    scope_logs: vec![ScopeLogs { scope: Some(scope()), log_records, ..ScopeLogs::default() }],
                    ..ResourceLogs::default()
                }],
            })
        })
        .collect()
}

/// How [`run`] drives the shop.
#[derive(Debug, Clone)]
pub struct Options {
    /// Base URL of an OTLP/HTTP receiver, as in `http://127.0.0.1:4318`.
    pub endpoint: String,
    /// Visitors a second.
    pub visits_per_second: u32,
    /// The seed of everything random.
    pub seed: u64,
    /// When something goes wrong: after this long, for this long; `None` for never.
    pub fault: Option<(Duration, Duration)>,
    /// When to stop; `None` runs until the future is dropped.
    pub run_for: Option<Duration>,
}

/// What [`run`] has sent.
#[derive(Debug, Default, Clone, Copy)]
pub struct Sent {
    /// Visitors.
    pub visits: u64,
    /// Spans of acknowledged requests.
    pub spans: u64,
    /// Requests that were refused or failed after all retries.
    pub failed_requests: u64,
}

/// Ticks a second at which the shop sends.
const TICKS: u32 = 4;

/// Keeps the shop open: visitors arrive, services report, and after a while the payment service falters.
///
/// # Errors
/// When the endpoint is not a URL.
pub async fn run(options: Options, mut progress: impl FnMut(Sent)) -> anyhow::Result<Sent> {
    let sender = Sender::new(&options.endpoint)?;
    let started = now_unix_nano();
    let mut shop = Shop::new(options.seed, started);
    if let Some((after, lasting)) = options.fault {
        let from_unix_nano = started + after.as_nanos() as u64;
        shop.set_fault(Fault {
            service: "payment",
            from_unix_nano,
            until_unix_nano: from_unix_nano + lasting.as_nanos() as u64,
            slower: 12.0,
            failing: 0.35,
        });
    }
    let mut sent = Sent::default();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / TICKS);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut tick = 0_u64;
    loop {
        ticks.tick().await;
        let now = now_unix_nano();
        if options.run_for.is_some_and(|limit| u128::from(now - started) >= limit.as_nanos()) {
            return Ok(sent);
        }
        let count = share(options.visits_per_second, tick);
        let visits: Vec<Visit> = (0..count).map(|_| shop.visit(now)).collect();
        tick += 1;
        sent.visits += u64::from(count);
        for request in trace_requests(&visits) {
            let spans: usize = request
                .resource_spans
                .iter()
                .flat_map(|resource| &resource.scope_spans)
                .map(|scope| scope.spans.len())
                .sum();
            match sender.traces(&request).await {
                Ok(()) => sent.spans += spans as u64,
                Err(_) => sent.failed_requests += 1,
            }
        }
        for request in log_requests(&visits) {
            sent.failed_requests += u64::from(sender.logs(&request).await.is_err());
        }
        if tick.is_multiple_of(u64::from(TICKS * 5)) {
            sent.failed_requests += u64::from(sender.metrics(&shop.metrics(now)).await.is_err());
        }
        progress(sent);
    }
}

/// Spreads `per_second` over the ticks of a second without rounding any away.
fn share(per_second: u32, tick: u64) -> u32 {
    let tick = (tick % u64::from(TICKS)) as u32;
    per_second * (tick + 1) / TICKS - per_second * tick / TICKS
}

fn now_unix_nano() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64)
}

fn resource(service: usize) -> Resource {
    let name = SERVICES[service];
    Resource {
        attributes: vec![
            text("service.name", name),
            text("service.namespace", "shop"),
            text("service.instance.id", &format!("{name}-0")),
            text("service.version", "1.4.2"),
            text("telemetry.sdk.language", "rust"),
        ],
        ..Resource::default()
    }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope { name: "shop".to_owned(), version: "1.0.0".to_owned(), ..InstrumentationScope::default() }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, any_value::Value::StringValue(value.to_owned()))
}

fn int(key: &str, value: i64) -> KeyValue {
    attribute(key, any_value::Value::IntValue(value))
}

fn attribute(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
