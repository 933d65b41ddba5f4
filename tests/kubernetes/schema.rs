//! The Job that makes Cassandra's tables: what it runs, when there is another one, and what a control plane makes of it.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mirador_support::backends::client::until;
use mirador_support::backends::controlplane;
use mirador_support::node::binary;
use serde_json::Value;

use crate::chart;
use crate::deployment::{arguments, list, plane, restricted_namespace};

const WAIT: Duration = Duration::from_secs(120);

/// The objects that helm renders with these values set.
async fn rendered(set: &[&str]) -> Result<Vec<Value>> {
    let mut arguments = chart::template_arguments(None);
    arguments.extend(set.iter().flat_map(|pair| ["--set".to_owned(), (*pair).to_owned()]));
    chart::objects(&controlplane::helm(arguments).await?)
}

fn component<'a>(objects: &'a [Value], kind: &str, name: &str) -> Option<&'a Value> {
    let of = |object: &&Value| object["metadata"]["labels"]["app.kubernetes.io/component"] == name;
    objects.iter().filter(|object| object["kind"] == kind).find(of)
}

fn job(objects: &[Value]) -> Result<&Value> {
    component(objects, "Job", "schema").context("there is no Job for the schema")
}

#[tokio::test]
async fn the_job_runs_what_the_program_knows_on_the_configuration_of_a_role_that_only_checks() -> Result<()> {
    let objects = rendered(&["logs.config.exporters.cassandra.datacenter=dc1"]).await?;
    let pod = &job(&objects)?["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let map = component(&objects, "ConfigMap", "logs").context("no configuration of logs")?;
    ensure!(pod["volumes"][0]["configMap"]["name"] == map["metadata"]["name"], "{}", pod["volumes"]);
    let text = map["data"]["config.yaml"].as_str().context("a text")?;
    ensure!(text.contains("manage_schema: validate"), "{text}");

    let arguments = container["args"].as_array().context("arguments")?.iter().filter_map(Value::as_str);
    let arguments: Vec<&str> = arguments.collect();
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("config.yaml");
    std::fs::write(&file, text)?;
    let place = file.display().to_string();
    let run = |verb: &str, more: &[&str]| -> Result<std::process::Output> {
        let mut command = Command::new(binary("mirador-central")?);
        command.args(["schema", verb, "--config", &place]).args(more);
        Ok(command.env("K8S_NODE_NAME", "node").env("K8S_POD_NAME", "pod").output()?)
    };
    ensure!(arguments[..4] == ["schema", "apply", "--config", "/etc/mirador/config.yaml"], "{arguments:?}");
    let printed = run("print", &[])?;
    let cql = String::from_utf8_lossy(&printed.stdout).into_owned();
    ensure!(printed.status.success() && cql.contains("'dc1': 3"), "{printed:?}");
    // The arguments as they are: understood, and no cluster is there to answer (69).
    let applied = run("apply", &[arguments[4], "1s"])?;
    ensure!(applied.status.code() == Some(69) && arguments[4] == "--timeout", "{applied:?}");
    Ok(())
}

#[tokio::test]
async fn accounts_of_the_job_replace_those_of_the_role_and_else_are_the_roles() -> Result<()> {
    let role = "logs.extraEnvFrom[0].secretRef.name=writer";
    let secret = |objects: &[Value]| -> Result<Value> {
        Ok(job(objects)?["spec"]["template"]["spec"]["containers"][0]["envFrom"][0]["secretRef"]["name"].clone())
    };
    ensure!(secret(&rendered(&[role]).await?)? == "writer");
    let both = rendered(&[role, "logs.schemaJob.extraEnvFrom[0].secretRef.name=owner"]).await?;
    ensure!(secret(&both)? == "owner");
    let logs = component(&both, "Deployment", "logs").context("no logs")?;
    ensure!(logs["spec"]["template"]["spec"]["containers"][0]["envFrom"][0]["secretRef"]["name"] == "writer");
    Ok(())
}

#[tokio::test]
async fn there_is_another_job_when_it_has_something_else_to_do_and_none_without_cassandra() -> Result<()> {
    let name = async |set: &[&str]| -> Result<String> {
        let objects = rendered(set).await?;
        Ok(chart::name(job(&objects)?).to_owned())
    };
    let first = name(&[]).await?;
    let one = "logs.config.exporters.cassandra";
    for same in ["logs.replicaCount=4", "logs.config.telemetry.logs.level=debug", "agent.enabled=false"] {
        ensure!(name(&[same]).await? == first, "{same} makes another Job");
    }
    for other in [&format!("{one}.keyspace=elsewhere"), "image.central.tag=v2", "logs.schemaJob.timeout=1m"] {
        ensure!(name(&[other]).await? != first, "{other} changes the Job, which the API server refuses");
    }
    for none in ["logs.enabled=false", "logs.schemaJob.enabled=false", &format!("{one}=null")] {
        ensure!(job(&rendered(&[none]).await?).is_err(), "{none} leaves a Job");
    }
    let certified = rendered(&["tls.backends.name=stores", &format!("{one}.tls.server_name_override=c")]).await?;
    let text = &component(&certified, "ConfigMap", "logs").context("no logs")?["data"]["config.yaml"];
    ensure!(text.as_str().is_some_and(|text| text.contains("ca_file: /etc/mirador-backends/ca.crt")), "{text}");
    let mounts = job(&certified)?["spec"]["template"]["spec"]["containers"][0]["volumeMounts"].to_string();
    ensure!(mounts.contains("/etc/mirador-backends"), "{mounts}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_install_completes_the_job_and_an_upgrade_runs_it_again_only_when_it_changes() -> Result<()> {
    let plane = &*plane().await?;
    let namespace = "schema";
    restricted_namespace(plane, namespace).await?;
    let alone = ["agent", "gateway", "servicegraph", "spanmetrics", "isolationforest"]
        .map(|role| format!("{role}.enabled=false"));
    let alone: Vec<&str> = alone.iter().map(String::as_str).collect();
    let jobs = async || -> Result<Vec<(String, String)>> {
        until("one complete Job", WAIT, async || {
            let jobs = list(plane, "jobs", namespace).await?;
            ensure!(jobs.len() == 1 && jobs[0]["status"]["succeeded"] == 1, "{jobs:?}");
            let text = |key: &str| jobs[0]["metadata"][key].as_str().unwrap_or_default().to_owned();
            Ok(Some(vec![(text("name"), text("uid"))]))
        })
        .await
    };
    plane.helm(arguments("install", namespace, None, &alone)).await?;
    let first = jobs().await?;
    plane.helm(arguments("upgrade", namespace, None, &[&alone[..], &["logs.replicaCount=2"]].concat())).await?;
    ensure!(jobs().await? == first, "the Job was run again for nothing");
    let keyspace = "logs.config.exporters.cassandra.keyspace=elsewhere";
    plane.helm(arguments("upgrade", namespace, None, &[&alone[..], &[keyspace]].concat())).await?;
    ensure!(jobs().await? != first, "the Job was not run for another keyspace");
    plane.helm(["uninstall", chart::RELEASE, "-n", namespace, "--wait"]).await?;
    Ok(())
}
