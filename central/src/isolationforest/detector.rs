//! Everything that one series needs to be scored: features, samples, calibration, episode.
//!
//! Four features are held against a sample each: the value, the means of the last 6 and of the last 24 values, and
//! the value against what is usual at this time of day. Each gets the closed form of range-aware isolation (see
//! [`super::engine`]); the score is their power mean with exponent 4, between their mean and the highest of them. A
//! threshold, the series' own scores, a least deviation and a direction decide what is an anomaly, and anomalies
//! become episodes.
//!
//! Invariants: the score of a [`Shape::Level`] does not change under `x -> a*x + b` with `a > 0`; a point that is not later than the latest one changes
//! nothing; the same values, times and seed give the same verdicts; a series takes 4 KiB at most with its heap.
//! Never: reads a clock, looks at labels, does IO.

pub(crate) mod codec;
mod elementary;
mod episode;
mod learn;
mod prior;
mod profile;
mod reason;
mod sample;
mod settings;
mod tail;
mod verdict;

pub use episode::{EpisodeChange, EpisodeKind};
pub use prior::Prior;
pub use settings::{Direction, Preset, Settings};
pub use verdict::{Expected, Feature, Reason, Side, Status, Verdict};

use episode::{Episode, Judged};
use profile::Profile;
use sample::{Sample, total};
use tail::Tail;

/// Features of a series.
pub(crate) const FEATURES: usize = 4;
/// Values in the short mean.
pub(crate) const SHORT: usize = 6;
/// Values in the long mean.
pub(crate) const WINDOW: usize = 24;
/// Points between two rounds of upkeep: fading, medians, spreads.
pub(crate) const UPKEEP: u32 = 64;
/// Differences to the first value are clamped here, so that a weight times the difference of two stays finite.
const LARGEST: f64 = 1.0e30;
/// Points before a young series can be measured against its family.
const LEAST_OWN: u32 = 16;
/// The highest surprise, in bits.
const MOST_SURPRISE: f64 = 20.0;
/// No threshold is higher: a score that is nearly 1 is always over it.
const MOST_THRESHOLD: f64 = 0.97;

/// What the values of a series are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shape {
    /// Goes up and down, any sign.
    #[default]
    Level,
    /// Events or amounts per second, never negative.
    Rate,
    /// A mean or a quantile of observations.
    Observed,
    /// A share between 0 and 1.
    Ratio,
}

impl Shape {
    /// The scale on which values are compared: the square root steadies the scatter of counts (Bartlett 1936) and of
    /// shares, takes half of the skew from durations, and gives a fall to nothing as much room as a rise.
    fn inward(self, value: f64) -> f64 {
        match self {
            Self::Level => value,
            Self::Rate | Self::Observed | Self::Ratio => value.abs().sqrt().copysign(value),
        }
    }

    /// Back to the unit of the series.
    pub(crate) fn outward(self, value: f64) -> f64 {
        match self {
            Self::Level => value,
            Self::Rate | Self::Ratio => value.max(0.0) * value.max(0.0),
            Self::Observed => value * value.abs(),
        }
    }
}

/// The scoring state of one series.
#[derive(Debug, Clone, PartialEq)]
pub struct Detector {
    pub(crate) shape: Shape,
    /// The first value; samples keep differences to it, so that a large offset costs no precision.
    pub(crate) origin: f64,
    pub(crate) last_value: f64,
    pub(crate) last_time: u64,
    /// Seconds between points, slowly moving.
    pub(crate) interval: f32,
    pub(crate) seen: u32,
    pub(crate) samples: [Sample; FEATURES],
    pub(crate) window: [f32; WINDOW],
    pub(crate) windowed: u8,
    pub(crate) profile: Profile,
    pub(crate) tail: Tail,
    pub(crate) episode: Episode,
    /// Values that the samples stand for: those learned, fading.
    pub(crate) weight: f32,
    /// `1 / c(weight)` as of the latest upkeep.
    pub(crate) inverse_depth: f32,
    /// When upkeep is due, so that not all series have theirs at once.
    pub(crate) phase: u8,
    /// The features behind `scores`.
    pub(crate) features: [f32; FEATURES],
    pub(crate) scores: [f32; FEATURES],
    /// The samples have changed since `scores` were computed.
    pub(crate) stale: bool,
    /// What was said of the latest point, for when it is sent again.
    pub(crate) last: Said,
}

