//! The role's own metrics.
//!
//! Conservation: points = scored + unscored{reason} + dropped{reason}, summed over all shards.
//! Never: is touched per point; a pass adds up first.

use mirador_service::metrics::{Counter, Gauge, Labels, Registry};

use super::pass::{OVERFLOW, Outcome, Unscored};
use super::resources::kind::Kind;
use crate::complaint::Complaint;
use crate::normalise::tally::Loss;

/// Handles, looked up once.
#[derive(Debug, Clone)]
pub(super) struct Telemetry {
    points: Counter,
    scored: Counter,
    anomalies: Counter,
    unscored: Vec<Counter>,
    overflow: Vec<Counter>,
    /// Episodes and other events, as they were noted.
    pub(super) events: Counter,
    /// Events that the store of logs did not get.
    pub(super) events_dropped: Counter,
    /// Snapshots by outcome: written, failed.
    pub(super) snapshots: Vec<Counter>,
    /// Series whose state was restored at the start.
    pub(super) restored: Counter,
    dropped: Vec<Counter>,
    truncated: Counter,
    conflicts: Counter,
    /// Series in the tables.
    pub(super) series: Gauge,
    /// Bytes of scoring state, as of the latest look for old series.
    pub(super) state_bytes: Gauge,
    /// Group commits by outcome: stored, retry, poison, fatal.
    commits: Vec<Counter>,
    /// What resources are as a whole, and incidents.
    pub(super) forest: Whole,
    /// Samples that the store has taken.
    pub(super) samples: Counter,
    /// Points that the store refused for good.
    pub(super) poisoned: Counter,
    /// The store does not take what is written.
    pub(super) refused: Complaint,
    /// Episodes find no store.
    pub(super) untold: Complaint,
}

/// How a group commit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Commit {
    /// The store has the data.
    Stored,
    /// The store did not take it now; the clients were told to come again.
    Retry,
    /// The store refused some of it for good.
    Poison,
    /// The store cannot take anything until an operator acts.
    Fatal,
}

const COMMITS: [(Commit, &str); 4] =
    [(Commit::Stored, "stored"), (Commit::Retry, "retry"), (Commit::Poison, "poison"), (Commit::Fatal, "fatal")];

impl Telemetry {
    /// Registers the metrics; the same registry twice gives the same metrics.
    pub(super) fn new(registry: &Registry) -> Self {
        let family = |name, help, label: &'static str, values: &mut dyn Iterator<Item = &'static str>| {
            let family = registry.counter_family::<Labels>(name, help);
            registry.declare_labels(name, &[label]);
            values.map(|value| family.get_or_create_owned(&vec![(label, value.to_owned())])).collect::<Vec<_>>()
        };
        Self {
            points: registry.counter("mirador_isolationforest_points", "Datapoints read"),
            scored: registry.counter("mirador_isolationforest_scored", "Datapoints that got a score"),
            anomalies: registry.counter("mirador_isolationforest_anomalies", "Datapoints that were flagged"),
            unscored: family(
                "mirador_isolationforest_unscored",
                "Datapoints written without a score, or with the 0 of a series that warms up",
                "reason",
                &mut Unscored::ALL.into_iter().map(Unscored::as_str),
            ),
            overflow: family(
                "mirador_isolationforest_overflow",
                "Datapoints of series without state, by the limit in the way: series, metric or resource",
                "limit",
                &mut OVERFLOW.into_iter(),
            ),
            events: registry.counter("mirador_isolationforest_events", "Episodes opened, risen and closed, silences"),
            events_dropped: registry.counter(
                "mirador_isolationforest_events_dropped",
                "Events that the store of logs did not get, because it was down or the queue before it full",
            ),
            snapshots: family(
                "mirador_isolationforest_snapshots",
                "Snapshots of the scoring state",
                "outcome",
                &mut ["written", "failed"].into_iter(),
            ),
            restored: registry
                .counter("mirador_isolationforest_restored_series", "Series whose state was read at the start"),
            dropped: family(
                "mirador_normalise_dropped",
                "Datapoints that are not written",
                "reason",
                &mut Loss::ALL.into_iter().map(Loss::as_str),
            ),
            truncated: registry.counter("mirador_normalise_truncated", "Names and label values that were cut"),
            conflicts: registry.counter(
                "mirador_normalise_identity_conflicts",
                "Points of a series that another resource wrote before; grows steadily when resources share job and instance",
            ),
            series: registry.gauge("mirador_isolationforest_series", "Series with state"),
            state_bytes: registry.gauge(
                "mirador_isolationforest_state_bytes",
                "Scoring state of all series, refreshed once a minute",
            ),
            commits: family(
                "mirador_isolationforest_commits",
                "Group commits to the store",
                "outcome",
                &mut COMMITS.into_iter().map(|(_, name)| name),
            ),
            forest: Whole::new(registry),
            samples: registry.counter("mirador_isolationforest_samples", "Samples that the store has taken"),
            poisoned: registry.counter("mirador_isolationforest_poisoned", "Datapoints that the store refused for good"),
            refused: Complaint::default(),
            untold: Complaint::default(),
        }
    }

