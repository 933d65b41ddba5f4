//! The datapoints of one metric, whatever its type: find the series, write the samples, score the reading.
//!
//! Never: knows resources or requests.

use std::sync::Arc;

use mirador_otlp::metrics::{CUMULATIVE, DELTA, Data, Metric, Number};
use mirador_otlp::value::Attributes;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::{Outcome, Shard, Unscored};
use crate::isolationforest;
use crate::isolationforest::compat::labelled;
use crate::isolationforest::detector::Settings;
use crate::isolationforest::families::Families;
use crate::isolationforest::ratios::{Grown, Ratios, failure};
use crate::isolationforest::resources::Resources;
use crate::isolationforest::table::{Entry, Fresh, SCORE, Scoring};
use crate::isolationforest::watch::Judged;
use crate::isolationforest::{EngineConfig, OutputMode};
use crate::normalise::labels::{Base, Builder};
use crate::normalise::names::{Shape, metric_name, shortened_name};
use crate::normalise::resource::{attribute_key, attributes_key};
use crate::normalise::stream::{Form, Reading, Stamp, Stream};
use crate::normalise::tally::{Loss, Tally};
use crate::normalise::{Config, Naming, Output, exemplars};
use crate::series::Pair;

/// OTLP `DataPointFlags`: no recorded value.
const NO_RECORDED_VALUE: u32 = 1;

/// The resource that the points belong to.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    /// Hash of the labels.
    pub(super) key: u128,
    /// Hash of the resource.
    pub(super) source: u64,
    /// `job`, `instance` and promoted attributes.
    pub(super) labels: Arc<[Pair]>,
}

/// What all points of one metric have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    name: &'a str,
    unit: &'a str,
    shape: Shape,
    form: Form,
    key: u128,
    /// Hash of metric name, unit and type.
    family: u128,
    owner: &'a Owner,
    scope: Option<(&'a str, &'a str)>,
    temporality: Temporality,
    /// A distribution in the same request says the same, and how many observations it is made of.
    is_told: bool,
    now: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Temporality {
    Cumulative,
    Delta,
    Unspecified,
}

/// What every kind of datapoint has.
struct Head<'a> {
    attributes: Attributes<'a>,
    start: u64,
    time: u64,
    flags: u32,
}

/// The five point views share these accessors without sharing a trait.
macro_rules! head {
    ($point:expr) => {
        Head {
            attributes: $point.attributes(),
            start: $point.start_time_unix_nano(),
            time: $point.time_unix_nano(),
            flags: $point.flags(),
        }
    };
}

