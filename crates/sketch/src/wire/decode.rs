//! Messages to points.
//!
//! Everything a message says is checked first, in one pass without allocation in proportion to
//! anything but the message; then the series are made one at a time. Texts are shared between the
//! series that name them, so a message cannot make a text cost more than once.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use mirador_proto::red::{ExportRedRequest, RedExemplar, RedSeries};

use crate::config::{BuiltIn, MAX_BOUNDS, MAX_DIMENSIONS};
use crate::hdr::{BUCKETS, Hdr};
use crate::key::Excluded;
use crate::{Exemplar, Exemplars, MAX_EXEMPLARS, Point, SeriesKey, identity};

/// Why a delta was refused. Series are counted from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The window ends before it starts.
    #[error("end_unix_nano {end} is before start_unix_nano {start}")]
    Interval {
        /// `start_unix_nano`.
        start: u64,
        /// `end_unix_nano`.
        end: u64,
    },
    /// A bound that is not above the one before it.
    #[error("bounds_nanos must ascend strictly, but entry {at} is {bound}")]
    Bounds {
        /// Its position.
        at: usize,
        /// Its value.
        bound: u64,
    },
    /// A list that is longer than this format allows.
    #[error("{list} has {len} entries, at most {most} are allowed")]
    TooMany {
        /// The list.
        list: &'static str,
        /// Its length.
        len: usize,
        /// Its longest length.
        most: usize,
    },
    /// Entry 0 of `strings` is missing or not empty although there are series.
    #[error("strings must begin with the empty text")]
    Strings,
    /// A name in `dimension_names` that is empty, repeated, or that of a built-in label.
    #[error("dimension_names has {name:?}, which is empty, repeated or a built-in label")]
    DimensionName {
        /// The name.
        name: String,
    },
    /// A name in `excluded_dimensions` that is no built-in label.
    #[error("excluded_dimensions has {name:?}; built-in labels are service.name, span.name, span.kind and status.code")]
    Excluded {
        /// The name.
        name: String,
    },
    /// One series says something that cannot be.
    #[error("series {at}: {problem}")]
    Series {
        /// Its position.
        at: usize,
        /// What is wrong with it.
        problem: SeriesProblem,
    },
}

/// What is wrong with one series.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeriesProblem {
    /// An index past the end of `strings`.
    #[error("text index {index} is not below {len}")]
    Text {
        /// The index.
        index: u32,
        /// Number of strings.
        len: usize,
    },
    /// A list that does not go with another one.
    #[error("{list} has {len} entries instead of {expected}")]
    Length {
        /// The list.
        list: &'static str,
        /// Its length.
        len: usize,
        /// The length it must have.
        expected: usize,
    },
    /// A value outside of its range.
    #[error("{field} is {value}, allowed is {least} to {most}")]
    Range {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// Its smallest value.
        least: u64,
        /// Its largest value.
        most: u64,
    },
    /// A label that the request excludes, or that the overflow series cannot have, has a value.
    #[error("{label} is excluded but has a value")]
    Label {
        /// The label.
        label: &'static str,
    },
    /// Counts that do not add up to the calls.
    #[error("{list} adds up to {sum} instead of calls {calls}")]
    Total {
        /// The list.
        list: &'static str,
        /// Its sum.
        sum: u64,
        /// `calls`.
        calls: u64,
    },
    /// An exemplar without valid ids.
    #[error("an exemplar needs a trace id of 16 bytes and a span id of 8 bytes, neither all zero")]
    Exemplar,
}

/// A checked delta: an iterator over its series.
#[derive(Debug)]
pub struct Decoded<'a> {
    request: &'a ExportRedRequest,
    strings: Vec<Arc<str>>,
    /// Dimension names by ascending name, with their position in the request.
    names: Vec<(Arc<str>, usize)>,
    excluded: Excluded,
    next: Range<usize>,
}

impl Decoded<'_> {
    /// The ascending bucket bounds in nanoseconds.
    pub fn bounds_nanos(&self) -> &[u64] {
        &self.request.bounds_nanos
    }

    /// The window, in nanoseconds since the Unix epoch.
    pub const fn interval(&self) -> Range<u64> {
        self.request.start_unix_nano..self.request.end_unix_nano
    }
}

