//! The process's own metrics: one registry, cheap handles, `OpenMetrics` text.
//!
//! Naming rules (docs/telemetry.md is generated from [`Registry::describe`] and checked):
//! - our names begin with `mirador_`; `otelcol_` is only for names that the OpenTelemetry
//!   Collector already has and existing dashboards ask for;
//! - base units in the name: `_seconds`, `_bytes`, `_ratio`; never milliseconds (the collector's
//!   own names keep the unit they have);
//! - counters end in `_total`; it is added on exposition, so register them without (a name that
//!   already ends so is the same metric);
//! - every metric that counts a loss has a `reason` label, from a fixed set of values;
//! - label values come from configuration or code, never from a request's content.
//!
//! Handles are clones of one shared atomic: look a label set up once
//! (`family.get_or_create_owned(&labels)`) and keep the handle on the hot path.
//! Registering the same name and type again returns the metric that is there, so parts that live
//! several times in one process share it.

mod observed;

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::family::Family;
pub use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Metric;

use observed::{Observed, ObservedKind};

/// A counter of a fractional quantity, such as seconds.
pub type FloatCounter = Counter<f64, std::sync::atomic::AtomicU64>;
/// A gauge of a fractional quantity.
pub type FloatGauge = Gauge<f64, std::sync::atomic::AtomicU64>;
/// A ready label set: names from code, values from configuration.
pub type Labels = Vec<(&'static str, String)>;
/// A histogram per label set; the function makes one with its buckets.
pub type HistogramFamily<L> = Family<L, Histogram, fn() -> Histogram>;

/// The `Content-Type` of [`Registry::encode`]; Prometheus and VictoriaMetrics both read it.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Bounds for durations in seconds, from 100 µs to 30 s.
pub const SECONDS_BUCKETS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0, 30.0];

/// What kind of metric a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; exposed with `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
}

impl Kind {
    /// The word of the exposition format.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }

    fn of(metric: &impl EncodeMetric) -> Self {
        match metric.metric_type() {
            MetricType::Counter => Self::Counter,
            MetricType::Histogram => Self::Histogram,
            _ => Self::Gauge,
        }
    }
}

/// One registered metric, for the documentation and its check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// The name as exposed: counters with `_total`, histograms without `_bucket`.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// What it counts.
    pub help: String,
    /// The base unit that the name says (`seconds`, `bytes`, `ratio`), or empty.
    pub unit: String,
    /// Label names: those declared with [`Registry::declare_labels`] and those seen on a series.
    pub labels: Vec<String>,
    /// Whether it has a series per label set, and so at least one label.
    pub family: bool,
}

/// All metrics of the process; clones share it.
#[derive(Clone, Default)]
pub struct Registry {
    shared: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// By name without `_total`.
    entries: BTreeMap<String, Entry>,
}

struct Entry {
    kind: Kind,
    help: String,
    /// Whether it has a series per label set.
    family: bool,
    declared: BTreeSet<String>,
    /// The handle as registered, to be handed out again.
    handle: Box<dyn Any + Send + Sync>,
    /// A registry of its own, so that series can be encoded by metric.
    registry: prometheus_client::registry::Registry,
}

impl Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("metrics", &self.lock().entries.len()).finish()
    }
}

