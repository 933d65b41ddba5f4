//! The configured extraction, made ready once: names and compiled expressions.

use std::collections::HashSet;

use regex::Regex;

use super::config::{ExtractConfig, FieldRule, Metadata};

/// What is added to a pod's telemetry.
#[derive(Debug)]
pub(super) struct Extract {
    metadata: HashSet<Metadata>,
    pub(super) labels: Vec<Rule>,
    pub(super) annotations: Vec<Rule>,
}

/// A rule for labels or annotations.
#[derive(Debug)]
pub(super) struct Rule {
    tag_name: String,
    key: String,
    regex: Option<Regex>,
    prefix: &'static str,
}

impl Extract {
    /// The rules have no problems; one that has is left out.
    pub(super) fn new(config: &ExtractConfig) -> Self {
        let rules = |rules: &[FieldRule], prefix| rules.iter().filter_map(|rule| Rule::new(rule, prefix)).collect();
        Self {
            metadata: config.metadata.iter().copied().collect(),
            labels: rules(&config.labels, "k8s.pod.labels."),
            annotations: rules(&config.annotations, "k8s.pod.annotations."),
        }
    }

    pub(super) fn has(&self, metadata: Metadata) -> bool {
        self.metadata.contains(&metadata)
    }
}

impl Rule {
    fn new(rule: &FieldRule, prefix: &'static str) -> Option<Self> {
        let regex = rule.regex().ok()?;
        Some(Self { tag_name: rule.tag_name.clone(), key: rule.key.clone(), regex, prefix })
    }

    /// The name of the attribute that a label or annotation becomes, if any.
    pub(super) fn attribute(&self, key: &str) -> Option<String> {
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
