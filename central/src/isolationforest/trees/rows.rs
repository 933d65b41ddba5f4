//! Rows of numbers as the forest reads them: one slice, row after row.
//!
//! Never: copies. Invariant: the slice holds a whole number of rows, at least one feature wide.

/// A table that somebody else owns.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    values: &'a [f64],
    width: usize,
}

/// Why a slice is no table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RowsError {
    /// No feature.
    #[error("a row needs at least one feature")]
    NoFeature,
    /// A row is cut off.
    #[error("{values} values are no whole number of rows of {width} features")]
    Ragged {
        /// Values in the slice.
        values: usize,
        /// Features of a row.
        width: usize,
    },
}

impl<'a> Rows<'a> {
    /// Rows of `width` features, one after the other.
    pub fn new(values: &'a [f64], width: usize) -> Result<Self, RowsError> {
        if width == 0 {
            return Err(RowsError::NoFeature);
        }
        if !values.len().is_multiple_of(width) {
            return Err(RowsError::Ragged { values: values.len(), width });
        }
        Ok(Self { values, width })
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.values.len() / self.width
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Features of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Row number `index`; panics when there is none.
    pub fn row(&self, index: usize) -> &'a [f64] {
        &self.values[index * self.width..(index + 1) * self.width]
    }

    /// All rows in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [f64]> + use<'a> {
        self.values.chunks_exact(self.width)
    }
}