impl Iterator for Decoded<'_> {
    type Item = (SeriesKey, Point);

    fn next(&mut self) -> Option<Self::Item> {
        let series = &self.request.series[self.next.next()?];
        Some((self.key(series), point(series)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.next.size_hint()
    }
}

impl ExactSizeIterator for Decoded<'_> {}

/// Checks a delta as a whole and gives its series.
pub fn decode(request: &ExportRedRequest) -> Result<Decoded<'_>, DecodeError> {
    let (start, end) = (request.start_unix_nano, request.end_unix_nano);
    if end < start {
        return Err(DecodeError::Interval { start, end });
    }
    at_most("bounds_nanos", request.bounds_nanos.len(), MAX_BOUNDS)?;
    let pairs = request.bounds_nanos.windows(2).enumerate();
    for (at, pair) in pairs {
        if pair[1] <= pair[0] {
            return Err(DecodeError::Bounds { at: at + 1, bound: pair[1] });
        }
    }
    if !request.series.is_empty() && request.strings.first().is_none_or(|first| !first.is_empty()) {
        return Err(DecodeError::Strings);
    }
    let names = names(request)?;
    let excluded = excluded(request)?;
    for (at, series) in request.series.iter().enumerate() {
        check(series, request, excluded).map_err(|problem| DecodeError::Series { at, problem })?;
    }
    Ok(Decoded {
        request,
        strings: request.strings.iter().map(|text| text.as_str().into()).collect(),
        names,
        excluded,
        next: 0..request.series.len(),
    })
}

impl Decoded<'_> {
    fn key(&self, series: &RedSeries) -> SeriesKey {
        if series.overflow {
            return SeriesKey::overflow();
        }
        let text = |index: u32| Arc::clone(&self.strings[index as usize]);
        let dimensions = self.names.iter().filter_map(|(name, at)| {
            let value = text(series.dimension_values[*at]);
            (!value.is_empty()).then(|| (Arc::clone(name), value))
        });
        SeriesKey {
            service: text(series.service),
            span_name: text(series.span_name),
            kind: series.kind as i32,
            status: series.status as i32,
            dimensions: dimensions.collect(),
            overflow: false,
            excluded: self.excluded,
        }
    }
}

fn names(request: &ExportRedRequest) -> Result<Vec<(Arc<str>, usize)>, DecodeError> {
    at_most("dimension_names", request.dimension_names.len(), MAX_DIMENSIONS)?;
    let mut known: HashSet<&str> = BuiltIn::ALL.iter().map(|label| label.name()).collect();
    let mut names = Vec::new();
    for (at, name) in request.dimension_names.iter().enumerate() {
        if name.is_empty() || !known.insert(name) {
            return Err(DecodeError::DimensionName { name: name.clone() });
        }
        names.push((Arc::from(name.as_str()), at));
    }
    names.sort();
    Ok(names)
}

fn excluded(request: &ExportRedRequest) -> Result<Excluded, DecodeError> {
    let labels = request.excluded_dimensions.iter().map(|name| {
        BuiltIn::ALL
            .into_iter()
            .find(|label| label.name() == name)
            .ok_or_else(|| DecodeError::Excluded { name: name.clone() })
    });
    Ok(Excluded::of(labels.collect::<Result<Vec<_>, _>>()?))
}

fn at_most(list: &'static str, len: usize, most: usize) -> Result<(), DecodeError> {
    if len > most {
        return Err(DecodeError::TooMany { list, len, most });
    }
    Ok(())
}

fn check(series: &RedSeries, request: &ExportRedRequest, excluded: Excluded) -> Result<(), SeriesProblem> {
    check_labels(series, request, excluded)?;
    within("calls", series.calls, 1..=u64::MAX)?;
    within("min_nanos", series.min_nanos, 0..=series.max_nanos)?;
    let buckets = request.bounds_nanos.len() + 1;
    same_length("bucket_counts", series.bucket_counts.len(), buckets)?;
    adds_up("bucket_counts", &series.bucket_counts, series.calls)?;
    check_histogram(series)?;
    let exemplars = series.exemplars.len() as u64;
    within("number of exemplars", exemplars, 0..=MAX_EXEMPLARS as u64)?;
    let valid = |one: &RedExemplar| exemplar(one).is_some();
    if !series.exemplars.iter().all(valid) {
        return Err(SeriesProblem::Exemplar);
    }
    Ok(())
}

