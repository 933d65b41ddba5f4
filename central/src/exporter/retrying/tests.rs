//! Retries on a paused clock, and poison that has to end up alone.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use mirador_otlp::{Limits, Signal};
use mirador_service::metrics::Registry;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::series::{LabelSet, Series};
use crate::testing;

/// Answers as scripted, then refuses for good whatever holds poison and keeps the rest.
#[derive(Default)]
struct Backend {
    script: Mutex<VecDeque<ExportError>>,
    poison: BTreeSet<String>,
    kept: Mutex<Vec<String>>,
    calls: Mutex<Vec<Duration>>,
    /// Never answers.
    hangs: bool,
}

impl Backend {
    fn take(&self, names: Vec<String>) -> Result<(), ExportError> {
        self.calls.lock().unwrap().push(Duration::ZERO);
        if let Some(error) = self.script.lock().unwrap().pop_front() {
            return Err(error);
        }
        if let Some(bad) = names.iter().find(|name| self.poison.contains(*name)) {
            return Err(ExportError::Drop { reason: format!("poison {bad}") });
        }
        self.kept.lock().unwrap().extend(names);
        Ok(())
    }

    fn kept(&self) -> Vec<String> {
        let mut kept = self.kept.lock().unwrap().clone();
        kept.sort();
        kept
    }

    fn calls(&self) -> usize {
        self.calls.lock().unwrap().len()
    }
}

impl TraceStore for Backend {
    fn store<'a>(&'a self, request: &'a Request) -> Stored<'a> {
        Box::pin(async move {
            if self.hangs {
                self.calls.lock().unwrap().push(Duration::ZERO);
                std::future::pending::<()>().await;
            }
            let scopes = request.resource_spans().flat_map(|resource| resource.scopes());
            self.take(scopes.flat_map(|scope| scope.spans()).map(|span| span.span_id()[0].to_string()).collect())
        })
    }
}

impl LogStore for Backend {
    fn store<'a>(&'a self, request: &'a Request) -> Stored<'a> {
        Box::pin(async move {
            let mut names = Vec::new();
            for resource in request.resource_logs() {
                for scope in resource.scopes() {
                    for record in scope.log_records() {
                        let service = resource.resource().service_name().unwrap_or_default();
                        names.push(format!("{service}/{}/{}", scope.scope().name(), record.body().to_text()));
                    }
                }
            }
            self.take(names)
        })
    }
}

impl MetricStore for Backend {
    fn write(&self, batch: Arc<SeriesBatch>) -> Stored<'_> {
        Box::pin(async move {
            let samples = batch.series.iter().flat_map(|series| {
                let name = series.labels.value("__name__").unwrap();
                series.samples.iter().map(move |(time, _)| format!("{name}@{time}"))
            });
            self.take(samples.collect())
        })
    }
}

fn quick() -> RetryConfig {
    RetryConfig {
        initial_interval: Duration::from_millis(100),
        max_interval: Duration::from_secs(1),
        max_elapsed_time: Duration::from_secs(4),
        ..RetryConfig::default()
    }
}

fn again(after: Option<u64>) -> ExportError {
    ExportError::Retry { after: after.map(Duration::from_secs), reason: "busy".to_owned() }
}

fn backend(script: impl IntoIterator<Item = ExportError>, poison: &[&str]) -> Arc<Backend> {
    Arc::new(Backend {
        script: Mutex::new(script.into_iter().collect()),
        poison: poison.iter().map(|&name| name.to_owned()).collect(),
        ..Backend::default()
    })
}

fn meters(registry: &Registry) -> Meters {
    Registered::new(registry).of("test")
}

fn of_traces(backend: &Arc<Backend>, retry: RetryConfig, registry: &Registry) -> Retrying<dyn TraceStore> {
    Retrying::new(Arc::clone(backend) as Arc<dyn TraceStore>, retry, meters(registry))
}

fn of_logs(backend: &Arc<Backend>, registry: &Registry) -> Retrying<dyn LogStore> {
    Retrying::new(Arc::clone(backend) as Arc<dyn LogStore>, quick(), meters(registry))
}

