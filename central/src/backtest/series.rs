//! One series on its way through a backtest: rows in, scores, counts, an output file and a picture out.
//!
//! Invariant: every row that comes in goes out once, in its order, with the text of its timestamp and its value.

use std::io::Write;
use std::path::PathBuf;

use super::judge::{Judge, Judged, Reading};
use super::line::push_field;
use super::output::Partial;
use super::plot::Plot;
use super::report::{Tally, Worst};
use super::{Options, Rows};
use crate::isolationforest::detector::EpisodeKind;

/// A row as it stands in the input.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    /// The text of the timestamp.
    pub(super) stamp: &'a str,
    /// The text of the value.
    pub(super) value: &'a str,
    /// The time in nanoseconds since the Unix epoch and what was read, or why it could not be.
    pub(super) read: Result<(u64, Reading), &'a str>,
}

/// Where the rows of a series go and what else is made of them.
pub(super) struct Place {
    /// The file of the rows; `None`: the shared stream, or nowhere.
    pub(super) rows: Option<PathBuf>,
    /// The file of the picture.
    pub(super) plot: Option<PathBuf>,
}

/// One series.
pub(super) struct Series {
    judge: Judge,
    rows: Option<Partial>,
    plot: Option<(Plot, PathBuf)>,
    tally: Tally,
    row: Vec<u8>,
}

impl Series {
    /// Opens the output. `label` is what people read, `name` what tells counters from gauges and seeds the engine.
    pub(super) fn open(options: &Options, label: String, name: &str, place: Place) -> anyhow::Result<Self> {
        let mut rows = place.rows.map(Partial::create).transpose()?;
        if let Some(rows) = &mut rows {
            rows.gathered().extend_from_slice(Rows::HEADER);
        }
        Ok(Self {
            judge: Judge::new(&options.settings, options.kind, name, options.seed),
            rows,
            plot: place.plot.map(|place| (Plot::new(&label), place)),
            tally: Tally { series: label, ..Tally::default() },
            row: Vec::new(),
        })
    }

    /// Scores a row and writes it.
    pub(super) fn push(&mut self, options: &Options, shared: &mut Rows<'_>, row: Row<'_>) -> anyhow::Result<()> {
        self.tally.rows += 1;
        let judged = match row.read {
            Ok((time, reading)) => {
                self.tally.stretch(time);
                let wants_band = self.plot.as_ref().is_some_and(|(plot, _)| plot.wants_band(time));
                let band = if wants_band { self.judge.band(&options.settings) } else { None };
                let judged = self.judge.observe(&options.settings, time, reading);
                if let Some((plot, _)) = &mut self.plot {
                    plot.push(time, &judged, band);
                }
                self.tally.missing += u64::from(reading == Reading::Missing);
                self.tally.warming += u64::from(reading != Reading::Missing && judged.score.is_none());
                judged
            }
            Err(reason) => {
                self.tally.bad += 1;
                Judged { reason: format!("bad row: {reason}"), ..Judged::default() }
            }
        };
        self.count(&row, &judged);
        self.write(shared, &row, &judged)
    }

    fn count(&mut self, row: &Row<'_>, judged: &Judged) {
        let tally = &mut self.tally;
        tally.scored += u64::from(judged.score.is_some());
        tally.late += u64::from(judged.late);
        tally.alarms += u64::from(judged.is_anomaly);
        tally.episodes += u64::from(judged.episode == Some(EpisodeKind::Opened));
        let Some(score) = judged.score else { return };
        if tally.worst.as_ref().is_none_or(|worst| score > worst.score) {
            let reason = judged.reason.clone();
            tally.worst = Some(Worst { score, timestamp: row.stamp.to_owned(), value: row.value.to_owned(), reason });
        }
    }

    fn write(&mut self, shared: &mut Rows<'_>, row: &Row<'_>, judged: &Judged) -> anyhow::Result<()> {
        let to = if let Some(file) = &mut self.rows {
            file.gathered()
        } else {
            self.row.clear();
            if shared.named {
                push_field(&mut self.row, &self.tally.series);
                self.row.push(b',');
            }
            &mut self.row
        };
        push_field(to, row.stamp);
        to.push(b',');
        push_field(to, row.value);
        // A row without a score of its own is as ordinary as can be: every line has a number that scripts can read.
        write!(to, ",{:.6},{},", judged.score.unwrap_or(0.0), u8::from(judged.is_anomaly))?;
        push_field(to, &judged.reason);
        to.push(b'\n');
        match &mut self.rows {
            Some(file) => file.settle(),
            None => shared.write(&self.row),
        }
    }

    /// Gives back what is gathered; more rows may come.
    pub(super) fn pause(&mut self) -> anyhow::Result<()> {
        self.rows.as_mut().map_or(Ok(()), Partial::flush)
    }

    /// The files get their names; the counts are handed over.
    pub(super) fn finish(self) -> anyhow::Result<Tally> {
        if let Some(rows) = self.rows {
            rows.finish()?;
        }
        if let Some((plot, place)) = self.plot {
            let mut file = Partial::create(place)?;
            file.gathered().extend_from_slice(plot.render().as_bytes());
            file.finish()?;
        }
        Ok(self.tally)
    }
}
