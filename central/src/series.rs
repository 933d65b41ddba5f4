//! Prometheus-shaped series, the form in which metrics leave the isolationforest role.
//!
//! A label set is kept in the bytes that Prometheus remote write wants, so that a series that is written
//! every few seconds is encoded once in its life. Readers that want text get it by dereferencing.
//!
//! Never: knows where series go.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use smallvec::{SmallVec, smallvec};

/// A label set that is shared between the state of a series and the batches that carry its samples.
pub type Labels = Arc<LabelSet>;

/// One label: name and value.
pub type Pair = (Box<str>, Box<str>);

/// (Unix milliseconds, value); nearly always one, which then needs no memory of its own.
pub type Samples = SmallVec<[(i64, f64); 1]>;

/// The bit pattern of Prometheus' stale marker (`StaleNaN`, prometheus/model/value).
pub const STALE_NAN: f64 = f64::from_bits(0x7ff0_0000_0000_0002);

/// Whether a value is the stale marker; other NaNs are not.
pub fn is_stale(value: f64) -> bool {
    value.to_bits() == STALE_NAN.to_bits()
}

/// Label pairs sorted by name, `__name__` among them; no name occurs twice.
pub struct LabelSet {
    /// The `labels` fields of a remote-write `TimeSeries`, one after the other.
    encoded: Box<[u8]>,
    /// The same as text, made when somebody asks.
    pairs: OnceLock<Box<[Pair]>>,
}

/// A batch that is written as a whole or not at all.
#[derive(Debug, Clone, Default)]
pub struct SeriesBatch {
    /// Series in the order in which they came.
    pub series: Vec<Series>,
}

/// Samples of one series.
#[derive(Debug, Clone)]
pub struct Series {
    /// The identity of the series.
    pub labels: Labels,
    /// (Unix milliseconds, value); a stale marker is [`STALE_NAN`].
    pub samples: Samples,
    /// Exemplars, for stores that can carry them.
    pub exemplars: Vec<Exemplar>,
}

/// An example of a measurement with the trace that it belongs to.
#[derive(Debug, Clone)]
pub struct Exemplar {
    /// `trace_id` and `span_id` in lower-case hex, then filtered attributes.
    pub labels: Vec<Pair>,
    /// In the unit of the series.
    pub value: f64,
    /// Unix milliseconds.
    pub timestamp_ms: i64,
}

impl SeriesBatch {
    /// Samples in all series.
    pub fn samples(&self) -> usize {
        self.series.iter().map(|series| series.samples.len()).sum()
    }
}

impl Series {
    /// One sample of one series.
    pub fn sample(labels: Labels, timestamp_ms: i64, value: f64) -> Self {
        Self { labels, samples: smallvec![(timestamp_ms, value)], exemplars: Vec::new() }
    }
}

impl LabelSet {
    /// Encodes pairs that are sorted by name and unique.
    pub fn from_sorted<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut encoded = Vec::with_capacity(256);
        for (name, value) in pairs {
            let inner = field_len(name) + field_len(value);
            encoded.push(0x0a);
            put_varint(&mut encoded, inner as u64);
            put_text(&mut encoded, 0x0a, name);
            put_text(&mut encoded, 0x12, value);
        }
        Self { encoded: encoded.into_boxed_slice(), pairs: OnceLock::new() }
    }

    /// The `labels` fields (number 1) of a remote-write `TimeSeries`.
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// Reads the pairs without keeping them.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        Texts { rest: &self.encoded }
    }

    /// The value of one label.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.texts().find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

impl Deref for LabelSet {
    type Target = [Pair];

    fn deref(&self) -> &[Pair] {
        self.pairs.get_or_init(|| self.texts().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

impl FromIterator<Pair> for LabelSet {
    /// Sorts by name; of equal names the first stays.
    fn from_iter<I: IntoIterator<Item = Pair>>(pairs: I) -> Self {
        let mut pairs: Vec<Pair> = pairs.into_iter().collect();
        pairs.sort_by(|left, right| left.0.cmp(&right.0));
        pairs.dedup_by(|later, first| later.0 == first.0);
        Self::from_sorted(pairs.iter().map(|(name, value)| (&**name, &**value)))
    }
}

impl PartialEq for LabelSet {
    fn eq(&self, other: &Self) -> bool {
        self.encoded == other.encoded
    }
}

impl Eq for LabelSet {}

impl Hash for LabelSet {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.encoded.hash(state);
    }
}

impl fmt::Debug for LabelSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_map().entries(self.texts()).finish()
    }
}

/// Walks bytes that [`LabelSet::from_sorted`] wrote.
struct Texts<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Texts<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        self.rest = self.rest.get(1..).filter(|_| !self.rest.is_empty())?;
        take_varint(&mut self.rest)?;
        Some((take_text(&mut self.rest)?, take_text(&mut self.rest)?))
    }
}

fn take_varint(rest: &mut &[u8]) -> Option<usize> {
    let mut value = 0_usize;
    for shift in (0..63).step_by(7) {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    *rest = rest.get(1..)?;
    let length = take_varint(rest)?;
    let (text, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    std::str::from_utf8(text).ok()
}

fn put_text(buffer: &mut Vec<u8>, tag: u8, text: &str) {
    buffer.push(tag);
    put_varint(buffer, text.len() as u64);
    buffer.extend_from_slice(text.as_bytes());
}

fn field_len(text: &str) -> usize {
    1 + varint_len(text.len() as u64) + text.len()
}

/// Appends a protobuf varint.
pub(crate) fn put_varint(buffer: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        buffer.push(value as u8 | 0x80);
        value >>= 7;
    }
    buffer.push(value as u8);
}

/// Bytes that [`put_varint`] appends.
pub(crate) fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_sets_read_back_sorted_with_the_first_of_equal_names() {
        let long = "x".repeat(300);
        let set: LabelSet = [("job", "a"), ("__name__", "up"), ("job", "b"), ("empty", ""), ("long", long.as_str())]
            .into_iter()
            .map(|(name, value)| (Box::from(name), Box::from(value)))
            .collect();
        let texts: Vec<_> = set.texts().collect();
        assert_eq!(texts, [("__name__", "up"), ("empty", ""), ("job", "a"), ("long", long.as_str())]);
        assert_eq!(set.len(), 4);
        assert_eq!(set.value("job"), Some("a"));
        assert_eq!(&*set[3].1, long);
    }

    #[test]
    fn varint_length_is_what_is_written() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut buffer = Vec::new();
            put_varint(&mut buffer, value);
            assert_eq!(buffer.len(), varint_len(value), "{value}");
        }
    }
}
