//! One picture per series: the value with the range that was expected, the score with its threshold underneath,
//! flagged points and episodes.
//!
//! Points are folded while they come, so that a picture takes the same memory and the same size for a day and for a
//! year, and no extreme is lost. Never: reads fonts or anything else of the machine.

mod axis;
mod draw;
mod fold;

use super::judge::Judged;
use crate::isolationforest::detector::EpisodeKind;
use fold::{Fold, Point};

/// Episodes that are drawn.
const MOST_EPISODES: usize = 2_000;

/// What a picture shows.
#[derive(Debug)]
pub(super) struct Plot {
    title: String,
    fold: Fold,
    /// From the opening to the latest flagged point.
    episodes: Vec<(u64, u64)>,
    is_open: bool,
    first_scored: Option<u64>,
    rows: u64,
    alarms: u64,
}

impl Plot {
    /// Nothing to show yet.
    pub(super) fn new(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            fold: Fold::default(),
            episodes: Vec::new(),
            is_open: false,
            first_scored: None,
            rows: 0,
            alarms: 0,
        }
    }

    /// Whether the range at this time is worth computing.
    pub(super) fn wants_band(&self, time: u64) -> bool {
        self.fold.is_new(time)
    }

    /// Takes a row that was judged; `band` is the range that was expected before it came.
    pub(super) fn push(&mut self, time: u64, judged: &Judged, band: Option<(f64, f64)>) {
        let Some(value) = judged.seen else { return };
        self.rows += 1;
        self.alarms += u64::from(judged.is_anomaly);
        if judged.score.is_some() {
            self.first_scored.get_or_insert(time);
        }
        self.fold.push(
            time,
            &Point { value, score: judged.score, threshold: judged.threshold, band, is_flagged: judged.is_anomaly },
        );
        if judged.episode == Some(EpisodeKind::Opened) {
            self.is_open = true;
            if self.episodes.len() < MOST_EPISODES {
                self.episodes.push((time, time));
            }
        } else if judged.is_anomaly
            && self.is_open
            && let Some((_, end)) = self.episodes.last_mut()
        {
            *end = (*end).max(time);
        }
        self.is_open &= judged.episode != Some(EpisodeKind::Closed);
    }

    /// The picture as SVG.
    pub(super) fn render(&self) -> String {
        draw::picture(self)
    }
}

#[cfg(test)]
mod tests;
