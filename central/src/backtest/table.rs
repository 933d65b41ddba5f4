//! Tables of comma-separated values: a column of timestamps and one or more columns of values.
//!
//! Which line is a header, which column holds the time and which hold numbers is told from the first lines. A row
//! that cannot be read is named and kept, so that the output has as many rows as the input.
//!
//! Never: holds more than the first lines and the current one.

use anyhow::{Context as _, bail, ensure};

use super::judge::Reading;
use super::line::{self, Line};
use super::series::{Row, Series};
use super::source::Source;
use super::{Run, stamp};
use crate::columns;

/// Lines from which the layout is told.
const LOOKED_AT: usize = 100;
/// Bytes of a line.
const LONGEST_LINE: usize = 1 << 20;
/// Value columns of one table.
const MOST_COLUMNS: usize = 2_000;
/// Names under which times are found, in small letters.
const TIME_NAMES: [&str; 9] = ["timestamp", "time", "ts", "date", "datetime", "@timestamp", "_time", "t", "unix_time"];

/// A line of the table: its number in the file, and its fields or why it has none.
struct Record {
    number: u64,
    fields: Vec<String>,
    fault: Option<&'static str>,
}

/// Where things stand in a row.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    header: bool,
    time: usize,
    /// Index and name.
    values: Vec<(usize, String)>,
}

/// Reads a table to its end.
pub(super) fn read(run: &mut Run<'_, '_>, source: &mut Source) -> anyhow::Result<()> {
    let mut lines = Lines { delimiter: None, number: 0, buffer: Vec::new() };
    let mut head = Vec::new();
    while head.len() < LOOKED_AT {
        let mut record = Record { number: 0, fields: Vec::new(), fault: None };
        if !lines.next(source, &mut record)? {
            break;
        }
        head.push(record);
    }
    ensure!(!head.is_empty(), "{} is empty", source.label);
    let layout = Layout::of(&head, run.options.time_column.as_deref(), &run.options.columns)
        .with_context(|| format!("cannot read {}", source.label))?;
    run.rows.begin(layout.values.len() > 1)?;
    let mut series = Vec::new();
    let stem = source.relative.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    for (_, column) in &layout.values {
        let inner = (layout.values.len() > 1).then_some(column.as_str());
        // The benchmark calls its column `value`; the file's name says more.
        let name = if inner.is_none() && column == "value" { &stem } else { column };
        series.push(run.open(source, inner, name)?);
    }
    for record in head.iter().skip(usize::from(layout.header)) {
        row(run, source, &layout, &mut series, record)?;
    }
    let mut record = Record { number: 0, fields: Vec::new(), fault: None };
    while lines.next(source, &mut record)? {
        row(run, source, &layout, &mut series, &record)?;
    }
    series.into_iter().try_for_each(|series| run.finish(series))
}

fn row(
    run: &mut Run<'_, '_>,
    source: &Source,
    layout: &Layout,
    series: &mut [Series],
    record: &Record,
) -> anyhow::Result<()> {
    let stamp_text = record.fields.get(layout.time).map_or("", String::as_str);
    let time = match record.fault {
        Some(fault) => Err(fault.to_owned()),
        None => stamp::parse(stamp_text).ok_or_else(|| format!("`{}` is not a time", shortened(stamp_text))),
    };
    let mut fault = time.as_ref().err().cloned();
    for ((column, name), series) in layout.values.iter().zip(series) {
        let text = record.fields.get(*column).map(String::as_str);
        let read = match (&time, text) {
            (Err(reason), _) => Err(reason.clone()),
            (Ok(_), None) => Err(format!("there is no column `{name}`: the row has {} fields", record.fields.len())),
            (Ok(time), Some(text)) => match number(text) {
                Some(reading) => Ok((*time, reading)),
                None => Err(format!("`{}` is not a number", shortened(text))),
            },
        };
        let row =
            Row { stamp: stamp_text, value: text.unwrap_or(""), read: read.as_ref().copied().map_err(String::as_str) };
        series.push(run.options, &mut run.rows, row)?;
        fault = fault.or(read.err());
    }
    if let Some(reason) = fault {
        run.bad(&format!("{}:{}", source.label, record.number), &reason);
    }
    Ok(())
}

/// What a field of a value column says; `None` when it is no number.
fn number(text: &str) -> Option<Reading> {
    let text = text.trim();
    if text.is_empty() || ["nan", "null", "na", "n/a", "none", "-"].iter().any(|word| text.eq_ignore_ascii_case(word)) {
        return Some(Reading::Missing);
    }
    let value: f64 = text.parse().ok()?;
    Some(if value.is_finite() { Reading::Value(value) } else { Reading::Missing })
}

/// A text for a message, not longer than a message should be.
pub(super) fn shortened(text: &str) -> String {
    const LONGEST: usize = 40;
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST).chain(['…']).collect()
}

/// The lines of a table.
struct Lines {
    delimiter: Option<char>,
    number: u64,
    buffer: Vec<u8>,
}

