//! The configured extraction, made ready once: names and compiled expressions.
//!
//! Bounded: one object gives at most [`MAX_ATTRIBUTES`] attributes from labels and annotations, none of
//! them longer than [`MAX_VALUE`]; what is left out is counted.

use std::collections::HashSet;

use mirador_otlp::enrich::Addition;
use regex::Regex;

use super::config::{ExtractConfig, FieldRule, Metadata, Source};
use super::metrics::Metrics;

/// Attributes from labels and annotations of one object at most.
pub(super) const MAX_ATTRIBUTES: usize = 64;

/// Bytes of a label's or annotation's value at most; an annotation may have 256 KiB.
pub(super) const MAX_VALUE: usize = 4096;

/// What is added to a pod's telemetry.
#[derive(Debug)]
pub(super) struct Extract {
    metadata: HashSet<Metadata>,
    pub(super) pod: Fields,
    pub(super) namespace: Fields,
    pub(super) node: Fields,
}

/// The rules for objects of one kind.
#[derive(Debug)]
pub(super) struct Fields {
    labels: Vec<Rule>,
    annotations: Vec<Rule>,
}

/// A rule for labels or annotations.
#[derive(Debug)]
struct Rule {
    tag_name: String,
    key: String,
    regex: Option<Regex>,
    prefix: &'static str,
}

impl Extract {
    /// The rules have no problems; one that has is left out.
    pub(super) fn new(config: &ExtractConfig) -> Self {
        let fields = |source, labels, annotations| Fields {
            labels: rules(&config.labels, source, labels),
            annotations: rules(&config.annotations, source, annotations),
        };
        Self {
            metadata: config.metadata.iter().copied().collect(),
            pod: fields(Source::Pod, "k8s.pod.labels.", "k8s.pod.annotations."),
            namespace: fields(Source::Namespace, "k8s.namespace.labels.", "k8s.namespace.annotations."),
            node: fields(Source::Node, "k8s.node.labels.", "k8s.node.annotations."),
        }
    }

    pub(super) fn has(&self, metadata: Metadata) -> bool {
        self.metadata.contains(&metadata)
    }
}

impl Fields {
    /// Whether no rule asks for this kind of object.
    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.annotations.is_empty()
    }

    /// Adds what the rules make of an object's labels and annotations.
    pub(super) fn add<'a>(
        &self,
        labels: impl Iterator<Item = (&'a String, &'a String)>,
        annotations: impl Iterator<Item = (&'a String, &'a String)>,
        found: &mut Vec<Addition>,
        metrics: &Metrics,
    ) {
        let before = found.len();
        let labels = labels.map(|pair| (pair, &self.labels));
        for ((key, value), rules) in labels.chain(annotations.map(|pair| (pair, &self.annotations))) {
            for name in rules.iter().filter_map(|rule| rule.attribute(key)) {
                if value.len() > MAX_VALUE {
                    metrics.skipped("too_long");
                } else if found.len() - before >= MAX_ATTRIBUTES {
                    metrics.skipped("too_many");
                } else {
                    found.push(Addition::string(&name, value));
                }
            }
        }
    }
}

fn rules(rules: &[FieldRule], source: Source, prefix: &'static str) -> Vec<Rule> {
    rules.iter().filter(|rule| rule.from == source).filter_map(|rule| Rule::new(rule, prefix)).collect()
}

impl Rule {
    fn new(rule: &FieldRule, prefix: &'static str) -> Option<Self> {
        let regex = rule.regex().ok()?;
        Some(Self { tag_name: rule.tag_name.clone(), key: rule.key.clone(), regex, prefix })
    }

    /// The name of the attribute that a label or annotation becomes, if any.
    fn attribute(&self, key: &str) -> Option<String> {
        match &self.regex {
            None if self.key != key => None,
            None if self.tag_name.is_empty() => Some(format!("{}{key}", self.prefix)),
            None => Some(self.tag_name.clone()),
            Some(regex) => {
                let groups = regex.captures(key)?;
                if self.tag_name.is_empty() {
                    return Some(format!("{}{key}", self.prefix));
                }
                let mut name = String::new();
                groups.expand(&self.tag_name, &mut name);
                Some(name)
            }
        }
    }
}
