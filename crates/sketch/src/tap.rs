//! The tap: turns acknowledged trace requests into RED series.
//!
//! Spans are read once. They are staged in chunks: each span's series is looked up and its numbers
//! noted, and the chunk's fingerprint decides whether the notes are counted or, because the same
//! chunk was counted before, dropped. The cut into chunks depends on the request alone, so a
//! request that is sent again is recognised chunk by chunk.
//!
//! Semantics (contract of span metrics in the OpenTelemetry Collector): a duration is 0 when the
//! span does not end after it starts; a span counts with its adjusted count; spans of a resource
//! without `service.name` are skipped and counted as such.
//!
//! Never: reads a clock, does IO, allocates for a span of a known series.

use mirador_otlp::Request;
use mirador_otlp::traces::Span;
use xxhash_rust::xxh3::{xxh3_128, xxh3_128_with_seed};

use crate::config::{BuiltIn, Config};
use crate::dedup::{GENERATION_ENTRIES, Seen};
use crate::dimensions::{Dimensions, Values};
use crate::exemplar::{Exemplar, MAX_EXEMPLARS};
use crate::identity;
use crate::resource::{Part, Resources};
use crate::table::{Mark, OVERFLOW, Probe, Shape, Table, Update};
use crate::text::cut;
use crate::weight::{adjusted_count, threshold};
use crate::window::Window;

/// Spans that are staged and fingerprinted together.
const CHUNK: usize = 1024;

/// What became of one request's spans.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Observed {
    /// Spans counted now, in whichever series.
    pub spans: usize,
    /// Spans left out because their resource has no service name.
    pub skipped_no_service: usize,
    /// Spans left out because they had been counted before.
    pub duplicate_spans: usize,
    /// True when the request was a repeat: nothing but duplicates.
    pub duplicate: bool,
    /// Of `spans`: those that went to the overflow series.
    pub overflowed: usize,
    /// Of `spans`: those with a label value that was cut to the length limit.
    pub truncated: usize,
    /// How often an HDR histogram lost half of its resolution to stay under the limit of memory.
    pub coarsened: u64,
}

/// Counts spans into the series of the current window.
#[derive(Debug)]
pub struct Tap {
    dimensions: Dimensions,
    resources: Resources,
    table: Table,
    seen: Seen,
    staged: Staged,
    values: Values,
    /// When the current window began: at the last close, or with the first request.
    start: Option<u64>,
}

/// Spans that wait for their chunk's fingerprint.
#[derive(Debug, Default)]
struct Staged {
    updates: Vec<Update>,
    /// What the fingerprint is taken over.
    identity: Vec<u8>,
    mark: Mark,
}

impl Tap {
    /// A tap with no series. `seed` protects its hash tables; no number depends on it.
    pub fn new(config: &Config, seed: u64) -> Self {
        let dimensions = Dimensions::new(config, seed);
        let exemplars = &config.exemplars;
        let table = Table::new(Shape {
            bounds: config.bounds_nanos().into(),
            dimensions: dimensions.names.len(),
            limit: config.aggregation_cardinality_limit,
            hdr_bytes: config.histogram.memory_limit_mib.saturating_mul(1 << 20),
            exemplars: if exemplars.enabled { exemplars.max_per_data_point.min(MAX_EXEMPLARS) } else { 0 },
            seed,
        });
        let mark = table.mark();
        Self {
            dimensions,
            resources: Resources::default(),
            table,
            seen: Seen::new(GENERATION_ENTRIES),
            staged: Staged { mark, ..Staged::default() },
            values: Values::default(),
            start: None,
        }
    }

    /// Counts one acknowledged request, unless it is a repeat of one that was counted. A repeat is
    /// recognised by the ids and times of its spans, for 1 to 2 minutes and up to 229,376 chunks.
    pub fn observe(&mut self, request: &Request, now_unix_nano: u64) -> Observed {
        self.start.get_or_insert(now_unix_nano);
        let mut observed = Observed::default();
        for resource_spans in request.resource_spans() {
            let scopes = resource_spans.scopes();
            let Some(part) = self.resources.resolve(&resource_spans.resource(), &self.dimensions) else {
                let spans = scopes.map(|scope| scope.spans().count());
                observed.skipped_no_service += spans.sum::<usize>();
                continue;
            };
            for scope in scopes {
                for span in scope.spans() {
                    let space = (&self.dimensions, &mut self.values);
                    let (series, cut) = series_of(&span, part, &mut self.table, space);
                    self.staged.push(&span, series, cut, now_unix_nano);
                    if self.staged.updates.len() >= CHUNK {
                        self.staged.settle(&mut self.table, &mut self.seen, now_unix_nano).add_to(&mut observed);
                    }
                }
            }
        }
        self.staged.settle(&mut self.table, &mut self.seen, now_unix_nano).add_to(&mut observed);
        observed.duplicate = observed.duplicate_spans > 0 && observed.spans == 0;
        observed
    }

