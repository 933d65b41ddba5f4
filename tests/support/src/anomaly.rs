//! Series that scorers are tried on: ordinary ones of every awkward kind, and faults to put into them.
//!
//! Invariant: the same seed gives the same series. Never: reads a clock.

use crate::shop::Random;

/// A point: nanoseconds since the Unix epoch and the value.
pub type Point = (u64, f64);

const SECOND: u64 = 1_000_000_000;
const DAY_SECONDS: u64 = 86_400;
/// A Monday, 2024-01-01 00:00 UTC.
const START: u64 = 1_704_067_200 * SECOND;

/// A kind of series that shows nothing that anybody would want to be woken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ordinary {
    /// One value for ever, as a limit or a build number.
    Flat,
    /// Small whole numbers, as of busy workers.
    Integer,
    /// Hardly ever more than nothing, as of rare errors.
    LowCount,
    /// One level, and from the middle of the time on another one, as after a deployment.
    StepOnce,
    /// A daily curve with noise, as of traffic.
    NoisyPeriodic,
}

impl Ordinary {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Flat, Self::Integer, Self::LowCount, Self::StepOnce, Self::NoisyPeriodic];

    /// The name for messages and files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::Integer => "integer",
            Self::LowCount => "low-count",
            Self::StepOnce => "step-once",
            Self::NoisyPeriodic => "noisy-periodic",
        }
    }

    /// `days` of it with a point every `interval_seconds`.
    pub fn points(self, days: u64, interval_seconds: u64, seed: u64) -> Vec<Point> {
        let count = days * DAY_SECONDS / interval_seconds.max(1);
        let mut random = Noise(Random::new(seed ^ self as u64));
        let value = |index: u64, random: &mut Noise| {
            let day = (index * interval_seconds) as f64 / DAY_SECONDS as f64;
            match self {
                Self::Flat => 42.0,
                Self::Integer => (6.0 + 1.5 * random.normal()).round().max(0.0),
                Self::LowCount => f64::from(random.poisson(0.2)),
                Self::StepOnce if index * 2 < count => 20.0 + random.normal(),
                Self::StepOnce => 35.0 + random.normal(),
                Self::NoisyPeriodic => 100.0 - 60.0 * (day * std::f64::consts::TAU).cos() + 5.0 * random.normal(),
            }
        };
        (0..count).map(|index| (START + index * interval_seconds * SECOND, value(index, &mut random))).collect()
    }
}

/// Something that somebody would want to be woken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// One point far above everything.
    Spike,
    /// From here on everything is higher than ever.
    LevelShift,
    /// Nothing for half an hour.
    Dip,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Spike, Self::LevelShift, Self::Dip];

    /// The name for messages and files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Spike => "spike",
            Self::LevelShift => "level-shift",
            Self::Dip => "dip",
        }
    }

    /// Puts the fault into a series at an index; returns the range of indices that it changed.
    pub fn inject(self, points: &mut [Point], at: usize) -> std::ops::Range<usize> {
        let length = match self {
            Self::Spike => 1,
            Self::LevelShift => points.len() - at,
            Self::Dip => {
                let end = points[at].0 + 1_800 * SECOND;
                points[at..].iter().take_while(|(time, _)| *time < end).count()
            }
        };
        for (_, value) in &mut points[at..at + length] {
            match self {
                Self::Spike | Self::LevelShift => *value += 200.0,
                Self::Dip => *value = 0.0,
            }
        }
        at..at + length
    }
}

/// The series as a table with the columns `timestamp` and `value`, times as the Numenta Anomaly Benchmark writes them.
pub fn table(points: &[Point]) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("timestamp,value\n");
    for (time, value) in points {
        writeln!(text, "{},{value}", civil(time / SECOND)).expect("a string takes everything");
    }
    text
}

/// `YYYY-MM-DD HH:MM:SS` of seconds since the Unix epoch.
fn civil(seconds: u64) -> String {
    let time = jiff::Timestamp::from_second(seconds as i64).expect("the series lie in this century");
    time.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Numbers that scatter.
struct Noise(Random);

impl Noise {
    /// In (0, 1].
    fn unit(&mut self) -> f64 {
        self.0.unit() + f64::EPSILON / 2.0
    }

    /// Mean 0, deviation 1 (Box and Muller 1958).
    fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (self.unit() * std::f64::consts::TAU).cos()
    }

    /// Knuth's product of uniforms, for small means.
    fn poisson(&mut self, mean: f64) -> u32 {
        let limit = (-mean).exp();
        let mut product = self.unit();
        let mut count = 0;
        while product > limit {
            product *= self.unit();
            count += 1;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_week_has_its_points_at_its_times_and_the_same_seed_gives_the_same() {
        for kind in Ordinary::ALL {
            let points = kind.points(7, 60, 3);
            assert_eq!(points.len(), 10_080);
            assert_eq!(points[1].0 - points[0].0, 60 * SECOND);
            assert_eq!(points, kind.points(7, 60, 3));
        }
        assert_ne!(Ordinary::Integer.points(1, 60, 3), Ordinary::Integer.points(1, 60, 4));
    }

    #[test]
    fn tables_are_written_with_times_for_people() {
        let text = table(&Ordinary::Flat.points(60, 43_200, 0));
        assert!(text.starts_with("timestamp,value\n2024-01-01 00:00:00,42\n2024-01-01 12:00:00,42\n"), "{text}");
        assert!(text.ends_with("2024-02-29 12:00:00,42\n"), "{text}");
    }
}
