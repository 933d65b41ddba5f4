//! Tables as archives of `NumPy`: a zip with the arrays `X` (rows x features) and, if there are labels, `y`.
//!
//! Never: unpacks more than the bound.

use std::io::{Cursor, Read as _};

use anyhow::{Context as _, Result, bail, ensure};
use zip::ZipArchive;

use super::npy::{self, Array};
use super::table::{self, Bad, Columns, Table};
use crate::columns;

/// What one array may unpack to.
const MOST_BYTES: u64 = 4 << 30;

/// Reads an archive.
///
/// # Errors
/// When there is no table in it, or the labels are not one per row.
pub(super) fn read(bytes: &[u8], columns: &Columns<'_>) -> Result<Table> {
    ensure!(columns.ignore.is_empty(), "--ignore is for CSV: an array's columns have no names");
    let mut archive = ZipArchive::new(Cursor::new(bytes)).context("it is no .npz")?;
    let names: Result<Vec<String>, _> = archive
        .file_names()
        .map(|name| name.map(|name| name.strip_suffix(".npy").unwrap_or(&name).to_owned()))
        .collect();
    let names = names.context("the name of an array is no text")?;
    let label = match columns.label {
        Some(label) => {
            let known = names.iter().any(|name| name == label);
            ensure!(known, "--label {label}: the arrays are {}", columns::list(&names));
            Some(label)
        }
        None => table::LABELS.into_iter().find(|label| names.iter().any(|name| name == label)),
    };
    let features = match &names[..] {
        names if names.iter().any(|name| name == "X") => "X",
        [only] => only,
        [one, other] if label == Some(other) => one,
        [one, other] if label == Some(one) => other,
        _ => bail!("it has no array X; its arrays are {}", columns::list(&names)),
    };
    let rows = array(&mut archive, features)?;
    let labels = label.map(|label| array(&mut archive, label)).transpose()?;
    assemble(rows, labels)
}

/// Reads a single array without labels.
///
/// # Errors
/// When it is none.
pub(super) fn read_bare(bytes: &[u8], columns: &Columns<'_>) -> Result<Table> {
    ensure!(columns.ignore.is_empty() && columns.label.is_none(), "a bare .npy has no names; --label needs an .npz");
    assemble(npy::read(bytes)?, None)
}

fn array(archive: &mut ZipArchive<Cursor<&[u8]>>, name: &str) -> Result<Array> {
    let entry = archive.by_name(&[name, ".npy"].concat()).with_context(|| format!("array {name}"))?;
    let mut bytes = Vec::new();
    let most = MOST_BYTES.min(entry.size().saturating_add(1));
    entry.take(most + 1).read_to_end(&mut bytes).with_context(|| format!("array {name} cannot be unpacked"))?;
    ensure!(bytes.len() as u64 <= MOST_BYTES, "array {name} has more than {} GiB", MOST_BYTES >> 30);
    npy::read(&bytes).with_context(|| format!("array {name}"))
}

fn assemble(rows: Array, labels: Option<Array>) -> Result<Table> {
    ensure!(rows.width > 0, "its rows have no features");
    let mut table = Table { width: rows.width, labels: labels.as_ref().map(|_| Vec::new()), ..Table::default() };
    let Some(labels) = labels else {
        table.numbers = (1..=rows.rows as u64).collect();
        table.values = rows.values;
        return Ok(table);
    };
    ensure!(
        labels.values.len() == rows.rows && (labels.width == 1 || labels.rows == 1 || !labels.is_table),
        "it has {} rows and {} labels",
        rows.rows,
        labels.values.len()
    );
    for (index, (row, label)) in rows.values.chunks_exact(rows.width).zip(&labels.values).enumerate() {
        let number = index as u64 + 1;
        match table::label_of(*label) {
            Ok(label) => {
                table.values.extend_from_slice(row);
                table.numbers.push(number);
                table.labels.get_or_insert_default().push(label);
            }
            Err(error) => {
                table.bad.push(Bad { unit: "row", number, reason: error.to_string(), column: None });
            }
        }
    }
    Ok(table)
}
