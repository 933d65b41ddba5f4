//! One pass over a request: every datapoint becomes samples and a score.
//!
//! A point of a known series costs a hash over its attributes, a look-up and the arithmetic; text is built
//! only when a series is new. Sans-IO: the time is passed in. Never: waits, sends, holds a request.

use std::sync::Arc;

use mirador_otlp::Request;
use mirador_otlp::metrics::{Data, Metric};

use super::Config;
use super::detector::Settings;
use super::episodes::Event;
use super::overflow::Beyond;
use super::ratios::Ratios;
use super::resources::forests::Forests;
use super::resources::kind::KINDS;
use super::resources::{Resources, Scored};
use super::state;
use super::table::{Limits, Table};
use crate::normalise::Output;
use crate::normalise::resource::Identities;
use crate::normalise::tally::Tally;
use points::{Context, Owner};

mod points;

/// What one pass did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Samples to write.
    pub out: Output,
    /// Points read and lost.
    pub tally: Tally,
    /// Points with a score.
    pub scored: u64,
    /// Points with a score at or over the threshold.
    pub anomalies: u64,
    /// Points written without a score, or with the 0 of a series that warms up.
    pub unscored: [u64; Unscored::ALL.len()],
    /// Points of series that got no state, by the limit that was in the way.
    pub overflow: [u64; OVERFLOW.len()],
    /// Episodes that began, rose or ended.
    pub events: Vec<Event>,
    /// Times that a resource spoke that is not watched as a whole.
    pub resources_over_limit: u64,
}

/// The limits on series with state, in the order of the counts: in all, per metric, per resource.
pub const OVERFLOW: [&str; 3] = ["series", "metric", "resource"];

/// Series without state of which the point before is kept, per shard.
const MOST_BEYOND: usize = 65_536;

/// Why a point has no score that says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unscored {
    /// Too few points so far, or the first after a reset: the score is written as 0.
    Warming,
    /// NaN or infinite.
    NotFinite,
    /// The table is full.
    OverLimit,
    /// The point says that there is no value.
    Stale,
    /// Scoring is off.
    Disabled,
}

impl Unscored {
    /// All reasons, in the order of the enum.
    pub const ALL: [Self; 5] = [Self::Warming, Self::NotFinite, Self::OverLimit, Self::Stale, Self::Disabled];

    /// The value of the label `reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warming => "warming",
            Self::NotFinite => "not_finite",
            Self::OverLimit => "over_limit",
            Self::Stale => "stale",
            Self::Disabled => "disabled",
        }
    }
}

/// The state of one shard.
#[derive(Debug)]
pub struct Shard {
    config: Arc<Config>,
    settings: Settings,
    hold_nanos: u64,
    table: Table,
    ratios: Ratios,
    beyond: Beyond,
    pub(super) resources: Resources,
    identities: Identities,
}

impl Shard {
    /// `share` of the configured series, as many shards hold them together.
    pub fn new(config: Arc<Config>, shards: usize) -> Self {
        let settings = config.scoring().settings();
        let hold_nanos = u64::try_from(config.flag_hold.as_nanos()).unwrap_or(u64::MAX);
        let series = &config.series;
        let limits = Limits {
            series: series.max_series.div_ceil(shards.max(1)),
            per_metric: series.max_per_metric.div_ceil(shards.max(1)),
            per_resource: series.max_per_resource,
        };
        let table = Table::new(limits, series.max_families, config.engine.seed);
        let forest = &config.forest;
        let watched = if forest.enabled { forest.max_resources.div_ceil(shards.max(1)) } else { 0 };
        let resources = Resources::new(watched, settings.floor);
        Self {
            config,
            settings,
            hold_nanos,
            table,
            ratios: Ratios::default(),
            beyond: Beyond::new(limits.series.min(MOST_BEYOND)),
            resources,
            identities: Identities::default(),
        }
    }

    /// The state of all series for a snapshot of one of so many shards, and how many series it has no room for.
    pub(super) fn snapshot(&self, shards: usize, now_unix_nano: u64) -> (Vec<u8>, u64) {
        let ttl = u64::try_from(self.config.series.ttl.as_nanos()).unwrap_or(u64::MAX);
        let parts =
            state::Parts { table: &self.table, ratios: &self.ratios, beyond: &self.beyond, resources: &self.resources };
        state::encode(&parts, shards, now_unix_nano.saturating_sub(ttl))
    }

