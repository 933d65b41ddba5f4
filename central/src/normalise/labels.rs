//! Label sets from attributes: names cleaned, collisions joined, limits kept.
//!
//! VictoriaMetrics drops a series over its limits and answers 2xx (README, `-maxLabelsPerTimeseries`), so the
//! limits are held here, where the loss can be counted.
//!
//! Never: hashes, caches, knows metric types.

use mirador_otlp::value::{Attributes, Value};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::Naming;
use super::names::label_name;
use super::tally::{Loss, Tally};
use crate::series::{LabelSet, Labels, Pair};

/// What happens to a label that is longer than the limits allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnLimit {
    /// Cut it and end it with a hash of the whole, so that different values stay different series.
    #[default]
    Truncate,
    /// Drop the series.
    Drop,
}

/// Limits of one series, below those of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LabelLimits {
    /// Labels of a series, its name among them. A series with more is dropped.
    pub max_labels: usize,
    /// Bytes of a label name.
    pub max_name_bytes: usize,
    /// Bytes of a label value or a metric name.
    pub max_value_bytes: usize,
    /// What happens to a name or value that is too long.
    pub on_limit: OnLimit,
}

impl Default for LabelLimits {
    fn default() -> Self {
        Self { max_labels: 30, max_name_bytes: 256, max_value_bytes: 1024, on_limit: OnLimit::Truncate }
    }
}

/// Labels that all series of one datapoint share, sorted, without the name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Base {
    pairs: Vec<Pair>,
}

impl Base {
    /// The labels of a series: the shared ones, its name, and one of its own (`le`, `quantile`, `metric`).
    ///
    /// A shared label called like its own one steps back as `exported_<name>`, as in a Prometheus scrape.
    pub fn series(&self, name: &str, own: Option<(&str, &str)>) -> Labels {
        let mut exported = String::new();
        if let Some((own_name, _)) = own {
            exported.push_str("exported_");
            exported.push_str(own_name);
        }
        let mut pairs: Vec<(&str, &str)> = Vec::with_capacity(self.pairs.len() + 2);
        pairs.push(("__name__", name));
        pairs.extend(own);
        for (key, value) in &self.pairs {
            let taken = own.is_some_and(|(own_name, _)| own_name == &**key);
            pairs.push((if taken { exported.as_str() } else { key }, value));
        }
        pairs.sort_by_key(|(key, _)| *key);
        pairs.dedup_by_key(|(key, _)| *key);
        Labels::new(LabelSet::from_sorted(pairs))
    }

    /// The shared labels of a series that has no label of its own.
    pub fn of(labels: &LabelSet) -> Self {
        let pairs = labels.texts().filter(|(name, _)| *name != "__name__");
        Self { pairs: pairs.map(|(name, value)| (name.into(), value.into())).collect() }
    }

    /// The pairs, sorted by name.
    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }
}

/// Gathers the labels of one datapoint.
pub struct Builder<'a> {
    naming: Naming,
    limits: &'a LabelLimits,
    /// (label name, original key, value)
    rows: Vec<(String, String, String)>,
    /// Labels that attributes must not replace.
    reserved: &'a [Pair],
}

impl<'a> Builder<'a> {
    /// Starts with labels that win over attributes of the same name: those become `exported_<name>`.
    pub fn new(naming: Naming, limits: &'a LabelLimits, reserved: &'a [Pair]) -> Self {
        Self { naming, limits, rows: Vec::new(), reserved }
    }

    /// Adds every attribute; maps are flattened with dots, empty values are left out.
    pub fn attributes(&mut self, attributes: Attributes<'_>) {
        self.flatten("", attributes, &[]);
    }

    /// Adds every attribute but some.
    pub fn attributes_except(&mut self, attributes: Attributes<'_>, except: &[&str]) {
        self.flatten("", attributes, except);
    }

    /// Keeps so many labels, the first by name; cutting any counts as one truncation.
    pub fn keep(&mut self, labels: usize, tally: &mut Tally) {
        if self.rows.len() > labels {
            self.rows.sort();
            self.rows.truncate(labels);
            tally.truncate();
        }
    }

    fn flatten(&mut self, prefix: &str, attributes: Attributes<'_>, except: &[&str]) {
        for entry in &attributes {
            if except.contains(&entry.key) {
                continue;
            }
            let key = if prefix.is_empty() { entry.key.to_owned() } else { format!("{prefix}.{}", entry.key) };
            match entry.value {
                Value::Map(inner) => self.flatten(&key, inner, &[]),
                value => {
                    let text = value.to_text();
                    self.pair(&key, &text);
                }
            }
        }
    }

    /// Adds one label; an empty value is no label.
    pub fn pair(&mut self, key: &str, value: &str) {
        if value.is_empty() || self.rows.iter().any(|(_, known, _)| known == key) {
            return;
        }
        let mut name = match self.naming {
            Naming::Prometheus => label_name(key),
            Naming::None => key.to_owned(),
        };
        if name == "__name__" || self.reserved.iter().any(|(reserved, _)| **reserved == *name) {
            name.insert_str(0, "exported_");
        }
        self.rows.push((name, key.to_owned(), value.to_owned()));
    }

    /// Joins collisions with `;` in the order of the original keys, then holds the limits.
    pub fn finish(mut self, tally: &mut Tally) -> Result<Base, Loss> {
        self.rows.sort();
        let mut pairs: Vec<Pair> = self.reserved.to_vec();
        pairs.reserve(self.rows.len());
        let mut rows = std::mem::take(&mut self.rows).into_iter().peekable();
        while let Some((name, _, mut value)) = rows.next() {
            while let Some((_, _, next)) = rows.next_if(|(next, _, _)| *next == name) {
                value.push(';');
                value.push_str(&next);
            }
            let name = self.limited(name, self.limits.max_name_bytes, Loss::LabelName, tally)?;
            let value = self.limited(value, self.limits.max_value_bytes, Loss::LabelValue, tally)?;
            pairs.push((name.into(), value.into()));
        }
        // The name and one label of its own come on top.
        if pairs.len() + 2 > self.limits.max_labels {
            return Err(Loss::TooManyLabels);
        }
        pairs.sort_by(|left, right| left.0.cmp(&right.0));
        pairs.dedup_by(|later, first| later.0 == first.0);
        Ok(Base { pairs })
    }

    fn limited(&self, text: String, limit: usize, loss: Loss, tally: &mut Tally) -> Result<String, Loss> {
        match (text.len() > limit, self.limits.on_limit) {
            (false, _) => Ok(text),
            (true, OnLimit::Drop) => Err(loss),
            (true, OnLimit::Truncate) => {
                tally.truncate();
                Ok(shortened(&text, limit))
            }
        }
    }
}

/// The first bytes of a text and a hash of all of it, `limit` bytes at most.
pub fn shortened(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let hash = format!("_{:016x}", xxh3_64(text.as_bytes()));
    let head = text.floor_char_boundary(limit.saturating_sub(hash.len()));
    format!("{}{hash}", &text[..head])
}
