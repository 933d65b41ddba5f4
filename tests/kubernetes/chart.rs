//! What Helm makes of the chart, as objects.

use std::path::Path;

use anyhow::Result;
use mirador_support::backends::controlplane;
pub(crate) use mirador_support::chart::{NAMESPACE, RELEASE, cases, root, template_arguments};
use serde_json::Value;

/// The chart's folder, as an argument.
pub(crate) fn folder() -> String {
    mirador_support::chart::folder().display().to_string()
}

/// What Helm 4 renders, as text.
pub(crate) async fn template(values: Option<&Path>) -> Result<String> {
    controlplane::helm(template_arguments(values)).await
}

/// The objects of a rendered text.
pub(crate) fn objects(text: &str) -> Result<Vec<Value>> {
    let found: Vec<Value> = serde_saphyr::from_multiple(text)?;
    Ok(found.into_iter().filter(|object| !object.is_null()).collect())
}

/// The objects of one kind.
pub(crate) fn of_kind<'a>(objects: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

/// An object's name.
pub(crate) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}
