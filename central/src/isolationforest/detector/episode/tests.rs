//! When an episode is told.

use super::*;

const SECOND: u64 = 1_000_000_000;
const DAY: u64 = 86_400 * SECOND;

/// An episode machine that is told of points at one interval.
struct Rig {
    episode: Episode,
    interval: f32,
    at: u64,
}

impl Rig {
    fn new(interval: f32) -> Self {
        Self { episode: Episode::default(), interval, at: 1000 * DAY }
    }

    fn point(&mut self, score: f64, present: bool) -> Option<EpisodeKind> {
        self.at += (self.interval * 1e9) as u64;
        let (anomalous, threshold) = (score >= 0.75, 0.75);
        let judged = Judged { at: self.at, score, anomalous, present, interval: self.interval, threshold };
        self.episode.step(&Settings::default(), judged).map(|change| change.kind)
    }

    /// An outlier that two means remember, then ten ordinary points, then nothing for so long; whether it was told.
    fn lone(&mut self, score: f64, rest: u64) -> bool {
        let told = [self.point(score, true), self.point(0.78, false), self.point(0.78, false)];
        for _ in 0..10 {
            self.point(0.5, false);
        }
        // Refractory points pass, too.
        for _ in 0..100 {
            self.point(0.5, false);
        }
        self.at += rest;
        told.contains(&Some(EpisodeKind::Opened))
    }
}

#[test]
fn a_lone_outlier_like_one_of_this_week_is_no_news_and_a_clearly_worse_one_is() {
    let mut rig = Rig::new(15.0);
    assert!(rig.lone(0.76, DAY));
    assert!(!rig.lone(0.76, DAY));
    assert!(!rig.lone(0.80, 6 * DAY), "not clearly worse");
    assert!(!rig.lone(0.76, 6 * DAY), "the habit goes on while outliers come");
    assert!(rig.lone(0.93, DAY), "worse than all of them");
    let mut rig = Rig::new(15.0);
    assert!(rig.lone(0.82, 8 * DAY) && rig.lone(0.82, 0), "a week without one ends the habit");
}

#[test]
fn outliers_that_go_on_are_told_at_the_third_whatever_came_before() {
    let mut rig = Rig::new(15.0);
    assert!(rig.lone(0.85, DAY));
    let told: Vec<_> = (0..4).map(|_| rig.point(0.82, true)).collect();
    assert_eq!(told, [None, None, Some(EpisodeKind::Opened), None]);
}

#[test]
fn means_that_remember_an_outlier_are_no_outliers_that_go_on() {
    let mut rig = Rig::new(15.0);
    assert!(rig.lone(0.85, DAY));
    let told: Vec<_> = (0..12).map(|index| rig.point(0.82, index == 0)).collect();
    assert_eq!(told, [None; 12]);
}

#[test]
fn where_points_are_few_a_week_has_room_for_more_outliers() {
    let mut rig = Rig::new(300.0);
    assert!(rig.lone(0.82, DAY));
    assert!(!rig.lone(0.82, 2 * DAY), "a fifth of a week at a fifth of the points");
    assert!(rig.lone(0.82, 0));
}
