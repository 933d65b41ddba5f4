//! One watch: kube's watcher, started again whenever it cannot go on by itself.
//!
//! kube resumes a broken watch where it ended. It is started from a new list instead when its place is
//! lost (410 as a status, which kube repeats for ever; any ERROR event) and after some failures in a
//! row, which covers a server that came back with older resource versions.

use std::fmt::Debug;
use std::future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use kube::core::{PartialObjectMeta, Status};
use kube::runtime::watcher::{self, Error, ListSemantic, watcher};
use kube::{Api, Client, Resource};
use mirador_service::backoff::{Backoff, RetryConfig};
use mirador_service::cause::chain;
use mirador_service::metrics::Registry;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::api::{ApiConfig, Contact};
use super::metrics::Metrics;

/// Failures in a row after which a watch is not resumed but started anew.
const MAX_RESUMES: u32 = 3;

/// After this long without a byte the server ends a watch, and kube takes the connection for dead a
/// few seconds later: how long a silent loss of the connection can go unnoticed.
const WATCH_SECONDS: u32 = 120;

/// Waits begin small again when the last failure is longer ago than this.
const STEADY: Duration = Duration::from_secs(60);

const WAITS: RetryConfig = RetryConfig {
    enabled: true,
    initial_interval: Duration::from_millis(200),
    randomization_factor: 0.5,
    multiplier: 2.0,
    max_interval: Duration::from_secs(30),
    max_elapsed_time: Duration::ZERO,
};

/// What a watch says.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<K> {
    /// A list begins: what is not listed before [`Event::Complete`] is gone.
    Begin,
    /// An object of the list.
    Listed(K),
    /// The list is complete.
    Complete,
    /// An object is new or has changed.
    Applied(K),
    /// An object was deleted.
    Deleted(K),
}

/// What is watched.
#[derive(Debug, Clone)]
pub struct WatchConfig {
    /// The label of its metrics, and its name in logs.
    pub name: String,
    /// The way to the server.
    pub api: ApiConfig,
    /// Only objects with these labels; empty: all.
    pub labels: String,
    /// Only objects with these fields; empty: all.
    pub fields: String,
    /// Objects in one answer to a list.
    pub page_size: u32,
    /// How long a connect or one page of a list may take.
    pub timeout: Duration,
}

type Stream<K> = BoxStream<'static, watcher::Result<watcher::Event<K>>>;

/// A watch that never ends.
pub struct Watch<K> {
    config: WatchConfig,
    scope: fn(Client, Option<&str>) -> Api<K>,
    namespace: Option<String>,
    stream: Option<Stream<K>>,
    /// Between the first and the last object of a list, where silence is bounded.
    listing: bool,
    resume_at: Option<Instant>,
    failing_since: Option<Instant>,
    last_failure: Option<Instant>,
    failures: u32,
    successes: u64,
    backoff: Backoff,
    contact: Arc<Contact>,
    metrics: Metrics,
}

impl<K> Debug for Watch<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("config", &self.config).field("failures", &self.failures).finish_non_exhaustive()
    }
}

