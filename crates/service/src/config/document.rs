//! A configuration type as a Markdown table: key, type, default, meaning.
//!
//! Deterministic: the order is that of the type's fields where schemars keeps it, else
//! alphabetical; nothing of the machine gets in. Defaults come from the type's `Default`.

use std::fmt::Write;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value as Json;

use super::schema::Catalog;

/// Sections inside sections; a type that contains itself ends here too.
const MAX_DEPTH: usize = 12;
const WRITES: &str = "a String takes every write";

/// A section of docs/config.md: a heading, the type's own text, and one row per key.
///
/// # Panics
/// When `T::default()` has no JSON form, which no configuration type has.
pub fn document<T: JsonSchema + Default + Serialize>(title: &str) -> String {
    let catalog = Catalog::of::<T>();
    let defaults = serde_json::to_value(T::default()).expect("a configuration has a JSON form");
    let mut page = format!("## {title}\n\n");
    if let Some(text) = description(catalog.root()) {
        writeln!(page, "{}\n", one_line(text)).expect(WRITES);
    }
    page.push_str("| key | type | default | meaning |\n|---|---|---|---|\n");
    let mut rows = Rows { catalog: &catalog, page };
    rows.section(catalog.root(), Some(&defaults), "", 0);
    rows.page
}

struct Rows<'c> {
    catalog: &'c Catalog,
    page: String,
}

impl Rows<'_> {
    /// One row for every key below `schema`, whose value by default is `default`.
    fn section(&mut self, schema: &Json, default: Option<&Json>, prefix: &str, depth: usize) {
        if depth > MAX_DEPTH {
            return;
        }
        let catalog = self.catalog;
        let shape = catalog.shape(&[schema]);
        for (key, schemas) in shape.keys {
            let path = if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
            let Some(schema) = schemas.first().copied() else { continue };
            // A section that is off by default shows what its keys are when it is opened.
            let default = default.and_then(|default| default.get(key)).or_else(|| schema.get("default"));
            self.row(&path, schema, default, shape.required.contains(key));
            self.below(&path, schema, default, depth + 1);
        }
    }

    fn below(&mut self, path: &str, schema: &Json, default: Option<&Json>, depth: usize) {
        let catalog = self.catalog;
        let shape = catalog.shape(&[schema]);
        if shape.is_section() {
            self.section(schema, default, path, depth);
        }
        for item in shape.items {
            if catalog.shape(&[item]).is_section() {
                self.section(item, None, &format!("{path}[]"), depth);
            }
        }
        for other in shape.others {
            if catalog.shape(&[other]).is_section() {
                self.section(other, None, &format!("{path}.<name>"), depth);
            }
        }
    }

    fn row(&mut self, path: &str, schema: &Json, default: Option<&Json>, required: bool) {
        let kind = self.kind(schema, default);
        let default = match default {
            Some(Json::Null) if self.is_section(schema) => "off".to_owned(),
            None if required => "required".to_owned(),
            None | Some(Json::Null) => "unset".to_owned(),
            Some(Json::Object(keys)) if keys.is_empty() => "empty".to_owned(),
            Some(Json::Object(_)) => String::new(),
            Some(Json::Array(items)) if items.is_empty() => "empty".to_owned(),
            Some(Json::Array(items)) => {
                let items: Vec<_> = items.iter().map(scalar).collect();
                format!("`[{}]`", items.join(", "))
            }
            Some(Json::String(text)) if text.is_empty() => "empty".to_owned(),
            Some(other) => format!("`{}`", scalar(other)),
        };
        let meaning = self.meaning(schema);
        let cells = [cell(&kind), cell(&default), cell(&meaning)].join(" | ");
        writeln!(self.page, "| `{path}` | {cells} |").expect(WRITES);
    }

    fn is_section(&self, schema: &Json) -> bool {
        self.catalog.shape(&[schema]).is_section()
    }

    /// The key's own text, else that of its type; words of a choice add theirs.
    fn meaning(&self, schema: &Json) -> String {
        let target = self.resolved(schema);
        let mut text = one_line(description(schema).or_else(|| description(target)).unwrap_or_default());
        for choice in target.get("oneOf").and_then(Json::as_array).into_iter().flatten() {
            if let (Some(word), Some(meaning)) = (choice.get("const").and_then(Json::as_str), description(choice)) {
                write!(text, " `{word}`: {}", one_line(meaning)).expect(WRITES);
            }
        }
        text.trim().to_owned()
    }

    fn kind(&self, schema: &Json, default: Option<&Json>) -> String {
        let schema = self.resolved(schema);
        let words = choices(schema);
        if !words.is_empty() {
            return words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" or ");
        }
        let shape = self.catalog.shape(&[schema]);
        if shape.is_section() {
            return "section".to_owned();
        }
        let names: Vec<&str> = match schema.get("type") {
            Some(Json::String(name)) => vec![name],
            Some(Json::Array(names)) => names.iter().filter_map(Json::as_str).filter(|name| *name != "null").collect(),
            _ => Vec::new(),
        };
        match names.as_slice() {
            ["array"] => match shape.items.first() {
                Some(item) => format!("list of {}", plural(&self.kind(item, None))),
                None => "list".to_owned(),
            },
            ["object"] => match shape.others.first() {
                Some(other) => format!("map of names to {}", plural(&self.kind(other, None))),
                None => "map".to_owned(),
            },
            ["string"] if is_duration(schema, default) => "duration".to_owned(),
            ["string"] => "text".to_owned(),
            ["integer"] => format!("integer{}", range(schema)),
            ["number"] => format!("number{}", range(schema)),
            ["boolean"] => "`true` or `false`".to_owned(),
            [] => "any".to_owned(),
            several => several.join(" or "),
        }
    }

    /// Past `$ref`s and the null of an option.
    fn resolved<'s>(&'s self, schema: &'s Json) -> &'s Json {
        let mut schema = schema;
        for _ in 0..MAX_DEPTH {
            if let Some((_, target)) = self.catalog.target(schema) {
                schema = target;
                continue;
            }
            let alternatives = schema.get("anyOf").and_then(Json::as_array);
            let real = alternatives.map(|all| {
                all.iter().filter(|one| one.get("type").and_then(Json::as_str) != Some("null")).collect::<Vec<_>>()
            });
            match real.as_deref() {
                Some([only]) => schema = only,
                _ => break,
            }
        }
        schema
    }
}

