//! The series of one window: found by hash with a full comparison, counted in place.
//!
//! A series is two fixed-size records, identity and numbers: the identities of 10,000 series stay
//! in a core's cache while spans are looked up. Its bucket counts and dimension values stand in shared slabs,
//! its texts in one arena. Only the HDR histogram and the exemplars have memory of their own.
//!
//! With many series a span costs what its cache misses cost, so spans are counted in blocks: what a
//! block needs is looked at first, span by span with nothing that waits for anything, and the
//! processor fetches all of it side by side.
//!
//! Invariants: at most `limit` series besides the overflow series, which is number 0 and takes what
//! has no place; a known series is found without an allocation; a `rollback` undoes exactly what
//! was created after the mark.

use std::hint::black_box;
use std::sync::Arc;

use hashbrown::HashTable;

use crate::dimensions::Values;
use crate::exemplar::{Exemplar, Reservoir};
use crate::hdr::{Hdr, coarsen_largest};
use crate::identity::priority;
use crate::point::{Point, bucket_of};
use crate::resource::Part;
use crate::text::{Text, Texts};

/// The number of the overflow series.
pub(crate) const OVERFLOW: u32 = 0;

/// Spans that are counted side by side.
const BLOCK: usize = 16;

/// Identity of a span's series, as far as it does not come from the resource.
pub(crate) struct Probe<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: u8,
    pub(crate) status: u8,
    pub(crate) values: &'a Values,
}

/// One span's contribution to its series.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Update {
    pub(crate) series: u32,
    /// True when the ids may stand as an exemplar.
    pub(crate) identified: bool,
    /// True when a label value of the span was cut.
    pub(crate) cut: bool,
    pub(crate) weight: u64,
    pub(crate) span: Exemplar,
}

/// What a series is found by.
#[derive(Debug)]
pub(crate) struct Identity {
    hash: u64,
    pub(crate) service: Text,
    pub(crate) name: Text,
    pub(crate) kind: u8,
    pub(crate) status: u8,
}

/// What a series has counted: two lines of a cache.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Series {
    pub(crate) calls: u64,
    pub(crate) sum_nanos: u128,
    pub(crate) min_nanos: u64,
    pub(crate) max_nanos: u64,
    pub(crate) hdr: Hdr,
    pub(crate) reservoir: Reservoir,
}

/// What existed at some moment; `Table::rollback` goes back to it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mark {
    series: usize,
    texts: usize,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) texts: Texts,
    index: HashTable<u32>,
    identities: Vec<Identity>,
    series: Vec<Series>,
    /// `dimensions` texts per series.
    values: Vec<Text>,
    /// `bounds + 1` counts per series.
    buckets: Vec<u64>,
    /// Bytes of all HDR histograms.
    hdr_bytes: usize,
    /// How often a histogram lost half of its resolution since the last `take_coarsened`.
    coarsened: u64,
    shape: Shape,
}

/// How large a table is and may become.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) bounds: Arc<[u64]>,
    /// Configured dimensions per series.
    pub(crate) dimensions: usize,
    /// Most series, the overflow series not counted.
    pub(crate) limit: usize,
    /// Most exemplars per series.
    pub(crate) exemplars: usize,
    /// Most bytes of all HDR histograms together.
    pub(crate) hdr_bytes: usize,
    /// Keeps the indexes safe from chosen collisions.
    pub(crate) seed: u64,
}

impl Table {
    /// An empty table.
    pub(crate) fn new(shape: Shape) -> Self {
        Self::sized(shape, 0, 0)
    }

    /// An empty table that takes the place of this one, with room for as many series as this one
    /// has: traffic of one window resembles that of the next.
    pub(crate) fn successor(&self) -> Self {
        let generation = self.texts.generation().wrapping_add(1);
        Self::sized(self.shape.clone(), self.series.len(), generation)
    }

    fn sized(shape: Shape, series: usize, generation: u32) -> Self {
        let mut table = Self {
            texts: Texts::new(shape.seed, generation),
            index: HashTable::with_capacity(series),
            identities: Vec::with_capacity(series),
            series: Vec::with_capacity(series),
            values: Vec::with_capacity(series * shape.dimensions),
            buckets: Vec::with_capacity(series * (shape.bounds.len() + 1)),
            hdr_bytes: 0,
            coarsened: 0,
            shape,
        };
        table.values.resize(table.shape.dimensions, Text::ABSENT);
        table.push(0, Text::EMPTY, Text::EMPTY, (0, 0));
        table
    }