    /// Adds what one pass did.
    pub(super) fn add(&self, outcome: &Outcome) {
        self.points.inc_by(outcome.tally.points);
        self.scored.inc_by(outcome.scored);
        self.anomalies.inc_by(outcome.anomalies);
        for (counter, count) in self.unscored.iter().zip(outcome.unscored) {
            counter.inc_by(count);
        }
        for (counter, count) in self.overflow.iter().zip(outcome.overflow) {
            counter.inc_by(count);
        }
        self.events.inc_by(outcome.events.len() as u64);
        for (counter, loss) in self.dropped.iter().zip(Loss::ALL) {
            counter.inc_by(outcome.tally.lost(loss));
        }
        self.forest.resources_over_limit.inc_by(outcome.resources_over_limit);
        self.truncated.inc_by(outcome.tally.truncated);
        self.conflicts.inc_by(outcome.tally.conflicts);
    }

    /// The store has taken a group.
    pub(super) fn stored(&self) {
        self.commit(Commit::Stored);
        if self.refused.is_over() {
            tracing::info!("the metric store takes batches again");
        }
    }

    /// One group commit ended.
    pub(super) fn commit(&self, commit: Commit) {
        for (counter, (known, _)) in self.commits.iter().zip(COMMITS) {
            if known == commit {
                counter.inc();
            }
        }
    }
}

/// Resources as a whole, their forests, incidents.
#[derive(Debug, Clone)]
pub(super) struct Whole {
    /// Resources that are watched, by kind.
    pub(super) resources: Vec<Gauge>,
    /// Times that a resource beyond the limit was met.
    pub(super) resources_over_limit: Counter,
    /// Rows that forests did not get.
    pub(super) rows_dropped: Counter,
    /// Rows that the forest of each kind grows from.
    pub(super) rows: Vec<Gauge>,
    /// Bytes of all forests and their rows.
    pub(super) bytes: Gauge,
    /// Trees that were grown.
    pub(super) trees_grown: Counter,
    /// Incidents that began.
    pub(super) incidents: Counter,
    /// Incidents with an open episode.
    pub(super) incidents_open: Gauge,
    /// Events that are told without an incident, or series that an incident does not count, for want of room.
    pub(super) incidents_left_out: Counter,
}

impl Whole {
    fn new(registry: &Registry) -> Self {
        let kinds = |name: &str, help: &str| {
            let family = registry.gauge_family::<Labels>(name, help);
            registry.declare_labels(name, &["kind"]);
            let one = |kind: Kind| family.get_or_create_owned(&vec![("kind", kind.as_str().to_owned())]);
            Kind::ALL.into_iter().map(one).collect::<Vec<_>>()
        };
        Self {
            resources: kinds("mirador_isolationforest_resources", "Resources that are watched as a whole, by kind"),
            resources_over_limit: registry.counter(
                "mirador_isolationforest_resources_over_limit",
                "Times that a resource spoke that is not watched as a whole, because forest.max_resources are",
            ),
            rows_dropped: registry.counter(
                "mirador_isolationforest_forest_rows_dropped",
                "Rows of resources that no forest learned from, because too many waited",
            ),
            rows: kinds("mirador_isolationforest_forest_rows", "Rows that the forest of a kind grows from"),
            bytes: registry.gauge("mirador_isolationforest_forest_bytes", "Forests of resources and their rows"),
            trees_grown: registry
                .counter("mirador_isolationforest_trees_grown", "Trees grown for forests of resources"),
            incidents: registry.counter(
                "mirador_isolationforest_incidents",
                "Incidents that began: episodes of one resource that overlap in time",
            ),
            incidents_open: registry.gauge("mirador_isolationforest_incidents_open", "Incidents with an open episode"),
            incidents_left_out: registry.counter(
                "mirador_isolationforest_incidents_left_out",
                "Events without an incident, or series that their incident does not count, for want of room",
            ),
        }
    }
}