/// The words of a choice of words.
fn choices(schema: &Json) -> Vec<&str> {
    if let Some(words) = schema.get("enum").and_then(Json::as_array) {
        return words.iter().filter_map(Json::as_str).collect();
    }
    let members = schema.get("oneOf").and_then(Json::as_array);
    members
        .into_iter()
        .flatten()
        .flat_map(|one| match one.get("const").and_then(Json::as_str) {
            Some(word) => vec![word],
            None => choices(one),
        })
        .collect()
}

/// Declared as one, or by default one: `"5s"` in a field whose schema says only string.
fn is_duration(schema: &Json, default: Option<&Json>) -> bool {
    let declared = schema.get("format").and_then(Json::as_str) == Some("go-duration");
    let text = default.or_else(|| schema.get("default")).and_then(Json::as_str);
    declared || text.is_some_and(|text| text != "0" && crate::duration::parse(text).is_ok())
}

fn range(schema: &Json) -> String {
    let bound = |key: &str| schema.get(key).and_then(Json::as_f64);
    match (bound("minimum"), bound("maximum")) {
        (Some(low), Some(high)) => format!(", {low} to {high}"),
        (Some(low), None) => format!(", {low} or more"),
        (None, Some(high)) => format!(", {high} or less"),
        (None, None) => String::new(),
    }
}

fn plural(kind: &str) -> String {
    match kind {
        "text" => "texts".to_owned(),
        "any" => "anything".to_owned(),
        one if one.starts_with('`') || one.starts_with("list") || one.starts_with("map") => one.to_owned(),
        one => match one.split_once(',') {
            Some((noun, range)) => format!("{noun}s,{range}"),
            None => format!("{one}s"),
        },
    }
}

fn description(schema: &Json) -> Option<&str> {
    schema.get("description").and_then(Json::as_str)
}

fn scalar(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