fn check_labels(series: &RedSeries, request: &ExportRedRequest, excluded: Excluded) -> Result<(), SeriesProblem> {
    let len = request.strings.len();
    let indexes = [series.service, series.span_name];
    let mut indexes = indexes.iter().chain(&series.dimension_values);
    if let Some(&index) = indexes.find(|index| **index as usize >= len) {
        return Err(SeriesProblem::Text { index, len });
    }
    within("kind", u64::from(series.kind), 0..=5)?;
    within("status", u64::from(series.status), 0..=2)?;
    let values = [
        (BuiltIn::ServiceName, series.service),
        (BuiltIn::SpanName, series.span_name),
        (BuiltIn::SpanKind, series.kind),
        (BuiltIn::StatusCode, series.status),
    ];
    for (label, value) in values {
        if value != 0 && (series.overflow || excluded.contains(label)) {
            return Err(SeriesProblem::Label { label: label.name() });
        }
    }
    let dimensions = if series.overflow { 0 } else { request.dimension_names.len() };
    same_length("dimension_values", series.dimension_values.len(), dimensions)
}

fn check_histogram(series: &RedSeries) -> Result<(), SeriesProblem> {
    let deltas = &series.hdr_index_deltas;
    same_length("hdr_counts", series.hdr_counts.len(), deltas.len())?;
    let mut index = 0_u64;
    for (at, &delta) in deltas.iter().enumerate() {
        let least = u64::from(at > 0);
        within("hdr_index_deltas entry", u64::from(delta), least..=BUCKETS as u64)?;
        index += u64::from(delta);
        within("hdr index", index, 0..=BUCKETS as u64 - 1)?;
        within("hdr_counts entry", series.hdr_counts[at], 1..=u64::MAX)?;
    }
    adds_up("hdr_counts", &series.hdr_counts, series.calls)
}

fn within(field: &'static str, value: u64, range: std::ops::RangeInclusive<u64>) -> Result<(), SeriesProblem> {
    if range.contains(&value) {
        return Ok(());
    }
    let (least, most) = range.into_inner();
    Err(SeriesProblem::Range { field, value, least, most })
}

fn same_length(list: &'static str, len: usize, expected: usize) -> Result<(), SeriesProblem> {
    if len == expected {
        return Ok(());
    }
    Err(SeriesProblem::Length { list, len, expected })
}

/// Saturating, as all counts are: parts of a saturated total add up to it too.
fn adds_up(list: &'static str, counts: &[u64], calls: u64) -> Result<(), SeriesProblem> {
    let sum = counts.iter().fold(0, |sum: u64, one| sum.saturating_add(*one));
    if sum == calls {
        return Ok(());
    }
    Err(SeriesProblem::Total { list, sum, calls })
}

/// The numbers of a checked series.
fn point(series: &RedSeries) -> Point {
    let mut hdr = Hdr::default();
    let mut index = 0;
    for (delta, count) in series.hdr_index_deltas.iter().zip(&series.hdr_counts) {
        index += *delta as u16;
        hdr.add(index, *count);
    }
    Point {
        calls: series.calls,
        sum_nanos: u128::from(series.sum_nanos_high) << 64 | u128::from(series.sum_nanos),
        min_nanos: series.min_nanos,
        max_nanos: series.max_nanos,
        buckets: series.bucket_counts.clone(),
        hdr,
        exemplars: Exemplars::select(series.exemplars.iter().filter_map(exemplar)),
    }
}

fn exemplar(one: &RedExemplar) -> Option<Exemplar> {
    let trace_id = <[u8; 16]>::try_from(&*one.trace_id).ok()?;
    Some(Exemplar {
        trace_id: Some(trace_id).filter(|id| *id != [0; 16])?,
        span_id: identity::span_id_array(&one.span_id)?,
        value_nanos: one.value_nanos,
        time_unix_nano: one.time_unix_nano,
    })
}
