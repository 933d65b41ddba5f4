//! The tree into the configuration type, by serde, with errors that say where.
//!
//! serde stops at its first error; here the value that caused it is reported and taken out, and
//! the rest is read again, so that one run shows every wrong value (up to a bound).

mod deserializer;

use std::fmt::Write;

use serde::de::DeserializeOwned;

use super::Problem;
use super::tree::{Node, Value};
use deserializer::{Failure, Reader};

/// Wrong values reported in one run.
const MAX_ROUNDS: usize = 32;

/// One step from the root to a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    Key(String),
    Index(usize),
}

/// `a.b[0].c`.
pub(super) fn path(segments: &[Segment]) -> String {
    let mut text = String::new();
    for segment in segments {
        match segment {
            Segment::Key(key) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(key);
            }
            // Writing to a String cannot fail.
            Segment::Index(index) => write!(text, "[{index}]").expect("a String takes every write"),
        }
    }
    text
}

/// The value, or None with at least one problem added. With problems added, a value that comes
/// back lacks the parts that were wrong.
pub(super) fn read<T: DeserializeOwned>(root: &mut Node, problems: &mut Vec<Problem>) -> Option<T> {
    let mut removed: Vec<Vec<Segment>> = Vec::new();
    for _ in 0..MAX_ROUNDS {
        let failure = match T::deserialize(Reader::new(root)) {
            Ok(value) => return Some(value),
            Err(failure) => failure,
        };
        let at = failure.path();
        // What is missing because it was wrong has been reported already.
        let reported = removed.contains(&at) || problems.iter().any(|problem| problem.key == path(&at));
        if !reported {
            problems.push(problem(&failure, &at));
        }
        if failure.is_missing() || at.is_empty() || !remove(root, &at) {
            return None;
        }
        removed.push(at);
    }
    None
}

fn problem(failure: &Failure, at: &[Segment]) -> Problem {
    Problem { line: failure.line(), key: path(at), message: failure.message() }
}

/// Takes the value at `at` out of the tree; false when there is none.
fn remove(root: &mut Node, at: &[Segment]) -> bool {
    let Some((last, parents)) = at.split_last() else { return false };
    // Taking an item out would move the places of those behind it; the whole list goes.
    let Segment::Key(last) = last else { return remove(root, parents) };
    let mut node = root;
    for segment in parents {
        let child = match (&mut node.value, segment) {
            (Value::Map(entries), Segment::Key(key)) => {
                entries.iter_mut().find(|entry| entry.key == *key).map(|entry| &mut entry.node)
            }
            (Value::List(items), Segment::Index(index)) => items.get_mut(*index),
            _ => None,
        };
        match child {
            Some(child) => node = child,
            None => return false,
        }
    }
    let Value::Map(entries) = &mut node.value else { return false };
    let before = entries.len();
    entries.retain(|entry| entry.key != *last);
    entries.len() < before
}