impl<'a> Context<'a> {
    /// Reads what the metric says about all of its points.
    pub(super) fn new(
        metric: &Metric<'a>,
        scope: Option<(&'a str, &'a str)>,
        (owner, is_told): (&'a Owner, bool),
        now_unix_nano: u64,
    ) -> Self {
        let (shape, form, temporality) = match metric.data() {
            Data::Gauge(_) | Data::Empty => (Shape::Gauge, Form::Number, CUMULATIVE),
            Data::Sum { monotonic: true, temporality, .. } => (Shape::Counter, Form::Number, temporality),
            Data::Sum { temporality, .. } => (Shape::Plain, Form::Number, temporality),
            Data::Histogram { temporality, .. } | Data::ExponentialHistogram { temporality, .. } => {
                (Shape::Plain, Form::Histogram, temporality)
            }
            Data::Summary { .. } => (Shape::Plain, Form::Summary, CUMULATIVE),
        };
        let mut hash = Xxh3::new();
        hash.update(metric.name().as_bytes());
        hash.update(&[0xff, shape as u8, form as u8]);
        hash.update(metric.unit().as_bytes());
        let family = hash.digest128();
        if let Some((name, version)) = scope {
            hash.update(&[0xff]);
            hash.update(name.as_bytes());
            hash.update(&[0xff]);
            hash.update(version.as_bytes());
        }
        let temporality = match temporality {
            CUMULATIVE => Temporality::Cumulative,
            DELTA => Temporality::Delta,
            _ => Temporality::Unspecified,
        };
        let key = hash.digest128() ^ owner.key.rotate_left(1);
        Self {
            name: metric.name(),
            unit: metric.unit(),
            shape,
            form,
            key,
            family,
            owner,
            scope,
            temporality,
            is_told,
            now: now_unix_nano,
        }
    }

    /// The identity of one series: order-independent over its attributes.
    fn series_key(&self, attributes: Attributes<'_>) -> u128 {
        let mixed = self.key.wrapping_add(attributes_key(attributes));
        // The sum is linear; mixing spreads it over the bits that the table looks at.
        mixed ^ u128::from(xxh3_64(&mixed.to_le_bytes()))
    }

    fn name(&self, config: &Config, tally: &mut Tally) -> String {
        let name = match config.naming {
            Naming::Prometheus => metric_name(self.name, self.unit, self.shape),
            Naming::None => self.name.to_owned(),
        };
        shortened_name(name, config.limits.max_value_bytes, tally)
    }

    fn base(&self, config: &Config, attributes: Attributes<'_>, tally: &mut Tally) -> Result<Base, Loss> {
        let mut builder = Builder::new(config.naming, &config.limits, &self.owner.labels);
        builder.attributes(attributes);
        if let Some((name, version)) = self.scope {
            builder.pair("otel_scope_name", name);
            builder.pair("otel_scope_version", version);
        }
        builder.finish(tally)
    }

    fn check(&self, config: &Config, head: &Head<'_>) -> Result<(), Loss> {
        let kept = u64::try_from(config.max_past.as_nanos()).unwrap_or(u64::MAX);
        let horizon = self.now.saturating_add(u64::try_from(config.max_future.as_nanos()).unwrap_or(u64::MAX));
        if head.time == 0 {
            Err(Loss::NoTime)
        } else if head.time > horizon {
            Err(Loss::FarFuture)
        } else if kept > 0 && head.time < self.now.saturating_sub(kept) {
            Err(Loss::TooOld)
        } else if self.name.is_empty() {
            Err(Loss::NoData)
        } else if self.temporality == Temporality::Unspecified {
            Err(Loss::NoTemporality)
        } else {
            Ok(())
        }
    }
}

impl Shard {
    /// Reads all points of one metric; the latest time among them is returned.
    pub(super) fn metric(&mut self, metric: &Metric<'_>, context: Context<'_>, outcome: &mut Outcome) -> u64 {
        let with_exemplars = self.config.normalise.exemplars;
        let max_scale = self.config.normalise.exponential_max_scale;
        let mut latest = 0;
        match metric.data() {
            Data::Empty => {
                outcome.tally.points += 1;
                outcome.tally.lose(Loss::NoData);
            }
            Data::Gauge(points) | Data::Sum { points, .. } => {
                let monotonic = context.shape == Shape::Counter;
                for point in points {
                    latest = latest.max(point.time_unix_nano());
                    self.point(&context, &head!(point), outcome, |stream, stamp, out| {
                        let value = match point.value() {
                            Number::Int(value) => value as f64,
                            Number::Double(value) => value,
                            Number::None => return Err(Loss::NoValue),
                        };
                        let reading = stream.number(stamp, value, monotonic, out)?;
                        out.exemplars(exemplars::read(with_exemplars, point.exemplars()));
                        Ok(reading)
                    });
                }
            }
            Data::Histogram { points, .. } => {
                for point in points {
                    latest = latest.max(point.time_unix_nano());
                    self.point(&context, &head!(point), outcome, |stream, stamp, out| {
                        let reading = stream.histogram(stamp, &point, out)?;
                        exemplars::hang(exemplars::read(with_exemplars, point.exemplars()), stream, out);
                        Ok(reading)
                    });
                }
            }
            Data::ExponentialHistogram { points, .. } => {
                for point in points {
                    latest = latest.max(point.time_unix_nano());
                    self.point(&context, &head!(point), outcome, |stream, stamp, out| {
                        let reading = stream.exponential(stamp, &point, max_scale, out)?;
                        exemplars::hang(exemplars::read(with_exemplars, point.exemplars()), stream, out);
                        Ok(reading)
                    });
                }
            }
            Data::Summary { points } => {
                for point in points {
                    latest = latest.max(point.time_unix_nano());
                    self.point(&context, &head!(point), outcome, |stream, stamp, out| {
                        stream.summary(stamp, &point, out)
                    });
                }
            }
        }
        latest
    }

    fn point(
        &mut self,
        context: &Context<'_>,
        head: &Head<'_>,
        outcome: &mut Outcome,
        write: impl FnOnce(&mut Stream, Stamp, &mut Output) -> Result<Reading, Loss>,
    ) {
        outcome.tally.points += 1;
        if let Err(loss) = self.known_or_new(context, head, outcome, write) {
            outcome.tally.lose(loss);
        }
    }

