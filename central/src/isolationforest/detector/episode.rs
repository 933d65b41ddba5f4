//! From scores to episodes: opened, at a new peak, closed; one alarm where a point-wise flag would ring a hundred times.
//!
//! An episode opens on one score far above the threshold or on two within three points. It closes when scores have
//! been low for some points. For a while after an alarm (the refractory time) only a score higher than that
//! alarm's peak opens another one.
//!
//! Noise with heavy tails shows an outlier per so many points for ever, and there are more points in a week the shorter
//! the interval is; no threshold on the score ends that, because each of them is as isolated as a fault. What tells them
//! apart is that they stand alone. So after an episode a lone outlier is the series' habit for a while: it opens another
//! one only when it is clearly more isolated than those before, or goes on for [`SUSTAINED`] points.
//!
//! Never: reads a clock, judges scores by itself.

use super::settings::Settings;

/// How long an episode keeps lone outliers from being told, at a point a minute or more: nanoseconds of a week. Where
/// there are fewer points in a week, there is room for more of them.
const HABIT_NANOS: f64 = 7.0 * 86_400.0 * 1e9;
/// Seconds between points up to which it lasts as long.
const HABIT_INTERVAL: f32 = 60.0;
/// So many outliers in a row are no longer lone.
const SUSTAINED: u8 = 3;

/// What happened to the episode of a series at one point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EpisodeChange {
    /// What happened.
    pub kind: EpisodeKind,
    /// When it was opened, unix nanoseconds.
    pub opened_at: u64,
    /// The point's time, unix nanoseconds.
    pub at: u64,
    /// The highest score so far.
    pub peak: f64,
    /// When that was, unix nanoseconds.
    pub peak_at: u64,
    /// Anomalous points so far.
    pub points: u32,
}

/// What happened to an episode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EpisodeKind {
    /// It began.
    Opened,
    /// Its score is higher than before.
    Peak,
    /// It is over.
    Closed,
}

impl EpisodeKind {
    /// The word in log records and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Peak => "peak",
            Self::Closed => "closed",
        }
    }
}

/// The episode of one series, current or last.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Episode {
    pub(crate) opened_at: u64,
    pub(crate) peak_at: u64,
    pub(crate) last_at: u64,
    pub(crate) peak: f32,
    pub(crate) points: u32,
    /// Points since the latest anomalous one.
    pub(crate) since: u32,
    /// Points in a row below the closing threshold.
    pub(crate) calm: u8,
    /// The latest points, newest in the lowest bit: anomalous or not.
    pub(crate) recent: u8,
    pub(crate) is_open: bool,
    /// The side of the latest anomalous point.
    pub(crate) is_high: bool,
    /// Points in a row, up to the latest one, that were anomalous by their own value.
    pub(crate) run: u8,
    /// Until when lone outliers are the series' habit, unix nanoseconds.
    pub(crate) habit_until: u64,
    /// The highest score of those before.
    pub(crate) habit_peak: f32,
}

/// A score and what became of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Judged {
    /// The point's time, unix nanoseconds.
    pub(crate) at: u64,
    pub(crate) score: f64,
    /// Above all gates.
    pub(crate) anomalous: bool,
    /// The value itself is outside of the usual range, not a mean that remembers one that was.
    pub(crate) present: bool,
    /// Usual seconds between points.
    pub(crate) interval: f32,
    /// What the score was held against.
    pub(crate) threshold: f64,
}

impl Episode {
    /// Takes the next point.
    pub(crate) fn step(&mut self, settings: &Settings, judged: Judged) -> Option<EpisodeChange> {
        self.recent = self.recent << 1 & 0b111 | u8::from(judged.anomalous);
        self.run = if judged.anomalous && judged.present { self.run.saturating_add(1) } else { 0 };
        let change = if self.is_open { self.go_on(settings, judged) } else { self.open(settings, judged) };
        self.since = if judged.anomalous && self.is_open { 0 } else { self.since.saturating_add(1) };
        if judged.anomalous && self.is_open {
            self.last_at = judged.at;
        }
        change
    }

    fn open(&mut self, settings: &Settings, judged: Judged) -> Option<EpisodeChange> {
        let Judged { at, score, anomalous, threshold, .. } = judged;
        let sure = score >= threshold + settings.open_margin || self.recent.count_ones() >= 2;
        let refractory = self.opened_at > 0
            && (self.since < settings.refractory_points || at.saturating_sub(self.last_at) < settings.refractory_nanos)
            && score <= f64::from(self.peak);
        if !anomalous || !sure || refractory {
            return None;
        }
        let known = f64::from(self.habit_peak) + 2.0 * settings.open_margin;
        if at < self.habit_until && self.run < SUSTAINED && score <= known {
            self.accustom(judged, score as f32);
            return None;
        }
        *self = Self { opened_at: at, peak_at: at, last_at: at, peak: score as f32, points: 1, is_open: true, ..*self };
        self.calm = 0;
        Some(self.change(EpisodeKind::Opened, at))
    }

    fn go_on(&mut self, settings: &Settings, judged: Judged) -> Option<EpisodeChange> {
        let Judged { at, score, anomalous, threshold, .. } = judged;
        self.points = self.points.saturating_add(u32::from(anomalous));
        self.calm = if score < threshold - settings.close_margin || !anomalous && self.calm > 0 {
            self.calm.saturating_add(1)
        } else {
            u8::from(!anomalous)
        };
        if self.calm >= settings.close_points.max(1) {
            self.is_open = false;
            self.accustom(judged, self.peak);
            return Some(self.change(EpisodeKind::Closed, at));
        }
        if anomalous && score as f32 > self.peak {
            (self.peak, self.peak_at) = (score as f32, at);
            return Some(self.change(EpisodeKind::Peak, at));
        }
        None
    }

    /// From now on, for a while, an outlier like these is no news.
    fn accustom(&mut self, judged: Judged, score: f32) {
        let share = (HABIT_INTERVAL / judged.interval.max(f32::MIN_POSITIVE)).min(1.0);
        self.habit_peak = if judged.at < self.habit_until { self.habit_peak.max(score) } else { score };
        self.habit_until = judged.at.saturating_add((HABIT_NANOS * f64::from(share)) as u64);
    }

    /// Ends an open episode because the series ends.
    pub(crate) fn end(&mut self, at: u64) -> Option<EpisodeChange> {
        std::mem::take(&mut self.is_open).then(|| self.change(EpisodeKind::Closed, at))
    }

    fn change(&self, kind: EpisodeKind, at: u64) -> EpisodeChange {
        EpisodeChange {
            kind,
            opened_at: self.opened_at,
            at,
            peak: f64::from(self.peak),
            peak_at: self.peak_at,
            points: self.points,
        }
    }
}

#[cfg(test)]
mod tests;
