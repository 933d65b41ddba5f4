//! The lines of an export: one object with the labels, the values and the times of a series each.
//!
//! A series may come in several lines. A line that cannot be read is named, and the next one is read.

use std::collections::{BTreeMap, HashMap};

use anyhow::Context as _;
use serde::Deserialize;

use super::super::Run;
use super::super::line::{self, Line};
use super::super::series::{Row, Series};
use super::super::source::Source;
use super::{pair, promql, sample};

/// Bytes of a line: a series of ten million points.
const LONGEST_LINE: usize = 256 << 20;
/// Series that are open at once, and how many of them when each gets a picture.
const MOST_SERIES: usize = 20_000;
const MOST_PLOTTED: usize = 2_000;

/// One line.
#[derive(Debug, Deserialize)]
struct Chunk {
    metric: BTreeMap<String, String>,
    values: Vec<serde_json::Value>,
    /// Absent when the values are pairs, as those of a range query that another tool has put on lines.
    timestamps: Option<Vec<i64>>,
}

pub(super) fn read(run: &mut Run<'_, '_>, source: &mut Source) -> anyhow::Result<()> {
    run.rows.begin(true)?;
    let most = if run.options.plot { MOST_PLOTTED } else { MOST_SERIES };
    let mut open: Vec<Series> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    let mut buffer = Vec::new();
    for number in 1_u64.. {
        let read = line::next(&mut source.reader, &mut buffer, LONGEST_LINE);
        let place = || format!("{}:{number}", source.label);
        match read.with_context(|| format!("cannot read {}", source.label))? {
            Line::End => break,
            Line::TooLong => {
                run.bad(&place(), "the line is longer than 256 MiB");
                continue;
            }
            Line::Read if buffer.iter().all(u8::is_ascii_whitespace) => continue,
            Line::Read => {}
        }
        let text = buffer.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&buffer);
        let chunk: Chunk = match serde_json::from_slice(text) {
            Ok(chunk) => chunk,
            Err(error) => {
                run.bad(&place(), &format!("no series of an export: {error}"));
                continue;
            }
        };
        let metric = promql(&chunk.metric);
        let index = match known.get(&metric) {
            Some(index) => *index,
            None if open.len() == most => {
                run.bad(&place(), &format!("more than {most} series: export fewer at a time"));
                continue;
            }
            None => {
                open.push(run.open(source, Some(&metric), &metric)?);
                known.insert(metric, open.len() - 1);
                open.len() - 1
            }
        };
        points(run, &mut open[index], &chunk, &place())?;
    }
    open.into_iter().try_for_each(|series| run.finish(series))
}

fn points(run: &mut Run<'_, '_>, series: &mut Series, chunk: &Chunk, place: &str) -> anyhow::Result<()> {
    let Some(timestamps) = &chunk.timestamps else {
        for value in &chunk.values {
            let (stamp, value, read) = pair(value);
            if let Err(reason) = read {
                run.bad(place, reason);
            }
            series.push(run.options, &mut run.rows, Row { stamp: &stamp, value: &value, read })?;
        }
        return series.pause();
    };
    for (time, value) in timestamps.iter().zip(&chunk.values) {
        let stamp_text = time.to_string();
        let (reading, value) = sample(value);
        let read = match (u64::try_from(*time).ok().and_then(|time| time.checked_mul(1_000_000)), reading) {
            (None, _) => Err("the time is before 1970"),
            (_, None) => Err("the value is not a number"),
            (Some(time), Some(reading)) => Ok((time, reading)),
        };
        if let Err(reason) = read {
            run.bad(place, reason);
        }
        series.push(run.options, &mut run.rows, Row { stamp: &stamp_text, value: &value, read })?;
    }
    if timestamps.len() != chunk.values.len() {
        let reason = format!("{} values but {} timestamps", chunk.values.len(), timestamps.len());
        run.bad(place, &reason);
    }
    series.pause()
}
