//! Lines of a file, one at a time and never longer than a bound, and the fields of a line.
//!
//! A quoted field ends with its line, so that one quote that nobody closed costs one row and not the rest of the file.
//!
//! Never: holds more than one line.

use std::io::{self, BufRead};

/// What the next line was.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// It is in the buffer, without its end.
    Read,
    /// It was longer than the bound and has been passed over.
    TooLong,
    /// The file has ended.
    End,
}

/// Reads the next line into `buffer`.
pub(super) fn next(reader: &mut dyn BufRead, buffer: &mut Vec<u8>, bound: usize) -> io::Result<Line> {
    buffer.clear();
    let mut read = false;
    let mut too_long = false;
    loop {
        let chunk = reader.fill_buf()?;
        if chunk.is_empty() {
            break;
        }
        read = true;
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let part = &chunk[..end.unwrap_or(chunk.len())];
        too_long |= buffer.len() + part.len() > bound;
        if !too_long {
            buffer.extend_from_slice(part);
        }
        let consumed = end.map_or(part.len(), |end| end + 1);
        reader.consume(consumed);
        if end.is_some() {
            break;
        }
    }
    if buffer.last() == Some(&b'\r') {
        buffer.pop();
    }
    Ok(match (read, too_long) {
        (false, _) => Line::End,
        (true, true) => Line::TooLong,
        (true, false) => Line::Read,
    })
}

/// The fields of a line, without quotes; `fields` keeps its allocations from line to line.
pub(super) fn split(line: &str, delimiter: char, fields: &mut Vec<String>) -> Result<(), &'static str> {
    let mut count = 0;
    let mut next = |fields: &mut Vec<String>| {
        if count == fields.len() {
            fields.push(String::new());
        }
        fields[count].clear();
        count += 1;
        count - 1
    };
    let mut at = next(fields);
    let mut quoted = false;
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                fields[at].push('"');
            }
            '"' if quoted || fields[at].is_empty() => quoted = !quoted,
            letter if letter == delimiter && !quoted => at = next(fields),
            letter => fields[at].push(letter),
        }
    }
    fields.truncate(count);
    if quoted { Err("a quote is not closed on its line") } else { Ok(()) }
}

/// Appends a field, quoted where it has to be.
pub(super) fn push_field(row: &mut Vec<u8>, field: &str) {
    if !field.contains([',', '"', '\n', '\r']) {
        row.extend_from_slice(field.as_bytes());
        return;
    }
    row.push(b'"');
    for letter in field.bytes() {
        if letter == b'"' {
            row.push(b'"');
        }
        row.push(letter);
    }
    row.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(line: &str) -> Vec<String> {
        let mut fields = Vec::new();
        split(line, ',', &mut fields).unwrap();
        fields
    }

    #[test]
    fn fields_are_split_at_delimiters_that_are_not_quoted() {
        assert_eq!(fields("a,b,,"), ["a", "b", "", ""]);
        assert_eq!(fields("\"a,b\",\"c\"\"d\",e\"f"), ["a,b", "c\"d", "e\"f"]);
        assert_eq!(fields(""), [""]);
        assert!(split("a,\"b", ',', &mut Vec::new()).is_err());
    }

    #[test]
    fn a_long_line_is_passed_over_and_the_next_one_is_read() {
        let mut text: &[u8] = b"short\r\nmuch too long a line\nlast";
        let mut buffer = Vec::new();
        assert_eq!(next(&mut text, &mut buffer, 8).unwrap(), Line::Read);
        assert_eq!(buffer, b"short");
        assert_eq!(next(&mut text, &mut buffer, 8).unwrap(), Line::TooLong);
        assert_eq!(next(&mut text, &mut buffer, 8).unwrap(), Line::Read);
        assert_eq!(buffer, b"last");
        assert_eq!(next(&mut text, &mut buffer, 8).unwrap(), Line::End);
    }

    proptest::proptest! {
        #[test]
        fn property_what_is_quoted_is_read_back(wanted in proptest::collection::vec("[a-z,\" ]{0,8}", 1..6)) {
            let mut row = Vec::new();
            for (index, field) in wanted.iter().enumerate() {
                if index > 0 {
                    row.push(b',');
                }
                push_field(&mut row, field);
            }
            proptest::prop_assert_eq!(fields(std::str::from_utf8(&row).unwrap()), wanted);
        }
    }
}
