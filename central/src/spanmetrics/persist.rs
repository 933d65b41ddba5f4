//! The engine's counts and its memory of windows as bytes, so that the next process goes on with both.
//!
//! Written when a flush begins and before it leaves: whether the store took that flush or not, a process that resumes
//! from it sends the same cumulative values again and knows every window that is in them. Never: does IO, keeps
//! distributions or exemplars (both are of the recent past only). Invariant: bytes are resumed wholly or not at all.

use std::sync::Arc;

use mirador_sketch::{BuiltIn, Excluded, SeriesKey};
use prost::Message;

use super::engine::Engine;
use super::state::{Counts, State};
use super::streams::{Position, StreamId};
use crate::cumulative::Life;

/// The kind of the snapshot file.
pub const KIND: &str = "spanmetrics";
/// The version of the payload.
pub const VERSION: u16 = 1;

/// Bytes that are not resumed.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// Not what this release writes.
    #[error("its content cannot be read: {0}")]
    Decode(#[from] prost::DecodeError),
    /// The buckets would not be the same.
    #[error("it was counted with other bucket bounds than spanmetrics.histogram has now")]
    Bounds,
    /// A series has not one bucket for each bound and one above.
    #[error("a series has {found} buckets instead of {wanted}")]
    Buckets {
        /// What it has.
        found: usize,
        /// What it would have.
        wanted: usize,
    },
}

#[derive(Clone, PartialEq, Message)]
struct Everything {
    #[prost(uint64, tag = "1")]
    flushed_at: u64,
    #[prost(uint64, repeated, tag = "2")]
    bounds_nanos: Vec<u64>,
    #[prost(message, repeated, tag = "3")]
    streams: Vec<Stream>,
    #[prost(message, repeated, tag = "4")]
    series: Vec<Series>,
}

#[derive(Clone, PartialEq, Message)]
struct Stream {
    #[prost(string, tag = "1")]
    agent: String,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(string, tag = "3")]
    owner: String,
    #[prost(uint64, tag = "4")]
    next: u64,
    #[prost(uint64, repeated, tag = "5")]
    ahead: Vec<u64>,
    #[prost(uint64, tag = "6")]
    first: u64,
    #[prost(uint64, tag = "7")]
    heard: u64,
}

#[derive(Clone, PartialEq, Message)]
#[expect(clippy::struct_excessive_bools, reason = "a message: each is a field on its own")]
struct Series {
    #[prost(string, tag = "1")]
    service: String,
    #[prost(string, tag = "2")]
    span_name: String,
    #[prost(int32, tag = "3")]
    kind: i32,
    #[prost(int32, tag = "4")]
    status: i32,
    /// Names and values by turns.
    #[prost(string, repeated, tag = "5")]
    dimensions: Vec<String>,
    /// Positions in `BuiltIn::ALL`.
    #[prost(uint32, repeated, tag = "6")]
    excluded: Vec<u32>,
    #[prost(bool, tag = "7")]
    is_overflow_key: bool,
    #[prost(uint64, tag = "8")]
    calls: u64,
    #[prost(uint64, tag = "9")]
    sum_nanos: u64,
    #[prost(uint64, tag = "10")]
    sum_nanos_high: u64,
    #[prost(uint64, tag = "11")]
    min_nanos: u64,
    #[prost(uint64, tag = "12")]
    max_nanos: u64,
    #[prost(uint64, repeated, tag = "13")]
    buckets: Vec<u64>,
    #[prost(uint64, tag = "14")]
    start: u64,
    #[prost(uint64, tag = "15")]
    updated: u64,
    #[prost(bool, tag = "16")]
    is_new: bool,
    #[prost(bool, tag = "17")]
    is_ending: bool,
    #[prost(bool, tag = "18")]
    is_overflow: bool,
}