/// The first row of a table of [`Registry::document`] that a page does not have. Its labels are left out, because
/// some are known only once a series is there.
pub fn undocumented<'a>(page: &str, table: &'a str) -> Option<&'a str> {
    table.lines().find(|row| {
        let cells: Vec<_> = row.splitn(5, '|').collect();
        let [_, name, kind, _, meaning] = cells[..] else { return true };
        let start = format!("|{name}|{kind}|");
        !page.lines().any(|line| line.starts_with(&start) && line.ends_with(meaning))
    })
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// A counter.
    ///
    /// # Panics
    /// As every registering method: when the name is malformed, or taken by a metric of another
    /// type. Both are mistakes in the code that no input can cause, found at the first start.
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        self.register(name, help, Counter::default)
    }

    /// A counter of a fractional quantity.
    pub fn float_counter(&self, name: &str, help: &str) -> FloatCounter {
        self.register(name, help, FloatCounter::default)
    }

    /// A gauge.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(name, help, Gauge::default)
    }

    /// A gauge of a fractional quantity.
    pub fn float_gauge(&self, name: &str, help: &str) -> FloatGauge {
        self.register(name, help, FloatGauge::default)
    }

    /// A histogram with the given upper bounds (ascending; `+Inf` is added).
    pub fn histogram(&self, name: &str, help: &str, buckets: impl IntoIterator<Item = f64>) -> Histogram {
        self.register(name, help, || Histogram::new(buckets))
    }

    /// A counter per label set.
    pub fn counter_family<L: LabelSet>(&self, name: &str, help: &str) -> Family<L, Counter> {
        self.register_family(name, help, Family::default)
    }

    /// A fractional counter per label set.
    pub fn float_counter_family<L: LabelSet>(&self, name: &str, help: &str) -> Family<L, FloatCounter> {
        self.register_family(name, help, Family::default)
    }

    /// A gauge per label set.
    pub fn gauge_family<L: LabelSet>(&self, name: &str, help: &str) -> Family<L, Gauge> {
        self.register_family(name, help, Family::default)
    }

    /// A fractional gauge per label set.
    pub fn float_gauge_family<L: LabelSet>(&self, name: &str, help: &str) -> Family<L, FloatGauge> {
        self.register_family(name, help, Family::default)
    }

    /// A histogram per label set; `make` makes one with its buckets.
    pub fn histogram_family<L: LabelSet>(&self, name: &str, help: &str, make: fn() -> Histogram) -> HistogramFamily<L> {
        self.register_family(name, help, || Family::new_with_constructor(make))
    }

    /// A gauge whose value is asked for at every scrape. `read` must be quick and never block.
    /// Asked for again under the same name, the first `read` stays.
    pub fn observe_gauge(&self, name: &str, help: &str, read: impl Fn() -> f64 + Send + Sync + 'static) {
        let _: Observed = self.register(name, help, || Observed::new(ObservedKind::Gauge, Arc::new(read)));
    }

    /// A counter whose value is asked for at every scrape; it must never go down.
    pub fn observe_counter(&self, name: &str, help: &str, read: impl Fn() -> f64 + Send + Sync + 'static) {
        let _: Observed = self.register(name, help, || Observed::new(ObservedKind::Counter, Arc::new(read)));
    }

    /// Says which labels a family has, for [`Registry::describe`] before any series exists.
    /// A name that is not registered is ignored.
    pub fn declare_labels(&self, name: &str, labels: &[&str]) {
        let mut inner = self.lock();
        if let Some(entry) = inner.entries.get_mut(base_name(name)) {
            entry.declared.extend(labels.iter().map(|label| (*label).to_owned()));
        }
    }

    /// All metrics in `OpenMetrics` text, sorted by name, for [`CONTENT_TYPE`].
    ///
    /// # Panics
    /// Never: a `String` takes every write.
    pub fn encode(&self) -> String {
        let inner = self.lock();
        let mut page = String::with_capacity(inner.entries.len() * 256);
        for entry in inner.entries.values() {
            // Writing to a String cannot fail.
            text::encode_registry(&mut page, &entry.registry).expect("a String takes every write");
        }
        text::encode_eof(&mut page).expect("a String takes every write");
        page
    }

    /// Every registered metric, sorted by name, whether it has a series or not.
    pub fn describe(&self) -> Vec<Described> {
        let inner = self.lock();
        inner.entries.iter().map(|(name, entry)| entry.describe(name)).collect()
    }

    /// Every registered metric as a table in Markdown, for docs/telemetry.md. A family whose labels nobody
    /// has declared, and of which no series exists, has a `?` for them, which `cargo xtask tidy` refuses.
    pub fn document(&self) -> String {
        let rows = self.describe().into_iter().map(|metric| {
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let labels = if metric.family && labels.is_empty() { "?".to_owned() } else { labels.join(", ") };
            let help = metric.help.replace('|', "\\|");
            format!("| `{}` | {} | {labels} | {help} |\n", metric.name, metric.kind.as_str())
        });
        ["| metric | kind | labels | meaning |\n|---|---|---|---|\n".to_owned()].into_iter().chain(rows).collect()
    }

    fn register_family<M: Metric + Clone + Debug>(&self, name: &str, help: &str, make: impl FnOnce() -> M) -> M {
        let metric = self.register(name, help, make);
        if let Some(entry) = self.lock().entries.get_mut(base_name(name)) {
            entry.family = true;
        }
        metric
    }

    fn register<M: Metric + Clone + Debug>(&self, name: &str, help: &str, make: impl FnOnce() -> M) -> M {
        let name = base_name(name);
        assert!(is_metric_name(name), "metric name {name:?}: expected lower-case letters, digits and _");
        let mut inner = self.lock();
        if let Some(entry) = inner.entries.get(name) {
            let taken = entry.handle.downcast_ref::<M>();
            return taken.unwrap_or_else(|| panic!("metric {name} is registered with another type")).clone();
        }
        let metric = make();
        let help = help.trim().trim_end_matches('.').split_whitespace().collect::<Vec<_>>().join(" ");
        let mut registry = prometheus_client::registry::Registry::default();
        // The text format escapes nothing in HELP, so the two characters that it asks to be
        // escaped are escaped here; line ends are already spaces.
        registry.register(name, help.replace('\\', "\\\\").replace('"', "\\\""), metric.clone());
        let entry = Entry {
            kind: Kind::of(&metric),
            help,
            family: false,
            declared: BTreeSet::new(),
            handle: Box::new(metric.clone()),
            registry,
        };
        inner.entries.insert(name.to_owned(), entry);
        metric
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Entries are inserted whole, so a poisoned lock still holds a whole registry.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn describe(&self, name: &str) -> Described {
        let unit = ["seconds", "bytes", "ratio"]
            .into_iter()
            .find(|unit| name.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_')));
        let mut labels = self.declared.clone();
        let mut series = String::new();
        text::encode_registry(&mut series, &self.registry).expect("a String takes every write");
        labels.extend(series.lines().filter(|line| !line.starts_with('#')).flat_map(label_names));
        labels.remove("le");
        Described {
            name: if self.kind == Kind::Counter { format!("{name}_total") } else { name.to_owned() },
            kind: self.kind,
            help: format!("{}.", self.help),
            unit: unit.unwrap_or_default().to_owned(),
            labels: labels.into_iter().collect(),
            family: self.family,
        }
    }
}

/// What a family's label set must be; implemented for everything that fits.
pub trait LabelSet: Clone + Debug + Hash + Eq + EncodeLabelSet + Send + Sync + 'static {}

impl<L: Clone + Debug + Hash + Eq + EncodeLabelSet + Send + Sync + 'static> LabelSet for L {}

fn base_name(name: &str) -> &str {
    name.strip_suffix("_total").unwrap_or(name)
}

fn is_metric_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// The label names of one line of exposition text, quoted values skipped.
fn label_names(line: &str) -> Vec<String> {
    let mut names = Vec::new();
    let Some((_, mut rest)) = line.split_once('{') else { return names };
    while let Some((name, after)) = rest.split_once("=\"") {
        names.push(name.trim_start_matches(',').to_owned());
        let mut escaped = false;
        let end = after.find(|c| {
            let closes = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            closes
        });
        let Some(end) = end else { break };
        rest = &after[end + 1..];
        if rest.starts_with('}') {
            break;
        }
    }
    names
}

#[cfg(test)]
mod tests;