/// The value of a counter of this exporter.
fn counted(registry: &Registry, name: &str) -> u64 {
    let text = registry.encode();
    let mut lines = text.lines().filter(|line| line.starts_with(name) && line.contains(r#"exporter="test""#));
    lines.next().map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

fn spans(count: u8) -> Request {
    let all: Vec<_> = (1..=count).map(|id| testing::span("cart", 2, 1, id, 0)).collect();
    testing::request(&all)
}

/// Something with a name and parts.
type Named<'a, T> = (&'a str, &'a [T]);

/// Records by service, scope and body.
fn logs(resources: &[Named<'_, Named<'_, &str>>]) -> Request {
    let text = |text: &str| Some(AnyValue { value: Some(any_value::Value::StringValue(text.to_owned())) });
    let records =
        |bodies: &[&str]| bodies.iter().map(|body| LogRecord { body: text(body), ..LogRecord::default() }).collect();
    let scopes = |scopes: &[Named<'_, &str>]| {
        let one = |(name, bodies): &Named<'_, &str>| ScopeLogs {
            scope: Some(InstrumentationScope { name: (*name).to_owned(), ..InstrumentationScope::default() }),
            log_records: records(bodies),
            ..ScopeLogs::default()
        };
        scopes.iter().map(one).collect()
    };
    let resource_logs = resources.iter().map(|(service, of)| ResourceLogs {
        resource: Some(Resource {
            attributes: vec![opentelemetry_proto::tonic::common::v1::KeyValue {
                key: "service.name".to_owned(),
                value: text(service),
                ..Default::default()
            }],
            ..Resource::default()
        }),
        scope_logs: scopes(of),
        ..ResourceLogs::default()
    });
    let body = ExportLogsServiceRequest { resource_logs: resource_logs.collect() }.encode_to_vec();
    Request::parse(Signal::Logs, body.into(), &Limits::default()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_transient_failure_is_tried_again_until_the_backend_takes_the_data() {
    let (backend, registry) = (backend([again(None), again(None)], &[]), Registry::new());
    of_traces(&backend, quick(), &registry).store(&spans(3)).await.unwrap();
    assert_eq!(backend.kept(), ["1", "2", "3"]);
    assert_eq!(backend.calls(), 3);
    assert_eq!(counted(&registry, "mirador_exporter_retries_total"), 2);
    assert_eq!(counted(&registry, "mirador_exporter_gave_up_total"), 0);
}

#[tokio::test(start_paused = true)]
async fn what_the_backend_asks_for_is_waited_when_it_is_longer_than_the_back_off() {
    let (backend, registry) = (backend([again(Some(3))], &[]), Registry::new());
    // The clock is virtual: it shows exactly what was slept.
    let started = Instant::now();
    of_traces(&backend, quick(), &registry).store(&spans(1)).await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(3), "{:?}", started.elapsed());
    assert_eq!(backend.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_wait_beyond_the_time_that_is_left_is_handed_to_the_client_at_once() {
    let (backend, registry) = (backend([again(Some(60))], &[]), Registry::new());
    let started = Instant::now();
    let error = of_traces(&backend, quick(), &registry).store(&spans(1)).await.unwrap_err();
    assert!(matches!(error, ExportError::Retry { after: Some(after), .. } if after == Duration::from_secs(60)));
    assert_eq!((started.elapsed(), backend.calls()), (Duration::ZERO, 1));
    assert_eq!(counted(&registry, "mirador_exporter_gave_up_total"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_stays_down_is_given_up_after_max_elapsed_time() {
    let (backend, registry) = (backend((0..1000).map(|_| again(None)), &[]), Registry::new());
    let started = Instant::now();
    let error = of_traces(&backend, quick(), &registry).store(&spans(1)).await.unwrap_err();
    assert!(matches!(error, ExportError::Retry { .. }));
    assert!(started.elapsed() <= Duration::from_secs(4), "{:?}", started.elapsed());
    assert!((4..100).contains(&backend.calls()), "{}", backend.calls());
}

#[tokio::test(start_paused = true)]
async fn retries_that_are_switched_off_are_not_made() {
    let (backend, registry) = (backend([again(None)], &[]), Registry::new());
    let retry = RetryConfig { enabled: false, ..quick() };
    of_traces(&backend, retry, &registry).store(&spans(1)).await.unwrap_err();
    assert_eq!(backend.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_the_configuration_is_not_tried_again() {
    let fatal = ExportError::Fatal { reason: "no such path".to_owned() };
    let (backend, registry) = (backend([fatal], &[]), Registry::new());
    let error = of_traces(&backend, quick(), &registry).store(&spans(4)).await.unwrap_err();
    assert!(matches!(error, ExportError::Fatal { .. }));
    assert_eq!(backend.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn everything_but_the_poison_is_stored_and_the_poison_is_counted_once() {
    let (backend, registry) = (backend([], &["13", "40"]), Registry::new());
    let error = of_traces(&backend, quick(), &registry).store(&spans(50)).await.unwrap_err();
    let ExportError::Partial { rejected: 2, reason } = error else { panic!("{error:?}") };
    assert!(reason.starts_with("poison"), "{reason}");
    assert_eq!(backend.kept().len(), 48);
    assert!(!backend.kept().contains(&"13".to_owned()));
    assert_eq!(counted(&registry, "mirador_exporter_dropped_items_total"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_transient_failure_while_poison_is_isolated_is_tried_again_too() {
    let refused = ExportError::Drop { reason: "poison".to_owned() };
    let (backend, registry) = (backend([refused, again(None), again(None)], &["3"]), Registry::new());
    let error = of_traces(&backend, quick(), &registry).store(&spans(8)).await.unwrap_err();
    assert!(matches!(error, ExportError::Partial { rejected: 1, .. }), "{error:?}");
    assert_eq!(backend.kept().len(), 7);
}

#[tokio::test(start_paused = true)]
async fn when_the_backend_goes_away_in_the_middle_nothing_is_counted_as_dropped() {
    let refused = || ExportError::Drop { reason: "poison".to_owned() };
    let script = [refused(), refused()].into_iter().chain((0..500).map(|_| again(None)));
    let (backend, registry) = (backend(script, &[]), Registry::new());
    let error = of_traces(&backend, quick(), &registry).store(&spans(8)).await.unwrap_err();
    assert!(matches!(error, ExportError::Retry { .. }), "{error:?}");
    assert_eq!(counted(&registry, "mirador_exporter_dropped_items_total"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_of_nothing_but_poison_costs_a_bounded_number_of_writes() {
    let names: Vec<String> = (1..=250).map(|id: u8| id.to_string()).collect();
    let poison: Vec<&str> = names.iter().map(String::as_str).collect();
    let (backend, registry) = (backend([], &poison), Registry::new());
    let error = of_traces(&backend, quick(), &registry).store(&spans(250)).await.unwrap_err();
    assert!(matches!(error, ExportError::Partial { rejected: 250, .. }), "{error:?}");
    assert_eq!(backend.calls(), 1 + 2 * CUTS);
    assert_eq!(counted(&registry, "mirador_exporter_dropped_items_total"), 250);
}

#[tokio::test(start_paused = true)]
async fn what_the_store_left_out_itself_is_counted_and_never_more_than_there_was() {
    let partial = ExportError::Partial { rejected: 99, reason: "ids".to_owned() };
    let (backend, registry) = (backend([partial], &[]), Registry::new());
    let error = of_traces(&backend, quick(), &registry).store(&spans(5)).await.unwrap_err();
    assert!(matches!(error, ExportError::Partial { rejected: 5, .. }), "{error:?}");
    assert_eq!(counted(&registry, "mirador_exporter_dropped_items_total"), 5);
}

#[tokio::test(start_paused = true)]
async fn a_poisonous_log_record_is_found_between_resources_scopes_and_records() {
    let request =
        logs(&[("cart", &[("a", &["1", "2"]), ("b", &["1", "bad", "3"])]), ("pay", &[("a", &[]), ("b", &["1"])])]);
    let (backend, registry) = (backend([], &["cart/b/bad"]), Registry::new());
    let error = of_logs(&backend, &registry).store(&request).await.unwrap_err();
    assert!(matches!(error, ExportError::Partial { rejected: 1, .. }), "{error:?}");
    assert_eq!(backend.kept(), ["cart/a/1", "cart/a/2", "cart/b/1", "cart/b/3", "pay/b/1"]);
}

#[tokio::test(start_paused = true)]
async fn a_poisonous_sample_is_found_between_series_and_between_samples_of_one_series() {
    let labels = |name: &str| Arc::new(LabelSet::from_sorted([("__name__", name)]));
    let series = |name: &str, times: std::ops::Range<i64>| Series {
        labels: labels(name),
        samples: times.map(|time| (time, 1.0)).collect(),
        exemplars: Vec::new(),
    };
    let batch = Arc::new(SeriesBatch { series: vec![series("up", 0..5), series("down", 0..3)] });
    let (backend, registry) = (backend([], &["up@3"]), Registry::new());
    let store: Retrying<dyn MetricStore> =
        Retrying::new(Arc::clone(&backend) as Arc<dyn MetricStore>, quick(), meters(&registry));
    let error = store.write(batch).await.unwrap_err();
    assert!(matches!(error, ExportError::Partial { rejected: 1, .. }), "{error:?}");
    assert_eq!(backend.kept(), ["down@0", "down@1", "down@2", "up@0", "up@1", "up@2", "up@4"]);
    assert_eq!(counted(&registry, "mirador_exporter_dropped_items_total"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_ends_the_loop() {
    let (backend, registry) = (backend((0..1000).map(|_| again(None)), &[]), Registry::new());
    let endless = RetryConfig { max_elapsed_time: Duration::ZERO, ..quick() };
    let store = of_traces(&backend, endless, &registry);
    let request = spans(1);
    let gone = tokio::time::timeout(Duration::from_secs(20), store.store(&request)).await;
    assert!(gone.is_err(), "without a limit it tries for ever: {gone:?}");
    let calls = backend.calls();
    assert!(calls > 10, "{calls}");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(backend.calls(), calls);

    let hanging = Arc::new(Backend { hangs: true, ..Backend::default() });
    let store = of_traces(&hanging, quick(), &registry);
    assert!(tokio::time::timeout(Duration::from_secs(1), store.store(&request)).await.is_err());
    assert_eq!(hanging.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn concurrent_requests_do_not_wait_for_each_other() {
    let registry = Registry::new();
    let backend = backend([again(Some(3))], &[]);
    let store = of_traces(&backend, quick(), &registry);
    let (one, two) = (spans(1), spans(2));
    let started = Instant::now();
    let mut first = store.store(&one);
    assert!(futures_util::poll!(&mut first).is_pending());
    store.store(&two).await.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO);
    first.await.unwrap();
}

proptest! {
    #[test]
    fn halves_hold_everything_once_and_are_never_empty(shape in prop::collection::vec(prop::collection::vec(0..5_usize, 0..4), 0..5)) {
        let names: Vec<String> = (0..5).map(|index| index.to_string()).collect();
        let bodies: Vec<&str> = names.iter().map(String::as_str).collect();
        let scopes: Vec<Vec<Named<'_, &str>>> =
            shape.iter().map(|scopes| scopes.iter().map(|&count| ("s", &bodies[..count])).collect()).collect();
        let resources: Vec<Named<'_, Named<'_, &str>>> =
            scopes.iter().enumerate().map(|(index, scopes)| (bodies[index], scopes.as_slice())).collect();
        let whole = logs(&resources);
        match whole.halves() {
            None => prop_assert!(whole.items() <= 1, "{} items are not cut", whole.items()),
            Some([left, right]) => {
                prop_assert!(left.items() > 0 && right.items() > 0);
                prop_assert_eq!(flat(&left).into_iter().chain(flat(&right)).collect::<Vec<_>>(), flat(&whole));
            }
        }
    }
}

fn flat(request: &Request) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for resource in request.resource_logs() {
        for record in resource.scopes().flat_map(|scope| scope.log_records()) {
            let service = resource.resource().service_name().unwrap_or_default().to_owned();
            all.push((service, record.body().to_text().into_owned()));
        }
    }
    all
}
