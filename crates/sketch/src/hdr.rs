//! Sparse HDR histogram of durations in nanoseconds.
//!
//! Bucket layout of `HdrHistogram` (<https://hdrhistogram.github.io/HdrHistogram/>) with 2 significant
//! digits, a lowest discernible value of 1 ns and the full 64-bit range: values below 256 ns have a
//! bucket each, above that every power of two has 128 buckets. The relative width of a bucket is at
//! most 1/128, so a value read back is off by less than 1 %.
//!
//! Memory grows only with the buckets that are touched: 8 bytes a slot, at most 7/8 full. Where that is
//! too much, a histogram is coarsened: 2, 4, 8 ... neighbouring buckets become one, whose middle stands
//! for all of them. Coarse buckets nest, and are buckets of the same layout: on the wire, and for
//! merging, a coarse histogram is one like any other.
//!
//! Invariants: counts are exact until they saturate at `u64::MAX`, they never wrap; merging is
//! associative and commutative. Never: reads a clock, keeps a value itself.

use std::collections::BTreeMap;

/// Number of buckets that the 64-bit range has.
pub const BUCKETS: usize = 7424;

/// Values below this have one bucket each.
const SUB_BUCKETS: u64 = 256;
/// Low bits of a slot that hold the count; the high ones hold the bucket's index plus one.
const COUNT_BITS: u32 = 48;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// Bytes that a count beyond the slots' width is taken to need.
const WIDE_BYTES: usize = 48;

/// The coarsest step: all of the range is one bucket.
const MAX_COARSENESS: u8 = 13;

/// A histogram that stores only the buckets it has seen.
#[derive(Clone, Default)]
pub struct Hdr {
    /// Open addressing with linear probing; 0 is a free slot, of which there is always one.
    slots: Box<[u64]>,
    used: u16,
    /// 2 to this power buckets count as one.
    coarseness: u8,
    /// What outgrew 48 bits, by bucket: rare, so it stands apart from the dense slots.
    #[expect(clippy::box_collection, reason = "a third of the map's size in every histogram")]
    wide: Option<Box<BTreeMap<u16, u64>>>,
}

/// The bucket that `value` belongs to.
#[inline]
pub(crate) const fn index_of(value: u64) -> u16 {
    let exponent = 56 - (value | (SUB_BUCKETS - 1)).leading_zeros();
    (exponent as u16) * 128 + (value >> exponent) as u16
}

/// The smallest value of bucket `index`.
pub(crate) const fn lowest_of(index: u16) -> u64 {
    let exponent = exponent_of(index);
    (index as u64 - exponent as u64 * 128) << exponent
}

/// The value in the middle of bucket `index`: what the histogram answers for a value in it.
pub(crate) const fn middle_of(index: u16) -> u64 {
    lowest_of(index) + ((1 << exponent_of(index)) >> 1)
}

const fn exponent_of(index: u16) -> u32 {
    (index as u32 / 128).saturating_sub(1)
}

impl Hdr {
    /// Counts `nanos` `count` times.
    #[inline]
    pub fn record(&mut self, nanos: u64, count: u64) {
        self.add(index_of(nanos), count);
    }

    /// Adds `count` to bucket `index`; an index past the last bucket counts in the last one.
    #[inline]
    pub fn add(&mut self, index: u16, count: u64) {
        if count == 0 {
            return;
        }
        let index = coarse(index.min(BUCKETS as u16 - 1), self.coarseness);
        let at = match self.find(index) {
            Ok(at) => at,
            Err(free) => self.insert(free, index),
        };
        let total = (self.slots[at] & COUNT_MASK).saturating_add(count);
        if total <= COUNT_MASK {
            self.slots[at] = tag(index) | total;
        } else {
            self.widen(at, index, total);
        }
    }

    /// Adds all of `other`. The coarser of the two tells how fine the sum is.
    pub fn merge(&mut self, other: &Self) {
        while self.coarseness < other.coarseness {
            self.coarsen();
        }
        for &slot in &other.slots {
            if slot != 0 {
                self.add(untag(slot), slot & COUNT_MASK);
            }
        }
        for (&index, &count) in other.wide.iter().flat_map(|wide| wide.iter()) {
            self.add(index, count);
        }
    }

    /// Halves the resolution for what was and what will be counted; no count is lost. False when there is
    /// only one bucket left.
    pub fn coarsen(&mut self) -> bool {
        if self.coarseness >= MAX_COARSENESS {
            return false;
        }
        let entries = self.entries();
        let coarseness = self.coarseness + 1;
        let mut left: Vec<u16> = entries.iter().map(|(index, _)| coarse(*index, coarseness)).collect();
        left.dedup();
        // At most 7/8 full, so that one place is free.
        let len = (left.len() * 8).div_ceil(7);
        *self = Self { slots: vec![0; len].into(), used: 0, coarseness, wide: None };
        for (index, count) in entries {
            self.add(index, count);
        }
        true
    }

    /// How many times the resolution was halved: a value read back is off by at most 0.4 % times one more
    /// than 2 to this power, up to 7; beyond that by orders of magnitude.
    pub const fn coarseness(&self) -> u8 {
        self.coarseness
    }

    /// The non-empty buckets as (index, count), ascending.
    pub fn entries(&self) -> Vec<(u16, u64)> {
        let mut entries: Vec<_> = self
            .slots
            .iter()
            .filter(|slot| **slot != 0)
            .map(|&slot| {
                let index = untag(slot);
                (index, (slot & COUNT_MASK).saturating_add(self.wide_count(index)))
            })
            .collect();
        entries.sort_unstable_by_key(|entry| entry.0);
        entries
    }

