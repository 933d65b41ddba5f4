//! Merges RED deltas of all nodes into one cumulative set of series.
//!
//! Never: does IO, reads a clock. Invariants: a delta is merged wholly or not at all, and once however often it
//! comes; totals do not depend on the order of deltas; at most `aggregation_cardinality_limit` series and one for
//! the rest.

use bytes::Bytes;
use mirador_proto::red::ExportRedRequest;
use mirador_sketch::{BuiltIn, DecodeError, Excluded, Point, SeriesKey, Window, coarsen_largest, decode};

use super::config::Config;
use super::series::Exposition;
use super::state::{State, rebucket};
use super::streams::{StreamId, Streams};
use crate::cumulative::{Cumulative, Flush};

/// Streams (agent, epoch, owner) that are remembered; about 200 bytes each.
const MAX_STREAMS: usize = 65_536;
/// How long a silent stream is remembered: far longer than an agent repeats a window.
const STREAM_EXPIRATION_NANOS: u64 = 6 * 3600 * 1_000_000_000;

/// The cumulative series of the cluster.
#[derive(Debug)]
pub struct Engine {
    pub(super) streams: Streams,
    pub(super) series: Cumulative<SeriesKey, State>,
    pub(super) bounds_nanos: Vec<u64>,
    excluded: Vec<BuiltIn>,
    exposition: Exposition,
    windows: usize,
    /// No series begins earlier: a window that the process before did not get may have begun before that one's last
    /// flush, and a zero among its samples would be no reset.
    started_unix_nano: u64,
    /// Bytes of all distributions, at most: what ended since the last look is still counted.
    distribution_bytes: usize,
    /// Most bytes of all distributions.
    distribution_limit: usize,
}

/// Which series a flush carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Every series, at the end of an interval.
    All,
    /// Those that changed since a flush that was taken, so that somebody who waits can be answered.
    Changed,
}

/// What became of a delta.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Merged {
    /// It had been merged before and changed nothing.
    pub is_duplicate: bool,
    /// Series in the delta.
    pub series: u64,
    /// Calls that lost their labels here, by this process' limit.
    pub overflowed_calls: u64,
    /// Series that had other bounds and were counted by their distribution.
    pub rebucketed: u64,
    /// How often a distribution lost half of its resolution to stay under the limit of memory.
    pub coarsened: u64,
}

