//! The remote-write v1 protobuf (`prometheus.WriteRequest`), written straight into one buffer.
//!
//! A series' labels are copied as they were encoded when the series was new; what is left per sample is a
//! float and a varint. Never: allocates per series.

use std::ops::Range;

use crate::series::{Exemplar, Series, SeriesBatch, put_varint, varint_len};

/// `WriteRequest.timeseries`, `TimeSeries.labels`, `Label.name`, `Exemplar.labels`: field 1, length-delimited.
const FIELD_1: u8 = 0x0a;
/// `TimeSeries.samples`, `Label.value`: field 2, length-delimited.
const FIELD_2: u8 = 0x12;
/// `TimeSeries.exemplars`: field 3, length-delimited.
const FIELD_3: u8 = 0x1a;
/// `Sample.value`: field 1, double.
const SAMPLE_VALUE: u8 = 0x09;
/// `Sample.timestamp`: field 2, varint.
const SAMPLE_TIMESTAMP: u8 = 0x10;
/// `Exemplar.value`: field 2, double.
const EXEMPLAR_VALUE: u8 = 0x11;
/// `Exemplar.timestamp`: field 3, varint.
const EXEMPLAR_TIMESTAMP: u8 = 0x18;

/// Cuts a batch into runs of series whose encoding stays below `max_bytes`; a run has one series at least.
pub fn blocks(batch: &SeriesBatch, max_bytes: usize, exemplars: bool) -> Vec<Range<usize>> {
    let mut blocks = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, series) in batch.series.iter().enumerate() {
        let inner = series_len(series, exemplars);
        let length = 1 + varint_len(inner as u64) + inner;
        if bytes + length > max_bytes && index > start {
            blocks.push(start..index);
            (start, bytes) = (index, 0);
        }
        bytes += length;
    }
    if start < batch.series.len() {
        blocks.push(start..batch.series.len());
    }
    blocks
}

/// Encodes series as one `WriteRequest`.
pub fn write_request(series: &[Series], exemplars: bool) -> Vec<u8> {
    let lengths = series.iter().map(|series| {
        let inner = series_len(series, exemplars);
        1 + varint_len(inner as u64) + inner
    });
    let mut buffer = Vec::with_capacity(lengths.sum());
    for series in series {
        buffer.push(FIELD_1);
        put_varint(&mut buffer, series_len(series, exemplars) as u64);
        buffer.extend_from_slice(series.labels.encoded());
        for (timestamp, value) in &series.samples {
            buffer.push(FIELD_2);
            put_varint(&mut buffer, sample_len(*timestamp) as u64);
            buffer.push(SAMPLE_VALUE);
            buffer.extend_from_slice(&value.to_bits().to_le_bytes());
            buffer.push(SAMPLE_TIMESTAMP);
            put_varint(&mut buffer, *timestamp as u64);
        }
        for exemplar in series.exemplars.iter().filter(|_| exemplars) {
            put_exemplar(&mut buffer, exemplar);
        }
    }
    buffer
}

fn put_exemplar(buffer: &mut Vec<u8>, exemplar: &Exemplar) {
    buffer.push(FIELD_3);
    put_varint(buffer, exemplar_len(exemplar) as u64);
    for (name, value) in &exemplar.labels {
        buffer.push(FIELD_1);
        put_varint(buffer, (text_len(name) + text_len(value)) as u64);
        for (tag, text) in [(FIELD_1, name), (FIELD_2, value)] {
            buffer.push(tag);
            put_varint(buffer, text.len() as u64);
            buffer.extend_from_slice(text.as_bytes());
        }
    }
    buffer.push(EXEMPLAR_VALUE);
    buffer.extend_from_slice(&exemplar.value.to_bits().to_le_bytes());
    buffer.push(EXEMPLAR_TIMESTAMP);
    put_varint(buffer, exemplar.timestamp_ms as u64);
}

fn series_len(series: &Series, exemplars: bool) -> usize {
    let samples: usize = series.samples.iter().map(|(timestamp, _)| 2 + sample_len(*timestamp)).sum();
    let exemplars: usize = series
        .exemplars
        .iter()
        .filter(|_| exemplars)
        .map(exemplar_len)
        .map(|inner| 1 + varint_len(inner as u64) + inner)
        .sum();
    series.labels.encoded().len() + samples + exemplars
}

/// A tag and eight bytes, a tag and a varint: always below 128, so its own length takes one byte.
fn sample_len(timestamp: i64) -> usize {
    9 + 1 + varint_len(timestamp as u64)
}

fn exemplar_len(exemplar: &Exemplar) -> usize {
    let labels: usize = exemplar
        .labels
        .iter()
        .map(|(name, value)| text_len(name) + text_len(value))
        .map(|inner| 1 + varint_len(inner as u64) + inner)
        .sum();
    labels + 9 + 1 + varint_len(exemplar.timestamp_ms as u64)
}

fn text_len(text: &str) -> usize {
    1 + varint_len(text.len() as u64) + text.len()
}

#[cfg(test)]
pub(super) mod tests;