/// The part of a verdict that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Said {
    pub(crate) score: Option<f32>,
    pub(crate) surprise: f32,
    pub(crate) is_anomaly: bool,
}

impl Said {
    fn of(verdict: &Verdict) -> Self {
        let score = verdict.score.map(|score| score as f32);
        Self { score, surprise: verdict.surprise as f32, is_anomaly: verdict.is_anomaly }
    }

    fn again(self) -> Verdict {
        Verdict {
            score: self.score.map(f64::from),
            status: Status::Repeated,
            is_anomaly: self.is_anomaly,
            surprise: f64::from(self.surprise),
            ..Verdict::default()
        }
    }
}

impl Detector {
    /// Has seen nothing; the seed spreads the upkeep of many series over their points.
    pub fn new(settings: &Settings, shape: Shape, seed: u64) -> Self {
        debug_assert!(settings.kept > 0, "the configuration is checked");
        Self {
            shape,
            origin: 0.0,
            last_value: 0.0,
            last_time: 0,
            interval: 0.0,
            seen: 0,
            samples: Default::default(),
            window: [0.0; WINDOW],
            windowed: 0,
            profile: Profile::new(),
            tail: Tail::new(),
            episode: Episode::default(),
            weight: 0.0,
            inverse_depth: 1.0,
            phase: (seed % u64::from(UPKEEP)) as u8,
            features: [f32::NAN; FEATURES],
            scores: [0.0; FEATURES],
            stale: true,
            last: Said::default(),
        }
    }

    /// Judges a value at a time (unix nanoseconds), then learns from it.
    pub fn observe(&mut self, settings: &Settings, prior: Option<&Prior>, unix_nano: u64, value: f64) -> Verdict {
        self.observe_noisy(settings, prior, unix_nano, value, 0.0)
    }

    /// The same for a value that is known to scatter: a deviation of less than `noise` is never an anomaly.
    pub fn observe_noisy(
        &mut self,
        settings: &Settings,
        prior: Option<&Prior>,
        unix_nano: u64,
        value: f64,
        noise: f64,
    ) -> Verdict {
        if !value.is_finite() {
            return Verdict { status: Status::NotFinite, ..Verdict::default() };
        }
        if self.seen > 0 && unix_nano == self.last_time {
            return self.last.again();
        }
        let inward = self.shape.inward(value);
        if self.seen == 0 {
            self.origin = inward;
        }
        let late = unix_nano < self.last_time;
        let distance = (inward - self.origin).clamp(-LARGEST, LARGEST) as f32;
        let features = self.read(settings, unix_nano, distance, late);
        if self.seen < settings.warmup_points {
            let verdict = self.young(settings, prior, unix_nano, (value, noise), distance, late);
            if !late {
                let positions = self.positions(&features);
                self.learn(settings, unix_nano, value, (&features, &positions));
                self.last = Said::of(&verdict);
            }
            return verdict;
        }
        let positions = self.positions(&features);
        let eased;
        let settings = if noise > 0.0 {
            eased = Settings { floor: settings.floor - settings.known_margin, ..*settings };
            &eased
        } else {
            settings
        };
        let mut verdict = self.judge(settings, &features, &positions, (value, noise));
        if late {
            verdict.status = Status::Late;
            return verdict;
        }
        let score = verdict.score.unwrap_or_default();
        // Only an episode that begins or goes on asks for it.
        let threshold =
            if verdict.is_anomaly || self.episode.is_open { self.threshold(settings) } else { settings.floor };
        let (anomalous, present, interval) = (verdict.is_anomaly, self.is_outside(distance), self.interval);
        let judged = Judged { at: unix_nano, score, anomalous, present, interval, threshold };
        verdict.episode = self.episode.step(settings, judged);
        self.learn(settings, unix_nano, value, (&features, &positions));
        self.last = Said::of(&verdict);
        verdict
    }

    /// The range outside of which a value would be an anomaly by itself, for plots; nothing while warming.
    pub fn expected(&self, settings: &Settings) -> Option<Expected> {
        (self.seen >= settings.warmup_points).then(|| self.range(settings, 0))
    }

    /// A value in half widths of this series from its median, to teach the family; nothing while warming.
    pub fn standard(&self, settings: &Settings, value: f64) -> Option<f64> {
        (self.seen >= settings.warmup_points)
            .then(|| self.standardised((self.shape.inward(value) - self.origin) as f32))
            .flatten()
    }

