//! What a resource contributes to the labels of its series: `job`, `instance`, promoted attributes, and the
//! `target_info` series that carries all the others (OpenTelemetry specification, "Resource attributes").
//!
//! Resources that differ only in attributes that are no labels are one resource here: their series are the
//! same series. Never: reads datapoints.

use std::collections::HashMap;
use std::sync::Arc;

use mirador_otlp::resource::Resource;
use mirador_otlp::value::{Attributes, KeyValue, Value};
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_128_with_seed};

use super::Config;
use super::labels::Builder;
use super::tally::Tally;
use crate::series::{Labels, Pair};

/// Resources that a cache remembers before it starts anew.
const REMEMBERED: usize = 16_384;

/// One resource, resolved.
#[derive(Debug)]
pub struct Identity {
    /// Hash of the labels.
    pub key: u128,
    /// Hash of the resource as it came; tells resources with equal labels apart.
    pub source: u64,
    /// Labels of every series, sorted.
    pub labels: Arc<[Pair]>,
    /// The labels of `target_info`, when there is something to say.
    pub info: Option<Labels>,
    /// The time of the latest `target_info` sample, unix milliseconds.
    pub info_written_ms: i64,
}

/// Resolved resources by the hash of their bytes.
#[derive(Debug, Default)]
pub struct Identities {
    by_raw: HashMap<u64, Identity>,
}

impl Identities {
    /// Resolves a resource; the second time costs a look-up.
    pub fn resolve(&mut self, config: &Config, resource: &Resource<'_>, tally: &mut Tally) -> &mut Identity {
        let raw = resource.raw_hash();
        if self.by_raw.len() >= REMEMBERED && !self.by_raw.contains_key(&raw) {
            self.by_raw.clear();
        }
        self.by_raw.entry(raw).or_insert_with(|| identify(config, resource.attributes(), raw, tally))
    }

    /// Forgets everything, so that attributes that are no longer sent do not stay for ever.
    pub fn clear(&mut self) {
        self.by_raw.clear();
    }
}

/// A number that is equal for resources with equal labels; decides the shard.
pub fn placement(config: &Config, resource: &Resource<'_>) -> u64 {
    let attributes = resource.attributes();
    let mut hash = Xxh3::new();
    for key in ["service.namespace", "service.name"].into_iter().chain(config.label_sources()) {
        if let Some(value) = attributes.get(key) {
            hash.update(key.as_bytes());
            hash.update(value.to_text().as_bytes());
        }
        hash.update(&[0xff]);
    }
    hash.digest()
}

fn identify(config: &Config, attributes: Attributes<'_>, raw: u64, tally: &mut Tally) -> Identity {
    let text =
        |key: &str| attributes.get(key).map(|value| value.to_text().into_owned()).filter(|text| !text.is_empty());
    let namespace = text("service.namespace");
    let job = text("service.name").map(|name| match namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name,
    });
    let instance = config.instance_from.iter().find_map(|key| text(key));
    let mut target = Builder::new(config.naming, &config.limits, &[]);
    target.pair("job", job.as_deref().unwrap_or_default());
    target.pair("instance", instance.as_deref().unwrap_or_default());
    let target = target.finish(tally).unwrap_or_default();
    let mut promoted = Builder::new(config.naming, &config.limits, target.pairs());
    for key in &config.promote_resource_attributes {
        promoted.pair(key, text(key).as_deref().unwrap_or_default());
    }
    let labels = promoted.finish(tally).map_or_else(|_| target.pairs().to_vec(), |base| base.pairs().to_vec());
    Identity {
        key: key_of(&labels),
        source: raw,
        info: target_info(config, attributes, target.pairs(), tally),
        labels: labels.into(),
        info_written_ms: i64::MIN,
    }
}

fn key_of(labels: &[Pair]) -> u128 {
    let mut hash = Xxh3::new();
    for (name, value) in labels {
        hash.update(&(name.len() as u64).to_le_bytes());
        hash.update(name.as_bytes());
        hash.update(&(value.len() as u64).to_le_bytes());
        hash.update(value.as_bytes());
    }
    hash.digest128()
}

/// All attributes that do not make up `job` and `instance`; none without a target or without attributes.
fn target_info(config: &Config, attributes: Attributes<'_>, target: &[Pair], tally: &mut Tally) -> Option<Labels> {
    if !config.target_info.enabled || target.is_empty() {
        return None;
    }
    let identifying = ["service.name", "service.namespace", "service.instance.id"];
    let mut builder = Builder::new(config.naming, &config.limits, target);
    builder.attributes_except(attributes, &identifying);
    // A resource may well have more attributes than a series may have labels: the first by name stay.
    builder.keep(config.limits.max_labels.saturating_sub(target.len() + 2), tally);
    let base = builder.finish(tally).ok()?;
    (base.pairs().len() > target.len()).then(|| base.series("target_info", None))
}

/// An order-independent hash of attributes: equal sets are equal whatever their order on the wire.
pub fn attributes_key(attributes: Attributes<'_>) -> u128 {
    attributes.iter().fold(0_u128, |sum, entry| sum.wrapping_add(attribute_key(&entry)))
}

/// The share of one attribute in [`attributes_key`], which is the sum over all of them.
pub fn attribute_key(entry: &KeyValue<'_>) -> u128 {
    value_key(entry.value, xxh3_64(entry.key.as_bytes()))
}

fn value_key(value: Value<'_>, seed: u64) -> u128 {
    match value {
        Value::Str(text) => xxh3_128_with_seed(text.as_bytes(), seed),
        Value::Int(number) => xxh3_128_with_seed(&number.to_le_bytes(), seed ^ 1),
        Value::Double(number) => xxh3_128_with_seed(&number.to_bits().to_le_bytes(), seed ^ 2),
        Value::Bool(flag) => xxh3_128_with_seed(&[u8::from(flag)], seed ^ 3),
        Value::Empty => 0,
        other => xxh3_128_with_seed(other.to_text().as_bytes(), seed ^ 4),
    }
}