    /// Series that exist, the overflow series not counted.
    pub(crate) fn len(&self) -> usize {
        self.series.len() - 1
    }

    /// The number of the series that the span belongs to, created if it is new and there is room;
    /// `OVERFLOW` otherwise.
    #[inline]
    pub(crate) fn series_of(&mut self, part: &mut Part, probe: &Probe<'_>) -> u32 {
        let name_hash = Texts::hash(self.shape.seed, probe.name);
        let labels = u64::from(probe.kind) << 8 | u64::from(probe.status);
        let mut hash = combine(part.service.hash, name_hash);
        hash = combine(hash, labels);
        for value in probe.values.iter(part) {
            hash = combine(hash, value.map_or(0, |(_, hash)| hash));
        }
        if let Some(service) = part.service_id(&self.texts) {
            let known = self.index.find(hash, |at| {
                let series = &self.identities[*at as usize];
                series.hash == hash
                    && series.service == service
                    && series.kind == probe.kind
                    && series.status == probe.status
                    && self.texts.is(series.name, probe.name)
                    && self.has_values(*at, part, probe)
            });
            if let Some(at) = known {
                return *at;
            }
        }
        self.create(hash, name_hash, part, probe).unwrap_or(OVERFLOW)
    }

    /// Counts spans.
    pub(crate) fn record(&mut self, updates: &[Update]) {
        let width = self.shape.bounds.len() + 1;
        for block in updates.chunks(BLOCK) {
            let mut looked = 0;
            for update in block {
                let (at, nanos) = (update.series as usize, update.span.value_nanos);
                looked ^= self.series[at].calls ^ self.buckets[at * width + bucket_of(&self.shape.bounds, nanos)];
            }
            for update in block {
                looked ^= self.series[update.series as usize].hdr.touch(update.span.value_nanos);
            }
            black_box(looked);
            for update in block {
                self.count(update);
            }
        }
        if self.hdr_bytes > self.shape.hdr_bytes {
            self.coarsen();
        }
    }

    /// Counts one span.
    #[inline]
    fn count(&mut self, update: &Update) {
        let at = update.series as usize;
        let (nanos, weight) = (update.span.value_nanos, update.weight);
        let series = &mut self.series[at];
        series.calls = series.calls.saturating_add(weight);
        series.sum_nanos = series.sum_nanos.saturating_add(u128::from(nanos) * u128::from(weight));
        series.min_nanos = series.min_nanos.min(nanos);
        series.max_nanos = series.max_nanos.max(nanos);
        let bytes = series.hdr.heap_bytes();
        series.hdr.record(nanos, weight);
        self.hdr_bytes += series.hdr.heap_bytes() - bytes;
        if update.identified {
            let priority = priority(update.span.trace_id, update.span.span_id);
            series.reservoir.offer(&update.span, priority, self.shape.exemplars);
        }
        let bounds = &self.shape.bounds;
        let bucket = &mut self.buckets[at * (bounds.len() + 1) + bucket_of(bounds, nanos)];
        *bucket = bucket.saturating_add(weight);
    }

    #[cold]
    fn coarsen(&mut self) {
        let mut all: Vec<_> = self.series.iter_mut().map(|series| &mut series.hdr).collect();
        let (coarsened, bytes) = coarsen_largest(&mut all, self.shape.hdr_bytes);
        self.coarsened += coarsened;
        self.hdr_bytes = bytes;
    }

    /// How often a histogram lost half of its resolution, since the last call.
    pub(crate) fn take_coarsened(&mut self) -> u64 {
        std::mem::take(&mut self.coarsened)
    }

    /// What exists now.
    pub(crate) fn mark(&self) -> Mark {
        Mark { series: self.series.len(), texts: self.texts.len() }
    }

    /// Takes back what was created since `mark`; true when that was anything. Series that were
    /// recorded to since then must not be taken back.
    pub(crate) fn rollback(&mut self, mark: Mark) -> bool {
        if self.series.len() <= mark.series {
            return false;
        }
        for at in mark.series..self.series.len() {
            let hash = self.identities[at].hash;
            if let Ok(entry) = self.index.find_entry(hash, |known| *known as usize == at) {
                entry.remove();
            }
        }
        self.identities.truncate(mark.series);
        self.series.truncate(mark.series);
        self.values.truncate(mark.series * self.shape.dimensions);
        self.buckets.truncate(mark.series * (self.shape.bounds.len() + 1));
        self.texts.truncate(mark.texts);
        true
    }