    /// Takes what a snapshot held.
    pub(super) fn restore(&mut self, restored: state::Restored) {
        let rest = self.table.restore(restored);
        self.ratios = rest.ratios;
        self.beyond.restore(rest.beyond);
        self.resources.restore(rest.resources);
    }

    /// Series in the table.
    pub fn series(&self) -> usize {
        self.table.len()
    }

    /// Bytes of scoring state: samples, features and the labels of the score series.
    pub fn scoring_bytes(&self) -> usize {
        self.table.scoring_bytes() + self.ratios.bytes() + self.beyond.bytes()
    }

    /// Reads the picked resources of a request, or all of them.
    pub fn pass(&mut self, request: &Request, picks: Option<&[u32]>, now_unix_nano: u64) -> Outcome {
        let mut outcome = Outcome::default();
        let mut picks = picks.map(|picks| picks.iter().peekable());
        for (index, entry) in request.resource_metrics().enumerate() {
            if let Some(picks) = &mut picks
                && picks.next_if(|pick| **pick as usize == index).is_none()
            {
                continue;
            }
            let config = Arc::clone(&self.config);
            let identity = self.identities.resolve(&config.normalise, &entry.resource(), &mut outcome.tally);
            let owner = Owner { key: identity.key, source: identity.source, labels: Arc::clone(&identity.labels) };
            self.resources.meet(owner.key, &owner.labels, &entry.resource());
            let mut latest = 0;
            for scope in entry.scopes() {
                let named = scope.scope();
                let scope_names = config.normalise.scope_labels.then(|| (named.name(), named.version()));
                let told: Vec<_> = scope.metrics().filter(is_distribution).map(|metric| metric.name()).collect();
                for metric in scope.metrics() {
                    let is_told = is_quantile_of(metric.name(), &told);
                    let context = Context::new(&metric, scope_names, (&owner, is_told), now_unix_nano);
                    latest = latest.max(self.metric(&metric, context, &mut outcome));
                }
            }
            self.target_info(&entry.resource(), latest, &mut outcome);
        }
        let rules = (&self.settings, self.hold_nanos);
        outcome.anomalies += self.ratios.judge(rules, &mut self.resources, &mut outcome.out, &mut outcome.events);
        outcome.resources_over_limit = self.resources.take_over_limit();
        outcome
    }

    /// Scores the resources that have said something since the last time.
    pub(super) fn score_resources(&mut self, forests: &Forests) -> Scored {
        self.resources.tick(forests)
    }

    /// Resources that are watched, by kind.
    pub(super) fn resources(&self) -> [usize; KINDS] {
        self.resources.counts()
    }

    /// Removes what has not been seen for long and notes who fell silent; what is left to write is returned.
    pub fn expire(&mut self, now_unix_nano: u64) -> (Output, Vec<Event>) {
        let (mut out, mut events) = (Output::default(), Vec::new());
        let ttl = u32::try_from(self.config.series.ttl.as_secs()).unwrap_or(u32::MAX);
        if self.config.engine.enabled && self.config.engine.silent_series {
            self.table.silence(&self.settings, now_unix_nano, &mut events);
        }
        self.table.expire(now_unix_nano, ttl.max(1), &mut out, &mut events);
        let since = now_unix_nano.saturating_sub(u64::from(ttl) * 1_000_000_000);
        self.ratios.expire(since);
        self.beyond.expire(since);
        (out, events)
    }

    fn target_info(&mut self, resource: &mirador_otlp::resource::Resource<'_>, latest: u64, outcome: &mut Outcome) {
        let config = &self.config.normalise;
        let identity = self.identities.resolve(config, resource, &mut outcome.tally);
        let millis = (latest / 1_000_000) as i64;
        let interval = config.target_info.interval.as_millis() as i64;
        if let Some(labels) = &identity.info
            && latest > 0
            && millis.saturating_sub(identity.info_written_ms) >= interval
        {
            identity.info_written_ms = millis;
            outcome.out.push(labels, millis, 1.0);
        }
    }
}

fn is_distribution(metric: &Metric<'_>) -> bool {
    matches!(metric.data(), Data::Histogram { .. } | Data::ExponentialHistogram { .. })
}

/// Whether this is a quantile, as in `duration.p99`, of one of these.
fn is_quantile_of(name: &str, distributions: &[&str]) -> bool {
    name.rsplit_once(".p").is_some_and(|(whole, percent)| {
        distributions.contains(&whole)
            && !percent.is_empty()
            && percent.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'_'))
    })
}

#[cfg(test)]
pub(super) mod tests;
