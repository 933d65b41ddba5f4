//! The schema of a configuration type, as the keys that each place knows.
//!
//! Only what schemars writes for serde types is understood: `$ref` into `$defs`, `properties`,
//! `additionalProperties`, `items`, and `allOf`/`anyOf`/`oneOf`, whose members are added up. A
//! place with no keys at all (any JSON value) knows every key.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value as Json;

/// `$ref` to `$ref` chains in generated schemas are one or two long.
const MAX_HOPS: usize = 16;

/// The root schema with its definitions.
pub(super) struct Catalog {
    root: Json,
}

/// What a place accepts, over all alternatives.
#[derive(Default)]
pub(super) struct Shape<'s> {
    /// Known keys, each with the schemas of its value.
    pub(super) keys: BTreeMap<&'s str, Vec<&'s Json>>,
    /// Schemas of the values of keys that are not known by name (a map).
    pub(super) others: Vec<&'s Json>,
    /// Schemas of a list's items.
    pub(super) items: Vec<&'s Json>,
    /// Known keys that must be there.
    pub(super) required: BTreeSet<&'s str>,
    /// Whether any key at all is accepted.
    pub(super) open: bool,
}

impl Shape<'_> {
    /// Whether a section (with or without known keys) is accepted here.
    pub(super) fn is_section(&self) -> bool {
        !self.keys.is_empty()
    }
}

impl Catalog {
    pub(super) fn of<T: JsonSchema>() -> Self {
        Self { root: SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>().to_value() }
    }

    pub(super) fn root(&self) -> &Json {
        &self.root
    }

    /// What a place with `schemas` accepts.
    pub(super) fn shape<'s>(&'s self, schemas: &[&'s Json]) -> Shape<'s> {
        let mut shape = Shape::default();
        for schema in schemas {
            self.add(schema, &mut shape, MAX_HOPS);
        }
        shape
    }

    /// The schema behind a `$ref`, if it is one.
    pub(super) fn target(&self, schema: &Json) -> Option<(&str, &Json)> {
        // The name is taken from the definitions, so that it lives as long as the catalog.
        let name = schema.get("$ref")?.as_str()?.strip_prefix("#/$defs/")?;
        let name = name.replace("~1", "/").replace("~0", "~");
        self.root.get("$defs")?.as_object()?.get_key_value(&name).map(|(name, target)| (name.as_str(), target))
    }

    fn add<'s>(&'s self, schema: &'s Json, shape: &mut Shape<'s>, hops: usize) {
        let Some(object) = schema.as_object() else {
            // `true` accepts anything.
            shape.open |= schema.as_bool() == Some(true);
            return;
        };
        let Some(hops) = hops.checked_sub(1) else { return };
        let mut structured = object.contains_key("type") || object.contains_key("enum") || object.contains_key("const");
        if let Some((_, target)) = self.target(schema) {
            self.add(target, shape, hops);
            structured = true;
        } else if schema.get("$ref").and_then(Json::as_str) == Some("#") {
            self.add(&self.root, shape, hops);
            structured = true;
        }
        for (key, value) in object.get("properties").and_then(Json::as_object).into_iter().flatten() {
            shape.keys.entry(key).or_default().push(value);
            structured = true;
        }
        let required = object.get("required").and_then(Json::as_array);
        shape.required.extend(required.into_iter().flatten().filter_map(Json::as_str));
        match object.get("additionalProperties") {
            None | Some(Json::Bool(false)) => {}
            Some(Json::Bool(true)) => shape.open = true,
            Some(other) => {
                shape.others.push(other);
                structured = true;
            }
        }
        if let Some(items) = object.get("items") {
            shape.items.push(items);
        }
        for item in object.get("prefixItems").and_then(Json::as_array).into_iter().flatten() {
            shape.items.push(item);
        }
        for alternatives in ["allOf", "anyOf", "oneOf"] {
            for member in object.get(alternatives).and_then(Json::as_array).into_iter().flatten() {
                self.add(member, shape, hops);
                structured = true;
            }
        }
        shape.open |= !structured;
    }
}