impl<K> Watch<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    /// A watch over the whole cluster. Nothing is connected before [`Watch::next`]; `seed` decides the
    /// jitter of its waits.
    pub fn cluster(config: WatchConfig, registry: &Registry, seed: u64) -> Self {
        Self::new(config, |client, _| Api::all(client), None, registry, seed)
    }

    fn new(
        config: WatchConfig,
        scope: fn(Client, Option<&str>) -> Api<K>,
        namespace: Option<String>,
        registry: &Registry,
        seed: u64,
    ) -> Self {
        Self {
            metrics: Metrics::register(registry, &config.name),
            config,
            scope,
            namespace,
            stream: None,
            listing: false,
            resume_at: None,
            failing_since: None,
            last_failure: None,
            failures: 0,
            successes: 0,
            backoff: Backoff::new(&WAITS, seed),
            contact: Arc::default(),
        }
    }

    /// The next event; waits out every failure. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Event<K> {
        loop {
            if let Some(at) = self.resume_at {
                tokio::time::sleep_until(at).await;
                self.resume_at = None;
            }
            if let Err(failure) = self.connected().await {
                self.failed(&failure);
                continue;
            }
            match self.step().await {
                Ok(event) => return self.succeeded(event),
                Err(failure) => self.failed(&failure),
            }
        }
    }

    async fn connected(&mut self) -> Result<(), Failure> {
        if self.stream.is_some() {
            return Ok(());
        }
        let client = self.config.api.connect(self.config.timeout, &self.contact).await;
        let client = client.map_err(|what| Failure { reason: "credentials", what, again: Again::Client })?;
        let api = (self.scope)(client, self.namespace.as_deref());
        let selector = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let config = watcher::Config {
            label_selector: selector(&self.config.labels),
            field_selector: selector(&self.config.fields),
            timeout: Some(WATCH_SECONDS),
            page_size: Some(self.config.page_size),
            // The first list may come from the server's cache. After a failure that could be the cache of
            // a server that lags behind what is known already.
            list_semantic: if self.failures == 0 { ListSemantic::Any } else { ListSemantic::MostRecent },
            ..watcher::Config::default()
        };
        self.stream = Some(watcher(api, config).boxed());
        self.listing = true;
        Ok(())
    }

    async fn step(&mut self) -> Result<watcher::Event<K>, Failure> {
        let next = if self.listing {
            let limit = self.config.timeout;
            tokio::time::timeout(limit, self.item()).await.map_err(|_| Failure {
                reason: "timeout",
                what: format!("no answer to a list within {limit:?}"),
                again: Again::Client,
            })?
        } else if self.failing_since.is_some() {
            // A watch that goes on where it was may have nothing to tell.
            let contact = Arc::clone(&self.contact);
            let seen = self.successes;
            tokio::select! {
                biased;
                item = self.item() => item,
                () = contact.success_after(seen) => {
                    self.recovered();
                    self.item().await
                }
            }
        } else {
            self.item().await
        };
        match next {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(Failure::of(&error)),
            // kube's watcher never ends.
            None => Err(Failure { reason: "connection", what: "the watch ended".to_owned(), again: Again::List }),
        }
    }

    async fn item(&mut self) -> Option<watcher::Result<watcher::Event<K>>> {
        match &mut self.stream {
            Some(stream) => stream.next().await,
            None => future::pending().await,
        }
    }

    fn succeeded(&mut self, event: watcher::Event<K>) -> Event<K> {
        // The begin of a list says nothing about the server yet.
        if !matches!(event, watcher::Event::Init) {
            self.recovered();
        }
        match event {
            watcher::Event::Init => {
                self.listing = true;
                Event::Begin
            }
            watcher::Event::InitApply(object) => {
                self.metrics.listed.inc();
                Event::Listed(object)
            }
            watcher::Event::InitDone => {
                self.listing = false;
                self.metrics.lists.inc();
                Event::Complete
            }
            watcher::Event::Apply(object) => {
                self.metrics.applied.inc();
                Event::Applied(object)
            }
            watcher::Event::Delete(object) => {
                self.metrics.deleted.inc();
                Event::Deleted(object)
            }
        }
    }

    fn recovered(&mut self) {
        if let Some(since) = self.failing_since.take() {
            tracing::info!(watch = self.config.name, outage = ?since.elapsed(), "the API server answers again");
        }
        self.failures = 0;
        self.successes = self.contact.successes();
        self.metrics.stale_seconds.set(0.0);
    }

    fn failed(&mut self, failure: &Failure) {
        // Not at every success: a server that fails each watch after an answer is not asked faster for it.
        if self.last_failure.is_none_or(|last| last.elapsed() > STEADY) {
            self.backoff.reset();
        }
        self.last_failure = Some(Instant::now());
        self.successes = self.contact.successes();
        self.failures += 1;
        self.metrics.error(failure.reason);
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        self.metrics.stale_seconds.set(since.elapsed().as_secs_f64());
        if failure.again != Again::Resume || self.failures > MAX_RESUMES {
            self.stream = None;
        }
        let wait = self.backoff.next_wait().max(self.contact.take_retry_after());
        // Every node says this at once when a server restarts, so it is said once.
        if self.failures == 1 {
            tracing::warn!(
                watch = self.config.name,
                reason = failure.reason,
                why = failure.what,
                ?wait,
                "watch failed"
            );
        } else {
            tracing::debug!(
                watch = self.config.name,
                reason = failure.reason,
                why = failure.what,
                ?wait,
                "watch failed"
            );
        }
        self.resume_at = Some(Instant::now() + wait);
    }
}

impl<K> Watch<PartialObjectMeta<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    /// A watch over the whole cluster that asks for the objects' metadata, and is sent nothing else. `seed`
    /// decides the jitter of its waits.
    pub fn metadata(config: WatchConfig, registry: &Registry, seed: u64) -> Self {
        Self::cluster(config, registry, seed)
    }
}

impl<K> Watch<K>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + 'static,
{
    /// A watch in one namespace; without one, in that of the credentials.
    pub fn namespaced(config: WatchConfig, namespace: Option<String>, registry: &Registry, seed: u64) -> Self {
        let scope = |client: Client, namespace: Option<&str>| match namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::default_namespaced(client),
        };
        Self::new(config, scope, namespace, registry, seed)
    }
}

/// How a failed watch goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    /// Where it was.
    Resume,
    /// From a new list.
    List,
    /// From a new list, with credentials read anew.
    Client,
}

#[derive(Debug)]
struct Failure {
    reason: &'static str,
    what: String,
    again: Again,
}

impl Failure {
    fn of(error: &Error) -> Self {
        let (reason, again) = match error {
            Error::InitialListFailed(error) | Error::WatchStartFailed(error) | Error::WatchFailed(error) => {
                Self::of_client(error)
            }
            Error::WatchError(status) => (reason_of(status), Again::List),
            Error::NoResourceVersion => ("malformed", Again::List),
        };
        Self { reason, what: chain(error), again }
    }

    fn of_client(error: &kube::Error) -> (&'static str, Again) {
        match error {
            kube::Error::Api(status) => match status.code {
                401 => ("unauthorized", Again::Client),
                410 | 504 => (reason_of(status), Again::List),
                _ => (reason_of(status), Again::Resume),
            },
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => ("malformed", Again::List),
            kube::Error::Auth(_) | kube::Error::InferConfig(_) | kube::Error::InferKubeconfig(_) => {
                ("credentials", Again::Client)
            }
            _ => ("connection", Again::Resume),
        }
    }
}

fn reason_of(status: &Status) -> &'static str {
    match status.code {
        401 => "unauthorized",
        403 => "forbidden",
        410 => "gone",
        429 => "throttled",
        500..=599 => "server",
        _ => "api",
    }
}
