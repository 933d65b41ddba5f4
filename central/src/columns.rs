//! Names of a foreign table's columns in messages: printable, short, and not endlessly many.
//!
//! Never: changes a name that is looked up, only how it is shown.

/// Letters of a name that are shown.
const LETTERS: usize = 40;
/// Names that are shown.
const NAMES: usize = 20;

/// A name for a terminal: without anything that would move its cursor, and with an end.
pub(crate) fn shown(name: &str) -> String {
    let head = || name.chars().take(LETTERS);
    let is_plain = head().all(|letter| !letter.is_control() && letter != char::REPLACEMENT_CHARACTER);
    let mut text: String = if is_plain { head().collect() } else { head().flat_map(char::escape_default).collect() };
    if name.chars().nth(LETTERS).is_some() {
        text.push('…');
    }
    if is_plain && !text.is_empty() { text } else { format!("\"{text}\"") }
}

/// Names, one after the other.
pub(crate) fn list<T: AsRef<str>>(names: &[T]) -> String {
    let first = names.iter().take(NAMES).map(|name| shown(name.as_ref())).collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => "none".to_owned(),
        many if many > NAMES => format!("{first} and {} more", many - NAMES),
        _ => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_stand_as_they_are_and_others_are_quoted_and_escaped() {
        assert_eq!(list(&["time", "größe", "a b"]), "time, größe, a b");
        assert_eq!(shown("\u{1b}[2J\u{0}x"), "\"\\u{1b}[2J\\u{0}x\"");
        assert_eq!(shown("\u{fffd}\u{fffd}"), "\"\\u{fffd}\\u{fffd}\"");
        assert_eq!(shown(""), "\"\"");
        assert_eq!(shown(&"n".repeat(5000)), "n".repeat(LETTERS) + "…");
    }

    #[test]
    fn a_thousand_names_are_told_by_the_first_and_their_number() {
        let names: Vec<String> = (0..1000).map(|number| format!("c{number}")).collect();
        assert!(list(&names).ends_with("c18, c19 and 980 more"), "{}", list(&names));
        assert_eq!(list::<&str>(&[]), "none");
    }
}
