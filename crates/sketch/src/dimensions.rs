//! Configured dimensions: which labels a series has besides the built-in ones, and their values.
//!
//! Value of a dimension: the span's attribute, else the resource's, else the configured default,
//! else the label is omitted; so it is when the text is empty. The texts are the collector's
//! canonical strings of the attribute values.
//!
//! Never: allocates for a span once the scratch space has grown to what the spans need.

use std::fmt::Write;
use std::sync::Arc;

use mirador_otlp::value::{Attributes, Value};

use crate::config::{BuiltIn, Config};
use crate::key::Excluded;
use crate::resource::Part;
use crate::text::{Texts, cut};

/// What the labels of a series are made of.
#[derive(Debug)]
pub(crate) struct Dimensions {
    /// Names, sorted, each once.
    pub(crate) names: Arc<[Arc<str>]>,
    /// Default per name.
    pub(crate) defaults: Vec<Option<Box<str>>>,
    /// Built-in labels that are left out.
    pub(crate) excluded: Excluded,
    /// Longest label value in bytes.
    pub(crate) limit: usize,
    /// Seed of the text hashes.
    pub(crate) seed: u64,
}

impl Dimensions {
    /// Reads the configuration; repeated names count once.
    pub(crate) fn new(config: &Config, seed: u64) -> Self {
        let mut all: Vec<_> = config.dimensions.iter().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all.dedup_by(|a, b| a.name == b.name);
        let limit = config.label_value_length_limit;
        let default = |text: &String| cut(text, limit).0.into();
        Self {
            names: all.iter().map(|one| Arc::from(one.name.as_str())).collect(),
            defaults: all.iter().map(|one| one.default.as_ref().map(default)).collect(),
            excluded: Excluded::of(config.exclude_dimensions.iter().copied()),
            limit,
            seed,
        }
    }

    /// True when the built-in `label` is left out.
    #[inline]
    pub(crate) const fn excludes(&self, label: BuiltIn) -> bool {
        self.excluded.contains(label)
    }
}

/// The dimension values of one span, in reused space.
#[derive(Debug, Default)]
pub(crate) struct Values {
    text: String,
    slots: Vec<Slot>,
}

/// Where the value of one dimension stands.
#[derive(Debug, Clone, Copy)]
enum Slot {
    /// With the resource, if it has one.
    Resource,
    /// The span has an empty one: no such label.
    Omitted,
    /// In `Values::text`.
    Span { start: usize, end: usize, hash: u64 },
}

impl Values {
    /// Reads the values of a span; true when one was cut.
    pub(crate) fn read(&mut self, attributes: &Attributes<'_>, dimensions: &Dimensions) -> bool {
        self.text.clear();
        self.slots.clear();
        let mut missing = dimensions.names.len();
        self.slots.resize(missing, Slot::Resource);
        let mut was_cut = false;
        for attribute in attributes.entries() {
            if missing == 0 {
                break;
            }
            let at = dimensions.names.iter().position(|name| name.as_bytes() == attribute.key);
            let Some(at) = at.filter(|at| matches!(self.slots[*at], Slot::Resource)) else {
                continue;
            };
            missing -= 1;
            let start = self.text.len();
            was_cut |= write_cut(&mut self.text, &attribute.value(), dimensions.limit);
            let end = self.text.len();
            self.slots[at] = if start == end {
                Slot::Omitted
            } else {
                let hash = Texts::hash(dimensions.seed, &self.text[start..end]);
                Slot::Span { start, end, hash }
            };
        }
        was_cut
    }

    /// The values as (text, hash), in the order of the names.
    #[inline]
    pub(crate) fn iter<'a>(&'a self, part: &'a Part) -> impl Iterator<Item = Option<(&'a str, u64)>> + 'a {
        let shared = part.dimensions.iter();
        self.slots.iter().zip(shared).map(|(slot, shared)| match *slot {
            Slot::Resource => shared.as_ref().map(|label| (&*label.text, label.hash)),
            Slot::Omitted => None,
            Slot::Span { start, end, hash } => Some((&self.text[start..end], hash)),
        })
    }
}

/// Appends at most `limit` bytes of the value's canonical text; true when it was cut.
pub(crate) fn write_cut(out: &mut String, value: &Value<'_>, limit: usize) -> bool {
    let mut limited = Limited { out, left: limit };
    match value {
        Value::Str(text) => limited.write_str(text),
        // The canonical text of these needs no memory of its own.
        Value::Int(number) => limited.write_str(decimal(*number, &mut [0; 20])),
        Value::Bool(flag) => limited.write_str(if *flag { "true" } else { "false" }),
        other => write!(limited, "{other}"),
    }
    .is_err()
}

/// The number in decimal, as `Display` writes it: status codes are labels of many spans, and formatting machinery
/// costs more than the rest of such a span.
fn decimal(number: i64, digits: &mut [u8; 20]) -> &str {
    let (mut left, mut at) = (number.unsigned_abs(), digits.len());
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    if number < 0 {
        at -= 1;
        digits[at] = b'-';
    }
    std::str::from_utf8(&digits[at..]).expect("digits and a sign")
}

/// Stops the formatting of a value where its label ends.
struct Limited<'a> {
    out: &'a mut String,
    left: usize,
}

impl Write for Limited<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let (kept, was_cut) = cut(text, self.left);
        self.out.push_str(kept);
        // What follows a cut is not wanted, even if it would fit.
        self.left = if was_cut { 0 } else { self.left - kept.len() };
        if was_cut { Err(std::fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_are_written_as_display_writes_them(number in prop_oneof![any::<i64>(), -1_000..1_000_i64]) {
            let mut digits = [0; 20];
            prop_assert_eq!(decimal(number, &mut digits), number.to_string());
        }
    }

    #[test]
    fn the_longest_number_has_room() {
        assert_eq!(decimal(i64::MIN, &mut [0; 20]), i64::MIN.to_string());
    }
}