    /// The non-empty buckets as (nanoseconds in the middle of the bucket, count), ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + use<> {
        self.entries().into_iter().map(|(index, count)| (middle_of(index), count))
    }

    /// All counts together, saturating.
    pub fn count(&self) -> u64 {
        self.entries().iter().fold(0, |sum: u64, entry| sum.saturating_add(entry.1))
    }

    /// The duration in nanoseconds below or at which the share `quantile` (0 to 1, clamped) of the
    /// counts lies, off by less than 1 %. `None` when nothing was counted.
    pub fn value_at_quantile(&self, quantile: f64) -> Option<u64> {
        let entries = self.entries();
        let total: u128 = entries.iter().map(|entry| u128::from(entry.1)).sum();
        let rank = (quantile.clamp(0.0, 1.0) * total as f64).ceil() as u128;
        let rank = rank.clamp(1, total.max(1));
        let mut seen = 0_u128;
        for &(index, count) in &entries {
            seen += u128::from(count);
            if seen >= rank {
                return Some(middle_of(index));
            }
        }
        None
    }

    /// True when nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Bytes on the heap.
    #[inline]
    pub fn heap_bytes(&self) -> usize {
        size_of_val(&*self.slots) + self.wide.as_ref().map_or(0, |wide| wide.len() * WIDE_BYTES)
    }

    /// Looks at the slot of `nanos`, so that it is at hand when it is counted. The result means nothing.
    #[inline]
    pub(crate) fn touch(&self, nanos: u64) -> u64 {
        let index = coarse(index_of(nanos), self.coarseness);
        self.slots.get(self.place(index)).copied().unwrap_or_default()
    }

    /// Where the search for `index` begins: Fibonacci hashing, brought into range by multiplication, for
    /// which any length will do.
    #[inline]
    const fn place(&self, index: u16) -> usize {
        let hash = (index as u32).wrapping_mul(0x9E37_79B1);
        ((hash as u64 * self.slots.len() as u64) >> 32) as usize
    }

    /// The slot of `index`, or the free slot where it would go (`usize::MAX` without any slot).
    #[inline]
    fn find(&self, index: u16) -> Result<usize, usize> {
        if self.slots.is_empty() {
            return Err(usize::MAX);
        }
        let mut at = self.place(index);
        loop {
            let slot = self.slots[at];
            if slot >> COUNT_BITS == u64::from(index) + 1 {
                return Ok(at);
            }
            if slot == 0 {
                return Err(at);
            }
            at = if at + 1 < self.slots.len() { at + 1 } else { 0 };
        }
    }

    /// Gives `index` a slot with count 0 and returns where it is.
    #[cold]
    fn insert(&mut self, free: usize, index: u16) -> usize {
        let mut free = free;
        if (usize::from(self.used) + 1) * 8 > self.slots.len() * 7 {
            // Twice as large while it is small, half as much again when that costs memory.
            let len = match self.slots.len() {
                len @ 0..32 => (2 * len).max(4),
                len => len + len / 2,
            };
            let larger = vec![0; len].into_boxed_slice();
            for slot in std::mem::replace(&mut self.slots, larger) {
                if slot != 0
                    && let Err(at) = self.find(untag(slot))
                {
                    self.slots[at] = slot;
                }
            }
            free = self.find(index).unwrap_or_else(|at| at);
        }
        self.slots[free] = tag(index);
        self.used += 1;
        free
    }

    #[cold]
    fn widen(&mut self, at: usize, index: u16, total: u64) {
        let wide = self.wide.get_or_insert_default().entry(index).or_default();
        *wide = wide.saturating_add(total);
        self.slots[at] = tag(index);
    }

    fn wide_count(&self, index: u16) -> u64 {
        self.wide.as_ref().and_then(|wide| wide.get(&index)).copied().unwrap_or(0)
    }
}

impl PartialEq for Hdr {
    fn eq(&self, other: &Self) -> bool {
        self.used == other.used && self.entries() == other.entries()
    }
}

impl Eq for Hdr {}

impl std::fmt::Debug for Hdr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// The bucket that stands for `index` when 2 to the power `coarseness` buckets are one. Powers of two
/// begin at multiples of 128, so up to 7 no bucket reaches over one.
#[inline]
const fn coarse(index: u16, coarseness: u8) -> u16 {
    let coarse = (index >> coarseness << coarseness) | (1 << coarseness >> 1);
    if coarse < BUCKETS as u16 { coarse } else { BUCKETS as u16 - 1 }
}

/// Coarsens the largest of `all` until they take three quarters of `limit` bytes, or all of them have one
/// bucket only. Tells how often one was coarsened, and the bytes that are left.
pub fn coarsen_largest(all: &mut [&mut Hdr], limit: usize) -> (u64, usize) {
    let enough = limit - limit / 4;
    let mut coarsened = 0;
    loop {
        let bytes: usize = all.iter().map(|hdr| hdr.heap_bytes()).sum();
        let largest = all.iter().filter(|hdr| hdr.coarseness < MAX_COARSENESS).map(|hdr| hdr.heap_bytes()).max();
        let Some(largest) = largest.filter(|largest| bytes > enough && *largest > 0) else {
            return (coarsened, bytes);
        };
        let mut over = bytes - enough;
        for hdr in all.iter_mut().filter(|hdr| hdr.heap_bytes() > largest / 2) {
            let before = hdr.heap_bytes();
            coarsened += u64::from(hdr.coarsen());
            over = over.saturating_sub(before.saturating_sub(hdr.heap_bytes()));
            if over == 0 {
                break;
            }
        }
    }
}

const fn tag(index: u16) -> u64 {
    (index as u64 + 1) << COUNT_BITS
}

const fn untag(slot: u64) -> u16 {
    (slot >> COUNT_BITS) as u16 - 1
}

#[cfg(test)]
mod tests;
