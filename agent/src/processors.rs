//! What is added to a request before RED counts it and before it is placed.
//!
//! The order is fixed: attributes of the pod, then those of the machine. Both only add what is absent.
//!
//! Never: touches what came through another agent, which has done this already.

mod detection;

use mirador_otlp::Request;
use mirador_otlp::enrich::{Addition, add_resource_attributes};
use mirador_service::health::Health;
use mirador_service::metrics::Registry;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::detection::{DetectionConfig, Detector};
use crate::kubernetes::{self, Caller, K8sAttributes};

/// What is added to resources. Each section is off without it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProcessorsConfig {
    /// Attributes of the pod that sent a request, from a watch of this node's pods, or the cluster's. `{}` turns it on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k8sattributes: Option<Box<kubernetes::Config>>,
    /// Attributes of the machine and from the environment. `{}` turns it on. Not for a gateway: its
    /// machine is not the sender's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resourcedetection: Option<DetectionConfig>,
}

impl ProcessorsConfig {
    /// Everything that cannot work; each line names the key below `processors`.
    pub fn problems(&self) -> Vec<String> {
        let k8s = self.k8sattributes.iter().flat_map(|config| prefixed("k8sattributes", config.problems()));
        let detection = self.resourcedetection.iter();
        k8s.chain(detection.flat_map(|config| prefixed("resourcedetection", config.problems()))).collect()
    }
}

fn prefixed(name: &'static str, problems: Vec<String>) -> impl Iterator<Item = String> {
    problems.into_iter().map(move |problem| format!("{name}.{problem}"))
}

/// The stages that add to a request; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Processors {
    pods: Option<K8sAttributes>,
    detected: Vec<Addition>,
}

impl Processors {
    /// Starts what is configured; must be called inside a tokio runtime.
    pub fn start(config: &ProcessorsConfig, registry: &Registry, health: &Health) -> Self {
        let detected = config.resourcedetection.as_ref().map(DetectionConfig::detect).unwrap_or_default();
        if !detected.is_empty() {
            tracing::info!(attributes = ?detected, "detected, added to resources that lack them");
        }
        let pods = config.k8sattributes.as_ref().map(|config| K8sAttributes::start(config, registry, health));
        Self { pods, detected }
    }

    /// The request with what is known of its sender. Without anything to add it is the same one.
    pub async fn apply(&self, request: Request, caller: &Caller) -> Request {
        match &self.pods {
            Some(pods) => pods.enrich(&request, caller, &self.detected).await,
            None if self.detected.is_empty() => request,
            None => add_resource_attributes(&request, |_| &self.detected),
        }
    }
}
