//! What a series usually is at this time of day: 48 half hours, each a moving mean of its values.
//!
//! Invariant: a residual changes by the same factor as the series. Never: reads a clock.

/// Half hours of a day.
const BINS: usize = 48;
const BIN_SECONDS: u64 = 86_400 / BINS as u64;
/// Share of a new value in the mean of its half hour.
const ALPHA: f32 = 0.3;
/// Share of a new value in the mean of everything.
const SLOW: f32 = 0.01;

/// Means by half hour.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Profile {
    pub(crate) means: [f32; BINS],
    /// Half hours that have been visited.
    pub(crate) known: u64,
    /// Mean of everything, for half hours that were never visited.
    pub(crate) overall: f32,
}

impl Profile {
    pub(crate) fn new() -> Self {
        Self { means: [0.0; BINS], known: 0, overall: 0.0 }
    }

    fn bin_of(unix_nano: u64, offset_seconds: i32) -> u8 {
        let seconds = (unix_nano / 1_000_000_000).saturating_add_signed(i64::from(offset_seconds));
        (seconds % 86_400 / BIN_SECONDS) as u8
    }

    /// The value minus what is usual at this time.
    pub(crate) fn residual(&self, unix_nano: u64, offset_seconds: i32, value: f32) -> f32 {
        let bin = Self::bin_of(unix_nano, offset_seconds);
        value - if self.known >> bin & 1 == 1 { self.means[usize::from(bin)] } else { self.overall }
    }

    /// Learns a value.
    pub(crate) fn learn(&mut self, unix_nano: u64, offset_seconds: i32, value: f32, first: bool) {
        let bin = Self::bin_of(unix_nano, offset_seconds);
        let mean = &mut self.means[usize::from(bin)];
        if self.known >> bin & 1 == 1 {
            *mean += ALPHA * (value - *mean);
        } else {
            *mean = value;
            self.known |= 1 << bin;
        }
        if first {
            self.overall = value;
        } else {
            self.overall += SLOW * (value - self.overall);
        }
    }
}