    /// How this table was made.
    pub(crate) const fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The series that have counted anything, with their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Series)> {
        let all = self.series.iter().enumerate();
        all.filter(|(_, series)| series.calls > 0).map(|(at, series)| (at as u32, series))
    }

    /// What series `at` is found by.
    pub(crate) fn identity(&self, at: u32) -> &Identity {
        &self.identities[at as usize]
    }

    /// Series `at`.
    pub(crate) fn series(&self, at: u32) -> Option<&Series> {
        self.series.get(at as usize)
    }

    /// The dimension values of series `at`, in the order of the names.
    pub(crate) fn values(&self, at: u32) -> &[Text] {
        let width = self.shape.dimensions;
        &self.values[at as usize * width..][..width]
    }

    /// The bucket counts of series `at`.
    pub(crate) fn buckets(&self, at: u32) -> &[u64] {
        let width = self.shape.bounds.len() + 1;
        &self.buckets[at as usize * width..][..width]
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        let own = |series: &Series| series.hdr.heap_bytes() + series.reservoir.heap_bytes();
        self.texts.heap_bytes()
            + self.index.allocation_size()
            + self.identities.capacity() * size_of::<Identity>()
            + self.series.capacity() * size_of::<Series>()
            + self.values.capacity() * size_of::<Text>()
            + self.buckets.capacity() * size_of::<u64>()
            + self.series.iter().map(own).sum::<usize>()
    }

    #[inline]
    fn has_values(&self, at: u32, part: &Part, probe: &Probe<'_>) -> bool {
        let mut wanted = probe.values.iter(part);
        self.values(at).iter().all(|have| match wanted.next() {
            Some(Some((text, _))) => self.texts.is(*have, text),
            _ => *have == Text::ABSENT,
        })
    }

    /// Makes a series; `None` when the limit or the arena has no room.
    #[cold]
    fn create(&mut self, hash: u64, name_hash: u64, part: &Part, probe: &Probe<'_>) -> Option<u32> {
        if self.len() >= self.shape.limit {
            return None;
        }
        let texts = self.texts.len();
        let service = self.texts.intern(part.service.hash, &part.service.text)?;
        let name = self.texts.intern(name_hash, probe.name);
        let first = self.values.len();
        for value in probe.values.iter(part) {
            let value = value.map_or(Some(Text::ABSENT), |(text, hash)| self.texts.intern(hash, text));
            self.values.extend(value);
        }
        let Some(name) = name.filter(|_| self.values.len() == first + self.shape.dimensions) else {
            self.values.truncate(first);
            self.texts.truncate(texts);
            return None;
        };
        let at = self.push(hash, service, name, (probe.kind, probe.status));
        let identities = &self.identities;
        self.index.insert_unique(hash, at, |at| identities[*at as usize].hash);
        Some(at)
    }

    fn push(&mut self, hash: u64, service: Text, name: Text, (kind, status): (u8, u8)) -> u32 {
        let width = self.shape.bounds.len() + 1;
        if self.series.len() == self.series.capacity() {
            // A quarter more at a time: doubling would leave up to half of the memory unused.
            let more = self.series.len() / 4 + 16;
            self.identities.reserve_exact(more);
            self.series.reserve_exact(more);
            self.buckets.reserve_exact(more * width);
            self.values.reserve_exact(more * self.shape.dimensions);
        }
        self.buckets.resize(self.buckets.len() + width, 0);
        let at = self.series.len() as u32;
        self.identities.push(Identity { hash, service, name, kind, status });
        self.series.push(Series {
            calls: 0,
            sum_nanos: 0,
            min_nanos: u64::MAX,
            max_nanos: 0,
            hdr: Hdr::default(),
            reservoir: Reservoir::new(self.shape.exemplars),
        });
        at
    }
}

impl Series {
    /// The numbers as a point of their own; `buckets` are the series' counts.
    pub(crate) fn to_point(&self, buckets: &[u64]) -> Point {
        Point {
            calls: self.calls,
            sum_nanos: self.sum_nanos,
            min_nanos: self.min_nanos,
            max_nanos: self.max_nanos,
            buckets: buckets.to_vec(),
            hdr: self.hdr.clone(),
            exemplars: self.reservoir.chosen().clone(),
        }
    }
}

/// Folds one more hash into a key's hash; the order matters.
#[inline]
const fn combine(hash: u64, next: u64) -> u64 {
    let product = (hash ^ 0x9E37_79B9_7F4A_7C15) as u128 * (next ^ 0xA076_1D64_78BD_642F) as u128;
    (product as u64 ^ (product >> 64) as u64).rotate_left(29)
}
