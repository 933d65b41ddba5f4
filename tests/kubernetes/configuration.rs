//! The configuration in the rendered `ConfigMaps` is what the very programs read.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use mirador_support::node::binary;
use serde_json::Value;

use crate::chart;
use crate::encryption::with_certificates;

/// Runs `validate` on a rendered configuration and returns what is in effect.
fn validate(role: &str, text: &str) -> Result<Value> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("config.yaml");
    std::fs::write(&file, with_certificates(text, folder.path())?)?;
    let agent = matches!(role, "agent" | "gateway");
    let mut command = Command::new(binary(if agent { "mirador-agent" } else { "mirador-central" })?);
    command.arg("validate").args((!agent).then_some(role)).arg("--config").arg(&file);
    // What the pod's environment sets in every case, and what one case sets for itself.
    command.env("K8S_NODE_NAME", "node-1").env("K8S_POD_NAME", "pod-1").env("LEVEL", "debug");
    command.env("NODE_IP", "10.0.0.7");
    let output = command.output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{role} refuses its configuration: {error}\n{text}");
    Ok(serde_saphyr::from_str(std::str::from_utf8(&output.stdout)?)?)
}

/// The rendered configuration of every role of a case.
pub(crate) async fn configurations(values: Option<&std::path::Path>) -> Result<Vec<(String, String)>> {
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

/// The blocks of YAML in the page about Kubernetes that are values of the chart.
fn documented_values() -> Result<Vec<String>> {
    let page = std::fs::read_to_string(chart::root().join("docs/kubernetes.md"))?;
    let blocks = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    // Others are a pod's environment and objects of somebody else's.
    Ok(blocks.filter(|block| !block.starts_with("env:") && !block.contains("apiVersion:")).map(str::to_owned).collect())
}

#[tokio::test]
async fn every_example_of_values_in_the_documentation_is_taken_by_the_chart_and_by_the_programs() -> Result<()> {
    let examples = documented_values()?;
    ensure!(examples.len() >= 5, "only {} examples: has the page changed its form?", examples.len());
    for example in examples {
        let values = tempfile::NamedTempFile::new()?;
        std::fs::write(values.path(), &example)?;
        for (role, text) in configurations(Some(values.path())).await.with_context(|| example.clone())? {
            validate(&role, &text).with_context(|| example.clone())?;
        }
    }
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

/// The rendered configuration of `role` in a case, as its program takes it.
async fn effective(case: &str, role: &str) -> Result<Value> {
    let found = configurations(chart::cases()?.remove(case).flatten().as_deref()).await?;
    let (_, text) = found.iter().find(|(name, _)| name == role).with_context(|| format!("no {role}"))?;
    validate(role, text)
}

#[tokio::test]
async fn what_is_learnt_is_kept_where_a_bounded_volume_is_mounted_unless_that_is_switched_off() -> Result<()> {
    for (case, role, keeps) in [
        ("default", "servicegraph", true),
        ("default", "spanmetrics", true),
        ("default", "isolationforest", true),
        ("default", "logs", false),
        ("no-rights", "isolationforest", false),
    ] {
        let config = effective(case, role).await?;
        let objects = chart::objects(&chart::template(chart::cases()?.remove(case).flatten().as_deref()).await?)?;
        let workload = objects.iter().find(|object| {
            chart::name(object) == format!("mirador-{role}") && object["spec"]["template"]["spec"].is_object()
        });
        let pod = &workload.context("no workload")?["spec"]["template"]["spec"];
        let mounts = pod["containers"][0]["volumeMounts"].as_array().context("no mounts")?;
        let mount = mounts.iter().find(|mount| mount["name"] == "state");
        let volume = pod["volumes"].as_array().into_iter().flatten().find(|volume| volume["name"] == "state");
        ensure!(volume.is_some_and(|volume| volume["emptyDir"]["sizeLimit"].is_string()) == keeps, "{role}: {pod}");
        ensure!(mount.map(|mount| &mount["mountPath"]) == config["state"].get("directory"), "{role}: {config}");
    }
    Ok(())
}

#[tokio::test]
async fn a_steering_agent_is_reached_at_its_nodes_address() -> Result<()> {
    let agent = effective("steering", "agent").await?;
    ensure!(agent["steering"]["enabled"] == true, "{}", agent["steering"]);
    ensure!(agent["steering"]["addresses"] == serde_json::json!(["10.0.0.7"]), "{}", agent["steering"]);
    Ok(())
}

#[tokio::test]
async fn only_stores_by_https_are_held_against_the_certificates_for_stores() -> Result<()> {
    for (case, role, exporter, checked) in [
        ("tls", "servicegraph", "victoriatraces", true),
        ("tls", "isolationforest", "victoriametrics", true),
        ("tls", "logs", "otlphttp_logs", true),
        ("no-rights", "servicegraph", "victoriatraces", false),
    ] {
        let config = effective(case, role).await?;
        let file = config["exporters"][exporter]["tls"]["ca_file"].as_str().unwrap_or_default();
        ensure!(file.ends_with("/ca.crt") == checked, "{case} {role}: {}", config["exporters"][exporter]);
    }
    let own = effective("no-rights", "isolationforest").await?;
    let tls = &own["exporters"]["victoriametrics"]["tls"];
    ensure!(tls["server_name_override"] == "metrics.example.com", "what the user says was lost: {tls}");
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
