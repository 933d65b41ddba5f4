//! References to the environment, put into scalars after the structure is known.

use super::Problem;
use super::read::{Segment, path};
use super::tree::{Kind, Node, Value};

/// A default may hold a reference whose default holds one, and so on; nobody needs more.
const MAX_NESTING: usize = 8;

/// Answers for the environment.
type Env<'e> = &'e dyn Fn(&str) -> Option<String>;

/// Expands every scalar below `root`; what cannot be expanded is a problem and stays as it was.
pub(super) fn expand(root: &mut Node, env: Env<'_>, problems: &mut Vec<Problem>) {
    walk(root, env, &mut Vec::new(), problems);
}

fn walk(node: &mut Node, env: Env<'_>, at: &mut Vec<Segment>, problems: &mut Vec<Problem>) {
    let line = node.line;
    match &mut node.value {
        Value::Scalar(scalar) if scalar.kind == Kind::Str && scalar.text.contains('$') => {
            match substitute(&scalar.text, env, MAX_NESTING) {
                Ok(text) => {
                    // `$$` alone is no reference: `"$$5"` stays the string that it was.
                    if has_reference(&scalar.text) {
                        scalar.kind = infer(&text);
                        scalar.written = Some(std::mem::replace(&mut scalar.text, text));
                    } else {
                        scalar.text = text;
                    }
                }
                Err(message) => problems.push(Problem { line: Some(line), key: path(at), message }),
            }
        }
        Value::Scalar(_) => {}
        Value::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                at.push(Segment::Index(index));
                walk(item, env, at, problems);
                at.pop();
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                at.push(Segment::Key(entry.key.clone()));
                walk(&mut entry.node, env, at, problems);
                at.pop();
            }
        }
    }
}

fn has_reference(text: &str) -> bool {
    text.replace("$$", "").contains("${")
}

fn substitute(text: &str, env: Env<'_>, nesting: usize) -> Result<String, String> {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        result.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some(after) = after.strip_prefix('{') {
            let end = closing(after).ok_or_else(|| {
                format!("{text:?}: \"${{\" without \"}}\"; expected ${{env:NAME}}, or $$ for a dollar sign")
            })?;
            result.push_str(&resolve(&after[..end], env, nesting)?);
            rest = &after[end + 1..];
        } else {
            result.push('$');
            rest = after;
        }
    }
    result.push_str(rest);
    Ok(result)
}

/// The index of the brace that closes a reference, past references inside of it.
fn closing(text: &str) -> Option<usize> {
    let mut open = 0_usize;
    let bytes = text.as_bytes();
    let mut index = 0;
    while index < bytes.len() {
        match bytes[index] {
            b'$' if bytes.get(index + 1) == Some(&b'{') => {
                open += 1;
                index += 1;
            }
            b'$' if bytes.get(index + 1) == Some(&b'$') => index += 1,
            b'}' if open == 0 => return Some(index),
            b'}' => open -= 1,
            _ => {}
        }
        index += 1;
    }
    None
}

/// `env:NAME`, `NAME`, each with `:-default`.
fn resolve(reference: &str, env: Env<'_>, nesting: usize) -> Result<String, String> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let name = name.strip_prefix("env:").unwrap_or(name);
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(format!(
            "${{{reference}}}: {name:?} is no variable's name; expected ${{env:NAME}} or ${{env:NAME:-default}}"
        ));
    }
    match (env(name), default) {
        (Some(value), _) => Ok(value),
        (None, Some(default)) => {
            let nesting = nesting
                .checked_sub(1)
                .ok_or_else(|| format!("${{{reference}}}: more than {MAX_NESTING} references inside each other"))?;
            substitute(default, env, nesting)
        }
        (None, None) => {
            Err(format!("environment variable {name} is not set; set it, or give a default: ${{env:{name}:-value}}"))
        }
    }
}

/// What a plain scalar of that text is in YAML's core schema (1.2.2, section 10.3.2).
fn infer(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Kind::Null,
        "true" | "True" | "TRUE" => return Kind::Bool(true),
        "false" | "False" | "FALSE" => return Kind::Bool(false),
        _ => {}
    }
    let integer = match text.get(..2) {
        Some("0x") => i128::from_str_radix(&text[2..], 16).ok().filter(|_| !text[2..].starts_with(['+', '-'])),
        Some("0o") => i128::from_str_radix(&text[2..], 8).ok().filter(|_| !text[2..].starts_with(['+', '-'])),
        _ => text.parse().ok(),
    };
    if let Some(integer) = integer {
        return Kind::Int(integer);
    }
    // Rust's grammar also has "inf" and "nan", which are words here.
    let numeric = text.chars().all(|c| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E'));
    match text.parse() {
        Ok(float) if numeric => Kind::Float(float),
        _ => Kind::Str,
    }
}
