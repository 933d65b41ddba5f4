//! `processors.resourcedetection`: attributes of the machine that the agent runs on, found once.
//!
//! Keys and detectors of the collector's processor where the meaning is the same; of two detectors that
//! find one attribute the first counts. There is no `override`: what an application says of itself
//! stays.
//!
//! Never: asks another machine (no metadata service of a cloud), fails the start.

use mirador_otlp::enrich::Addition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Attributes of the machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DetectionConfig {
    /// What is asked, in this order. Default `[env]`.
    pub detectors: Vec<Detector>,
    /// The variable that holds the node's name, for `k8snode`. Default `K8S_NODE_NAME`.
    pub node_from_env_var: String,
}

impl Default for DetectionConfig {
    fn default() -> Self {
        Self { detectors: vec![Detector::Env], node_from_env_var: "K8S_NODE_NAME".to_owned() }
    }
}

/// Where attributes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Detector {
    /// `OTEL_RESOURCE_ATTRIBUTES` of the agent's own environment. `OTEL_SERVICE_NAME` is not read: it
    /// names the agent, not what sends to it.
    Env,
    /// `host.name` (the kernel's, which in a pod without the host's network is the pod's) and `os.type`.
    System,
    /// `k8s.node.name` from the variable that `node_from_env_var` names.
    K8snode,
}

impl DetectionConfig {
    /// Everything that cannot work; each line names the key below `processors.resourcedetection`.
    pub fn problems(&self) -> Vec<String> {
        self.problems_with(|name| std::env::var(name).ok())
    }

    fn problems_with(&self, env: impl Fn(&str) -> Option<String>) -> Vec<String> {
        let mut found = Vec::new();
        if self.detectors.contains(&Detector::K8snode) && node(&env, &self.node_from_env_var).is_none() {
            found.push(format!("detectors: k8snode needs the variable {}, which is empty", self.node_from_env_var));
        }
        if self.detectors.contains(&Detector::Env)
            && let Err(problem) = from_env(&env)
        {
            found.push(format!("detectors: env: {problem}"));
        }
        found
    }

    /// Asks the detectors.
    pub(super) fn detect(&self) -> Vec<Addition> {
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        self.detect_with(|name| std::env::var(name).ok(), hostname.trim())
    }

    fn detect_with(&self, env: impl Fn(&str) -> Option<String>, hostname: &str) -> Vec<Addition> {
        let mut found: Vec<(String, String)> = Vec::new();
        for detector in &self.detectors {
            let attributes = match detector {
                Detector::Env => from_env(&env).unwrap_or_default(),
                Detector::System => vec![
                    ("host.name".to_owned(), hostname.to_owned()),
                    ("os.type".to_owned(), std::env::consts::OS.to_owned()),
                ],
                Detector::K8snode => {
                    let node = node(&env, &self.node_from_env_var);
                    node.map(|node| ("k8s.node.name".to_owned(), node)).into_iter().collect()
                }
            };
            for (key, value) in attributes {
                if !value.is_empty() && found.iter().all(|(known, _)| *known != key) {
                    found.push((key, value));
                }
            }
        }
        found.iter().map(|(key, value)| Addition::string(key, value)).collect()
    }
}

fn node(env: impl Fn(&str) -> Option<String>, variable: &str) -> Option<String> {
    env(variable).filter(|node| !node.is_empty())
}

/// `key=value,key=value`, percent-encoded as the specification of SDKs says
/// (<https://opentelemetry.io/docs/specs/otel/resource/sdk/#specifying-resource-information-via-an-environment-variable>).
fn from_env(env: impl Fn(&str) -> Option<String>) -> Result<Vec<(String, String)>, String> {
    let text = env("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (decoded(key.trim()), decoded(value.trim()));
            match (key, value) {
                (Some(key), Some(value)) if pair.contains('=') && !key.is_empty() => Ok((key, value)),
                _ => Err(format!("OTEL_RESOURCE_ATTRIBUTES: `{pair}` is not key=value, percent-encoded")),
            }
        })
        .collect()
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digits = [bytes.next()?, bytes.next()?];
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        out.push(digit(digits[0])? << 4 | digit(digits[1])?);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(attributes: &'static str) -> impl Fn(&str) -> Option<String> {
        move |name| match name {
            "OTEL_RESOURCE_ATTRIBUTES" => Some(attributes.to_owned()),
            "K8S_NODE_NAME" => Some("node-7".to_owned()),
            _ => None,
        }
    }

    fn detected(detectors: &[Detector], attributes: &'static str) -> Vec<String> {
        let config = DetectionConfig { detectors: detectors.to_vec(), ..DetectionConfig::default() };
        config.detect_with(env(attributes), "host-7").iter().map(|found| format!("{found:?}")).collect()
    }

    #[test]
    fn the_first_detector_that_finds_an_attribute_counts() {
        let found = detected(&[Detector::Env, Detector::System, Detector::K8snode], "host.name=mine, k=a%2Cb%20c");
        assert_eq!(found, ["host.name=mine", "k=a,b c", "os.type=linux", "k8s.node.name=node-7"]);
        let found = detected(&[Detector::System, Detector::Env], "host.name=mine");
        assert_eq!(found, ["host.name=host-7", "os.type=linux"]);
    }

    #[test]
    fn a_wrong_variable_is_named() {
        let config = DetectionConfig::default();
        for wrong in ["novalue", "=x", "k=%zz", "k=%4"] {
            let problems = config.problems_with(env(wrong));
            assert!(problems[0].contains(wrong), "{problems:?}");
        }
        assert_eq!(config.problems_with(env("a=b,,c=")), Vec::<String>::new());
        let node = DetectionConfig { detectors: vec![Detector::K8snode], ..DetectionConfig::default() };
        assert!(node.problems_with(|_| None)[0].contains("K8S_NODE_NAME"));
    }
}