/// A delta that cannot be merged, ever.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// The sender did not say which window this is.
    #[error("a RED delta needs agent_id, epoch and a sequence from 1, but has agent_id {agent:?}, sequence {sequence}")]
    Unnamed {
        /// What it said.
        agent: String,
        /// What it said.
        sequence: u64,
    },
    /// The series contradict the delta's own tables.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl Engine {
    /// No series yet; `started_unix_nano` is when this process began to listen.
    pub fn new(config: &Config, started_unix_nano: u64) -> Self {
        let expiration = (!config.series_expiration.is_zero()).then_some(config.series_expiration);
        let bounds_nanos = config.tap().bounds_nanos();
        Self {
            streams: Streams::new(MAX_STREAMS, STREAM_EXPIRATION_NANOS, started_unix_nano),
            series: Cumulative::new(config.aggregation_cardinality_limit, expiration),
            exposition: Exposition::new(config, &bounds_nanos),
            bounds_nanos,
            excluded: config.exclude_dimensions.clone(),
            windows: config.quantiles.windows,
            started_unix_nano,
            distribution_bytes: 0,
            distribution_limit: config.histogram.memory_limit_mib.saturating_mul(1 << 20),
        }
    }

    /// Merges a delta from an agent, once.
    pub fn merge(&mut self, request: &ExportRedRequest, now_unix_nano: u64) -> Result<Merged, MergeError> {
        if request.agent_id.is_empty() || request.epoch == 0 || request.sequence == 0 {
            return Err(MergeError::Unnamed { agent: request.agent_id.clone(), sequence: request.sequence });
        }
        let series = decode(request)?;
        let id = StreamId::of(request);
        if !self.streams.admit(&id, request.sequence, now_unix_nano) {
            return Ok(Merged { is_duplicate: true, ..Merged::default() });
        }
        Ok(self.add(series, &request.bounds_nanos, request.start_unix_nano, now_unix_nano))
    }

    /// Merges what this process counted itself.
    pub fn merge_own(&mut self, window: Window, now_unix_nano: u64) -> Merged {
        let bounds_nanos = window.bounds_nanos().to_vec();
        let begun = window.start_unix_nano();
        self.add(window.into_series(), &bounds_nanos, begun, now_unix_nano)
    }

    fn add(
        &mut self,
        series: impl Iterator<Item = (SeriesKey, Point)>,
        bounds_nanos: &[u64],
        begun: u64,
        now: u64,
    ) -> Merged {
        let mut merged = Merged::default();
        let begun = begun.max(self.started_unix_nano);
        let has_our_bounds = bounds_nanos == self.bounds_nanos;
        let keeps_distribution = self.exposition.has_quantiles();
        for (key, mut delta) in series {
            merged.series += 1;
            if !has_our_bounds {
                rebucket(&mut delta, &self.bounds_nanos);
                merged.rebucketed += 1;
            }
            let key = self.without_excluded(key);
            let own = if key.overflow { None } else { self.series.update(&key, begun, now) };
            let state = if let Some(state) = own {
                state
            } else {
                merged.overflowed_calls += if key.overflow { 0 } else { delta.calls };
                self.series.update_overflow(&SeriesKey::overflow(), now)
            };
            self.distribution_bytes += state.merge(&delta, self.bounds_nanos.len(), keeps_distribution);
        }
        if self.distribution_bytes > self.distribution_limit {
            merged.coarsened = self.coarsen();
        }
        merged
    }

    /// Brings the distributions under their limit.
    fn coarsen(&mut self) -> u64 {
        let mut all: Vec<_> = self.series.values_mut().flat_map(State::distributions_mut).collect();
        let (coarsened, bytes) = coarsen_largest(&mut all, self.distribution_limit);
        self.distribution_bytes = bytes;
        coarsened
    }

    /// Leaves out what this process leaves out, whatever the agents leave out.
    fn without_excluded(&self, mut key: SeriesKey) -> SeriesKey {
        if self.excluded.is_empty() || key.overflow {
            return key;
        }
        for label in &self.excluded {
            match label {
                BuiltIn::ServiceName => key.service = std::sync::Arc::default(),
                BuiltIn::SpanName => key.span_name = std::sync::Arc::default(),
                BuiltIn::SpanKind => key.kind = 0,
                BuiltIn::StatusCode => key.status = 0,
            }
        }
        key.excluded = Excluded::of(key.excluded.iter().chain(self.excluded.iter().copied()));
        key
    }

    /// Begins a flush of these series as they are now; ask [`Self::request`] for some of them at a time. `scope`:
    /// all of them, or those that changed since a flush that was taken.
    pub fn begin_flush(&mut self, scope: Scope, now_unix_nano: u64) -> (Flush, Vec<SeriesKey>) {
        let flush = match scope {
            Scope::All => self.series.begin_flush(now_unix_nano),
            Scope::Changed => self.series.begin_flush_of(now_unix_nano, State::is_changed),
        };
        let mut keys = Vec::new();
        for (key, state) in self.series.carried(flush) {
            state.await_flush();
            keys.push(key.clone());
        }
        keys.sort_unstable();
        (flush, keys)
    }

    /// The export request of some series of a flush, as they were when it began. In a flush of all series a window of
    /// the distribution ends with it.
    pub fn request(&mut self, flush: Flush, scope: Scope, keys: &[SeriesKey]) -> Bytes {
        for key in keys {
            if let Some(state) = self.series.value_mut(key) {
                state.begin_flush();
            }
        }
        let rows: Vec<_> = keys.iter().filter_map(|key| self.series.row(flush, key)).collect();
        let request = self.exposition.request(flush, &rows);
        for key in keys {
            if let Some(state) = self.series.value_mut(key) {
                state.end_flush();
                if scope == Scope::All {
                    state.turn(self.windows);
                }
            }
        }
        request
    }

    /// The flush has been taken.
    pub fn confirm(&mut self, flush: Flush) {
        for (_, state) in self.series.carried(flush) {
            state.confirm();
        }
        self.series.confirm(flush);
    }

    /// Series that are held.
    pub fn series(&self) -> usize {
        self.series.len()
    }

    /// Streams that are known, windows of them that may still come, and windows given up since the last call.
    pub fn streams(&mut self, now_unix_nano: u64) -> (usize, u64, u64) {
        self.streams.expire(now_unix_nano);
        (self.streams.len(), self.streams.missing(), self.streams.take_lost())
    }
}

#[cfg(test)]
mod tests;
