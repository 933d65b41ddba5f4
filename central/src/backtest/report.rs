//! What a run found: per series and in all, as text for people and as JSON for scripts.

use std::fmt::Write as _;

use serde::Serialize;

use super::DAY_NANOS;

/// What was counted of one series.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Tally {
    /// File and column, or the name and labels.
    pub series: String,
    /// Rows, of any kind.
    pub rows: u64,
    /// Rows with a score.
    pub scored: u64,
    /// Rows of a warming series, which get no score of their own.
    pub warming: u64,
    /// Rows without a value: empty, NaN, infinite.
    pub missing: u64,
    /// Rows that could not be read.
    pub bad: u64,
    /// Rows that are not later than one before them; they are scored and teach nothing.
    pub late: u64,
    /// Flagged rows.
    pub alarms: u64,
    /// Episodes that were opened.
    pub episodes: u64,
    /// From the first to the last row, in days.
    pub days: f64,
    /// The highest score.
    pub worst: Option<Worst>,
    #[serde(skip)]
    pub(super) span: Option<(u64, u64)>,
}

/// The row with the highest score of its series.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Worst {
    /// In [0, 1].
    pub score: f64,
    /// As it stands in the input.
    pub timestamp: String,
    /// As it stands in the input.
    pub value: String,
    /// Why, when the row is flagged.
    pub reason: String,
}

impl Tally {
    /// Takes a row's time into the span.
    pub(super) fn stretch(&mut self, time: u64) {
        let (first, last) = self.span.unwrap_or((time, time));
        self.span = Some((first.min(time), last.max(time)));
        self.days = (last.max(time) - first.min(time)) as f64 / DAY_NANOS;
    }
}

/// What was counted of all series.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// The preset or the threshold that was used.
    pub threshold: f64,
    /// Files that were read.
    pub files: u64,
    /// Files of a folder that hold no series and were passed over.
    pub skipped_files: u64,
    /// Files that could not be read.
    pub unreadable_files: u64,
    /// Lines that could not be read.
    pub bad_rows: u64,
    /// Series that were scored.
    pub series: u64,
    /// Rows of all series.
    pub rows: u64,
    /// Rows with a score.
    pub scored: u64,
    /// Rows of warming series.
    pub warming: u64,
    /// Rows without a value.
    pub missing: u64,
    /// Rows that are not later than one before them.
    pub late: u64,
    /// Flagged rows.
    pub alarms: u64,
    /// Episodes.
    pub episodes: u64,
    /// Time that the series cover, in days, added up.
    pub series_days: f64,
    /// Episodes per series and day.
    pub episodes_per_series_day: f64,
    /// The series with the highest scores, worst first.
    pub worst: Vec<Tally>,
}

impl Report {
    /// Adds a series that is complete; `top` of them are kept by name.
    pub(super) fn add(&mut self, tally: Tally, top: usize) {
        self.series += 1;
        self.rows += tally.rows;
        self.scored += tally.scored;
        self.warming += tally.warming;
        self.missing += tally.missing;
        self.late += tally.late;
        self.alarms += tally.alarms;
        self.episodes += tally.episodes;
        self.series_days += tally.days;
        if self.series_days > 0.0 {
            self.episodes_per_series_day = self.episodes as f64 / self.series_days;
        }
        let score = |tally: &Tally| tally.worst.as_ref().map_or(0.0, |worst| worst.score);
        let place = self.worst.partition_point(|kept| score(kept) >= score(&tally));
        if place < top {
            self.worst.insert(place, tally);
            self.worst.truncate(top);
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line =
            |arguments: std::fmt::Arguments<'_>| writeln!(text, "{arguments}").expect("a string takes everything");
        line(format_args!(
            "{} series, {} points in {} files, {:.1} series-days",
            self.series, self.rows, self.files, self.series_days
        ));
        line(format_args!(
            "scored {}, warming up {}, without a value {}, late {}, bad rows {}",
            self.scored, self.warming, self.missing, self.late, self.bad_rows
        ));
        line(format_args!(
            "alarms {} in {} episodes at threshold {:.2}: {:.3} episodes per series and day",
            self.alarms, self.episodes, self.threshold, self.episodes_per_series_day
        ));
        if self.skipped_files + self.unreadable_files > 0 {
            line(format_args!(
                "files without series {}, unreadable files {}",
                self.skipped_files, self.unreadable_files
            ));
        }
        if !self.worst.is_empty() {
            line(format_args!("{:>7} {:>7} {:>9}  worst series, and when", "score", "alarms", "episodes"));
        }
        for tally in &self.worst {
            let worst = tally.worst.clone().unwrap_or_default();
            let reason = if worst.reason.is_empty() { String::new() } else { format!(": {}", worst.reason) };
            line(format_args!(
                "{:>7.3} {:>7} {:>9}  {}  {}{reason}",
                worst.score, tally.alarms, tally.episodes, tally.series, worst.timestamp
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_series_are_kept_in_order_and_the_rest_is_counted() {
        let mut report = Report::default();
        for (name, score) in [("a", 0.5), ("b", 0.9), ("c", 0.7)] {
            let worst = Some(Worst { score, ..Worst::default() });
            let tally = Tally { series: name.to_owned(), rows: 2, episodes: 1, days: 0.5, worst, ..Tally::default() };
            report.add(tally, 2);
        }
        assert_eq!(report.worst.iter().map(|tally| tally.series.as_str()).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!((report.series, report.rows, report.episodes), (3, 6, 3));
        assert!((report.episodes_per_series_day - 2.0).abs() < 1e-12);
        let text = report.text();
        assert!(text.contains("3 series, 6 points") && text.contains("0.900"), "{text}");
    }
}
