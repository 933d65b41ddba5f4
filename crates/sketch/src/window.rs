//! A closed window: the changes of every series between two moments.
//!
//! Leaves either as deltas, one stream per owner (`split`), or as points (`into_series`) where the
//! process that taps is also the one that merges.
//!
//! Invariants: holds only series that counted something; the order of series is that of their
//! first span. Never: changes a number.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use mirador_proto::red::ExportRedRequest;

use crate::dimensions::Dimensions;
use crate::key::Excluded;
use crate::table::{OVERFLOW, Table};
use crate::text::Text;
use crate::wire::encode;
use crate::{Point, SeriesKey};

/// What was counted in [start, end).
#[derive(Debug)]
pub struct Window {
    pub(crate) table: Table,
    pub(crate) names: Arc<[Arc<str>]>,
    pub(crate) excluded: Excluded,
    pub(crate) interval: Range<u64>,
}

impl Window {
    pub(crate) fn new(table: Table, dimensions: &Dimensions, interval: Range<u64>) -> Self {
        Self { table, names: Arc::clone(&dimensions.names), excluded: dimensions.excluded, interval }
    }

    /// Start in nanoseconds since the Unix epoch, inclusive.
    pub const fn start_unix_nano(&self) -> u64 {
        self.interval.start
    }

    /// End in nanoseconds since the Unix epoch, exclusive.
    pub const fn end_unix_nano(&self) -> u64 {
        self.interval.end
    }

    /// The ascending bucket bounds in nanoseconds.
    pub fn bounds_nanos(&self) -> &[u64] {
        &self.table.shape().bounds
    }

    /// Number of series, the overflow series included if it counted anything.
    pub fn len(&self) -> usize {
        self.table.iter().count()
    }

    /// True when no series counted anything.
    pub fn is_empty(&self) -> bool {
        self.table.iter().next().is_none()
    }

    /// The deltas for each owner, by ascending owner; `owner_of` tells the owner of a service name
    /// (empty for the overflow series and when `service.name` is excluded) and is asked once per
    /// name. An owner with much to say gets several requests of about `MESSAGE_TARGET_BYTES`.
    /// Agent id, epoch, sequence and stream are left for the sender to fill in.
    pub fn split(self, owner_of: impl FnMut(&str) -> usize) -> Vec<(usize, ExportRedRequest)> {
        encode::split(&self, owner_of)
    }

    /// Every series with its numbers.
    pub fn into_series(self) -> impl Iterator<Item = (SeriesKey, Point)> {
        let mut shared = HashMap::new();
        let numbers: Vec<u32> = self.table.iter().map(|(at, _)| at).collect();
        numbers.into_iter().filter_map(move |at| {
            let series = self.table.series(at)?;
            let key = self.key(at, &mut shared);
            Some((key, series.to_point(self.table.buckets(at))))
        })
    }

    fn key(&self, at: u32, shared: &mut HashMap<Text, Arc<str>>) -> SeriesKey {
        if at == OVERFLOW {
            return SeriesKey::overflow();
        }
        let mut text = |id: Text| {
            let text = shared.entry(id);
            Arc::clone(text.or_insert_with(|| self.table.texts.get(id).into()))
        };
        let values = self.names.iter().zip(self.table.values(at));
        let series = self.table.identity(at);
        SeriesKey {
            service: text(series.service),
            span_name: text(series.name),
            kind: i32::from(series.kind),
            status: i32::from(series.status),
            dimensions: values
                .filter(|(_, value)| **value != Text::ABSENT)
                .map(|(name, value)| (Arc::clone(name), text(*value)))
                .collect(),
            overflow: false,
            excluded: self.excluded,
        }
    }
}