    /// Points learned so far.
    pub fn seen(&self) -> u32 {
        self.seen
    }

    /// The time of the latest point, unix nanoseconds; 0 before the first.
    pub fn last_time(&self) -> u64 {
        self.last_time
    }

    /// Usual seconds between points; 0 when not known.
    pub fn interval_seconds(&self) -> f64 {
        f64::from(self.interval)
    }

    /// The usual value, in the series' unit.
    pub fn median(&self) -> f64 {
        self.outward(self.samples[0].middle, 0.0)
    }

    /// Half the range that holds nine tenths of the values, in the series' unit, without the rhythm of the day.
    pub(crate) fn scatter(&self) -> f64 {
        let spread = self.samples[0].spread.min(self.samples[2].spread);
        let middle = self.samples[0].middle;
        (self.outward(middle + spread, 0.0) - self.outward(middle - spread, 0.0)).abs() / 2.0
    }

    /// Ends an open episode because the series ends.
    pub fn end(&mut self, unix_nano: u64) -> Option<EpisodeChange> {
        (self.window, self.windowed) = ([0.0; WINDOW], 0);
        self.episode.end(unix_nano)
    }

    /// Whether an episode is open.
    pub fn is_open(&self) -> bool {
        self.episode.is_open
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.samples.iter().map(Sample::heap_bytes).sum()
    }

    /// What a score is held against: the preset's floor or what this series' own scores rarely reach.
    pub fn threshold(&self, settings: &Settings) -> f64 {
        settings.floor.max(self.tail.quantile_above(settings.contamination)).min(MOST_THRESHOLD)
    }

    /// The score of one feature: `2^(-E[h] / c(m))`.
    pub(crate) fn isolation(&self, feature: usize, query: f32) -> f32 {
        elementary::exp2(-self.samples[feature].depth(query) * self.inverse_depth)
    }

    /// The features of a point.
    fn read(&self, settings: &Settings, unix_nano: u64, distance: f32, late: bool) -> [f32; FEATURES] {
        let residual = self.profile.residual(unix_nano, settings.day_offset_seconds, distance);
        if late || self.windowed == 0 || self.gap(unix_nano) {
            return [distance, distance, residual, distance];
        }
        // What is not known is 0 in the window.
        let had = usize::from(self.windowed);
        let near = total(&self.window[..SHORT - 1]) + distance;
        let all = near + total(&self.window[SHORT - 1..WINDOW - 1]);
        [distance, near / SHORT.min(had + 1) as f32, residual, all / WINDOW.min(had + 1) as f32]
    }

    /// Whether so much time has passed that the short mean starts again.
    fn gap(&self, unix_nano: u64) -> bool {
        let seconds = unix_nano.saturating_sub(self.last_time) as f64 / 1e9;
        self.seen > 2 && seconds > 3.0 * f64::from(self.interval)
    }

    fn positions(&self, features: &[f32; FEATURES]) -> [usize; FEATURES] {
        std::array::from_fn(|index| self.samples[index].position(features[index]))
    }

    fn judge(
        &mut self,
        settings: &Settings,
        features: &[f32; FEATURES],
        positions: &[usize; FEATURES],
        (value, noise): (f64, f64),
    ) -> Verdict {
        if self.stale || self.features.map(f32::to_bits) != features.map(f32::to_bits) {
            let depths = std::array::from_fn(|index| self.samples[index].depth_at(positions[index], features[index]));
            self.scores = elementary::isolations(&depths, self.inverse_depth);
            (self.features, self.stale) = (*features, false);
        }
        let score = combine(&self.scores);
        let top = self.top();
        let above = features[top] >= self.samples[top].middle;
        let bits = f64::from(self.tail.surprise(score)).clamp(0.0, MOST_SURPRISE);
        let mut verdict = Verdict {
            score: Some(f64::from(score)),
            status: Status::Scored,
            surprise: if above { bits } else { -bits },
            ..Verdict::default()
        };
        let wanted = match settings.direction {
            Direction::Both => true,
            Direction::Up => above,
            Direction::Down => !above,
        };
        verdict.is_anomaly = f64::from(score) >= settings.floor.min(MOST_THRESHOLD)
            && f64::from(score) >= self.threshold(settings)
            && f64::from(self.tail.chance(score)) <= settings.risk
            && wanted
            && self.is_present(top, above)
            && self.deviates(settings, top, features[top], noise);
        if verdict.is_anomaly {
            self.episode.is_high = above;
            let reason = self.explain(settings, top, value);
            (verdict.expected, verdict.reason) = (Some(reason.expected), Some(reason));
        }
        verdict
    }