    fn known_or_new(
        &mut self,
        context: &Context<'_>,
        head: &Head<'_>,
        outcome: &mut Outcome,
        write: impl FnOnce(&mut Stream, Stamp, &mut Output) -> Result<Reading, Loss>,
    ) -> Result<(), Loss> {
        context.check(&self.config.normalise, head)?;
        let stamp = Stamp {
            start: head.start,
            time: head.time,
            source: context.owner.source,
            delta: context.temporality == Temporality::Delta,
        };
        let stale = head.flags & NO_RECORDED_VALUE != 0;
        let key = context.series_key(head.attributes);
        let first = outcome.out.series.len();
        let quiet;
        let settings = if context.is_told {
            // Scored, but what a score means is said by the distribution.
            quiet = Settings { min_relative_deviation: f64::INFINITY, ..self.settings };
            &quiet
        } else {
            &self.settings
        };
        let hold_nanos = self.hold_nanos;
        let rules = Rules { settings, hold_nanos, config: &self.config, first };
        if let Some((entry, families)) = self.table.get(key, context.now) {
            if stale {
                entry.stream.stale(stamp.millis(), &mut outcome.out);
                entry.end_scores(stamp.millis(), &mut outcome.out, &mut outcome.events);
                outcome.unscored[Unscored::Stale as usize] += 1;
                return Ok(());
            }
            outcome.tally.conflicts += u64::from(entry.changes_hands(stamp.source));
            let reading = write(&mut entry.stream, stamp, &mut outcome.out)?;
            if let Some(judged) = rules.apply(entry, families, head.time, reading, outcome) {
                let beside = Beside { ratios: &mut self.ratios, resources: &mut self.resources };
                beside.tell(&self.config.engine, &self.settings, (context, head), entry, &judged);
            }
            return Ok(());
        }
        let base = context.base(&self.config.normalise, head.attributes, &mut outcome.tally)?;
        let name = context.name(&self.config.normalise, &mut outcome.tally);
        let mut stream = Stream::new(context.form, &name, &base);
        if stale {
            stream.stale(stamp.millis(), &mut outcome.out);
            outcome.unscored[Unscored::Stale as usize] += 1;
            return Ok(());
        }
        if let Err(full) = self.table.room(context.family, context.owner.key) {
            if stamp.delta {
                return Err(Loss::DeltaOverLimit);
            }
            let reading = write(&mut stream, stamp, &mut outcome.out)?;
            outcome.overflow[full as usize] += 1;
            self.overflow((context, key), (&base, &name), head.time, reading, outcome);
            return Ok(());
        }
        let reading = write(&mut stream, stamp, &mut outcome.out)?;
        let (family, owner) = (context.family, context.owner.key);
        let fresh = Fresh { stream, name: &name, base: &base, source: stamp.source, family, owner };
        let (entry, families) = self.table.insert(key, fresh, context.now);
        // A series that is new to the process may have a history, from the snapshot.
        if let Some(judged) = rules.apply(entry, families, head.time, reading, outcome) {
            let beside = Beside { ratios: &mut self.ratios, resources: &mut self.resources };
            beside.tell(&self.config.engine, &self.settings, (context, head), entry, &judged);
        }
        Ok(())
    }

    /// A series without state is held against the plain values of its family.
    fn overflow(
        &mut self,
        (context, key): (&Context<'_>, u128),
        (base, name): (&Base, &str),
        time: u64,
        reading: Reading,
        outcome: &mut Outcome,
    ) {
        let families = (&mut self.table.families, context.family);
        let score =
            self.config.engine.enabled.then(|| self.beyond.score(families, &self.settings, key, (time, reading)));
        let Some(score) = score.flatten() else {
            outcome.unscored[Unscored::OverLimit as usize] += 1;
            return;
        };
        outcome.scored += 1;
        outcome.out.push(&base.series(SCORE, Some(("metric", name))), (time / 1_000_000) as i64, score);
    }
}

/// How points of this shard are scored.
struct Rules<'a> {
    settings: &'a Settings,
    hold_nanos: u64,
    config: &'a isolationforest::Config,
    /// Samples of the point in the output begin here.
    first: usize,
}

/// What learns from judged points beside their series.
struct Beside<'a> {
    ratios: &'a mut Ratios,
    resources: &'a mut Resources,
}

impl Beside<'_> {
    fn tell(
        self,
        engine: &EngineConfig,
        settings: &Settings,
        (context, head): (&Context<'_>, &Head<'_>),
        entry: &Entry,
        judged: &Judged,
    ) {
        let owner = context.owner;
        self.resources.add(owner.key, head.time, entry.signals(), judged);
        if judged.grown > 0.0
            && engine.error_ratio
            && let Some((failed, label)) = failure(context.name, head.attributes)
        {
            let attributes = head.attributes.iter().filter(|entry| !matches!(entry.key, "status.code" | "failed"));
            let key = attributes.fold(context.key, |key, entry| key.wrapping_add(attribute_key(&entry)));
            let (time, count, score_labels) = (head.time, judged.grown, entry.score_labels());
            let owner = owner.key;
            self.ratios.add(settings, key, Grown { owner, time, count, failed, label, score_labels });
        }
    }
}

impl Rules<'_> {
    fn apply(
        &self,
        entry: &mut Entry,
        families: &mut Families,
        time: u64,
        reading: Reading,
        outcome: &mut Outcome,
    ) -> Option<Judged> {
        if !self.config.engine.enabled {
            outcome.unscored[Unscored::Disabled as usize] += 1;
            return None;
        }
        let mut scoring = Scoring { settings: self.settings, families, hold_nanos: self.hold_nanos };
        let end = outcome.out.series.len();
        let judged = entry.score(&mut scoring, time, reading, &mut outcome.out, &mut outcome.events);
        match judged {
            None => outcome.unscored[Unscored::NotFinite as usize] += 1,
            Some(judged) if judged.warming => outcome.unscored[Unscored::Warming as usize] += 1,
            Some(judged) => {
                outcome.scored += 1;
                outcome.anomalies += u64::from(judged.is_anomaly);
                let isolationforest::Config { output, collector, .. } = self.config;
                if *output != OutputMode::Series {
                    for series in &mut outcome.out.series[self.first..end] {
                        series.labels = labelled(&series.labels, *output, collector, judged.score, judged.is_anomaly);
                    }
                }
            }
        }
        judged
    }
}
