//! Tables as text: CSV with or without a header.
//!
//! Never: guesses what a field means; what is no number is reported with its line. The first line is a header
//! unless all of its fields are numbers.

use anyhow::{Context as _, Result, bail};

use super::table::{self, Bad, Columns, Table};
use crate::columns;

/// Words for a value that is not known.
const MISSING: [&str; 6] = ["", "na", "nan", "null", "none", "?"];
/// What may stand between fields.
const DELIMITERS: [u8; 3] = [b',', b';', b'\t'];

/// Reads a table.
///
/// # Errors
/// When there is no table in it at all, or a column that is named is not there.
pub(super) fn read(bytes: &[u8], columns: &Columns<'_>) -> Result<Table> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let mut reader = ::csv::ReaderBuilder::new()
        .delimiter(delimiter(bytes))
        .has_headers(false)
        .flexible(true)
        .trim(::csv::Trim::All)
        .from_reader(bytes);
    let mut record = ::csv::ByteRecord::new();
    if !reader.read_byte_record(&mut record).context("the first line is no CSV")? {
        bail!("it is empty");
    }
    let has_header = record.iter().any(|field| value(field).is_none());
    let names: Vec<String> = if has_header {
        record.iter().map(|field| String::from_utf8_lossy(field).into_owned()).collect()
    } else {
        (1..=record.len()).map(|number| number.to_string()).collect()
    };
    let layout = Layout::new(&names, columns)?;
    let mut table =
        Table { width: layout.features.len(), labels: layout.label.map(|_| Vec::new()), ..Table::default() };
    let mut number = 0;
    let mut is_read = has_header && !reader.read_byte_record(&mut record)?;
    while !is_read {
        number += 1;
        let line = record.position().map_or(number, |position| line(bytes, position));
        match layout.row(&record, &names, &mut table.values) {
            Ok(label) => {
                table.numbers.push(number);
                if let (Some(labels), Some(label)) = (&mut table.labels, label) {
                    labels.push(label);
                }
            }
            Err((reason, column)) => {
                table.values.truncate(table.numbers.len() * table.width);
                table.bad.push(Bad { unit: "line", number: line, reason, column });
            }
        }
        is_read = !reader.read_byte_record(&mut record).context("it ends inside a quoted field")?;
    }
    Ok(table)
}

/// Which columns are what.
struct Layout {
    features: Vec<usize>,
    label: Option<usize>,
}

impl Layout {
    fn new(names: &[String], columns: &Columns<'_>) -> Result<Self> {
        let find = |wanted: &str| names.iter().position(|name| name == wanted);
        let known = || columns::list(names);
        let label = match columns.label {
            Some(wanted) => {
                let found = find(wanted);
                Some(found.with_context(|| format!("--label {wanted}: the columns are {}", known()))?)
            }
            None => names.iter().position(|name| table::LABELS.contains(&name.to_ascii_lowercase().as_str())),
        };
        let ignored: Result<Vec<usize>> = columns
            .ignore
            .iter()
            .map(|wanted| find(wanted).with_context(|| format!("--ignore {wanted}: the columns are {}", known())))
            .collect();
        let ignored = ignored?;
        let features: Vec<usize> =
            (0..names.len()).filter(|column| Some(*column) != label && !ignored.contains(column)).collect();
        if features.is_empty() {
            bail!("it has no column that is a feature");
        }
        Ok(Self { features, label })
    }

    /// Appends a row's features; its label, or what is wrong and with which column.
    fn row(
        &self,
        record: &::csv::ByteRecord,
        names: &[String],
        values: &mut Vec<f64>,
    ) -> Result<Option<bool>, (String, Option<String>)> {
        if record.len() != names.len() {
            return Err((format!("it has {} fields, not {}", record.len(), names.len()), None));
        }
        for column in &self.features {
            let field = &record[*column];
            let Some(value) = value(field) else {
                let name = &names[*column];
                let text: String = String::from_utf8_lossy(field).chars().take(40).collect();
                return Err((format!("{} is {text:?}, which is no number", columns::shown(name)), Some(name.clone())));
            };
            values.push(value);
        }
        let Some(label) = self.label else { return Ok(None) };
        let text = String::from_utf8_lossy(&record[label]);
        table::label(&text).map(Some).map_err(|error| (error.to_string(), None))
    }
}

/// A number, NaN for a missing one, `None` for anything else.
fn value(field: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(field).ok()?.trim();
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    MISSING.contains(&text.to_ascii_lowercase().as_str()).then_some(f64::NAN)
}

/// The line that a record begins on: empty lines before it are counted to it.
fn line(bytes: &[u8], position: &::csv::Position) -> u64 {
    let rest = bytes.get(position.byte() as usize..).unwrap_or_default();
    let empty = rest.iter().take_while(|byte| b"\r\n".contains(byte)).filter(|byte| **byte == b'\n').count();
    position.line() + empty as u64
}

/// The one that stands most often in the first line.
fn delimiter(bytes: &[u8]) -> u8 {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let count = |wanted: u8| line.split(|byte| *byte == wanted).count();
    // The earlier one wins a tie.
    DELIMITERS.into_iter().rev().max_by_key(|delimiter| count(*delimiter)).unwrap_or(b',')
}
