//! Points folded into a bounded number of slices of time that keep every extreme.
//!
//! Slices begin a nanosecond wide; when a point lies beyond the last possible slice, all slices become twice as wide
//! and neighbours are joined. Invariants: at most [`SLICES`] slices; the lowest and highest value, the highest score
//! and the most anomalous flagged point of every slice are those of its points.

/// Slices of a picture; at least half of them are in use once there are as many points.
pub(super) const SLICES: u64 = 1_440;

/// A point that was judged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point {
    pub(super) value: f64,
    pub(super) score: Option<f64>,
    pub(super) threshold: f64,
    pub(super) band: Option<(f64, f64)>,
    pub(super) is_flagged: bool,
}

/// What the points of one stretch of time have in common.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Slice {
    /// When its first point was, from the start.
    pub(super) at: u64,
    pub(super) first: f64,
    pub(super) last: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) band: Option<(f64, f64)>,
    pub(super) score: Option<f64>,
    pub(super) threshold: f64,
    /// Score, time and value of the most anomalous flagged point.
    pub(super) flagged: Option<(f64, u64, f64)>,
}

/// The slices.
#[derive(Debug)]
pub(super) struct Fold {
    pub(super) start: Option<u64>,
    /// The latest time, from the start.
    pub(super) end: u64,
    width: u64,
    slices: Vec<(u64, Slice)>,
}

impl Default for Fold {
    fn default() -> Self {
        Self { start: None, end: 0, width: 1, slices: Vec::new() }
    }
}

impl Fold {
    /// Whether a point at this time begins a slice.
    pub(super) fn is_new(&self, time: u64) -> bool {
        let Some(start) = self.start else { return true };
        self.slices.last().is_none_or(|(index, _)| time.saturating_sub(start) / self.width > *index)
    }

    /// Takes a point; one from before the last slice is left out, because late points are rare and teach nothing.
    pub(super) fn push(&mut self, time: u64, point: &Point) {
        let start = *self.start.get_or_insert(time);
        let Some(offset) = time.checked_sub(start) else { return };
        while offset / self.width >= SLICES {
            self.widen();
        }
        let index = offset / self.width;
        let slice = Slice {
            at: offset,
            first: point.value,
            last: point.value,
            low: point.value,
            high: point.value,
            band: point.band,
            score: point.score,
            threshold: point.threshold,
            flagged: point.is_flagged.then(|| (point.score.unwrap_or(0.0), offset, point.value)),
        };
        match self.slices.last_mut() {
            Some((last, _)) if *last > index => return,
            Some((last, kept)) if *last == index => kept.join(&slice),
            _ => self.slices.push((index, slice)),
        }
        self.end = self.end.max(offset);
    }

    fn widen(&mut self) {
        self.width *= 2;
        let mut joined: Vec<(u64, Slice)> = Vec::with_capacity(self.slices.len() / 2 + 1);
        for (index, slice) in self.slices.drain(..) {
            match joined.last_mut() {
                Some((last, kept)) if *last == index / 2 => kept.join(&slice),
                _ => joined.push((index / 2, slice)),
            }
        }
        self.slices = joined;
    }

    /// The slices in order.
    pub(super) fn slices(&self) -> impl Iterator<Item = &Slice> {
        self.slices.iter().map(|(_, slice)| slice)
    }
}

impl Slice {
    /// Takes what came later.
    fn join(&mut self, later: &Self) {
        self.last = later.last;
        self.low = self.low.min(later.low);
        self.high = self.high.max(later.high);
        self.band = later.band.or(self.band);
        self.score = self.score.into_iter().chain(later.score).reduce(f64::max);
        self.threshold = self.threshold.max(later.threshold);
        if later.flagged.is_some_and(|(score, ..)| self.flagged.is_none_or(|(kept, ..)| score > kept)) {
            self.flagged = later.flagged;
        }
    }
}
