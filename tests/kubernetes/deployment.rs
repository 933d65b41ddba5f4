//! One control plane for tests that run side by side; each test has a namespace of its own.

use std::path::Path;
use std::sync::{Arc, Weak};

use anyhow::Result;
use mirador_support::backends::ControlPlane;
use serde_json::Value;
use tokio::sync::Mutex;

use crate::chart;

/// Nodes of the control plane.
pub(crate) const NODES: usize = 4;

/// The control plane; tests that run side by side share it, and it ends with the last of them.
pub(crate) async fn plane() -> Result<Arc<ControlPlane>> {
    static PLANE: Mutex<Weak<ControlPlane>> = Mutex::const_new(Weak::new());
    let mut shared = PLANE.lock().await;
    if let Some(plane) = shared.upgrade() {
        return Ok(plane);
    }
    let plane = ControlPlane::start(NODES).await?;
    for file in ["prometheus-operator.yaml", "victoriametrics-operator.yaml"] {
        let path = chart::root().join("tests/kubernetes/crds").join(file).display().to_string();
        plane.kubectl(["apply", "--server-side", "-f", &path]).await?;
    }
    plane.kubectl(["wait", "--for=condition=established", "crd", "--all", "--timeout=60s"]).await?;
    let plane = Arc::new(plane);
    *shared = Arc::downgrade(&plane);
    Ok(plane)
}

/// Creates a namespace in which only pods of the standard `restricted` are let in.
pub(crate) async fn restricted_namespace(plane: &ControlPlane, name: &str) -> Result<()> {
    plane.kubectl(["create", "namespace", name]).await?;
    let label = "pod-security.kubernetes.io/enforce=restricted";
    plane.kubectl(["label", "namespace", name, label]).await?;
    Ok(())
}

/// The arguments that install or upgrade the chart as release `mirador` in `namespace`, and wait.
pub(crate) fn arguments(verb: &str, namespace: &str, values: Option<&Path>, set: &[&str]) -> Vec<String> {
    let folder = chart::folder();
    let mut arguments: Vec<String> =
        [verb, chart::RELEASE, &folder, "--namespace", namespace, "--wait", "--timeout", "180s"]
            .map(str::to_owned)
            .into();
    arguments.extend(values.into_iter().flat_map(|path| ["--values".to_owned(), path.display().to_string()]));
    arguments.extend(set.iter().flat_map(|pair| ["--set".to_owned(), (*pair).to_owned()]));
    arguments
}

/// Names of everything in a namespace that somebody could have left there, by kind.
pub(crate) async fn inventory(plane: &ControlPlane, namespace: &str) -> Result<Vec<String>> {
    let kinds = plane.kubectl(["api-resources", "--verbs=list", "--namespaced", "-o", "name"]).await?;
    // Events tell what happened, and leave by themselves.
    let kinds: Vec<&str> = kinds.lines().filter(|kind| !kind.starts_with("events")).collect();
    let text = plane.kubectl(["get", &kinds.join(","), "-n", namespace, "-o", "name"]).await?;
    let mut names: Vec<String> = text.lines().map(str::to_owned).collect();
    names.sort();
    Ok(names)
}

/// Objects of a kind in a namespace.
pub(crate) async fn list(plane: &ControlPlane, kind: &str, namespace: &str) -> Result<Vec<Value>> {
    let found = plane.get(&[kind, "-n", namespace]).await?;
    Ok(found["items"].as_array().cloned().unwrap_or_default())
}