impl Engine {
    /// Everything that was merged until now.
    pub fn export(&self) -> Vec<u8> {
        let streams = self.streams.positions().map(|(id, position)| Stream {
            agent: id.agent.as_ref().to_owned(),
            epoch: id.epoch,
            owner: id.stream.as_ref().to_owned(),
            next: position.next,
            ahead: position.ahead,
            first: position.first,
            heard: position.heard,
        });
        Everything {
            flushed_at: self.series.flushed_at(),
            bounds_nanos: self.bounds_nanos.clone(),
            streams: streams.collect(),
            series: self.series.lives().map(|(key, state, life)| series(key, state.counts(), life)).collect(),
        }
        .encode_to_vec()
    }

    /// Goes on where [`Self::export`] was; returns the series and the streams that are known now.
    ///
    /// # Errors
    /// When the bytes cannot be resumed; nothing has changed then.
    pub fn resume(&mut self, bytes: &[u8]) -> Result<(usize, usize), ResumeError> {
        let all = Everything::decode(bytes)?;
        if all.bounds_nanos != self.bounds_nanos {
            return Err(ResumeError::Bounds);
        }
        let wanted = self.bounds_nanos.len() + 1;
        if let Some(other) = all.series.iter().find(|series| series.buckets.len() != wanted) {
            return Err(ResumeError::Buckets { found: other.buckets.len(), wanted });
        }
        for Stream { agent, epoch, owner, next, ahead, first, heard } in all.streams {
            let id = StreamId { agent: agent.into(), epoch, stream: owner.into() };
            self.streams.resume(id, Position { next, ahead, first, heard });
        }
        self.series.resume(all.flushed_at, all.series.into_iter().map(entry));
        Ok((self.series.len(), self.streams.len()))
    }
}

fn series(key: &SeriesKey, counts: &Counts, life: Life) -> Series {
    let excluded = BuiltIn::ALL.into_iter().zip(0..).filter(|(label, _)| key.excluded.contains(*label));
    Series {
        service: key.service.as_ref().to_owned(),
        span_name: key.span_name.as_ref().to_owned(),
        kind: key.kind,
        status: key.status,
        dimensions: key.dimensions.iter().flat_map(|(name, value)| [name.to_string(), value.to_string()]).collect(),
        excluded: excluded.map(|(_, at)| at).collect(),
        is_overflow_key: key.overflow,
        calls: counts.calls,
        sum_nanos: counts.sum_nanos as u64,
        sum_nanos_high: (counts.sum_nanos >> 64) as u64,
        min_nanos: counts.min_nanos,
        max_nanos: counts.max_nanos,
        buckets: counts.buckets.clone(),
        start: life.start_unix_nano,
        updated: life.updated_unix_nano,
        is_new: life.is_new,
        is_ending: life.is_ending,
        is_overflow: life.is_overflow,
    }
}

fn entry(series: Series) -> (SeriesKey, State, Life) {
    let excluded = BuiltIn::ALL.into_iter().zip(0..).filter(|(_, at)| series.excluded.contains(at));
    let key = SeriesKey {
        service: series.service.into(),
        span_name: series.span_name.into(),
        kind: series.kind,
        status: series.status,
        dimensions: series
            .dimensions
            .chunks_exact(2)
            .map(|pair| (Arc::from(pair[0].as_str()), Arc::from(pair[1].as_str())))
            .collect(),
        overflow: series.is_overflow_key,
        excluded: Excluded::of(excluded.map(|(label, _)| label)),
    };
    let counts = Counts {
        calls: series.calls,
        sum_nanos: u128::from(series.sum_nanos_high) << 64 | u128::from(series.sum_nanos),
        min_nanos: series.min_nanos,
        max_nanos: series.max_nanos,
        buckets: series.buckets,
    };
    let life = Life {
        start_unix_nano: series.start,
        updated_unix_nano: series.updated,
        is_new: series.is_new,
        is_ending: series.is_ending,
        is_overflow: series.is_overflow,
    };
    (key, State::resumed(counts), life)
}
