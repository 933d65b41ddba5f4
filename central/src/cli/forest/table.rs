//! What is read from any kind of input: features, labels, and the rows that could not be read.
//!
//! Never: keeps a row that is not complete. Invariant: values, labels and numbers speak of the same rows.

use std::fmt;

use anyhow::{Result, bail};

use crate::columns;

/// What the command line says about columns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns<'a> {
    /// The labels' name.
    pub(super) label: Option<&'a str>,
    /// Names that are no features.
    pub(super) ignore: &'a [String],
}

/// Names under which labels are found.
pub(super) const LABELS: [&str; 2] = ["label", "y"];

/// Rows that can be scored.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// One row after the other; NaN is a missing value.
    pub(super) values: Vec<f64>,
    /// Features of a row.
    pub(super) width: usize,
    /// Whether each row is an anomaly, if that is known.
    pub(super) labels: Option<Vec<bool>>,
    /// The number of each row in the input, from 1, bad rows counted.
    pub(super) numbers: Vec<u64>,
    /// Rows that are left out.
    pub(super) bad: Vec<Bad>,
}

/// A row that cannot be scored.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bad {
    /// What is counted: `line` of a text, `row` of an array.
    pub(super) unit: &'static str,
    pub(super) number: u64,
    pub(super) reason: String,
    /// The column that is to blame.
    pub(super) column: Option<String>,
}

impl fmt::Display for Bad {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}: {}; the row is left out", self.unit, self.number, self.reason)
    }
}

impl Table {
    /// What may help when no row is left.
    pub(super) fn hint(&self) -> String {
        let column = self.bad.first().and_then(|bad| bad.column.as_deref());
        column.map_or_else(String::new, |name| {
            format!("; if column {0} is no feature: --ignore {0}", columns::shown(name))
        })
    }
}

/// A label's meaning.
///
/// # Errors
/// Says what it would have to be.
pub(super) fn label(text: &str) -> Result<bool> {
    let text = text.trim();
    if let Ok(number) = text.parse::<f64>() {
        return label_of(number);
    }
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "anomaly" | "outlier" => Ok(true),
        "false" | "no" | "normal" | "inlier" => Ok(false),
        _ => bail!("the label {text:?} is neither 1 (anomaly) nor 0"),
    }
}

/// A label's meaning.
///
/// # Errors
/// Says what it would have to be.
pub(super) fn label_of(number: f64) -> Result<bool> {
    let is = |wanted: f64| number.total_cmp(&wanted).is_eq();
    if is(1.0) {
        Ok(true)
    } else if is(0.0) || is(-0.0) {
        Ok(false)
    } else {
        bail!("the label {number} is neither 1 (anomaly) nor 0")
    }
}
