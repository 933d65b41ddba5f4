//! The array format of `NumPy`, as far as tables need it: numbers of any width, either byte order, rows or columns first.
//!
//! <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>. Never: allocates what the bytes do not
//! back, reads objects.

use anyhow::{Context as _, Result, bail, ensure};

/// The first bytes.
pub(super) const MAGIC: &[u8] = b"\x93NUMPY";

/// An array of one or two dimensions.
#[derive(Debug, PartialEq)]
pub(super) struct Array {
    /// One row after the other.
    pub(super) values: Vec<f64>,
    pub(super) rows: usize,
    /// Numbers of a row; 1 for one dimension.
    pub(super) width: usize,
    /// Whether it has two dimensions.
    pub(super) is_table: bool,
}

/// What the header says.
#[derive(Debug, PartialEq)]
struct Header {
    /// `f`, `i`, `u` or `b`.
    kind: u8,
    bytes: usize,
    is_big_endian: bool,
    columns_first: bool,
    shape: Vec<usize>,
}

/// Reads an array.
///
/// # Errors
/// When it is none, or none of numbers.
pub(super) fn read(bytes: &[u8]) -> Result<Array> {
    let rest = bytes.strip_prefix(MAGIC).context("it does not begin like an .npy")?;
    let (version, rest) = rest.split_first_chunk::<2>().context("it ends in its header")?;
    let (length, rest) = if version[0] == 1 {
        let (length, rest) = rest.split_first_chunk::<2>().context("it ends in its header")?;
        (usize::from(u16::from_le_bytes(*length)), rest)
    } else {
        let (length, rest) = rest.split_first_chunk::<4>().context("it ends in its header")?;
        (u32::from_le_bytes(*length) as usize, rest)
    };
    let (header, data) = rest.split_at_checked(length).context("it ends in its header")?;
    let header = header_of(&String::from_utf8_lossy(header))?;
    let (rows, width) = match header.shape[..] {
        [rows] => (rows, 1),
        [rows, width] => (rows, width),
        _ => bail!("it has {} dimensions, not one or two", header.shape.len()),
    };
    let count = rows.checked_mul(width).context("its shape is too large")?;
    ensure!(
        Some(data.len()) == count.checked_mul(header.bytes),
        "it has {} bytes of data, its shape and type need another number",
        data.len()
    );
    let mut values: Vec<f64> = data.chunks_exact(header.bytes).map(|bytes| number(&header, bytes)).collect();
    if header.columns_first && rows > 0 && width > 1 {
        values = (0..count).map(|index| values[index % width * rows + index / width]).collect();
    }
    Ok(Array { values, rows, width, is_table: header.shape.len() == 2 })
}

/// The header is a literal of a Python dictionary with three keys.
fn header_of(text: &str) -> Result<Header> {
    let after = |key: &str| {
        let quoted = ["'", key, "':"].concat();
        text.split_once(&quoted).map(|(_, rest)| rest.trim_start()).with_context(|| format!("its header has no {key}"))
    };
    let kind = after("descr")?;
    let kind = kind.strip_prefix('\'').and_then(|rest| rest.split_once('\'')).map(|(kind, _)| kind);
    let kind = kind.context("its type is a structure, not a number")?;
    let columns_first = after("fortran_order")?.starts_with("True");
    let shape = after("shape")?.strip_prefix('(').and_then(|rest| rest.split_once(')')).map(|(shape, _)| shape);
    let shape = shape.context("its header has no shape")?;
    let shape: Result<Vec<usize>, _> =
        shape.split(',').map(str::trim).filter(|size| !size.is_empty()).map(str::parse).collect();
    let order = kind.bytes().next().unwrap_or_default();
    let (order, rest) = if b"<>|=".contains(&order) { (order, &kind[1..]) } else { (b'=', kind) };
    let (letter, bytes) = rest.split_at_checked(1).context("its type has no name")?;
    let bytes = bytes.parse().unwrap_or_default();
    let letter = letter.bytes().next().unwrap_or_default();
    let known = match letter {
        b'f' => [2, 4, 8].contains(&bytes),
        b'i' | b'u' => [1, 2, 4, 8].contains(&bytes),
        b'b' => bytes == 1,
        _ => false,
    };
    ensure!(known, "its type is {kind}, not a number of up to 8 bytes");
    let is_big_endian = order == b'>' || order == b'=' && cfg!(target_endian = "big");
    Ok(Header {
        kind: letter,
        bytes,
        is_big_endian,
        columns_first,
        shape: shape.context("its shape is not of numbers")?,
    })
}

fn number(header: &Header, bytes: &[u8]) -> f64 {
    let mut wide = [0; 8];
    let place = &mut wide[..header.bytes];
    place.copy_from_slice(bytes);
    if header.is_big_endian {
        place.reverse();
    }
    let raw = u64::from_le_bytes(wide);
    let unused = 64 - 8 * header.bytes as u32;
    match (header.kind, header.bytes) {
        (b'f', 8) => f64::from_bits(raw),
        (b'f', 4) => f64::from(f32::from_bits(raw as u32)),
        (b'f', 2) => half(raw as u16),
        (b'i', _) => ((raw << unused) as i64 >> unused) as f64,
        _ => raw as f64,
    }
}

/// IEEE 754 binary16.
fn half(bits: u16) -> f64 {
    let (sign, exponent, fraction) = (bits >> 15, i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    let size = match exponent {
        0 => fraction * 2.0_f64.powi(-24),
        31 if fraction > 0.0 => f64::NAN,
        31 => f64::INFINITY,
        _ => (1.0 + fraction / 1024.0) * 2.0_f64.powi(exponent - 15),
    };
    if sign == 1 { -size } else { size }
}