    /// Ends the window and begins the next one. `None` when nothing was counted.
    pub fn close(&mut self, now_unix_nano: u64) -> Option<Window> {
        let start = self.start.replace(now_unix_nano).unwrap_or(now_unix_nano);
        self.table.iter().next()?;
        let next = self.table.successor();
        self.staged.mark = next.mark();
        Some(Window::new(std::mem::replace(&mut self.table, next), &self.dimensions, start..now_unix_nano.max(start)))
    }

    /// Series of the current window, the overflow series not counted.
    pub fn series(&self) -> usize {
        self.table.len()
    }

    /// Bytes that the current window's series take.
    pub fn series_bytes(&self) -> usize {
        self.table.heap_bytes()
    }
}

/// The number of the span's series, and whether one of its label values was cut.
#[inline]
fn series_of(
    span: &Span<'_>,
    part: &mut Part,
    table: &mut Table,
    (dimensions, values): (&Dimensions, &mut Values),
) -> (u32, bool) {
    let mut was_cut = part.cut;
    if !dimensions.names.is_empty() {
        was_cut |= values.read(&span.attributes(), dimensions);
    }
    let name = if dimensions.excludes(BuiltIn::SpanName) { "" } else { span.name() };
    let (name, name_cut) = cut(name, dimensions.limit);
    let probe = Probe {
        name,
        kind: code(span.kind(), 5, dimensions.excludes(BuiltIn::SpanKind)),
        status: code(span.status_code(), 2, dimensions.excludes(BuiltIn::StatusCode)),
        values,
    };
    (table.series_of(part, &probe), was_cut || name_cut)
}

/// An enum value of the span as far as it is a label; unknown values count as unspecified.
#[inline]
fn code(value: i32, largest: u8, excluded: bool) -> u8 {
    match u8::try_from(value) {
        Ok(code) if code <= largest && !excluded => code,
        _ => 0,
    }
}

impl Staged {
    /// Notes one span.
    #[inline]
    fn push(&mut self, span: &Span<'_>, series: u32, cut: bool, now: u64) {
        let (start, end) = (span.start_time_unix_nano(), span.end_time_unix_nano());
        let trace_id = span.trace_id_array();
        let span_id = identity::span_id_array(span.span_id());
        let identified = trace_id.is_some() && span_id.is_some();
        let mut exemplar = Exemplar {
            trace_id: trace_id.unwrap_or_default(),
            span_id: span_id.unwrap_or_default(),
            value_nanos: end.saturating_sub(start),
            time_unix_nano: if end == 0 { now } else { end },
        };
        if identified {
            self.identity.extend_from_slice(&exemplar.trace_id);
            self.identity.extend_from_slice(&exemplar.span_id);
            self.identity.extend_from_slice(&start.to_le_bytes());
            self.identity.extend_from_slice(&end.to_le_bytes());
        } else {
            // Without valid ids the span is told from others by all that it says.
            let raw = xxh3_128(span.raw());
            self.identity.extend_from_slice(&raw.to_le_bytes());
            exemplar.span_id = (raw as u64).to_le_bytes();
        }
        let state = span.trace_state();
        let weight = if state.is_empty() {
            1
        } else {
            threshold(state).map_or(1, |threshold| adjusted_count(threshold, identity::rounding(exemplar.span_id)))
        };
        self.updates.push(Update { series, identified, cut, weight, span: exemplar });
    }

    /// Counts what is staged, or drops it when the same was counted before.
    fn settle(&mut self, table: &mut Table, seen: &mut Seen, now: u64) -> Observed {
        let mut observed = Observed::default();
        if self.updates.is_empty() {
            return observed;
        }
        let fingerprint = xxh3_128_with_seed(&self.identity, table.shape().seed);
        if seen.check(fingerprint, now) {
            observed.duplicate_spans = self.updates.len();
            table.rollback(self.mark);
        } else {
            table.record(&self.updates);
            observed.coarsened = table.take_coarsened();
            for update in &self.updates {
                observed.overflowed += usize::from(update.series == OVERFLOW);
                observed.truncated += usize::from(update.cut);
            }
            observed.spans = self.updates.len();
        }
        self.updates.clear();
        self.identity.clear();
        self.mark = table.mark();
        observed
    }
}

impl Observed {
    fn add_to(self, total: &mut Self) {
        total.spans += self.spans;
        total.duplicate_spans += self.duplicate_spans;
        total.overflowed += self.overflowed;
        total.truncated += self.truncated;
        total.coarsened += self.coarsened;
    }
}

#[cfg(test)]
mod tests;
