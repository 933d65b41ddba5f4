//! Where an axis has its marks, and what stands at them.
//!
//! Never: puts a mark where nobody would: values step by 1, 2 or 5, times by what clocks and calendars step by.

use jiff::civil::Date;
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, ToSpan as _};

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// Marks of a time axis at most.
const MOST: u64 = 9;
const STEPS: [u64; 21] = [
    SECOND,
    2 * SECOND,
    5 * SECOND,
    10 * SECOND,
    15 * SECOND,
    30 * SECOND,
    MINUTE,
    2 * MINUTE,
    5 * MINUTE,
    10 * MINUTE,
    15 * MINUTE,
    30 * MINUTE,
    HOUR,
    2 * HOUR,
    3 * HOUR,
    6 * HOUR,
    12 * HOUR,
    DAY,
    2 * DAY,
    7 * DAY,
    14 * DAY,
];

/// A mark of a time axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    /// Nanoseconds since the Unix epoch.
    pub(super) at: u64,
    /// The time, or the day.
    pub(super) near: String,
    /// The day, or the year, where it changes.
    pub(super) far: String,
}

/// Marks between two times, both included.
pub(super) fn times(start: u64, end: u64) -> Vec<Mark> {
    let span = end.saturating_sub(start);
    let Some(step) = STEPS.into_iter().find(|step| span / step <= MOST) else { return months(start, end) };
    let mut marks = Vec::new();
    // Weeks start on a Monday; the epoch was a Thursday.
    let shift = if step >= 7 * DAY { 4 * DAY } else { 0 };
    let mut at = (start.saturating_sub(shift)).div_ceil(step) * step + shift;
    while at <= end {
        marks.push(mark(at, step));
        at += step;
    }
    thin(marks)
}

/// The far line only where it changes.
fn thin(mut marks: Vec<Mark>) -> Vec<Mark> {
    let mut before = String::new();
    for mark in &mut marks {
        if mark.far == before {
            mark.far.clear();
        } else {
            before.clone_from(&mark.far);
        }
    }
    marks
}

fn mark(at: u64, step: u64) -> Mark {
    let civil = civil(at);
    let (near, far) = if step >= DAY {
        ("%b %d", "%Y")
    } else if step >= MINUTE {
        ("%H:%M", "%b %d, %Y")
    } else {
        ("%H:%M:%S", "%b %d, %Y")
    };
    Mark { at, near: civil.strftime(near).to_string(), far: civil.strftime(far).to_string() }
}

fn months(start: u64, end: u64) -> Vec<Mark> {
    let months = end.saturating_sub(start) / (30 * DAY);
    let step = [1, 2, 3, 6].into_iter().find(|step| months / step <= MOST).unwrap_or(12 * (months / 12 / MOST + 1));
    let mut marks = Vec::new();
    let mut date = civil(start).date().first_of_month();
    loop {
        let at = nanos(date);
        if at > end {
            return thin(marks);
        }
        let number = u64::from(date.month().unsigned_abs()) - 1 + u64::from(date.year().unsigned_abs()) * 12;
        if at >= start && number.is_multiple_of(step) {
            marks.push(Mark { at, near: date.strftime("%b").to_string(), far: date.strftime("%Y").to_string() });
        }
        match date.checked_add(1.month()) {
            Ok(next) => date = next,
            Err(_) => return thin(marks),
        }
    }
}

fn civil(at: u64) -> jiff::civil::DateTime {
    let instant = Timestamp::from_nanosecond(i128::from(at)).unwrap_or(Timestamp::UNIX_EPOCH);
    Offset::UTC.to_datetime(instant)
}

fn nanos(date: Date) -> u64 {
    let instant = TimeZone::UTC.to_timestamp(date.at(0, 0, 0, 0)).unwrap_or(Timestamp::UNIX_EPOCH);
    u64::try_from(instant.as_nanosecond()).unwrap_or(0)
}

/// A time for people, to the second.
pub(super) fn instant(at: u64) -> String {
    civil(at).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Marks between two values: about `wanted` of them, in steps of 1, 2 or 5.
pub(super) fn values(low: f64, high: f64, wanted: f64) -> Vec<(f64, String)> {
    let rough = (high - low) / wanted;
    if !(rough.is_finite() && rough > 0.0) {
        return Vec::new();
    }
    let magnitude = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|unit| unit * magnitude).into_iter().find(|step| *step >= rough * 0.999);
    let step = step.unwrap_or(10.0 * magnitude);
    let first = (low / step).ceil();
    let count = ((high / step).floor() - first).clamp(0.0, 20.0) as u32;
    let scale = Scale::of(low.abs().max(high.abs()), step);
    (0..=count).map(|index| (first + f64::from(index)) * step).map(|value| (value, scale.text(value))).collect()
}

/// How the numbers of one axis are written.
struct Scale {
    unit: f64,
    suffix: &'static str,
    digits: usize,
}

impl Scale {
    fn of(largest: f64, step: f64) -> Self {
        let scales = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")];
        let (unit, suffix) = scales.into_iter().find(|(unit, _)| largest >= *unit).unwrap_or((1.0, ""));
        let unit = if suffix == "k" { 1e3 } else { unit };
        let digits = (-(step / unit).log10()).ceil().clamp(0.0, 17.0) as usize;
        Self { unit, suffix, digits }
    }

    fn text(&self, value: f64) -> String {
        let scaled = value / self.unit;
        if scaled.abs() >= 1e7 || self.digits > 6 {
            return format!("{value:.3e}");
        }
        // Zero has no sign.
        let scaled = if scaled.abs() < 1e-12 { 0.0 } else { scaled };
        if scaled == 0.0 {
            return "0".to_owned();
        }
        format!("{scaled:.digits$}{}", self.suffix, digits = self.digits)
    }
}
