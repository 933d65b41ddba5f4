//! The configuration in the rendered `ConfigMaps` is what the very programs read.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use mirador_support::node::binary;
use serde_json::Value;

use crate::chart;

/// Runs `validate` on a rendered configuration and returns what is in effect.
fn validate(role: &str, text: &str) -> Result<Value> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("config.yaml");
    std::fs::write(&file, text)?;
    let agent = matches!(role, "agent" | "gateway");
    let mut command = Command::new(binary(if agent { "mirador-agent" } else { "mirador-central" })?);
    command.arg("validate").args((!agent).then_some(role)).arg("--config").arg(&file);
    // What the pod's environment sets in every case, and what one case sets for itself.
    command.env("K8S_NODE_NAME", "node-1").env("K8S_POD_NAME", "pod-1").env("LEVEL", "debug");
    let output = command.output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{role} refuses its configuration: {error}\n{text}");
    Ok(serde_saphyr::from_str(std::str::from_utf8(&output.stdout)?)?)
}

/// The rendered configuration of every role of a case.
async fn configurations(values: Option<&std::path::Path>) -> Result<Vec<(String, String)>> {
    let objects = chart::objects(&chart::template(values).await?)?;
    let maps = chart::of_kind(&objects, "ConfigMap").filter_map(|map| {
        let role = map["metadata"]["labels"]["app.kubernetes.io/component"].as_str()?;
        Some((role.to_owned(), map["data"]["config.yaml"].as_str()?.to_owned()))
    });
    Ok(maps.collect())
}

#[tokio::test]
async fn every_configuration_that_the_chart_renders_is_taken_by_its_program() -> Result<()> {
    let mut roles = BTreeSet::new();
    for (case, values) in chart::cases()? {
        for (role, text) in configurations(values.as_deref()).await? {
            validate(&role, &text).with_context(|| case.clone())?;
            roles.insert(role);
        }
    }
    let all = ["agent", "gateway", "isolationforest", "logs", "servicegraph", "spanmetrics"];
    ensure!(roles.iter().eq(all), "only {roles:?} were rendered");
    Ok(())
}

#[tokio::test]
async fn agents_find_the_owners_by_the_headless_services_and_are_named_by_their_node() -> Result<()> {
    let values = tempfile::NamedTempFile::new()?;
    std::fs::write(values.path(), "discovery: dns\n")?;
    let found = configurations(Some(values.path())).await?;
    let text = |role: &str| found.iter().find(|(name, _)| name == role).map(|(_, text)| text.as_str());
    let agent = validate("agent", text("agent").context("no agent")?)?;
    ensure!(agent["agent_id"] == "node-1" && agent["steering"]["enabled"] == false, "{agent}");
    for (destination, role) in
        [("traces", "servicegraph"), ("red", "spanmetrics"), ("metrics", "isolationforest"), ("logs", "logs")]
    {
        let dns = &agent["exporters"][destination]["resolver"]["dns"];
        let want = format!("mirador-{role}.{}.svc.cluster.local.", chart::NAMESPACE);
        ensure!(dns["hostname"] == want.as_str() && dns["port"] == 4317, "{destination}: {dns}");
    }
    let gateway = validate("gateway", text("gateway").context("no gateway")?)?;
    ensure!(gateway["agent_id"] == "pod-1", "{}", gateway["agent_id"]);
    Ok(())
}

#[tokio::test]
async fn watching_agents_find_the_owners_by_the_port_that_the_services_name() -> Result<()> {
    let cases = chart::cases()?;
    let found = configurations(cases["watching"].as_deref()).await?;
    let (_, text) = found.iter().find(|(role, _)| role == "agent").context("no agent")?;
    let agent = validate("agent", text)?;
    let k8s = &agent["exporters"]["traces"]["resolver"]["k8s"];
    let service = format!("mirador-servicegraph.{}", chart::NAMESPACE);
    ensure!(k8s["service"] == service.as_str() && k8s["ports"][0] == "otlp-grpc", "{k8s}");
    ensure!(agent["processors"]["k8sattributes"]["wait_for_metadata"] == true, "{}", agent["processors"]);
    Ok(())
}

#[tokio::test]
async fn a_mistake_in_config_is_refused_by_the_program_with_the_nearest_key() -> Result<()> {
    let values = tempfile::NamedTempFile::new()?;
    std::fs::write(values.path(), "agent: {config: {exporter: {traces: null}}}\n")?;
    let found = configurations(Some(values.path())).await?;
    let (_, text) = found.iter().find(|(role, _)| role == "agent").context("no agent")?;
    let error = validate("agent", text).err().context("it was taken")?.to_string();
    ensure!(error.contains("exporter") && error.contains("exporters"), "{error}");
    Ok(())
}