impl Lines {
    /// Reads the next line that is not empty; false at the end.
    fn next(&mut self, source: &mut Source, record: &mut Record) -> anyhow::Result<bool> {
        loop {
            let line = line::next(&mut source.reader, &mut self.buffer, LONGEST_LINE)
                .with_context(|| format!("cannot read {}", source.label))?;
            self.number += 1;
            record.number = self.number;
            record.fault = None;
            let text = match line {
                Line::End => return Ok(false),
                Line::TooLong => Err("the line is longer than 1 MiB"),
                Line::Read if self.buffer.iter().all(u8::is_ascii_whitespace) => continue,
                Line::Read => std::str::from_utf8(&self.buffer).map_err(|_| "the line is not UTF-8"),
            };
            let text = text.map(|text| text.strip_prefix('\u{feff}').unwrap_or(text));
            let outcome = text.and_then(|text| {
                let delimiter = *self.delimiter.get_or_insert_with(|| delimiter(text));
                line::split(text, delimiter, &mut record.fields)
            });
            if let Err(fault) = outcome {
                record.fields.clear();
                record.fault = Some(fault);
            }
            return Ok(true);
        }
    }
}

/// The most frequent of the usual ones.
fn delimiter(first: &str) -> char {
    let count = |wanted: char| first.chars().filter(|letter| *letter == wanted).count();
    [';', '\t', ','].into_iter().max_by_key(|letter| count(*letter)).unwrap_or(',')
}

impl Layout {
    fn of(head: &[Record], time_column: Option<&str>, wanted: &[String]) -> anyhow::Result<Self> {
        let first = &head[0];
        let header = first.fault.is_none() && is_header(&first.fields);
        let rows: Vec<&Record> =
            head.iter().skip(usize::from(header)).filter(|record| record.fault.is_none()).collect();
        let width = head.iter().map(|record| record.fields.len()).max().unwrap_or(0);
        let names: Vec<String> = (0..width)
            .map(|index| {
                let name = first.fields.get(index).filter(|name| header && !name.trim().is_empty());
                name.map_or_else(|| format!("column{}", index + 1), |name| name.trim().to_owned())
            })
            .collect();
        if let (0, Some(fault)) = (width, first.fault) {
            bail!("none of its first lines can be read ({fault}); a text with columns for a time and numbers is right");
        }
        let columns = Columns { names: &names, rows: &rows };
        let time = columns.time(time_column, header)?;
        let values = columns.values(time, wanted)?;
        Ok(Self { header, time, values })
    }
}

/// A first line is a header when it names a time, or when nothing in it is a number or a time.
fn is_header(fields: &[String]) -> bool {
    let is_data = |text: &String| stamp::parse(text).is_some() || matches!(number(text), Some(Reading::Value(_)));
    fields.iter().any(|name| names_time(name)) || !fields.iter().any(is_data)
}

fn names_time(name: &str) -> bool {
    TIME_NAMES.contains(&name.trim().to_ascii_lowercase().as_str())
}

/// The columns of the first lines.
struct Columns<'a> {
    names: &'a [String],
    rows: &'a [&'a Record],
}

impl Columns<'_> {
    fn share(&self, column: usize, is: impl Fn(&str) -> bool) -> (usize, usize) {
        let texts =
            self.rows.iter().filter_map(|record| record.fields.get(column)).filter(|text| !text.trim().is_empty());
        texts.fold((0, 0), |(hits, all), text| (hits + usize::from(is(text)), all + 1))
    }

    fn mostly(&self, column: usize, is: impl Fn(&str) -> bool) -> bool {
        let (hits, all) = self.share(column, is);
        hits * 2 > all
    }

    fn named(&self, name: &str) -> anyhow::Result<usize> {
        let place = self.names.iter().position(|known| known == name);
        place.with_context(|| {
            format!("there is no column `{}`; there are {}", columns::shown(name), columns::list(self.names))
        })
    }

    fn time(&self, wanted: Option<&str>, header: bool) -> anyhow::Result<usize> {
        if let Some(name) = wanted {
            return self.named(name);
        }
        let named = self.names.iter().position(|name| header && names_time(name));
        let written = || (0..self.names.len()).find(|column| self.mostly(*column, stamp::is_written));
        let counted = || self.mostly(0, |text| stamp::parse(text).is_some()).then_some(0);
        named.or_else(written).or_else(counted).with_context(|| {
            format!("no column holds times; the columns are {}: name one with --time-column", columns::list(self.names))
        })
    }

    fn values(&self, time: usize, wanted: &[String]) -> anyhow::Result<Vec<(usize, String)>> {
        let mut values = Vec::new();
        if wanted.is_empty() {
            let others = (0..self.names.len()).filter(|column| *column != time);
            values.extend(others.filter(|column| self.holds_numbers(*column)));
        } else {
            for name in wanted {
                values.push(self.named(name)?);
            }
        }
        if values.is_empty() {
            bail!("no column holds numbers; the columns are {}", columns::list(self.names));
        }
        ensure!(values.len() <= MOST_COLUMNS, "{} columns: at most {MOST_COLUMNS} can be scored", values.len());
        Ok(values.into_iter().map(|column| (column, self.names[column].clone())).collect())
    }

    /// A column without any text that is no number is one of numbers, even if it is empty so far.
    fn holds_numbers(&self, column: usize) -> bool {
        let (numbers, all) = self.share(column, |text| number(text).is_some());
        numbers > 0 || all == 0
    }
}

#[cfg(test)]
mod tests;