    /// Whether a feature that stands out speaks of now, not of an outlier that is past.
    ///
    /// A mean does while the value leans the same way. A residual after an outlier on the other side is the echo of that
    /// outlier in what is taken for usual.
    fn is_present(&self, top: usize, above: bool) -> bool {
        let Sample { middle, spread, .. } = self.samples[0];
        let lean = self.features[0] - middle;
        match top {
            0 => true,
            2 => above == self.episode.is_high || self.episode.opened_at == 0 || self.episode.since >= WINDOW as u32,
            _ => (if above { lean } else { -lean }) >= spread / 2.0,
        }
    }

    /// Whether the value itself is outside of the range that holds nine tenths of the values.
    fn is_outside(&self, distance: f32) -> bool {
        (distance - self.samples[0].middle).abs() > self.samples[0].spread
    }

    /// Whether a feature is far enough from its median to matter to anybody.
    fn deviates(&self, settings: &Settings, top: usize, feature: f32, noise: f64) -> bool {
        let sample = &self.samples[top];
        let outside = sample.ends().is_none_or(|(low, high)| feature < low || feature > high);
        let wide = f64::from((feature - sample.middle).abs()) >= settings.min_spreads * f64::from(sample.spread);
        let base = self.base(top);
        let deviation = (self.outward(feature, base) - self.outward(sample.middle, base)).abs();
        // A mean scatters less than a value; not as much less as if neighbours were independent.
        let noise = if matches!(top, 1 | 3) { noise / (SHORT as f64).sqrt() } else { noise };
        deviation >= settings.min_relative_deviation * self.median().abs() && deviation >= noise && (!outside || wide)
    }

    /// What a feature is counted from, beside the origin: residuals from what is usual at this time.
    pub(crate) fn base(&self, top: usize) -> f32 {
        if top == 2 { self.features[0] - self.features[2] } else { 0.0 }
    }

    /// A feature in the unit of the series.
    pub(crate) fn outward(&self, feature: f32, base: f32) -> f64 {
        self.shape.outward(f64::from(feature) + f64::from(base) + self.origin)
    }

    /// The feature that stands out most.
    fn top(&self) -> usize {
        let mut top = 0;
        for index in 1..FEATURES {
            if self.scores[index] > self.scores[top] {
                top = index;
            }
        }
        top
    }

    fn standardised(&self, distance: f32) -> Option<f64> {
        let Sample { middle, spread, .. } = self.samples[0];
        (spread > 0.0).then(|| f64::from((distance - middle) / spread))
    }

    /// Judges a point of a series without enough history by its family, once it can be measured at all.
    fn young(
        &mut self,
        settings: &Settings,
        prior: Option<&Prior>,
        unix_nano: u64,
        (value, noise): (f64, f64),
        distance: f32,
        late: bool,
    ) -> Verdict {
        let standard = prior.filter(|_| self.seen >= LEAST_OWN).zip(self.standardised(distance));
        let Some((score, standard)) = standard.and_then(|(prior, at)| Some((prior.score(settings, at)?, at))) else {
            return Verdict::default();
        };
        let mut verdict = Verdict { score: Some(score), status: Status::ByFamily, surprise: 0.0, ..Verdict::default() };
        // The family is a coarser judge than the series itself.
        let threshold = settings.floor.max(Preset::Quiet.floor());
        verdict.is_anomaly = score >= threshold && self.deviates(settings, 0, distance, noise);
        if verdict.is_anomaly {
            let reason = self.explain_family(standard, value);
            (verdict.expected, verdict.reason) = (Some(reason.expected), Some(reason));
        }
        if !late {
            let (anomalous, interval) = (verdict.is_anomaly, self.interval);
            let judged = Judged { at: unix_nano, score, anomalous, present: true, interval, threshold };
            verdict.episode = self.episode.step(settings, judged);
        }
        verdict
    }
}

/// The score of a point from those of its features: their power mean with exponent 4.
pub(crate) fn combine(scores: &[f32; FEATURES]) -> f32 {
    let sum: f32 = scores.iter().map(|score| (score * score) * (score * score)).sum();
    (sum / FEATURES as f32).sqrt().sqrt()
}

#[cfg(test)]
mod tests;
