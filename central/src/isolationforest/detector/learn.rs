//! What a detector keeps of a point.
//!
//! Every point enters the samples, anomalous ones too: an outlier is one point among thousands and fades, a new level
//! gathers weight and becomes usual within hours. Never: draws random numbers.

use super::super::engine::average_depth;
use super::settings::Settings;
use super::{Detector, FEATURES, UPKEEP, WINDOW, combine};

/// Points until which the size of the sample is looked at for every point.
const YOUNG: u32 = 512;
/// Share of the newest interval in the usual one.
const PACE: f32 = 0.05;

impl Detector {
    /// Learns a point.
    pub(crate) fn learn(
        &mut self,
        settings: &Settings,
        unix_nano: u64,
        value: f64,
        (features, positions): (&[f32; FEATURES], &[usize; FEATURES]),
    ) {
        let recency = settings.recency.max(1) as f32;
        if self.seen >= settings.warmup_points {
            self.tail.add(combine(&self.scores), 1.0 - 1.0 / recency);
        }
        if self.gap(unix_nano) {
            (self.window, self.windowed) = ([0.0; WINDOW], 0);
        }
        self.pace(unix_nano);
        self.seen = self.seen.saturating_add(1);
        self.weight += 1.0;
        for ((sample, feature), at) in self.samples.iter_mut().zip(features).zip(positions) {
            sample.learn_at(*at, *feature, settings.kept);
        }
        self.stale = true;
        let due = self.seen % UPKEEP == u32::from(self.phase);
        if due {
            let factor = (-(UPKEEP as f32) / recency).exp();
            self.weight *= factor;
            for sample in &mut self.samples {
                sample.fade(factor);
            }
        }
        if due || self.seen.is_power_of_two() || self.seen == settings.warmup_points {
            for sample in &mut self.samples {
                sample.summarise();
            }
        }
        if due || self.seen < YOUNG {
            self.inverse_depth = (1.0 / average_depth((self.weight as usize).max(2))) as f32;
        }
        // By the value: a copy of known length takes no call.
        let window = self.window;
        self.window[1..].copy_from_slice(&window[..WINDOW - 1]);
        self.window[0] = features[0];
        self.windowed = (self.windowed + 1).min(WINDOW as u8);
        self.profile.learn(unix_nano, settings.day_offset_seconds, features[0], self.seen == 1);
        (self.last_time, self.last_value) = (unix_nano, value);
    }

    /// Follows the interval between points; a long silence counts for little.
    fn pace(&mut self, unix_nano: u64) {
        if self.seen == 0 {
            return;
        }
        let seconds = unix_nano.saturating_sub(self.last_time) as f32 / 1e9;
        if self.interval <= 0.0 {
            self.interval = seconds;
        } else {
            self.interval += PACE * (seconds.min(4.0 * self.interval) - self.interval);
        }
    }
}
