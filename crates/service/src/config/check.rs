//! Keys against the schema: every unknown key is found, with the nearest one that is known.
//!
//! Unknown keys are taken out of the tree, so that serde finds the other problems behind them.

use super::Problem;
use super::read::{Segment, path};
use super::schema::{Catalog, Shape};
use super::tree::{Kind, Node, Value};

/// More known keys than this are not listed in a message.
const LISTED: usize = 12;

/// Reports unknown keys and opens sections that are written with nothing after their key.
pub(super) fn check(root: &mut Node, catalog: &Catalog, problems: &mut Vec<Problem>) {
    walk(root, catalog, &[catalog.root()], &mut Vec::new(), problems);
}

fn walk<'s>(
    node: &mut Node,
    catalog: &'s Catalog,
    schemas: &[&'s serde_json::Value],
    at: &mut Vec<Segment>,
    problems: &mut Vec<Problem>,
) {
    let shape = catalog.shape(schemas);
    match &mut node.value {
        Value::Scalar(scalar) => {
            let nothing = scalar.kind == Kind::Null && scalar.text.is_empty() && scalar.written.is_none();
            if nothing && shape.is_section() {
                *node = Node::section(node.line);
            }
        }
        Value::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                at.push(Segment::Index(index));
                walk(item, catalog, &shape.items, at, problems);
                at.pop();
            }
        }
        // A list or a scalar is expected: serde says so, with what would be right.
        Value::Map(_) if shape.keys.is_empty() && shape.others.is_empty() => {}
        Value::Map(entries) => entries.retain_mut(|entry| {
            let schemas = match shape.keys.get(entry.key.as_str()) {
                Some(schemas) => schemas,
                None if shape.open || !shape.others.is_empty() => &shape.others,
                None => {
                    at.push(Segment::Key(entry.key.clone()));
                    let message = unknown(&entry.key, &shape);
                    problems.push(Problem { line: Some(entry.line), key: path(at), message });
                    at.pop();
                    return false;
                }
            };
            at.push(Segment::Key(entry.key.clone()));
            walk(&mut entry.node, catalog, schemas, at, problems);
            at.pop();
            true
        }),
    }
}

fn unknown(key: &str, shape: &Shape<'_>) -> String {
    let known: Vec<&str> = shape.keys.keys().copied().collect();
    match nearest(key, &known) {
        Some(near) => format!("unknown key; did you mean \"{near}\"?"),
        None if known.len() <= LISTED => format!("unknown key; expected one of {}", known.join(", ")),
        None => "unknown key; docs/config.md lists what is known here".to_owned(),
    }
}

/// The known word with the smallest edit distance, if it is near enough to be meant.
pub fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace(['-', '_'], "");
    let near = known.iter().map(|known| (strsim::osa_distance(&plain(word), &plain(known)), *known));
    let (distance, near) = near.min()?;
    let allowed = (word.len().max(near.len()) / 3).max(1);
    (distance <= allowed).then_some(near)
}
